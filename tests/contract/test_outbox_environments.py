"""What every outbox promises to the environments that share it."""

from __future__ import annotations

import pytest

from confiture_webhooks.delivery import State
from confiture_webhooks.outbox import Outbox, Summary
from contract.acts import claim_ids, disabled, finish
from contract.made import DEAD, GONE, LEASE, NOW, delivery, event_id

PAIRS = [("production", "staging"), ("production", None), (None, "production")]


def release(outbox: Outbox, number: int, environment: str | None) -> None:
    """Release event *number* of *environment*."""
    outbox.release(event_id(number), [delivery(number, environment=environment)])


@pytest.mark.parametrize(("mine", "other"), PAIRS)
def test_a_claim_is_for_one_environment(
    outbox: Outbox, mine: str | None, other: str | None
) -> None:
    """What another environment, or none, recorded for an endpoint of the name is not returned."""
    release(outbox, 1, other)
    assert claim_ids(outbox, environment=mine) == []
    assert outbox.next_due_at("a", mine) is None
    release(outbox, 2, mine)
    assert claim_ids(outbox, environment=mine) == ["dlv_a_2"]
    assert claim_ids(outbox, environment=other) == ["dlv_a_1"]
    assert claim_ids(outbox, environment=mine, now=NOW + LEASE) == ["dlv_a_2"]
    assert outbox.next_due_at("a", other) == NOW + LEASE


def test_an_endpoint_is_off_in_one_environment(outbox: Outbox) -> None:
    """A 410 in one environment leaves the endpoint of that name on in every other."""
    for number, environment in enumerate(["production", "staging", None], 1):
        release(outbox, number, environment)
    finish(outbox, GONE)
    assert [set(disabled(outbox, name)) for name in ("production", "staging", None)] == [
        {"a"},
        set(),
        set(),
    ]
    assert claim_ids(outbox, environment="staging") == ["dlv_a_2"]
    assert not outbox.enable("a", "staging")
    outbox.disable("a", None, NOW)
    assert claim_ids(outbox, environment=None) == []
    assert outbox.enable("a", "production")
    assert set(disabled(outbox, None)) == {"a"}


def test_each_environment_has_a_summary(outbox: Outbox) -> None:
    """Counts, undelivered and the oldest are distinguished by environment."""
    release(outbox, 1, "production")
    release(outbox, 2, "staging")
    release(outbox, 3, None)
    finish(outbox, DEAD)
    waiting = Summary(counts={State.PENDING: 1}, undelivered={"a": 1}, oldest={"a": NOW})
    assert outbox.summaries() == {
        "production": Summary(counts={State.DEAD_LETTER: 1}),
        "staging": waiting,
        None: waiting,
    }
    assert outbox.summary("production") == Summary(counts={State.DEAD_LETTER: 1})
    assert outbox.summary("staging") == outbox.summary(None) == waiting
    assert outbox.summary("elsewhere") == Summary()
