"""A killed run is settled: reported once, as what the ledger says, in the trace it ran in."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import closing
from typing import Any

import psycopg
import pytest

from confiture_webhooks.outbox import Intent
from confiture_webhooks.outbox.sqlite import SqliteOutbox
from crashing import Moment, crash, outbox_of
from project import CONFITURE

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def shop(project: Any, receiver: Any) -> Any:
    """A project with one migration and one endpoint."""
    project.environment_file(
        webhooks={"endpoints": [{"name": "a", "url": receiver.url}]}, name="local"
    )
    project.migration("001", "a", up="CREATE TABLE a (id int)", down="DROP TABLE a")
    return project


def staged(project: Any) -> list[Intent]:
    """The intents that wait in the project's outbox."""
    with closing(SqliteOutbox(outbox_of(project))) as outbox:
        return list(outbox.intents())


def reported(receiver: Any) -> list[tuple[str, str | None]]:
    """Event type and error type of every webhook, in order."""
    payloads = [request.payload for request in receiver.requests]
    return [(p["event_type"], p.get("error", {}).get("type")) for p in payloads]


@pytest.mark.survived("SIGKILL after the COMMIT, before the event is recorded", "kept", "true")
@pytest.mark.survived("SIGKILL before the COMMIT", "kept", "true")
@pytest.mark.parametrize(
    ("moment", "first"),
    [
        ("before commit", ("migration_error", "Interrupted")),
        ("after commit", ("migration_success", None)),
    ],
)
def test_the_next_run_settles_a_killed_one(
    shop: Any, receiver: Any, moment: Moment, first: tuple[str, str | None]
) -> None:
    """Killed before its COMMIT it is an error, after it a success: same id, trace, intent, CI run."""
    crash(shop, moment, "migrate", "up", CI_JOB_URL="https://ci.example/7")
    (intent,) = staged(shop)
    assert not receiver.requests
    done = shop.confiture("migrate", "up")
    assert done.returncode == 0, done.stderr
    assert reported(receiver)[0] == first
    request = receiver.requests[0]
    assert request.headers["webhook-id"] == intent.event_id
    assert request.headers["X-Correlation-ID"] == intent.correlation_id
    assert request.headers["traceparent"].split("-")[1] == intent.correlation_id
    assert request.payload["migration"]["environment"] == intent.environment == "local"
    assert request.payload["database"]["schema"] == "public"
    assert request.payload["run"] == {
        "command": "confiture migrate up",
        "url": "https://ci.example/7",
    }
    later = [request.headers["X-Correlation-ID"] for request in receiver.requests[1:]]
    assert intent.correlation_id not in later
    if moment == "before commit":
        assert reported(receiver)[1:] == [("migration_success", None)]
    else:
        assert reported(receiver)[1:] == []
        with psycopg.connect(shop.database_url) as connection:
            row = connection.execute("SELECT execution_time_ms FROM tb_confiture").fetchone()
        assert row is not None
        execution = request.payload["execution"]
        assert execution["duration_seconds"] == row[0] / 1000
    assert staged(shop) == []
    event = "migration.failed" if moment == "before commit" else "migration.applied"
    line = next(json.loads(text) for text in done.stderr.splitlines() if event in text)
    assert line["correlation_id"] == line["trace_id"] == intent.correlation_id
    failed = next(json.loads(text) for text in done.stderr.splitlines() if "run.failed" in text)
    assert failed["correlation_id"] == failed["trace_id"] == intent.correlation_id
    assert (failed["command"], failed["error_type"]) == ("migrate up", "Interrupted")
    assert (failed["environment"], failed["database"]) == ("local", intent.database_name)


@pytest.mark.survived(
    "A run of another environment repeats a killed run's migration", "kept", "true"
)
@pytest.mark.parametrize(
    ("moment", "killed", "applied"),
    [
        ("before commit", ("migration_error", "Interrupted"), [("migration_success", None)]),
        ("after commit", ("migration_success", None), []),
    ],
)
def test_a_run_of_another_environment_invents_no_success_of_a_killed_one(
    shop: Any,
    receiver: Any,
    moment: Moment,
    killed: tuple[str, str | None],
    applied: list[tuple[str, str | None]],
) -> None:
    """Both share database and outbox: it may apply the version that the killed run did not."""
    webhooks = {"endpoints": [{"name": "a", "url": receiver.url}]}
    production = shop.environment_file("production", webhooks=webhooks)
    crash(shop, moment, "migrate", "up")
    (intent,) = staged(shop)
    done = shop.confiture("migrate", "up", "--config", str(production))
    assert done.returncode == 0, done.stderr
    assert reported(receiver) == applied
    assert shop.confiture("webhooks", "deliver").returncode == 0
    assert reported(receiver) == [*applied, killed]
    assert receiver.requests[-1].headers["webhook-id"] == intent.event_id
    assert staged(shop) == []


