"""The durable outbox in one SQLite file, shared by any number of processes of one machine.

A release is on the disk when it returns, and so is an operator's change. A claim and a record are
with the operating system: a killed process loses neither. A power cut may undo the latest of them,
in order; their deliveries are then sent again, with the same event id. In return a delivery waits
for no disk.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import OutboxError
from . import schema, sqlite_file
from .outbox import Outbox
from .schema import Found, Step
from .summary import LEFT_BEHIND_QUERIES, LeftBehind, left_behind

PATIENCE_S = 2.0
"""The longest an operation waits for others that use the file."""
_SYNC_EVERY_COMMIT = "PRAGMA synchronous = FULL"
_SYNC_AT_CHECKPOINT = "PRAGMA synchronous = NORMAL"

_left_open: list[sqlite3.Connection] = []
"""Never closed. A fork must not touch a parent process's. If the file of one is gone, closing would
take the log of the file that came after it, by its name."""

CLOSE_TIMEOUT_S = 0.5
PATIENCE_STEP_S = 0.05
"""Less than this is not worth a statement."""


class SqliteOutbox(Outbox):
    """Keeps what happened in the file at *path*.

    Raises OutboxError when the file cannot be opened, is another program's or of a newer
    version. An operation waits at most two seconds for other processes, then raises it.

    A file that is removed or set aside stays in use while it is open, so that a run loses nothing
    of its own. With *follows* the file in its place is used instead: a worker delivers the records
    of others.
    """

    def __init__(self, path: Path, *, follows: bool = False) -> None:
        super().__init__(_Store(path, follows=follows))


class InMemoryOutbox(Outbox):
    """The outbox of one process: complete, thread-safe, gone with the process."""

    def __init__(self) -> None:
        super().__init__(_Store(None))

    def close(self) -> None:
        """Does nothing: deliveries can be read as long as this object is in use."""


def open_outbox(path: Path, notice: Callable[[str], None]) -> SqliteOutbox:
    """The outbox at *path*; *notice* gets what its user must know.

    A damaged file is set aside, never deleted, and a fresh one takes its place. Any other file
    that cannot be opened is left as it is: raises OutboxError.
    """
    try:
        return SqliteOutbox(path)
    except sqlite_file.DamagedError as damage:
        aside = sqlite_file.set_aside(path, damage)
    outbox = SqliteOutbox(path)
    if aside is not None:
        notice(
            f"outbox {path}: the file is damaged. It is kept as {aside.name}, what it "
            "holds is not sent, and a fresh one takes its place"
        )
    return outbox


def left_behind_in(path: Path) -> dict[str | None, LeftBehind]:
    """The deliveries in the file at *path*, counted by environment. It is only read.

    Nothing where there is none, or another program's. Raises OutboxError if it cannot be read.
    """
    if not sqlite_file.may_be_there(path):
        return {}
    with suppress(sqlite_file.NotOursError), sqlite_file.translated(path):
        sqlite_file.own(path, makes=False)
        # With a log beside it, another process may have it open; else reading would make one.
        mode = "ro" if path.with_name(f"{path.name}-wal").exists() else "ro&immutable=1"
        with closing(_connected(f"{path.absolute().as_uri()}?mode={mode}")) as connection:
            if _version(connection, path):
                of_left = (connection.execute(statement(one)) for one in LEFT_BEHIND_QUERIES)
                return left_behind(*(one.fetchall() for one in of_left))
    return {}


statement = partial(schema.query, dialect="sqlite")


class _Store:
    """Gives the connection to one thread at a time; without *path* it is to this process's memory.

    Everything raises OutboxError, after at most two seconds of waiting for others. A file's store
    survives a fork. With *follows* it goes over to the file that has taken the place of its own.
    """

    _place: sqlite_file.Place | None

    def __init__(self, path: Path | None, *, follows: bool = False) -> None:
        self.is_durable = path is not None
        self._path = path or Path("memory")
        self.where = str(self._path)
        self._follows = follows
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._is_closed = False
        self._open()

    def _open(self) -> None:
        if self.is_durable:
            self._connection, self._place = _open_file(self._path)
        else:
            self._connection, self._place = _connected(":memory:"), None
            _migrate(self._connection, self._path)
            weakref.finalize(self, self._connection.close).atexit = False
        sqlite_file.in_use[self._place] += 1
        with sqlite_file.translated(self._path):
            mode = self._connection.execute("PRAGMA journal_mode").fetchone()[0]
        # Only a WAL may be left unsynced: a power cut could leave a rollback journal in part.
        self._relaxed = _SYNC_AT_CHECKPOINT if mode == "wal" else _SYNC_EVERY_COMMIT
        self._synced: str | None = None
        self._patience_s = 0.0

    def read(self, *steps: Step) -> list[Found]:
        with self._lent() as connection:
            return [connection.execute(statement(n), values).fetchall() for n, values in steps]

    def write(self, *steps: Step, is_synced: bool = True) -> list[Any]:
        with self._lent() as connection:
            sync = _SYNC_EVERY_COMMIT if is_synced else self._relaxed
            if sync != self._synced:
                connection.execute(sync)
                self._synced = sync
            with connection:
                # The write lock at once: a transaction that waited for it later could not go on.
                connection.execute("BEGIN IMMEDIATE")
                return [_answer(connection, *step) for step in steps if step[0] != "notify"]

    @contextmanager
    def _lent(self) -> Iterator[sqlite3.Connection]:
        if self.is_durable and self._pid != os.getpid():
            _left_open.append(self._connection)
            self._lock = threading.Lock()
            self._open()
            self._pid = os.getpid()
        deadline = time.monotonic() + PATIENCE_S
        if not self._lock.acquire(timeout=PATIENCE_S):
            raise OutboxError(f"outbox {self.where}: busy with other threads' work")
        try:
            with sqlite_file.translated(self._path):
                if self._follows and sqlite_file.place_of(self._path) not in (None, self._place):
                    before = self._connection
                    self._open()
                    _left_open.append(before)
                left_s = deadline - time.monotonic()
                if abs(left_s - self._patience_s) > PATIENCE_STEP_S:
                    left_ms = max(1, int(left_s * 1000))
                    self._connection.execute(f"PRAGMA busy_timeout = {left_ms}")
                    self._patience_s = left_s
                yield self._connection
        except sqlite_file.DamagedError:
            with suppress(OSError):  # examined when it is next opened: it may be broken deep inside
                self._path.with_name(self._path.name + sqlite_file.DAMAGED).touch(mode=0o600)
            raise
        finally:
            self._lock.release()

    def close(self) -> None:
        """Close the connection, unless it is a parent's; the WAL when no other process has it."""
        # A lane stuck on the disk may hold the lock for ever: the process's end closes then.
        if self._pid != os.getpid() or not self._lock.acquire(timeout=CLOSE_TIMEOUT_S):
            return
        try:
            with suppress(sqlite3.Error):
                self._connection.close()
            sqlite_file.in_use[self._place] -= not self._is_closed
            self._is_closed = True
        finally:
            self._lock.release()


