"""Standard error: one writer thread, a bounded queue, and no caller that waits for a reader.

Whatever another party can set passes ``printable`` before it is shown. While the command's own
line on standard output is open, lines are held, so that it stays whole.
"""

from __future__ import annotations

import atexit
import fcntl
import io
import os
import select
import stat
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Final, NamedTuple

LIMIT: Final = 4_000_000
"""Characters that wait for a reader. What comes beyond them is dropped and counted."""
STUCK_S: Final = 0.2
"""A write that takes longer has no reader: it is not waited for."""
END_S: Final = 1.0
"""The longest wait for a slow reader."""
GAP_S: Final = 0.01
"""The longest wait between two lines of the host's."""
USUAL_COLUMNS: Final = 80
"""Of a terminal that does not report its width."""
_ATOMIC: Final = 4096
_BACK: Final = "\r\x1b[2K"
"""To the start of the line, and nothing is on it."""
_STYLES: Final = {"dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def printable(value: object) -> str:
    """*value* as text on one line: what moves, colours or reverses a terminal is escaped."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def counted(count: int, one: str, many: str) -> str:
    """*count* and its noun: ``1 delivery``, ``2 deliveries``."""
    return f"{count} {one if count == 1 else many}"


def say(*lines: str, style: str | None = None) -> None:
    """Write *lines* for people, each made printable. Never raises, never waits for a reader."""
    shown = [printable(line) for line in lines]
    if style is not None and is_terminal() and "NO_COLOR" not in os.environ:
        shown = [f"\x1b[{_STYLES[style]}m{line}\x1b[0m" for line in shown]
    write("".join(f"{line}\n" for line in shown))
    settle()


def write(text: str) -> None:
    """Queue *text* as it is. Never raises."""
    _writer.put(text)


def progress(text: str) -> None:
    """Show *text* below all lines in place of the last one, on a terminal only; ``""`` clears."""
    if is_terminal() and os.environ.get("TERM", "") not in ("", "dumb"):
        columns = 0
        with suppress(OSError, ValueError):
            columns = os.get_terminal_size(itself().fileno()).columns
        _writer.progress(printable(text)[: (columns or USUAL_COLUMNS) - 1])


def settle() -> None:
    """Wait until everything is written; not while there is no reader, and not for held lines."""
    _writer.settle()


def is_terminal(stream: Any = None) -> bool:
    """Whether *stream*, by default standard error, is a terminal."""
    try:
        return bool((itself() if stream is None else stream).isatty())
    except Exception:  # noqa: BLE001  none, or a closed one
        return False


def degrade() -> None:
    """Have both standard streams escape what their encoding lacks, instead of raising."""
    streams: tuple[Any, Any] = sys.stdout, sys.stderr
    for stream in streams:
        with suppress(Exception):  # none, closed, or a stand-in
            stream.reconfigure(errors="backslashreplace")


def itself() -> Any:
    """Standard error, behind whatever keeps hooks' output apart from it."""
    return getattr(sys.stderr, "behind", sys.stderr)


def keep_whole() -> Callable[[], None]:
    """Hold lines while one is open on standard output, until the returned function is called.

    Without effect where the two streams cannot end up in the same place.
    """
    out = getattr(sys.stdout, "behind", sys.stdout)
    try:
        return _HostLines(out).end if _may_meet(out, itself()) else lambda: None
    except Exception:  # noqa: BLE001  a stand-in that cannot be watched
        return lambda: None


class Stderr:
    """Standard error as a file, for the SDK's exporters."""

    def write(self, text: str) -> int:
        """Queue *text*, as ``write`` does."""
        write(text)
        return len(text)

    def flush(self) -> None:
        """Wait, as ``settle`` does."""
        settle()


class _Piece(NamedTuple):
    stream: Any
    text: str | None
    """``None``: the progress line that is wanted by then."""


class _Writer:
    """The queue and its thread. No lock: an exception in a caller could leave it taken."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[_Piece | SimpleQueue[None]] = SimpleQueue()
        """Pieces, and marks that are answered when everything before them is written."""
        self._released: SimpleQueue[None] = SimpleQueue()
        self._put = self._taken = 0
        self._dropped = 0
        self._busy_since: float | None = None
        self._is_held = self._is_parked = self._is_progressing = False
        self.is_ending = False
        self._process = 0
        self._begin = self._wanted = self._shown = ""

    def put(self, text: str) -> None:
        stream = itself()
        if stream is None or not text:
            return
        self._start()
        if self._put - self._taken > LIMIT:
            self._dropped += text.count("\n")
            return
        self._put += len(text)
        self._queue.put(_Piece(stream, text))

    def progress(self, text: str) -> None:
        self._start()
        self._wanted = text
        if not self._is_progressing:
            self._is_progressing = True
            self._queue.put(_Piece(itself(), None))

    def settle(self, within: float = END_S) -> None:
        """Wait for the thread *within* seconds, and no longer than it makes headway."""
        deadline = time.monotonic() + within
        if self._is_held or not self._process or self._stuck_at() <= time.monotonic():
            return
        mark: SimpleQueue[None] = SimpleQueue()
        self._queue.put(mark)
        while (left := min(deadline, self._stuck_at()) - time.monotonic()) > 0:
            with suppress(Empty):
                mark.get(timeout=left)
                return

    def end(self) -> None:
        """The host writes no more, so the room kept for it is free."""
        self.is_ending = True
        time.sleep(0.04 if self._busy_since is not None else 0)
        self.settle()

    def hold(self) -> None:
        """Write nothing from now on; what is being written comes to its end first."""
        self._is_held = True
        while self._busy_since is not None and time.monotonic() < self._stuck_at():
            time.sleep(0.0005)

    def release(self, begin: str = "") -> None:
        """Write what was held, and *begin* before whatever comes next."""
        self._is_held, self._begin = False, begin
        if self._is_parked:
            self._released.put(None)

    def _stuck_at(self) -> float:
        since = self._busy_since
        return (time.monotonic() if since is None else since) + STUCK_S

    def _beat(self) -> None:
        self._busy_since = time.monotonic()

    def _start(self) -> None:
        """Start the thread, again in a forked child."""
        if self._process == os.getpid():
            return
        if not self._process:
            atexit.register(self.end)
        self._queue, self._busy_since, self._process = SimpleQueue(), None, os.getpid()
        with suppress(RuntimeError):  # the interpreter ends: nothing is shown any more
            threading.Thread(target=self._run, name="webhooks-stderr", daemon=True).start()

    def _run(self) -> None:
        while True:
            piece = self._queue.get()
            if isinstance(piece, SimpleQueue):
                piece.put(None)
                continue
            self._begin_writing()
            self._taken += len(piece.text or "")
            with suppress(Exception):  # closed, a broken pipe, a full disk
                _write(piece.stream, self._text(piece), self._beat)
                if self._dropped and self._queue.empty():
                    _write(piece.stream, self._loss(), self._beat)
            self._busy_since = None
            if self._queue.empty():
                self._put = self._taken  # sums of several threads may have gone apart

    def _begin_writing(self) -> None:
        """Return when nothing is held; whoever holds from then on sees the writer busy."""
        while True:
            self._beat()
            if not self._is_held:
                return
            self._busy_since = None
            self._is_parked = True
            if self._is_held:
                self._released.get()
            self._is_parked = False

    def _text(self, piece: _Piece) -> str:
        """*piece* with what a terminal shows below it."""
        begin, self._begin = self._begin, ""
        if piece.text is None:
            self._is_progressing = False
            last, self._shown = self._shown, self._wanted
            return begin + (_BACK + self._shown if self._shown != last else "")
        return begin + (f"{_BACK}{piece.text}{self._shown}" if self._shown else piece.text)

    def _loss(self) -> str:
        dropped, self._dropped = self._dropped, 0
        lost = counted(dropped, "line was", "lines were")
        return f"confiture-webhooks: {lost} dropped: standard error was not read\n"


class _HostLines:
    """Standard output under watch: lines are held from a write to the flush of a line's end."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._write, self._flush = stream.write, stream.flush
        self._is_open = self._is_waiting = False
        stream.write, stream.flush = self.write, self.flush

    def write(self, text: str) -> Any:
        if text:
            _writer.hold()
            self._is_open, self._is_waiting = not text.endswith("\n"), True
        written = self._write(text)
        stream = self._stream
        if getattr(stream, "line_buffering", False) or getattr(stream, "write_through", False):
            self._closed()
        return written

    def flush(self) -> None:
        self._flush()
        self._closed()

    def _closed(self) -> None:
        if not self._is_open:
            self._is_waiting = False
            _writer.release()
            _writer.settle(GAP_S)  # else the next line of the host's could open first

    def end(self) -> None:
        """Write what was held, on a line of its own."""
        for name in ("write", "flush"):
            with suppress(Exception):  # it was put back already
                delattr(self._stream, name)
        if self._is_waiting:
            with suppress(Exception):  # the host meets the same fault
                self._flush()
        _writer.release(begin="\n" if self._is_open else "")


def _may_meet(out: Any, err: Any) -> bool:
    """Whether a reader may see both streams mixed: anything but two different files."""
    ours, theirs = os.fstat(err.fileno()), os.fstat(out.fileno())
    return os.path.samestat(ours, theirs) or not (_is_file(ours) or _is_file(theirs))


def _is_file(found: os.stat_result) -> bool:
    is_null = stat.S_ISCHR(found.st_mode) and os.path.samestat(found, os.stat(os.devnull))  # noqa: PTH116
    return stat.S_ISREG(found.st_mode) or is_null


def _write(stream: Any, text: str, beat: Callable[[], None]) -> None:
    """Write *text*; where *stream* is a file, past its buffer.

    What stays in a buffer and cannot be written would fail again when the interpreter flushes
    at exit, and change the command's exit code.
    """
    encoding = getattr(stream, "encoding", None) or "utf-8"
    data = text.encode(encoding, "backslashreplace")
    descriptor = _descriptor(stream)
    if descriptor is None:
        stream.write(data.decode(encoding))
        stream.flush()
        return
    if _is_ready(descriptor, 0):
        with suppress(Exception):  # what others wrote before stays before
            stream.flush()
    while data:
        try:
            if _has_room(descriptor):
                data = data[os.write(descriptor, data[:_ATOMIC]) :]
                beat()
            else:
                time.sleep(0.02)
        except BlockingIOError:  # whoever started the command has set it so
            _is_ready(descriptor, None)


def _has_room(descriptor: int) -> bool:
    """Whether a pipe keeps room for the host's own messages, which it does wait to write."""
    if _writer.is_ending:
        return True
    try:
        capacity: int = fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ)
        unread: int = struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)))[0]
    except (AttributeError, OSError):  # no pipe
        return True
    return unread == 0 or unread + _ATOMIC <= capacity * 3 // 8


def _is_ready(descriptor: int, timeout: float | None) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(timeout))


def _descriptor(stream: Any) -> int | None:
    """Where bytes for *stream* end up; ``None`` where that is its own affair.

    Somebody's replacement may have the ``fileno`` of another file than it writes to.
    """
    if not isinstance(stream, io.TextIOWrapper):
        return None
    raw = getattr(stream.buffer, "raw", stream.buffer)
    return raw.fileno() if isinstance(raw, io.FileIO) else None


_writer: Final = _Writer()
"""The process's: there is one standard error."""
