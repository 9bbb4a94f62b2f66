"""One line on the terminal that is written over, and never left behind."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress

from . import stderr

_BACK = "\r\x1b[2K"
"""To the start of the line, and nothing is on it."""

USUAL_COLUMNS = 80
"""Of a terminal that does not say."""


class StatusLine:
    """What is going on right now, below what standard error has shown so far.

    On anything but a terminal it shows nothing. Faults of writing are swallowed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._text = ""

    def show(self, text: str) -> None:
        """*text* in place of what was shown; an empty one takes it away."""
        with self._lock:
            if text != self._text and _is_terminal():
                self._write(_BACK + text[: _width()])
                self._text = text

    def above(self, line: str) -> None:
        """Write *line* for good, with what is shown below it."""
        with self._lock:
            if self._text:
                self._write(f"{_BACK}{line}\n{self._text[: _width()]}")
            else:
                self._write(f"{line}\n")

    def _write(self, text: str) -> None:
        stderr.write(text)


def _is_terminal() -> bool:
    try:
        return sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
    except Exception:  # noqa: BLE001  no stderr, or a closed one
        return False


def _width() -> int:
    """How much fits on a line: what wraps cannot be written over."""
    columns = 0
    with suppress(OSError, ValueError):
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    return (columns or USUAL_COLUMNS) - 1


status_line = StatusLine()
"""The process's: there is one standard error."""
