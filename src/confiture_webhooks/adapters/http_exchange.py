"""One attempt under way: the time it has left, and how another thread ends it."""

from __future__ import annotations

import threading
import time
from contextvars import ContextVar
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from ..errors import CUT, TransportError

if TYPE_CHECKING:
    from collections.abc import Callable

    from urllib3.response import BaseHTTPResponse

    from ..transport import Response

GRACE_S = 0.05
"""How long an attempt that was cut may take to wind up and end its span."""
SENDING_S = 0.05
"""How long whoever has something to do while the answer is awaited lets a request be sent first."""
ANSWER_BODY = timedelta(seconds=1)
"""How long is waited for the body of an answer, only to use its connection again."""


class Exchange:
    """One request and its answer. Made where ``send`` is called, used in the attempt's thread."""

    def __init__(self, timeout: timedelta, *, resend_count: int = 0) -> None:
        self.resend_count = resend_count
        self.is_heard = False
        """Whether a byte of an answer came."""
        self.is_fresh = False
        """Whether a connection was opened for it, instead of a kept one used."""
        self.unread: BaseHTTPResponse | None = None
        """The answer whose body is still on its connection."""
        self._ends_at = time.monotonic() + timeout.total_seconds()
        self._lock = threading.Lock()
        self._sent = threading.Event()
        self._over = threading.Event()
        self._finished = threading.Event()
        self._stop: Callable[[], None] | None = None
        self._is_cut = False
        self._is_aborted = False
        self._response: Response | None = None
        self._error_type: str | None = None
        self._finished_at = 0.0

    def left(self) -> float:
        """Seconds left; raises TimeoutError when the attempt is over."""
        left = self._ends_at - time.monotonic()
        if self._is_cut or left <= 0:
            raise TimeoutError
        return left

    def stops_with(self, stop: Callable[[], None]) -> None:
        """What is done next ends when another thread calls *stop*; TimeoutError if it is over."""
        with self._lock:
            self._stop = stop
        self.left()

    def sent(self) -> None:
        """The request is on its way, and the answer is awaited."""
        self._sent.set()

    def wait_until_sent(self) -> None:
        """Let the attempt's thread send first; it is not waited for where that takes long."""
        self._sent.wait(SENDING_S)

    def answered(self, response: Response) -> None:
        """Status line and headers are in: that is the answer, whatever the body does.

        An attempt that was cut is not answered: its headers may be those that came before.
        """
        with self._lock:
            if self._is_cut:
                raise TimeoutError
            self._response = response
            drained_at = time.monotonic() + ANSWER_BODY.total_seconds()
            self._ends_at = min(self._ends_at, drained_at)

    def late(self) -> str:
        """The error type of an attempt that ran out of time."""
        return "too_slow" if self.is_heard and not self._is_aborted else "timeout"

    def verdict(self, error_type: str) -> str:
        """Whatever went wrong once time was up, that it was up is the reason."""
        return self.late() if self._is_cut or error_type == "timeout" else error_type

    def cut(self, *, is_abort: bool = False) -> None:
        """End it now, from any thread; nothing happens when it is over."""
        with self._lock:
            if not (self._is_cut or self._finished.is_set()):
                self._is_cut = True
                self._is_aborted = is_abort
                if self._stop:
                    self._stop()
        self._sent.set()
        self._over.set()

    def finish(self, error_type: str | None) -> None:
        """The attempt's thread is through with it; *error_type* counts if there is no answer."""
        with self._lock:
            self._error_type = error_type
            self._finished_at = time.monotonic()
            self._stop = None
            self._finished.set()
        self._sent.set()
        self._over.set()

    def outcome(self) -> Response:
        """Wait for the answer; raises TransportError when there is none in time."""
        try:
            self._over.wait(max(0.0, self._ends_at - time.monotonic()))
        finally:
            self.cut()
        self._finished.wait(GRACE_S)
        with self._lock:
            if self._response is not None:
                return replace(self._response, ended=self._finished_at or None)
            if self._is_aborted:
                raise TransportError(CUT)
            raise TransportError(self._error_type or self.late())


UNDER_WAY: ContextVar[Exchange] = ContextVar("confiture_webhooks_exchange")
"""The exchange of the running thread, for the sockets that are opened far below."""
