"""A run: what is reported of it, and that nothing it is made of can reach a migration."""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from psycopg.pq import TransactionStatus

from confiture_webhooks.bounded import bounded
from confiture_webhooks.config import Settings
from confiture_webhooks.delivery import State, TraceContext
from confiture_webhooks.end_signals import SIGHUP, SIGTERM
from confiture_webhooks.errors import OutboxError
from confiture_webhooks.event import (
    SUBSCRIBABLE,
    Database,
    Direction,
    ErrorInfo,
    EventType,
    MigrationRef,
    body,
    payload,
)
from confiture_webhooks.outbox.sqlite import InMemoryOutbox
from confiture_webhooks.retry import RetryPolicy
from confiture_webhooks.run import TELEMETRY_BUDGET, Parts, run_outbox
from confiture_webhooks.run.migration import Backend, Migration
from confiture_webhooks.run.recorder import Recorder
from confiture_webhooks.run.run import MOMENT_S, Run
from confiture_webhooks.settlement import Ending, Verdict, settled_event
from confiture_webhooks.testing import ScriptedTransport
from confiture_webhooks.transport import Request, Response
from confiture_webhooks.worker import Worker
from engines import FakeConnection
from fakes import Breaking, FakeSpan, FakeTelemetry, Joining
from samples import DATABASE, ERROR, REF, TRACE_ID, delivery, endpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import tzinfo

    from confiture_webhooks.endpoint import Endpoint

BACKEND = Backend(database=DATABASE, ledger_table="tb_confiture", backend_pid=7)
LATER = RetryPolicy(schedule=(timedelta(hours=1),))
"""No test waits for a second attempt."""
EVERYTHING = endpoint(name="all", events=SUBSCRIBABLE, retry=LATER)
UP, DOWN = Direction.UP, Direction.DOWN
SUMMARY = replace(EVERYTHING, events=frozenset({EventType.RUN_SUCCESS, EventType.RUN_ERROR}))


class Bench:
    """A run over fakes, any of which may be exchanged."""

    def __init__(self, *endpoints: Endpoint, **parts: Any) -> None:
        self.telemetry = FakeTelemetry()
        self.outbox = InMemoryOutbox()
        self.transport = ScriptedTransport()
        self.said: list[str] = []
        chosen = endpoints or (EVERYTHING,)
        log, place = parts.pop("log", None), parts.pop("place", "sqlite")
        self.settings = Settings(endpoints=chosen, environment="production", log=log, outbox=place)
        usual: dict[str, Any] = {
            "telemetry": lambda: self.telemetry,
            "outbox": lambda _: self.outbox,
            "transport": lambda: self.transport,
        }
        self.run = Run(self.settings, Parts(**usual | parts), self.said.append)

    def begin(self, direction: Direction = UP, ref: MigrationRef = REF) -> Migration:
        """A migration under way."""
        self.run.begin("confiture migrate up")
        migration = self.run.migration(ref, direction, BACKEND)
        assert migration is not None
        return migration

    def finish(self, error_type: str | None = None) -> list[dict[str, Any]]:
        """End the run; what was sent."""
        self.run.finish(error_type and ErrorInfo(type=error_type, message="the run failed"))
        return [json.loads(request.body) for request in self.transport.sent]

    def kinds(self, error_type: str | None = None) -> list[str]:
        """End the run; the types of what was sent, in order."""
        return [document["event_type"] for document in self.finish(error_type)]

    def faults(self) -> list[str]:
        """Every line that says something of ours is broken."""
        reported = [f"{where}: {error!r}" for where, error in self.telemetry.faults]
        return reported + [line for line in self.said if " failed (" in line]


def unknown(bench: Bench, direction: Direction, answer: bool | None) -> None:  # noqa: FBT001
    """A migration nobody saw end, of which the ledger says *answer*."""
    migration = bench.begin(direction)
    migration.error = ERROR
    bench.run.settle_later(migration, lambda: answer)


def test_a_run_in_which_nothing_happens_costs_nothing() -> None:
    """Without a migration no part of the run is even made."""

    def never(*_: Any) -> Any:
        raise AssertionError

    bench = Bench(telemetry=never, outbox=never, transport=never)
    bench.run.begin("confiture migrate up")
    assert bench.finish() == []
    assert bench.said == []


