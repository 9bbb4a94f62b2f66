"""One connection to the outbox's file for all threads: reading, and all-or-nothing writing."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import OutboxError
from .sqlite_file import PATIENCE_S, DamagedError, be_patient, connect, note_damage, translated

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


class Transactions:
    """Gives the connection to one thread at a time; survives a fork.

    With *follows* it goes over to the file that has taken the place of the one it had.
    Everything raises OutboxError, after at most two seconds of waiting for others.
    """

    def __init__(self, path: Path, *, follows: bool = False) -> None:
        self._path = path
        self._follows = follows
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._connect()

    def _connect(self) -> None:
        self._connection = connect(self._path)
        self._place = _place_of(self._path)
        self._connection.row_factory = sqlite3.Row
        mode = self._connection.execute("PRAGMA journal_mode").fetchone()[0]
        # Only a WAL may be left unsynced: a power cut could leave a rollback journal in part.
        self._relaxed = _SYNC_AT_CHECKPOINT if mode == "wal" else _SYNC_EVERY_COMMIT
        self._sync: str | None = None
        self._patience_s = 0.0

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for this thread alone."""
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

    @contextmanager
    def writing(self, *, is_synced: bool = True) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it is kept, or nothing; *is_synced*: also across a power cut."""
        with self.reading() as connection:
            sync = _SYNC_EVERY_COMMIT if is_synced else self._relaxed
            if sync != self._sync:
                connection.execute(sync)
                self._sync = sync
            connection.execute(_BEGIN)
            try:
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def _be_patient(self, left_s: float) -> None:
        """Let what follows wait *left_s* for other processes, give or take a little."""
        if abs(left_s - self._patience_s) > PATIENCE_STEP_S:
            be_patient(self._connection, left_s)
            self._patience_s = left_s

    def close(self) -> None:
        """Close the connection, and the WAL when no other process has it open."""
        # A lane stuck on the disk may hold the lock for ever: the process's end closes then.
        if self._pid != os.getpid() or not self._lock.acquire(timeout=CLOSE_TIMEOUT_S):
            return
        try:
            with suppress(sqlite3.Error):
                self._connection.close()
        finally:
            self._lock.release()


def _place_of(path: Path) -> tuple[int, int] | None:
    """Which file has the name *path*; ``None``: none has."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