def _answer(connection: sqlite3.Connection, name: str, values: Mapping[str, Any]) -> Any:
    """The rows of a step, or how many it changed; of a ``release`` 0: it was released before."""
    if name != "release":
        cursor = connection.execute(statement(name), values)
        return cursor.fetchall() if cursor.description else cursor.rowcount
    count = connection.execute(statement("mark_released"), values).rowcount
    connection.execute(statement("unstage"), values)
    for each in values["deliveries"]:
        for part in ("add_delivery", "add_body", *(["end_leases"] if values["holder"] else [])):
            connection.execute(statement(part), each)
    return count


def _open_file(path: Path) -> tuple[sqlite3.Connection, sqlite_file.Place]:
    """A connection to the outbox at *path*, which is made, and migrated, when need be.

    Nothing of the file is touched before it is known to be an outbox of ours. Raises OutboxError;
    DamagedError when the file is broken.
    """
    with sqlite_file.translated(path):
        place = sqlite_file.own(path, makes=True)
        connection = _connected(path)
    try:
        with sqlite_file.translated(path):
            if sqlite_file.place_of(path) != place:
                raise sqlite_file.untrusted(path, "another file took its place", "Try again")  # noqa: TRY301
            if refusal := _refusal_of_wal(connection):
                connection.close()
                connection = _connected(path)
                _use_rollback_journal(connection, refusal)
            damage = path.with_name(path.name + sqlite_file.DAMAGED)
            if damage.exists():
                if connection.execute("PRAGMA integrity_check(1)").fetchone()[0] != "ok":
                    raise sqlite_file.DamagedError(path)  # noqa: TRY301
                damage.unlink(missing_ok=True)
            _migrate(connection, path)
    except sqlite_file.DamagedError as error:
        error.connection, error.place = connection, place
        raise
    except BaseException:
        connection.close()
        raise
    return connection, place


