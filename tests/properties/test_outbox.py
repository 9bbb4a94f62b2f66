"""The outbox against a model: whatever two workers, crashes and operators do to it."""

from __future__ import annotations

import string
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from confiture_webhooks.delivery import Attempt, Decision, Delivery, Outcome, State, TraceContext
from confiture_webhooks.event import EventType
from confiture_webhooks.outbox import Claim, Outbox, Row
from contract.acts import disabled
from contract.conftest import sqlite
from contract.made import A_SECOND, NOW, attempt, delivery, event_id, intent
from often import often
from outbox_databases import emptied

ENDPOINTS = ("a", "b")
NUMBERS = st.integers(0, 7)
WORKERS = st.integers(0, 1)
UNDELIVERED = (State.PENDING, State.IN_FLIGHT)


@dataclass
class Kept:
    """A delivery as the model knows it."""

    delivery: Delivery
    due_at: datetime
    state: State = State.PENDING
    lease_until: datetime | None = None
    token: str | None = None
    tries: int = 0
    attempts: list[Attempt] = field(default_factory=list)
    finished_at: datetime = NOW

    @property
    def claimable_at(self) -> datetime:
        return self.lease_until or self.due_at

    def row(self) -> Row:
        return Row(
            delivery=self.delivery,
            state=self.state,
            attempts=len(self.attempts),
            next_attempt_at=self.due_at if self.state is State.PENDING else None,
        )