def test_a_killed_runs_end_does_not_wait_for_its_own_attempt(project: Any, receiver: Any) -> None:
    """Its attempt under way was cut with it: the next run sends both, in their order."""
    receiver.script("/", ["hang"])
    webhook = {
        "name": "a",
        "url": receiver.url + "/",
        "events": ["migration_started", "migration_error"],
    }
    project.environment_file(webhooks={"endpoints": [webhook]}, name="local")
    project.migration("001", "a", up="SELECT pg_sleep(1)", down="SELECT 1")
    crash(project, "before commit", "migrate", "up")
    assert reported(receiver) == [("migration_started", None)]
    done = project.confiture("migrate", "up")
    assert done.returncode == 0, done.stderr
    killed = receiver.requests[0].headers["X-Correlation-ID"]
    own = [one for one in receiver.requests[1:] if one.headers["X-Correlation-ID"] == killed]
    assert [one.payload["event_type"] for one in own] == ["migration_started", "migration_error"]
    assert receiver.requests[0].headers["webhook-id"] == own[0].headers["webhook-id"]


@pytest.mark.survived("SIGKILL of one of two runs that share a trace", "kept")
def test_the_end_of_a_killed_run_ends_no_other_runs_attempt(project: Any, receiver: Any) -> None:
    """Two runs of a pipeline share its TRACEPARENT: what the living one sends is sent once."""
    receiver.script("/", ["hang"])
    webhook = {"name": "a", "url": receiver.url + "/", "timeout": 60}
    project.environment_file(webhooks={"flush_timeout": 60, "endpoints": [webhook]}, name="local")
    project.migration("001", "a", up="SELECT 1", down="SELECT 1")
    pipeline = {"TRACEPARENT": f"00-{'c' * 32}-{'d' * 16}-01"}
    living = project.spawn("migrate", "up", env=pipeline)
    (sent,) = receiver.wait_for(1, timeout=60)
    project.migration("002", "b", up="SELECT 1", down="SELECT 1")
    crash(project, "after commit", "migrate", "up", **pipeline)
    for _ in range(2):
        project.confiture("webhooks", "deliver", env={"CONFITURE_WEBHOOK_LOG": "off"})
    ids = [request.headers["webhook-id"] for request in receiver.requests]
    assert ids.count(sent.headers["webhook-id"]) == 1
    assert living.poll() is None
    assert staged(project) == []


@pytest.mark.survived("SIGKILL before the COMMIT", "kept", "true")
@pytest.mark.parametrize("outbox", ["sqlite", "postgres"])
@pytest.mark.parametrize("command", [("webhooks", "deliver"), ("migrate", "status")])
def test_who_subscribes_to_runs_gets_one_report_of_a_killed_one(
    project: Any, receiver: Any, outbox: str, command: tuple[str, ...]
) -> None:
    """It gets a ``run_error`` with the migration that was settled, and the default ones do not."""
    runs = {"name": "on-call", "url": f"{receiver.url}/", "events": ["run_error", "run_success"]}
    usual = {"name": "a", "url": f"{receiver.url}/"}
    project.environment_file(webhooks={"outbox": outbox, "endpoints": [runs, usual]}, name="local")
    project.migration("001", "a", up="CREATE TABLE a (id int)", down="DROP TABLE a")
    crash(project, "before commit", "migrate", "up")
    for _ in range(2):
        processes = [project.spawn(*command) for _ in range(2)]
        assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert project.confiture("webhooks", "deliver").returncode == 0
    assert sorted(reported(receiver)) == [
        ("migration_error", "Interrupted"),
        ("run_error", "Interrupted"),
    ]
    failed, run = sorted((r.payload for r in receiver.requests), key=lambda p: p["event_type"])
    assert run["webhook_target"] == "on-call"
    assert (run["trace_id"], run["environment"]) == (failed["trace_id"], "local")
    assert [(row["name"], row["status"]) for row in run["migrations"]] == [("001_a", "error")]
    assert project.confiture("migrate", "up").returncode == 0
    assert sorted(reported(receiver)[2:]) == [("migration_success", None), ("run_success", None)]


