"""Send → record: an attempt for a claim, and its telemetry."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from ..delivery import Attempt, Decision, Outcome
from ..errors import CUT, OutboxError, TransportError
from ..outbox import Unreadable
from ..outlook import rest_of
from ..transport import prepare
from .pace import OpenDelivery

if TYPE_CHECKING:
    from ..endpoint import Endpoint
    from ..outbox import Claim, Outbox
    from ..outlook import EndpointStatus
    from ..telemetry import Telemetry
    from ..telemetry.deliveries import DeliverySpan, PassSpans
    from ..transport import Request, Transport
    from .pace import Pace

RECORD_AGAIN_S = (0.1, 0.5, 2.0)
"""Waits before a record that the outbox refused is tried again: the answer is not to be lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Where the worker gets time and chance from."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic
    spread: Callable[[], float] = random.random


class _NoSpan:
    """In the place of a span that could not be made."""

    def attempt(self, request: Request) -> AbstractContextManager[Any]:
        return nullcontext(SimpleNamespace(request=request))

    def finish(self, *_: Any, **__: Any) -> None:
        """Nothing."""

    attempt_failed = finish


@dataclass(eq=False, repr=False)
class Sender:
    """Makes the attempts of a worker's lanes, and records them.

    Spans of deliveries stay open for the next attempt for *hold*, and are linked to *passes*.
    """

    endpoints: Sequence[Endpoint]
    outbox: Outbox
    transport: Transport
    telemetry: Telemetry
    _: KW_ONLY
    environment: str | None
    hold: timedelta
    poll: timedelta | None = None
    passes: PassSpans | None = None
    clock: Clock = field(default_factory=Clock)
    stopping: threading.Event = field(default_factory=threading.Event)
    lock: threading.RLock = field(default_factory=threading.RLock)
    """Guards all paces."""

    def _opened(self, pace: Pace, claim: Claim) -> OpenDelivery:
        """The delivery with its span, which is new, or open since an earlier attempt."""
        with self.lock:
            waiting = pace.open.get(claim.delivery.id)
            if waiting is not None:
                waiting.next_attempt_at = None  # it is under way
        if waiting is None:
            try:
                worker_pass = self.passes.begin() if self.passes is not None else None
                span = self.telemetry.delivery(claim.delivery, worker_pass)
            except Exception as error:  # noqa: BLE001  telemetry never breaks a delivery
                self.telemetry.failed("span", error)
                span = cast("DeliverySpan", _NoSpan())
            waiting = OpenDelivery(span, attempts=claim.attempts)
            with self.lock:
                pace.open[claim.delivery.id] = waiting
        return waiting

    def close_open(
        self, pace: Pace, delivery_id: str, outcome: str = "deferred", at: datetime | None = None
    ) -> None:
        """End the span of a delivery, now or *at*; of two threads that do, one does."""
        with self.lock:
            waiting = pace.open.pop(delivery_id, None)
        if waiting is not None:
            waiting.span.finish(
                outcome,
                last=waiting.last,
                attempts=waiting.attempts,
                at=at or self.clock.now(),
                next_attempt_at=waiting.next_attempt_at,
            )

    def _attempt(
        self, pace: Pace, claim: Claim, waiting: OpenDelivery
    ) -> tuple[Attempt | None, bool]:
        """Send it; ``None``: we cut the attempt ourselves.

        And whether a failure is ours, which says nothing of the receiver.
        """
        started_at, started = self.clock.now(), self.clock.monotonic()
        number = claim.attempts + 1
        response = error_type = reason = None
        is_ours = isinstance(claim.delivery, Unreadable)
        try:
            if isinstance(claim.delivery, Unreadable):
                error_type, reason = "other", claim.delivery.reason
            else:
                request = prepare(pace.endpoint, claim.delivery, attempt=number, at=started_at)
                with waiting.span.attempt(request) as span:
                    response = self.transport.send(span.request, timeout=pace.endpoint.timeout)
                    span.response = response
        except TransportError as error:
            if error.error_type == CUT:
                return None, True
            error_type, reason = error.error_type, error.reason
        except Exception as error:  # noqa: BLE001  one delivery costs itself alone
            is_ours = True
            error_type, reason = "other", type(error).__name__
            self.telemetry.failed("attempt", error)
        attempt = Attempt(
            number=number,
            started_at=started_at,
            duration=timedelta(seconds=max(0.0, self.clock.monotonic() - started)),
            status_code=response.status_code if response else None,
            error_type=error_type,
            retry_after=response.retry_after if response else None,
            reason=reason,
        )
        return attempt, is_ours

    def _record_and_report(
        self,
        pace: Pace,
        claim: Claim,
        waiting: OpenDelivery,
        decision: Decision,
        rests_until: datetime | None,
        at: datetime,
    ) -> None:
        """Record the attempt that was over *at*, then report it.

        Every worker leaves the endpoint alone until *rests_until*.
        """
        attempt, delivery_id = waiting.last, claim.delivery.id
        assert attempt is not None
        longest = pace.endpoint.retry.longest_wait
        record = partial(self.outbox.record, claim, attempt, decision, rests_until, longest)
        with self._ending(pace, claim):
            status = self._record(record)
        if status is None:
            # Our lease ran out under the attempt: whoever claimed it since reports the outcome.
            self.close_open(pace, delivery_id)
            return
        with self.lock:
            pace.outcomes[decision.outcome] += 1
            if status.off_since is not None:
                pace.switch_off()
            if until := rest_of(status, pace.endpoint, at):
                pace.rest(until, at)  # another worker was asked to rest
            is_open = delivery_id in pace.open
        if not is_open:
            return  # the worker was stopped during the record, and has reported it
        wait = decision.next_attempt_at - at if decision.next_attempt_at else None
        if not attempt.is_success:
            waiting.span.attempt_failed(attempt, retry_in=wait)
        if decision.outcome is not Outcome.RETRY:
            self.close_open(pace, delivery_id, decision.outcome.value, at)
        elif wait is not None and (wait > self.hold or self.stopping.is_set()):
            self.close_open(pace, delivery_id)

    def _record(self, record: Callable[[], EndpointStatus | None]) -> EndpointStatus | None:
        for wait in RECORD_AGAIN_S:
            try:
                return record()
            except OutboxError as error:
                self.telemetry.outbox_failed(str(error))
                if self.stopping.wait(wait):
                    break
        return record()

    def _give_up_attempt(self, pace: Pace, claim: Claim, waiting: OpenDelivery) -> None:
        """Give back a delivery whose attempt was cut: it is due as before, with as many tries."""
        with self.lock:
            pace.last_failure = CUT
            waiting.next_attempt_at = self.clock.now()
        try:
            self.give_back(pace, claim)
        finally:
            self.close_open(pace, claim.delivery.id)

    def give_back(self, pace: Pace, claim: Claim) -> None:
        """Have another claim take it. Raises OutboxError: then its lease ends."""
        with self._ending(pace, claim):
            self.outbox.give_back(claim)

    @contextmanager
    def _ending(self, pace: Pace, claim: Claim) -> Iterator[None]:
        """Notes whether *claim* was ended, so that no other worker is blamed for its lease."""
        with self.lock:
            pace.unrecorded.add(claim.delivery.id)
        yield
        with self.lock:
            pace.unrecorded.discard(claim.delivery.id)
