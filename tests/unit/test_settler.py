"""Settling: whom a run asks, when, and what it reports of the answer."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from confiture_webhooks.config import Settings
from confiture_webhooks.delivery import TraceContext
from confiture_webhooks.errors import OutboxError
from confiture_webhooks.event import (
    SUBSCRIBABLE,
    Database,
    Direction,
    Event,
    EventType,
    MigrationRef,
)
from confiture_webhooks.outbox import NO_ROW, Committed, Intent
from confiture_webhooks.outbox.sqlite import InMemoryOutbox
from confiture_webhooks.run import Parts, settling
from confiture_webhooks.run.migration import Backend
from confiture_webhooks.run.recorder import Recorder
from confiture_webhooks.run.run import Run
from confiture_webhooks.run.settling import examine, settle_outbox
from confiture_webhooks.settlement import Ending, Known, LedgerRow, settled_event
from confiture_webhooks.telemetry import Telemetry
from confiture_webhooks.testing import ScriptedTransport
from contract.made import NOW, intent
from fakes import FakeTelemetry
from samples import DATABASE, REF, delivery, endpoint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

KILLED = replace(
    intent(5),
    direction=Direction.UP,
    database_identity="7/1",
    timeline=None,
    ledger_oid=None,
    ledger_before=NO_ROW,
    ledger_read_at=NOW,
    environment="production",
)
END = Committed(started_at=NOW, ended_at=NOW, duration_s=1.5, rows_affected=7)


class Database7:
    """The database of the intents, their backends gone, with the ledger rows of *versions*."""

    def __init__(self, *versions: str) -> None:
        self.versions = versions
        self.asked: list[list[str]] = []

    def ask(self, intents: Sequence[Intent]) -> Mapping[str, Known]:
        self.asked.append([intent.migration.version for intent in intents])
        row = LedgerRow(id="new", applied_at=NOW, execution_time_ms=20)
        return {
            intent.event_id: Known(
                identity="7/1",
                timeline=None,
                database=Database(),
                row=row if intent.migration.version in self.versions else None,
            )
            for intent in intents
        }


class Bench:
    """A run over an outbox with intents of killed runs in it."""

    def __init__(self, *intents: Intent, ask: Any = None, **wants: Any) -> None:
        self.telemetry = FakeTelemetry()
        self.outbox = InMemoryOutbox()
        self.transport = ScriptedTransport()
        self.said: list[str] = []
        for one in intents:
            self.outbox.stage(one)
        settings = Settings(endpoints=(endpoint(name="a", **wants),), environment="production")
        parts = Parts(
            telemetry=lambda: self.telemetry,  # type: ignore[arg-type, return-value]
            outbox=lambda _: self.outbox,
            transport=lambda: self.transport,
            has_leftovers=lambda: True,
        )
        self.run = Run(settings, parts, self.said.append)
        self.run.ask = ask

    def sent(self) -> list[tuple[str, str]]:
        """End the run; event id and type of what was sent, in order."""
        self.run.finish()
        return [
            (request.headers["webhook-id"], request.headers["X-Confiture-Event"])
            for request in self.transport.sent
        ]


def backend_after(killed: Intent, **terms: Any) -> Backend:
    """The backend of a run that finds *killed* in its own database."""
    place = {
        "timeline": killed.timeline,
        "ledger_oid": killed.ledger_oid,
        "database_identity": "7/1",
    }
    known: dict[str, Any] = {"ledger_before": NO_ROW, **place, **terms}
    return Backend(database=Database(), ledger_table=killed.ledger_table, **known)


def test_a_run_that_migrates_nothing_settles() -> None:
    """At its end, one question for all: committed is reported, and what is not there, too."""
    other = replace(KILLED, event_id="evt_6", migration=MigrationRef(version="006", slug="b"))
    database = Database7("005")
    bench = Bench(KILLED, other, ask=database.ask)
    assert bench.sent() == [("evt_5", "migration_success"), ("evt_6", "migration_error")]
    assert database.asked == [["005", "006"]]
    assert bench.outbox.intents() == []
    assert [event.id for event, _ in bench.telemetry.settlements] == ["evt_5", "evt_6"]
    trace = TraceContext(traceparent=KILLED.traceparent, tracestate=KILLED.tracestate)
    assert {found.traceparent for _, found in bench.telemetry.settlements} == {trace.traceparent}


@pytest.mark.parametrize("is_over", [True, False])
def test_an_event_that_went_with_its_commit_is_sent_as_it_is(is_over: bool) -> None:
    """As it was recorded. Its run counts as killed only if the database says that it is over."""
    killed = replace(KILLED, committed=END)
    database = Database7()

    def ask(intents: Sequence[Intent]) -> Mapping[str, Known]:
        found = database.ask(intents)
        return found if is_over else {}

    bench = Bench(ask=ask)
    bench.outbox.stage_committed(killed)
    assert bench.sent() == [("evt_5", "migration_success")]
    document = json.loads(bench.transport.sent[0].body)
    assert document["execution"]["rows_affected"] == END.rows_affected
    assert document["execution"]["duration_seconds"] == END.duration_s
    assert document["run"] == {"command": KILLED.command, "url": KILLED.run_url}
    assert document["trace_url"] == KILLED.trace_url
    assert bench.outbox.intents() == []
    assert len(bench.telemetry.settlements) == is_over


def test_one_that_cannot_be_reported_costs_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours in front of other killed runs is reported, and they are settled."""
    other = replace(
        KILLED, event_id="evt_6", holder="b", migration=MigrationRef(version="006", slug="b")
    )

    def odd(intent: Intent, *known: Any) -> Event:
        if intent.event_id == "evt_5":
            raise ValueError
        return settled_event(intent, *known)

    monkeypatch.setattr(settling, "settled_event", odd)
    bench = Bench(KILLED, other, ask=Database7("005", "006").ask)
    assert bench.sent() == [("evt_6", "migration_success")]
    assert [where for where, _ in bench.telemetry.faults] == ["settle"]


