"""The wiring: the host's seams taken and given back, and what is reported."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import weakref
from dataclasses import replace
from datetime import timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
from confiture.core._migrator.session import MigratorSession

from confiture_webhooks import session as sessions
from confiture_webhooks import wiring
from confiture_webhooks.config import Settings
from confiture_webhooks.end_signals import EndSignals
from confiture_webhooks.errors import ConfigError, OutboxError
from confiture_webhooks.event import SUBSCRIBABLE
from confiture_webhooks.outbox.sqlite import InMemoryOutbox
from confiture_webhooks.run import TELEMETRY_BUDGET, Parts
from confiture_webhooks.run.invocation import parse
from confiture_webhooks.run.run import Run
from confiture_webhooks.session import CommandSession, attach, open_session
from confiture_webhooks.testing import ScriptedTransport
from confiture_webhooks.wiring import in_database, make_outbox
from engines import FakeConnection, FakeEngine, a_migration
from fakes import FakeTelemetry
from samples import endpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from confiture_webhooks.outbox import Outbox

SEAMS = ("default_engine", "default_lock", "default_migration_loader")
UP = "confiture migrate up"


class Bench:
    """The session of one command line, over fakes, on the host's own session class."""

    def __init__(self, line: str = "up") -> None:
        self.telemetry = FakeTelemetry()
        self.transport = ScriptedTransport()
        self.said: list[str] = []
        settings = Settings(endpoints=(endpoint(name="a", events=SUBSCRIBABLE),))
        parts = Parts(
            telemetry=lambda: self.telemetry,  # type: ignore[arg-type, return-value]
            outbox=lambda _: InMemoryOutbox(),
            transport=lambda: self.transport,
        )
        invocation = parse(["migrate", *line.split()], {})
        assert invocation is not None
        self.run = Run(settings, parts, self.said.append)
        self.session = CommandSession(settings, self.run, invocation)
        self.session.install()

    def kinds(self, error: BaseException | None = None) -> list[str]:
        """End the command with *error*; the types of what was sent."""
        self.session.finish(error)
        return [json.loads(request.body)["event_type"] for request in self.transport.sent]


