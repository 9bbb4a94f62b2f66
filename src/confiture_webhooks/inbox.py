"""A receiver of events without a framework: authentic, each handled once, within its trace.

If a request is not answered, the sender repeats it, so a second one is no attack. It is answered
with success when the first was handled, and put off while the first is at work.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from http import HTTPStatus

from .errors import SignatureError
from .signature import DEFAULT_MAX_BODY, DEFAULT_TOLERANCE, Verified, signing_keys, verify

KEPT_FOR = timedelta(days=1)
"""Longer than the default schedule of a sender, so that no attempt counts as new."""
MOST_KEPT = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The answer to send: a status, a document to send as JSON, and headers."""

    status: int
    document: Mapping[str, str]
    headers: Mapping[str, str] = field(default_factory=dict)


RECEIVED = Reply(status=HTTPStatus.OK, document={"status": "received"})
DUPLICATE = Reply(status=HTTPStatus.OK, document={"status": "handled before"})
BUSY = Reply(
    status=HTTPStatus.CONFLICT,  # a 503 that asks for a wait would rest the sender's whole endpoint
    document={"error": "being handled"},
    headers={"Retry-After": "5"},
)
REFUSED = Reply(status=HTTPStatus.UNAUTHORIZED, document={"error": "not authentic"})


class Turn(Enum):
    """Where an event stands when it arrives."""

    FIRST = "first"
    AT_WORK = "at work"
    DONE = "done"


class ReplayWindow:
    """The events handled lately, by id, in this process; any thread may ask.

    With several processes give ``Inbox`` a subclass of it that has these three methods on a store
    they share. There an event at work must not stay so for ever: its process may be killed.
    """

    def __init__(
        self,
        kept_for: timedelta = KEPT_FOR,
        most: int = MOST_KEPT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kept_s = kept_for.total_seconds()
        self._most = most
        self._clock = clock
        self._at_work: set[str] = set()
        self._done: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, event_id: str) -> Turn:
        """Where *event_id* stands; after ``FIRST`` it is at work until one of the two below."""
        oldest = self._clock() - self._kept_s
        with self._lock:
            while self._done and next(iter(self._done.values())) < oldest:
                self._done.popitem(last=False)
            if event_id in self._done:
                return Turn.DONE
            if event_id in self._at_work:
                return Turn.AT_WORK
            self._at_work.add(event_id)
            return Turn.FIRST

    def done(self, event_id: str) -> None:
        """It was handled: the next one with this id is a repetition."""
        with self._lock:
            self._at_work.discard(event_id)
            self._done[event_id] = self._clock()
            while len(self._done) > self._most:
                self._done.popitem(last=False)

    def failed(self, event_id: str) -> None:
        """It was not handled: the next one with this id is the first again."""
        with self._lock:
            self._at_work.discard(event_id)


class Inbox:
    """Receives requests for *handle*; any framework's view calls it in one line.

    *handle* gets each authentic event once, within a span of the run's trace. If it raises,
    ``receive`` raises, too: the framework answers with an error, and the sender repeats.
    Raises ConfigError when a secret is empty or not base64 after ``whsec_``.
    """

    def __init__(
        self,
        secret: str | Sequence[str],
        handle: Callable[[Verified], object],
        *,
        tolerance: timedelta | None = DEFAULT_TOLERANCE,
        max_body: int = DEFAULT_MAX_BODY,
        require_timestamp: bool = True,
        window: ReplayWindow | None = None,
    ) -> None:
        signing_keys(secret)
        self._secret = secret
        self._handle = handle
        self._tolerance = tolerance
        self._require_timestamp = require_timestamp
        self._window = ReplayWindow() if window is None else window
        self.max_body = max_body
        """The most bytes a body may have: reading more is of no use."""

    def receive(
        self, headers: Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]], body: bytes
    ) -> Reply:
        """Handle the event in a request, if it is authentic and new; what to answer."""
        try:
            event = verify(
                headers,
                body,
                self._secret,
                tolerance=self._tolerance,
                max_body=self.max_body,
                require_timestamp=self._require_timestamp,
            )
        except SignatureError:
            return REFUSED
        if event.id is None:
            self._handle_traced(event)
            return RECEIVED
        turn = self._window.begin(event.id)
        if turn is not Turn.FIRST:
            return DUPLICATE if turn is Turn.DONE else BUSY
        try:
            self._handle_traced(event)
        except BaseException:
            self._window.failed(event.id)
            raise
        self._window.done(event.id)
        return RECEIVED

    def _handle_traced(self, event: Verified) -> None:
        from .telemetry.deliveries import handling  # noqa: PLC0415

        with handling(event):
            self._handle(event)
