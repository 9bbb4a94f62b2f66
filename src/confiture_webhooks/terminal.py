"""Standard error: one writer thread, a bounded queue, and no caller that waits for a reader.

Every text that another party can set passes ``printable`` before it is shown. While the command's
own line on standard output is open, lines are held, so that it stays whole.
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
from typing import Any, Final

LIMIT: Final = 4_000_000
"""Characters that wait for a reader. Those beyond are dropped and counted."""
STUCK_S: Final = 0.2
"""A write that takes longer has no reader: it is not waited for."""
END_S: Final = 1.0
"""The longest wait for a slow reader."""
GAP_S: Final = 0.01
"""The longest wait between two lines of the host's."""
USUAL_COLUMNS: Final = 80
"""The width of a terminal that does not report it."""
_ATOMIC: Final = 4096
_BACK: Final = "\r\x1b[2K"
"""To the start of the line, and nothing is on it."""
_STYLES: Final = {"red": "31", "green": "32"}


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
    stderr.write("".join(f"{line}\n" for line in shown))
    stderr.flush()


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
    with suppress(Exception):  # a stand-in that cannot be watched
        ours, theirs = (os.fstat(one.fileno()) for one in (itself(), out))
        null = os.stat(os.devnull)  # noqa: PTH116
        # A reader may see both mixed, unless one is a file of its own, or none.
        are_apart = any(
            stat.S_ISREG(one.st_mode) or os.path.samestat(one, null) for one in (ours, theirs)
        )
        if os.path.samestat(ours, theirs) or not are_apart:
            return _HostLines(out).end
    return lambda: None


class _Stderr:
    """Standard error as a file that never fails: a queue, and the thread that writes it.

    No lock: an exception in a caller could leave it taken.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[Any, str | None] | SimpleQueue[None]] = SimpleQueue()
        """Streams with their texts, ``None`` for the progress line that is wanted by then; and
        marks that are answered when everything before them is written.
        """
        self._released: SimpleQueue[None] = SimpleQueue()
        self._put = self._taken = 0
        self._dropped = 0
        self._busy_since: float | None = None
        self._is_held = self._is_progressing = self._is_ending = self._is_alone = False
        self._process = 0
        self._begin = self._wanted = self._shown = ""

    def write(self, text: str) -> int:
        """Queue *text* as it is. Never raises."""
        stream = itself()
        if stream is not None and text:
            self._start()
            if self._put - self._taken > LIMIT:
                self._dropped += text.count("\n")
            else:
                self._put += len(text)
                self._queue.put((stream, text))
        return len(text)

    def progress(self, text: str) -> None:
        """Show *text* below all lines in place of the last, on a terminal only; ``""`` clears."""
        if not is_terminal() or os.environ.get("TERM", "") in ("", "dumb"):
            return
        columns = 0
        with suppress(OSError, ValueError):
            columns = os.get_terminal_size(itself().fileno()).columns
        self._start()
        self._wanted = printable(text)[: (columns or USUAL_COLUMNS) - 1]
        if not self._is_progressing:
            self._is_progressing = True
            self._queue.put((itself(), None))

    def flush(self, within: float = END_S) -> None:
        """Wait until everything is written; not while there is no reader, and not for held lines.

        At most *within* seconds, and no longer than the thread makes headway.
        """
        deadline = time.monotonic() + within
        is_written = bool(self._process) and not self._is_alone
        if self._is_held or not is_written or self._stuck_at() <= time.monotonic():
            return
        mark: SimpleQueue[None] = SimpleQueue()
        self._queue.put(mark)
        while (left := min(deadline, self._stuck_at()) - time.monotonic()) > 0:
            with suppress(Empty):
                mark.get(timeout=left)
                return

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to write, as far as can be seen without waiting."""
        return self._put == self._taken and self._busy_since is None

    def hold(self) -> None:
        """Write nothing from now on; what is being written comes to its end first."""
        self._is_held = True
        while self._busy_since is not None and time.monotonic() < self._stuck_at():
            time.sleep(0.0005)

    def release(self, begin: str = "") -> None:
        """Write what was held, and *begin* before whatever comes next."""
        self._is_held, self._begin = False, begin
        self._released.put(None)

    def _stuck_at(self) -> float:
        since = self._busy_since
        return (time.monotonic() if since is None else since) + STUCK_S

    def _start(self) -> None:
        """Start the thread, again in a forked child."""
        if self._process == os.getpid():
            return
        if not self._process:
            atexit.register(self._end)
        self._queue, self._busy_since, self._process = SimpleQueue(), None, os.getpid()
        self._is_alone = False
        try:
            threading.Thread(target=self._run, name="webhooks-stderr", daemon=True).start()
        except RuntimeError:  # no thread is to be had, or the interpreter ends
            self._is_alone = True

    def _end(self) -> None:
        """The host writes no more, so the room kept for it is free."""
        self._is_ending = True
        with suppress(KeyboardInterrupt):  # a Ctrl-C more: Python would show where it came
            time.sleep(0.04 if self._busy_since is not None else 0)
            while self._is_alone and not self._queue.empty():
                self._write_at_once(self._queue.get())
            if self._is_alone and self._dropped:
                self._write_at_once((itself(), self._loss()))
            self.flush()

    def _write_at_once(self, piece: Any) -> None:
        """Write *piece* in this thread if nothing has to be waited for; else drop and count it."""
        with suppress(Exception):  # a mark, a closed stream
            stream, text = piece
            ready = select.poll()
            ready.register(stream.fileno(), select.POLLOUT)
            if text and ready.poll(0) and len(text.encode(errors="replace")) <= _ATOMIC:
                self._write(stream, text)
            elif text:
                self._dropped += text.count("\n")

    def _run(self) -> None:
        while True:
            piece = self._queue.get()
            if isinstance(piece, SimpleQueue):
                piece.put(None)
                continue
            stream, text = piece
            self._busy_since = time.monotonic()
            while self._is_held:  # whoever holds from here on sees the writer busy
                self._busy_since = None
                self._released.get()
                self._busy_since = time.monotonic()
            self._taken += len(text or "")
            with suppress(Exception):  # closed, a broken pipe, a full disk
                self._write(stream, self._shown_with(text))
                if self._dropped and self._queue.empty():
                    self._write(stream, self._loss())
            self._busy_since = None
            if self._queue.empty():
                self._put = self._taken  # sums of several threads may have gone apart

    def _loss(self) -> str:
        dropped, self._dropped = self._dropped, 0
        lost = counted(dropped, "line was", "lines were")
        return f"confiture-webhooks: {lost} dropped: standard error was not read\n"

    def _shown_with(self, text: str | None) -> str:
        """*text* with what a terminal shows below it."""
        begin, self._begin = self._begin, ""
        if text is None:
            self._is_progressing = False
            last, self._shown = self._shown, self._wanted
            return begin + (_BACK + self._shown if self._shown != last else "")
        return begin + (f"{_BACK}{text}{self._shown}" if self._shown else text)

    def _write(self, stream: Any, text: str) -> None:
        """Write *text*; where *stream* is a file, past its buffer.

        If a text stays in a buffer and cannot be written, it fails again when the interpreter
        flushes at exit, and changes the command's exit code.
        """
        encoding = getattr(stream, "encoding", None) or "utf-8"
        data = text.encode(encoding, "backslashreplace")
        descriptor = _descriptor(stream)
        if descriptor is None:
            stream.write(data.decode(encoding))
            stream.flush()
            return
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        if poll.poll(0):
            with suppress(Exception):  # what others wrote before stays before
                stream.flush()
        while data:
            try:
                if self._is_ending or _has_room(descriptor):
                    data = data[os.write(descriptor, data[:_ATOMIC]) :]
                    self._busy_since = time.monotonic()
                else:
                    time.sleep(0.02)
            except BlockingIOError:  # whoever started the command has set it so
                poll.poll()


