"""The guarantees G3 to G7 on the real command: bounded, out of the way, isolated, and silent."""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from confiture.core._migrator.session import MigratorSession

from confiture_webhooks import ConfigError, Settings, attach
from confiture_webhooks.endpoint import Endpoint
from confiture_webhooks.event import SUBSCRIBABLE
from confiture_webhooks.receiver import LocalReceiver
from confiture_webhooks.testing import captured


@pytest.mark.survived("Secrets in addresses, headers, SQL and answers", "private")
def test_nothing_secret_leaves(project: Any, collector: Any) -> None:
    """Canaries in URL, headers, secret, database password, SQL and answers are found nowhere."""
    canaries = {
        name: f"CANARY{name}CANARY"
        for name in ("user", "password", "path", "query", "header", "secret", "sql")
    }
    project.migration(
        "001", "a", up=f"CREATE TABLE a (id int); SELECT '{canaries['sql']}'", down="DROP TABLE a"
    )
    project.migration("002", "b", up=f"SELECT '{canaries['sql']}'::int", down="SELECT 1")
    with LocalReceiver() as receiver:
        receiver.script(f"/{canaries['path']}", [500, "hang", "reset", "rubbish"])
        host = receiver.url.split("//")[1].split("/")[0]
        userinfo = f"{canaries['user']}:{canaries['password']}"
        tail = f"/{canaries['path']}?token={canaries['query']}"
        project.environment_file(
            webhooks={
                "flush_timeout": 3,
                "endpoints": [
                    {
                        "name": name,
                        "url": f"http://{userinfo}@{where}{tail}",
                        "secret": canaries["secret"],
                        "headers": {"X-Key": canaries["header"]},
                        "timeout": 1,
                        "retry": {"schedule": [0.1, 0.1, 0.1, 0.1]},
                    }
                    for name, where in (("alive", host), ("dead", "127.0.0.1:9"))
                ],
            }
        )
        done = project.confiture(
            "migrate", "up", env={"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        )
        assert done.returncode
        assert receiver.requests
    assert collector.spans
    assert collector.logs
    outbox = b"".join(p.read_bytes() for p in (project.path / ".confiture").iterdir())
    assert b"evt_" in outbox
    sent = b"".join(body for _, body in collector.bodies)
    seen = sent + outbox + done.stderr.encode()
    for name, canary in canaries.items():
        assert canary.encode() not in seen, name
    for command in (("check",), ("check", "--format", "json")):
        shown = project.confiture("webhooks", *command)
        assert shown.returncode == 0, shown.stderr
        for name, canary in canaries.items():
            assert canary not in shown.stdout + shown.stderr, name


@pytest.mark.survived("A collector that is dead, silent or refuses", "unharmed", "said")
@pytest.mark.parametrize("collector_is", ["refused", "silent"])
def test_a_dead_collector_costs_at_most_its_budget(one_migration: Any, collector_is: str) -> None:
    """With nobody, or somebody silent, at the OTLP address the command ends in time and says so."""
    with socket.create_server(("127.0.0.1", 0)) as silent, LocalReceiver() as receiver:
        port = silent.getsockname()[1]
        if collector_is == "refused":
            silent.close()
        started = time.monotonic()
        done = one_migration.confiture(
            "migrate",
            "up",
            env={
                "CONFITURE_WEBHOOK_URL": receiver.url,
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
                "OTEL_EXPORTER_OTLP_TIMEOUT": "300",
            },
        )
        took = time.monotonic() - started
        assert len(receiver.requests) == 1
    assert done.returncode == 0
    assert "telemetry.flush_incomplete" in done.stderr
    assert "Traceback" not in done.stderr
    assert took < 60


@pytest.mark.survived("A receiver that accepts and never answers", "unharmed")
def test_a_silent_receiver_costs_at_most_the_flush_timeout(one_migration: Any) -> None:
    """A receiver that accepts and never answers holds the command no longer than promised."""
    with LocalReceiver(answers=["hang"] * 9) as receiver:
        started = time.monotonic()
        done = one_migration.confiture(
            "migrate",
            "up",
            env={"CONFITURE_WEBHOOK_URL": receiver.url, "CONFITURE_WEBHOOK_FLUSH_TIMEOUT": "1"},
        )
        took = time.monotonic() - started
    assert done.returncode == 0
    assert "1 delivery not sent" in done.stderr
    assert took < 17


@pytest.mark.survived("SIGKILL while receivers are waited for", "unharmed")
def test_the_result_is_out_before_a_receiver_is_waited_for(one_migration: Any) -> None:
    """A command that is killed while it waits for a receiver has written its JSON already."""
    out = one_migration.path / "out.json"
    with LocalReceiver(answers=["hang"] * 9) as receiver, out.open("w") as file:
        process = one_migration.spawn(
            "migrate",
            "up",
            "--format",
            "json",
            env={"CONFITURE_WEBHOOK_URL": receiver.url, "CONFITURE_WEBHOOK_FLUSH_TIMEOUT": "50"},
            stdout=file,
        )
        deadline = time.monotonic() + 45
        while not out.stat().st_size and time.monotonic() < deadline:
            time.sleep(0.05)
        assert process.poll() is None
        process.kill()
        process.wait(60)
    assert json.loads(out.read_text())["success"]


@pytest.mark.survived("A receiver that is not there", "unharmed", "kept", "said")
def test_what_is_left_goes_out_with_the_next_run(one_migration: Any) -> None:
    """A delivery put off by a dead receiver is made by the next command that migrates."""
    with LocalReceiver(answers=[503]) as receiver:
        endpoint = {"name": "a", "url": receiver.url, "retry": {"schedule": [600]}}
        one_migration.environment_file(webhooks={"endpoints": [endpoint]})
        first = one_migration.confiture("migrate", "up")
        assert "1 delivery not sent" in first.stderr
        file = one_migration.path / ".confiture" / "webhooks.db"
        with closing(sqlite3.connect(file)) as outbox, outbox:
            outbox.execute("UPDATE deliveries SET due_at = 1, wakes_at = 1")  # ten minutes later
        second = one_migration.confiture("migrate", "up")
        assert "webhook.delivered" in second.stderr
        ids = {request.headers["webhook-id"] for request in receiver.requests}
        traces = {request.headers["X-Correlation-ID"] for request in receiver.requests}
        assert len(receiver.requests) == 2
    assert len(ids) == len(traces) == 1


@pytest.mark.survived("Ten slow endpoints", "kept")
def test_ten_slow_endpoints_take_as_long_as_one(one_migration: Any) -> None:
    """Each gets its webhook before another has answered."""
    with LocalReceiver(answers=["hang"] * 10) as receiver:
        endpoints = [{"name": f"e{n}", "url": receiver.url, "timeout": 90} for n in range(10)]
        one_migration.environment_file(webhooks={"flush_timeout": 90, "endpoints": endpoints})
        process = one_migration.spawn("migrate", "up")
        receiver.wait_for(10, timeout=60)
        assert process.poll() is None


@pytest.mark.parametrize("outbox", ["sqlite", "postgres"])
def test_all_events_when_asked_for(one_migration: Any, outbox: str) -> None:
    """An endpoint that subscribes to everything receives started, outcome, summary, in order."""
    one_migration.migration("002", "b", up="SELECT nosuch", down="SELECT 1")
    with LocalReceiver() as receiver:
        every = sorted(event.value for event in SUBSCRIBABLE)
        endpoint = {"name": "all", "url": receiver.url, "events": every}
        one_migration.environment_file(webhooks={"outbox": outbox, "endpoints": [endpoint]})
        assert one_migration.confiture("migrate", "up").returncode
        assert one_migration.confiture("migrate", "down").returncode == 0
        kinds = [request.payload["event_type"] for request in receiver.requests]
        summary = receiver.requests[4].payload
    assert kinds == [
        "migration_started",
        "migration_success",
        "migration_started",
        "migration_error",
        "run_error",
        "migration_rollback",
        "run_success",
    ]
    assert [(row["name"], row["status"]) for row in summary["migrations"]] == [
        ("001_a", "success"),
        ("002_b", "error"),
    ]
    assert summary["error"]["sqlstate"] == "42703"


def test_rotation_sends_both_signatures(one_migration: Any) -> None:
    """During a rotation receivers with the new and with the old secret both verify."""
    with LocalReceiver(secret="new") as new, LocalReceiver(secret="old") as old:
        one_migration.environment_file(
            webhooks={
                "endpoints": [
                    {"name": name, "url": one.url, "secret": ["new", "old"]}
                    for name, one in (("a", new), ("b", old))
                ]
            }
        )
        one_migration.confiture("migrate", "up")
        assert [request.verified for request in (*new.requests, *old.requests)] == [True, True]


@pytest.mark.survived("A fault of our own code", "unharmed", "said")
def test_a_bug_of_ours_leaves_the_migration_alone(one_migration: Any) -> None:
    """When our own code cannot even be imported, the migration runs and one line says so."""
    broken = one_migration.path / "broken"
    broken.mkdir()
    (broken / "structlog.py").write_text("raise RuntimeError('broken installation')")
    (broken / "requests.py").write_text("raise RuntimeError('broken installation')")
    done = one_migration.confiture(
        "migrate",
        "up",
        env={"CONFITURE_WEBHOOK_URL": "http://127.0.0.1:9/", "PYTHONPATH": str(broken)},
    )
    assert done.returncode == 0
    assert "Successfully applied" in done.stdout
    assert "Traceback" not in done.stderr
    assert "webhooks" in done.stderr


def test_a_library_user_attaches_with_one_call(one_migration: Any, receiver: Any) -> None:
    """``attach`` sends webhooks of what a session in somebody's Python does."""
    settings = Settings(
        endpoints=(Endpoint(name="mine", url=receiver.url),), outbox="memory", log="off"
    )
    with _session(one_migration) as session, attach(session, settings):
        assert session.up().success
    assert [request.payload["event_type"] for request in receiver.requests] == ["migration_success"]


def test_blocks_within_one_another_each_report_what_happened(
    one_migration: Any, receiver: Any, tmp_path: Path
) -> None:
    """The migration under way of the outer block is none of a killed run's to the inner one."""
    settings = Settings(
        endpoints=(Endpoint(name="mine", url=receiver.url),), outbox=f"sqlite:{tmp_path}/o.db"
    )
    with (
        _session(one_migration) as session,
        attach(session, settings),
        attach(session, settings),
    ):
        session.up()
        session.down()
    sent = Counter(request.payload["event_type"] for request in receiver.requests)
    assert sent == {"migration_success": 2, "migration_rollback": 2}


def test_a_block_that_is_never_left_ends_with_python(one_migration: Any, receiver: Any) -> None:
    """A script whose ``attach`` stays open sends its webhooks as it exits, and does not hang."""
    script = (
        "from confiture.core.migrator import Migrator\n"
        "from confiture_webhooks import attach\n"
        "file = 'db/environments/local.yaml'\n"
        "session = Migrator.from_config(file).__enter__()\n"
        "block = attach(session, config_file=file)\n"
        "block.__enter__()\n"
        "session.up()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=one_migration.path,
        env=one_migration.environ({"CONFITURE_WEBHOOK_URL": receiver.url}),
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert [request.payload["event_type"] for request in receiver.requests] == ["migration_success"]


def test_captured_collects_without_sending(one_migration: Any) -> None:
    """A user's own test sees what would have been sent."""
    with _session(one_migration) as session, captured(session) as sent:
        session.up()
        session.down()
    assert [one.payload["event_type"] for one in sent] == [
        "migration_started",
        "migration_success",
        "migration_rollback",
        "run_success",
    ]


def test_attach_refuses_a_wrong_configuration(one_migration: Any, monkeypatch: Any) -> None:
    """In Python a wrong configuration is an exception, before anything runs."""
    monkeypatch.setenv("CONFITURE_WEBHOOK_URL", "ftp://nowhere")
    with _session(one_migration) as session, pytest.raises(ConfigError), attach(session):
        pass


def _session(project: Any) -> MigratorSession:
    return MigratorSession(None, project.migrations, database_url_override=project.database_url)
