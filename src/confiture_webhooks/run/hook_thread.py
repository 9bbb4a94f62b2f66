"""Threads that run users' code: bounded, contained, and never on standard output."""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from types import FrameType, ModuleType
from typing import Any

from .. import terminal

_POLL_S = 0.1
_ENDING_S = 0.2
"""For calls that were asked to end, all together."""


class HookThread(threading.Thread):
    """One call of users' code. ``error`` is the exception that it raised, of any kind."""

    def __init__(
        self, call: Callable[[], object], at_end: Callable[[], object] = lambda: None
    ) -> None:
        """*at_end* is called after *call*, before another thread has much of a chance to run."""
        super().__init__(name="webhooks-hook", daemon=True)
        self._call = call
        self._at_end = at_end
        self.error: BaseException | None = None

    def run(self) -> None:
        """Make the call; nothing leaves it, and the command stays in its working directory."""
        directory = None
        if not _has_own_directory():
            with suppress(OSError):
                directory = os.open(".", os.O_RDONLY)
        try:
            self._call()
        except BaseException as error:  # noqa: BLE001  SystemExit and KeyboardInterrupt are theirs too
            self.error = error
        self._at_end()
        if directory is not None:
            with suppress(OSError):
                os.fchdir(directory)
            os.close(directory)
        _output.flush()

    def ends_within(self, budget: timedelta, is_over: threading.Event) -> bool:
        """Start it and wait; ``False`` when it runs on after *budget*, or when *is_over* is set."""
        self.start()
        left = budget.total_seconds()
        while self.is_alive() and left > 0 and not is_over.is_set():
            self.join(min(_POLL_S, left))
            left -= _POLL_S
        return not self.is_alive()


_CLONE_FS = 0x200


def _has_own_directory() -> bool:
    """Whether this thread now has a working directory of its own, as it can on Linux."""
    if not sys.platform.startswith("linux"):
        return False
    import ctypes  # noqa: PLC0415  only for hooks

    try:
        return bool(ctypes.CDLL(None).unshare(_CLONE_FS) == 0)
    except (OSError, AttributeError):
        return False


def end_running() -> None:
    """Have the calls that still run raise SystemExit as soon as they run Python again.

    A thread that writes to a standard stream while the interpreter ends aborts it, and that
    would be the command's exit code. One that waits in the system for ever does no harm.
    """
    running = [thread for thread in threading.enumerate() if isinstance(thread, HookThread)]
    if not running:
        return
    import ctypes  # noqa: PLC0415  seldom needed

    for thread in running:
        assert thread.ident is not None
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit)
        )
    deadline = time.monotonic() + _ENDING_S
    for thread in running:
        thread.join(max(0.0, deadline - time.monotonic()))


class _HookOutput(io.TextIOBase):
    """The output of hooks, on standard error: in whole lines, and it raises nothing in them.

    Nothing stays in a buffer: an unwritten text would fail again at the interpreter's end.
    """

    encoding = "utf-8"

    def __init__(self) -> None:
        self._begun = threading.local()

    def write(self, text: str, /) -> int:
        """Write the lines that *text* ends, and keep the rest for the thread's next."""
        lines, end, rest = (getattr(self._begun, "text", "") + text).rpartition("\n")
        self._begun.text = rest
        if end:
            terminal.write(lines + end)
        return len(text)

    def flush(self) -> None:
        """Write what the thread has begun, as a line of its own."""
        begun, self._begun.text = getattr(self._begun, "text", ""), ""
        if begun:
            terminal.write(f"{begun}\n")  # whole: a log event may be next

    def fileno(self) -> int:
        """Standard error's, for programs that hooks start."""
        stream = terminal.itself()
        return stream.fileno() if stream is not None else super().fileno()

    @property
    def buffer(self) -> Any:
        """Standard error's, for bytes; it stays open when a wrapper around this is closed."""
        return os.fdopen(self.fileno(), "wb", closefd=False)


_output = _HookOutput()


