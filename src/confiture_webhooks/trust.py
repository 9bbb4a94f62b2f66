"""Whose a file is, and whether it changed: what others own or may write is not used."""

from __future__ import annotations

import os
import stat
from pathlib import Path

FOREIGN = "belongs to another user"
SHARED = "may be written by others"


def doubt(found: os.stat_result) -> str | None:
    """``FOREIGN``, ``SHARED``, or ``None``: the file or directory is this user's, or root's.

    A group that is this user's own may write.
    """
    if found.st_uid not in (os.geteuid(), 0):
        return FOREIGN
    is_groups = found.st_mode & stat.S_IWGRP and found.st_gid not in (os.getegid(), 0)
    return SHARED if found.st_mode & stat.S_IWOTH or is_groups else None


def doubt_of(path: Path) -> str | None:
    """The same of a path, which is opened without waiting. Raises OSError.

    What lies on a read-only mount (a ConfigMap) may have any mode: no one writes there.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        why = doubt(os.fstat(descriptor)) if os.name == "posix" else None
        is_read_only = why == SHARED and os.fstatvfs(descriptor).f_flag & os.ST_RDONLY
        return None if is_read_only else why
    finally:
        os.close(descriptor)


def stamp(path: str | os.PathLike[str]) -> tuple[object, ...]:
    """Another value when the file, or the target of a symbolic link to it, has changed."""
    try:
        real = os.path.realpath(path)
        found = os.stat(real)  # noqa: PTH116
    except OSError:
        return ()
    return real, found.st_mtime_ns, found.st_ino, found.st_size
