"""Why a migration failed, in words that may be told: the root cause, without SQL or values."""

from __future__ import annotations

import re

import psycopg

from ..event import ErrorInfo

_VALUE_CLASSES = ("22",)
"""SQLSTATE classes whose primary message quotes the offending value."""
_SYNTAX_ERROR = "42601"
_RAISED_CLASS = "P0"
"""PL/pgSQL: a function's own ``RAISE EXCEPTION``, in whatever words its author chose."""
_QUOTED_TAIL = re.compile(r'[:\s]*["«»„“”].*["«»„“”]', re.DOTALL)
"""The quotes of every language PostgreSQL speaks (``lc_messages``)."""
_BYTES = re.compile(r"[:\s]*\b0x[0-9a-f]+", re.IGNORECASE)
_NO_TEXT = "the migration raised {}; its text is left out, it may hold data"
_FOREIGN = "Check failed with error:"
"""The host's words before the text of whatever a precondition's own check raised."""


def explain(error: BaseException) -> ErrorInfo:
    """The root cause of *error*: its class, the message that may be told, and SQLSTATE.

    A server's primary message is told without the value or token it quotes. Text of other
    exceptions may hold anything, so it is told only when the host itself wrote it.
    """
    chain = list(_chain(error))
    server = next((link for link in reversed(chain) if isinstance(link, psycopg.Error)), None)
    if server is not None:
        return ErrorInfo(
            type=type(server).__name__,
            message=_server_message(server),
            sqlstate=server.sqlstate,
            detail=str(error),
        )
    root = chain[-1]
    kind = type(root).__name__
    is_hosts = type(root).__module__.partition(".")[0] == "confiture"
    is_hosts = is_hosts and _is_raised_by_host(root)
    message = _hosts_message(root) if is_hosts else _NO_TEXT.format(kind)
    return ErrorInfo(type=kind, message=message, detail=str(error))


def _chain(error: BaseException) -> list[BaseException]:
    """*error* and what caused it, the root last."""
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and not any(link is known for known in links):
        links.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return links


def _is_raised_by_host(error: BaseException) -> bool:
    """Whether the host itself raised it: users' migrations raise its classes, too."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    raised_in = frame.tb_frame.f_globals.get("__name__", "") if frame else ""
    return str(raised_in).partition(".")[0] == "confiture"


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
            return f"the database connection failed ({kind})"
        return _NO_TEXT.format(kind)
    state = error.sqlstate or ""
    # Under another SQLSTATE only the place of the error tells (its word is not translated).
    place = (error.diag.context or "").partition("\n")[0]
    if state.startswith(_RAISED_CLASS) or place.endswith("RAISE"):
        return _NO_TEXT.format(kind)
    if state.startswith(_VALUE_CLASSES) or state == _SYNTAX_ERROR:
        return _BYTES.sub("", _QUOTED_TAIL.sub("", message)).strip()
    return message
