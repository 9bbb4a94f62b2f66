"""The worker: lanes for each endpoint, their threads, and when they wait, rest and end."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from ..errors import OutboxError
from .pace import LONGEST_REST, Pace
from .sender import Sender

LEASE_MARGIN = timedelta(seconds=30)
"""A lease outlasts the longest attempt by this."""
FRESH_FOR = LEASE_MARGIN - timedelta(seconds=5)
"""So long after a claim an attempt may begin that the lease outlasts; then the rest goes back."""
OUTBOX_REST = timedelta(seconds=1)
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
        self._changed = threading.Condition()
        self.paces = [Pace(endpoint) for endpoint in self.endpoints]
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
        with self._changed:
            for pace in self.paces:
                if not (runs and pace.runs.issuperset(runs)):
                    pace.should_look = True
                    if runs != (pace.widened_for,):
                        pace.widened_for = None
            self._changed.notify_all()

    def poll_every(self, poll: timedelta) -> None:
        """Look now, and from now on so often, for deliveries of other processes."""
        with self._changed:
            self.poll = poll
        self.wake()

    def drain(
        self,
        budget: timedelta,
        *,
        horizon: timedelta | None = None,
        show: Callable[[float], None] | None = None,
    ) -> bool:
        """Wait until nothing is due within *budget*, at most that long; whether all was done.

        With *horizon*, deliveries due later than that from now are not waited for. *show* is called
        now and then with the seconds left.
        """
        deadline = self.clock.monotonic() + budget.total_seconds()
        while True:
            with self._changed:
                left = timedelta(seconds=max(0.0, deadline - self.clock.monotonic()))
                until = self.clock.now() + (left if horizon is None else min(left, horizon))
                if not any(self._threads.values()):
                    return False  # no thread was to be had
                if not any(
                    pace.busy or pace.should_look or (pace.due_at and pace.due_at <= until)
                    for pace in self.paces
                ):
                    return True
                if not left:
                    return False
                step = left.total_seconds()
                self._changed.wait(step if show is None else min(step, SHOW_EVERY_S))
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
            for delivery_id in list(pace.open):
                self.close_open(pace, delivery_id)
        if self.passes is not None:
            self.passes.end()

    def _end(self, patience: timedelta, *, cuts: bool) -> None:
        """Have the lanes end, and wait for them."""
        with self._changed:
            self.stopping.set()
            self._changed.notify_all()
        if cuts:
            self.transport.abort()
        deadline = self.clock.monotonic() + patience.total_seconds()
        for thread in [one for lanes in self._threads.values() for one in list(lanes)]:
            if thread.is_alive():
                thread.join(max(0.0, deadline - self.clock.monotonic()))

    def _run(self, pace: Pace) -> None:
        while self._wait(pace):
            ended = pace.ended
            try:
                seen = self._work(pace)
                ended, due_at = seen or (pace.ended, self._next_due_at(pace))
                pace.faults = 0
            except OutboxError as error:
                self.telemetry.outbox_failed(str(error))
                due_at = self.clock.now() + min(OUTBOX_REST * 2**pace.faults, LONGEST_REST)
                pace.note_fault()
            # A bug of ours must cost this endpoint a rest, never the run.
            except Exception as error:  # noqa: BLE001
                self.telemetry.failed("worker", error)
                due_at = self.clock.now() + LONGEST_REST
                pace.note_fault()
            with self._changed:
                pace.busy -= 1
                if pace.busy:  # another lane may know of something that is due earlier
                    due_at = min((at for at in (pace.due_at, due_at) if at), default=None)
                elif ended != pace.ended and not pace.faults:  # one ended meanwhile: ask again
                    pace.should_look = True
                pace.due_at = due_at
                pace.ended += 1
                is_over = not any(one.busy or one.should_look for one in self.paces)
                self._changed.notify_all()
            if is_over and self.passes is not None:
                self.passes.end()

    def _wait(self, pace: Pace) -> bool:
        """Block until a lane of *pace* has something to do; ``False``: the worker is stopping."""
        with self._changed:
            while not self.stopping.is_set():
                now, clock = self.clock.now(), self.clock.monotonic()
                is_resting = pace.is_resting(now)
                # A broken outbox is not asked more often because others may have news for it.
                polls = self.poll is not None and not (is_resting or pace.faults)
                if polls and clock >= pace.polls_at:
                    pace.should_look, pace.widened_for = True, None
                if is_due := pace.due_at is not None and pace.due_at <= now:
                    pace.widened_for = None
                is_due |= pace.should_look and not is_resting
                has_turn = clock >= pace.next_start
                if is_due and has_turn and pace.busy < pace.width:
                    pace.should_look, pace.due_at = False, None
                    pace.busy += 1
                    if self.poll is not None:
                        pace.polls_at = clock + self.poll.total_seconds()
                    return True
                # Noted only once: two resting lanes would wake each other without end.
                if is_resting and (pace.should_look or pace.due_at != pace.rests_until):
                    pace.should_look = False
                    pace.due_at = pace.rests_until
                    self._changed.notify_all()
                waits = [] if is_due or not pace.due_at else [(pace.due_at - now).total_seconds()]
                waits += [pace.polls_at - clock] if polls and not is_due else []
                waits += [] if has_turn else [pace.next_start - clock]
                self._changed.wait(min(waits, default=None))
            return False

    def _work(self, pace: Pace) -> tuple[int, datetime | None] | None:
        """Deliver what is due: a claim's deliveries are of one run, in their order.

        If the last look at the outbox found nothing, how often lanes had ended before it, and when
        something is due.
        """
        while not self.stopping.is_set():
            ended = pace.ended
            # Another worker has made an attempt that was due so long ago.
            long_ago = self.clock.now() - LONGEST_REST
            for delivery_id, waiting in list(pace.open.items()):
                if waiting.next_attempt_at is not None and waiting.next_attempt_at < long_ago:
                    self.close_open(pace, delivery_id)
            stale_at = self.clock.monotonic() + FRESH_FOR.total_seconds()
            found = self.outbox.claim(
                pace.endpoint.name,
                environment=self.environment,
                now=self.clock.now(),
                lease=pace.endpoint.timeout + LEASE_MARGIN,
                limit=pace.limit,
                max_wait=pace.endpoint.retry.longest_wait,
            )
            claims = deque(found)
            if not claims:
                return ended, found.next_due_at
            pace.is_off = False  # the outbox gives nothing for an endpoint that is off
            run = claims[0].delivery.correlation_id
            pace.runs.add(run)
            if run != pace.widened_for:
                self._widen(pace, run)
            try:
                self.deliver(pace, claims, stale_at)
            finally:
                pace.runs.discard(run)  # what is released from here on is seen by the next look
                for claim in claims:
                    with suppress(OutboxError):  # its lease ends
                        self.outbox.give_back(claim)
            if pace.is_resting(self.clock.now()) or pace.busy > pace.width:
                break
        return None

    def _next_due_at(self, pace: Pace) -> datetime | None:
        """When to look again."""
        if self.stopping.is_set():
            return None
        now, endpoint = self.clock.now(), pace.endpoint
        if pace.is_resting(now):
            return pace.rests_until
        longest = endpoint.retry.longest_wait
        return self.outbox.next_due_at(endpoint.name, self.environment, now=now, max_wait=longest)

    def _widen(self, pace: Pace, run: str) -> None:
        """Others than *run* may be due, too: have another lane look."""
        with self._changed:
            if pace.busy >= pace.width:
                return
            pace.should_look, pace.widened_for = True, run
            if pace.busy == len(self._threads[pace.endpoint.name]):
                self._add_lane(pace)
            self._changed.notify_all()