@pytest.mark.parametrize(
    ("direction", "kinds"),
    [
        (UP, ["migration_started", "migration_success", "run_success"]),
        (DOWN, ["migration_rollback", "run_success"]),
    ],
)
def test_a_migration_that_commits_is_reported(direction: Direction, kinds: list[str]) -> None:
    """A commit is reported by its event, with the run's summary after it."""
    bench = Bench()
    bench.run.conclude(bench.begin(direction), 5, None)
    assert bench.kinds() == kinds
    assert bench.telemetry.migrations() == [(REF.name, direction.value, None)]


@pytest.mark.parametrize(
    ("direction", "kinds"),
    [
        (UP, ["migration_started", "migration_error", "run_error"]),
        (DOWN, ["migration_rollback_error", "run_error"]),
    ],
)
def test_a_migration_that_fails_is_reported(direction: Direction, kinds: list[str]) -> None:
    """A failure is reported by its event, and the run's summary says why the run failed."""
    bench = Bench()
    bench.run.conclude(bench.begin(direction), None, ERROR)
    sent = bench.finish("Exit")
    assert [document["event_type"] for document in sent] == kinds
    assert (
        sent[-1]["error"]
        == sent[-2]["error"]
        == {
            "type": "UndefinedTable",
            "message": 'relation "nosuch" does not exist',
            "sqlstate": "42P01",
        }
    )
    assert bench.telemetry.migrations() == [(REF.name, direction.value, "UndefinedTable")]


def test_an_event_has_the_facts_of_its_migration() -> None:
    """Database, environment, direction, times and rows of a migration are in its event."""
    bench = Bench(endpoint(name="a", retry=LATER))
    bench.run.conclude(bench.begin(), 5, None)
    (document,) = bench.finish()
    assert document["database"] == {"host": DATABASE.host, "name": "shop", "schema": "public"}
    assert document["migration"] == {
        "environment": "production", "name": REF.name, "version": "005",
    }  # fmt: skip
    assert (document["direction"], document["trace_id"]) == ("up", TRACE_ID)
    execution = document["execution"]
    assert execution["rows_affected"] == 5
    assert execution["duration_seconds"] >= 0
    assert execution["start_time"] <= execution["end_time"]


def test_the_clock_of_a_migration_stops_once() -> None:
    """The end of a migration is when it ended, not when its event was made."""
    bench = Bench()
    migration = bench.begin()
    migration.stop_clock()
    first = (migration.ended_at, migration.duration_s)
    migration.stop_clock()
    assert (migration.ended_at, migration.duration_s) == first
    bench.finish()


def test_the_event_of_the_outcome_has_the_id_of_the_intent() -> None:
    """What was staged before the migration is released under the same id."""
    bench = Bench(endpoint(name="a", retry=LATER))
    migration = bench.begin()
    (intent,) = bench.outbox.intents()
    assert (intent.event_id, intent.ledger_table, intent.backend_pid) == (
        migration.event_id, "tb_confiture", 7,
    )  # fmt: skip
    assert intent.correlation_id == TRACE_ID
    bench.run.conclude(migration, None, None)
    (document,) = bench.finish()
    assert document["event_id"] == intent.event_id
    assert bench.outbox.intents() == []


def test_an_event_without_an_endpoint_is_staged_and_released_without_a_delivery() -> None:
    """An outcome no endpoint wants leaves nothing behind and sends nothing."""
    bench = Bench(endpoint(name="a", environments=frozenset({"staging"})))
    bench.run.conclude(bench.begin(), 1, None)
    assert bench.kinds() == []
    assert bench.outbox.intents() == []


def test_a_migration_that_cannot_commit_leaves_nothing_to_settle() -> None:
    """On a connection that is broken already nothing is staged; that it failed is reported."""
    bench = Bench()
    bench.run.begin("confiture migrate up")
    migration = bench.run.migration(REF, UP, replace(BACKEND, is_gone=True))
    assert migration is not None
    assert bench.outbox.intents() == []
    bench.run.conclude(migration, None, ErrorInfo(type="OperationalError", message="gone"))
    assert "migration_error" in bench.kinds()


