"""Why a migration failed, in words that may be sent: the root cause, without SQL or values."""

from __future__ import annotations

import psycopg

from ..event import ErrorInfo

SENT_CLASSES = frozenset(
    ("0A", "21", "23", "25", "2B", "3D", "3F", "40", "42", "44", "53", "54", "55", "57")
)
"""SQLSTATE classes whose primary message holds names and no values."""
SYNTAX_ERROR = "42601"
"""Its message quotes a token, which may be a value."""
FOREIGN_FILES = ("pl", "copy", "dblink.", "connection.", "remote_commands.")
"""Sources of the server that report in others' words: RAISE, command lines, another server's."""
MOST_DETAIL = 64 * 1024
"""Bytes of the whole text, at most."""
_NO_TEXT = "the migration raised {}; its text is left out, it may hold data"
LOCK = "LockAcquisitionError"
"""The host's class for a migration lock that somebody else holds."""
_FOREIGN = "Check failed with error:"
"""The host's words before the text of whatever a precondition's own check raised."""
NO_LOOP = ("no running event loop",)
"""Of asyncio: the host runs hooks while it handles that, so it is behind what they raise."""


def explain(error: BaseException) -> ErrorInfo:
    """The root cause of *error*: its class, the message that may be sent, and SQLSTATE.

    A server's primary message is sent for ``SENT_CLASSES``. Text of other exceptions may hold
    anything, so it is sent only when the host itself wrote it.
    """
    chain = _chain(error)
    # The server's word for a wait that is cut is that a statement was cancelled.
    lock = next((link for link in chain if type(link).__name__ == LOCK and _is_hosts(link)), None)
    server = next((link for link in reversed(chain) if isinstance(link, psycopg.Error)), None)
    if server is not None and lock is None:
        return ErrorInfo(
            type=type(server).__name__,
            message=_server_message(server),
            sqlstate=server.sqlstate,
            detail=_cut(str(error)),
        )
    root = lock or chain[-1]
    kind = type(root).__name__
    is_end = isinstance(root, KeyboardInterrupt)
    unsaid = "the command was ended by {}" if is_end else _NO_TEXT
    message = _hosts_message(root) if _is_hosts(root) else unsaid.format(kind)
    return ErrorInfo(type=kind, message=message, detail=_cut(str(error)))


def _chain(error: BaseException) -> list[BaseException]:
    """*error* and what caused it, the root last."""
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and not any(link is known for known in links):
        links.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
        if type(link) is RuntimeError and link.args == NO_LOOP:
            break
    return links


def _is_hosts(error: BaseException) -> bool:
    """Whether the host raised it, of its own classes: users' migrations raise them, too."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    raised_in = frame.tb_frame.f_globals.get("__name__", "") if frame else ""
    modules = (type(error).__module__, str(raised_in))
    return all(name.partition(".")[0] == "confiture" for name in modules)


def _hosts_message(error: BaseException) -> str:
    message = str(error)
    for _, text in getattr(error, "failures", ()):
        if text.startswith(_FOREIGN):
            message = message.replace(text, f"{_FOREIGN} its text is left out, it may hold data")
    return message


def _server_message(error: psycopg.Error) -> str:
    message = error.diag.message_primary
    kind = type(error).__name__
    if message is None:
        # Not the server's words: libpq's name the host and user, psycopg's may quote a value.
        if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
            return "the database connection failed"
        return _NO_TEXT.format(kind)
    state = error.sqlstate or ""
    source = (error.diag.source_file or "").rpartition("/")[2]
    if state == SYNTAX_ERROR:
        return f"syntax error at character {error.diag.statement_position or '?'} of the statement"
    if state[:2] not in SENT_CLASSES or source.startswith(FOREIGN_FILES):
        return _NO_TEXT.format(kind)
    return message


def _cut(text: str) -> str:
    """*text*, or as much of it as ``MOST_DETAIL`` leaves, marked as cut."""
    whole = text.encode("utf-8", "backslashreplace")
    if len(whole) <= MOST_DETAIL:
        return text
    begin = whole[:MOST_DETAIL].decode("utf-8", "ignore")
    return f"{begin}\n[cut here: {len(whole)} bytes in all]"
