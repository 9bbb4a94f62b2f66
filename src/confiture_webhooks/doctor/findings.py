"""What an outbox holds that waits for an operator: for ``status`` and ``doctor``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ..delivery import State
from ..outbox import Summary, Unreadable
from ..outlook import LATE, Standing, Wait, elsewhere, outlook

if TYPE_CHECKING:
    from ..config import Settings
    from ..outbox import Outbox

UNSETTLED_FOR = timedelta(days=1)
"""A run that has ended is settled by the next one; after so long, by no run."""
FUTURE = timedelta(minutes=1)
"""A delivery made so far in the future was made by a clock that was wrong."""
MOST_NAMED = 20
SEARCHED = 1000
"""Among so many of the newest, unreadable records are looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """An outbox, as far as one environment is concerned."""

    now: datetime
    summary: Summary
    waits: list[Wait]
    """The endpoints whose deliveries wait, and why."""
    standing: Mapping[str, Standing]
    others: Mapping[str | None, int]
    """By other environment, how many deliveries wait."""
    unserved: Mapping[str | None, tuple[int, datetime]] = field(default_factory=dict)
    """By other environment, how many deliveries are due without a worker, and since when."""
    future: list[str] = field(default_factory=list)
    """The ids of deliveries made in the future."""
    unreadable: list[str] = field(default_factory=list)
    """The ids of undelivered records that this version cannot read."""
    old_intents: int = 0

    @property
    def in_vain(self) -> list[Wait]:
        """Those that only an operator can change."""
        return [wait for wait in self.waits if wait.is_in_vain]

    @property
    def dead(self) -> int:
        """Dead letters, and deliveries that were answered with 410."""
        return sum(self.summary.counts.get(one, 0) for one in (State.DEAD_LETTER, State.GONE))

    @property
    def is_well(self) -> bool:
        """Whether nothing waits for an operator."""
        found = (self.dead, self.in_vain, self.unserved, self.unreadable, self.old_intents)
        return not any(found)

    @property
    def off(self) -> dict[str, datetime]:
        """Since when each endpoint that is off is."""
        return off_of(self.standing)


def examine(outbox: Outbox, settings: Settings, now: datetime) -> Findings:
    """Look at everything once."""
    environment = settings.environment or None
    summaries = {name or None: one for name, one in outbox.summaries().items()}
    summary = summaries.get(environment, Summary())
    standing = standing_of(outbox, environment)
    undelivered = {name: sum(one.undelivered.values()) for name, one in summaries.items()}
    intents = [one for one in outbox.intents() if (one.environment or None) == environment]
    return Findings(
        now=now,
        summary=summary,
        waits=outlook(
            {**dict.fromkeys(off_of(standing), 0), **summary.undelivered},
            configured=[endpoint.name for endpoint in settings.recorded],
            faulty=[endpoint.name for endpoint in settings.faulty],
            standing=standing,
            due={name: outbox.next_due_at(name, environment) for name in summary.undelivered},
            now=now,
        ),
        standing=standing,
        others=elsewhere(undelivered, environment),
        unserved={
            name: late
            for name, one in summaries.items()
            if name != environment and (late := _late(outbox, name, one, now))
        },
        future=_from_the_future(outbox, now),
        unreadable=_unreadable(outbox, environment),
        old_intents=sum(1 for intent in intents if intent.staged_at < now - UNSETTLED_FOR),
    )


def standing_of(outbox: Outbox, environment: str | None) -> Mapping[str, Standing]:
    """Which endpoints are off or rest in *environment*."""
    return dict(outbox.standing(environment))


def off_of(standing: Mapping[str, Standing]) -> dict[str, datetime]:
    """Since when each endpoint that is off is."""
    return {name: since for name, (since, _) in standing.items() if since is not None}


def _late(
    outbox: Outbox, environment: str | None, summary: Summary, now: datetime
) -> tuple[int, datetime] | None:
    """How many deliveries of another environment are due without a worker, since when."""
    off = off_of(standing_of(outbox, environment))
    due = {
        name: at
        for name in summary.undelivered
        if name not in off
        and (at := outbox.next_due_at(name, environment)) is not None
        and at < now - LATE
    }
    if not due:
        return None
    return sum(summary.undelivered[name] for name in due), min(due.values())


def _unreadable(outbox: Outbox, environment: str | None) -> list[str]:
    return [
        *(
            row.delivery.id
            for state in (State.PENDING, State.DEAD_LETTER)
            for row in outbox.deliveries(state=state, environment=environment, limit=SEARCHED)
            if isinstance(row.delivery, Unreadable)
        ),
        *(
            one.event_id
            for one in outbox.unreadable_intents()
            if (one.environment or None) == environment
        ),
    ]


def _from_the_future(outbox: Outbox, now: datetime) -> list[str]:
    newest = outbox.deliveries(since=now + FUTURE, limit=MOST_NAMED)
    return [row.delivery.id for row in newest if row.delivery.created_at > now + FUTURE]
