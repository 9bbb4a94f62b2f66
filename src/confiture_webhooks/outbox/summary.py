"""An outbox at a glance, by environment: one in use, and one that no run uses any more."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from ..delivery import State
from ..outlook import elsewhere
from .rows import at_best, intent, shown, state_of
from .schema import Found
from .values import Intent

UNSETTLED_FOR = timedelta(days=1)
"""A run that has ended is settled by the next one; after so long, by no run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The outbox at a glance, for metrics and for the line a run ends with."""

    counts: dict[State, int] = field(default_factory=Counter)
    undelivered: dict[str, int] = field(default_factory=Counter)
    """Pending and in-flight deliveries by endpoint name."""
    oldest: dict[str, datetime] = field(default_factory=dict)
    """By endpoint name, when the oldest of those was made."""

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def waiting(self) -> int:
        """How many are undelivered."""
        return sum(self.undelivered.values())

    @property
    def oldest_at(self) -> datetime | None:
        """When the oldest undelivered delivery was made."""
        return min(self.oldest.values(), default=None)


class LeftBehind(NamedTuple):
    """How much an outbox that is not used any more holds of one environment."""

    waiting: int
    dead_letter: int
    gone: int
    unsettled: int
    """Killed runs whose end was not reported."""
    begun: int
    """Those that began less than ``UNSETTLED_FOR`` ago: each may be under way."""


def summaries(undelivered: Found, ended: Found) -> dict[str | None, Summary]:
    """By environment, from the rows of the two queries."""
    sums: defaultdict[str | None, Summary] = defaultdict(Summary)
    for row in (*undelivered, *ended):
        sums[shown(row["environment"]) or None].counts[state_of(row)] += row["count"]
    for row in undelivered:
        one = sums[shown(row["environment"]) or None]
        name = shown(row["endpoint"])
        one.undelivered[name] += row["count"]
        if made_at := at_best(row["oldest_at"]):
            one.oldest[name] = min(made_at, one.oldest.get(name, made_at))
    return dict(sums)


def waiting_elsewhere(
    by_environment: Mapping[str | None, Summary], environment: str | None
) -> dict[str | None, int]:
    """How many deliveries wait in each environment that is not *environment*."""
    return elsewhere({name: one.waiting for name, one in by_environment.items()}, environment)


LEFT_BEHIND_QUERIES = ("undelivered", "ended", "intents")


def left_behind(undelivered: Found, ended: Found, intents: Found) -> dict[str | None, LeftBehind]:
    """By environment that has something, from the rows of the queries ``LEFT_BEHIND_QUERIES``."""
    sums, now = summaries(undelivered, ended), datetime.now(UTC)
    killed: Counter[str | None] = Counter()
    begun: Counter[str | None] = Counter()
    for row in intents:
        one = intent(row)
        is_new = isinstance(one, Intent) and one.staged_at > now - UNSETTLED_FOR
        (begun if is_new else killed)[shown(row["environment"]) or None] += 1
    found = {}
    for name in sums | killed | begun:
        of = sums.get(name, Summary())
        dead, gone = (of.counts.get(state, 0) for state in (State.DEAD_LETTER, State.GONE))
        found[name] = LeftBehind(of.waiting, dead, gone, killed[name], begun[name])
    return {name: one for name, one in found.items() if any(one)}
