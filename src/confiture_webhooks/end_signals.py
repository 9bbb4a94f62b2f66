"""SIGTERM and SIGHUP of a run: it rolls back as with Ctrl-C, and then ends by the signal."""

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
"""How long deliveries are waited for after one, at most: many send SIGKILL after ten seconds."""


class SIGTERM(KeyboardInterrupt):
    """The signal: Ctrl-C to the host, and the error of a migration under way."""

    flush = FLUSH


class SIGHUP(SIGTERM):
    """The same: the terminal is gone, maybe with the connection to this machine."""


_ERRORS = {signal.SIGTERM: SIGTERM, signal.SIGHUP: SIGHUP}


@dataclass
class EndSignals:
    """A run that is asked to end: it rolls back as with Ctrl-C, and then ends by the signal.

    If a signal has another handler, that stays, and so does the first process of a container,
    which the kernel spares. A second SIGTERM ends the process at once; a terminal that closes
    sends SIGHUP twice.
    """

    failure: ErrorInfo | None = None
    """Why the run failed, if a signal has come."""
    _came: int = 0
    """Its number."""
    _caught: set[signal.Signals] = field(default_factory=set)
    _held: threading.local = field(default_factory=threading.local)
    """The signals that a thread held back before it forked."""

    def catch(self) -> None:
        """From now on the signals interrupt the command: one may come at once."""
        if threading.current_thread() is not threading.main_thread() or os.getpid() == 1:
            return
        self._caught |= {one for one in _ERRORS if signal.getsignal(one) is signal.SIG_DFL}
        for one in sorted(self._caught):
            signal.signal(one, self._interrupt)
        if self._caught:
            os.register_at_fork(
                before=self._hold, after_in_parent=self._unhold, after_in_child=self._let_go
            )

    def _hold(self) -> None:
        """A migration forks: a signal for the new process comes once that is ready for it."""
        if self._caught:
            self._held.mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._caught)

    def _unhold(self) -> None:
        mask, self._held.mask = getattr(self._held, "mask", None), None
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _let_go(self) -> None:
        """In a process that a migration forks, a signal ends that process, and no run."""
        for one in self._caught:
            if signal.getsignal(one) == self._interrupt:
                signal.signal(one, signal.SIG_DFL)
        self._caught.clear()
        self._unhold()

    def pass_on(self) -> None:
        """The run is over: end by the signal that has come, and catch none any longer."""
        for one in self._caught:
            signal.signal(one, signal.SIG_DFL)
        self._caught.clear()
        if self.failure is not None:
            terminal.settle()
            os.kill(os.getpid(), self._came)

    def _interrupt(self, number: int, _: object) -> None:
        came = signal.Signals(number)
        for one in self._caught:
            is_again = came is one is signal.SIGHUP
            signal.signal(one, signal.SIG_IGN if is_again else signal.SIG_DFL)
        self._came, ended = came, _ERRORS[came]()
        self.failure = explain(ended)
        raise ended