class _HostLines:
    """Standard output under watch: lines are held from a write to the flush of a line's end."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._write, self._flush = stream.write, stream.flush
        self._is_open = False
        stream.write, stream.flush = self.write, self.flush

    def write(self, text: str) -> Any:
        with suppress(Exception):  # the host's line is written in any case
            if text:
                stderr.hold()
                self._is_open = not text.endswith("\n")
        written = self._write(text)
        at_once = ("line_buffering", "write_through")
        if not self._is_open and any(getattr(self._stream, name, False) for name in at_once):
            self.flush()
        return written

    def flush(self) -> None:
        self._flush()
        if not self._is_open:
            with suppress(Exception):
                stderr.release()
                if not stderr.is_idle:
                    stderr.flush(GAP_S)  # else the next line of the host's could open first

    def end(self) -> None:
        """Write what was held, on a line of its own."""
        for name in ("write", "flush"):
            with suppress(Exception):  # it was put back already
                delattr(self._stream, name)
        with suppress(Exception):  # the host meets the same fault
            self._flush()
        stderr.release(begin="\n" if self._is_open else "")


def _has_room(descriptor: int) -> bool:
    """Whether a pipe keeps room for the host's own messages, which it does wait to write."""
    try:
        capacity: int = fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ)
        unread: int = struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)))[0]
    except (AttributeError, OSError):  # no pipe
        return True
    return unread == 0 or unread + _ATOMIC <= capacity * 3 // 8


def _descriptor(stream: Any) -> int | None:
    """Where bytes for *stream* end up; ``None`` where that is its own affair.

    Somebody's replacement may have the ``fileno`` of another file than it writes to.
    """
    if not isinstance(stream, io.TextIOWrapper):
        return None
    raw = getattr(stream.buffer, "raw", stream.buffer)
    return raw.fileno() if isinstance(raw, io.FileIO) else None


stderr: Final = _Stderr()
"""The process's: there is one standard error."""
write: Final = stderr.write
progress: Final = stderr.progress
settle: Final = stderr.flush
