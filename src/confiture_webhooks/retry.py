"""Again? And when? A ``RetryPolicy`` answers from its arguments alone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

DEFAULT_SCHEDULE = tuple(timedelta(seconds=s) for s in (2, 4, 300, 1800, 7200, 18000, 36000))
DEFAULT_JITTER = 0.2
RETRY_AFTER_FLOOR = timedelta(hours=1)
"""A receiver's ``Retry-After`` may ask for at least this much, however short the schedule."""

CLOCK_SKEW = timedelta(minutes=5)
"""The clocks of two workers may differ by so much, and neither is wrong."""
SHORTEST_REST = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """The waits between attempts. ``max_attempts`` includes the first attempt."""

    schedule: tuple[timedelta, ...] = DEFAULT_SCHEDULE
    jitter: float = DEFAULT_JITTER
    """From 0 to 1: each wait is spread evenly over ± this share of itself."""

    @property
    def max_attempts(self) -> int:
        """How many attempts are made before a delivery is a dead letter."""
        return len(self.schedule) + 1

    @property
    def longest_hint(self) -> timedelta:
        """The longest wait that a ``Retry-After`` is given."""
        return max(*self.schedule, RETRY_AFTER_FLOOR, timedelta())

    @property
    def longest_wait(self) -> timedelta:
        """No wait is longer: an instant further ahead was written by a clock that was wrong."""
        return self.longest_hint * (1 + self.jitter) + CLOCK_SKEW

    def backoff(
        self, attempt: int, *, spread: float = 0.5, retry_after: timedelta | None = None
    ) -> timedelta | None:
        """The wait after failed attempt number *attempt* (from 1); ``None``: no more.

        *spread* (0 to 1) picks the point within the jitter, 0.5 its middle. A
        receiver's *retry_after* can only make the wait longer, up to the longest wait
        of the schedule or an hour, whichever is more. Raises ValueError below 1.
        """
        if attempt < 1:
            raise ValueError("attempts are counted from 1")
        if attempt > len(self.schedule):
            return None
        planned = self.schedule[attempt - 1] * (1 + self.jitter * (2 * spread - 1))
        return max(planned, min(retry_after or planned, self.longest_hint))

    def rest(self, retry_after: timedelta) -> timedelta:
        """How long an endpoint rests that refused a request for now, and asked for a wait."""
        return min(max(retry_after, SHORTEST_REST), self.longest_hint)
