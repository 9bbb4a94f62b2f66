"""What is no outbox of ours, and what an outbox holds that cannot be read, on the real command."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from confiture_webhooks.outbox.postgres import PostgresOutbox
from confiture_webhooks.outbox.sqlite import SqliteOutbox
from contract.made import delivery, event_id, intent

TABLE = "CREATE TABLE a (id int)"


def test_a_slip_in_the_path_costs_no_file(project: Any, receiver: Any) -> None:
    """The environment file named as the outbox stays as it is; a line says so; it is delivered."""
    project.migration("001", "a", up=TABLE, down="DROP TABLE a")
    file = Path(project.path) / "db" / "environments" / "local.yaml"
    before, mode = file.read_bytes(), file.stat().st_mode
    env = {
        "CONFITURE_WEBHOOK_URL": receiver.url,
        "CONFITURE_WEBHOOK_OUTBOX": "sqlite:db/environments/local.yaml",
    }
    done = project.confiture("migrate", "up", env=env)
    assert done.returncode == 0, done.stderr
    assert (file.read_bytes(), file.stat().st_mode) == (before, mode)
    assert [one.name for one in file.parent.iterdir()] == ["local.yaml"]
    assert "this file is not an outbox" in done.stderr
    assert len(receiver.requests) == 1


def test_no_shell_is_needed_for_a_home(project: Any, receiver: Any) -> None:
    """A tilde in the setting is the home directory; no directory of that name is made."""
    project.migration("001", "a", up=TABLE, down="DROP TABLE a")
    env = {
        "CONFITURE_WEBHOOK_URL": receiver.url,
        "CONFITURE_WEBHOOK_OUTBOX": "sqlite:~/outbox/webhooks.db",
    }
    done = project.confiture("migrate", "up", env=env)
    assert done.returncode == 0, done.stderr
    assert (project.home / "outbox" / "webhooks.db").is_file()
    assert not (project.path / "~").exists()


def test_what_the_users_state_kept_is_named_once_the_project_can_be_written(
    project: Any, receiver: Any
) -> None:
    """The next run has its outbox in the project: `status` shows the command for the other."""
    project.migration("001", "a", up=TABLE, down="DROP TABLE a")
    in_the_way = Path(project.path) / ".confiture"
    in_the_way.touch()
    dead = {"CONFITURE_WEBHOOK_URL": "http://127.0.0.1:9/", "CONFITURE_WEBHOOK_FLUSH_TIMEOUT": "0"}
    project.confiture("migrate", "up", env=dead)
    [kept] = project.home.rglob("webhooks.db")
    in_the_way.unlink()
    env = {"CONFITURE_WEBHOOK_URL": receiver.url}
    for _ in range(2):  # without an outbox in the project, and with one
        found = project.confiture("webhooks", "status", env=env)
        assert found.returncode == 1
        assert (
            "SQLite outbox of local: 1 delivery waits in it, and it is not in use" in found.stdout
        )
        shown = f"CONFITURE_WEBHOOK_OUTBOX=sqlite:{kept} confiture webhooks redeliver --pending"
        assert shown in found.stdout
        project.confiture("migrate", "up", env=env)
    as_shown = {**env, "CONFITURE_WEBHOOK_OUTBOX": f"sqlite:{kept}"}
    sent = project.confiture("webhooks", "redeliver", "--pending", "--yes", env=as_shown)
    assert sent.returncode == 0, sent.stderr
    assert len(receiver.requests) == 1
    assert project.confiture("webhooks", "status", env=env).returncode == 0


def test_a_relative_path_leads_nowhere_from_another_directory(project: Any, receiver: Any) -> None:
    """A command that finds no outbox there says where to start it."""
    env = {
        "CONFITURE_WEBHOOK_URL": receiver.url,
        "CONFITURE_WEBHOOK_OUTBOX": "sqlite:kept/webhooks.db",
    }
    found = project.confiture("webhooks", "status", env=env)
    assert "If one has run, start the command in its directory" in found.stderr
    env["CONFITURE_WEBHOOK_OUTBOX"] = f"sqlite:{project.home}/webhooks.db"
    found = project.confiture("webhooks", "status", env=env)
    assert "There is no outbox" in found.stderr
    assert "in its directory" not in found.stderr  # it is the same from everywhere


def test_a_directory_that_others_may_write_is_refused(project: Any, receiver: Any) -> None:
    """The run says why in a line and delivers from memory; nothing is put there."""
    project.migration("001", "a", up=TABLE, down="DROP TABLE a")
    place = Path(project.path) / ".confiture"
    place.mkdir()
    place.chmod(0o777)
    done = project.confiture("migrate", "up", env={"CONFITURE_WEBHOOK_URL": receiver.url})
    assert done.returncode == 0, done.stderr
    assert "others may write" in done.stderr
    assert list(place.iterdir()) == []
    assert len(receiver.requests) == 1


def test_a_place_that_no_run_will_use_is_refused_before_the_first(project: Any) -> None:
    """``doctor`` and ``status`` do not promise an outbox that the run would keep in memory."""
    project.environment_file(webhooks={"endpoints": [{"name": "a", "url": "http://127.0.0.1:9/"}]})
    place = Path(project.path) / ".confiture"
    elsewhere = Path(project.path) / "elsewhere"
    elsewhere.mkdir()
    place.symlink_to(elsewhere)
    for refusal in ("is a symbolic link", "others may write"):
        for command in ("doctor", "status", "list"):
            done = project.confiture("webhooks", command)
            assert done.returncode == 1, done.stdout
            assert refusal in done.stdout + done.stderr
        place.unlink() if place.is_symlink() else place.rmdir()
        place.mkdir()
        place.chmod(0o777)
    place.chmod(0o700)
    assert project.confiture("webhooks", "status").returncode == 0


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_delivery_of_another_version_costs_itself_alone(
    project: Any, receiver: Any, kind: str
) -> None:
    """The others are delivered; it is listed, makes status fail, and is discarded by its id."""
    env = {"CONFITURE_WEBHOOK_URL": receiver.url, "CONFITURE_WEBHOOK_OUTBOX": kind}
    path = Path(project.path) / ".confiture" / "webhooks.db"
    outbox = PostgresOutbox(project.database_url) if kind == "postgres" else SqliteOutbox(path)
    change = "UPDATE {}deliveries SET event_type = 'migration_paused' WHERE id = 'dlv_default_1'"
    with closing(outbox):
        for number in range(1, 6):
            one = delivery(number, "default", environment="local")
            outbox.release(event_id(number), [one])
        if isinstance(outbox, PostgresOutbox):
            with psycopg.connect(project.database_url) as connection:
                connection.execute(change.format("confiture_webhooks."))
        else:
            with outbox._store._lent() as connection:
                connection.execute(change.format(""))
    done = project.confiture("webhooks", "deliver", env=env)
    assert len(receiver.requests) == 4, done.stderr
    assert "Traceback" not in done.stderr
    listed = json.loads(project.confiture("webhooks", "list", "--format", "json", env=env).stdout)[
        "deliveries"
    ]
    [bad] = [row for row in listed if row["id"] == "dlv_default_1"]
    assert (bad["event_type"], bad["attempts"], bad["last_answer"]) == (
        "migration_paused",
        1,
        "other",
    )
    named = "unreadable deliveries: 1 cannot be read by this version"
    for command in ("status", "doctor"):
        done = project.confiture("webhooks", command, env=env)
        assert (done.returncode, named in done.stdout) == (1, True), done.stdout
        assert "`confiture webhooks discard dlv_default_1`" in done.stdout
    words = ("webhooks", "discard", "dlv_default_1", "--yes")
    assert project.confiture(*words, env=env).returncode == 0
    assert project.confiture("webhooks", "status", env=env).returncode == 0


def test_a_state_of_another_version_makes_status_fail(project: Any, receiver: Any) -> None:
    """Nobody sends what only a newer version knows, so an operator has to."""
    env = {"CONFITURE_WEBHOOK_URL": receiver.url}
    outbox = SqliteOutbox(Path(project.path) / ".confiture" / "webhooks.db")
    with closing(outbox):
        outbox.release(event_id(1), [delivery(1, "default", environment="local")])
        with outbox._store._lent() as connection:
            connection.execute("UPDATE deliveries SET state = 'paused', is_ready = 0")
    done = project.confiture("webhooks", "status", env=env)
    assert (done.returncode, "unreadable deliveries: 1 cannot" in done.stdout) == (1, True)


def test_a_lease_without_an_end_is_redelivered(project: Any, receiver: Any) -> None:
    """Damage that no worker would ever take makes status fail; redeliver sends it."""
    env = {"CONFITURE_WEBHOOK_URL": receiver.url}
    outbox = SqliteOutbox(Path(project.path) / ".confiture" / "webhooks.db")
    with closing(outbox):
        outbox.release(event_id(1), [delivery(1, "default", environment="local")])
        with outbox._store._lent() as connection:
            connection.execute("UPDATE deliveries SET state = 'in_flight', is_ready = 0")
    done = project.confiture("webhooks", "status", env=env)
    assert (done.returncode, "unreadable deliveries: 1 cannot" in done.stdout) == (1, True)
    done = project.confiture("webhooks", "redeliver", "dlv_default_1", "--yes", env=env)
    assert done.returncode == 0, done.stderr
    assert len(receiver.requests) == 1
    assert project.confiture("webhooks", "status", env=env).returncode == 0


@pytest.mark.parametrize("column", ["id", "endpoint", "environment"])
def test_a_record_whose_names_are_bytes_stops_no_command(
    project: Any, receiver: Any, column: str
) -> None:
    """The other one is delivered, and the command that ``status`` prints drops it."""
    env = {"CONFITURE_WEBHOOK_URL": receiver.url, "CONFITURE_ENVIRONMENT": "local"}
    outbox = SqliteOutbox(Path(project.path) / ".confiture" / "webhooks.db")
    with closing(outbox):
        for number in (1, 2):
            outbox.release(event_id(number), [delivery(number, "default", environment="local")])
        with outbox._store._lent() as connection:
            change = f"UPDATE deliveries SET {column} = x'ff002027' WHERE id = 'dlv_default_1'"
            connection.execute(change)
    assert len(receiver.requests) == 0
    for words in (("deliver",), ("list",), ("doctor",), ("redeliver", "--pending", "--yes")):
        done = project.confiture("webhooks", *words, env=env)
        assert "Traceback" not in done.stdout + done.stderr
    assert len([one for one in receiver.requests if one.method == "POST"]) == 1
    status = project.confiture("webhooks", "status", env=env)
    assert status.returncode == (column != "environment")  # else it is another environment's
    if column == "id":
        [printed] = [line for line in status.stdout.splitlines() if "cannot be read" in line]
        [drop] = [part for part in printed.split("`") if " discard " in part]
        words = (*drop.split()[1:], "--yes")
    else:
        words = ("webhooks", "discard", "dlv_default_1", "--all-environments", "--yes")
    assert project.confiture(*words, env=env).returncode == 0
    assert project.confiture("webhooks", "status", env=env).returncode == 0


def test_an_intent_that_cannot_be_read_is_dropped_by_what_status_prints(
    project: Any, receiver: Any
) -> None:
    """It is no delivery, so that `redeliver` does not know it and is not proposed."""
    env = {"CONFITURE_WEBHOOK_URL": receiver.url, "CONFITURE_ENVIRONMENT": "local"}
    outbox = SqliteOutbox(Path(project.path) / ".confiture" / "webhooks.db")
    with closing(outbox):
        outbox.stage(replace(intent(1), environment="local"))
        with outbox._store._lent() as connection:
            connection.execute("UPDATE intents SET intent = '{'")
    for command in ("doctor", "status"):
        done = project.confiture("webhooks", command, env=env)
        [printed] = [line for line in done.stdout.splitlines() if "cannot be read" in line]
        assert (done.returncode, "redeliver" in printed) == (1, False)
    [drop] = [part for part in printed.split("`") if " discard " in part]
    assert project.confiture(*drop.split()[1:], "--yes", env=env).returncode == 0
    assert project.confiture("webhooks", "status", env=env).returncode == 0
