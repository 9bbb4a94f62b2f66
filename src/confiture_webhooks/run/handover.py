"""What memory kept while the outbox refused goes into the outbox, once that works again."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from ..delivery import Delivery, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..outbox import Outbox, Row

ALL = 1_000_000


def undelivered(memory: Outbox) -> Sequence[Row]:
    """What would be lost with *memory*, the longest there first; what it gave up, too."""
    rows = memory.deliveries(limit=ALL)
    return [row for row in reversed(rows) if row.state is not State.DELIVERED]


def hand_over(memory: Outbox, outbox: Outbox, event_ids: Sequence[str]) -> None:
    """Put what *memory* did not deliver into *outbox*, to be begun anew there.

    *event_ids*: what was released into memory. Of those that *outbox* staged nothing is open
    any more, also where everything was delivered. Raises OutboxError; a second time it
    changes nothing.
    """
    left: defaultdict[str, list[Delivery]] = defaultdict(list)
    for row in undelivered(memory):
        left[row.delivery.event_id].append(row.delivery)
    for intent in memory.intents():
        outbox.stage(intent)
    for event_id in event_ids:
        outbox.release(event_id, left[event_id])
