"""Whose a file is: nothing of another user's is used, and nothing that others may write."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def doubt(descriptor: int) -> str | None:
    """Why the open file or directory is not to be trusted; ``None``: it is ours, or root's.

    A group that is this user's own may write. What lies on a read-only mount (a ConfigMap) may
    have any mode: no one writes there.
    """
    found = os.fstat(descriptor)
    if os.name != "posix":
        return None
    if found.st_uid not in {os.geteuid(), 0}:
        return "belongs to another user"
    is_groups = found.st_mode & stat.S_IWGRP and found.st_gid not in {os.getegid(), 0}
    if not (found.st_mode & stat.S_IWOTH or is_groups):
        return None
    is_read_only = os.fstatvfs(descriptor).f_flag & os.ST_RDONLY
    return None if is_read_only else "may be written by others"


def doubt_of(path: Path) -> str | None:
    """The same of a path, which is opened without waiting. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        return doubt(descriptor)
    finally:
        os.close(descriptor)
