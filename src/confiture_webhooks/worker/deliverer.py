"""Claim in hand → send → record: the attempts of a worker, and what is told of them."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ..delivery import Attempt, Decision, Outcome, decide
from ..errors import CUT, TransportError
from ..transport import prepare
from .lane import Open

if TYPE_CHECKING:
    from ..outbox import Claim, Outbox
    from ..telemetry import DeliverySpan, Telemetry
    from ..transport import Transport
    from .lane import Lane
    from .passes import Passes


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Where the worker gets time and chance from."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic
    spread: Callable[[], float] = random.random


class Deliverer:
    """Makes attempts one after the other, lane by lane, and keeps what they led to."""

    def __init__(
        self,
        outbox: Outbox,
        transport: Transport,
        telemetry: Telemetry,
        *,
        user_agent: str,
        hold: timedelta,
        passes: Passes | None,
        clock: Clock,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._outbox = outbox
        self._transport = transport
        self._telemetry = telemetry
        self._user_agent = user_agent
        self._hold = hold
        self._passes = passes
        self._clock = clock
        self._is_stopping = is_stopping

    def deliver(self, lane: Lane, claims: deque[Claim], stale_at: float) -> None:
        """Make one attempt for each of *claims*, from the front; what is not tried stays in it.

        It ends early when the worker stops, the endpoint needs a rest or is off, and at
        *stale_at* (monotonic): later attempts could outlast the lease.
        """
        is_whole = len(claims) == lane.batch
        while claims and not self._is_stopping() and self._clock.monotonic() < stale_at:
            claim = claims.popleft()
            waiting = lane.open.get(claim.delivery.id)
            if waiting is None:
                waiting = Open(self._begin_span(claim), attempts=claim.attempts)
                lane.open[claim.delivery.id] = waiting
            attempt = self._attempt(lane, claim, waiting)
            if attempt is None:
                self._let_go(lane, claim)
                return
            now = self._clock.now()
            decision = decide(
                lane.endpoint.retry,
                attempt,
                tries=claim.tries + 1,
                now=now,
                spread=self._clock.spread(),
            )
            waiting.attempts, waiting.last = attempt.number, attempt
            waiting.next_attempt_at = decision.next_attempt_at
            lane.note(attempt, decision.outcome, now)
            self._keep(lane, claim, waiting, decision, now)
            is_whole = is_whole and attempt.is_success
            if lane.is_gone or lane.is_resting(now):
                return
        if is_whole and not claims:
            lane.note_whole_batch()

    def defer_open(self, lane: Lane, delivery_id: str) -> None:
        """End the span of a delivery that is put off; of two threads that do, one does."""
        waiting = lane.open.pop(delivery_id, None)
        if waiting is None:
            return
        waiting.span.finish(
            "deferred",
            last=waiting.last,
            attempts=waiting.attempts,
            at=self._clock.now(),
            next_attempt_at=waiting.next_attempt_at,
        )

    def _begin_span(self, claim: Claim) -> DeliverySpan:
        if self._passes is None:
            return self._telemetry.delivery(claim.delivery, remote=False)
        pass_span = self._passes.begin()
        pass_span.claimed(1)
        return self._telemetry.delivery(claim.delivery, remote=True, pass_span=pass_span)

    def _attempt(self, lane: Lane, claim: Claim, waiting: Open) -> Attempt | None:
        """Send it; ``None``: we cut the attempt ourselves, which says nothing of the receiver."""
        started_at, started = self._clock.now(), self._clock.monotonic()
        status_code, error_type, retry_after, reason = None, None, None, None
        request = prepare(
            lane.endpoint,
            claim.delivery,
            attempt=claim.number,
            at=started_at,
            user_agent=self._user_agent,
        )
        with waiting.span.current():
            try:
                response = self._transport.send(request, timeout=lane.endpoint.timeout)
                status_code, retry_after = response.status_code, response.retry_after
            except TransportError as error:
                if error.error_type == CUT:
                    return None
                error_type, reason = error.error_type, error.reason
        return Attempt(
            number=claim.number,
            started_at=started_at,
            duration=timedelta(seconds=self._clock.monotonic() - started),
            status_code=status_code,
            error_type=error_type,
            retry_after=retry_after,
            reason=reason,
        )

    def _keep(
        self, lane: Lane, claim: Claim, waiting: Open, decision: Decision, at: datetime
    ) -> None:
        """Record the attempt that was over *at*, then tell of it."""
        attempt = waiting.last
        assert attempt is not None
        if self._outbox.record(claim, attempt, decision):
            self._tell(lane, claim, waiting, decision, at)
        else:
            # Our lease ran out under the attempt: whoever claimed it since tells the outcome.
            self.defer_open(lane, claim.delivery.id)

    def _let_go(self, lane: Lane, claim: Claim) -> None:
        """Give back a delivery whose attempt was cut: it is due as before, with as many tries."""
        lane.last_failure = CUT
        waiting = lane.open.get(claim.delivery.id)
        if waiting is not None:
            waiting.next_attempt_at = self._clock.now()
        try:
            self._outbox.give_back(claim)
        finally:
            self.defer_open(lane, claim.delivery.id)

    def _tell(
        self, lane: Lane, claim: Claim, waiting: Open, decision: Decision, at: datetime
    ) -> None:
        attempt = waiting.last
        assert attempt is not None
        if claim.delivery.id not in lane.open:
            return  # the worker was stopped during the record, and has told
        wait = decision.next_attempt_at - at if decision.next_attempt_at else None
        if not attempt.is_success:
            waiting.span.attempt_failed(attempt, retry_in=wait)
        if decision.outcome is Outcome.RETRY:
            if wait is not None and (wait > self._hold or self._is_stopping()):
                self.defer_open(lane, claim.delivery.id)
            return
        if lane.open.pop(claim.delivery.id, None) is None:
            return
        waiting.span.finish(decision.outcome.value, last=attempt, attempts=attempt.number, at=at)
