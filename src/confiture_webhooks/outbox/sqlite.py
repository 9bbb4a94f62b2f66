"""The durable outbox in one SQLite file, shared by any number of processes of one machine.

A release is on the disk when it returns, as is what an operator changes. A claim and a record
are with the operating system: a killed process loses neither. A power cut may undo the latest of
them, in order, and leaves their deliveries to be sent again, with the same event id; in return a
delivery waits for no disk.
"""

from __future__ import annotations

from pathlib import Path

from .outbox import Outbox
from .sqlite_file import DamagedError, default_path, drop, may_be_there, set_aside
from .sqlite_store import FileStore, MemoryStore

__all__ = ["InMemoryOutbox", "SqliteOutbox", "default_path", "drop", "may_be_there", "open_outbox"]


class SqliteOutbox(Outbox):
    """Keeps what happened in the file at *path*.

    Raises OutboxError when the file cannot be opened, is another program's or of a newer
    version. An operation waits at most two seconds for other processes, then raises it.

    A file that is removed or set aside stays in use while it is open, so that a run loses nothing
    of its own. With *follows* the file that comes in its place is taken instead: a worker is for
    what others record.
    """

    def __init__(self, path: Path, *, follows: bool = False) -> None:
        self.path = path
        super().__init__(FileStore(path, follows=follows))


class InMemoryOutbox(Outbox):
    """The outbox of one process: complete, thread-safe, gone with the process."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())

    def close(self) -> None:
        """Keep everything: it is gone with the process."""


def open_outbox(path: Path) -> tuple[SqliteOutbox, list[str]]:
    """The outbox at *path*, and what its user must know.

    A damaged file is set aside, never deleted, and a fresh one takes its place. What cannot be
    opened otherwise is left as it is: raises OutboxError.
    """
    notices: list[str] = []
    try:
        return SqliteOutbox(path), notices
    except DamagedError as damage:
        if aside := set_aside(path, damage):
            notices.append(
                f"outbox {path}: the file is damaged. It is kept as {aside.name}, what it "
                "holds is not sent, and a fresh one takes its place"
            )
    return SqliteOutbox(path), notices
