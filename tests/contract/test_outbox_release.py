"""What every outbox promises to those who release and to those who claim: the port, line by line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from confiture_webhooks.delivery import State
from confiture_webhooks.outbox import Outbox
from contract.acts import claim_ids, claim_one, finish, release, state
from contract.made import (
    A_SECOND,
    DEAD,
    DELIVERED,
    LEASE,
    NOW,
    attempt,
    committed,
    delivery,
    event_id,
    intent,
    retry,
)

AN_HOUR = timedelta(hours=1)


# Releasing


def test_an_intent_comes_back_whole(outbox: Outbox) -> None:
    """What was staged is listed with every field it was staged with."""
    outbox.stage(intent(1))
    bare = dataclasses.replace(
        intent(2, staged_at=NOW + A_SECOND), backend_pid=None, backend_started_at=None
    )
    outbox.stage(bare)
    assert list(outbox.intents()) == [intent(1), bare]


def test_intents_are_listed_oldest_first(outbox: Outbox) -> None:
    """The order of intents is that of their staging instants."""
    outbox.stage(intent(1, staged_at=NOW + A_SECOND))
    outbox.stage(intent(2))
    assert [i.event_id for i in outbox.intents()] == ["evt_2", "evt_1"]


def test_staging_twice_keeps_the_first(outbox: Outbox) -> None:
    """A second intent of the same event changes nothing; whoever stages sees what was there."""
    assert list(outbox.stage(intent(1))) == []
    assert list(outbox.stage(intent(1, staged_at=NOW + A_SECOND))) == [intent(1)]
    assert list(outbox.intents()) == [intent(1)]


def test_of_two_that_release_an_event_one_is_the_first(opened: Callable[[], Outbox]) -> None:
    """The second keeps nothing of its own; what was released with the first is there, too."""
    first, second = opened(), opened()
    first.stage(intent(1))
    assert first.release(event_id(1), [delivery(1)], (event_id(2), [delivery(2)]))
    assert not second.release(event_id(1), [delivery(1, "b")], (event_id(2), [delivery(2, "b")]))
    assert claim_ids(first) == ["dlv_a_1", "dlv_a_2"]
    assert claim_ids(first, endpoint="b") == []
    assert not first.intents()


def test_staging_what_was_released_changes_nothing(outbox: Outbox) -> None:
    """An intent that arrives after its release is not one to settle."""
    release(outbox, 1)
    outbox.stage(intent(1))
    assert not outbox.intents()


@pytest.mark.parametrize(
    "body", [bytes(range(1, 128)), rb"\x41 \101", rb"\\", b"", b"\0", "é\\".encode(), b"\xff"]
)
def test_a_body_comes_back_byte_by_byte(outbox: Outbox, body: bytes) -> None:
    """Text, escapes of any kind, and what is no text."""
    odd = dataclasses.replace(delivery(1), body=body, content_type="application/octet-stream")
    outbox.release(event_id(1), [odd])
    assert [row.delivery for row in outbox.deliveries()] == [odd]


def test_a_release_replaces_the_intent_by_its_deliveries(outbox: Outbox) -> None:
    """After a release the intent is gone and each of its deliveries is pending."""
    outbox.stage(intent(1))
    outbox.release(event_id(1), [delivery(1, "a"), delivery(1, "b")])
    assert not outbox.intents()
    assert {row.delivery.id for row in outbox.deliveries()} == {"dlv_a_1", "dlv_b_1"}
    assert {row.state for row in outbox.deliveries()} == {State.PENDING}


@pytest.mark.parametrize("is_staged", [True, False])
def test_an_intent_that_committed_has_its_end(outbox: Outbox, is_staged: bool) -> None:
    """Its end comes back whole, written once or twice, however late the intent is staged, until it is released."""
    if is_staged:
        outbox.stage(intent(1))
    outbox.stage_committed(dataclasses.replace(committed(1), tracestate="a=b"))
    outbox.stage_committed(committed(1))
    outbox.stage(intent(1))
    assert outbox.intents() == [committed(1)]
    release(outbox, 1)
    outbox.stage_committed(committed(1))
    assert not outbox.intents()


@pytest.mark.parametrize("has_committed", [True, False])
def test_what_another_environment_has_seen_of_an_intent_is_kept(
    outbox: Outbox, has_committed: bool
) -> None:
    """Until it is released; afterwards nothing brings the intent back."""
    seen = dataclasses.replace(intent(1), has_committed=has_committed)
    outbox.stage(intent(1))
    outbox.stage_committed(seen)
    assert outbox.intents() == [seen]
    release(outbox, 1)
    outbox.stage_committed(seen)
    assert not outbox.intents()


def test_what_another_environment_sees_late_leaves_the_end_that_is_known(outbox: Outbox) -> None:
    """The run itself has added it since the other one read the intents."""
    outbox.stage_committed(committed(1))
    outbox.stage_committed(dataclasses.replace(intent(1), has_committed=True))
    [known] = outbox.intents()
    assert known.committed == committed(1).committed


def test_a_commit_takes_one_statement_along(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction holds locks: it stages the intent anew only if that is gone."""
    write, written = outbox._store.write, []

    def count(*steps: Any) -> Any:
        written.append([name for name, _ in steps])
        return write(*steps)

    outbox.stage(intent(1))
    monkeypatch.setattr(outbox._store, "write", count)
    outbox.stage_committed(committed(1))
    outbox.stage_committed(committed(2))
    assert written == [["stage_committed"], ["stage_committed"], ["stage", "stage_committed"]]


