"""``confiture webhooks discard`` of killed runs that cannot be settled any more."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from confiture_webhooks.outbox.sqlite import SqliteOutbox
from contract.made import committed
from crashing import crash, outbox_of


@pytest.fixture
def killed(request: pytest.FixtureRequest, project: Any, receiver: Any) -> tuple[Any, str]:
    """A project whose run was killed before its COMMIT, and the id of the event left open."""
    outbox = getattr(request, "param", "sqlite")
    endpoint = {"name": "a", "url": receiver.url}
    project.environment_file(webhooks={"outbox": outbox, "endpoints": [endpoint]})
    project.migration("001", "a", up="CREATE TABLE a (id int)", down="DROP TABLE a")
    crash(project, "before commit", "migrate", "up")
    [one] = status(project)["intents"]
    return project, one["event_id"]


def status(project: Any, *options: str) -> dict[str, Any]:
    """What ``status`` says."""
    done = project.confiture("webhooks", "status", "--format", "json", *options)
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("killed", ["sqlite", "postgres"], indirect=True)
def test_what_can_still_be_reported_is_not_dropped(killed: Any, receiver: Any) -> None:
    """While its database can say how it ended, the event is refused, and deliver reports it."""
    project, event_id = killed
    done = project.confiture("webhooks", "discard", event_id, "--yes")
    assert done.returncode == 1
    assert "`confiture webhooks deliver` reports it" in done.stderr
    again = project.confiture("webhooks", "redeliver", event_id, "--yes")
    assert again.returncode == 1
    assert f"{event_id} (unknown. See " in again.stderr
    assert project.confiture("webhooks", "deliver").returncode == 0
    assert [request.headers["webhook-id"] for request in receiver.requests] == [event_id]


def test_a_run_whose_database_is_gone_is_dropped(killed: Any, receiver: Any, database: str) -> None:
    """status shows its id; discard takes its beginning, asks, forgets it for good, and logs that."""
    project, event_id = killed
    project.database_url = "postgresql://nobody@127.0.0.1:1/none"
    endpoint = {"name": "a", "url": receiver.url}
    project.environment_file(webhooks={"endpoints": [endpoint]})
    shown = project.confiture("webhooks", "status").stdout
    assert f"{event_id}  001_a since" in shown
    assert "its database does not answer" in shown
    asked = project.confiture("webhooks", "discard", event_id[:14])
    assert asked.returncode == 1
    assert "discard 1 unsettled migration (001_a: its database does not answer)" in asked.stderr
    assert "Add --yes" in asked.stderr
    assert status(project)["unsettled"] == 1
    done = project.confiture("webhooks", "discard", event_id, "--yes")
    assert (done.returncode, done.stdout) == (0, "Discarded 1 unsettled migration\n")
    [line] = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert (line["event"], line["event_id"]) == ("webhooks.intent_discarded", event_id)
    assert (line["migration_name"], line["level"]) == ("001_a", "warning")
    assert status(project)["unsettled"] == 0
    project.database_url = database
    project.environment_file(webhooks={"endpoints": [endpoint]})
    assert project.confiture("webhooks", "deliver").returncode == 0
    assert not receiver.requests


def test_a_success_that_committed_with_its_event_is_not_dropped(
    project: Any, receiver: Any
) -> None:
    """Whatever the database says of its run: deliver reports it."""
    endpoint = {"name": "a", "url": receiver.url}
    environment = project.environment_file("production", webhooks={"endpoints": [endpoint]})
    one = replace(committed(1), environment="production")
    with closing(SqliteOutbox(outbox_of(project))) as outbox:
        outbox.stage_committed(one)
    words = ("--config", str(environment))
    assert "The next run reports it" in project.confiture("webhooks", "status", *words).stdout
    done = project.confiture("webhooks", "discard", one.event_id, "--yes", *words)
    assert done.returncode == 1
    assert "`confiture webhooks deliver --config" in done.stderr
    assert project.confiture("webhooks", "deliver", *words).returncode == 0
    assert [request.headers["webhook-id"] for request in receiver.requests] == [one.event_id]


def test_status_says_how_to_drop_one_that_stays_open(killed: tuple[Any, str]) -> None:
    """After a day, beside the reason; what it prints drops it."""
    project, event_id = killed
    project.database_url = "postgresql://127.0.0.1:1/gone"
    project.environment_file(webhooks={"endpoints": [{"name": "a", "url": "http://127.0.0.1:9/"}]})
    assert "discard" not in project.confiture("webhooks", "status").stdout
    with closing(sqlite3.connect(outbox_of(project))) as rows, rows:
        [[document]] = rows.execute("SELECT intent FROM intents")
        old = json.dumps({**json.loads(document), "staged_at": "2026-01-01T00:00:00+00:00"})
        rows.execute("UPDATE intents SET intent = ?", (old,))
    [line] = [
        one
        for one in project.confiture("webhooks", "status").stdout.splitlines()
        if one.startswith("Not settled")
    ]
    assert line.endswith(f"If that stays so, drop it: `confiture webhooks discard {event_id}`")
    assert project.confiture("webhooks", "discard", event_id, "--yes").returncode == 0


@pytest.mark.parametrize("is_readable", [True, False], ids=["old", "unreadable"])
def test_a_killed_run_of_another_environment_is_named(
    project: Any, receiver: Any, is_readable: bool
) -> None:
    """If it is old, or cannot be read, status and doctor name it; the command they show ends it."""
    block = {"endpoints": [{"name": "a", "url": receiver.url}]}
    project.environment_file(webhooks=block)
    staging = str(project.environment_file("staging", webhooks=block))
    project.migration("001", "a", up="CREATE TABLE a (id int)", down="DROP TABLE a")
    crash(project, "before commit", "migrate", "up", "--config", staging)
    young = status(project)
    assert (young["ok"], young["unsettled_elsewhere"]) == (True, {})
    with closing(sqlite3.connect(outbox_of(project))) as rows, rows:
        [[event_id, document]] = rows.execute("SELECT event_id, intent FROM intents")
        old = {**json.loads(document), "staged_at": "2026-01-01T00:00:00+00:00"}
        changed = json.dumps(old if is_readable else {})
        rows.execute("UPDATE intents SET staged_at = 0, intent = ?", (changed,))
    found = status(project)
    assert found["unsettled_elsewhere"] == ({"staging": 1} if is_readable else {})
    assert found["unreadable_elsewhere"] == ({} if is_readable else {"staging": [event_id]})
    own = status(project, "--config", staging)
    assert own["unreadable"] == ([] if is_readable else [event_id])
    assert own["unreadable_elsewhere"] == own["unsettled_elsewhere"] == {}
    words = ["deliver"] if is_readable else ["discard", event_id]
    command = ["webhooks", *words, "--config", "db/environments/staging.yaml"]
    for verb in ("doctor", "status"):
        done = project.confiture("webhooks", verb)
        assert done.returncode == 1
        assert f"`confiture {' '.join(command)}`" in " ".join(done.stdout.split())
    here = project.confiture("webhooks", "discard", event_id, "--yes")
    assert f"{event_id} (of environment staging: use `" in here.stderr
    agreed = [] if is_readable else ["--yes"]
    assert project.confiture(*command, *agreed).returncode == 0
    assert status(project)["ok"] is True


def test_a_migration_under_way_is_not_dropped(project: Any, receiver: Any) -> None:
    """The event of a run that is at work is refused, with the reason; the run goes on."""
    project.environment_file(webhooks={"endpoints": [{"name": "a", "url": receiver.url}]})
    project.migration("001", "a", up="SELECT pg_advisory_xact_lock(7)", down="SELECT 1")
    with psycopg.connect(project.database_url, autocommit=True) as admin:
        admin.execute("SELECT pg_advisory_lock(7)")
        running = project.spawn("migrate", "up")
        waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 7 AND NOT granted"
        while admin.execute(waiting).fetchone() is None:
            assert running.poll() is None
        outbox = SqliteOutbox(project.path / ".confiture" / "webhooks.db")
        [intent] = outbox.intents()
        outbox.close()
        done = project.confiture("webhooks", "discard", intent.event_id, "--yes")
        assert done.returncode == 1
        assert f"{intent.event_id} (it is under way). Nothing was changed" in done.stderr
        admin.execute("SELECT pg_advisory_unlock(7)")
        assert running.wait(60) == 0
    assert [request.headers["webhook-id"] for request in receiver.requests] == [intent.event_id]