class _Aware:
    """A stream of the command's for its own threads; for hooks' it is ``_HookOutput``.

    A hook's text must not get into the command's standard output, which scripts may read. It must
    not fail as the command would where standard error is full, broken or closed.
    """

    def __init__(self, behind: Any, modules: set[str]) -> None:
        self.behind = behind
        self.threads = threading.local()
        """``streams``: what the thread, of a hook, has put in the stream's place, the last last."""
        self._modules = modules

    def __getattr__(self, name: str) -> Any:
        is_forked = isinstance(threading.main_thread(), HookThread)  # by a hook: it has no writer
        own = getattr(self.threads, "streams", None) or [_output]
        hooks = (is_forked and terminal.itself()) or own[-1]
        return getattr(hooks if is_forked or self.is_hooks() else self.behind, name)

    def is_hooks(self) -> bool:
        """Whether the thread that asks runs a hook."""
        thread = threading.current_thread()
        if thread is threading.main_thread():
            # The command's own handlers have the stream itself: this one's was made by a hook.
            caller = sys._getframe(1).f_back  # noqa: SLF001
            return caller is not None and caller.f_globals.get("__name__") == "logging"
        return isinstance(thread, HookThread) or _runs(sys._getframe(), self._modules)  # noqa: SLF001


class _Sys(ModuleType):
    """``sys`` while there are hooks: one that replaces a stream does so for its thread alone."""

    def __setattr__(self, name: str, value: Any) -> None:
        guard = vars(self).get(name)
        if isinstance(guard, _Aware) and guard.is_hooks():
            own = vars(guard.threads).setdefault("streams", [])
            # All that a hook can read there, and put back, is the guard.
            own[:] = own[:-1] if value in (guard, guard.behind) else [*own, value]
        else:
            super().__setattr__(name, value)


def _runs(frame: FrameType | None, modules: set[str]) -> bool:
    """Whether a function of one of *modules*, or of what is inside them, is being run."""
    while frame is not None:
        name = frame.f_globals.get("__name__") or ""
        if name in modules or name.partition(".")[0] in modules:
            return True
        frame = frame.f_back
    return False


class OutputGuard:
    """Keeps what hooks print apart from the command's streams, from ``start`` to ``stop``."""

    def __init__(self) -> None:
        self.modules: set[str] = set()
        """The modules whose functions count as hooks' in threads that hooks started."""
        self._guards: dict[str, _Aware] = {}

    def start(self) -> None:
        """Take the place of ``sys.stdout`` and ``sys.stderr``, where they are open.

        A closed one is ``None``, to which ``print`` prints nothing: that has to stay so.
        """
        for name in ("stdout", "stderr"):
            if (stream := getattr(sys, name)) is not None:
                self._guards[name] = _Aware(stream, self.modules)
                setattr(sys, name, self._guards[name])
        if type(sys) is ModuleType:  # else it is somebody's own already
            sys.__class__ = _Sys

    def stop(self) -> None:
        """Give them back, unless a hook that runs on could still print."""
        if any(isinstance(thread, HookThread) for thread in threading.enumerate()):
            return
        is_ours = type(sys) is _Sys
        if is_ours:
            sys.__class__ = ModuleType
        for name, guard in self._guards.items():
            if getattr(sys, name) is guard:
                setattr(sys, name, guard.behind)


NEEDED = (
    *("builtins", "datetime", "json", "logging", "os", "queue", "select", "selectors"),
    *("socket", "sqlite3", "ssl", "threading", "time", "uuid"),
)


class LibraryGuard:
    """Public functions and classes of the standard library that Confiture and a run need.

    A replacement by a hook's thread holds for all threads, until ``restore``; for good if it is
    not active.
    """

    def __init__(self, *, is_active: bool) -> None:
        self.replaced: list[str] = []
        """The names of what was put back, until somebody takes them."""
        self._kept = [
            (f"{owner.__name__}.{name}", owner, name, value)
            for owner in (_owners() if is_active else ())
            for name, value in list(vars(owner).items())
            if name[0] != "_" and (callable(value) or (owner is os and name == "environ"))
        ]

    def restore(self) -> None:
        """Put back what was replaced or deleted."""
        missing = object()
        for label, owner, name, value in self._kept:
            if vars(owner).get(name, missing) is not value:
                setattr(owner, name, value)
                self.replaced.append(label)


def _owners() -> Iterator[Any]:
    for name in NEEDED:
        module = sys.modules.get(name)
        if module is None:
            continue
        yield module
        for value in list(vars(module).values()):
            # A class that is written in C cannot be changed.
            if isinstance(value, type) and value.__module__ == name and value.__flags__ & _HEAP:
                yield value


_HEAP = 1 << 9
"""CPython's ``Py_TPFLAGS_HEAPTYPE``."""
