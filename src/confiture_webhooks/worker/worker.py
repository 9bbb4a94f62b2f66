"""The worker: lanes for each endpoint, their threads, and when they wait, rest and end.

A lane waits until its endpoint is due. It looks at the outbox, claims deliveries of one run and
sends them, and looks again, until a look finds nothing. Each look says when something else is due:
where that is sooner than other lanes expect, one of them is roused.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from ..delivery import decide
from ..errors import OutboxError
from ..outbox import Claim
from ..outbox.values import Batch
from .pace import LARGEST_BATCH, LONGEST_REST, NEVER, Pace
from .sender import Sender

LEASE_MARGIN = timedelta(seconds=30)
"""A lease outlasts the longest attempt by this."""
FRESH_FOR = LEASE_MARGIN - timedelta(seconds=5)
"""So long after a claim an attempt may begin that the lease outlasts; then the rest goes back."""
LONGEST_NAP_S = 60.0
"""A lane looks at the clock so often: while a machine sleeps, the monotonic one stands still."""
AGAIN_S = 0.1
"""So long after a look in vain the next one is made, whatever seemed to be due."""
SHOW_EVERY_S = 0.25
FINISHING = timedelta(seconds=1)
"""How long an attempt may take to wind up beyond its endpoint's timeout."""


@dataclass(eq=False, repr=False)
class Worker(Sender):
    """Delivers what is due until it is stopped; never raises into its caller.

    An endpoint has up to ``concurrency`` lanes, a thread each: one claim is one run's, so
    deliveries of one run keep their order. *hold* is how long a delivery's span may stay open for
    the next attempt; a longer wait ends it as ``deferred``. With *poll*, lanes also look for
    deliveries of other processes; without, only when woken. With *passes* it belongs to no run: its
    deliveries are linked to the pass that makes them. Deliveries of another *environment* are not
    sent.
    """

    def __post_init__(self) -> None:
        self.paces = [Pace(endpoint) for endpoint in self.endpoints]
        self._idle = {one.name: threading.Condition(self.lock) for one in self.endpoints}
        """Where lanes wait until their endpoint is due."""
        self._ended = threading.Condition(self.lock)
        """Where drains wait until a lane has nothing more to do."""
        self._threads: defaultdict[str, list[threading.Thread]] = defaultdict(list)

    def start(self) -> None:
        """Start a lane for each endpoint; the others start when there is work for them."""
        for pace in self.paces:
            self._add_lane(pace)

    def _add_lane(self, pace: Pace) -> None:
        lanes = self._threads[pace.endpoint.name]
        if len(lanes) >= pace.endpoint.concurrency or self.stopping.is_set():
            return
        name = f"webhooks-{pace.endpoint.name}-{len(lanes) + 1}"
        thread = threading.Thread(target=self._run, args=(pace,), name=name, daemon=True)
        lanes.append(thread)
        try:
            thread.start()
        except RuntimeError:  # no thread to be had: the lanes there are do it
            lanes.remove(thread)

    def wake(self, *runs: str) -> None:
        """Something was released, all of it of *runs* if there are any: look now.

        A lane that sends deliveries of these looks again in any case.
        """
        with self.lock:
            for pace in self.paces:
                if not (runs and pace.runs.issuperset(runs)):
                    pace.news()
                    self._rouse(pace)

    def poll_every(self, poll: timedelta) -> None:
        """Look now, and from now on so often, for deliveries of other processes."""
        with self.lock:
            self.poll = poll
            self.wake()

    def snapshot(self) -> list[Pace]:
        """A copy of each endpoint's state, for whoever reports it."""
        with self.lock:
            return [replace(pace, outcomes=pace.outcomes.copy()) for pace in self.paces]

    def drain(
        self,
        budget: timedelta,
        *,
        horizon: timedelta | None = None,
        show: Callable[[float], None] | None = None,
    ) -> bool:
        """Wait until nothing is due within *budget*, at most that long; whether all was done.

        With *horizon*, deliveries due later than that from now are not waited for. *show* is called
        now and then with the seconds left. A poll that is due within *budget* counts as work.
        """
        deadline = self.clock.monotonic() + budget.total_seconds()
        while True:
            with self.lock:
                now, clock = self.clock.now(), self.clock.monotonic()
                left = max(0.0, deadline - clock)
                until = left if horizon is None else min(left, horizon.total_seconds())
                if not any(self._threads.values()):
                    return False  # no thread was to be had
                if not any(pace.busy or pace.due_in(now, clock) <= until for pace in self.paces):
                    return True
                if not left:
                    return False
                self._ended.wait(left if show is None else min(left, SHOW_EVERY_S))
            if show is not None:
                show(max(0.0, deadline - self.clock.monotonic()))

    def finish(self, within: timedelta = timedelta.max) -> None:
        """Stop, letting attempts under way come to their end *within*; nothing new is begun."""
        longest = max((pace.endpoint.timeout for pace in self.paces), default=timedelta())
        self._end(min(longest + FINISHING, within), cuts=False)
        self.stop()

    def stop(self, grace: timedelta = timedelta(milliseconds=500)) -> None:
        """End the lanes, cutting attempts under way; what is open ends as ``deferred``."""
        self._end(grace, cuts=True)
        for pace in self.paces:
            self._close_all(pace)
        if self.passes is not None:
            self.passes.end()

    def _end(self, patience: timedelta, *, cuts: bool) -> None:
        with self.lock:
            self.stopping.set()
            for idle in (self._ended, *self._idle.values()):
                idle.notify_all()
        if cuts:
            self.transport.abort()
        deadline = self.clock.monotonic() + patience.total_seconds()
        for thread in [one for lanes in self._threads.values() for one in list(lanes)]:
            if thread.is_alive():
                thread.join(max(0.0, deadline - self.clock.monotonic()))

    def _run(self, pace: Pace) -> None:
        while self._wait(pace):
            is_ours = None
            try:
                self._work(pace)
            except OutboxError as error:
                self.telemetry.outbox_failed(str(error))
                is_ours = False
            # A bug of ours must cost this endpoint a rest, never the run.
            except Exception as error:  # noqa: BLE001
                self.telemetry.failed("worker", error)
                is_ours = True
            with self.lock:
                now, clock = self.clock.now(), self.clock.monotonic()
                pace.busy -= 1
                if is_ours is None:
                    pace.faults = 0
                else:
                    pace.note_fault(clock, is_ours=is_ours)
                is_over = not any(one.busy or one.due_in(now, clock) <= 0 for one in self.paces)
                self._ended.notify_all()
            if is_over and self.passes is not None:
                self.passes.end()

    def _wait(self, pace: Pace) -> bool:
        """Block until a lane of *pace* has something to do; ``False``: the worker is stopping."""
        with self.lock:
            while not self.stopping.is_set():
                clock = self.clock.monotonic()
                wait = max(pace.due_in(self.clock.now(), clock), pace.next_start - clock)
                if pace.busy >= pace.width:
                    wait = NEVER
                if wait <= 0:
                    pace.due = NEVER
                    pace.busy += 1
                    return True
                nap = None if wait == NEVER else min(wait, LONGEST_NAP_S)
                self._idle[pace.endpoint.name].wait(nap)
            return False

    def _work(self, pace: Pace) -> None:
        """Deliver what is due: a claim's deliveries are of one run, in their order."""
        while not self.stopping.is_set():
            # Another worker has made an attempt that was due so long ago.
            self._close_all(pace, self.clock.now() - LONGEST_REST)
            with self.lock:
                look, limit = pace.begin_look(), pace.limit
            stale_at = self.clock.monotonic() + FRESH_FOR.total_seconds()
            found = self.outbox.claim(
                pace.endpoint.name,
                environment=self.environment,
                now=self.clock.now(),
                lease=pace.endpoint.timeout + LEASE_MARGIN,
                limit=limit,
                max_wait=pace.endpoint.retry.longest_wait,
                rest=pace.endpoint.rate if pace.is_slow else None,
            )
            run = found[0].delivery.correlation_id if found else None
            self._end_look(pace, look, found, run)
            if run is None:
                return
            claims = deque(found)
            try:
                self.deliver(pace, claims, stale_at)
            finally:
                with self.lock:
                    pace.runs.discard(run)  # what is released from here on the next look sees
                for claim in claims:
                    with suppress(OutboxError):  # its lease ends
                        self.give_back(pace, claim)
            with self.lock:
                if pace.is_resting(self.clock.now()) or pace.busy > pace.width:
                    pace.news()  # there may be more
                    return

    def deliver(self, pace: Pace, claims: deque[Claim], stale_at: float) -> None:
        """Make one attempt for each of *claims*, from the front; the rest stays in it.

        It ends early when the worker stops, the endpoint needs a rest or is off, and at
        *stale_at* (monotonic): later attempts could outlast the lease.
        """
        with self.lock:
            is_whole = len(claims) == pace.limit
        while claims and self._may_begin(pace, stale_at):
            claim = claims.popleft()
            waiting = self._opened(pace, claim)
            attempt, is_ours = self._attempt(pace, claim, waiting)
            if attempt is None:
                self._give_up_attempt(pace, claim, waiting)
                return
            now = self.clock.now()
            retry, spread = pace.endpoint.retry, self.clock.spread()
            decision = decide(retry, attempt, tries=claim.tries + 1, now=now, spread=spread)
            with self.lock:
                waiting.attempts, waiting.last = attempt.number, attempt
                waiting.next_attempt_at = decision.next_attempt_at
                width = pace.width
                rests_until = pace.note(attempt, decision, now, is_ours=is_ours)
                if pace.width > width:
                    self._rouse(pace)  # what is due beside this run waited for the one lane
            self._record_and_report(pace, claim, waiting, decision, rests_until, now)
            is_whole = is_whole and attempt.is_success
        if is_whole and not claims:  # all was accepted: claim more at once
            with self.lock:
                pace.batch = min(2 * pace.batch, LARGEST_BATCH)

    def _may_begin(self, pace: Pace, stale_at: float) -> bool:
        """Wait for the endpoint's rate; whether an attempt may begin then."""
        with self.lock:
            if pace.off or pace.is_resting(self.clock.now()):
                return False
            wait = pace.turn(self.clock.monotonic())
        if self.clock.monotonic() + wait >= stale_at:
            return False
        if wait > 0:
            self.stopping.wait(wait)
        with self.lock:  # another lane may have noted a rest meanwhile
            is_closed = pace.off or pace.is_resting(self.clock.now())
        return not (is_closed or self.stopping.is_set())

    def _end_look(self, pace: Pace, look: int, found: Batch, run: str | None) -> None:
        """Take over what a look saw, and have another lane look for what is due beside it."""
        with self.lock:
            clock, at = self.clock.monotonic(), found.next_due_at
            due = NEVER if at is None else clock + (at - self.clock.now()).total_seconds()
            if run is None:  # another one has locked what is due, or it is damaged
                due = max(due, clock + AGAIN_S)
            if self.poll is not None:
                due = min(due, clock + self.poll.total_seconds())
            if pace.end_look(look, run, due, clock):
                self._rouse(pace)

    def _close_all(self, pace: Pace, before: datetime | None = None) -> None:
        """End the spans of deliveries; with *before*, of those whose next attempt was due then."""
        with self.lock:
            waiting = [(key, one.next_attempt_at) for key, one in pace.open.items()]
        for delivery_id, at in waiting:
            if before is None or (at is not None and at < before):
                self.close_open(pace, delivery_id)

    def _rouse(self, pace: Pace) -> None:
        """Have one lane more look when it is due; it is started if all are busy."""
        if pace.busy < pace.width:
            if pace.busy == len(self._threads[pace.endpoint.name]):
                self._add_lane(pace)
            self._idle[pace.endpoint.name].notify()