@pytest.mark.parametrize("error", [None, ERROR])
def test_what_goes_with_a_commit_is_released_with_the_same_bytes(error: ErrorInfo | None) -> None:
    """The server dies after it: memory sends what the outbox holds; an error if it failed."""
    bench = Bench(endpoint(name="a", retry=LATER), place="postgres")
    bench.outbox = joining = Joining()
    connection = bench.run.connection = FakeConnection()
    migration = bench.begin()
    connection.info.transaction_status = TransactionStatus.INTRANS
    bench.run.committing(migration, 7, connection)
    connection.closed = True
    bench.run.conclude(migration, 7, error)
    [held] = joining.intents()
    bench.run.finish()
    success = settled_event(held, Verdict(ending=Ending.COMMITTED, reason=""), migration.started_at)
    [sent] = bench.transport.sent
    assert (sent.body == body(payload(success, "a"))) is (error is None)
    assert json.loads(sent.body)["execution"]["rows_affected"] == 7  # noqa: PLR2004


def test_what_went_with_a_commit_is_not_forgotten_when_the_ledger_is_asked() -> None:
    """Ctrl-C comes right after the COMMIT, or its answer is lost: the rows are reported."""
    bench = Bench(endpoint(name="a", retry=LATER), place="postgres")
    bench.outbox = Joining()
    connection = bench.run.connection = FakeConnection()
    migration = bench.begin()
    connection.info.transaction_status = TransactionStatus.INTRANS
    bench.run.committing(migration, 7, connection)
    connection.closed = True
    bench.run.settle_later(migration, lambda: True)
    [sent] = bench.finish()
    assert sent["execution"]["rows_affected"] == 7  # noqa: PLR2004


@pytest.mark.parametrize("stays", [True, False])
def test_after_a_kill_a_success_continues_the_trace_of_its_migration(stays: bool) -> None:
    """It is staged in the run's trace: the span of a migration begins later. A refusal changes nothing."""
    bench = Bench(place="postgres")
    bench.outbox = joining = Joining()
    connection = bench.run.connection = FakeConnection()
    migration = bench.begin()
    migration.span.trace = other = TraceContext(traceparent=f"00-{TRACE_ID}-{7:016x}-01")
    bench.run.committing(migration, 7, connection if stays else FakeConnection())
    [held] = joining.intents()
    assert (held.trace == other, held.committed == migration.recorded) == (stays, True)
    assert (migration.recorded is not None) is stays


def test_ctrl_c_while_an_intent_is_written_leaves_none() -> None:
    """The migration has not begun: a later run would report that it was interrupted."""
    bench = Bench()

    class Interrupted(InMemoryOutbox):
        def stage(self, intent: Any) -> None:
            super().stage(intent)
            raise KeyboardInterrupt

    bench.outbox = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        bench.begin()
    bench.finish("KeyboardInterrupt")
    assert bench.outbox.intents() == []


def test_of_two_that_are_expected_in_turn_the_first_leaves_nothing_to_settle() -> None:
    """It does not begin any more: the next run would report it as killed."""
    bench = Bench()
    bench.run.expect(REF, UP, BACKEND)
    bench.run.expect(REF, DOWN, BACKEND)
    bench.run.conclude(bench.begin(DOWN), 1, None)
    assert bench.outbox.intents() == []


def test_before_a_migration_the_outbox_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What killed runs have left comes with the staging, whether the migration was expected."""
    bench, asked = Bench(), []
    monkeypatch.setattr(bench.outbox, "intents", lambda: asked.append("intents") or [])
    bench.run.expect(REF, UP, BACKEND)
    bench.run.conclude(bench.begin(), 1, None)
    bench.run.conclude(bench.begin(DOWN), 1, None)
    assert asked == []


def test_a_started_event_goes_out_before_the_migration_ends() -> None:
    """``migration_started`` is on its way while the migration still runs."""
    bench = Bench()
    bench.begin()
    rows = bench.outbox.deliveries()
    assert [row.delivery.event_type for row in rows] == [EventType.MIGRATION_STARTED]
    bench.finish()


def test_a_started_event_that_cannot_be_made_costs_itself_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """How the migration ends is reported all the same."""
    monkeypatch.delattr(Migration, "started_event")
    bench = Bench()
    bench.run.conclude(bench.begin(), 1, None)
    assert bench.kinds() == ["migration_success", "run_success"]
    assert len(bench.faults()) == 1


def test_before_the_commit_nothing_is_made_for_an_outbox_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The transaction is open: the event is made when it is over."""
    bench = Bench()
    migration = bench.begin()
    with monkeypatch.context() as patched:
        patched.delattr(Migration, "ended_event")
        bench.run.committing(migration, 1, None)
    bench.run.conclude(migration, 1, None)
    assert bench.kinds() == ["migration_started", "migration_success", "run_success"]
    assert bench.faults() == []


