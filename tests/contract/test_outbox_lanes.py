"""What every outbox promises of runs, rests, wrong clocks and of rows that cannot be read."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from confiture_webhooks.delivery import Decision, Outcome, State
from confiture_webhooks.outbox import Outbox, Unreadable, front
from confiture_webhooks.outbox.postgres import PostgresOutbox
from confiture_webhooks.outbox.values import Batch
from confiture_webhooks.outlook import EndpointStatus
from confiture_webhooks.retry import RetryPolicy
from contract.acts import claim_ids, claim_one, disabled, finish, release, rest, row_of
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
DAYS = timedelta(days=3)
MAX_WAIT = timedelta(hours=12)
RUNS = {"x": "1" * 32, "y": "2" * 32, "z": "3" * 32}


def release_of(outbox: Outbox, run: str, *numbers: int) -> None:
    """Release events *numbers* of *run* for endpoint ``a``."""
    for number in numbers:
        outbox.release(event_id(number), [replace(delivery(number), correlation_id=RUNS[run])])


def spoil(outbox: Any, table: str, change: str) -> None:
    """Change rows behind the outbox's back."""
    store = outbox._store
    if isinstance(outbox, PostgresOutbox):
        with store.lent() as connection:
            connection.execute(f"UPDATE confiture_webhooks.{table} SET {change}")
    else:
        with store._lent() as connection:
            connection.execute(f"UPDATE {table} SET {change}")


# Runs


def test_what_is_switched_off_between_two_looks_is_not_claimed(outbox: Any) -> None:
    """A lane that saw the run in other hands looks again, and sees how the endpoint stands then."""
    release_of(outbox, "x", 1, 2)
    held = claim_one(outbox)
    store = outbox._store
    read = store.read

    def meanwhile(*steps: Any) -> Any:
        if any(name == "look_elsewhere" for name, _ in steps):
            store.read = read
            outbox.disable("a", "production", NOW)
            outbox.give_back(held)
        return read(*steps)

    store.read = meanwhile
    assert not claim_ids(outbox)
    outbox.enable("a", "production")
    assert claim_ids(outbox)


def test_a_claim_returns_deliveries_of_one_run_in_order(outbox: Outbox) -> None:
    """Those of the run whose first is the oldest, up to the limit."""
    release_of(outbox, "x", 1)
    release_of(outbox, "y", 2)
    release_of(outbox, "x", 3)
    assert claim_ids(outbox) == ["dlv_a_1", "dlv_a_3"]
    assert claim_ids(outbox) == ["dlv_a_2"]


def test_a_run_has_one_lease(opened: Callable[[], Outbox]) -> None:
    """Until it has ended no other claim returns any of the run's, whoever asks."""
    first, second = opened(), opened()
    release_of(first, "x", 1, 2, 3)
    release_of(first, "y", 4)
    claim = claim_one(first)
    assert claim_ids(second) == ["dlv_a_4"]
    assert claim_ids(second) == []
    assert first.record(claim, attempt(), DELIVERED)
    assert claim_ids(second) == ["dlv_a_2", "dlv_a_3"]
    assert claim_ids(first, now=NOW + LEASE) == ["dlv_a_2", "dlv_a_3"]


def test_the_end_of_a_killed_run_ends_its_own_leases(opened: Callable[[], Outbox]) -> None:
    """Another process that reports how it ended sends its events at once, in their order."""
    killed, other = opened(), opened()
    killed.stage(intent(2))
    release_of(killed, "x", 1)
    claim = claim_one(killed)
    assert len(other.intents()) == 1
    release_of(other, "x", 2)
    assert claim_ids(other) == ["dlv_a_1", "dlv_a_2"]
    assert not killed.record(claim, attempt(), DELIVERED)


