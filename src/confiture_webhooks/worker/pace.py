"""One endpoint's pace: how many lanes, when it rests, how much is claimed at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ..delivery import Attempt, Decision, Outcome

if TYPE_CHECKING:
    from ..endpoint import Endpoint
    from ..telemetry.deliveries import DeliverySpan

FAILING_AFTER = 5
"""So many failures in a row, and the endpoint gets a rest instead of the next delivery."""
FIRST_REST = timedelta(seconds=2)
LONGEST_REST = timedelta(seconds=30)
LARGEST_BATCH = 64
OUTBOX_REST = timedelta(seconds=1)
NEVER = float("inf")
RATED_AHEAD = timedelta(seconds=10)
"""With a rate, no more is claimed than is sent in this time: a lease lasts not much longer.

A rate whose turns are further apart is a rest after each attempt: nothing waits for its turn.
"""


@dataclass(slots=True)
class OpenDelivery:
    """A delivery whose span stays open while its next attempt is near."""

    span: DeliverySpan
    attempts: int = 0
    last: Attempt | None = None
    next_attempt_at: datetime | None = None


@dataclass(slots=True)
class Pace:
    """The state that the lanes of one endpoint share.

    A thread that reads or changes it holds the worker's lock, and does nothing else meanwhile.
    """

    endpoint: Endpoint
    due: float = 0.0
    """When a lane has to look at the outbox, by the monotonic clock."""
    looks: int = 0
    """Looks begun, and news: with either, what an earlier look will answer is out of date."""
    busy: int = 0
    """Lanes that look or send."""
    runs: set[str] = field(default_factory=set)
    """Those whose deliveries lanes send: these lanes look for more of them before they end."""
    batch: int = 1
    """How many deliveries to claim at once: more while all goes well, one after a failure."""
    last_failure: str | None = None
    """Why the latest attempt failed, or ``CUT``; ``None``: it succeeded."""
    failed: str | None = None
    """Why an attempt failed, the latest that did."""
    failures: int = 0
    """Failed attempts in a row."""
    unrecorded: set[str] = field(default_factory=set)
    """The deliveries that we claimed, and whose end the outbox could not record."""
    faults: int = 0
    """Faults of the outbox, or ours, in a row."""
    off: int = 0
    """Not 0: the endpoint answered 410, or was switched off, during the look of this number.

    Nothing is sent until a later look claims: the outbox gives nothing while it is off.
    """
    rests_until: datetime | None = None
    longest_rest: timedelta = timedelta()
    """How long that rest was when it began: one that seems longer is of another clock."""
    next_start: float = 0.0
    """When the rate allows the next request, by the monotonic clock."""
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    open: dict[str, OpenDelivery] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """How many lanes may be busy: one where the endpoint failed last, and finds out."""
        return 1 if self.failures else self._in_time(self.endpoint.concurrency)

    @property
    def is_slow(self) -> bool:
        """Whether its rate is a rest for every worker, from one request to the next."""
        return self.endpoint.rate is not None and self.endpoint.rate > RATED_AHEAD

    @property
    def limit(self) -> int:
        return self._in_time(self.batch)

    def _in_time(self, most: int) -> int:
        rate = self.endpoint.rate
        return max(1, min(most, RATED_AHEAD // rate)) if rate else most

    def due_in(self, now: datetime, clock: float) -> float:
        """Seconds until a lane has to look, not before a rest is over; at most 0: now."""
        until = self.rests_until if self.is_resting(now) else None
        return max(self.due - clock, (until - now).total_seconds() if until else 0.0)

    def news(self, due: float = 0.0) -> None:
        """Something may be due then that a look under way does not see."""
        self.looks += 1
        self.due = min(self.due, due)

    def begin_look(self) -> int:
        """The number of a look that begins."""
        self.looks += 1
        return self.looks

    def end_look(self, look: int, run: str | None, due: float, clock: float) -> bool:
        """It claimed deliveries of *run*, if any; what there is beside them is *due* then.

        Whether another lane is needed sooner than it expects: this one has something to send.
        """
        if run is not None:
            self.runs.add(run)
            if look > self.off:  # the outbox gives nothing for an endpoint that is off
                self.off = 0
        if look != self.looks:
            return False
        before, self.due = self.due, due
        return run is not None and (due <= clock or due < before)

    def is_resting(self, now: datetime) -> bool:
        """Whether the endpoint is left alone for a while.

        A rest that is longer than there are is one of before the clock was set back: it is over.
        """
        until = self.rests_until
        return until is not None and now < until <= now + self.longest_rest

    def turn(self, clock: float) -> float:
        """Take the next turn that the rate allows; the seconds until then."""
        if self.endpoint.rate is None or self.is_slow:
            return 0.0
        start = max(clock, self.next_start)
        self.next_start = start + self.endpoint.rate.total_seconds()
        return start - clock

    def note(
        self, attempt: Attempt, decision: Decision, now: datetime, *, is_ours: bool = False
    ) -> datetime | None:
        """*attempt* led to *decision*: how many to claim next, and whether to rest.

        Until when every worker has to leave the endpoint alone, as its receiver or its rate asks.
        One that *is_ours*, a record that cannot be sent, costs the endpoint nothing.
        """
        self.last_failure = attempt.failure
        self.failed = attempt.failure or self.failed
        if is_ours:
            return None
        rests = [decision.rests_until] if decision.rests_until else []
        if self.endpoint.rate and self.is_slow:
            # Not from when it started: the clock may have been set meanwhile.
            rests.append(now - attempt.duration + self.endpoint.rate)
        asked = max(rests, default=None)
        if attempt.is_success:
            self.failures = 0
        else:
            if decision.outcome is Outcome.GONE:
                self.switch_off()
            self.failures += 1
            self.batch = 1
            if not self.off and self.failures >= FAILING_AFTER:
                rests.append(now + doubled(FIRST_REST, self.failures - FAILING_AFTER))
        if rests:
            self.rest(max(rests), now)
        return asked

    def rest(self, until: datetime, now: datetime) -> None:
        """Leave the endpoint alone until the latest *until*."""
        known = self.rests_until if self.is_resting(now) else None
        if until > (known or now):
            self.rests_until, self.longest_rest = until, until - now

    def switch_off(self) -> None:
        """Send nothing more of what is claimed, or what a look under way claims."""
        self.news()
        self.off = self.looks

    def note_fault(self, clock: float, *, is_ours: bool) -> None:
        """The outbox failed, or we did: ask again, the later the more faults came in a row."""
        wait = LONGEST_REST if is_ours else doubled(OUTBOX_REST, self.faults)
        self.faults += 1
        self.news(clock + wait.total_seconds())


def doubled(first: timedelta, times: int) -> timedelta:
    """A rest of *first* that was doubled so often, up to the longest."""
    return min(LONGEST_REST, first * (1 << min(times, LONGEST_REST // first)))