def test_an_event_that_has_just_committed_is_left_to_its_run() -> None:
    """That makes its deliveries in a moment, for the endpoints that it knows."""
    end = replace(END, ended_at=datetime.now(UTC))
    bench = Bench(ask=lambda _: {})
    bench.outbox.stage_committed(replace(KILLED, committed=end))
    assert bench.sent() == []
    assert len(bench.outbox.intents()) == 1


def test_an_event_of_a_wrong_clock_waits_for_no_run() -> None:
    """Dated days ahead it is sent at once, not on that day."""
    end = replace(END, ended_at=datetime.now(UTC) + timedelta(days=3))
    bench = Bench(ask=lambda _: {})
    bench.outbox.stage_committed(replace(KILLED, committed=end))
    assert bench.sent() == [("evt_5", "migration_success")]


@pytest.mark.parametrize("is_committed", [True, False])
@pytest.mark.parametrize("looks", ["a run", "a worker"])
def test_a_run_that_ends_while_it_is_looked_at_was_not_killed(
    looks: str, is_committed: bool
) -> None:
    """Its intent was read before, and its process is gone after: nothing says that it failed."""
    on_call = endpoint(name="a", events=frozenset({EventType.RUN_ERROR}))
    database = Database7("005")

    def ask(intents: Sequence[Intent]) -> Mapping[str, Known]:
        bench.outbox.release(KILLED.event_id, [delivery(event_id=KILLED.event_id)])
        return database.ask(intents)

    bench = Bench(ask=ask, events=on_call.events)
    bench.outbox.stage_committed(replace(KILLED, committed=END if is_committed else None))
    if looks == "a run":
        bench.sent()
    else:
        settle_outbox(bench.outbox, [on_call], ask, Telemetry(), environment="production")
    assert database.asked == [["005"]]
    assert [row.delivery.event_id for row in bench.outbox.deliveries()] == [KILLED.event_id]


def test_an_event_that_went_with_its_commit_is_no_failure_of_a_later_run() -> None:
    """A version that is applied again, after a rollback elsewhere, takes nothing back."""
    bench = Bench()
    killed = replace(KILLED, committed=END)
    bench.outbox.stage_committed(killed)
    migration = bench.run.migration(killed.migration, Direction.UP, backend_after(killed))
    assert migration is not None
    bench.run.conclude(migration, 0, None)
    assert [kind for _, kind in bench.sent()] == ["migration_success"] * 2


