"""Threads that run users' code: bounded, contained, and never heard on standard output."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from types import FrameType
from typing import Any

_POLL_S = 0.1
_ENDING_S = 0.2
"""For calls that were told to end, all together."""


class HookThread(threading.Thread):
    """One call of users' code. ``error`` is what it raised, whatever that was."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__(name="webhooks-hook", daemon=True)
        self._call = call
        self.error: BaseException | None = None

    def run(self) -> None:
        """Make the call; nothing leaves it."""
        try:
            self._call()
        except BaseException as error:  # noqa: BLE001  SystemExit and KeyboardInterrupt are theirs too
            self.error = error

    def ends_within(self, budget: timedelta, is_over: threading.Event) -> bool:
        """Start it and wait; ``False`` when it runs on after *budget*, or when *is_over* is set."""
        self.start()
        left = budget.total_seconds()
        while self.is_alive() and left > 0 and not is_over.is_set():
            self.join(min(_POLL_S, left))
            left -= _POLL_S
        return not self.is_alive()


def end_left_behind() -> None:
    """Have the calls that still run raise SystemExit as soon as they run Python again.

    A thread that writes to a standard stream while the interpreter ends makes it abort, and that
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


class _HookAwareStdout:
    """Standard output for the command's own threads, standard error for hooks'.

    What a hook prints must not end up in what the command prints, which scripts may read.
    """

    def __init__(self, stdout: Any, modules: set[str]) -> None:
        self._stdout = stdout
        self._modules = modules

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr if self._is_hooks() else self._stdout, name)

    def _is_hooks(self) -> bool:
        thread = threading.current_thread()
        if thread is threading.main_thread():
            return False
        return isinstance(thread, HookThread) or _runs(sys._getframe(), self._modules)  # noqa: SLF001


def _runs(frame: FrameType | None, modules: set[str]) -> bool:
    """Whether a function of one of *modules*, or of what is inside them, is being run."""
    while frame is not None:
        name = frame.f_globals.get("__name__") or ""
        if name in modules or name.partition(".")[0] in modules:
            return True
        frame = frame.f_back
    return False


class StdoutGuard:
    """Keeps what hooks print off standard output from ``start`` to ``stop``."""

    def __init__(self) -> None:
        self.modules: set[str] = set()
        """Whose functions count as hooks' in threads that hooks started."""
        self._before: Any = None
        self._guard: _HookAwareStdout | None = None

    def start(self) -> None:
        """Take the place of ``sys.stdout``."""
        self._before = sys.stdout
        self._guard = _HookAwareStdout(self._before, self.modules)
        sys.stdout = self._guard

    def stop(self) -> None:
        """Give it back, unless a hook that runs on could still print."""
        is_quiet = not any(isinstance(thread, HookThread) for thread in threading.enumerate())
        with suppress(Exception):
            if is_quiet and sys.stdout is self._guard:
                sys.stdout = self._before