class OutboxMachine(RuleBasedStateMachine):
    """Two workers on one store, and a model of what it must hold."""

    kind: Callable[[Path], Callable[[], Outbox]]

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.open = type(self).kind(Path(self.directory.name))
        self.outboxes = [self.open(), self.open()]
        # A worker that has read another's intent ends that one's leases when it releases it.
        self.reader = self.open()
        self.now = NOW
        self.intents: set[int] = set()
        self.released: set[int] = set()
        self.kept: list[Kept] = []
        self.off: dict[str, datetime] = {}
        self.claims: list[Claim] = []

    def teardown(self) -> None:
        for outbox in (*self.outboxes, self.reader):
            outbox.close()
        self.directory.cleanup()

    def held(self, claim: Claim) -> Kept | None:
        """The delivery of *claim*, if its lease is not lost."""
        return next((one for one in self.kept if one.token == claim.token), None)

    def is_held(self, endpoint: str) -> bool:
        """Whether a lease holds the run, of which all deliveries are."""
        return any(
            one.delivery.endpoint == endpoint
            and one.lease_until is not None
            and one.lease_until > self.now
            for one in self.kept
        )

    @initialize(count=st.integers(0, 3))
    def begin(self, count: int) -> None:
        """Most of what matters happens to deliveries, so begin with some."""
        for number in range(count):
            self.release(0, number, {"a"})

    @rule(worker=WORKERS, number=NUMBERS)
    def stage(self, worker: int, number: int) -> None:
        self.outboxes[worker].stage(intent(number))
        if number not in self.released:
            self.intents.add(number)

    @rule(worker=WORKERS, number=NUMBERS, endpoints=st.sets(st.sampled_from(ENDPOINTS)))
    def release(self, worker: int, number: int, endpoints: set[str]) -> None:
        """Release an event, maybe not for the first time."""
        deliveries = [
            delivery(number, endpoint, created_at=self.now) for endpoint in sorted(endpoints)
        ]
        self.outboxes[worker].release(event_id(number), deliveries)
        if number not in self.released:
            self.kept += [Kept(one, due_at=self.now) for one in deliveries]
        self.released.add(number)
        self.intents.discard(number)

    @rule(
        worker=WORKERS,
        endpoint=st.sampled_from(ENDPOINTS),
        lease_s=st.sampled_from([30, 90]),
        limit=st.integers(1, 3),
    )
    def claim(self, worker: int, endpoint: str, lease_s: int, limit: int) -> None:
        lease = timedelta(seconds=lease_s)
        claims = self.outboxes[worker].claim(
            endpoint, environment="production", now=self.now, lease=lease, limit=limit
        )
        is_open = endpoint not in self.off and not self.is_held(endpoint)
        expected = self.claimable(endpoint)[:limit] if is_open else []
        assert [claim.delivery for claim in claims] == [one.delivery for one in expected]
        for claim, one in zip(claims, expected, strict=True):
            assert (claim.attempts, claim.tries) == (len(one.attempts), one.tries)
            assert claim.token not in {other.token for other in self.claims}
            one.state, one.token = State.IN_FLIGHT, claim.token
            one.lease_until = self.now + lease
        self.claims += claims

    def claimable(self, endpoint: str) -> list[Kept]:
        """What a claim may return, in the order it must."""
        return [
            one
            for one in self.kept
            if one.delivery.endpoint == endpoint
            and one.state in UNDELIVERED
            and one.claimable_at <= self.now
        ]

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        """A worker dies with a claim in its hand."""
        self.claims.remove(data.draw(st.sampled_from(self.claims)))

    @rule(seconds=st.sampled_from([1, 30, 60, 90]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @precondition(lambda self: self.claims)
    @rule(
        data=st.data(),
        worker=WORKERS,
        outcome=st.sampled_from(Outcome),
        wait_s=st.sampled_from([0, 1, 30, 200]),
        status_code=st.none() | st.sampled_from([200, 410, 503]),
    )
    def record(
        self,
        data: st.DataObject,
        worker: int,
        outcome: Outcome,
        wait_s: int,
        status_code: int | None,
    ) -> None:
        """Record under a claim, which may be lost or used up; a record that is there stands."""
        claim = data.draw(st.sampled_from(self.claims))
        made = attempt(claim.attempts + 1, at=self.now, status_code=status_code)
        if status_code is None:
            made = replace(made, error_type="timeout")
        at = self.now + timedelta(seconds=wait_s) if outcome is Outcome.RETRY else None
        decision = Decision(outcome=outcome, next_attempt_at=at)
        one = self.held(claim)
        same = {(made.number, made.started_at, made.duration)}
        is_known = any(
            kept.delivery.id == claim.delivery.id
            and same & {(a.number, a.started_at, a.duration) for a in kept.attempts}
            for kept in self.kept
        )
        is_recorded = self.outboxes[worker].record(claim, made, decision) is not None
        assert is_recorded == (one is not None or is_known)
        if one is not None:
            one.attempts.append(made)
            one.tries += 1
            one.state, one.token, one.lease_until = outcome.state, None, None
            one.due_at = at or one.due_at
            one.finished_at = self.now
            if outcome is Outcome.GONE:
                self.off.setdefault(one.delivery.endpoint, self.now)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), worker=WORKERS)
    def give_back(self, data: st.DataObject, worker: int) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        self.outboxes[worker].give_back(claim)
        if one := self.held(claim):
            one.state, one.token, one.lease_until = State.PENDING, None, None

    @precondition(lambda self: self.kept)
    @rule(data=st.data(), worker=WORKERS)
    def redeliver(self, data: st.DataObject, worker: int) -> None:
        one = data.draw(st.sampled_from(self.kept))
        can = one.state is not State.IN_FLIGHT or one.claimable_at <= self.now
        assert self.outboxes[worker].redeliver(one.delivery.id, now=self.now) == can
        if can:
            one.state, one.tries, one.due_at = State.PENDING, 0, self.now
            one.token, one.lease_until = None, None

    @precondition(lambda self: self.kept)
    @rule(data=st.data(), worker=WORKERS)
    def discard(self, data: st.DataObject, worker: int) -> None:
        """An operator drops a delivery, whose event is not released again."""
        one = data.draw(st.sampled_from(self.kept))
        can = one.state is not State.IN_FLIGHT or one.claimable_at <= self.now
        assert self.outboxes[worker].discard(one.delivery.id, now=self.now) == can
        if can:
            self.kept.remove(one)

    @rule(worker=WORKERS, age_s=st.sampled_from([0, 30, 300]), keep=st.integers(0, 4))
    def prune(self, worker: int, age_s: int, keep: int) -> None:
        before = self.now - timedelta(seconds=age_s)
        delivered = [one for one in self.kept if one.state is State.DELIVERED]
        # A stable sort: of what ended at one instant, the first released goes first.
        delivered.sort(key=lambda one: one.finished_at)
        surplus = len(delivered) - keep
        pruned = [
            one
            for place, one in enumerate(delivered)
            if place < surplus or one.finished_at < before
        ]
        assert self.outboxes[worker].prune(before=before, keep=keep) == len(pruned)
        self.kept = [one for one in self.kept if all(one is not gone for gone in pruned)]

    @rule(worker=WORKERS, endpoint=st.sampled_from(ENDPOINTS))
    def disable(self, worker: int, endpoint: str) -> None:
        self.outboxes[worker].disable(endpoint, "production", self.now)
        self.off.setdefault(endpoint, self.now)

    @rule(worker=WORKERS, endpoint=st.sampled_from(ENDPOINTS))
    def enable(self, worker: int, endpoint: str) -> None:
        assert self.outboxes[worker].enable(endpoint, "production") == (endpoint in self.off)
        self.off.pop(endpoint, None)

    @rule(worker=WORKERS)
    def restart(self, worker: int) -> None:
        """A worker's process ends and another one opens the store."""
        self.outboxes[worker].close()
        self.outboxes[worker] = self.open()

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        first, second = self.outboxes
        assert list(first.deliveries()) == [one.row() for one in reversed(self.kept)]
        assert {one.event_id for one in self.reader.intents()} == set(map(event_id, self.intents))
        assert disabled(second, "production") == self.off
        for one in self.kept:
            assert list(first.attempts(one.delivery.id)) == one.attempts

    @invariant()
    def sums_up_truly(self) -> None:
        summary = self.outboxes[1].summary("production")
        open_ones = [one for one in self.kept if one.state in UNDELIVERED]
        assert sum(summary.counts.values()) == len(self.kept)
        for state in State:
            assert summary.counts.get(state, 0) == sum(one.state is state for one in self.kept)
        for endpoint in ENDPOINTS:
            assert summary.undelivered.get(endpoint, 0) == sum(
                one.delivery.endpoint == endpoint for one in open_ones
            )
        made_at = [one.delivery.created_at for one in open_ones]
        assert summary.oldest_at == min(made_at, default=None)

    @invariant()
    def knows_when_to_look_again(self) -> None:
        """A worker that sleeps until next_due_at finds something then, and misses nothing."""
        for endpoint in ENDPOINTS:
            due_at = self.outboxes[0].next_due_at(endpoint, "production")
            waits = [
                one.claimable_at
                for one in self.kept
                if one.delivery.endpoint == endpoint and one.state in UNDELIVERED
            ]
            if endpoint in self.off or not waits:
                assert due_at is None
            elif self.is_held(endpoint):  # whoever waits for the run looks when its lease ends
                assert due_at is not None
                assert due_at <= min(
                    one.lease_until
                    for one in self.kept
                    if one.delivery.endpoint == endpoint and (one.lease_until or NOW) > self.now
                )
            elif min(waits) <= self.now:
                assert due_at is not None
                assert due_at <= self.now
            else:
                assert due_at == min(waits)


