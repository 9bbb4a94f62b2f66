"""The outbox's file: where it lies, whether it is ours, and how a broken one is set aside.

Before SQLite opens it, it is looked at by descriptor. A file or directory of another user, or one
that others may write, is not used: its writer could have forged events signed and sent, or could
read the bodies. A symbolic link is not followed, and a file that is no outbox is left as it is.
"""

from __future__ import annotations

import errno
import os
import pwd
import sqlite3
import stat
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path

from ..errors import OutboxError
from ..remedy import shown
from ..trust import FOREIGN, SHARED, doubt

DIRECTORY = ".confiture"
FILE = "webhooks.db"
BESIDE = ("-wal", "-shm", "-journal")
"""The suffixes that SQLite adds to the file's name for the files beside it."""
SETTING = "CONFITURE_WEBHOOK_OUTBOX=sqlite:<path>"
ELSEWHERE = f"or name another file: {SETTING}"
RUN_AS = f"Run this as {{}}, or give each user an outbox of its own: {SETTING}"
APPLICATION_ID = 0x43465748
"""``CFWH``, in the file's header: another program's database has another."""

_MAGIC = b"SQLite format 3\0"
_HEADER = 100
_LONGEST = 504  # of a path that SQLite opens, with room for the suffixes
_LOOK = getattr(os, "O_PATH", os.O_RDONLY)
"""A directory that this user may not list can be looked at."""
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
Place = tuple[int, int]
"""A file's device and inode."""
in_use: Counter[Place | None] = Counter()
"""This process's connections: reading a file's header again, and closing it, would drop their
locks."""
_guard = threading.Lock()
DAMAGED = ".damaged"
"""Added to the file's name for a note that it is to be examined when it is next opened."""

OTHER = f"Name another file: {SETTING}"
_ROOM = f"Make room on it, {ELSEWHERE}"
_WRITABLE = f"Make it writable, {ELSEWHERE}"
_BUSY = ("locked by another process", "End that process, or try again when it is done")
_CLOSED = ("it, or its directory, cannot be written", _WRITABLE)
DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_CHANGED = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH)
"""A table, a column or a trigger is not as it was made."""
_REASONS = {
    sqlite3.SQLITE_BUSY: _BUSY,
    sqlite3.SQLITE_LOCKED: _BUSY,
    sqlite3.SQLITE_READONLY: _CLOSED,
    sqlite3.SQLITE_PERM: _CLOSED,
    sqlite3.SQLITE_CANTOPEN: ("it cannot be opened or made", _WRITABLE),
    sqlite3.SQLITE_FULL: ("the disk is full", _ROOM),
    sqlite3.SQLITE_IOERR_SHMSIZE: (
        "the disk is full, or broken: the file beside it cannot grow",
        _ROOM,
    ),
    sqlite3.SQLITE_IOERR: (
        "the disk failed to read or write",
        f"See what the system says of the disk, {ELSEWHERE}",
    ),
}


class NotOursError(OutboxError):
    """Another program's database is there."""

    def __init__(self, path: Path) -> None:
        problem = f"outbox {path}: this is another program's SQLite database"
        super().__init__(problem, OTHER)


class DamagedError(OutboxError):
    """The file is not, or no longer, a database that can be read."""

    connection: sqlite3.Connection | None = None
    """Left open when opening failed: closing it would delete the log beside the file."""
    place: Place | None = None
    """Which file it was: by now another may have its name."""

    def __init__(self, path: Path) -> None:
        aside = f"The next {shown('up', group='migrate')} keeps it aside and goes on with a new one"
        super().__init__(f"outbox {path}: the file is damaged", aside)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and of the file system into OutboxError, or DamagedError."""
    try:
        yield
    except sqlite3.Error as error:
        if (code := code_of(error)) in DAMAGE:
            raise DamagedError(path) from error
        remedy = f"Undo what was changed in it, {ELSEWHERE}" if code in _CHANGED else None
        unknown = (f"SQLite refused ({type(error).__name__}: {error})", remedy)
        whole = getattr(error, "sqlite_errorcode", code)
        reason, remedy = _REASONS.get(whole, _REASONS.get(code, unknown))
        raise OutboxError(f"outbox {path}: {reason}", remedy) from error
    except (UnicodeError, OverflowError) as error:
        raise OutboxError(f"outbox {path}: a value that SQLite cannot hold") from error
    except OSError as error:
        reason = f"it cannot be opened or made ({error.strerror or type(error).__name__})"
        is_closed = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        remedy = _WRITABLE if is_closed else _ROOM if error.errno == errno.ENOSPC else OTHER
        raise OutboxError(f"outbox {path}: {reason}", remedy) from error


def code_of(error: sqlite3.Error) -> int:
    """SQLite's primary code of *error*; 0: it has none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def untrusted(path: Path, problem: str, remedy: str) -> OutboxError:
    """The error that the outbox at *path* is not used."""
    return OutboxError(f"outbox {path}: {problem}", remedy)