def test_the_summary_lists_every_migration() -> None:
    """The event of the run lists its migrations, oldest first, each with how it ended."""
    bench = Bench(SUMMARY)
    bench.run.conclude(bench.begin(), 1, None)
    bench.run.conclude(bench.begin(ref=MigrationRef(version="006", slug="b")), None, ERROR)
    (document,) = bench.finish("Exit")
    rows = [(row["version"], row["direction"], row["status"]) for row in document["migrations"]]
    assert document["event_type"] == "run_error"
    assert rows == [("005", "up", "success"), ("006", "up", "error")]


def test_a_clock_that_is_set_back_does_not_shorten_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long a run took does not come from the clock on the wall."""

    class Back(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) - timedelta(hours=1)

    bench = Bench(SUMMARY)
    bench.run.conclude(bench.begin(), 1, None)
    monkeypatch.setattr("confiture_webhooks.run.run.datetime", Back)
    (document,) = bench.finish()
    assert 0 <= document["execution"]["duration_seconds"] < 60


def test_a_run_that_fails_before_any_migration_is_reported_when_somebody_wants_it() -> None:
    """A run without a single migration that fails is one ``run_error``."""
    bench = Bench(SUMMARY)
    bench.run.begin("confiture migrate up")
    (document,) = bench.finish("LockAcquisitionError")
    assert (document["event_type"], document["migrations"]) == ("run_error", [])
    assert document["error"]["type"] == "LockAcquisitionError"


def test_the_runs_span_reports_what_was_applied_and_why_it_failed() -> None:
    """The run's span ends with its counts, and with the failure's SQLSTATE."""
    bench = Bench()
    bench.run.conclude(bench.begin(), 1, None)
    bench.run.conclude(bench.begin(), None, ERROR)
    bench.finish()
    assert bench.telemetry.runs == [("confiture migrate up", DATABASE)]
    assert bench.telemetry.run_ends == [
        {"applied": 1, "failed": 1, "error_type": "42P01", "is_known": True}
    ]


@pytest.mark.parametrize(
    ("direction", "answer", "kind"),
    [
        (UP, True, "migration_success"),
        (UP, False, "migration_error"),
        (DOWN, False, "migration_rollback"),
        (DOWN, True, "migration_rollback_error"),
    ],
)
def test_the_ledger_settles_a_killed_migration(
    direction: Direction,
    answer: bool,
    kind: str,  # noqa: FBT001
) -> None:
    """A migration up happened when the ledger has it; one down when it has it no more."""
    bench = Bench(endpoint(name="a", retry=LATER))
    unknown(bench, direction, answer)
    (document,) = bench.finish()
    assert document["event_type"] == kind
    assert ("error" in document) is kind.endswith("error")


def test_an_interruption_without_a_known_cause_is_reported_as_one() -> None:
    """When the ledger says no and nobody knows why, the error is ``Interrupted``."""
    bench = Bench(endpoint(name="a", retry=LATER))
    bench.run.settle_later(bench.begin(), lambda: False)
    (document,) = bench.finish()
    assert document["error"]["type"] == "Interrupted"


def test_what_the_ledger_cannot_say_is_not_reported() -> None:
    """When the database does not answer, no event says how the migration ended; the user reads so."""
    bench = Bench()
    unknown(bench, UP, None)
    assert bench.kinds() == ["migration_started", "run_error"]
    assert len(bench.said) == 1
    assert REF.name in bench.said[0]
    assert [intent.migration for intent in bench.outbox.intents()] == [REF]
    assert bench.telemetry.migrations() == [(REF.name, "up", "Interrupted")]
    assert bench.telemetry.run_ends[0]["error_type"] == "Interrupted"


def test_a_ledger_that_breaks_costs_its_migration_alone() -> None:
    """When asking the ledger raises, the run's other events are still reported."""
    bench = Bench(endpoint(name="a", retry=LATER))
    bench.run.settle_later(bench.begin(), lambda: 1 // 0 == 0)
    unknown(bench, UP, True)
    assert bench.kinds() == ["migration_success"]
    assert len(bench.faults()) == 1


def test_finishing_twice_is_finishing_once() -> None:
    """A second ``finish`` sends nothing and says nothing."""
    bench = Bench()
    bench.run.conclude(bench.begin(), 1, None)
    bench.finish()
    before = list(bench.transport.sent), list(bench.telemetry.shutdowns)
    bench.run.finish(ErrorInfo(type="Exit", message="the run failed"))
    assert (bench.transport.sent, bench.telemetry.shutdowns) == before


def test_a_run_that_is_left_while_python_takes_itself_apart_waits_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No thread runs any more: what it recorded stays in the outbox."""
    bench = Bench()
    bench.run.conclude(bench.begin(), 1, None)
    monkeypatch.setattr(sys, "is_finalizing", lambda: True)
    bench.run.finish()
    assert bench.telemetry.shutdowns == []
    monkeypatch.undo()
    assert "migration_success" in bench.kinds()


def test_a_finished_run_records_nothing_more() -> None:
    """A migration after the end of the run is not watched."""
    bench = Bench()
    bench.finish()
    assert bench.run.migration(REF, UP, BACKEND) is None
    assert bench.outbox.intents() == []
    assert bench.faults() == []


def test_everything_is_closed_in_the_end() -> None:
    """The transport is stopped and closed, and telemetry is shut down within its budget."""
    bench = Bench()
    bench.run.conclude(bench.begin(), 1, None)
    bench.finish()
    assert bench.transport.is_closed
    (budget,) = bench.telemetry.shutdowns
    assert timedelta() < budget <= TELEMETRY_BUDGET


def test_an_outbox_that_cannot_be_opened_is_replaced_by_memory() -> None:
    """When the outbox cannot be opened, the run is reported from memory, and the reason once."""

    def refuse(_: Any) -> Any:
        raise OutboxError("disk full")

    bench = Bench(endpoint(name="a", retry=LATER), outbox=refuse)
    bench.run.conclude(bench.begin(), 1, None)
    assert bench.kinds() == ["migration_success"]
    assert bench.telemetry.outbox_failures == ["disk full"]
    assert bench.faults() == []


@pytest.mark.parametrize("method", ["stage", "release"])
@pytest.mark.parametrize("spared", [0, 1])
def test_an_outbox_that_refuses_on_the_way_is_replaced_by_memory(method: str, spared: int) -> None:
    """When a store fails in the middle of a run, nothing is lost: what it had, it keeps."""
    sent: list[Request] = []
    bench = Bench(endpoint(name="a", retry=LATER), transport=lambda: ScriptedTransport(sent=sent))
    store = bench.outbox
    bench.outbox = Breaking(store, method, OutboxError("disk full"), spared=spared)  # type: ignore[assignment]
    for ref in (REF, MigrationRef(version="006", slug="b")):
        bench.run.conclude(bench.begin(ref=ref), 1, None)
    bench.finish()
    reported = {request.headers["X-Migration-Version"] for request in sent}
    kept = {row.delivery.migration_version for row in store.deliveries(state=State.PENDING)}
    assert reported | kept == {"005", "006"}
    assert "006" in reported
    assert bench.telemetry.outbox_failures == ["disk full"]
    assert bench.faults() == []


def test_what_is_left_is_reported_in_one_line() -> None:
    """A delivery that is not made in time is in the line the run ends with."""
    bench = Bench(endpoint(name="a", retry=LATER))
    bench.transport = ScriptedTransport({"a": [503]})
    bench.run.conclude(bench.begin(), 1, None)
    bench.finish()
    (line,) = bench.said
    assert line.startswith("confiture-webhooks: 1 delivery not sent (a: 1, last answer 503)")
    assert "lost with this process" in line


def test_what_an_earlier_run_left_is_sent_by_a_run_without_a_migration() -> None:
    """A run in which nothing happens delivers what is left over."""
    left = InMemoryOutbox()
    left.release("evt_1", [delivery(endpoint="a")])
    bench = Bench(
        endpoint(name="a", retry=LATER), outbox=lambda _: left, has_leftovers=lambda: True
    )
    bench.finish()
    assert [request.headers["webhook-id"] for request in bench.transport.sent] == ["evt_1"]
    assert bench.telemetry.runs == []


def test_a_run_that_fails_before_its_first_migration_has_a_span() -> None:
    """No endpoint gets it and no outbox is made, but the trace has the failed run."""
    bench = Bench(endpoint(name="a", events=frozenset({EventType.MIGRATION_SUCCESS})))
    bench.run.begin("confiture migrate up")
    bench.run.finish(ErrorInfo(type="ChecksumMismatchError", message="the run failed"))
    assert [command for command, _ in bench.telemetry.runs] == ["confiture migrate up"]
    (end,) = bench.telemetry.run_ends
    assert end == {
        "applied": 0,
        "failed": 0,
        "error_type": "ChecksumMismatchError",
        "is_known": True,
    }
    assert list(bench.outbox.summaries()) == []
    assert len(bench.telemetry.shutdowns) == 1


def test_a_failed_run_without_a_failed_migration_is_reported_by_default() -> None:
    """Whoever has the default events gets run_error when no migration's event reports it."""
    bench = Bench(
        endpoint(name="default"),
        endpoint(name="chosen", events=frozenset({EventType.MIGRATION_ERROR})),
    )
    bench.run.begin("confiture migrate up")
    bench.run.database = Database(name="shop")
    (sent,) = bench.finish("ChecksumVerificationError")
    assert (sent["event_type"], sent["webhook_target"]) == ("run_error", "default")
    assert sent["database"]["name"] == "shop"
    assert sent["run"]["command"] == "confiture migrate up"
    assert sent["error"]["type"] == "ChecksumVerificationError"


def test_a_failed_migration_reports_its_run_by_itself() -> None:
    """By default there is no second event for one failure."""
    bench = Bench(endpoint(name="default"))
    bench.run.conclude(bench.begin(), None, ERROR)
    assert bench.kinds("MigrationError") == ["migration_error"]


def test_a_run_with_nothing_to_do_is_counted_where_it_is_seen() -> None:
    """With an exporter it has a span and a success; no event, and no outbox."""
    bench = Bench(exports=lambda: True)
    bench.run.begin("confiture migrate up")
    assert bench.finish() == []
    assert bench.telemetry.run_ends == [
        {"applied": 0, "failed": 0, "error_type": None, "is_known": True}
    ]
    assert list(bench.outbox.summaries()) == []


class Hanging(ScriptedTransport):
    """Answers nothing until it is aborted."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._free = threading.Event()

    def send(self, request: Request, **terms: Any) -> Response:
        self._free.wait(20)
        return super().send(request, **terms)

    def abort(self) -> None:
        super().abort()
        self._free.set()


def test_ctrl_c_while_waiting_ends_the_wait_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C during the flush is said in a line; the command's own end is not touched."""

    def pressed(*_: Any, **__: Any) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(Worker, "drain", pressed)
    bench = Bench(SUMMARY)
    bench.transport = Hanging()
    bench.run.conclude(bench.begin(), 1, None)
    assert bench.run.finish()
    assert bench.transport.is_closed
    assert bench.said[0].startswith("confiture-webhooks: interrupted")
    assert len(bench.telemetry.shutdowns) == 1


@pytest.mark.parametrize("came", [SIGTERM, SIGHUP])
def test_a_signal_to_end_while_waiting_leaves_receivers_a_moment(
    monkeypatch: pytest.MonkeyPatch, came: type[KeyboardInterrupt]
) -> None:
    """They are waited for as after a signal to a migration: for five seconds at most."""
    waits, wait = list[timedelta](), Worker.drain

    def drain(worker: Worker, budget: timedelta, **rest: Any) -> bool:
        waits.append(budget)
        if len(waits) == 1:
            raise came
        return wait(worker, budget, **rest)

    monkeypatch.setattr(Worker, "drain", drain)
    bench = Bench(SUMMARY)
    bench.run.conclude(bench.begin(), 1, None)
    assert bench.run.finish() is False
    assert bench.said == []
    first, second = waits
    assert first > timedelta(seconds=5) >= second > timedelta(seconds=4)


def test_ctrl_c_a_second_time_ends_at_once() -> None:
    """Ctrl-C during the clean-up does not reach the command either."""
    bench = Bench()
    bench.telemetry.shutdown = Breaking(None, "shutdown", KeyboardInterrupt()).shutdown  # type: ignore[method-assign]
    bench.run.conclude(bench.begin(), 1, None)
    assert bench.run.finish()
    assert bench.faults() == []


@pytest.mark.parametrize("method", ["give_back", "record"])
def test_ctrl_c_before_the_run_is_concluded_leaves_it_counted(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second Ctrl-C costs the event of the run at most: the number and the span say it failed."""
    bench = Bench()
    bench.run.expect(REF, UP, BACKEND)
    monkeypatch.setattr(Recorder, method, Breaking(None, method, KeyboardInterrupt())._call)
    assert bench.run.finish(ErrorInfo(type="KeyboardInterrupt", message="the run failed"))
    assert [end["error_type"] for end in bench.telemetry.run_ends] == ["KeyboardInterrupt"]


def test_ctrl_c_while_the_end_of_a_migration_is_written_again_loses_no_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first comes when it ends, the second when the run writes what is left: it is written."""
    bench, presses, record = Bench(), [KeyboardInterrupt, KeyboardInterrupt], Recorder.record
    migration = bench.begin()

    def pressed(recorder: Recorder, *event: Any) -> None:
        if presses:
            raise presses.pop()
        record(recorder, *event)

    monkeypatch.setattr(Recorder, "record", pressed)
    with pytest.raises(KeyboardInterrupt):
        bench.run.conclude(migration, 1, None)
    assert bench.run.finish(ErrorInfo(type="KeyboardInterrupt", message="the run failed"))
    kinds = {row.delivery.event_type for row in bench.outbox.deliveries()}
    assert EventType.MIGRATION_SUCCESS in kinds


def test_a_run_that_nobody_interrupts_says_so() -> None:
    """A run that ends by itself, and one that has ended already, was not interrupted."""
    bench = Bench()
    bench.run.conclude(bench.begin(), 1, None)
    assert bench.run.finish() is False
    assert bench.run.finish() is False


def whole_run(bench: Bench) -> None:
    """Everything a run can be asked to do."""
    bench.run.begin("confiture migrate up")
    run = bench.run
    ends: list[tuple[Direction, Callable[[Migration], None]]] = [
        (UP, lambda migration: run.conclude(migration, 1, None)),
        (UP, lambda migration: run.conclude(migration, None, ERROR)),
        (DOWN, lambda migration: run.settle_later(migration, lambda: False)),
        (UP, lambda migration: run.settle_later(migration, lambda: None)),
    ]
    for direction, end in ends:
        migration = bench.run.migration(REF, direction, BACKEND)
        if migration is not None:
            end(migration)
    bench.run.finish(ErrorInfo(type="Exit", message="the run failed"))


def breaking(part: str, method: str) -> Callable[[Bench], None]:
    """Break *method* of *part*."""

    def apply(bench: Bench) -> None:
        broken = Breaking(getattr(bench, part), method, ZeroDivisionError())
        setattr(bench, part, broken)

    return apply


PORTS = {
    "telemetry": [
        "correlation_id", "start_run", "end_run", "migration", "trace_of_run", "delivery",
        "observe_outbox", "shutdown",
    ],
    "outbox": ["stage", "release", "claim", "record", "summaries", "close"],
    "transport": ["send", "abort", "close"],
}  # fmt: skip
EVERY_CALL = [(part, method) for part, methods in PORTS.items() for method in methods]


@pytest.mark.parametrize(("part", "method"), EVERY_CALL)
def test_nothing_a_part_raises_leaves_the_run(part: str, method: str) -> None:
    """Whichever call of whichever part breaks, the run goes on and says so in one line."""
    bench = Bench()
    breaking(part, method)(bench)
    whole_run(bench)
    assert len(bench.faults()) == 1, bench.faults()


@pytest.mark.parametrize("part", ["telemetry", "outbox", "transport"])
def test_a_part_that_cannot_be_made_is_one_line(part: str) -> None:
    """When making a part raises, every call of the run still returns, with one line."""

    def refuse(*_: Any) -> Any:
        raise ZeroDivisionError

    bench = Bench(**{part: refuse})
    whole_run(bench)
    assert len(bench.faults()) == 1, bench.faults()


def test_left_overs_that_cannot_be_looked_for_are_one_line() -> None:
    """When looking for left-overs raises, the run ends with one line."""

    def refuse() -> bool:
        raise ZeroDivisionError

    bench = Bench(has_leftovers=refuse)
    bench.finish()
    assert len(bench.faults()) == 1
    assert " failed (ZeroDivisionError)" in bench.said[0]


@pytest.mark.parametrize("method", ["finish", "attempt", "attempt_failed"])
def test_nothing_a_span_raises_leaves_the_run(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever call of a span breaks, the run goes on and says so."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(FakeSpan, method, refuse)
    bench = Bench()
    bench.transport = ScriptedTransport({"all": ["dns"]})
    whole_run(bench)
    assert bench.faults()


def test_a_fault_of_ours_is_said_where_nothing_is_logged() -> None:
    """With the log off, a run that may lack webhooks has a line for people."""
    bench = Bench(log="off")
    breaking("telemetry", "migration")(bench)
    whole_run(bench)
    (said,) = [line for line in bench.said if " failed (" in line]
    assert "webhooks of this run may be missing" in said


def test_telemetry_that_cannot_even_report_leaves_it_to_the_console() -> None:
    """When reporting a fault breaks too, one line on the console says it."""
    bench = Bench()
    breaking("transport", "close")(bench)
    breaking("telemetry", "failed")(bench)
    whole_run(bench)
    said = [line for line in bench.said if " failed (" in line]
    assert len(said) == 1
    assert "close failed (ZeroDivisionError)" in said[0]


def test_a_fault_is_reported_without_its_text() -> None:
    """The line names where and which class of error; an error's text may hold anything."""

    def refuse(*_: Any) -> Any:
        raise ValueError("canary")

    bench = Bench(telemetry=refuse)
    whole_run(bench)
    assert "migration failed (ValueError)" in bench.said[0]
    assert not any("canary" in line for line in bench.said)


@pytest.mark.parametrize("silent", ["intents", "stage", "release"])
def test_a_silent_outbox_is_waited_for_once_while_the_transaction_is_open(
    silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No lock of the host's is held for it; what it does not take is recorded afterwards."""
    monkeypatch.setattr(run_outbox, "PATIENCE_S", 20)
    bench, free = Bench(), threading.Event()
    call = getattr(bench.outbox, silent)
    monkeypatch.setattr(bench.outbox, silent, lambda *args: (free.wait(20), call(*args))[1])
    bench.run.ask = bench.run.ask_here = lambda _: {}
    backend = replace(BACKEND, is_idle=False)
    migration = bounded(lambda: bench.run.migration(REF, UP, backend), 5)
    free.set()
    assert migration is not None
    bench.run.conclude(migration, 1, None)
    assert bench.kinds() == ["migration_started", "migration_success", "run_success"]


@pytest.mark.parametrize(("flush_s", "left_s"), [(10, 8), (3, 1), (1, MOMENT_S), (0, 0)])
def test_the_wait_for_a_silent_outbox_is_taken_off_the_end(flush_s: float, left_s: float) -> None:
    """Receivers then have that much less time, but for a moment."""
    bench = Bench()
    whole_run(bench)
    assert bench.run._settling is not None
    outbox = bench.run._settling.recorder.outbox
    outbox.waited_s = 3.0
    before = time.monotonic()
    deadline = bench.run.end_within(timedelta(seconds=flush_s))
    assert before + left_s <= deadline <= time.monotonic() + left_s
    assert outbox.deadline == deadline - MOMENT_S  # receivers have a moment after it
