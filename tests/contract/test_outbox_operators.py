"""What every outbox promises to operators: lists, redelivery, pruning, a summary."""

from __future__ import annotations

from datetime import timedelta

import pytest

from confiture_webhooks.delivery import Decision, Delivery, State
from confiture_webhooks.event import EventType
from confiture_webhooks.outbox import Outbox, Row, Summary
from contract.acts import row_of
from contract.made import A_SECOND, DEAD, DELIVERED, GONE, LEASE, NOW, attempt, delivery, event_id
from contract.made import retry as again


def ended(outbox: Outbox, one: Delivery, decision: Decision, after: int = 0) -> None:
    """Release *one* and record an attempt *after* seconds that ends as decided."""
    at = NOW + timedelta(seconds=after)
    outbox.release(one.event_id, [one])
    [claim] = outbox.claim(one.endpoint, environment="production", now=at, lease=LEASE)
    assert claim.delivery == one
    assert outbox.record(claim, attempt(claim.attempts + 1, at=at), decision)


def ids(rows: object) -> list[str]:
    """The ids of the deliveries in *rows*."""
    return [row.delivery.id for row in rows]  # type: ignore[attr-defined]


def test_deliveries_are_listed_newest_first(outbox: Outbox) -> None:
    """The list begins with the delivery released last and stops at the limit."""
    for number in (1, 2, 3):
        outbox.release(event_id(number), [delivery(number)])
    assert ids(outbox.deliveries(limit=2)) == ["dlv_a_3", "dlv_a_2"]


def test_the_list_takes_filters_together(outbox: Outbox) -> None:
    """State, endpoint, event type and since each leave out what does not match."""
    ended(outbox, delivery(1), DEAD)
    ended(outbox, delivery(2, "b"), DEAD)
    ended(outbox, delivery(3, event_type=EventType.MIGRATION_ERROR), DEAD)
    ended(outbox, delivery(4, created_at=NOW - A_SECOND), DEAD)
    ended(outbox, delivery(5), DELIVERED)
    ended(outbox, delivery(6), DEAD)
    rows = outbox.deliveries(
        state=State.DEAD_LETTER,
        endpoint="a",
        event_type=EventType.MIGRATION_SUCCESS,
        since=NOW,
    )
    assert ids(rows) == ["dlv_a_6", "dlv_a_1"]


def test_each_filter_works_alone(outbox: Outbox) -> None:
    """One filter is enough to narrow the list."""
    ended(outbox, delivery(1, created_at=NOW - A_SECOND), DEAD)
    ended(outbox, delivery(2, "b", event_type=EventType.RUN_ERROR), DELIVERED)
    assert ids(outbox.deliveries(state=State.DELIVERED)) == ["dlv_b_2"]
    assert ids(outbox.deliveries(endpoint="a")) == ["dlv_a_1"]
    assert ids(outbox.deliveries(event_type=EventType.RUN_ERROR)) == ["dlv_b_2"]
    assert ids(outbox.deliveries(since=NOW)) == ["dlv_b_2"]


def test_a_row_shows_where_a_delivery_stands(outbox: Outbox) -> None:
    """A row has the delivery whole, its state, its attempts and when it is due."""
    ended(outbox, delivery(1), again(NOW + A_SECOND))
    row = Row(delivery=delivery(1), state=State.PENDING, attempts=1, next_attempt_at=NOW + A_SECOND)
    assert row_of(outbox, "dlv_a_1") == row
    assert list(outbox.deliveries()) == [row]
    outbox.claim("a", environment="production", now=NOW + A_SECOND, lease=LEASE)
    assert row_of(outbox, "dlv_a_1") == Row(delivery=delivery(1), state=State.IN_FLIGHT, attempts=1)


