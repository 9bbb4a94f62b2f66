"""What every outbox promises of records, of waiting, and of endpoints that are off."""

from __future__ import annotations

from datetime import timedelta

import pytest

from confiture_webhooks.delivery import Attempt, Decision, State
from confiture_webhooks.outbox import Outbox
from contract.acts import claim_ids, claim_one, disabled, finish, release, row_of, state
from contract.made import (
    A_SECOND,
    DEAD,
    DELIVERED,
    GONE,
    LEASE,
    NOW,
    attempt,
    retry,
)

AN_HOUR = timedelta(hours=1)


# Recording


def test_a_lost_lease_records_and_gives_back_nothing(outbox: Outbox) -> None:
    """After another claim took the delivery, the first one changes nothing of it."""
    release(outbox, 1)
    lost = claim_one(outbox)
    held = claim_one(outbox, now=NOW + LEASE)
    assert not outbox.record(lost, attempt(), GONE)
    outbox.give_back(lost)
    assert state(outbox, "dlv_a_1") is State.IN_FLIGHT
    assert not outbox.attempts("dlv_a_1")
    assert not disabled(outbox, "production")
    assert outbox.record(held, attempt(), DELIVERED)


def test_a_lease_that_ran_out_but_was_not_taken_still_records(outbox: Outbox) -> None:
    """An attempt that took longer than the lease counts if nobody claimed in between."""
    release(outbox, 1)
    claim = claim_one(outbox)
    assert outbox.record(claim, attempt(at=NOW + 2 * LEASE), DELIVERED)


def test_a_claim_records_once(outbox: Outbox) -> None:
    """A second record under the same claim is refused."""
    release(outbox, 1)
    claim = finish(outbox)
    assert not outbox.record(claim, attempt(2), DEAD)
    assert state(outbox, "dlv_a_1") is State.DELIVERED


def test_a_record_whose_answer_was_lost_is_known_as_made(outbox: Outbox) -> None:
    """The same attempt once more changes nothing, and is no lost lease."""
    release(outbox, 1)
    claim = finish(outbox)
    assert outbox.record(claim, attempt(), DELIVERED)
    assert len(outbox.attempts("dlv_a_1")) == 1


@pytest.mark.parametrize(
    ("decision", "expected"),
    [
        (DELIVERED, State.DELIVERED),
        (DEAD, State.DEAD_LETTER),
        (GONE, State.GONE),
        (retry(NOW + AN_HOUR), State.PENDING),
    ],
    ids=lambda value: getattr(value, "value", ""),
)
def test_record_moves_the_delivery_as_decided(
    outbox: Outbox, decision: Decision, expected: State
) -> None:
    """Each outcome leads to its state; only a retry is due again."""
    release(outbox, 1)
    finish(outbox, decision)
    row = row_of(outbox, "dlv_a_1")
    assert row is not None
    assert (row.state, row.attempts, row.next_attempt_at) == (
        expected,
        1,
        decision.next_attempt_at,
    )


def test_attempts_are_kept_whole(outbox: Outbox) -> None:
    """Each attempt comes back with number, start, duration, answer or reason, and hint."""
    kept = [
        Attempt(
            number=1,
            started_at=NOW,
            duration=timedelta(microseconds=1_234_567),
            status_code=503,
            retry_after=timedelta(seconds=90),
        ),
        Attempt(
            number=2, started_at=NOW + A_SECOND, duration=timedelta(days=1), error_type="timeout"
        ),
    ]
    release(outbox, 1)
    for one in kept:
        assert outbox.record(claim_one(outbox), one, retry(NOW))
    assert list(outbox.attempts("dlv_a_1")) == kept


def test_a_claim_counts_the_attempts_before_it(outbox: Outbox) -> None:
    """Attempts and tries of a claim are those recorded before."""
    release(outbox, 1)
    finish(outbox, retry(NOW))
    claim = claim_one(outbox)
    assert (claim.attempts, claim.tries) == (1, 1)


def test_a_delivery_given_back_is_due_as_before(outbox: Outbox) -> None:
    """Giving back makes no attempt and keeps the delivery's place."""
    release(outbox, 1, 2)
    outbox.give_back(claim_one(outbox))
    assert state(outbox, "dlv_a_1") is State.PENDING
    assert not outbox.attempts("dlv_a_1")
    assert claim_ids(outbox) == ["dlv_a_1", "dlv_a_2"]


# Waiting


def test_nothing_is_due_where_nothing_waits(outbox: Outbox) -> None:
    """With everything delivered, dead or another endpoint's, there is nothing to wait for."""
    release(outbox, 1, 2)
    release(outbox, 3, endpoint="b")
    finish(outbox)
    finish(outbox, DEAD)
    assert outbox.next_due_at("a", "production") is None


def test_the_next_due_is_the_soonest(outbox: Outbox) -> None:
    """Of several put off, the soonest is next; a fresh one is due already."""
    release(outbox, 1, 2)
    finish(outbox, retry(NOW + 2 * AN_HOUR))
    finish(outbox, retry(NOW + AN_HOUR))
    assert outbox.next_due_at("a", "production") == NOW + AN_HOUR
    release(outbox, 3)
    assert outbox.next_due_at("a", "production") == NOW


def test_the_end_of_a_lease_is_waited_for(outbox: Outbox) -> None:
    """A delivery in flight is next due when its lease ends, so a crash is noticed."""
    release(outbox, 1)
    claim_ids(outbox)
    assert outbox.next_due_at("a", "production") == NOW + LEASE


# Endpoints that are off


def test_gone_switches_the_endpoint_off(outbox: Outbox) -> None:
    """A GONE decision leaves the endpoint's other deliveries pending and unclaimable."""
    release(outbox, 1, 2)
    release(outbox, 2, endpoint="b")
    finish(outbox, GONE)
    assert disabled(outbox, "production") == {"a": NOW}
    assert claim_ids(outbox) == []
    assert outbox.next_due_at("a", "production") is None
    assert state(outbox, "dlv_a_2") is State.PENDING


def test_enabling_lets_the_endpoints_deliveries_go(outbox: Outbox) -> None:
    """After enable, what waited is claimed; a second enable answers False."""
    release(outbox, 1)
    outbox.disable("a", "production", NOW)
    assert claim_ids(outbox) == []
    assert outbox.enable("a", "production")
    assert not outbox.enable("a", "production")
    assert claim_ids(outbox) == ["dlv_a_1"]


def test_off_since_is_the_first_instant(outbox: Outbox) -> None:
    """Switching off an endpoint that is off keeps since when it is."""
    outbox.disable("a", "production", NOW)
    outbox.disable("a", "production", NOW + AN_HOUR)
    assert disabled(outbox, "production") == {"a": NOW}
