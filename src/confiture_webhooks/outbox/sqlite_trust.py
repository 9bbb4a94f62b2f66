"""Whether a file is an outbox of ours: by descriptor, before SQLite opens it.

A file or directory of another user, or one that others may write, is not used: whoever can write
it could have forged events signed and sent, or read what is sent. A symbolic link is not followed,
and a file that is no outbox is left as it is.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import OutboxError
from ..trust import FOREIGN, SHARED, doubt

DIRECTORY = ".confiture"
FILE = "webhooks.db"
BESIDE = ("-wal", "-shm", "-journal")
"""What SQLite adds to the file's name for the files beside it."""
SETTING = "CONFITURE_WEBHOOK_OUTBOX=sqlite:<path>"
ELSEWHERE = f"or name another file: {SETTING}"
RUN_AS = f"Run this as {{}}, or give each user an outbox of its own: {SETTING}"
APPLICATION_ID = 0x43465748
"""``CFWH``, in the file's header: another program's database has another."""

_MAGIC = b"SQLite format 3\0"
_HEADER = 100
_LOOK = getattr(os, "O_PATH", os.O_RDONLY)
"""A directory that this user may not list can be looked at."""
in_use: Counter[tuple[int, int] | None] = Counter()
"""This process's connections, by the file's device and inode: reading a header again, and closing
it, would drop their locks."""
_guard = threading.Lock()


def untrusted(path: Path, problem: str, remedy: str) -> OutboxError:
    """That the outbox at *path* is not used."""
    return OutboxError(f"outbox {path}: {problem}", remedy)


def closed(path: Path) -> OutboxError:
    """That this user may not read what is there."""
    place = next(one for one in (path, *path.parents) if os.path.lexists(one))
    owner = place.lstat().st_uid
    problem = f"closed to this user; it belongs to {_name(owner)}"
    if owner == os.geteuid():
        return untrusted(path, problem, f"Open {place} with chmod u+rwX, {ELSEWHERE}")
    return untrusted(path, problem, RUN_AS.format(_name(owner)))


def not_ours(path: Path) -> OutboxError:
    """That there is another program's database."""
    return untrusted(
        path, "this is another program's SQLite database", f"Name another file: {SETTING}"
    )


def own(path: Path, *, makes: bool) -> int:
    """The inode of the outbox at *path*, which is for its owner alone.

    With *makes* a missing one, and its directory, are made. Raises OutboxError for one that is
    not to be trusted or is none; OSError.
    """
    ignored = _make_directory(path) if makes else None
    if os.name != "posix":  # no owners and modes of this kind
        return _plain(path, makes=makes)
    with _guard, _opened(path) as place:
        _check(os.fstat(place), path.parent, path, is_file=False)
        if makes:
            if ignored:
                with suppress(OSError), open(_made(".gitignore", place, 0o644), "w") as file:
                    file.write(f"{ignored}\n")
            with suppress(FileExistsError):
                os.close(_made(path.name, place, 0o600))
        for suffix in BESIDE:
            with suppress(FileNotFoundError):
                beside = os.stat(path.name + suffix, dir_fd=place, follow_symlinks=False)
                _check(beside, path.with_name(path.name + suffix), path)
        # No one else can write the directory: what has the name keeps it.
        found = os.stat(path.name, dir_fd=place, follow_symlinks=False)
        _check(found, path, path)
        if not in_use[found.st_dev, found.st_ino]:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            with os.fdopen(os.open(path.name, flags, dir_fd=place), "rb") as file:
                _judge(path, found, file.read(_HEADER))
        # SQLite gives the files beside it the same mode.
        if found.st_mode & 0o077 and found.st_uid == os.geteuid():
            os.chmod(path.name, 0o600, dir_fd=place)
        return found.st_ino


def _plain(path: Path, *, makes: bool) -> int:
    if makes:
        path.touch()
    found = path.stat()
    if not in_use[found.st_dev, found.st_ino]:
        with path.open("rb") as file:
            _judge(path, found, file.read(_HEADER))
    return found.st_ino


def _made(name: str, place: int, mode: int) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    return os.open(name, flags, mode, dir_fd=place)


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
    why = doubt(found, at)
    if why == FOREIGN:
        owner = _name(found.st_uid)
        raise untrusted(path, f"{shown} {why} ({owner})", RUN_AS.format(owner))
    if why == SHARED:
        problem = f"others may write {shown} (mode {stat.S_IMODE(found.st_mode):04o})"
        place = "a file in a new directory below it" if stat.S_ISDIR(found.st_mode) else "another"
        raise untrusted(path, problem, f"Close it with chmod go-w, or name {place}: {SETTING}")
    if is_file and not stat.S_ISREG(found.st_mode):
        raise untrusted(path, f"{shown} is not a regular file", f"Remove it, {ELSEWHERE}")


def _name(uid: int) -> str:
    with suppress(ImportError, KeyError):
        import pwd  # noqa: PLC0415  where there are users

        return pwd.getpwuid(uid).pw_name
    return f"uid {uid}"


def _judge(path: Path, found: os.stat_result, header: bytes) -> None:
    """Raise OutboxError unless *header* is an outbox's, or of a file that is to be one."""
    if not header:
        return
    if header.startswith(_MAGIC) and len(header) == _HEADER:
        page = int.from_bytes(header[16:18], "big")
        is_fresh = not any(header[40:44]) and found.st_size <= (page if page > 1 else 65536)
        app = int.from_bytes(header[68:72], "big")
        if app == APPLICATION_ID or (app == 0 and is_fresh):
            return
        raise not_ours(path)
    if (path.parent.name, path.name) != (DIRECTORY, FILE):  # there it is an outbox that broke
        raise untrusted(path, "this file is not an outbox", f"Name another file: {SETTING}")


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
