"""The worker: a lane for each endpoint, its thread, and when it waits, rests and ends."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ..delivery import Outcome
from ..errors import OutboxError
from .deliverer import Clock, Deliverer
from .lane import FAILING_AFTER, LONGEST_REST, Lane

if TYPE_CHECKING:
    from ..endpoint import Endpoint
    from ..outbox import Outbox
    from ..telemetry import Telemetry
    from ..transport import Transport
    from .passes import Passes

LEASE_MARGIN = timedelta(seconds=30)
"""What a lease outlasts the longest attempt by."""
FRESH_FOR = LEASE_MARGIN - timedelta(seconds=5)
"""So long after a claim an attempt may begin that the lease outlasts; then the rest goes back."""
OUTBOX_REST = timedelta(seconds=1)
TELL_EVERY_S = 0.25
FINISHING = timedelta(seconds=1)
"""How long an attempt may take to wind up beyond its endpoint's timeout."""


class Worker:
    """Delivers what is due until it is stopped; never raises into its caller.

    *hold* is how long a delivery's span may stay open for the next attempt; a longer
    wait ends it as ``deferred``. With *poll*, lanes also look for what other processes
    released; without, only when woken. With *passes* it belongs to no run: its deliveries
    are linked to the pass that makes them. What another *environment* recorded is not its.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        outbox: Outbox,
        transport: Transport,
        telemetry: Telemetry,
        *,
        environment: str | None,
        user_agent: str,
        hold: timedelta,
        poll: timedelta | None = None,
        passes: Passes | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._outbox = outbox
        self._transport = transport
        self._telemetry = telemetry
        self._environment = environment
        self._poll = poll
        self._passes = passes
        self._clock = clock or Clock()
        self._changed = threading.Condition()
        self._is_stopping = False
        self._deliverer = Deliverer(
            outbox,
            transport,
            telemetry,
            user_agent=user_agent,
            hold=hold,
            passes=passes,
            clock=self._clock,
            is_stopping=lambda: self._is_stopping,
        )
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

    def poll_every(self, poll: timedelta) -> None:
        """Look now, and from now on so often, for what other processes released."""
        with self._changed:
            self._poll = poll
        self.wake()

    def drain(
        self,
        budget: timedelta,
        *,
        horizon: timedelta | None = None,
        tell: Callable[[float], None] | None = None,
    ) -> bool:
        """Wait until nothing is due within *budget*, at most that long; whether all was done.

        With *horizon*, what is due later than that from now is not waited for. *tell* is called
        now and then with the seconds left.
        """
        deadline = self._clock.monotonic() + budget.total_seconds()
        while True:
            with self._changed:
                left = timedelta(seconds=max(0.0, deadline - self._clock.monotonic()))
                ahead = left if horizon is None else min(left, horizon)
                if self._is_idle(self._clock.now() + ahead):
                    return True
                if not left:
                    return False
                step = left.total_seconds()
                self._changed.wait(step if tell is None else min(step, TELL_EVERY_S))
            if tell is not None:
                tell(max(0.0, deadline - self._clock.monotonic()))

    def finish(self) -> None:
        """Stop, letting every attempt under way come to its end; nothing new is begun."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        longest = max((lane.endpoint.timeout for lane in self.lanes), default=timedelta())
        self._join(longest + FINISHING)
        self.stop()

    def stop(self, grace: timedelta = timedelta(milliseconds=500)) -> None:
        """End the lanes, cutting attempts under way; what is open ends as ``deferred``."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        self._transport.abort()
        self._join(grace)
        for lane in self.lanes:
            for delivery_id in list(lane.open):
                self._deliverer.defer_open(lane, delivery_id)
        if self._passes is not None:
            self._passes.end()

    def failures(self) -> Mapping[str, str]:
        """By endpoint, why its latest attempt failed, or CUT; without those that last succeeded."""
        return {lane.endpoint.name: lane.last_failure for lane in self.lanes if lane.last_failure}

    def failed(self) -> Mapping[str, str]:
        """By endpoint, why the latest attempt that failed did; without those that never failed."""
        return {lane.endpoint.name: lane.failed for lane in self.lanes if lane.failed}

    def left_alone(self) -> Sequence[str]:
        """The endpoints that failed last, and so often in a row that they get a rest."""
        return [lane.endpoint.name for lane in self.lanes if lane.failures >= FAILING_AFTER]

    def has_faults(self) -> bool:
        """Whether the outbox, or we, failed last and have not been well since."""
        return any(lane.faults for lane in self.lanes)

    def by_endpoint(self) -> Mapping[str, Counter[Outcome]]:
        """By endpoint, how many attempts led to what."""
        return {lane.endpoint.name: lane.outcomes for lane in self.lanes}

    def outcomes(self) -> Counter[Outcome]:
        """How many attempts led to what."""
        return sum((lane.outcomes for lane in self.lanes), Counter())

    def _join(self, patience: timedelta) -> None:
        deadline = self._clock.monotonic() + patience.total_seconds()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - self._clock.monotonic()))

    def _is_idle(self, until: datetime) -> bool:
        return not any(
            lane.is_busy or lane.is_poked or (lane.due_at is not None and lane.due_at <= until)
            for lane in self.lanes
        )

    def _run(self, lane: Lane) -> None:
        while self._wait(lane):
            try:
                due_at = self._work(lane)
                lane.faults = 0
            except OutboxError as error:
                self._telemetry.outbox_failed(str(error))
                due_at = self._clock.now() + min(OUTBOX_REST * 2**lane.faults, LONGEST_REST)
                lane.faults = min(lane.faults + 1, LONGEST_REST // OUTBOX_REST)
            # A bug of ours must cost this lane a rest, never the run.
            except Exception as error:  # noqa: BLE001
                self._telemetry.failed("worker", error)
                due_at = self._clock.now() + LONGEST_REST
                lane.faults += 1
            with self._changed:
                lane.is_busy = False
                lane.due_at = due_at
                is_over = not any(one.is_busy or one.is_poked for one in self.lanes)
                self._changed.notify_all()
            if is_over and self._passes is not None:
                self._passes.end()

    def _wait(self, lane: Lane) -> bool:
        """Block until *lane* has something to do; ``False``: the worker is stopping."""
        with self._changed:
            while not self._is_stopping:
                now, clock = self._clock.now(), self._clock.monotonic()
                is_resting = lane.is_resting(now)
                # A broken outbox is not asked more often because others may have news for it.
                polls = self._poll is not None and not (is_resting or lane.faults)
                if polls and clock >= lane.polls_at:
                    lane.is_poked = True
                if (lane.is_poked and not is_resting) or (lane.due_at and lane.due_at <= now):
                    lane.is_poked = False
                    lane.is_busy = True
                    if self._poll is not None:
                        lane.polls_at = clock + self._poll.total_seconds()
                    return True
                # Told only once: two resting lanes would wake each other without end.
                if is_resting and (lane.is_poked or lane.due_at != lane.rests_until):
                    lane.is_poked = False
                    lane.due_at = lane.rests_until
                    self._changed.notify_all()
                waits = [(lane.due_at - now).total_seconds()] if lane.due_at else []
                waits += [lane.polls_at - clock] if polls else []
                self._changed.wait(min(waits, default=None))
            return False

    def _work(self, lane: Lane) -> datetime | None:
        """Deliver what is due; when to look again."""
        name = lane.endpoint.name
        while not self._is_stopping:
            self._defer_taken_over(lane)
            lease = lane.endpoint.timeout + LEASE_MARGIN
            stale_at = self._clock.monotonic() + FRESH_FOR.total_seconds()
            claims = deque(
                self._outbox.claim(
                    name,
                    environment=self._environment,
                    now=self._clock.now(),
                    lease=lease,
                    limit=lane.batch,
                )
            )
            if not claims:
                break
            try:
                self._deliverer.deliver(lane, claims, stale_at)
            finally:
                for claim in claims:
                    with suppress(OutboxError):  # its lease ends
                        self._outbox.give_back(claim)
            if lane.is_resting(self._clock.now()):
                break
        if self._is_stopping:
            return None
        if lane.is_resting(self._clock.now()):
            return lane.rests_until
        return self._outbox.next_due_at(name, self._environment)

    def _defer_taken_over(self, lane: Lane) -> None:
        """End the spans whose next attempt was due so long ago that another worker made it."""
        long_ago = self._clock.now() - LONGEST_REST
        for delivery_id, waiting in list(lane.open.items()):
            if waiting.next_attempt_at is not None and waiting.next_attempt_at < long_ago:
                self._deliverer.defer_open(lane, delivery_id)