@pytest.mark.parametrize("own", [False, True])
def test_no_other_lease_ends_early(opened: Callable[[], Outbox], own: bool) -> None:  # noqa: FBT001
    """One of another process of the same trace, or of one that reports its own end, lasts."""
    killed, first, settling = opened(), opened(), opened()
    (first if own else killed).stage(intent(2))
    release_of(first, "x", 1)
    claim = claim_one(first)
    assert len(settling.intents()) == len(first.intents()) == 1
    release_of(first if own else settling, "x", 2)
    assert claim_ids(settling) == []
    assert first.record(claim, attempt(), DELIVERED)


def test_the_end_of_a_runs_lease_is_waited_for(outbox: Outbox) -> None:
    """What is ready of a run that is held is due when the lease ends."""
    release_of(outbox, "x", 1, 2)
    claim_one(outbox)
    assert outbox.next_due_at("a", "production") == NOW + LEASE
    release_of(outbox, "y", 3)
    assert outbox.next_due_at("a", "production") == NOW


def test_a_long_run_hides_no_other(outbox: Outbox) -> None:
    """Behind more deliveries of a held run than are looked at, another run is found."""
    release_of(outbox, "z", *range(1, 101))
    release_of(outbox, "x", 101)
    claim_one(outbox)
    assert outbox.next_due_at("a", "production") == NOW
    assert claim_ids(outbox) == ["dlv_a_101"]
    assert outbox.next_due_at("a", "production") == NOW + LEASE


def claim_of(outbox: Outbox, **terms: Any) -> Batch:
    """A claim for endpoint ``a``."""
    defaults = {"environment": "production", "now": NOW, "lease": LEASE}
    return outbox.claim("a", **(defaults | terms))


def test_a_claim_says_when_another_run_is_due(outbox: Outbox) -> None:
    """One that is free is due now; one that is held when its lease ends; its own run is not."""
    release_of(outbox, "x", 1, 2)
    assert claim_of(outbox).next_due_at is None
    release_of(outbox, "y", 3)
    release_of(outbox, "z", 4)
    assert claim_of(outbox).next_due_at == NOW
    claims = claim_of(outbox)
    assert [claim.delivery.id for claim in claims] == ["dlv_a_4"]
    assert claims.next_due_at == NOW + LEASE
    assert claim_of(outbox).next_due_at == NOW + LEASE


def test_a_look_answers_with_what_it_saw_itself(outbox: Any) -> None:
    """Not with what another lane's look, which read before a retry was recorded, puts in place."""
    release_of(outbox, "x", 1, 2)
    release_of(outbox, "y", 3)
    claim_one(outbox)
    mine = claim_one(outbox)
    store, early = outbox._store, []
    read = store.read

    def reads_early(*steps: Any) -> Any:
        early.append(read(*steps))
        return early[-1]

    def is_overtaken(*steps: Any) -> Any:
        if any(name == "look_elsewhere" for name, _ in steps):
            answers = iter(early)
            store.read = lambda *_: next(answers)
            claim_of(outbox)  # the early look goes on
            store.read = read
        return read(*steps)

    store.read = reads_early
    assert claim_of(outbox).next_due_at == NOW + LEASE
    store.read = read
    assert outbox.record(mine, attempt(status_code=503), retry(NOW + A_SECOND))
    store.read = is_overtaken
    assert claim_of(outbox).next_due_at == NOW + A_SECOND
    assert store.read == read


@pytest.mark.parametrize("ready", [front.WINDOW - 1, front.WINDOW])
def test_a_claim_says_whether_its_run_may_hide_another(outbox: Outbox, ready: int) -> None:
    """Where more is ready than a look sees, somebody else has to look behind it."""
    release_of(outbox, "x", *range(ready))
    assert claim_of(outbox).next_due_at == (NOW if ready == front.WINDOW else None)


def test_runs_that_are_held_hide_others(outbox: Outbox) -> None:
    """Behind as many runs as a look sees, another is free."""
    for number in range(2 * front.RUNS + 2):
        one = replace(delivery(number), correlation_id=f"{number // 2:032x}")
        outbox.release(event_id(number), [one])
    for _ in range(front.RUNS - 1):
        claim_one(outbox)
    assert claim_of(outbox).next_due_at == NOW
    assert claim_ids(outbox, limit=1) == [f"dlv_a_{2 * front.RUNS}"]