@pytest.mark.survived("SIGKILL of a rollback", "kept", "true")
@pytest.mark.parametrize(
    ("moment", "first"),
    [
        ("before commit", ("migration_rollback_error", "Interrupted")),
        ("after commit", ("migration_rollback", None)),
    ],
)
def test_deliver_settles_a_killed_rollback(
    shop: Any, receiver: Any, moment: Moment, first: tuple[str, str | None]
) -> None:
    """``webhooks deliver`` asks the database of the environment file, and reports."""
    assert shop.confiture("migrate", "up").returncode == 0
    crash(shop, moment, "migrate", "down")
    (intent,) = staged(shop)
    done = shop.confiture("webhooks", "deliver", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["delivered"] == 1
    assert reported(receiver)[1:] == [first]
    assert receiver.requests[1].headers["webhook-id"] == intent.event_id
    assert receiver.requests[1].payload["run"]["command"] == "confiture migrate down"


@pytest.mark.survived("Four processes that settle the same killed run", "true")
def test_two_processes_that_settle_at_once_report_once(shop: Any, receiver: Any) -> None:
    """Four ``deliver`` at the same time send one event."""
    crash(shop, "after commit", "migrate", "up")
    running = [shop.spawn("webhooks", "deliver") for _ in range(4)]
    for process in running:
        process.communicate(timeout=60)
    assert reported(receiver) == [("migration_success", None)]
    assert staged(shop) == []


def test_a_migration_under_way_is_left_alone(shop: Any, receiver: Any) -> None:
    """While its process lives, nobody settles it; status does not count it."""
    shop.migration("002", "waits", up="SELECT pg_advisory_xact_lock(42)", down="SELECT 1")
    with psycopg.connect(shop.database_url) as gate:
        gate.execute("SELECT pg_advisory_xact_lock(42)")
        running = shop.spawn("migrate", "up")
        waiting = (
            "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND NOT granted"
        )
        while gate.execute(waiting).fetchone() is None:
            assert running.poll() is None
        assert [one.migration.version for one in staged(shop)] == ["002"]
        done = shop.confiture("webhooks", "deliver")
        assert done.returncode == 0, done.stderr
        assert "\nUnder way: 002_waits since 20" in done.stdout
        status = shop.confiture("webhooks", "status", "--format", "json")
        document = json.loads(status.stdout)
        assert document["unsettled"] == 0
        assert [one["migration"] for one in document["under_way"]] == ["002_waits"]
        assert "Under way: 002_waits since" in shop.confiture("webhooks", "status").stdout
        assert running.poll() is None
    running.communicate(timeout=60)
    assert reported(receiver) == [("migration_success", None)] * 2


@pytest.mark.survived("A copy, a restored or another database answers for a killed run", "true")
def test_another_database_settles_nothing(shop: Any, receiver: Any, postgres: Any) -> None:
    """What ran in a database that is gone stays visible, and is reported as nothing."""
    crash(shop, "after commit", "migrate", "up")
    other = shop.database_url
    shop.database_url = postgres.dsn()
    shop.environment_file(webhooks={"endpoints": [{"name": "a", "url": receiver.url}]})
    assert shop.confiture("webhooks", "deliver").returncode == 0
    status = shop.confiture("webhooks", "status")
    assert "001_a since 20" in status.stdout
    assert "another database" in status.stdout
    shop.database_url = "postgresql://postgres@127.0.0.1:9/gone"
    shop.environment_file(webhooks={"endpoints": [{"name": "a", "url": receiver.url}]})
    status = shop.confiture("webhooks", "status", "--format", "json")
    (row,) = json.loads(status.stdout)["intents"]
    assert (row["migration"], row["why"]) == ("001_a", "its database does not answer")
    assert not receiver.requests
    shop.database_url = other
    shop.environment_file(webhooks={"endpoints": [{"name": "a", "url": receiver.url}]})
    assert "The next run reports it" in shop.confiture("webhooks", "status").stdout
    assert shop.confiture("webhooks", "deliver").returncode == 0
    assert reported(receiver) == [("migration_success", None)]


def test_a_run_from_python_settles_too(shop: Any, receiver: Any) -> None:
    """``attach`` settles what a killed command left, when its block is left."""
    crash(shop, "after commit", "migrate", "up")
    script = (
        "import sys\n"
        "from confiture.core._migrator.session import MigratorSession\n"
        "from pathlib import Path\n"
        "from confiture_webhooks import attach\n"
        "session = MigratorSession(None, Path('db/migrations'), database_url_override=sys.argv[1])\n"
        "with session as entered, attach(entered, config_file='db/environments/local.yaml'):\n"
        "    entered.up()\n"
    )
    done = subprocess.run(
        [str(CONFITURE.with_name("python")), "-c", script, shop.database_url],
        cwd=shop.path,
        env=shop.environ(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert reported(receiver) == [("migration_success", None)]


@pytest.mark.parametrize("outbox", ["sqlite", "postgres"])
@pytest.mark.parametrize("named", [os.fsdecode(b"caf\xe9"), "a\0b"])
def test_a_killed_run_of_an_oddly_named_environment_is_settled(
    shop: Any, receiver: Any, outbox: str, named: str
) -> None:
    """A store escapes what it cannot hold: the environment is known by that name everywhere."""
    block = {"outbox": outbox, "endpoints": [{"name": "a", "url": receiver.url}]}
    is_path = "\0" not in named
    path = shop.environment_file(named if is_path else "odd", webhooks=block)
    if not is_path:
        path.write_text(path.read_text() + f"name: {json.dumps(named)}\n")
    config = str(path)
    crash(shop, "after commit", "migrate", "up", "--config", config)
    done = shop.confiture("webhooks", "deliver", "--config", config)
    assert done.returncode == 0, done.stderr
    assert reported(receiver) == [("migration_success", None)]
