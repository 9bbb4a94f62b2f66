"""The statements on SQLite: one connection for all threads, all-or-nothing writing."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import OutboxError
from .outbox import NEWS, Found, Step
from .queries import queries
from .sqlite_file import (
    PATIENCE_S,
    DamagedError,
    be_patient,
    connect,
    migrate,
    note_damage,
    translated,
)
from .sqlite_trust import in_use

_BEGIN = "BEGIN IMMEDIATE"
"""Takes the write lock at once: a transaction that waited for it later could not go on."""
_SYNC_EVERY_COMMIT = "PRAGMA synchronous = FULL"
_SYNC_AT_CHECKPOINT = "PRAGMA synchronous = NORMAL"

_left_open: list[sqlite3.Connection] = []
"""Never closed: a parent process's, which SQLite forbids a fork to touch, and those of files that
are gone, which by their name would take the log of the file that came after."""

CLOSE_TIMEOUT_S = 0.5
PATIENCE_STEP_S = 0.05
"""Less than this is not worth a statement."""


@cache
def statement(name: str) -> str:
    """The statement *name* in SQLite's dialect; ``list <filters>`` has its filters in it."""
    name, _, filters = name.partition(" ")
    text = queries()[name].replace("{filters}", filters)
    return text.replace("FOR UPDATE SKIP LOCKED", "").replace("FOR UPDATE", "")


class _Store:
    """Gives the connection to one thread at a time.

    Everything raises OutboxError, after at most two seconds of waiting for others.
    """

    is_durable = False
    where = "memory"
    _connection: sqlite3.Connection

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def read(self, *steps: Step) -> list[Found]:
        """The rows that each of *steps* returns."""
        with self._lent() as connection:
            return [_done(connection, step).fetchall() for step in steps]

    def write(self, *steps: Step, is_synced: bool = True) -> list[Any]:
        """Do all of *steps* or none; the rows each returns, or how many it changed."""
        with self._lent() as connection:
            self._sync(connection, is_synced=is_synced)
            connection.execute(_BEGIN)
            try:
                answers = [_answer(_done(connection, step)) for step in steps if step is not NEWS]
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            return answers

    def close(self) -> None:
        """Close the connection, and the WAL when no other process has it open."""
        # A lane stuck on the disk may hold the lock for ever: the process's end closes then.
        if not self._lock.acquire(timeout=CLOSE_TIMEOUT_S):
            return
        try:
            with suppress(sqlite3.Error):
                self._connection.close()
        finally:
            self._lock.release()

    @contextmanager
    def _lent(self) -> Iterator[sqlite3.Connection]:
        with self._lock, translated(Path(self.where)):
            yield self._connection

    def _sync(self, connection: sqlite3.Connection, *, is_synced: bool) -> None:
        """Let the next commit wait for the disk, or not."""


class MemoryStore(_Store):
    """Keeps everything in this process."""

    def __init__(self) -> None:
        super().__init__()
        self._connection = sqlite3.connect(
            ":memory:", isolation_level=None, check_same_thread=False
        )
        migrate(self._connection, Path(self.where))
        fit(self._connection)


class FileStore(_Store):
    """Keeps everything in the file at *path*; survives a fork.

    With *follows* it goes over to the file that has taken the place of the one it had.
    """

    is_durable = True

    def __init__(self, path: Path, *, follows: bool) -> None:
        super().__init__()
        self._path = path
        self.where = str(path)
        self._follows = follows
        self._pid = os.getpid()
        self._is_closed = False
        self._connect()

    def _connect(self) -> None:
        self._connection = connect(self._path)
        fit(self._connection)
        self._place = _place_of(self._path)
        in_use[self._place] += 1
        mode = self._connection.execute("PRAGMA journal_mode").fetchone()[0]
        # Only a WAL may be left unsynced: a power cut could leave a rollback journal in part.
        self._relaxed = _SYNC_AT_CHECKPOINT if mode == "wal" else _SYNC_EVERY_COMMIT
        self._synced: str | None = None
        self._patience_s = 0.0

    @contextmanager
    def _lent(self) -> Iterator[sqlite3.Connection]:
        if self._pid != os.getpid():
            _left_open.append(self._connection)
            self._lock, self._pid = threading.Lock(), os.getpid()
            self._connect()
        deadline = time.monotonic() + PATIENCE_S
        if not self._lock.acquire(timeout=PATIENCE_S):
            raise OutboxError(f"outbox {self._path}: busy with other threads' work")
        try:
            with translated(self._path):
                if self._follows and _place_of(self._path) not in (None, self._place):
                    before = self._connection
                    self._connect()
                    _left_open.append(before)
                self._be_patient(deadline - time.monotonic())
                yield self._connection
        except DamagedError:
            note_damage(self._path)
            raise
        finally:
            self._lock.release()

    def _be_patient(self, left_s: float) -> None:
        """Let the next statement wait *left_s* for other processes, give or take a little."""
        if abs(left_s - self._patience_s) > PATIENCE_STEP_S:
            be_patient(self._connection, left_s)
            self._patience_s = left_s

    def _sync(self, connection: sqlite3.Connection, *, is_synced: bool) -> None:
        sync = _SYNC_EVERY_COMMIT if is_synced else self._relaxed
        if sync != self._synced:
            connection.execute(sync)
            self._synced = sync

    def close(self) -> None:
        """Close the connection, unless it is a parent process's."""
        if self._pid == os.getpid():
            super().close()
            in_use[self._place] -= not self._is_closed
            self._is_closed = True


def fit(connection: sqlite3.Connection) -> None:
    """Have rows by name, text that is not UTF-8 readable, and deletions take along their own."""
    connection.row_factory = sqlite3.Row
    connection.text_factory = _decoded
    connection.execute("PRAGMA foreign_keys = ON")


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


def _done(connection: sqlite3.Connection, step: Step) -> sqlite3.Cursor:
    name, values = step
    return connection.execute(statement(name), values)


def _answer(cursor: sqlite3.Cursor) -> Any:
    return cursor.fetchall() if cursor.description else cursor.rowcount


def _place_of(path: Path) -> tuple[int, int] | None:
    """Which file has the name *path*; ``None``: none has."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