def closed(path: Path) -> OutboxError:
    """The error that this user may not read the file there."""
    place = next(one for one in (path, *path.parents) if os.path.lexists(one))
    owner = place.lstat().st_uid
    problem = f"closed to this user; it belongs to {_name(owner)}"
    if owner == os.geteuid():
        return untrusted(path, problem, f"Open {place} with chmod u+rwX, {ELSEWHERE}")
    return untrusted(path, problem, RUN_AS.format(_name(owner)))


def default_path(project_dir: Path, environ: Mapping[str, str]) -> Path:
    """``.confiture/webhooks.db`` in the project, or in the user's state where that is read-only.

    One that another user keeps closed is not passed over: what it holds would seem not to be.
    """
    path = project_dir / DIRECTORY / FILE
    if is_closed(path):
        return path
    place = path.parent if path.parent.exists() else project_dir
    is_writable = os.access(place, os.W_OK | os.X_OK)
    if is_writable and (not path.exists() or os.access(path, os.W_OK)):
        return path
    return default_paths(project_dir, environ)[-1]


def default_paths(project_dir: Path, environ: Mapping[str, str]) -> list[Path]:
    """The two places of ``default_path``; without a home directory only the one in the project."""
    import hashlib  # noqa: PLC0415  loads OpenSSL, which most runs need not wait for

    path = project_dir / DIRECTORY / FILE
    given = Path(environ.get("XDG_STATE_HOME", ""))
    state = given if given.is_absolute() else _home(environ) / ".local" / "state"
    if not state.is_absolute():
        return [path]
    project = hashlib.sha256(os.fsencode(project_dir.resolve())).hexdigest()[:16]
    return [path, state / "confiture-webhooks" / project / FILE]


def _home(environ: Mapping[str, str]) -> Path:
    """This user's home directory; root, which may write in any, makes nothing in another's."""
    home = environ.get("HOME") or "~"
    with suppress(OSError):
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
    with translated(path), suppress(FileNotFoundError):
        own(path, makes=False)
    return may_be_there(path)


def is_closed(path: Path) -> bool:
    """Whether there is, or may be, an outbox that this user cannot read."""
    return may_be_there(path) and not (os.access(path, os.R_OK) or os.path.islink(path))  # noqa: PTH114  never raises


