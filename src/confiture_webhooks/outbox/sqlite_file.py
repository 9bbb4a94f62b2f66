"""The outbox's file: where it lies, how it is opened, and how a broken one is set aside."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path

from ..errors import OutboxError
from ..remedy import shown
from . import schema
from .sqlite_trust import (
    APPLICATION_ID,
    BESIDE,
    DIRECTORY,
    ELSEWHERE,
    FILE,
    SETTING,
    closed,
    not_ours,
    own,
    untrusted,
)

PATIENCE_S = 2.0
"""The longest an operation waits for others that use the file."""
_DAMAGED = ".damaged"
"""Added to the file's name for a note that it is to be examined when it is next opened."""

_WRITABLE = f"Make it writable, {ELSEWHERE}"
_BUSY = ("locked by another process", "End that process, or try again when it is done")
_CLOSED = ("it, or its directory, cannot be written", _WRITABLE)
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_REASONS = {
    sqlite3.SQLITE_BUSY: _BUSY,
    sqlite3.SQLITE_LOCKED: _BUSY,
    sqlite3.SQLITE_READONLY: _CLOSED,
    sqlite3.SQLITE_PERM: _CLOSED,
    sqlite3.SQLITE_CANTOPEN: ("it cannot be opened or made", _WRITABLE),
    sqlite3.SQLITE_FULL: ("the disk is full", f"Make room on it, {ELSEWHERE}"),
    sqlite3.SQLITE_IOERR: (
        "the disk failed to read or write",
        f"See what the system says of the disk, {ELSEWHERE}",
    ),
}


class DamagedError(OutboxError):
    """The file is not, or no longer, a database that can be read."""

    connection: sqlite3.Connection | None = None
    """Left open when opening failed: closing it would delete the log beside the file."""
    inode: int | None = None
    """Which file it was: by now another may have its name."""

    def __init__(self, path: Path) -> None:
        aside = f"The next {shown('up', group='migrate')} keeps it aside and goes on with a new one"
        super().__init__(f"outbox {path}: the file is damaged", aside)


def default_path(project_dir: Path, environ: Mapping[str, str]) -> Path:
    """``.confiture/webhooks.db`` in the project, or in the user's state where that is read-only.

    One that another user keeps closed is not passed over: what it holds would seem not to be.
    """
    path = project_dir / DIRECTORY / FILE
    if _is_closed(path):
        return path
    place = path.parent if path.parent.exists() else project_dir
    is_writable = os.access(place, os.W_OK | os.X_OK)
    if is_writable and (not path.exists() or os.access(path, os.W_OK)):
        return path
    import hashlib  # noqa: PLC0415  loads OpenSSL, which most runs need not wait for

    given = Path(environ.get("XDG_STATE_HOME", ""))
    state = given if given.is_absolute() else _home(environ) / ".local" / "state"
    if not state.is_absolute():
        return path
    project = hashlib.sha256(os.fsencode(project_dir.resolve())).hexdigest()[:16]
    return state / "confiture-webhooks" / project / FILE


def _home(environ: Mapping[str, str]) -> Path:
    """This user's home directory; root, which may write in any, makes nothing in another's."""
    home = environ.get("HOME") or "~"
    with suppress(AttributeError, OSError):
        if os.geteuid() == 0 and os.stat(home).st_uid != 0:  # noqa: PTH116
            home = "~root"
    return Path(os.path.expanduser(home))  # noqa: PTH111  never raises


def may_be_there(path: Path) -> bool:
    """Whether there is an outbox, or may be one in a directory that is closed to this user."""
    try:
        path.lstat()
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def is_there(path: Path) -> bool:
    """Whether there is an outbox. Raises OutboxError where no run would use or make one."""
    try:
        with translated(path), suppress(FileNotFoundError):
            own(path, makes=False)
    except OutboxError:
        if not _is_closed(path):
            raise
    return may_be_there(path)


