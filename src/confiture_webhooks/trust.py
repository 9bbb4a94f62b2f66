"""The owner of a file, and its changes: a file that others own or may write is not used."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

FOREIGN = "belongs to another user"
SHARED = "may be written by others"


def doubt(found: os.stat_result, at: str | Path | int) -> str | None:
    """``FOREIGN``, ``SHARED``, or ``None``: what was *found* there is this user's, or root's.

    Its group may write only if that is a user's own, and no access list names others.
    """
    if found.st_uid not in (os.geteuid(), 0):
        return FOREIGN
    is_groups = found.st_mode & stat.S_IWGRP and (not _is_own(found.st_gid) or _has_list(at))
    return SHARED if found.st_mode & stat.S_IWOTH or is_groups else None


def _is_own(group: int) -> bool:
    """Whether *group* is root's, or has this user's name and no other member.

    In a container both may be numbers without names: then it is one that this process is in.
    """
    if group == 0:
        return True
    try:
        known = grp.getgrgid(group)
    except KeyError:
        return group in (os.geteuid(), *os.getgroups())
    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return group == os.geteuid()
    return known.gr_name == name and {*known.gr_mem} <= {name}


def _has_list(at: str | Path | int) -> bool:
    """Whether single users or groups have rights there; the group's bits are then their mask."""
    try:
        return bool(os.getxattr(at, "system.posix_acl_access"))
    except (AttributeError, OSError):
        return False


def doubt_of(path: Path) -> str | None:
    """The same of a path, which is opened without waiting, and of a link there. Raises OSError.

    A file on a read-only mount (a ConfigMap) may have any mode: no one writes there.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        is_ours = path.lstat().st_uid in (os.geteuid(), 0)
        why = doubt(os.fstat(descriptor), descriptor) if is_ours else FOREIGN
        is_read_only = why == SHARED and os.fstatvfs(descriptor).f_flag & os.ST_RDONLY
        return None if is_read_only else why
    finally:
        os.close(descriptor)


def stamp(path: str | os.PathLike[str]) -> tuple[object, ...]:
    """Another value when the file, who may read it, or the target of a link to it has changed."""
    try:
        real = os.path.realpath(path)
        found = os.stat(real)  # noqa: PTH116
    except OSError:
        return ()
    return real, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size