def _connected(path: Path | str) -> sqlite3.Connection:
    """A connection with rows by name, whose deletions take along what belongs to them."""
    connection = sqlite3.connect(
        path,
        timeout=PATIENCE_S,
        isolation_level=None,
        check_same_thread=False,
        uri=isinstance(path, str),
    )
    connection.row_factory = sqlite3.Row
    connection.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _refusal_of_wal(connection: sqlite3.Connection) -> sqlite3.OperationalError | None:
    """Put the file into WAL mode; why not, where the file system cannot share memory."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        left_ms = max(1, int((deadline - time.monotonic()) * 1000))
        connection.execute(f"PRAGMA busy_timeout = {left_ms}")
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            code = sqlite_file.code_of(error)
            if code in (*sqlite_file.DAMAGE, sqlite3.SQLITE_FULL):
                raise
            if code != sqlite3.SQLITE_BUSY:
                return error
            # Two processes that make the same file get this at once, whatever the timeout.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return None


def _use_rollback_journal(
    connection: sqlite3.Connection, refusal: sqlite3.OperationalError
) -> None:
    """Put the file into the mode that shares no memory; raises *refusal* if that fails, too."""
    try:
        # Exclusively, a WAL that was begun elsewhere can be read without shared memory.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA locking_mode = NORMAL")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        # A write that changes nothing: a directory that takes no journal is found out now.
        connection.execute(f"PRAGMA user_version = {version}")
    except sqlite3.OperationalError as error:
        raise refusal from error


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the file to the newest schema, in one transaction.

    Raises OutboxError for a file of another version that cannot be brought there, of another
    program, without a column that every delivery needs, or with triggers of others.
    """
    if _version(connection, path) == schema.VERSION:
        connection.execute(statement("needed"))
        if names := [name for (name,) in connection.execute(_TRIGGERS)]:
            # It may keep rows out without an error.
            problem = f"outbox {path}: somebody has put triggers in it: {', '.join(names)}"
            raise OutboxError(problem, f"Drop them, {sqlite_file.ELSEWHERE}")
        return
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        # Again, now that no other process can write: one may have just done it.
        had = _version(connection, path)
        for text in schema.statements("sqlite", had):
            connection.execute(text)
        connection.execute(f"PRAGMA application_id = {sqlite_file.APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {schema.VERSION}")


_TRIGGERS = "SELECT name FROM sqlite_master WHERE type = 'trigger'"


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """The schema's version in the file; 0: it has none."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    is_empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if application_id != sqlite_file.APPLICATION_ID and not is_empty:
        raise sqlite_file.NotOursError(path)
    found = 0 if is_empty else version
    schema.check(found, f"outbox {path}", sqlite_file.SETTING)
    return found
