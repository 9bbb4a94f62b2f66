"""The watch over an engine: everything goes through unchanged, and what ended how is reported."""

from __future__ import annotations

from enum import Enum
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from confiture_webhooks.adapters import confiture
from confiture_webhooks.adapters.backend import dsn_of
from confiture_webhooks.adapters.confiture import Commit, observe
from confiture_webhooks.adapters.ledger import Ledger
from confiture_webhooks.event import Direction, ErrorInfo
from engines import FakeConnection, FakeEngine, a_migration


class Phase(Enum):
    """The host's two phases, by their names."""

    BEFORE_EXECUTE = 1
    AFTER_EXECUTE = 2


class Reported:
    """One migration as the run gets it."""

    def __init__(self, ref: Any, direction: Direction, backend: Any) -> None:
        self.ref = ref
        self.backend = backend
        self.direction = direction
        self.error: ErrorInfo | None = None
        self.end: tuple[Any, ...] = ("nothing",)

    def stop_clock(self) -> None:
        pass


class FakeRun:
    """Records migrations, or raises."""

    def __init__(self, error: Exception | None = None) -> None:
        self.reported: list[Reported] = []
        self.reports: list[str] = []
        self.hurries: list[bool] = []
        self._error = error
        self.has_hooks = False
        self.dsn = "host=127.0.0.1 port=1"

    def migration(self, ref: Any, direction: Direction, backend: Any) -> Reported:
        if self._error is not None:
            raise self._error
        self.reported.append(Reported(ref, direction, backend))
        return self.reported[-1]

    def conclude(
        self,
        migration: Reported,
        rows: int | None,
        error: ErrorInfo | None,
        *,
        is_idle: bool = True,
    ) -> None:
        self.hurries.append(not is_idle)
        migration.end = ("succeeded", rows) if error is None else ("failed", error.type)

    def settle_later(self, migration: Reported, ask: Any) -> None:
        migration.end = ("unknown", ask.args)

    def report(self, where: str, error: BaseException) -> None:
        self.reports.append(f"{where}: {type(error).__name__}")

    @property
    def ends(self) -> list[tuple[Any, ...]]:
        return [reported.end for reported in self.reported]


class Counting(FakeEngine):
    """An engine whose migration runs statements between the host's two hooks."""

    def __init__(self, *tags: str) -> None:
        super().__init__()
        self._tags = tags
        self.hooks: list[str] = []

    def apply(self, migration: Any, force: bool = False, *_: Any, **options: Any) -> str:  # noqa: FBT001, FBT002
        self._trigger_hook(Phase.BEFORE_EXECUTE, migration)
        cursor = self.connection.cursor()
        for tag in self._tags:
            cursor._results = [SimpleNamespace(status=1, command_status=tag.encode())]
            cursor.execute("x")
        self._execute_sql("INSERT INTO ledger")
        self._trigger_hook(Phase.AFTER_EXECUTE, migration)
        self.connection.cursor().execute("after the hook")
        return "applied"

    def _trigger_hook(self, phase: Phase, _: Any) -> None:
        self.hooks.append(phase.name)

    def _execute_sql(self, query: str) -> None:
        cursor = self.connection.cursor()
        cursor._results = [SimpleNamespace(status=1, command_status=b"INSERT 0 1")]
        cursor.execute(query)


def watched(engine: Any, run: Any = None) -> FakeRun:
    """The run that reports *engine*."""
    run = run or FakeRun()
    observe(engine, run)
    return run  # type: ignore[no-any-return]


def test_arguments_and_results_go_through() -> None:
    """The engine is called as it was, and answers what it answered."""
    engine: Any = FakeEngine()
    watched(engine)
    assert engine.apply(a_migration(), True, None, applied_by="dba") == "applied"
    assert engine.apply(migration=a_migration(), force=False) == "applied"
    assert engine.rollback(a_migration(), skip_preconditions=True) == "rolled back"
    assert engine.applied == [("005", True, {"applied_by": "dba"}), ("005", False, {})]
    assert engine.rolled_back == ["005"]


def test_each_way_is_reported_as_what_it_is() -> None:
    """An apply is a migration up, a rollback one down, each with its version and name."""
    engine: Any = FakeEngine()
    run = watched(engine)
    engine.apply(a_migration())
    engine.rollback(a_migration())
    assert [reported.direction for reported in run.reported] == [Direction.UP, Direction.DOWN]
    assert {reported.ref.name for reported in run.reported} == {"005_add_payment_table"}
    assert [end[0] for end in run.ends] == ["succeeded", "succeeded"]


def test_a_rehearsal_is_not_reported() -> None:
    """``commit=False`` is the engine's business alone."""
    engine: Any = FakeEngine()
    run = watched(engine)
    assert engine.apply(a_migration(), commit=False) == "applied"
    assert run.reported == []