def _is_closed(path: Path) -> bool:
    """Whether there is, or may be, an outbox that this user cannot read."""
    return may_be_there(path) and not (os.access(path, os.R_OK) or os.path.islink(path))  # noqa: PTH114  never raises


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and of the file system into OutboxError, or DamagedError."""
    try:
        yield
    except sqlite3.Error as error:
        if (code := _code(error)) in _DAMAGE:
            raise DamagedError(path) from error
        unknown = (f"SQLite refused ({type(error).__name__}: {error})", None)
        reason, remedy = _REASONS.get(code, unknown)
        raise OutboxError(f"outbox {path}: {reason}", remedy) from error
    except (UnicodeError, OverflowError) as error:
        raise OutboxError(f"outbox {path}: a value that SQLite cannot hold") from error
    except OSError as error:
        reason = f"it cannot be opened or made ({error.strerror or type(error).__name__})"
        remedy = f"Make room on it, {ELSEWHERE}" if error.errno == errno.ENOSPC else _WRITABLE
        raise OutboxError(f"outbox {path}: {reason}", remedy) from error


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def connect(path: Path) -> sqlite3.Connection:
    """A connection to the outbox at *path*, which is made, and migrated, when need be.

    Nothing of the file is touched before it is known to be an outbox of ours. Raises OutboxError;
    DamagedError when the file is broken.
    """
    if _is_closed(path):
        raise closed(path)
    with translated(path):
        inode = own(path, makes=True)
        connection = _open(path)
    try:
        with translated(path):
            if path.lstat().st_ino != inode:
                raise untrusted(path, "another file took its place", "Try again")  # noqa: TRY301
            if refusal := _refusal_of_wal(connection):
                connection.close()
                connection = _open(path)
                _use_rollback_journal(connection, refusal)
            _examine(connection, path)
            migrate(connection, path)
    except DamagedError as error:
        error.connection, error.inode = connection, inode
        raise
    except BaseException:
        connection.close()
        raise
    return connection


def be_patient(connection: sqlite3.Connection, left_s: float) -> None:
    """Let what follows wait *left_s* for other processes."""
    left_ms = max(1, int(left_s * 1000))
    connection.execute(f"PRAGMA busy_timeout = {left_ms}")


def note_damage(path: Path) -> None:
    """Have the file examined when it is next opened: what broke now may be deep inside."""
    with suppress(OSError):
        path.with_name(path.name + _DAMAGED).touch(mode=0o600)


def set_aside(path: Path, damage: DamagedError) -> Path | None:
    """Rename the broken file, and what lies beside it, to ``<name>.corrupt-<time>``.

    Returns the new path; ``None`` when another process has already done it.
    """
    with translated(path):
        aside = None
        if path.stat().st_ino == damage.inode:
            name = f"{path.name}.corrupt-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
            names = chain([name], (f"{name}-{number}" for number in count(2)))
            aside = next(one for one in map(path.with_name, names) if not one.exists())
            # The log first: left behind, it would be replayed into the file that comes after.
            for suffix in BESIDE:
                with suppress(FileNotFoundError):
                    path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
            path.rename(aside)
            path.with_name(path.name + _DAMAGED).unlink(missing_ok=True)
        if damage.connection is not None:
            damage.connection.close()
        return aside


def in_memory() -> sqlite3.Connection:
    """A connection to an outbox of its own."""
    connection = _open(":memory:")
    migrate(connection, Path("memory"))
    return connection


def _open(path: Path | str) -> sqlite3.Connection:
    """A connection with rows by name, whose deletions take along what belongs to them."""
    connection = sqlite3.connect(
        path, timeout=PATIENCE_S, isolation_level=None, check_same_thread=False
    )
    connection.row_factory = sqlite3.Row
    connection.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _refusal_of_wal(connection: sqlite3.Connection) -> sqlite3.OperationalError | None:
    """Put the file into WAL mode; why not, where the file system cannot share memory."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        be_patient(connection, deadline - time.monotonic())
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            code = _code(error)
            if code in (*_DAMAGE, sqlite3.SQLITE_FULL):
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


def _examine(connection: sqlite3.Connection, path: Path) -> None:
    """Look through the whole file if it was noted as damaged."""
    note = path.with_name(path.name + _DAMAGED)
    if note.exists():
        if connection.execute("PRAGMA integrity_check(1)").fetchone()[0] != "ok":
            raise DamagedError(path)
        note.unlink(missing_ok=True)


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the file to the newest schema, in one transaction.

    Raises OutboxError for a file of another version that cannot be brought there, or of another
    program.
    """
    if _version(connection, path) == schema.VERSION:
        return
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        # Again, now that no other process can write: one may have just done it.
        had = _version(connection, path)
        for statement in schema.statements("sqlite", had):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {schema.VERSION}")


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """The schema's version in the file; 0: it has none."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    is_empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if application_id != APPLICATION_ID and not is_empty:
        raise not_ours(path)
    found = 0 if is_empty else version
    schema.check(found, f"outbox {path}", SETTING)
    return found


def drop(path: Path) -> None:
    """Remove the outbox at *path*, with all it holds.

    Its directory goes with it when it is ours and nothing else is in it. Raises OutboxError for
    a file that is not an outbox of ours.
    """
    if not may_be_there(path):
        return
    with translated(path):
        own(path, makes=False)
        try:
            for suffix in (*BESIDE, _DAMAGED, ""):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
        except OSError as error:
            reason = f"outbox {path}: it cannot be removed ({error.strerror})"
            raise OutboxError(
                reason, "Make its directory writable, or remove it by hand"
            ) from error
        ignore = path.with_name(".gitignore")
        if path.parent.name == DIRECTORY and {*path.parent.iterdir()} <= {ignore}:
            ignore.unlink(missing_ok=True)
            path.parent.rmdir()
