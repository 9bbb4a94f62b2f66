"""Standard error: text reaches it or is lost, and neither costs the command anything."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import Any


def write(text: str) -> None:
    """Write *text* to what ``sys.stderr`` is at that moment. Never raises.

    Where it is a file nothing of *text* stays in a buffer: what cannot be written would fail
    again when the interpreter flushes at exit, and change the command's exit code. Without a
    standard error it goes nowhere; ``print`` would take standard output instead.
    """
    stream = itself()
    if stream is None:
        return
    with suppress(Exception):  # what others wrote before stays before
        stream.flush()
    with suppress(Exception):  # closed, a broken pipe, a full disk: nobody reads it
        _write(stream, text)


def itself() -> Any:
    """Standard error, behind whatever keeps what hooks print apart from it."""
    return getattr(sys.stderr, "behind", sys.stderr)


def _write(stream: Any, text: str) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    data = text.encode(encoding, "backslashreplace")
    descriptor = _descriptor(stream)
    if descriptor is None:
        stream.write(data.decode(encoding))
        stream.flush()
        return
    while data:
        data = data[os.write(descriptor, data) :]


def _descriptor(stream: Any) -> int | None:
    """Where bytes for *stream* end up; ``None`` where that is its own affair.

    Somebody's replacement may have the ``fileno`` of another file than it writes to.
    """
    if not isinstance(stream, io.TextIOWrapper):
        return None
    raw = getattr(stream.buffer, "raw", stream.buffer)
    return raw.fileno() if isinstance(raw, io.FileIO) else None


class Stderr(io.TextIOBase):
    """Standard error as a file, for those who want one to write to."""

    def write(self, text: str, /) -> int:
        """Write *text*, as ``write`` does."""
        write(text)
        return len(text)
