"""What tests do with an outbox again and again, in one line each."""

from __future__ import annotations

from datetime import datetime, timedelta

from confiture_webhooks.delivery import Decision, State
from confiture_webhooks.outbox import Claim, Outbox, Row
from confiture_webhooks.outbox.front import horizon
from confiture_webhooks.outbox.rows import instant
from contract.made import DELIVERED, LEASE, NOW, attempt, delivery, event_id


def release(outbox: Outbox, *numbers: int, endpoint: str = "a") -> None:
    """Release events *numbers* for *endpoint*."""
    for number in numbers:
        outbox.release(event_id(number), [delivery(number, endpoint)])


def claim_ids(outbox: Outbox, endpoint: str = "a", **terms: object) -> list[str]:
    """The ids of the deliveries that a claim returns."""
    defaults = {"environment": "production", "now": NOW, "lease": LEASE, "limit": 10}
    claims = outbox.claim(endpoint, **(defaults | terms))  # type: ignore[arg-type]
    return [claim.delivery.id for claim in claims]


def claim_one(outbox: Outbox, *, now: object = NOW, endpoint: str = "a") -> Claim:
    """The one delivery that a claim returns."""
    [claim] = outbox.claim(endpoint, environment="production", now=now, lease=LEASE)  # type: ignore[arg-type]
    return claim


def finish(outbox: Outbox, decision: Decision = DELIVERED, endpoint: str = "a") -> Claim:
    """Claim the next delivery and record an attempt that ends as decided."""
    claim = claim_one(outbox, endpoint=endpoint)
    assert outbox.record(claim, attempt(claim.attempts + 1), decision)
    return claim


def row_of(outbox: Outbox, delivery_id: str) -> Row | None:
    """The delivery with this id; ``None``: there is none."""
    return next(iter(outbox.deliveries(id=delivery_id, limit=1)), None)


def state(outbox: Outbox, delivery_id: str) -> State:
    """Where the delivery stands."""
    row = row_of(outbox, delivery_id)
    assert row is not None
    return row.state


def disabled(outbox: Outbox, environment: str | None) -> dict[str, datetime]:
    """The endpoints that are off in *environment*, and since when."""
    statuses = outbox.statuses(environment)
    return {name: one.off_since for name, one in statuses.items() if one.off_since}


def rest(
    outbox: Outbox,
    until: datetime,
    endpoint: str = "a",
    *,
    now: datetime = NOW,
    max_wait: timedelta | None = None,
) -> None:
    """Have *endpoint* rest in production, as a record does that another worker makes."""
    place = {"endpoint": endpoint, "environment": "production"}
    values = {**place, "until": instant(until), "horizon": horizon(now, max_wait)}
    outbox._store.write(("rest", values))