class SqliteMachine(OutboxMachine):
    """The machine over a SQLite file."""

    kind = staticmethod(sqlite)


TestSqlite = SqliteMachine.TestCase
TestSqlite.settings = settings(max_examples=often(200), stateful_step_count=40, deadline=None)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_postgres(outbox_database: str) -> None:
    """The machine over PostgreSQL: each example begins with an emptied outbox."""

    class PostgresMachine(OutboxMachine):
        kind = staticmethod(lambda _: emptied(outbox_database))

    # An example asks a server some thousand questions: fewer of them.
    run_state_machine_as_test(
        PostgresMachine,
        settings=settings(max_examples=often(15), stateful_step_count=40, deadline=None),
    )


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
"""Any characters, NUL and those that no UTF-8 can carry apart."""
NAMES = st.text(alphabet=string.ascii_letters + string.digits + "-_. \u00e9", min_size=1)
HEADERS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30).map(str.strip)
"""What a header carries as it is."""
IDS = HEADERS.filter(lambda one: one[:1].isalnum())
"""What a command line can name, too."""
INSTANTS = st.datetimes(
    min_value=datetime(1971, 1, 1), max_value=datetime(2199, 1, 1), timezones=st.just(UTC)
)
DELIVERIES = st.builds(
    Delivery,
    id=IDS,
    event_id=st.just("evt"),
    event_type=st.sampled_from(EventType),
    endpoint=NAMES,
    body=st.binary(),
    content_type=HEADERS,
    trace=st.builds(TraceContext, traceparent=HEADERS, tracestate=st.none() | HEADERS),
    correlation_id=IDS,
    created_at=INSTANTS,
    migration_version=st.none() | TEXT,
    migration_name=st.none() | TEXT,
    environment=st.none() | NAMES,
)


@pytest.mark.survived("Any bytes and any text in stored rows", "kept")
@given(one=DELIVERIES, now=INSTANTS)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_whatever_is_released_comes_back_equal_from_postgres(
    outbox_database: str, one: Delivery, now: datetime
) -> None:
    """Any text that a header carries, any bytes and any instant of a delivery survive the database."""
    with closing(emptied(outbox_database)()) as outbox:
        outbox.release(one.event_id, [one])
        [claim] = outbox.claim(one.endpoint, environment=one.environment, now=now, lease=A_SECOND)
        assert claim.delivery == one


@pytest.mark.survived("Any bytes and any text in stored rows", "kept")
@given(one=DELIVERIES, now=INSTANTS)
@settings(max_examples=often(100), deadline=None)
def test_whatever_is_released_comes_back_equal(one: Delivery, now: datetime) -> None:
    """Any text that a header carries, any bytes and any instant survive the file."""
    with tempfile.TemporaryDirectory() as directory:
        outbox = sqlite(Path(directory))()
        outbox.release(one.event_id, [one])
        outbox.close()
        outbox = sqlite(Path(directory))()
        [claim] = outbox.claim(one.endpoint, environment=one.environment, now=now, lease=A_SECOND)
        assert claim.delivery == one
        outbox.close()