@pytest.fixture(autouse=True)
def _seams(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host makes fake engines, and loads no file."""
    monkeypatch.setattr(MigratorSession, "default_engine", staticmethod(_engine))
    monkeypatch.setattr(MigratorSession, "default_migration_loader", staticmethod(_load))


def _engine(connection: Any, migration_table: str) -> Any:
    engine = FakeEngine(getattr(connection, "error", None))
    engine.connection, engine.migration_table = connection, migration_table
    return engine


def _load(path: Path) -> type:
    raise SyntaxError(f"{path} is no migration: canary")


def host_session(
    command: str | None = UP, error: BaseException | None = None, tmp_path: Any = "."
) -> MigratorSession:
    """A session of the host, as its commands open one."""
    connection: Any = FakeConnection()
    connection.error, connection.close = error, lambda: None
    return MigratorSession(
        None,
        tmp_path,
        database_url_override="postgresql://nowhere",
        command=command,
        connection_factory=lambda _: connection,
    )


def test_a_session_shows_no_password() -> None:
    """A traceback with local variables shows what ends a command, and no DSN in it."""
    bench = Bench()
    bench.run.dsn = "postgresql://app:canary@db/shop"
    assert "canary" not in repr(bench.session.finish)
    bench.session.finish(None)


def test_what_was_there_before_is_put_back() -> None:
    """After the command the host's class attributes are the very objects they were."""
    before = {name: vars(MigratorSession)[name] for name in SEAMS}
    bench = Bench()
    assert all(vars(MigratorSession)[name] is not before[name] for name in SEAMS)
    bench.session.finish(None)
    assert {name: vars(MigratorSession)[name] for name in SEAMS} == before


def test_a_command_that_migrates_is_reported() -> None:
    """A migration under the lock taken in a command's name is reported, with that name on the run."""
    bench = Bench()
    with host_session() as session:
        session._migration_lock(no_lock=True, lock_timeout=1)
        assert session.migrator.apply(a_migration()) == "applied"
    assert bench.kinds() == ["migration_started", "migration_success", "run_success"]
    assert [command for command, _ in bench.telemetry.runs] == [UP]


def test_what_others_put_into_the_seam_stays_underneath() -> None:
    """Another embedder's engine still does the work."""
    bench = Bench()
    with host_session() as session:
        assert isinstance(session.migrator, FakeEngine)
    bench.session.finish(None)


def test_a_replay_without_a_command_is_not_reported() -> None:
    """A session without a command, as replays into scratch databases have, reports nothing."""
    bench = Bench()
    with host_session(None) as session:
        session._migration_lock(no_lock=True, lock_timeout=1)
        session.migrator.apply(a_migration())
    assert bench.kinds() == []


def test_a_replay_beside_a_real_run_is_not_reported() -> None:
    """A scratch session opened within a real command stays unreported; the real one is reported."""
    bench = Bench()
    with host_session() as real:
        real._migration_lock(no_lock=True, lock_timeout=1)
        with host_session(None) as scratch:
            scratch.migrator.apply(a_migration())
        real.migrator.apply(a_migration())
    assert bench.kinds().count("migration_success") == 1


def test_the_id_of_the_real_connection_is_not_given_to_another() -> None:
    """The connection that is watched stays while the command runs, so none is taken for it."""
    bench = Bench()
    with host_session() as real:
        real._migration_lock(no_lock=True, lock_timeout=1)
        connection = weakref.ref(real.connection)
    del real
    with host_session(None) as scratch:
        gc.collect()
        assert connection() is not None
        scratch.migrator.apply(a_migration())
    assert bench.kinds() == []


@pytest.mark.parametrize("line", ["up --dry-run", "up --dry-run-execute", "down --dry-run"])
def test_a_rehearsal_is_not_reported(line: str) -> None:
    """Whatever a dry run applies is not reported."""
    bench = Bench(line)
    with host_session() as session:
        session._migration_lock(no_lock=True, lock_timeout=1)
        session.migrator.apply(a_migration())
    assert bench.kinds() == []


def test_a_failing_migration_raises_as_before_and_is_reported() -> None:
    """The host gets its own error, and the receivers the event."""
    bench = Bench()
    with host_session(error=ZeroDivisionError()) as session:
        session._migration_lock(no_lock=True, lock_timeout=1)
        with pytest.raises(ZeroDivisionError):
            session.migrator.apply(a_migration())
    assert bench.kinds(SystemExit(3)) == ["migration_started", "migration_error", "run_error"]


def test_a_file_that_cannot_be_loaded_is_a_failed_migration(tmp_path: Path) -> None:
    """A migration file with an error in it raises as before, and is reported by its name."""
    bench = Bench()
    with host_session() as session:
        session._migration_lock(no_lock=True, lock_timeout=1)
        with pytest.raises(SyntaxError):
            session.migration_loader(tmp_path / "007_add_index.py")
    assert bench.kinds() == ["migration_started", "migration_error", "run_error"]
    document = json.loads(bench.transport.sent[1].body)
    assert document["migration"]["name"] == "007_add_index"
    assert document["error"]["type"] == "SyntaxError"
    assert "canary" not in str(document)


def test_loading_without_a_lock_reports_nothing(tmp_path: Path) -> None:
    """A file that cannot be loaded where nothing is to be migrated is not reported."""
    bench = Bench()
    with host_session() as session, pytest.raises(SyntaxError):
        session.migration_loader(tmp_path / "007_add_index.py")
    assert bench.kinds() == []


def test_a_run_that_fails_without_a_migration_is_reported_by_its_cause() -> None:
    """A command that could not begin is one ``run_error`` with the class of its cause."""
    bench = Bench()
    with host_session() as session:
        session._migration_lock(no_lock=True, lock_timeout=1)
    error = SystemExit(6)
    error.__cause__ = TimeoutError()
    assert bench.kinds(error) == ["run_error"]
    assert json.loads(bench.transport.sent[0].body)["error"]["type"] == "TimeoutError"


@pytest.mark.parametrize("code", [0, None])
def test_leaving_with_success_is_no_error(code: int | None) -> None:
    """A command that exits with 0 did not fail."""
    bench = Bench()
    with host_session() as session:
        session._migration_lock(no_lock=True, lock_timeout=1)
        session.migrator.apply(a_migration())
    assert bench.kinds(SystemExit(code))[-1] == "run_success"


def test_a_fault_at_the_end_of_a_command_stays_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """When our own end breaks, the run is finished all the same and nothing is raised."""
    bench = Bench()
    monkeypatch.setattr(sessions, "_failure", lambda _: 1 // 0)
    with host_session() as session:
        session._migration_lock(no_lock=True, lock_timeout=1)
        session.migrator.apply(a_migration())
    assert "migration_success" in bench.kinds(SystemExit(1))
    assert len(bench.telemetry.faults) == 1


def test_an_engine_that_cannot_be_watched_still_migrates() -> None:
    """An engine of another make than we know goes on without webhooks, with one line."""

    class Bare:
        """Nothing but a connection."""

        def __init__(self, **made: Any) -> None:
            self.connection = made["connection"]

    MigratorSession.default_engine = Bare
    bench = Bench()
    with host_session() as session:
        assert isinstance(session.migrator, Bare)
    assert bench.kinds() == []
    assert len(bench.said) == 1
    assert "AttributeError" in bench.said[0]


def test_a_lock_that_cannot_be_watched_is_taken_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours when the connection is known costs the webhooks, with one line."""
    bench = Bench()
    monkeypatch.setattr(sessions, "migrate_on", lambda *_: 1 // 0)
    with host_session() as session:
        session._migration_lock(no_lock=True, lock_timeout=1)
        session.migrator.apply(a_migration())
    assert "ZeroDivisionError" in bench.said[0]
    bench.session.finish(None)


def test_a_part_that_cannot_be_imported_costs_the_webhooks_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A module that an upgrade took away in the middle of a run reaches no migration."""
    bench = Bench()
    for name in ("confiture", "database"):
        monkeypatch.setitem(sys.modules, f"confiture_webhooks.adapters.{name}", None)
    with host_session() as session:
        session.migrator.apply(a_migration())
    assert "migration_success" not in bench.kinds()


@pytest.mark.parametrize("came", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_moment_it_is_first_caught_ends_the_command(
    monkeypatch: pytest.MonkeyPatch, came: signal.Signals
) -> None:
    """It is reported and passed on, as at any other instant."""
    bench, killed = Bench("status"), []

    def at_once(number: int, handler: Any) -> None:
        if number == came and callable(handler) and handler is not signal.SIG_DFL:
            handler(number, None)

    monkeypatch.setattr(signal, "getsignal", lambda _: signal.SIG_DFL)
    monkeypatch.setattr(signal, "signal", at_once)
    monkeypatch.setattr(os, "kill", lambda *to: killed.append(to))
    with pytest.raises(KeyboardInterrupt) as caught, host_session() as session:
        session._migration_lock(no_lock=True, lock_timeout=1)
    assert bench.kinds(caught.value) == ["run_error"]
    assert killed == [(os.getpid(), came)]


def test_a_signal_at_any_instant_of_the_end_loses_no_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever of ours runs when it comes: the run is recorded once, and ends by the signal."""
    killed: list[Any] = []
    monkeypatch.setattr(os, "kill", lambda *to: killed.append(to))

    def end(instant: str | None) -> tuple[list[str], dict[str, None]]:
        """The events of a run that a signal meets at the first call of *instant*; all calls."""
        bench, calls = Bench(), dict[str, None]()
        with host_session() as session:
            session._migration_lock(no_lock=True, lock_timeout=1)
            session.migrator.apply(a_migration())

        def traced(frame: Any, *_: Any) -> None:
            code = frame.f_code
            name = f"{code.co_filename.rpartition('confiture_webhooks/')[2]}:{code.co_qualname}"
            if name != code.co_filename + ":" + code.co_qualname and name not in calls:
                calls[name] = None
                if name == instant:
                    sys.settrace(None)
                    signal.raise_signal(signal.SIGTERM)

        before = sys.gettrace()  # of a measurement of coverage
        sys.settrace(traced)
        try:
            bench.session.finish(SystemExit(1))
        finally:
            sys.settrace(before)
        settling = bench.run._settling
        assert settling is not None
        outbox = settling.recorder.outbox.current
        assert outbox is not None
        rows = outbox.deliveries(limit=9)
        return sorted(row.delivery.event_type.value for row in rows), calls

    events, calls = end(None)
    assert events == ["migration_started", "migration_success", "run_error"]
    assert killed == []
    del calls["session.py:CommandSession.finish"]  # nothing of ours has begun
    for instant in calls:
        killed.clear()
        recorded, called = end(instant)
        assert recorded == events, instant
        # Some are called in one run of a process alone.
        assert killed == [(os.getpid(), signal.SIGTERM)] * (instant in called), instant


def test_a_signal_before_a_command_begins_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is a run by then, and the host has not been called yet."""
    bench, killed = Bench("status"), []
    monkeypatch.setattr(os, "kill", lambda *to: killed.append(to))
    session = replace(bench.session, invocation=parse(["migrate", "up"], {}))
    monkeypatch.setattr(sessions, "_session_of", lambda *_: session)
    monkeypatch.setattr(Run, "begin", lambda *_: signal.raise_signal(signal.SIGTERM))
    monkeypatch.setenv("CONFITURE_WEBHOOK_URL", "https://receiver.example")
    with pytest.raises(KeyboardInterrupt):
        open_session(["migrate", "up"])
    assert [json.loads(one.body)["event_type"] for one in bench.transport.sent] == ["run_error"]
    assert killed == [(os.getpid(), signal.SIGTERM)]
    bench.session.finish(None)


def test_a_terminal_that_closes_sends_sighup_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second must not kill the run that rolls back; a second SIGTERM does."""
    monkeypatch.setattr(os, "kill", lambda *_: None)
    for came, then in ((signal.SIGHUP, signal.SIG_IGN), (signal.SIGTERM, signal.SIG_DFL)):
        ends = EndSignals()
        ends.catch()
        try:
            with pytest.raises(KeyboardInterrupt) as caught:
                signal.raise_signal(came)
            assert type(caught.value).__name__ == came.name
            assert signal.getsignal(came) is then
        finally:
            ends.pass_on()
        assert signal.getsignal(came) is signal.SIG_DFL


def test_the_first_process_of_a_container_does_not_catch_sigterm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel spares it, so without webhooks its migrations go on."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    Bench()
    with host_session() as session:
        session._migration_lock(no_lock=True, lock_timeout=1)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


def test_attach_reports_what_happens_in_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the block migrations are reported; after it the same engine is silent."""
    transport = ScriptedTransport()
    monkeypatch.setattr(wiring, "HttpTransport", lambda: transport)
    settings = Settings(endpoints=(endpoint(name="a"),), outbox="memory", log="off")
    engine: Any = FakeEngine()
    with attach(engine, settings) as run:
        assert isinstance(run, Run)
        engine.apply(a_migration("005"))
    engine.apply(a_migration("006"))
    assert [r.headers["X-Migration-Version"] for r in transport.sent] == ["005"]
    assert [version for version, _, _ in engine.applied] == ["005", "006"]


def test_attach_writes_nothing_to_standard_error(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Log events and lines for people go to the owner's logging, also what is left to send."""
    monkeypatch.setattr(wiring, "HttpTransport", lambda: ScriptedTransport({"a": [503]}))
    settings = Settings(
        endpoints=(endpoint(name="a"),), outbox="memory", log="json", flush_timeout=timedelta()
    )
    engine: Any = FakeEngine()
    caplog.set_level("DEBUG", logger="confiture_webhooks")
    with attach(engine, settings):
        engine.apply(a_migration("005"))
    assert any("005" in record.getMessage() for record in caplog.records)
    assert any(record.levelname == "WARNING" for record in caplog.records)
    assert capsys.readouterr() == ("", "")


def test_attach_leaves_standard_error_alone_where_nothing_is_logged(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With ``log: off`` a notice about the outbox goes to the owner's logging."""
    monkeypatch.setattr(wiring, "HttpTransport", ScriptedTransport)

    def open_outbox(_: object, notice: Callable[[str], None]) -> Outbox:
        notice("it was damaged")
        return InMemoryOutbox()

    monkeypatch.setattr("confiture_webhooks.outbox.sqlite.open_outbox", open_outbox)
    engine: Any = FakeEngine()
    with attach(engine, Settings(endpoints=(endpoint(name="a"),), outbox="sqlite", log="off")):
        engine.apply(a_migration("005"))
    assert "confiture-webhooks: it was damaged" in caplog.messages
    assert capsys.readouterr() == ("", "")


def test_attach_with_nothing_configured_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever attaches webhooks and configures none finds one warning about it."""
    engine: Any = FakeEngine()
    with attach(engine, Settings(outbox="memory")):
        engine.apply(a_migration("005"))
    (record,) = [one for one in caplog.records if one.levelname == "WARNING"]
    assert "CONFITURE_WEBHOOK_URL" in record.getMessage()


def test_attach_lets_errors_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the block raises is raised, after the failure was reported."""
    transport = ScriptedTransport()
    monkeypatch.setattr(wiring, "HttpTransport", lambda: transport)
    settings = Settings(endpoints=(endpoint(name="a"),), outbox="memory", log="off")
    engine: Any = FakeEngine(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError), attach(engine, settings):
        engine.apply(a_migration())
    assert [r.headers["X-Confiture-Event"] for r in transport.sent] == ["migration_error"]


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (SystemExit(0), None),
        (SystemExit(), None),
        (SystemExit(3), "exit_3"),
        (OSError(), "OSError"),
    ],
)
def test_attach_judges_the_end_of_its_block_as_a_command_is_judged(
    monkeypatch: pytest.MonkeyPatch, raised: BaseException, error: str | None
) -> None:
    """Exit code 0 is no failure; any other end is one, with its code or its class."""
    transport = ScriptedTransport()
    monkeypatch.setattr(wiring, "HttpTransport", lambda: transport)
    settings = Settings(endpoints=(endpoint(name="a"),), outbox="memory", log="off")
    with pytest.raises(type(raised)), attach(FakeEngine(), settings):
        raise raised
    errors = [json.loads(request.body)["error"]["type"] for request in transport.sent]
    assert errors == ([error] if error else [])


def test_attach_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without settings, ``attach`` takes those of the environment, and refuses wrong ones."""
    monkeypatch.setenv("CONFITURE_WEBHOOK_URL", "ftp://a.invalid")
    with pytest.raises(ConfigError) as caught, attach(FakeEngine()):
        pass
    assert [fault.setting for fault in caught.value.faults] == ["CONFITURE_WEBHOOK_URL"]


def test_a_postgres_outbox_without_a_database_is_refused() -> None:
    """It says which settings name one. A variable beside --config names none: Confiture refuses both."""
    settings = Settings(outbox="postgres")
    with pytest.raises(OutboxError, match="CONFITURE_DATABASE_URL without --config"):
        make_outbox(settings, lambda _: None)


def test_a_postgres_outbox_has_the_environment_of_the_run() -> None:
    """An event that no endpoint wants is noted in it, as a role of that environment alone may."""
    settings = Settings(outbox="postgres:postgresql://h/shop", environment="staging")
    made = make_outbox(settings, lambda _: None, connects=False)
    assert made.environment == "staging"


def test_only_a_postgres_outbox_without_a_dsn_takes_the_migrated_database() -> None:
    """A DSN of the outbox's own, and another kind, stay as they are."""
    taken = in_database(Settings(outbox="postgres"), lambda: "postgresql://h/shop")
    assert taken.outbox == "postgres:postgresql://h/shop"
    for kept in ("postgres:postgresql://other/x", "sqlite", "memory"):
        assert in_database(Settings(outbox=kept), lambda: "postgresql://h/shop").outbox == kept


@pytest.mark.parametrize("line", ["build", "migrate up", "migrate status"])
def test_nothing_is_opened_unconfigured(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a URL and a block there is no session, and the seams stay the host's."""
    monkeypatch.chdir(tmp_path)
    before = {name: vars(MigratorSession)[name] for name in SEAMS}
    assert open_session(line.split()) is None
    assert {name: vars(MigratorSession)[name] for name in SEAMS} == before


def opened_and_ended() -> None:
    """A command that migrates is begun, and ends without a migration."""
    session = open_session(["migrate", "up"])
    if session is not None:
        session.finish(None)


def test_a_wrong_configuration_is_reported_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every fault is on stderr, stdout is untouched, and the command goes on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONFITURE_WEBHOOK_URL", "ftp://canary.invalid")
    monkeypatch.setenv("CONFITURE_WEBHOOK_OUTBOX", "nosuch")
    opened_and_ended()
    reported = capsys.readouterr()
    assert reported.out == ""
    assert "CONFITURE_WEBHOOK_URL" in reported.err
    assert "CONFITURE_WEBHOOK_OUTBOX" in reported.err
    assert "webhooks.config_invalid" in reported.err
    assert "canary" not in reported.err


@pytest.mark.parametrize(
    ("log", "level", "is_event", "is_json"),
    [
        ("json", "info", True, True),
        ("console", "info", False, False),
        ("off", "info", False, False),
        ("json", "critical", False, False),
        ("jsno", "loud", True, True),
    ],
)
def test_a_wrong_configuration_is_logged_as_asked(  # noqa: PLR0913
    log: str,
    level: str,
    is_event: bool,  # noqa: FBT001
    is_json: bool,  # noqa: FBT001
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The log's form and level hold although another setting is wrong; a wrong one is none."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONFITURE_WEBHOOK_URL", "ftp://canary.invalid")
    monkeypatch.setenv("CONFITURE_WEBHOOK_LOG", log)
    monkeypatch.setenv("CONFITURE_WEBHOOK_LOG_LEVEL", level)
    opened_and_ended()
    reported = capsys.readouterr().err
    assert "CONFITURE_WEBHOOK_URL: " in reported
    assert ("webhooks.config_invalid" in reported) is is_event
    assert any(line.startswith("{") for line in reported.splitlines()) is is_json


def test_a_wrong_configuration_is_exported_before_the_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log event of the faults is flushed: nobody is left to do it later."""
    telemetry = FakeTelemetry()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONFITURE_WEBHOOK_URL", "ftp://a.invalid")
    monkeypatch.setattr("confiture_webhooks.telemetry.Telemetry", lambda *_, **__: telemetry)
    opened_and_ended()
    assert [fault.setting for fault in telemetry.invalid] == ["CONFITURE_WEBHOOK_URL"]
    assert telemetry.shutdowns == [TELEMETRY_BUDGET]


@pytest.mark.parametrize("name", sessions.NEEDED)
def test_what_is_imported_ahead_exists(name: str) -> None:
    """A part that was moved would be missed by nobody: loading ahead holds its tongue."""
    assert import_module(f"confiture_webhooks.{name}")
