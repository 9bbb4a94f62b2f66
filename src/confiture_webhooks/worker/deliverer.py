"""Claim in hand → send → record: the attempts of a worker, and what is told of them."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ..delivery import Attempt, Decision, Outcome, decide
from ..errors import CUT, TransportError
from ..transport import prepare
from .lane import Accepted, Ahead, Open

if TYPE_CHECKING:
    from ..outbox import Claim, Outbox
    from ..telemetry import DeliverySpan, Telemetry
    from ..transport import Request, Transport
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
        try:
            self._deliver(lane, claims, stale_at)
        finally:
            lane.ahead = None  # it holds headers and a body
            self._keep_accepted(lane)

    def _deliver(self, lane: Lane, claims: deque[Claim], stale_at: float) -> None:
        is_whole = len(claims) == lane.batch
        while claims and not self._is_stopping() and self._clock.monotonic() < stale_at:
            claim = claims.popleft()
            waiting = lane.open.get(claim.delivery.id)
            if waiting is None:
                waiting = Open(self._begin_span(claim), attempts=claim.attempts)
                lane.open[claim.delivery.id] = waiting
            attempt = self._attempt(lane, claim, waiting, claims[0] if claims else None)
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
            if attempt.is_success:
                waiting.span.accepted(waiting.ended)
                ended_at = attempt.started_at + attempt.duration
                lane.accepted.append(Accepted(claim, waiting, decision, ended_at))
            else:
                self._keep(lane, claim, waiting, decision, now)
            if len(lane.accepted) > 1:
                self._keep_accepted(lane)  # raises what went wrong while the answer was awaited
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

    def _attempt(
        self, lane: Lane, claim: Claim, waiting: Open, following: Claim | None
    ) -> Attempt | None:
        """Send it; ``None``: we cut the attempt ourselves, which says nothing of the receiver."""
        started_at, started = self._clock.now(), self._clock.monotonic()
        status_code, error_type, retry_after, ended = None, None, None, None
        request = self._request(lane, claim, started_at)
        with waiting.span.current():
            try:
                response = self._transport.send(
                    request,
                    timeout=lane.endpoint.timeout,
                    meanwhile=self._meanwhile(lane, following),
                )
                status_code, retry_after = response.status_code, response.retry_after
                ended = response.ended
            except TransportError as error:
                if error.error_type == CUT:
                    return None
                error_type = error.error_type
        waiting.ended = ended if ended is not None else self._clock.monotonic()
        return Attempt(
            number=claim.number,
            started_at=started_at,
            duration=timedelta(seconds=waiting.ended - started),
            status_code=status_code,
            error_type=error_type,
            retry_after=retry_after,
        )

    def _request(self, lane: Lane, claim: Claim, at: datetime) -> Request:
        """What to send *at*: the request made ahead, when it was signed in the same second."""
        ahead, lane.ahead = lane.ahead, None
        if ahead is None or ahead.claim is not claim:
            return self._prepared(lane, claim, at)
        is_of_now = int(ahead.at.timestamp()) == int(at.timestamp())
        return ahead.request if is_of_now else self._prepared(lane, claim, at)

    def _prepared(self, lane: Lane, claim: Claim, at: datetime) -> Request:
        return prepare(
            lane.endpoint,
            claim.delivery,
            attempt=claim.number,
            at=at,
            user_agent=self._user_agent,
        )

    def _meanwhile(self, lane: Lane, following: Claim | None) -> Callable[[], None] | None:
        """What there is to do while an answer is awaited."""
        if not lane.accepted and following is None:
            return None

        def use_the_wait() -> None:
            with suppress(Exception):  # tried again, with the answer in hand
                self._keep_accepted(lane)
            if following is None:
                return
            with suppress(Exception):  # tried again when it is its turn
                at = self._clock.now()
                lane.ahead = Ahead(following, at, self._prepared(lane, following, at))

        return use_the_wait

    def _keep_accepted(self, lane: Lane) -> None:
        """Record what was accepted. The next request has gone out before: a crash repeats both."""
        while lane.accepted:
            one = lane.accepted[0]
            self._keep(lane, one.claim, one.waiting, one.decision, one.at)
            lane.accepted.popleft()

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
