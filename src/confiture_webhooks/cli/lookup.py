"""A delivery by what people have: its id, its event's, its trace's, or the beginning of one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..event import rfc3339
from ..outlook import shown_environment

if TYPE_CHECKING:
    from ..delivery import Delivery
    from ..outbox import Outbox, Row

SEARCHED = 10_000
SHORTEST = 8
"""An acting command takes a beginning with so many characters after ``dlv_`` or ``evt_``."""
MOST_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What an id names."""

    rows: Sequence[Row]
    ids: Collection[str]
    """The whole ids that begin so; several: the beginning is ambiguous."""

    @property
    def is_ambiguous(self) -> bool:
        """Whether more than one delivery, event or trace begins so."""
        return len(self.ids) > 1

    def candidates(self) -> list[str]:
        """A line for each delivery that may be meant."""
        lines = [candidate(row) for row in self.rows[:MOST_SHOWN]]
        left = len(self.rows) - len(lines)
        return [*lines, f"and {left} more"] if left > 0 else lines


def find(outbox: Outbox, given: str) -> Found:
    """The deliveries that *given* names; a whole id is never ambiguous."""
    rows = outbox.look_up(given, limit=SEARCHED)
    whole = [row for row in rows if given in _ids(row.delivery)]
    if whole:
        return Found(rows=whole, ids={given})
    return Found(
        rows=rows,
        ids={one for row in rows for one in _ids(row.delivery) if one.startswith(given)},
    )


def is_short(given: str) -> bool:
    """Whether *given* is too short a beginning to change what it names."""
    return len(given.removeprefix("dlv_").removeprefix("evt_")) < SHORTEST


def candidate(row: Row) -> str:
    """One delivery on a line: its ids, and the facts that distinguish it."""
    one = row.delivery
    return (
        f"{one.id}  {one.event_id}  {one.event_type.value}  {one.migration_name or '-'}  "
        f"{one.endpoint}  {shown_environment(one.environment)}  {row.state.value}  "
        f"{rfc3339(one.created_at)}"
    )


def _ids(one: Delivery) -> tuple[str, str, str]:
    return one.id, one.event_id, one.correlation_id
