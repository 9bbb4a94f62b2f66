"""What becomes of deliveries that an operator made due: which go out, which wait, for what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..outbox import Summary
from ..run.summary import barred, barred_line, by_environment, elsewhere_line
from ..terminal import counted

if TYPE_CHECKING:
    from ..config import Settings
    from ..outbox import Outbox

Place = tuple[str, str | None]
"""An endpoint, and the environment it is told of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """By what they wait for, how many deliveries."""

    next_pass: int
    """Made by the next command that delivers."""
    barred: Mapping[str, tuple[int, str]]
    """By endpoint of this environment that gets nothing, how many and why."""
    elsewhere: Mapping[str | None, int]
    """By environment that is not this one, how many."""

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "due": self.next_pass,
            "barred": {name: why for name, (_, why) in self.barred.items()},
            "elsewhere": by_environment(self.elsewhere),
        }

    def lines(self) -> list[str]:
        """For people; nothing, where there is nothing."""
        due = f"{_deliveries(self.next_pass)} due now; confiture webhooks deliver makes "
        return [
            *([due + ("it" if self.next_pass == 1 else "them")] if self.next_pass else []),
            *(
                f"{_deliveries(count)} kept. {barred_line(name, why)}"
                for name, (count, why) in self.barred.items()
            ),
            *([elsewhere_line(self.elsewhere)] if self.elsewhere else []),
        ]


def prospect_of(settings: Settings, outbox: Outbox, deliveries: Counter[Place]) -> Prospect:
    """What becomes of *deliveries*, which are due."""
    mine = {name: n for (name, where), n in deliveries.items() if where == settings.environment}
    others: Counter[str | None] = Counter()
    for (_, where), count in deliveries.items():
        if where != settings.environment:
            others[where] += count
    why = barred(
        Summary(undelivered=mine),
        outbox.disabled(settings.environment),
        [endpoint.name for endpoint in settings.endpoints],
    )
    return Prospect(
        next_pass=sum(mine.values()) - sum(mine[name] for name in why),
        barred={name: (mine[name], reason) for name, reason in why.items()},
        elsewhere=dict(others),
    )


def _deliveries(count: int) -> str:
    return counted(count, "delivery", "deliveries")
