"""One attempt under way: the time it has left, and how another thread ends it."""

from __future__ import annotations

import re
import threading
import time
from contextvars import ContextVar
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from ..errors import CUT, TransportError

if TYPE_CHECKING:
    from collections.abc import Callable

    from urllib3.response import BaseHTTPResponse

    from ..errors import Fault
    from ..transport import Request, Response

GRACE_S = 0.05
"""How long an attempt that was cut may take to wind up."""
ANSWER_BODY_S = 1.0
"""How long is waited for the body of an answer, only to use its connection again."""
LONGEST_RETRY_AFTER = timedelta(days=365)
_LEAP_SECOND = re.compile(r"(?<=:\d\d):60\b")
_SECONDS = re.compile(r"[0-9]+(\.[0-9]*)?", re.ASCII)


def retry_after(text: str | None, now: datetime) -> timedelta | None:
    """The wait that a ``Retry-After`` asks for (RFC 9110, 10.2.3); ``None``: it is unreadable.

    If gateways joined several headers with commas, the longest counts. A date can be read without
    its day of the week, and the comma after that.
    """
    parts = [part.strip() for part in (text or "").split(",")]
    waits = [float(part) for part in parts if _SECONDS.fullmatch(part)]
    waits += [wait.total_seconds() for part in parts if (wait := time_until(part, now)) is not None]
    if not waits:
        return None
    return timedelta(seconds=min(max(0.0, *waits), LONGEST_RETRY_AFTER.total_seconds()))


def time_until(date: str | None, now: datetime) -> timedelta | None:
    """By how much the HTTP *date* is later than *now*; ``None``: it is none."""
    try:
        at = parsedate_to_datetime(_LEAP_SECOND.sub(":59", date or ""))
        return (at if at.tzinfo else at.replace(tzinfo=UTC)) - now
    except (ValueError, TypeError, OverflowError):
        return None


class Exchange:
    """One request and its answer. Made where ``send`` is called, used in the attempt's thread."""

    def __init__(
        self, request: Request, timeout: timedelta, *, answer_within: float | None = None
    ) -> None:
        self.request = request
        self.proxy_variable = ""
        """The variable that names the proxy it goes through."""
        self.is_forwarded = False
        """Whether that proxy reads the request, and may answer it itself."""
        self.fault: Fault | None = None
        """The setting to correct before any request can be sent."""
        self.authority = ""
        """The setting that names the certificates to trust, where one does."""
        self.step = "resolves"
        """How far it came: ``resolves``, ``connects``, ``proxy``, ``tls``, ``answers``."""
        self.reason: str | None = None
        """More about why there is no answer, where it is known."""
        self.is_heard = False
        """Whether a byte of an answer came."""
        self.is_fresh = False
        """Whether a connection was opened for it, instead of a kept one used."""
        self.unread: BaseHTTPResponse | None = None
        """The answer whose body is still on its connection."""
        self.excerpt = b""
        """The beginning of the answer's body."""
        self.response: Response | None = None
        self.ends_at = time.monotonic() + timeout.total_seconds()
        """By the monotonic clock."""
        self._answer_within = answer_within
        self._lock = threading.Lock()
        self._finished = threading.Event()
        self._stop: Callable[[], None] | None = None
        self._is_cut = False
        self._is_aborted = False
        self.error_type: str | None = None
        """Why it has no answer, once that is known."""

    def left(self) -> float:
        """Seconds left; raises TimeoutError when the attempt is over."""
        left = self.ends_at - time.monotonic()
        if self._is_cut or left <= 0:
            raise TimeoutError
        return left

    def stops_with(self, stop: Callable[[], None]) -> None:
        """The next step ends when another thread calls *stop*; TimeoutError if it is over."""
        with self._lock:
            self._stop = stop
        self.left()

    def sent(self) -> None:
        """The request is on its way, and the answer is awaited."""
        self.step = "answers"
        if self._answer_within is not None:
            self.ends_at = min(self.ends_at, time.monotonic() + self._answer_within)

    def answered(self, response: Response, *, is_whole: bool = True) -> None:
        """A status line is in: that is the answer, whatever comes after it.

        An attempt that was cut is not answered: its headers may be those that came before.
        """
        with self._lock:
            if self._is_cut:
                raise TimeoutError
            if response.retry_after is None and self.response:
                response = replace(response, retry_after=self.response.retry_after)
            self.response = response
            if is_whole:
                self.ends_at = min(self.ends_at, time.monotonic() + ANSWER_BODY_S)

    def asked_to_wait(self, retry_after_line: str) -> None:
        """A line of the answer's header asks for a wait; what comes after it may be broken."""
        wait = retry_after(retry_after_line, datetime.now(UTC))
        with self._lock:
            if wait and self.response and not self._is_cut:
                longest = max(wait, self.response.retry_after or wait)
                self.response = replace(self.response, retry_after=longest)

    def verdict(self, error_type: str) -> str:
        """Whatever went wrong once time was up, that it was up is the reason."""
        if error_type != "timeout" and not self._is_cut:
            return error_type
        return "too_slow" if self.is_heard and not self._is_aborted else "timeout"

    def cut(self, *, is_abort: bool = False) -> None:
        """End it now, from any thread; nothing happens when it is over."""
        with self._lock:
            if not (self._is_cut or self._finished.is_set()):
                self._is_cut = True
                self._is_aborted = is_abort
                if self._stop:
                    self._stop()

    def finish(self, error_type: str | None) -> None:
        """The attempt's thread is through with it; *error_type* counts if there is no answer."""
        with self._lock:
            self.error_type = error_type
            self._stop = None
            self._finished.set()

    def outcome(self) -> Response:
        """The answer; raises TransportError when there is none."""
        self._finished.wait(GRACE_S)
        with self._lock:
            if self.response is not None:
                return self.response
            if self._is_aborted:
                raise TransportError(CUT)
            raise TransportError(self.error_type or self.verdict("timeout"), self.reason)


UNDER_WAY: ContextVar[Exchange] = ContextVar("confiture_webhooks_exchange")
"""The exchange of the running thread, for the sockets that are opened far below."""
