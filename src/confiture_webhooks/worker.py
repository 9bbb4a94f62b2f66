"""Claim → send → record. One lane, a thread, per endpoint, so that none delays another."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from .delivery import Attempt, Decision, Outcome, decide
from .errors import OutboxError, TransportError
from .transport import prepare

if TYPE_CHECKING:
    from .endpoint import Endpoint
    from .outbox import Claim, Outbox
    from .telemetry import DeliverySpan, Telemetry, WorkerPassSpan
    from .transport import Transport

LEASE_MARGIN = timedelta(seconds=30)
"""What a lease outlasts the longest attempt by."""
FAILING_AFTER = 5
"""So many failures in a row, and the endpoint gets a rest instead of the next delivery."""
LONGEST_REST = timedelta(seconds=30)
OUTBOX_REST = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Where the worker gets time and chance from."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic
    spread: Callable[[], float] = random.random


@dataclass(slots=True)
class _Open:
    """A delivery whose span stays open while its next attempt is near."""

    span: DeliverySpan
    attempts: int = 0
    last: Attempt | None = None
    next_attempt_at: datetime | None = None


@dataclass(slots=True)
class Lane:
    """One endpoint's part of the worker. Its fields are guarded by the worker's condition."""

    endpoint: Endpoint
    is_busy: bool = False
    is_poked: bool = True
    due_at: datetime | None = None
    """When there is something to do again; ``None``: nothing is waiting."""
    last_failure: str | None = None
    failures: int = 0
    """Failed attempts in a row."""
    rests_until: datetime | None = None
    open: dict[str, _Open] = field(default_factory=dict)


class Worker:
    """Delivers what is due until it is stopped; never raises into its caller.

    *hold* is how long a delivery's span may stay open for the next attempt; a longer
    wait ends it as ``deferred``. With *poll*, lanes also look for what other processes
    released; without, only when woken.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        outbox: Outbox,
        transport: Transport,
        telemetry: Telemetry,
        *,
        user_agent: str,
        hold: timedelta,
        poll: timedelta | None = None,
        pass_span: WorkerPassSpan | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._outbox = outbox
        self._transport = transport
        self._telemetry = telemetry
        self._user_agent = user_agent
        self._hold = hold
        self._poll = poll
        self._pass_span = pass_span
        self._clock = clock or Clock()
        self._changed = threading.Condition()
        self._is_stopping = False
        self.lanes = [Lane(endpoint) for endpoint in endpoints]
        self._threads = [
            threading.Thread(
                target=self._run, args=(lane,), name=f"webhooks-{lane.endpoint.name}", daemon=True
            )
            for lane in self.lanes
        ]

    def start(self) -> None:
        """Start the lanes."""
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Something was released: look now."""
        with self._changed:
            for lane in self.lanes:
                lane.is_poked = True
            self._changed.notify_all()

    def drain(self, budget: timedelta, *, horizon: timedelta | None = None) -> bool:
        """Wait until nothing is due within *budget*, at most that long; whether all was done.

        With *horizon*, what is due later than that from now is not waited for.
        """
        deadline = self._clock.monotonic() + budget.total_seconds()
        with self._changed:
            while True:
                left = timedelta(seconds=max(0.0, deadline - self._clock.monotonic()))
                ahead = left if horizon is None else min(left, horizon)
                if self._is_idle(self._clock.now() + ahead):
                    return True
                if not left:
                    return False
                self._changed.wait(left.total_seconds())

    def stop(self, grace: timedelta = timedelta(milliseconds=500)) -> None:
        """End the lanes, cutting attempts under way; what is open ends as ``deferred``."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        self._transport.abort()
        deadline = self._clock.monotonic() + grace.total_seconds()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - self._clock.monotonic()))
        for lane in self.lanes:
            for waiting in list(lane.open.values()):
                self._defer(waiting)
            lane.open.clear()

    def failures(self) -> Mapping[str, str]:
        """By endpoint, why its latest attempt failed; without those that last succeeded."""
        return {lane.endpoint.name: lane.last_failure for lane in self.lanes if lane.last_failure}

    def _is_idle(self, until: datetime) -> bool:
        return not any(
            lane.is_busy or lane.is_poked or (lane.due_at is not None and lane.due_at <= until)
            for lane in self.lanes
        )

    def _run(self, lane: Lane) -> None:
        while self._wait(lane):
            try:
                due_at = self._work(lane)
            except OutboxError as error:
                self._telemetry.outbox_failed(str(error))
                due_at = self._clock.now() + OUTBOX_REST
            # A bug of ours must cost this lane a rest, never the run.
            except Exception as error:  # noqa: BLE001
                self._telemetry.failed("worker", error)
                due_at = self._clock.now() + LONGEST_REST
            with self._changed:
                lane.is_busy = False
                lane.due_at = due_at
                self._changed.notify_all()

    def _wait(self, lane: Lane) -> bool:
        """Block until *lane* has something to do; ``False``: the worker is stopping."""
        with self._changed:
            while not self._is_stopping:
                now = self._clock.now()
                is_resting = lane.rests_until is not None and now < lane.rests_until
                if (lane.is_poked and not is_resting) or (lane.due_at and lane.due_at <= now):
                    lane.is_poked = False
                    lane.is_busy = True
                    return True
                # Told only once: two resting lanes would wake each other without end.
                if is_resting and (lane.is_poked or lane.due_at != lane.rests_until):
                    lane.is_poked = False
                    lane.due_at = lane.rests_until
                    self._changed.notify_all()
                waits = [lane.due_at - now] if lane.due_at else []
                waits += [self._poll] if self._poll else []
                is_woken = self._changed.wait(min(waits).total_seconds() if waits else None)
                lane.is_poked = lane.is_poked or bool(self._poll and not is_woken)
            return False

    def _work(self, lane: Lane) -> datetime | None:
        """Deliver what is due; when to look again."""
        name = lane.endpoint.name
        while not self._is_stopping:
            lease = lane.endpoint.timeout + LEASE_MARGIN
            claims = self._outbox.claim(name, now=self._clock.now(), lease=lease)
            if not claims:
                return self._outbox.next_due_at(name)
            for claim in claims:
                self._deliver(lane, claim)
            if lane.rests_until is not None and lane.rests_until > self._clock.now():
                return lane.rests_until
        return None

    def _deliver(self, lane: Lane, claim: Claim) -> None:
        waiting = lane.open.get(claim.delivery.id)
        if waiting is None:
            span = self._begin_span(claim)
            waiting = lane.open[claim.delivery.id] = _Open(span)
        attempt = self._attempt(lane.endpoint, claim, waiting)
        decision = decide(
            lane.endpoint.retry,
            attempt,
            tries=claim.tries + 1,
            now=self._clock.now(),
            spread=self._clock.spread(),
        )
        waiting.attempts, waiting.last = attempt.number, attempt
        waiting.next_attempt_at = decision.next_attempt_at
        if self._outbox.record(claim, attempt, decision):
            self._conclude(lane, claim, waiting, decision)
        else:
            # Our lease ran out under the attempt: whoever claimed it since tells the outcome.
            lane.open.pop(claim.delivery.id, None)
            self._defer(waiting)

    def _begin_span(self, claim: Claim) -> DeliverySpan:
        if self._pass_span is None:
            return self._telemetry.delivery(claim.delivery, remote=False)
        self._pass_span.claimed(1)
        return self._telemetry.delivery(claim.delivery, remote=True, pass_span=self._pass_span)

    def _attempt(self, endpoint: Endpoint, claim: Claim, waiting: _Open) -> Attempt:
        number = claim.attempts + 1
        started_at, started = self._clock.now(), self._clock.monotonic()
        status_code, error_type, retry_after = None, None, None
        request = prepare(
            endpoint, claim.delivery, attempt=number, at=started_at, user_agent=self._user_agent
        )
        with waiting.span.current():
            try:
                response = self._transport.send(request, timeout=endpoint.timeout)
                status_code, retry_after = response.status_code, response.retry_after
            except TransportError as error:
                error_type = error.error_type
        return Attempt(
            number=number,
            started_at=started_at,
            duration=timedelta(seconds=self._clock.monotonic() - started),
            status_code=status_code,
            error_type=error_type,
            retry_after=retry_after,
        )

    def _conclude(self, lane: Lane, claim: Claim, waiting: _Open, decision: Decision) -> None:
        attempt = waiting.last
        assert attempt is not None
        now = self._clock.now()
        wait = decision.next_attempt_at - now if decision.next_attempt_at else None
        lane.last_failure = attempt.failure
        lane.failures = 0 if attempt.is_success else lane.failures + 1
        if wait is not None and lane.failures >= FAILING_AFTER:
            lane.rests_until = now + min(wait, LONGEST_REST)
        if not attempt.is_success:
            waiting.span.attempt_failed(attempt, retry_in=wait)
        if decision.outcome is Outcome.RETRY:
            if wait is not None and (wait > self._hold or self._is_stopping):
                del lane.open[claim.delivery.id]
                self._defer(waiting)
            return
        del lane.open[claim.delivery.id]
        waiting.span.finish(
            decision.outcome.value, last=attempt, attempts=attempt.number, at=self._clock.now()
        )

    def _defer(self, waiting: _Open) -> None:
        waiting.span.finish(
            "deferred",
            last=waiting.last,
            attempts=waiting.attempts,
            at=self._clock.now(),
            next_attempt_at=waiting.next_attempt_at,
        )