def test_what_was_staged_is_reported_not_what_is_now() -> None:
    """Correlation id and trace are the intent's, not the settling run's."""
    bench = Bench(KILLED, ask=Database7("005").ask)
    bench.sent()
    (request,) = bench.transport.sent
    assert request.headers["X-Correlation-ID"] == KILLED.correlation_id
    assert request.headers["traceparent"] == KILLED.traceparent


def test_the_same_version_is_settled_before_it_runs_again() -> None:
    """Before it begins anew, the earlier one's end is asked for; others wait."""
    other = replace(KILLED, event_id="evt_6", migration=MigrationRef(version="006", slug="b"))
    database = Database7()
    bench = Bench(KILLED, other, ask=database.ask)
    bench.run.ask = bench.run.ask_here = database.ask
    ref = MigrationRef(version="005", slug="add_café")
    backend = Backend(database=Database(), ledger_table="tb_confiture")
    migration = bench.run.migration(ref, Direction.UP, backend)
    assert database.asked == [["005"]]
    assert migration is not None
    assert {one.event_id for one in bench.outbox.intents()} == {migration.event_id, "evt_6"}
    database.versions = ("005",)
    bench.run.conclude(migration, 1, None)
    assert bench.sent() == [
        ("evt_5", "migration_error"),
        (migration.event_id, "migration_success"),
        ("evt_6", "migration_error"),
    ]


@pytest.mark.survived(
    "A run of another environment repeats a killed run's migration", "kept", "true"
)
@pytest.mark.parametrize("way", Direction)
@pytest.mark.parametrize("before", [(), ("005",)])
def test_another_environments_run_is_seen_before_the_same_version_runs_again(
    way: Direction, before: tuple[str, ...]
) -> None:
    """It is reported by its own environment, as it was before this run changed the ledger."""
    killed = replace(KILLED, environment="staging")
    database = Database7(*before)
    bench = Bench(killed, ask=database.ask)
    bench.run.ask_here = database.ask
    migration = bench.run.migration(killed.migration, way, backend_after(killed))
    assert migration is not None
    database.versions = ("005",) if way is Direction.UP else ()
    bench.run.conclude(migration, 1, None)
    assert [event_id for event_id, _ in bench.sent()] == [migration.event_id]
    found = endpoint(name="a", events=SUBSCRIBABLE)
    assert (
        settle_outbox(bench.outbox, [found], database.ask, Telemetry(), environment="staging") == []
    )
    kinds = [row.delivery.event_type for row in bench.outbox.deliveries(event_id="evt_5")]
    assert kinds == [EventType.MIGRATION_SUCCESS if before else EventType.MIGRATION_ERROR]