def test_what_becomes_ready_is_seen_in_front_of_what_was_passed(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looks that take long begin where the last one ended, but not once a retry is due."""
    clock = count()
    monkeypatch.setattr(front, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(front, "PASSED", 0)
    release_of(outbox, "x", 1)
    release_of(outbox, "y", 2, 3)
    finish(outbox, retry(NOW + AN_HOUR))
    finish(outbox)
    assert claim_ids(outbox, now=NOW + AN_HOUR) == ["dlv_a_1"]


# Rests


def test_the_later_of_rest_and_retry_is_waited_for(outbox: Outbox) -> None:
    """A retry that comes after the rest is not due at its end."""
    release(outbox, 1)
    finish(outbox, retry(NOW + 2 * AN_HOUR))
    rest(outbox, NOW + AN_HOUR)
    assert outbox.next_due_at("a", "production", now=NOW) == NOW + 2 * AN_HOUR
    assert claim_of(outbox).next_due_at == NOW + 2 * AN_HOUR


def test_nothing_is_claimed_for_one_that_rests(outbox: Outbox) -> None:
    """Until the rest is over, in its environment, for every worker; then all is as before."""
    release(outbox, 1)
    rest(outbox, NOW + AN_HOUR)
    assert claim_ids(outbox) == []
    assert outbox.statuses("production") == {"a": EndpointStatus(None, NOW + AN_HOUR)}
    assert outbox.statuses("staging") == outbox.statuses(None) == {}
    assert disabled(outbox, "production") == {}
    assert outbox.next_due_at("a", "production", now=NOW) == NOW + AN_HOUR
    assert claim_ids(outbox, now=NOW + AN_HOUR) == ["dlv_a_1"]


LIMITED = Decision(outcome=Outcome.RETRY, next_attempt_at=NOW, rests_until=NOW + AN_HOUR)


@pytest.mark.parametrize("is_late", [True, False])
@pytest.mark.parametrize("how", ["a low rate", "Retry-After"])
def test_of_workers_that_wake_at_once_one_sends(
    opened: Callable[[], Outbox], monkeypatch: pytest.MonkeyPatch, how: str, is_late: bool
) -> None:
    """Another may have looked before the rest was stored: it claims nothing, of another run too."""
    first, second = opened(), opened()
    for number in (1, 2):
        one = replace(delivery(number), correlation_id=str(number) * 32)
        first.release(event_id(number), [one])
    low = {"rest": AN_HOUR} if how == "a low rate" else {}

    def send() -> None:
        [claim] = first.claim("a", environment="production", now=NOW, lease=LEASE, **low)
        if how == "Retry-After":
            first.record(claim, attempt(status_code=429), LIMITED, LIMITED.rests_until)

    write = second._store.write

    def late(*steps: Any, **terms: Any) -> Any:
        monkeypatch.setattr(second._store, "write", write)
        send()
        return write(*steps, **terms)

    if is_late:
        monkeypatch.setattr(second._store, "write", late)
    else:
        send()
    assert claim_ids(second, **low) == []
    due_at = second.next_due_at("a", "production", now=NOW)
    assert due_at is not None
    assert NOW + AN_HOUR <= due_at < NOW + AN_HOUR + A_SECOND
    assert len(claim_ids(second, now=due_at, **low)) == 1


def test_a_turn_is_taken_again_when_a_clock_was_wrong(outbox: Outbox) -> None:
    """A rest longer than there can be is none, and keeps no turn from being taken."""
    release(outbox, 1)
    rest(outbox, NOW + DAYS)
    assert claim_ids(outbox, max_wait=MAX_WAIT, rest=AN_HOUR) == ["dlv_a_1"]
    until = outbox.statuses("production")["a"].rests_until
    assert until is not None
    assert NOW + AN_HOUR <= until < NOW + AN_HOUR + A_SECOND


def test_a_record_sees_the_rest_that_another_worker_was_asked_for(
    opened: Callable[[], Outbox],
) -> None:
    """Without a question of its own, in its environment only."""
    first, second = opened(), opened()
    release(first, 1, 2)
    first.release(event_id(3), [replace(delivery(3), environment="staging")])
    one, two = first.claim("a", environment="production", now=NOW, lease=LEASE, limit=2)
    [elsewhere] = first.claim("a", environment="staging", now=NOW, lease=LEASE)
    assert first.record(one, attempt(), DELIVERED) == EndpointStatus(None, None)
    rest(second, NOW + AN_HOUR)
    assert first.record(two, attempt(), DELIVERED) == EndpointStatus(None, NOW + AN_HOUR)
    assert first.record(elsewhere, attempt(), DELIVERED) == EndpointStatus(None, None)


def test_the_later_rest_holds(outbox: Outbox) -> None:
    """A shorter one that comes after it does not end it; enabling ends no rest."""
    rest(outbox, NOW + AN_HOUR)
    rest(outbox, NOW + A_SECOND)
    outbox.disable("a", "production", NOW)
    assert outbox.statuses("production") == {"a": EndpointStatus(NOW, NOW + AN_HOUR)}
    assert outbox.enable("a", "production")
    assert outbox.statuses("production") == {"a": EndpointStatus(None, NOW + AN_HOUR)}


def test_a_try_that_a_limit_refused_is_not_counted(outbox: Outbox) -> None:
    """The attempt is kept and numbered, the schedule is where it was."""
    release(outbox, 1)
    limited = Decision(
        outcome=Outcome.RETRY, next_attempt_at=NOW + A_SECOND, rests_until=NOW + A_SECOND
    )
    finish(outbox, limited)
    claim = claim_one(outbox, now=NOW + A_SECOND)
    assert (claim.attempts, claim.tries) == (1, 0)


# Clocks


@pytest.mark.survived("A clock that was ahead by days", "kept")
def test_a_retry_of_a_wrong_clock_is_due(outbox: Outbox) -> None:
    """What waits longer than the policy allows was put off by a clock that was ahead."""
    release(outbox, 1)
    finish(outbox, retry(NOW + DAYS))
    assert claim_ids(outbox) == []
    assert outbox.next_due_at("a", "production", now=NOW, max_wait=MAX_WAIT) == NOW
    assert claim_ids(outbox, max_wait=MAX_WAIT) == ["dlv_a_1"]


@pytest.mark.survived("Workers whose clocks differ by minutes", "kept")
def test_two_workers_six_minutes_apart_follow_the_schedule(outbox: Outbox) -> None:
    """What the one that is ahead put off is not due for the other before its time."""
    release(outbox, 1)
    at, ahead = NOW, timedelta(minutes=6)
    for number, wait in enumerate(RetryPolicy().schedule[2:], 1):
        claim = claim_one(outbox, now=at + ahead)
        due = at + ahead + wait
        outbox.record(claim, attempt(number, at=at + ahead, status_code=503), retry(due))
        for now in (at + A_SECOND, at + wait - A_SECOND):
            asked = {"now": now, "max_wait": MAX_WAIT}
            assert outbox.next_due_at("a", "production", **asked) == due
            assert claim_ids(outbox, **asked) == []
        at += wait


@pytest.mark.survived("A clock that was ahead by days", "kept")
def test_a_lease_of_a_wrong_clock_is_over(outbox: Outbox) -> None:
    """A worker that took it three days ahead holds it no longer than the policy allows."""
    release(outbox, 1)
    claim_ids(outbox, now=NOW + DAYS)
    assert claim_ids(outbox, now=NOW, max_wait=MAX_WAIT) == ["dlv_a_1"]
    release(outbox, 2, endpoint="b")
    claim_ids(outbox, "b", now=NOW + DAYS)
    assert outbox.discard("dlv_b_2", now=NOW)


def test_a_rest_of_a_wrong_clock_is_over(outbox: Outbox) -> None:
    """And the next one, by a right clock, takes its place."""
    release(outbox, 1)
    too_long = MAX_WAIT + A_SECOND
    rest(outbox, NOW + too_long)
    assert claim_ids(outbox, max_wait=MAX_WAIT) == ["dlv_a_1"]
    rest(outbox, NOW + AN_HOUR, max_wait=MAX_WAIT)
    assert outbox.statuses("production")["a"].rests_until == NOW + AN_HOUR


# Rows that cannot be read

SPOILT = [
    "event_type = 'migration_paused'",
    "created_at = 9223372036854775807",
    "attempts = 2147483647",
    "attempts = -1",
    "tries = 2147483647",
    "traceparent = '00-\nX: y'",
    "content_type = ' text/plain'",
    "tracestate = 'é'",
]
SPOILT_SQLITE = [
    "created_at = 'yesterday'",
    "due_at = 'soon', created_at = x'00ff'",
    "attempts = 'none'",
    "attempts = 9223372036854775807",
    "tries = 'x'",
    "traceparent = CAST(x'c3' AS TEXT)",
    "migration_name = CAST(x'ffff' AS TEXT)",
    "is_ready = 0, wakes_at = 'tomorrow', created_at = 'x'",
]


@pytest.mark.parametrize("change", [*SPOILT, *SPOILT_SQLITE, "body"])
def test_one_that_cannot_be_read_costs_itself_alone(outbox: Outbox, change: str) -> None:
    """It is claimed, tried, buried, listed, found and discarded; the others are delivered."""
    if change in SPOILT_SQLITE and isinstance(outbox, PostgresOutbox):
        pytest.skip("PostgreSQL keeps no such value")
    release(outbox, 1, 2, 3)
    if change == "body":
        outbox.discard("dlv_a_1", now=NOW)
        one = replace(delivery(1), event_id="evt_11", body=b"\xff{}")
        outbox.release("evt_11", [one])
    else:
        spoil(outbox, "deliveries", f"{change} WHERE id = 'dlv_a_1'")
    rows = outbox.deliveries()
    assert {row.delivery.id for row in rows} == {"dlv_a_1", "dlv_a_2", "dlv_a_3"}
    [bad] = [row for row in rows if isinstance(row.delivery, Unreadable)]
    assert (bad.delivery.id, bad.delivery.endpoint) == ("dlv_a_1", "a")
    assert bad.delivery.reason
    assert bad.delivery.event_type.value
    assert sum(outbox.summary("production").counts.values()) == 3
    claims = outbox.claim(
        "a", environment="production", now=NOW, lease=LEASE, limit=10, max_wait=MAX_WAIT
    )
    assert {claim.delivery.id for claim in claims} == {"dlv_a_1", "dlv_a_2", "dlv_a_3"}
    for claim in claims:
        is_bad = isinstance(claim.delivery, Unreadable)
        assert is_bad == (claim.delivery.id == "dlv_a_1")
        made = (
            attempt(claim.attempts + 1, status_code=None, error_type="other")
            if is_bad
            else attempt()
        )
        assert outbox.record(claim, made, DEAD if is_bad else DELIVERED)
    assert outbox.summary("production").counts == {State.DEAD_LETTER: 1, State.DELIVERED: 2}
    found = row_of(outbox, "dlv_a_1")
    assert found is not None
    assert found.last_answer == "other"
    assert outbox.redeliver("dlv_a_1", now=NOW)
    assert outbox.discard("dlv_a_1", now=NOW)
    assert row_of(outbox, "dlv_a_1") is None


@pytest.mark.parametrize("value", ["x'ff00'", "CAST(x'eda080' AS TEXT)"])
@pytest.mark.parametrize(
    "column", ["id", "event_id", "endpoint", "environment", "correlation_id", "migration_name"]
)
def test_a_name_that_is_no_text_costs_its_record_alone(
    outbox: Outbox, column: str, value: str
) -> None:
    """The other is delivered; every count has names that are text; it is found and discarded."""
    if isinstance(outbox, PostgresOutbox):
        pytest.skip("PostgreSQL keeps no such value")
    release(outbox, 1, 2)
    spoil(outbox, "deliveries", f"{column} = {value} WHERE id = 'dlv_a_1'")
    while claims := outbox.claim("a", environment="production", now=NOW, lease=LEASE):
        for claim in claims:
            is_bad = isinstance(claim.delivery, Unreadable)
            made = attempt(status_code=None, error_type="other") if is_bad else attempt()
            assert outbox.record(claim, made, DEAD if is_bad else DELIVERED)
    assert row_of(outbox, "dlv_a_2").state is State.DELIVERED  # type: ignore[union-attr]
    for environment, summary in outbox.summaries().items():
        for name in (environment, *summary.undelivered):
            assert isinstance(name, str)
            assert "\0" not in name
    [bad] = [row.delivery for row in outbox.deliveries() if isinstance(row.delivery, Unreadable)]
    [found] = outbox.look_up(bad.id)
    assert found.delivery == bad
    assert len(outbox.attempts(bad.id)) == found.attempts
    assert outbox.redeliver(bad.id, now=NOW)
    assert outbox.discard(bad.id, now=NOW)
    assert [row.delivery.id for row in outbox.deliveries()] == ["dlv_a_2"]


@pytest.mark.parametrize("column", ["id", "event_id", "correlation_id"])
@pytest.mark.parametrize("value", ["", "-1"])
def test_an_id_that_no_command_can_name_is_none(outbox: Outbox, column: str, value: str) -> None:
    """Empty, or like an option: the record is one that cannot be read, and has a name."""
    release(outbox, 1)
    spoil(outbox, "deliveries", f"{column} = '{value}'")
    [row] = outbox.deliveries()
    assert isinstance(row.delivery, Unreadable)
    assert row.delivery.id[:1].isalnum()
    assert outbox.named([row.delivery.id, "dlv_a_2"]) == [row]
    assert outbox.discard(row.delivery.id, now=NOW)


@pytest.mark.parametrize("since", ["9223372036854775807", "'soon'", "x'ff'"])
def test_an_endpoint_is_off_though_nobody_can_read_since_when(outbox: Outbox, since: str) -> None:
    """Nothing is sent to it until it is switched on."""
    if "'" in since and isinstance(outbox, PostgresOutbox):
        pytest.skip("PostgreSQL keeps no such value")
    release(outbox, 1)
    outbox.disable("a", "production", NOW)
    spoil(outbox, "endpoints", f"off_since = {since}")
    assert list(disabled(outbox, "production")) == ["a"]
    assert claim_ids(outbox) == []
    assert outbox.enable("a", "production")
    assert claim_ids(outbox) == ["dlv_a_1"]


def test_a_lease_without_an_end_holds_nothing(outbox: Outbox) -> None:
    """An operator redelivers or discards it."""
    release(outbox, 1, 2)
    spoil(outbox, "deliveries", "state = 'in_flight', is_ready = 0, token = 'x'")
    assert claim_ids(outbox) == []
    assert outbox.redeliver("dlv_a_1", now=NOW)
    assert outbox.discard("dlv_a_2", now=NOW)
    assert claim_ids(outbox) == ["dlv_a_1"]
    assert not outbox.redeliver("dlv_a_1", now=NOW)


@pytest.mark.parametrize(
    "change", ["state = 'in_flight', is_ready = 0, token = 'x'", "is_ready = 0", "is_ready = 7"]
)
def test_one_that_no_worker_takes_is_seen_and_keeps_no_other(outbox: Outbox, change: str) -> None:
    """The next of its run is sent; it counts as one that cannot be read, and is redelivered."""
    release_of(outbox, "x", 1, 2)
    spoil(outbox, "deliveries", f"{change} WHERE id = 'dlv_a_1'")
    assert claim_ids(outbox) == ["dlv_a_2"]
    row = row_of(outbox, "dlv_a_1")
    assert row is not None
    assert isinstance(row.delivery, Unreadable)
    assert outbox.redeliver("dlv_a_1", now=NOW)
    row = row_of(outbox, "dlv_a_1")
    assert row is not None
    assert not isinstance(row.delivery, Unreadable)


def test_a_state_of_another_version_is_listed(outbox: Outbox) -> None:
    """It counts and is found as pending, and is discarded like any other."""
    release(outbox, 1)
    spoil(outbox, "deliveries", "state = 'paused'")
    [row] = outbox.deliveries(state=State.PENDING)
    assert outbox.deliveries(state=State.DELIVERED) == []
    assert isinstance(row.delivery, Unreadable)
    assert outbox.summary("production").counts == {State.PENDING: 1}
    assert outbox.discard("dlv_a_1", now=NOW)


@pytest.mark.parametrize(
    "change",
    [
        "intent = 'x'",
        "intent = '[]'",
        "intent = '{}'",
        """intent = '{"event_id": 1}'""",
        *(
            f"intent = replace(intent, {had}, {has})"
            for had, has in [
                ("'4711'", "'true'"),
                ("'\"public.tb_confiture\"'", "'null'"),
                ("'\"ledger_table\"'", "'\"other\"'"),
                ("'\"has_lock\": true'", "'\"has_lock\": 1'"),
                ("'2020-01-09T14:23:45.123456+00:00'", "'0001-01-01T00:00:00+23:59'"),
                ("'2020-01-09T14:23:44.123456+00:00'", "'9999-12-31T23:59:59+00:00'"),
            ]
        ),
    ],
)
def test_an_intent_that_cannot_be_read_costs_itself_alone(outbox: Outbox, change: str) -> None:
    """The others are listed; it has a list of its own, and is discarded like any other."""
    outbox.stage(intent(1))
    outbox.stage(intent(2))
    spoil(outbox, "intents", f"{change} WHERE event_id = 'evt_1'")
    assert outbox.intents() == [intent(2)]
    [bad] = outbox.unreadable_intents()
    assert bad.event_id == "evt_1"
    assert bad.reason
    outbox.discard_intent(bad)
    assert not outbox.unreadable_intents()


@pytest.mark.parametrize(
    ("had", "has"),
    [
        ('"ended_at": "2', '"ended_at": "nine'),
        ('"duration_s": 1.5', '"duration_s": "1.5"'),
        ('"duration_s": 1.5', '"duration_s": NaN'),
        ('"duration_s": 1.5', '"duration_s": 1e999'),
        ('"rows_affected": 7', '"rows_affected": 7.5'),
    ],
)
def test_an_end_that_cannot_be_read_is_none(outbox: Outbox, had: str, has: str) -> None:
    """An intent whose recorded end is damaged is not believed: the ledger may say otherwise."""
    outbox.stage(intent(1))
    outbox.stage_committed(committed(1))
    spoil(outbox, "intents", f"intent = replace(intent, '{had}', '{has}')")
    assert outbox.intents() == []
    assert len(outbox.unreadable_intents()) == 1


@pytest.mark.parametrize(
    ("had", "has", "field"),
    [
        ("confiture migrate down", "x" * 100_000, "command"),
        ("confiture migrate down", "confiture {a}", "command"),
        ("https://ci.example/1", "javascript:alert(1)", "run_url"),
        ("https://traces.example/1", "https://user:word@traces.example/1", "trace_url"),
    ],
)
def test_what_others_write_for_labels_and_links_is_left_out(
    outbox: Outbox, had: str, has: str, field: str
) -> None:
    """It would become a label of metrics, or a link in a chat. The event is reported without it."""
    outbox.stage(intent(1))
    spoil(outbox, "intents", f"intent = replace(intent, '{had}', '{has}')")
    assert outbox.intents() == [replace(intent(1), **{field: None})]


@pytest.mark.parametrize("stored", ["''", "'-1'", "'evt_\x1b[31m'", "x'ff41'", "'caf\xe9'", "NULL"])
def test_an_intent_without_an_id_is_discarded_by_a_name_of_its_own(
    outbox: Outbox, stored: str
) -> None:
    """Whatever stands in the place of its id, it can be named, and only it goes."""
    if isinstance(outbox, PostgresOutbox) and stored[0] != "'":
        pytest.skip("its columns have types")
    outbox.stage(intent(1))
    outbox.stage(intent(2))
    spoil(outbox, "intents", f"event_id = {stored} WHERE event_id = 'evt_1'")
    [bad] = outbox.unreadable_intents()
    assert re.fullmatch("intent-[0-9a-f]{8}", bad.event_id)
    outbox.discard_intent(bad)
    assert not outbox.unreadable_intents()
    assert outbox.intents() == [intent(2)]


# Looking up


def test_a_delivery_is_found_by_what_people_have(outbox: Outbox) -> None:
    """By its id, its event's, its run's, or the beginning of one; an exact id before beginnings."""
    release_of(outbox, "x", 1, 12)
    release_of(outbox, "y", 2)
    for text, ids in {
        "dlv_a_1": ["dlv_a_1"],
        "evt_1": ["dlv_a_1"],
        "evt_": ["dlv_a_2", "dlv_a_12", "dlv_a_1"],
        "1" * 32: ["dlv_a_12", "dlv_a_1"],
        "222": ["dlv_a_2"],
        "dlv_a_12": ["dlv_a_12"],
        "nosuch": [],
        "": [],
        "%": [],
        "é\0": [],
    }.items():
        assert [row.delivery.id for row in outbox.look_up(text)] == ids, text


def test_each_filter_of_people_works(outbox: Outbox) -> None:
    """By environment, none included, by migration's version or name, by run and by event."""
    release_of(outbox, "x", 1)
    outbox.release("evt_2", [replace(delivery(2), environment=None, correlation_id=RUNS["y"])])
    filters: list[tuple[dict[str, Any], str]] = [
        ({"environment": "production"}, "dlv_a_1"),
        ({"environment": None}, "dlv_a_2"),
        ({"migration": "001"}, "dlv_a_1"),
        ({"migration": "002_add_café"}, "dlv_a_2"),
        ({"trace": RUNS["x"]}, "dlv_a_1"),
        ({"event_id": "evt_2"}, "dlv_a_2"),
    ]
    for wanted, found in filters:
        assert [row.delivery.id for row in outbox.deliveries(**wanted)] == [found]


def test_any_limit_is_one(outbox: Outbox) -> None:
    """One that no store can count to, too."""
    release(outbox, 1, 2)
    assert len(outbox.deliveries(limit=10**30)) == 2
    assert len(outbox.deliveries(limit=1)) == 1


def test_a_row_has_its_last_answer(outbox: Outbox) -> None:
    """The latest attempt's status, or why there was none."""
    release(outbox, 1)
    [row] = outbox.deliveries()
    assert row.last_answer is None
    finish(outbox, retry(NOW))
    claim = claim_one(outbox)
    outbox.record(claim, attempt(2, status_code=None, error_type="dns"), DEAD)
    [row] = outbox.deliveries()
    assert row.last_answer == "dns"
    assert row.last_attempt is not None
    assert row.last_attempt.number == 2


def test_an_instant_of_the_future_is_stored(outbox: Outbox) -> None:
    """The last that there is, too."""
    late = datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    outbox.release("evt_1", [delivery(1, created_at=late)])
    [row] = outbox.deliveries()
    assert row.delivery.created_at == late