def test_deliveries_are_found_by_their_ids(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are there, however many are asked for."""
    monkeypatch.setattr("confiture_webhooks.outbox.outbox.ASKED_AT_ONCE", 2)
    for number in (1, 2, 3, 4):
        outbox.release(event_id(number), [delivery(number)])
    wanted = ["dlv_a_1", "nosuch", "dlv_a_3", "dlv_a_4"]
    assert sorted(ids(outbox.named(wanted))) == ["dlv_a_1", "dlv_a_3", "dlv_a_4"]
    assert list(outbox.named([])) == []


def test_what_is_not_there_is_not_found(outbox: Outbox) -> None:
    """An unknown id has no row, no attempts and is not redelivered."""
    assert row_of(outbox, "nosuch") is None
    assert list(outbox.attempts("nosuch")) == []
    assert not outbox.redeliver("nosuch", now=NOW)


@pytest.mark.parametrize("decision", [DELIVERED, DEAD, GONE], ids=lambda d: d.outcome.value)
def test_redelivery_starts_the_schedule_over(outbox: Outbox, decision: Decision) -> None:
    """What has ended is due again with no tries, and its attempts count on."""
    ended(outbox, delivery(1), decision)
    outbox.enable("a", "production")
    later = NOW + timedelta(days=1)
    assert outbox.redeliver("dlv_a_1", now=later)
    row = row_of(outbox, "dlv_a_1")
    assert row is not None
    assert (row.state, row.attempts, row.next_attempt_at) == (State.PENDING, 1, later)
    [claim] = outbox.claim("a", environment="production", now=later, lease=LEASE)
    assert (claim.attempts, claim.tries) == (1, 0)
    assert outbox.record(claim, attempt(2, at=later), DELIVERED)
    assert [a.number for a in outbox.attempts("dlv_a_1")] == [1, 2]


@pytest.mark.parametrize("verb", ["redeliver", "discard"])
def test_what_was_delivered_since_it_was_chosen_is_left_alone(outbox: Outbox, verb: str) -> None:
    """A worker has sent it while the operator was asked; one that was delivered then is meant."""
    ended(outbox, delivery(1), DELIVERED)
    act = getattr(outbox, verb)
    for was in (State.PENDING, State.DEAD_LETTER, State.GONE):
        assert not act("dlv_a_1", now=NOW, was=was)
    assert act("dlv_a_1", now=NOW, was=State.DELIVERED)


def test_a_redelivered_one_is_undelivered_again(outbox: Outbox) -> None:
    """While it is due again, the summary counts it, and it can be the oldest."""
    ended(outbox, delivery(1), DELIVERED)
    outbox.redeliver("dlv_a_1", now=NOW + A_SECOND)
    summary = outbox.summary("production")
    assert summary.counts.get(State.DELIVERED, 0) == 0
    assert (summary.undelivered, summary.oldest_at) == ({"a": 1}, NOW)


def test_a_redelivered_one_keeps_its_place(outbox: Outbox) -> None:
    """A redelivery goes before what was released after it."""
    ended(outbox, delivery(1), DEAD)
    outbox.release(event_id(2), [delivery(2)])
    outbox.redeliver("dlv_a_1", now=NOW)
    claims = outbox.claim("a", environment="production", now=NOW, lease=LEASE, limit=5)
    assert [claim.delivery.id for claim in claims] == ["dlv_a_1", "dlv_a_2"]


def test_what_is_under_way_is_not_redelivered(outbox: Outbox) -> None:
    """A delivery in flight is left alone."""
    outbox.release(event_id(1), [delivery(1)])
    [claim] = outbox.claim("a", environment="production", now=NOW, lease=LEASE)
    assert not outbox.redeliver("dlv_a_1", now=NOW)
    assert outbox.record(claim, attempt(), DELIVERED)


def test_what_waits_is_redelivered_now(outbox: Outbox) -> None:
    """A pending delivery becomes due at once, its schedule over, and is claimed once."""
    ended(outbox, delivery(1), again(NOW + timedelta(days=1)))
    assert outbox.redeliver("dlv_a_1", now=NOW + A_SECOND)
    assert outbox.redeliver("dlv_a_1", now=NOW + A_SECOND)
    row = row_of(outbox, "dlv_a_1")
    assert row is not None
    assert (row.state, row.next_attempt_at) == (State.PENDING, NOW + A_SECOND)
    now = NOW + A_SECOND
    claims = outbox.claim("a", environment="production", now=now, lease=LEASE, limit=5)
    assert [(claim.attempts, claim.tries) for claim in claims] == [(1, 0)]
    assert outbox.record(claims[0], attempt(2, at=now), DELIVERED)
    later = NOW + timedelta(days=2)
    assert not outbox.claim("a", environment="production", now=later, lease=LEASE)


@pytest.mark.parametrize("decision", [DELIVERED, DEAD, GONE, again(NOW)], ids=lambda d: d.outcome)
def test_what_is_discarded_is_forgotten(outbox: Outbox, decision: Decision) -> None:
    """It is in no list, claim or count any more, and its event is not released again."""
    ended(outbox, delivery(1), decision)
    assert outbox.discard("dlv_a_1", now=NOW)
    assert not outbox.discard("dlv_a_1", now=NOW)
    outbox.release(event_id(1), [delivery(1)])
    outbox.enable("a", "production")
    assert row_of(outbox, "dlv_a_1") is None
    assert list(outbox.attempts("dlv_a_1")) == []
    assert not outbox.claim("a", environment="production", now=NOW + A_SECOND, lease=LEASE)
    assert outbox.next_due_at("a", "production") is None
    assert outbox.summary("production") == Summary()


def test_what_is_in_flight_is_not_discarded(outbox: Outbox) -> None:
    """While a lease holds the delivery stays; once it is over, that of a killed worker goes."""
    outbox.release(event_id(1), [delivery(1)])
    [claim] = outbox.claim("a", environment="production", now=NOW, lease=LEASE)
    assert not outbox.discard("dlv_a_1", now=NOW + LEASE - A_SECOND)
    assert outbox.discard("dlv_a_1", now=NOW + LEASE)
    assert not outbox.record(claim, attempt(), DELIVERED)


def test_pruning_forgets_what_was_delivered_before(outbox: Outbox) -> None:
    """What was delivered before the instant goes, with its attempts; what at it stays."""
    ended(outbox, delivery(1), DELIVERED, after=0)
    ended(outbox, delivery(2), DELIVERED, after=1)
    assert outbox.prune(before=NOW + A_SECOND, keep=100) == 1
    assert ids(outbox.deliveries()) == ["dlv_a_2"]
    assert row_of(outbox, "dlv_a_1") is None
    assert list(outbox.attempts("dlv_a_1")) == []


def test_pruning_keeps_the_last_delivered(outbox: Outbox) -> None:
    """Beyond the count, the longest delivered go first, whatever their order of release."""
    ended(outbox, delivery(1), DELIVERED, after=9)
    ended(outbox, delivery(2), DELIVERED, after=1)
    ended(outbox, delivery(3), DELIVERED, after=2)
    assert outbox.prune(before=NOW, keep=2) == 1
    assert ids(outbox.deliveries()) == ["dlv_a_3", "dlv_a_1"]
    assert outbox.prune(before=NOW, keep=0) == 2


def test_pruning_leaves_what_was_not_delivered(outbox: Outbox) -> None:
    """Dead letters, gone, pending and in-flight deliveries and intents are never pruned."""
    ended(outbox, delivery(1), DEAD)
    ended(outbox, delivery(2), again(NOW + timedelta(days=9)))
    ended(outbox, delivery(3), GONE)
    outbox.release(event_id(4), [delivery(4, "b")])
    outbox.claim("b", environment="production", now=NOW, lease=LEASE)
    assert outbox.prune(before=NOW + timedelta(days=99), keep=0) == 0
    assert len(outbox.deliveries()) == 4


def test_a_redelivered_one_is_pruned_by_its_last_delivery(outbox: Outbox) -> None:
    """While it is pending again it stays; afterwards its new end counts."""
    ended(outbox, delivery(1), DELIVERED)
    later = NOW + timedelta(days=1)
    outbox.redeliver("dlv_a_1", now=later)
    assert outbox.prune(before=later, keep=0) == 0
    [claim] = outbox.claim("a", environment="production", now=later, lease=LEASE)
    outbox.record(claim, attempt(2, at=later), DELIVERED)
    assert outbox.prune(before=later, keep=1) == 0


def test_more_than_a_batch_is_pruned(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pruning forgets everything it should, however much that is."""
    monkeypatch.setattr("confiture_webhooks.outbox.outbox.PRUNE_BATCH", 5)
    for number in range(16):
        outbox.release(event_id(number), [delivery(number)])
    for claim in outbox.claim("a", environment="production", now=NOW, lease=LEASE, limit=20):
        outbox.record(claim, attempt(), DELIVERED)
    assert outbox.prune(before=NOW, keep=3) == 13
    assert outbox.summary("production").counts == {State.DELIVERED: 3}


def test_an_empty_outbox_has_an_empty_summary(outbox: Outbox) -> None:
    """Nothing stored: no counts, nobody undelivered, no oldest."""
    summary = outbox.summary("production")
    assert (summary.counts, summary.undelivered, summary.oldest_at) == ({}, {}, None)


def test_the_summary_counts_by_state_and_endpoint(outbox: Outbox) -> None:
    """Counts are true after every kind of move, and the oldest undelivered is found."""
    ended(outbox, delivery(1, created_at=NOW - A_SECOND), DELIVERED)
    ended(outbox, delivery(2), DEAD)
    ended(outbox, delivery(3), again(NOW + A_SECOND))
    outbox.release(event_id(4), [delivery(4, "b", created_at=NOW + A_SECOND), delivery(4, "c")])
    outbox.claim("b", environment="production", now=NOW + A_SECOND, lease=LEASE)
    summary = outbox.summary("production")
    assert summary.counts == {
        State.DELIVERED: 1,
        State.DEAD_LETTER: 1,
        State.PENDING: 2,
        State.IN_FLIGHT: 1,
    }
    assert summary.undelivered == {"a": 1, "b": 1, "c": 1}
    assert summary.oldest_at == NOW


def test_closing_twice_is_allowed(outbox: Outbox) -> None:
    """A second close does nothing."""
    outbox.close()
    outbox.close()
