"""SIGTERM of a run: it rolls back as with Ctrl-C, and the command then ends by the signal."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass, field
from datetime import timedelta

from . import terminal
from .adapters.failure import explain
from .event import ErrorInfo

FLUSH = timedelta(seconds=5)
"""How long deliveries are waited for after it, at most: many send SIGKILL after ten seconds."""


class SIGTERM(KeyboardInterrupt):
    """The signal: Ctrl-C to the host, and the error of a migration under way."""


@dataclass
class Sigterm:
    """A run that is asked to end: it rolls back as with Ctrl-C, and then ends by the signal.

    If the signal has another handler, that stays, and so does the first process of a container,
    which the kernel spares. A second signal ends the process at once.
    """

    failure: ErrorInfo | None = None
    """Why the run failed, if the signal has come."""
    _is_caught: bool = False
    _held: threading.local = field(default_factory=threading.local)
    """The signals that a thread held back before it forked."""

    def catch(self) -> None:
        """From now on the signal interrupts the command: it may come at once."""
        is_main = threading.current_thread() is threading.main_thread() and os.getpid() != 1
        self._is_caught = is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        if self._is_caught:
            signal.signal(signal.SIGTERM, self._interrupt)
            os.register_at_fork(
                before=self._hold, after_in_parent=self._unhold, after_in_child=self._let_go
            )

    def _hold(self) -> None:
        """A migration forks: a signal for the new process comes once that is ready for it."""
        if self._is_caught:
            self._held.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def _unhold(self) -> None:
        mask, self._held.mask = getattr(self._held, "mask", None), None
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _let_go(self) -> None:
        """In a process that a migration forks, the signal ends that process, and no run."""
        if self._is_caught and signal.getsignal(signal.SIGTERM) == self._interrupt:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._is_caught = False
        self._unhold()

    def pass_on(self) -> None:
        """The run is over: end by the signal if it has come, and catch it no longer."""
        if self._is_caught:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            self._is_caught = False
        if self.failure is not None:
            terminal.settle()
            os.kill(os.getpid(), signal.SIGTERM)

    def _interrupt(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        ended = SIGTERM()
        self.failure = explain(ended)
        raise ended