def place_of(path: Path) -> Place | None:
    """Which file has the name *path*; ``None``: none has."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def own(path: Path, *, makes: bool) -> Place:
    """Which file the outbox at *path* is, for its owner alone.

    With *makes* a missing one, and its directory, are made. Raises OutboxError for one that is
    not to be trusted or is none; OSError.
    """
    if is_closed(path):
        raise closed(path)
    if len(os.fsencode(path.absolute())) > _LONGEST:
        raise untrusted(path, f"its path is longer than {_LONGEST} bytes", OTHER)
    ignored = _make_directory(path) if makes else None
    with _guard, _opened(path) as directory:
        _check(os.fstat(directory), path.parent, path, is_file=False)
        if makes:
            if ignored:
                with suppress(OSError):
                    made = os.open(".gitignore", _NEW, 0o644, dir_fd=directory)
                    with os.fdopen(made, "wb") as file:
                        file.write(f"{ignored}\n".encode())
            with suppress(FileExistsError):
                os.close(os.open(path.name, _NEW, 0o600, dir_fd=directory))
        for suffix in BESIDE:
            with suppress(FileNotFoundError):
                beside = os.stat(path.name + suffix, dir_fd=directory, follow_symlinks=False)
                _check(beside, path.with_name(path.name + suffix), path)
        # No one else can write the directory: what has the name keeps it.
        found = os.stat(path.name, dir_fd=directory, follow_symlinks=False)
        _check(found, path, path)
        place = found.st_dev, found.st_ino
        if found.st_size and not in_use[place]:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            with os.fdopen(os.open(path.name, flags, dir_fd=directory), "rb") as file:
                _judge(path, found, file.read(_HEADER))
        # SQLite gives the files beside it the same mode.
        if found.st_mode & 0o077 and found.st_uid == os.geteuid():
            os.chmod(path.name, 0o600, dir_fd=directory)
        return place


def _make_directory(path: Path) -> str | None:
    """Make the directory of *path*, for its owner alone; which files version control is to ignore.

    A directory that was there and is not ours gets no such file.
    """
    directory = path.parent
    missing = [one for one in (directory, *directory.parents) if not os.path.lexists(one)]
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)
    if missing:
        return "*"
    return f"{path.name}*" if directory.name == DIRECTORY else None


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """The directory of *path*; one of our own name is no link."""
    directory = path.parent
    follows = 0 if directory.name != DIRECTORY else os.O_NOFOLLOW
    try:
        descriptor = os.open(directory, _LOOK | os.O_DIRECTORY | follows)
    except OSError as error:
        if follows and directory.is_symlink():
            raise _link(directory, path) from error
        raise
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _link(shown: object, path: Path) -> OutboxError:
    return untrusted(path, f"{shown} is a symbolic link", f"Name what it points to, {ELSEWHERE}")


def _check(found: os.stat_result, at: Path, path: Path, *, is_file: bool = True) -> None:
    """Raise OutboxError unless what was *found* is this user's, or root's, and theirs to write."""
    shown = "it" if at == path else at
    if stat.S_ISLNK(found.st_mode):
        raise _link(shown, path)
    if is_file and not stat.S_ISREG(found.st_mode):  # a device is others' to write
        raise untrusted(path, f"{shown} is not a regular file", OTHER)
    why = doubt(found, at)
    if why == FOREIGN:
        owner = _name(found.st_uid)
        raise untrusted(path, f"{shown} {why} ({owner})", RUN_AS.format(owner))
    if why == SHARED:
        problem = f"others may write {shown} (mode {stat.S_IMODE(found.st_mode):04o})"
        place = "a file in a new directory below it" if stat.S_ISDIR(found.st_mode) else "another"
        raise untrusted(path, problem, f"Close it with chmod go-w, or name {place}: {SETTING}")


def _name(uid: int) -> str:
    with suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return f"uid {uid}"


def _judge(path: Path, found: os.stat_result, header: bytes) -> None:
    """Raise OutboxError unless *header* is an outbox's, or of a file that is to be one."""
    if header.startswith(_MAGIC) and len(header) == _HEADER:
        page = int.from_bytes(header[16:18], "big")
        is_fresh = not any(header[40:44]) and found.st_size <= (page if page > 1 else 65536)
        app = int.from_bytes(header[68:72], "big")
        if app == APPLICATION_ID or (app == 0 and is_fresh):
            return
        raise NotOursError(path)
    if (path.parent.name, path.name) != (DIRECTORY, FILE):  # there it is an outbox that broke
        raise untrusted(path, "this file is not an outbox", OTHER)


def set_aside(path: Path, damage: DamagedError) -> Path | None:
    """Rename the broken file, and what lies beside it, to ``<name>.corrupt-<time>``.

    Returns the new path; ``None`` when another process has already done it.
    """
    with translated(path):
        aside = None
        if place_of(path) == damage.place:
            name = f"{path.name}.corrupt-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
            names = chain([name], (f"{name}-{number}" for number in count(2)))
            aside = next(one for one in map(path.with_name, names) if not one.exists())
            # The log first: left behind, it would be replayed into the file that comes after.
            for suffix in BESIDE:
                with suppress(FileNotFoundError):
                    path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
            path.rename(aside)
            path.with_name(path.name + DAMAGED).unlink(missing_ok=True)
        if damage.connection is not None:
            damage.connection.close()
        return aside


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
            for suffix in (*BESIDE, DAMAGED, ""):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
        except OSError as error:
            remedy = "Make its directory writable, or remove it by hand"
            raise untrusted(path, f"it cannot be removed ({error.strerror})", remedy) from error
        ignore = path.with_name(".gitignore")
        if path.parent.name == DIRECTORY and {*path.parent.iterdir()} <= {ignore}:
            ignore.unlink(missing_ok=True)
            path.parent.rmdir()