def test_an_inactive_engine_is_not_reported() -> None:
    """While it is not active, an engine applies and rolls back without a report."""
    engine: Any = FakeEngine()
    run: Any = FakeRun()
    observe(engine, run, lambda _: False)
    engine.apply(a_migration())
    engine.rollback(a_migration())
    assert run.reported == []


@pytest.mark.parametrize("verb", ["apply", "rollback"])
def test_an_error_goes_through_and_is_reported(verb: str) -> None:
    """The host gets the very error that was raised."""
    error = ZeroDivisionError()
    engine: Any = FakeEngine(error)
    run = watched(engine)
    with pytest.raises(ZeroDivisionError) as caught:
        getattr(engine, verb)(a_migration())
    assert caught.value is error
    assert run.ends == [("failed", "ZeroDivisionError")]


def test_when_the_connection_broke_only_the_ledger_knows() -> None:
    """A COMMIT whose answer was lost may have happened: the ledger is to be asked."""

    class Breaking(FakeEngine):
        def apply(self, *values: Any, **options: Any) -> str:
            self.connection.closed = True
            return super().apply(*values, **options)

    engine: Any = Breaking(psycopg.OperationalError("gone"))
    run = watched(engine)
    with pytest.raises(psycopg.OperationalError):
        engine.apply(a_migration())
    assert run.ends == [("unknown", ("tb_confiture", "005"))]
    assert run.reported[0].error is not None
    assert run.reported[0].error.type == "OperationalError"


@pytest.mark.parametrize("verb", ["apply", "rollback"])
def test_on_a_connection_that_was_broken_already_nothing_commits(verb: str) -> None:
    """A migration that begins after the connection broke has failed: nobody need be asked."""
    engine: Any = FakeEngine(psycopg.OperationalError("gone"))
    run = watched(engine)
    engine.connection.closed = True
    with pytest.raises(psycopg.OperationalError):
        getattr(engine, verb)(a_migration())
    assert run.ends == [("failed", "OperationalError")]
    assert run.reported[0].backend.is_gone


def test_after_ctrl_c_only_the_ledger_knows() -> None:
    """Ctrl-C may have come after the COMMIT."""
    engine: Any = FakeEngine(KeyboardInterrupt())
    run = watched(engine)
    with pytest.raises(KeyboardInterrupt):
        engine.apply(a_migration())
    assert run.ends == [("unknown", ("tb_confiture", "005"))]


def test_of_a_forced_application_the_ledger_says_nothing() -> None:
    """A forced re-application writes no second row, so the ledger is not asked."""
    engine: Any = FakeEngine(KeyboardInterrupt())
    run = watched(engine)
    with pytest.raises(KeyboardInterrupt):
        engine.apply(a_migration(), force=True)
    assert run.ends == [("failed", "KeyboardInterrupt")]


def test_rows_are_counted_between_the_hosts_hooks() -> None:
    """What the migration ran counts; the ledger's row and what follows do not."""
    engine: Any = Counting("INSERT 0 2", "UPDATE 3")
    factory = engine.connection.cursor_factory
    run = watched(engine)
    engine.apply(a_migration())
    assert run.ends == [("succeeded", 5)]
    assert engine.hooks == ["BEFORE_EXECUTE", "AFTER_EXECUTE"]
    assert engine.connection.cursor_factory is factory


def test_rows_of_one_migration_are_not_the_nexts() -> None:
    """Each migration has a count of its own."""
    engine: Any = Counting("INSERT 0 2")
    run = watched(engine)
    engine.apply(a_migration("005"))
    engine.apply(a_migration("006"))
    assert run.ends == [("succeeded", 2), ("succeeded", 2)]


def test_a_count_that_cannot_begin_costs_nothing() -> None:
    """When the connection cannot be watched, the migration runs and its rows are unknown."""

    class Rigid(FakeConnection):
        """Its cursors cannot be changed."""

        @property
        def cursor_factory(self) -> Any:  # type: ignore[override]
            return super().cursor_factory

    engine: Any = Counting("INSERT 0 2")
    engine.connection = Rigid()
    run = watched(engine)
    assert engine.apply(a_migration()) == "applied"
    assert run.ends == [("succeeded", None)]
    assert run.reports == ["observing the connection: AttributeError"]