def test_a_release_of_nothing_ends_the_intent(outbox: Outbox) -> None:
    """An event nobody wants leaves neither intent nor delivery, and cannot come back."""
    outbox.stage(intent(1))
    outbox.release(event_id(1), [])
    release(outbox, 1)
    assert not outbox.intents()
    assert not outbox.deliveries()


def test_releasing_twice_changes_nothing(outbox: Outbox) -> None:
    """A second release of an event adds no delivery and moves none, whatever it carries."""
    release(outbox, 1)
    finish(outbox)
    outbox.release(event_id(1), [delivery(1), delivery(1, "b")])
    assert [row.state for row in outbox.deliveries()] == [State.DELIVERED]


def test_a_release_is_idempotent_after_its_deliveries_were_pruned(outbox: Outbox) -> None:
    """A settlement that comes after the delivered ones were pruned makes no second event."""
    release(outbox, 1)
    finish(outbox)
    assert outbox.prune(before=NOW + A_SECOND, keep=0) == 1
    release(outbox, 1)
    assert not outbox.deliveries()


# Claiming


def test_a_delivery_comes_back_as_it_was_released(outbox: Outbox) -> None:
    """Body, trace context, correlation id and all else of a claim are as released."""
    bare = dataclasses.replace(
        delivery(2), migration_version=None, migration_name=None, environment=None
    )
    outbox.release(event_id(1), [delivery(1)])
    outbox.release(event_id(2), [bare])
    for environment, released in (("production", delivery(1)), (None, bare)):
        [claim] = outbox.claim("a", environment=environment, now=NOW, lease=LEASE)
        assert claim.delivery == released


def test_a_released_delivery_is_due_at_once(outbox: Outbox) -> None:
    """Even when the claimant's clock is behind the reporter's, a fresh delivery is claimable."""
    release(outbox, 1)
    assert claim_ids(outbox, now=NOW - AN_HOUR) == ["dlv_a_1"]


def test_claims_follow_the_order_of_release(outbox: Outbox) -> None:
    """The oldest released that are due come first, up to the limit."""
    release(outbox, 3, 1, 2)
    assert [finish(outbox).delivery.id for _ in range(3)] == ["dlv_a_3", "dlv_a_1", "dlv_a_2"]
    release(outbox, 6, 4, 5)
    assert claim_ids(outbox, limit=2) == ["dlv_a_6", "dlv_a_4"]


def test_a_claim_is_for_one_endpoint(outbox: Outbox) -> None:
    """Another endpoint's deliveries are not claimed."""
    release(outbox, 1, endpoint="b")
    assert claim_ids(outbox, "a") == []


def test_no_other_claim_returns_a_delivery_while_its_lease_holds(
    opened: Callable[[], Outbox],
) -> None:
    """Two workers never hold one delivery, until the instant the lease ends."""
    first, second = opened(), opened()
    release(first, 1)
    assert claim_ids(first) == ["dlv_a_1"]
    assert claim_ids(second, now=NOW + LEASE - timedelta(microseconds=1)) == []
    assert claim_ids(second, now=NOW + LEASE) == ["dlv_a_1"]


def test_an_expired_lease_keeps_its_place_in_the_order(outbox: Outbox) -> None:
    """A crashed worker's delivery is claimed before those released after it."""
    release(outbox, 1)
    claim_ids(outbox)
    release(outbox, 2)
    assert claim_ids(outbox, now=NOW + LEASE) == ["dlv_a_1", "dlv_a_2"]


def test_a_retry_waits_until_it_is_due_and_then_comes_in_order(outbox: Outbox) -> None:
    """A delivery put off is not claimed early, and when due goes before younger ones."""
    release(outbox, 1, 2)
    finish(outbox, retry(NOW + AN_HOUR))
    assert claim_ids(outbox, limit=1) == ["dlv_a_2"]
    release(outbox, 3)
    assert claim_ids(outbox, now=NOW + AN_HOUR, limit=1) == ["dlv_a_1"]


@pytest.mark.survived("A clock set back while a lease holds", "kept")
def test_a_clock_set_back_makes_a_lease_late_not_lost(outbox: Outbox) -> None:
    """A lease taken by a clock that was ahead holds until the clock is there again."""
    release(outbox, 1)
    claim_ids(outbox, now=NOW + AN_HOUR)
    assert claim_ids(outbox, now=NOW) == []
    assert claim_ids(outbox, now=NOW + AN_HOUR + LEASE) == ["dlv_a_1"]


@pytest.mark.survived("A clock set forward while a lease holds", "true")
def test_a_clock_set_forward_lets_one_record_stand(opened: Callable[[], Outbox]) -> None:
    """When a jump ends a live lease, both may send but only the later claim's record counts."""
    first, second = opened(), opened()
    release(first, 1)
    early, late = claim_one(first), claim_one(second, now=NOW + AN_HOUR)
    assert not first.record(early, attempt(), DEAD)
    assert second.record(late, attempt(), DELIVERED)
    assert state(first, "dlv_a_1") is State.DELIVERED
    assert len(first.attempts("dlv_a_1")) == 1
