"""What in an outbox nobody will deliver without an operator."""

from __future__ import annotations

from datetime import UTC, datetime

from confiture_webhooks.doctor.standing import stuck
from confiture_webhooks.outbox import Summary

AT = datetime(2026, 1, 9, 14, 0, tzinfo=UTC)


def test_what_only_waits_is_not_stuck() -> None:
    """Deliveries of a configured endpoint that is on are on their way."""
    assert stuck(Summary(undelivered={"a": 3}), ["a"], off={}, late={}) == {}


def test_what_nobody_sends_is_stuck() -> None:
    """An endpoint that is off, unknown or late is told, each with its reason."""
    reasons = stuck(
        Summary(undelivered={"a": 1, "b": 2, "c": 3}), ["a", "b"], off={"b": AT}, late={"a": AT}
    )
    assert reasons == {
        "a": "due since 2026-01-09T14:00:00.000Z, no worker runs",
        "b": "off since 2026-01-09T14:00:00.000Z (2 waiting)",
        "c": "no such endpoint is configured (3 waiting)",
    }


def test_what_is_in_no_queue_is_stuck() -> None:
    """Something waits, and nothing will be due: that is told, unless nothing waits or it is off."""
    reasons = stuck(
        Summary(undelivered={"a": 2, "b": 1}),
        ["a", "b", "c"],
        off={"b": AT},
        late={},
        unqueued=["a", "b", "c"],
    )
    assert reasons.keys() == {"a", "b"}
    assert reasons["a"].startswith("2 waiting, and none of them in the queue")
    assert reasons["b"].startswith("off since")


def test_off_is_told_rather_than_unknown_or_late() -> None:
    """Of an endpoint that is off only that is told: enabling it comes first."""
    reasons = stuck(Summary(undelivered={"b": 2}), [], off={"b": AT}, late={"b": AT})
    assert reasons == {"b": "off since 2026-01-09T14:00:00.000Z (2 waiting)"}