def test_an_engine_that_cannot_be_judged_migrates() -> None:
    """A fault of ours in whether to watch it costs its webhooks alone, in every method."""
    engine: Any = FakeEngine()
    engine.find_pending = lambda: ["005_add_payment_table.up.sql"]
    run: Any = FakeRun()
    observe(engine, run, lambda _: bool(1 // 0))
    assert engine.find_pending() == ["005_add_payment_table.up.sql"]
    assert engine.apply(a_migration()) == "applied"
    assert engine.rollback(a_migration()) == "rolled back"
    assert run.reports == ["observing the engine: ZeroDivisionError"] * 4
    assert run.reported == []


def test_nothing_is_expected_in_an_open_transaction() -> None:
    """What is staged there would go with it; the host plans as it would without a watch."""
    engine: Any = FakeEngine()
    engine.find_pending = lambda: ["005_add_payment_table.up.sql"]
    engine.connection.info.transaction_status = TransactionStatus.INTRANS
    engine.connection.transaction = None
    run = watched(engine)
    assert engine.find_pending() == ["005_add_payment_table.up.sql"]
    assert run.reports == []


def test_a_commit_that_cannot_be_watched_may_have_been_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The migration runs, and if its connection breaks the ledger is asked."""
    monkeypatch.setattr(Commit, "awaited", lambda _: 1 // 0)

    class Losing(FakeEngine):
        """Loses its connection when it has an error."""

        def apply(self, *args: Any, **options: Any) -> str:
            self.connection.closed = self.error is not None
            return super().apply(*args, **options)

    engine: Any = Losing()
    run = watched(engine)
    assert engine.apply(a_migration()) == "applied"
    engine.error = psycopg.OperationalError()
    with pytest.raises(psycopg.OperationalError):
        engine.apply(a_migration())
    assert [end for end, *_ in run.ends] == ["succeeded", "unknown"]


def test_a_run_that_breaks_costs_the_migration_nothing() -> None:
    """When reporting of the beginning raises, the migration runs and its result is its own."""
    engine: Any = Counting("INSERT 0 2")
    run = watched(engine, FakeRun(ZeroDivisionError()))
    assert engine.apply(a_migration()) == "applied"
    assert run.reports == ["observing a migration: ZeroDivisionError"]


@pytest.mark.parametrize("method", ["stop_clock", "conclude", "settle_later"])
@pytest.mark.parametrize("error", [None, ZeroDivisionError(), KeyboardInterrupt()])
def test_an_end_that_breaks_costs_the_migration_nothing(
    monkeypatch: pytest.MonkeyPatch, method: str, error: BaseException | None
) -> None:
    """When reporting of the end raises, the engine's own result or error still comes through."""

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(Reported if method == "stop_clock" else FakeRun, method, refuse)
    engine: Any = FakeEngine(error)
    run = watched(engine)
    if error is None:
        assert engine.apply(a_migration()) == "applied"
    else:
        with pytest.raises(type(error)) as caught:
            engine.apply(a_migration())
        assert caught.value is error
    assert set(run.reports) <= {"recording a migration: RuntimeError"}


def test_an_engine_whose_server_does_not_answer_still_migrates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When asking the server about itself raises, the migration runs without webhooks, and the fault is reported."""
    monkeypatch.setattr(confiture, "backend_of", lambda *_, **__: 1 // 0)
    engine: Any = FakeEngine()
    run = watched(engine)
    assert engine.apply(a_migration()) == "applied"
    assert run.reported == []
    assert run.reports == ["observing a migration: ZeroDivisionError"]


def test_a_ledger_never_shows_its_password() -> None:
    """The ledger's address, password and all, is in no ``repr``."""
    assert "canary" not in repr(Ledger(dsn_of(FakeEngine().connection)))


@pytest.mark.parametrize(
    ("configured", "is_kept"),
    [
        ("host=a,127.0.0.1 dbname=shop", True),
        ("hostaddr=10.0.0.1,127.0.0.1 dbname=shop", True),
        ("host=127.0.0.1 dbname=shop", False),
        ("host=a,b dbname=shop", False),
        ("host=a,127.0.0.1 dbname=other", False),
    ],
)
def test_an_address_of_several_servers_is_kept(configured: str, is_kept: bool) -> None:
    """If another one takes over, it can be asked; an address of another database is not used."""
    connection = FakeEngine().connection
    expected = configured if is_kept else dsn_of(connection)
    assert dsn_of(connection, configured) == expected


@pytest.mark.parametrize(
    ("status", "is_hurried"), [(TransactionStatus.INERROR, True), (TransactionStatus.IDLE, False)]
)
def test_nothing_is_waited_for_while_an_interrupted_migration_holds_its_locks(
    status: TransactionStatus, is_hurried: bool
) -> None:
    """The host rolls back at Ctrl-C only when it closes: until then a slow outbox is hurried."""
    engine: Any = FakeEngine(KeyboardInterrupt())
    run = watched(engine)
    engine.connection.info.transaction_status = status
    with pytest.raises(KeyboardInterrupt):
        engine.apply(a_migration(), force=True)
    assert run.hurries == [is_hurried]


@pytest.mark.parametrize("missing", ["apply", "rollback"])
def test_an_engine_that_cannot_be_watched_is_a_fault(missing: str) -> None:
    """Its migrations would go unseen, and nobody would be told."""
    methods = dict.fromkeys({"apply", "rollback"} - {missing}, print)
    run: Any = None
    with pytest.raises(AttributeError, match=missing):
        observe(SimpleNamespace(**methods), run)
