"""One endpoint's part of a worker: what is due, what is open, and how well it goes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ..delivery import Attempt, Outcome

if TYPE_CHECKING:
    from ..endpoint import Endpoint
    from ..telemetry import DeliverySpan

FAILING_AFTER = 5
"""So many failures in a row, and the endpoint gets a rest instead of the next delivery."""
FIRST_REST = timedelta(seconds=2)
LONGEST_REST = timedelta(seconds=30)
LARGEST_BATCH = 64


@dataclass(slots=True)
class Open:
    """A delivery whose span stays open while its next attempt is near."""

    span: DeliverySpan
    attempts: int = 0
    last: Attempt | None = None
    next_attempt_at: datetime | None = None


@dataclass(slots=True)
class Lane:
    """One endpoint's part of the worker. What its thread shares is guarded by the worker."""

    endpoint: Endpoint
    is_busy: bool = False
    is_poked: bool = True
    due_at: datetime | None = None
    """When there is something to do again; ``None``: nothing is waiting."""
    polls_at: float = 0.0
    """When to look for what other processes released, by the monotonic clock."""
    batch: int = 1
    """How many deliveries to claim at once: more while all goes well, one after a failure."""
    last_failure: str | None = None
    failed: str | None = None
    """Why an attempt failed, the latest that did."""
    failures: int = 0
    """Failed attempts in a row."""
    faults: int = 0
    """Faults of the outbox in a row."""
    is_gone: bool = False
    """The endpoint answered 410: it is off from then on."""
    rests_until: datetime | None = None
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    open: dict[str, Open] = field(default_factory=dict)

    def is_resting(self, now: datetime) -> bool:
        """Whether the endpoint failed so often that it is left alone for a while.

        A rest that is longer than there are is one of before the clock was set back: it is over.
        """
        return self.rests_until is not None and now < self.rests_until <= now + LONGEST_REST

    def note(self, attempt: Attempt, outcome: Outcome, now: datetime) -> None:
        """*attempt* led to *outcome*: how many to claim next, and whether to rest."""
        self.outcomes[outcome] += 1
        self.last_failure = attempt.failure
        self.is_gone = outcome is Outcome.GONE
        if attempt.is_success:
            self.failures = 0
            return
        self.failed = attempt.failure
        self.failures += 1
        self.batch = 1
        if outcome is not Outcome.GONE and self.failures >= FAILING_AFTER:
            self.rests_until = now + rest(self.failures)

    def note_whole_batch(self) -> None:
        """All that was claimed at once was accepted: claim more at once."""
        self.batch = min(2 * self.batch, LARGEST_BATCH)


def rest(failures: int) -> timedelta:
    """How long an endpoint is left alone after so many failures in a row."""
    doublings = min(failures - FAILING_AFTER, LONGEST_REST // FIRST_REST)
    return min(LONGEST_REST, FIRST_REST * (1 << doublings))