def test_an_intent_of_another_environment_that_may_not_be_written_costs_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The role may lack a right on its row: the run goes on with its outbox."""
    killed = replace(KILLED, environment="staging")
    bench = Bench(killed, ask=Database7().ask)
    bench.run.ask_here = Database7().ask

    def refuse(*_: Any) -> None:
        raise OutboxError("outbox: refused")

    monkeypatch.setattr(bench.outbox, "stage_committed", refuse)
    migration = bench.run.migration(killed.migration, Direction.UP, backend_after(killed))
    assert migration is not None
    bench.run.conclude(migration, 1, None)
    assert bench.sent() == [(migration.event_id, "migration_success")]
    assert bench.telemetry.outbox_failures == []


def test_a_run_that_is_killed_between_two_migrations_of_another_is_settled() -> None:
    """Without the lock in between, it may come at any time: its success is not undone by a down."""
    bench, database = Bench(), Database7("005")
    bench.run.ask = bench.run.ask_here = database.ask
    first = bench.run.migration(REF, Direction.UP, backend_after(KILLED))
    assert first is not None
    bench.run.conclude(first, 0, None)
    bench.outbox.stage(KILLED)
    backend = backend_after(KILLED, ledger_before="new")
    down = bench.run.migration(KILLED.migration, Direction.DOWN, backend)
    assert down is not None
    database.versions = ()
    bench.run.conclude(down, 0, None)
    assert dict(bench.sent())[KILLED.event_id] == "migration_success"


def test_what_ctrl_c_kept_from_beginning_is_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no migration that failed, and its run, which ends in order, was not killed."""
    bench = Bench(events=frozenset({EventType.MIGRATION_STARTED}))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as now:
        now.setattr(Recorder, "record", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bench.run.migration(REF, Direction.UP, backend_after(KILLED))
    assert len(bench.outbox.intents()) == 1
    assert bench.sent() == []
    assert bench.outbox.intents() == []


def test_the_connection_that_migrates_is_asked_before_any_other() -> None:
    """What runs again is settled over it, in this thread, and over no second session."""
    other, threads = Database7(), []
    known = Database7("005").ask([KILLED])

    def here(_: Any) -> Mapping[str, Known]:
        threads.append(threading.current_thread())
        return known

    bench = Bench(KILLED)
    bench.run.ask, bench.run.ask_here = other.ask, here
    backend = Backend(database=Database(), ledger_table="tb_confiture")
    bench.run.migration(KILLED.migration, Direction.UP, backend)
    assert (threads, other.asked) == ([threading.current_thread()], [])
    bench = Bench(KILLED)
    bench.run.ask, bench.run.ask_here = other.ask, (lambda _: {})
    bench.run.migration(KILLED.migration, Direction.UP, backend)
    assert other.asked == []


def test_what_a_later_run_applied_did_not_commit_before() -> None:
    """What could not be settled before its version ran again is, when that has been applied."""
    left = replace(KILLED, has_lock=False, backend_pid=None, database_identity="7/1")
    bench = Bench(left)
    bench.run.ask = bench.run.ask_here = lambda _: {}
    backend = backend_after(left)
    migration = bench.run.migration(left.migration, Direction.UP, backend)
    assert migration is not None
    bench.run.conclude(migration, 1, None)
    kinds = [kind for _, kind in bench.sent()]
    assert sorted(kinds) == ["migration_error", "migration_success"]  # of two runs


@pytest.mark.parametrize(
    ("version", "differs"),
    [
        ("006", {}),
        ("005", {"timeline": 2}),
        ("005", {"ledger_oid": 2}),
        ("005", {"database_identity": "7/2"}),
        ("005", {"ledger_before": "old"}),
    ],
)
def test_a_later_run_says_nothing_of_other_work(version: str, differs: dict[str, Any]) -> None:
    """Of another version, or where the ledger before it was another: it stays unsettled."""
    left = replace(KILLED, has_lock=False, backend_pid=None, database_identity="7/1")
    bench = Bench(left, ask=lambda _: {})
    ref = replace(left.migration, version=version)
    migration = bench.run.migration(ref, Direction.UP, backend_after(left, **differs))
    assert migration is not None
    bench.run.conclude(migration, 1, None)
    assert [kind for _, kind in bench.sent()] == ["migration_success"]
    assert bench.outbox.intents() == [left]


@pytest.mark.parametrize(
    ("direction", "ledger_before", "versions"),
    [(Direction.UP, NO_ROW, ("005",)), (Direction.DOWN, "old", ())],
)
def test_an_outbox_that_was_silent_when_its_version_ran_again_makes_no_success(
    direction: Direction, ledger_before: str, versions: tuple[str, ...]
) -> None:
    """The ledger then has what this run did: the killed one's attempt did not commit."""
    killed = replace(
        KILLED,
        direction=direction,
        ledger_before=ledger_before,
        ledger_read_at=NOW,
        database_identity="7/1",
    )
    bench = Bench(killed, ask=Database7(*versions).ask)
    answers = threading.Event()
    stage = bench.outbox.stage
    bench.outbox.stage = lambda one: answers.wait(20) and stage(one)  # type: ignore[assignment, method-assign, return-value]
    backend = backend_after(killed, ledger_before=ledger_before, is_idle=False)
    migration = bench.run.migration(killed.migration, direction, backend)
    answers.set()
    assert migration is not None
    bench.run.conclude(migration, 1, None)
    own, other = sorted(bench.sent(), key=lambda one: one[0] == killed.event_id)
    assert own[0] == migration.event_id
    assert not own[1].endswith("error")
    assert other == (killed.event_id, f"migration_{'rollback_' * bool(not versions)}error")


class PassingClock:
    """A sleep is over at once, and the clock stands at its end."""

    def __init__(self) -> None:
        self.passed = 0.0

    def monotonic(self) -> float:
        return self.passed

    def sleep(self, seconds: float) -> None:
        self.passed += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> PassingClock:
    """The time of the settler."""
    clock = PassingClock()
    monkeypatch.setattr(settling, "time", clock)
    return clock


def test_the_time_a_slow_outbox_takes_is_not_left_for_the_question(
    clock: PassingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Intents that are read for three of five seconds leave two: the run ends in time."""
    bench, waits = Bench(KILLED), []
    intents = bench.outbox.intents
    monkeypatch.setattr(bench.outbox, "intents", lambda: clock.sleep(3) or intents())
    monkeypatch.setattr(settling, "answered", lambda _, seconds: waits.append(seconds))
    bench.run._opened().record_killed(Database7().ask, 5.0)
    assert waits == [2.0]


def test_an_outbox_that_memory_stood_in_for_makes_no_success_either() -> None:
    """It works again when the run ends: the killed one's intent is an error there, to be sent."""
    killed = replace(KILLED, ledger_before=NO_ROW, ledger_read_at=NOW, database_identity="7/1")
    bench = Bench(killed, ask=Database7("005").ask)
    bench.outbox.is_durable = True
    stage = bench.outbox.stage

    def refuse_once(_: Intent) -> Sequence[Intent]:
        bench.outbox.stage = stage  # type: ignore[method-assign]
        raise OutboxError("not now")

    bench.outbox.stage = refuse_once  # type: ignore[method-assign]
    bench.outbox.close = lambda: None  # type: ignore[method-assign]
    backend = backend_after(killed)
    migration = bench.run.migration(killed.migration, Direction.UP, backend)
    assert migration is not None
    bench.run.conclude(migration, 1, None)
    assert bench.sent() == [(migration.event_id, "migration_success")]
    [row] = bench.outbox.deliveries()
    assert (row.delivery.event_id, row.delivery.event_type.value) == ("evt_5", "migration_error")
    assert bench.outbox.intents() == []


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("environment", ["production", "staging"])
@pytest.mark.parametrize("has_lock", [True, False])
def test_a_process_that_has_just_let_go_of_the_lock_is_waited_for(
    has_lock: bool, environment: str
) -> None:
    """With the lock in our hands it is about to be gone: settled as soon as it is, not taken on.

    The end of another environment's is noted then.
    """
    killed = replace(KILLED, has_lock=True, backend_started_at=NOW, environment=environment)
    gone = Database7()
    asked: list[object] = []

    def here(intents: Sequence[Intent]) -> Mapping[str, Known]:
        asked.append(intents)
        known = gone.ask(intents)
        if len(asked) < 3:
            parting = replace(known["evt_5"], has_pid=True, pid_started_at=NOW)
            return {"evt_5": parting}
        return known

    bench = Bench(killed)
    bench.run.ask, bench.run.ask_here = (lambda _: {}), here
    backend = Backend(database=Database(), ledger_table="tb_confiture", has_lock=has_lock)
    bench.run.migration(killed.migration, Direction.UP, backend)
    assert len(asked) == (3 if has_lock else 1)
    assert (killed in bench.outbox.intents()) is not has_lock


def test_one_that_stays_is_not_waited_for_without_end(clock: PassingClock) -> None:
    """A process that lives on without its lock costs the wait once, and is not reported."""
    killed = replace(KILLED, has_lock=True, backend_started_at=NOW)

    def here(intents: Sequence[Intent]) -> Mapping[str, Known]:
        known = Database7().ask(intents)["evt_5"]
        return {"evt_5": replace(known, has_pid=True, pid_started_at=NOW)}

    bench = Bench(killed)
    bench.run.ask = bench.run.ask_here = here
    backend = Backend(database=Database(), ledger_table="tb_confiture", has_lock=True)
    assert bench.run.migration(killed.migration, Direction.UP, backend) is not None
    assert clock.passed >= settling.PARTING_S
    assert killed in bench.outbox.intents()


def test_another_environments_intent_is_left_to_it() -> None:
    """Whom it is reported to, and how, is in that environment's configuration."""
    killed = replace(KILLED, environment="staging")
    database = Database7("005")
    bench = Bench(killed, ask=database.ask)
    assert bench.sent() == []
    telemetry: Any = FakeTelemetry()
    settle_outbox(bench.outbox, [], database.ask, telemetry, environment="production")
    assert bench.outbox.intents() == [killed]


@pytest.mark.parametrize("committed", [None, END])
def test_another_environments_end_that_is_not_known_is_not_noted(
    committed: Committed | None,
) -> None:
    """This run has done its work since; or its COMMIT took its end along, and its run may go on."""
    killed = replace(KILLED, environment="staging", committed=committed)
    bench = Bench()
    bench.run.ask_here = lambda _: {}
    bench.outbox.stage_committed(killed)
    migration = bench.run.migration(killed.migration, Direction.UP, backend_after(killed))
    assert migration is not None
    bench.run.conclude(migration, 1, None)
    assert bench.sent() == [(migration.event_id, "migration_success")]
    assert bench.outbox.intents() == [killed]


def test_a_run_does_not_settle_its_own() -> None:
    """An intent that this run staged and could not conclude is another command's to settle."""
    database = Database7()
    bench = Bench(ask=database.ask)
    backend = Backend(
        database=DATABASE,
        ledger_table="tb_confiture",
        backend_pid=4711,
        database_identity="7/1",
        ledger_before=NO_ROW,
    )
    bench.run.migration(REF, Direction.UP, backend)
    assert bench.sent() == []
    (left,) = bench.outbox.intents()
    assert [verdict.is_settled for _, verdict in examine([left], database.ask, 5)] == [True]


def test_a_database_that_says_nothing_leaves_intents() -> None:
    """No answer, no way to ask: nothing is reported and nothing raised."""
    for ask in (lambda _: {}, None):
        bench = Bench(KILLED, ask=ask)
        assert bench.sent() == []
        assert bench.outbox.intents() == [KILLED]
        assert bench.telemetry.faults == []


def test_a_database_that_falls_silent_is_waited_for_so_long_only() -> None:
    """A question without an answer ends in time, and its intent is unsettled."""
    silence = threading.Event()

    def ask(_: Any) -> Mapping[str, Known]:
        silence.wait(20)
        return {}

    started = time.monotonic()
    [(_, verdict)] = examine([KILLED], ask, 0.1)
    silence.set()
    assert time.monotonic() - started < 10
    assert verdict.ending is Ending.UNSETTLED


def test_two_that_settle_at_once_make_one_event() -> None:
    """The second settlement of an intent that both have read changes nothing."""
    outbox = InMemoryOutbox()
    outbox.stage(KILLED)
    endpoints = [endpoint(name="a")]
    telemetry: Any = FakeTelemetry()

    def meanwhile(intents: Sequence[Intent]) -> Mapping[str, Known]:
        settle_outbox(outbox, endpoints, Database7("005").ask, telemetry, environment="production")
        return Database7().ask(intents)

    assert settle_outbox(outbox, endpoints, meanwhile, telemetry, environment="production") == []
    (row,) = outbox.deliveries()
    assert (row.delivery.event_id, row.delivery.event_type) == ("evt_5", "migration_success")


@pytest.mark.parametrize("first", ["005", "006"])
def test_a_killed_run_is_reported_once_however_many_of_its_migrations_are_settled(
    first: str,
) -> None:
    """Those that are settled together are listed; what is settled later adds no second event."""
    outbox = InMemoryOutbox()
    outbox.stage(KILLED)
    outbox.stage(replace(KILLED, event_id="evt_6", migration=MigrationRef(version="006", slug="b")))
    runs = [endpoint(name="on-call", events=frozenset({EventType.RUN_ERROR}))]
    telemetry: Any = FakeTelemetry()

    def one(intents: Sequence[Intent]) -> Mapping[str, Known]:
        asked = [intent for intent in intents if intent.migration.version == first]
        return Database7("005").ask(asked)

    settle_outbox(outbox, runs, one, telemetry, environment="production")
    settle_outbox(outbox, runs, Database7("005").ask, telemetry, environment="production")
    (row,) = outbox.deliveries()
    assert row.delivery.event_type == "run_error"
    document = json.loads(row.delivery.body)
    assert document["run"] == {"command": KILLED.command, "url": KILLED.run_url}
    assert document["trace_url"] == KILLED.trace_url
    assert outbox.intents() == []


def test_a_run_that_reported_its_unknown_end_is_not_reported_again() -> None:
    """Whoever settles its migration later gives the run's event the same id."""
    bench = Bench(events=frozenset({EventType.RUN_ERROR}))
    backend = Backend(
        database=Database(),
        ledger_table="t",
        backend_pid=4711,
        database_identity="7/1",
        ledger_before=NO_ROW,
    )
    migration = bench.run.migration(REF, Direction.UP, backend)
    assert migration is not None
    bench.run.settle_later(migration, lambda: None)
    [(event_id, kind)] = bench.sent()
    assert kind == "run_error"
    telemetry: Any = bench.telemetry
    runs = [endpoint(name="a", events=frozenset({EventType.RUN_ERROR}))]
    settle_outbox(bench.outbox, runs, Database7().ask, telemetry, environment="production")
    assert bench.outbox.intents() == []
    assert [row.delivery.event_id for row in bench.outbox.deliveries()] == [event_id]


def test_what_is_left_is_returned_with_the_reason() -> None:
    """Who settles an outbox learns what stays, and why."""
    outbox = InMemoryOutbox()
    outbox.stage(replace(KILLED, database_identity="8/1"))
    telemetry: Any = FakeTelemetry()
    [(left, verdict)] = settle_outbox(
        outbox, [], Database7().ask, telemetry, environment="production"
    )
    assert (left.event_id, verdict.ending) == ("evt_5", Ending.UNSETTLED)


def test_telemetry_reports_a_settlement_in_the_runs_trace(capsys: Any) -> None:
    """The log line of a settlement has the killed run's ids."""
    outbox = InMemoryOutbox()
    outbox.stage(replace(KILLED, staged_at=NOW - timedelta(hours=1)))
    settle_outbox(outbox, [], Database7().ask, Telemetry(log="json"), environment="production")
    line = capsys.readouterr().err
    assert '"event": "migration.failed"' in line
    assert f'"trace_id": "{"a" * 32}"' in line
    assert f'"correlation_id": "{KILLED.correlation_id}"' in line
    assert '"error_type": "Interrupted"' in line


def test_a_fault_in_settling_keeps_no_worker_from_delivering() -> None:
    """Whatever the question raises is reported once, and the intent stays."""

    def broken(_: object) -> Mapping[str, Known]:
        raise ZeroDivisionError

    outbox = InMemoryOutbox()
    outbox.stage(KILLED)
    telemetry: Any = FakeTelemetry()
    assert settle_outbox(outbox, [], broken, telemetry, environment="production") == []
    assert [where for where, _ in telemetry.faults] == ["settle"]
    assert outbox.intents() == [KILLED]
    bench = Bench(KILLED, ask=broken)
    bench.outbox.release("evt_1", [delivery(endpoint="a")])
    assert bench.sent() == [("evt_1", "migration_success")]
    assert len(bench.telemetry.faults) == 1


def test_a_killed_run_is_sent_after_its_migrations_and_counted_by_one_process() -> None:
    """Its ``run_error`` follows the last migration; who settles it second measures nothing."""
    other = replace(KILLED, event_id="evt_6", migration=MigrationRef(version="006", slug="b"))
    both = frozenset({EventType.MIGRATION_ERROR, EventType.RUN_ERROR})
    endpoints = [endpoint(name="a", events=both)]
    outbox, measured = InMemoryOutbox(), FakeTelemetry()
    killed = [replace(one, holder="a run") for one in (KILLED, other)]
    for one in killed:
        outbox.stage(one)
    found = outbox.intents()
    for _ in range(2):
        outbox.intents = lambda: found  # type: ignore[method-assign]
        settle_outbox(
            outbox,
            endpoints,
            Database7().ask,
            measured,  # type: ignore[arg-type]
            environment="production",
        )
    kinds = [row.delivery.event_type for row in reversed(outbox.deliveries())]
    assert kinds == ["migration_error", "migration_error", "run_error"]
    assert [event.id for event, _ in measured.settlements] == ["evt_5", "evt_6"]
