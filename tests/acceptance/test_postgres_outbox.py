"""The PostgreSQL outbox on the real command: what is in it after success, failure and kills."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

import psycopg
import pytest

from confiture_webhooks.receiver import LocalReceiver
from crashing import crash
from passage import Passage

TABLE = "CREATE TABLE a (id int)"
DEFERRED = """
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (parent int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
INSERT INTO child VALUES (1);
"""
DUE = "UPDATE confiture_webhooks.deliveries SET is_ready = 1, wakes_at = NULL RETURNING 1"
SLEEPS = (
    "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND pid <> "
    "pg_backend_pid() AND query LIKE '%pg_sleep(60)%' AND datname = current_database())"
)


def on(receiver: Any, **more: str) -> dict[str, str]:
    """The environment of a command with *receiver* and the PostgreSQL outbox, no more."""
    return {
        "CONFITURE_WEBHOOK_URL": receiver.url,
        "CONFITURE_WEBHOOK_OUTBOX": "postgres",
        "CONFITURE_WEBHOOK_FLUSH_TIMEOUT": "30",
        **more,
    }


def asked(dsn: str, query: str, *values: object) -> list[tuple[Any, ...]]:
    """What the database answers."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(query, values).fetchall()


def stored(dsn: str) -> list[tuple[str, str]]:
    """Event type and outcome of every delivery in the outbox, in order."""
    return asked(
        dsn,
        "SELECT event_type, CASE WHEN finished_at IS NULL THEN 'undelivered' ELSE state END "
        "FROM confiture_webhooks.deliveries "
        "ORDER BY seq",
    )


def events(receiver: Any) -> list[str]:
    """The types of the events that were received."""
    return [json.loads(request.body)["event_type"] for request in receiver.requests]


def test_up_and_down_are_reported_and_kept_in_the_database(project: Any, receiver: Any) -> None:
    """Success and rollback are delivered, and kept as delivered."""
    project.migration("001", "a", up=f"{TABLE}; INSERT INTO a VALUES (1), (2)", down="DROP TABLE a")
    up = project.confiture("migrate", "up", env=on(receiver))
    assert up.returncode == 0, up.stderr
    down = project.confiture("migrate", "down", env=on(receiver))
    assert down.returncode == 0, down.stderr
    assert events(receiver) == ["migration_success", "migration_rollback"]
    assert stored(project.database_url) == [
        ("migration_success", "delivered"),
        ("migration_rollback", "delivered"),
    ]
    first = json.loads(receiver.requests[0].body)
    assert first["execution"]["rows_affected"] == 2
    assert first["execution"]["duration_seconds"] > 0
    assert not (project.path / ".confiture").exists()


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_success_goes_with_the_migrations_transaction(
    project: Any, receiver: Any, direction: str
) -> None:
    """The event and the ledger's change have one transaction id: all of it, or nothing."""
    project.migration("001", "a", up=TABLE, down="DROP TABLE a")
    assert project.confiture("migrate", "up", env=on(receiver)).returncode == 0
    kind = {"up": "migration_success", "down": "migration_rollback"}[direction]
    with psycopg.connect(project.database_url, autocommit=True) as admin:
        admin.execute("CREATE SCHEMA spy")
        admin.execute("CREATE TABLE spy.seen (what text, xid xid8)")
        admin.execute(
            "CREATE FUNCTION spy.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "INSERT INTO spy.seen VALUES (TG_TABLE_NAME, pg_current_xact_id()); RETURN NULL; END $$"
        )
        for event, table in (
            ("UPDATE", "confiture_webhooks.intents"),
            ("INSERT OR DELETE", "tb_confiture"),
        ):
            admin.execute(
                f"CREATE TRIGGER note AFTER {event} ON {table} "
                "FOR EACH ROW EXECUTE FUNCTION spy.note()"
            )
    if direction == "up":
        project.migration("002", "b", up="CREATE TABLE b (id int)", down="DROP TABLE b")
    done = project.confiture("migrate", direction, env=on(receiver))
    assert done.returncode == 0, done.stderr
    seen = asked(project.database_url, "SELECT what, xid::text FROM spy.seen")
    assert {what for what, _ in seen} == {"intents", "tb_confiture"}
    assert len({xid for _, xid in seen}) == 1, seen
    assert stored(project.database_url)[-1] == (kind, "delivered")


@pytest.mark.parametrize("endpoints", [1, 3])
def test_one_statement_is_added_to_a_migrations_transaction(
    project: Any, receiver: Any, endpoints: int
) -> None:
    """Before the COMMIT comes one message: a savepoint, one statement, and the savepoint's end."""
    seen: list[bytes] = []

    def note(data: bytes) -> bytes:
        seen.append(data)
        return data

    for number in (1, 2):
        project.migration(f"00{number}", "a", up="SELECT 'the last'", down="SELECT 1")
    with Passage(project.database_url, note) as way:
        project.database_url = way.dsn
        named = [{"name": f"a{number}", "url": receiver.url} for number in range(endpoints)]
        project.environment_file(webhooks={"outbox": "postgres", "endpoints": named})
        done = project.confiture("migrate", "up")
    assert done.returncode == 0, done.stderr
    assert events(receiver) == ["migration_success"] * 2 * endpoints
    windows = [part.partition(b"COMMIT")[0] for part in b"".join(seen).split(b"'the last'")[1:]]
    assert len(windows) == 2
    for window in windows:
        [ours] = [one for one in window.split(b"\0") if b"confiture_webhooks" in one]
        statements = ours[ours.index(b"SAVEPOINT") :].split(b";\n")
        assert [one.split()[0] for one in statements] == [b"SAVEPOINT", b"SELECT", b"RELEASE"]


def test_a_failure_is_reported_over_the_plugins_own_connection(project: Any, receiver: Any) -> None:
    """A migration that fails leaves one error event and no success."""
    project.migration("001", "a", up=f"{TABLE}; SELECT nosuch", down="DROP TABLE a")
    done = project.confiture("migrate", "up", env=on(receiver))
    assert done.returncode != 0
    assert events(receiver) == ["migration_error"]
    assert stored(project.database_url) == [("migration_error", "delivered")]


@pytest.mark.survived("A COMMIT that fails", "true")
def test_a_failed_commit_leaves_no_success(project: Any, receiver: Any) -> None:
    """A deferred constraint that fails the COMMIT takes the success event with it."""
    project.migration("001", "a", up=DEFERRED, down="SELECT 1")
    done = project.confiture("migrate", "up", env=on(receiver))
    assert done.returncode != 0
    assert events(receiver) == ["migration_error"]
    assert stored(project.database_url) == [("migration_error", "delivered")]


def test_a_rehearsal_leaves_nothing(project: Any, receiver: Any) -> None:
    """--dry-run-execute reports nothing and makes no outbox."""
    project.migration("001", "a", up=TABLE, down="DROP TABLE a")
    done = project.confiture("migrate", "up", "--dry-run-execute", env=on(receiver), stdin="n\n")
    assert done.returncode == 0, done.stderr
    assert not receiver.requests
    assert asked(project.database_url, "SELECT to_regnamespace('confiture_webhooks')::text") == [
        (None,)
    ]


def test_a_migration_without_a_transaction_is_reported(project: Any, receiver: Any) -> None:
    """CREATE INDEX CONCURRENTLY has no transaction to go with: it is reported afterwards."""
    project.migration("001", "a", up=TABLE, down="DROP TABLE a")
    project.migration(
        "002",
        "b",
        up="-- confiture: transactional=false\nCREATE INDEX CONCURRENTLY i ON a (id)",
        down="DROP INDEX i",
    )
    done = project.confiture("migrate", "up", env=on(receiver))
    assert done.returncode == 0, done.stderr
    assert events(receiver) == ["migration_success"] * 2


@pytest.mark.survived(
    "A success that the outbox's database refuses, inside the migration's transaction", "unharmed"
)
@pytest.mark.parametrize("refused", ["UPDATE ON confiture_webhooks.intents", "INSERT ON {}"])
def test_a_refused_statement_costs_the_migration_nothing(
    project: Any, receiver: Any, refused: str
) -> None:
    """With the outbox broken in the database, the migration commits as it would without us."""
    project.migration("001", "a", up=TABLE, down="DROP TABLE a")
    assert project.confiture("migrate", "up", env=on(receiver)).returncode == 0
    with psycopg.connect(project.database_url, autocommit=True) as admin:
        admin.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql "
            "AS $$ BEGIN RAISE 'no'; END $$; CREATE TRIGGER refuse BEFORE "
            f"{refused.format('confiture_webhooks.deliveries')} EXECUTE FUNCTION refuse()"
        )
    project.migration("002", "b", up="CREATE TABLE b (id int)", down="DROP TABLE b")
    done = project.confiture("migrate", "up", env=on(receiver))
    assert done.returncode == 0, done.stderr
    assert asked(project.database_url, "SELECT version FROM tb_confiture ORDER BY 1") == [
        ("001",),
        ("002",),
    ]
    # Without deliveries, the outbox in memory stands in, and says so.
    assert events(receiver) == ["migration_success"] * 2
    assert ("outbox postgres" in done.stderr) is ("INSERT" in refused)


def test_what_a_dead_receiver_misses_is_delivered_later(project: Any, receiver: Any) -> None:
    """Left in the database with the receiver down, `webhooks deliver` delivers it elsewhere."""
    endpoint = {"name": "a", "url": "http://127.0.0.1:9/", "retry": {"schedule": [600]}}
    project.environment_file(webhooks={"outbox": "postgres", "endpoints": [endpoint]})
    project.migration("001", "a", up=TABLE, down="DROP TABLE a")
    assert project.confiture("migrate", "up").returncode == 0
    assert stored(project.database_url) == [("migration_success", "undelivered")]
    listed = project.confiture("webhooks", "list", "--format", "json")
    assert [row["state"] for row in json.loads(listed.stdout)["deliveries"]] == ["pending"]
    asked(project.database_url, DUE)
    endpoint["url"] = receiver.url
    project.environment_file(webhooks={"outbox": "postgres", "endpoints": [endpoint]})
    done = project.confiture("webhooks", "deliver", "--format", "json")
    assert json.loads(done.stdout)["delivered"] == 1, done.stdout + done.stderr
    assert events(receiver) == ["migration_success"]
    assert stored(project.database_url) == [("migration_success", "delivered")]


def _killed(project: Any, receiver: Any) -> None:
    """Run `migrate up` and SIGKILL it while its migration sleeps."""
    process = project.spawn("migrate", "up", env=on(receiver))
    deadline = time.monotonic() + 60
    with psycopg.connect(project.database_url, autocommit=True) as admin:
        while time.monotonic() < deadline:
            row = admin.execute(SLEEPS).fetchone()
            if row and row[0]:
                break
            time.sleep(0.02)
        else:
            pytest.fail("it never came so far")
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=60)


@pytest.mark.survived("SIGKILL before the COMMIT", "kept", "true")
def test_killed_before_the_commit_the_intent_is_there(project: Any, receiver: Any) -> None:
    """A kill in the middle of the migration leaves its intent, and no event."""
    project.migration("001", "a", up=f"{TABLE}; SELECT pg_sleep(60)", down="DROP TABLE a")
    _killed(project, receiver)
    intents = asked(project.database_url, "SELECT intent::jsonb FROM confiture_webhooks.intents")
    assert [intent["migration"] for (intent,) in intents] == [{"version": "001", "slug": "a"}]
    assert stored(project.database_url) == []
    assert not receiver.requests


@pytest.mark.survived("SIGKILL after the COMMIT, before the event is recorded", "kept", "true")
def test_killed_after_the_commit_the_delivery_is_there(project: Any) -> None:
    """A kill right after the COMMIT leaves the success to be delivered, and no intent."""
    with LocalReceiver(answers=["hang"] * 10) as receiver:
        project.migration("001", "a", up=TABLE, down="DROP TABLE a")
        project.migration("002", "b", up="SELECT pg_sleep(60)", down="SELECT 1")
        _killed(project, receiver)
    assert stored(project.database_url) == [("migration_success", "undelivered")]
    intents = asked(
        project.database_url,
        "SELECT intent::jsonb->'migration'->>'version' FROM confiture_webhooks.intents",
    )
    assert intents == [("002",)]
    with LocalReceiver() as receiver:
        asked(project.database_url, DUE)  # its lease is over
        done = project.confiture("webhooks", "deliver", env=on(receiver))
        assert done.returncode == 0, done.stderr
        # The second migration is settled too, if its backend has found out by now.
        assert events(receiver).count("migration_success") == 1


@pytest.mark.survived("SIGKILL after the COMMIT, before the event is recorded", "kept", "true")
@pytest.mark.parametrize("command", [("webhooks", "deliver"), ("migrate", "up")])
def test_killed_at_the_commit_the_event_is_there(
    project: Any, receiver: Any, command: tuple[str, str]
) -> None:
    """It went with the COMMIT, with its rows and its run: the ledger is not needed."""
    sql = f"{TABLE}; INSERT INTO a VALUES (1), (2)"
    project.migration("001", "a", up=sql, down="DROP TABLE a")
    crash(project, "after commit", "migrate", "up", **on(receiver))
    looked = project.confiture("webhooks", "status", env=on(receiver))
    assert "it committed, and its event is recorded" in looked.stdout, looked.stdout
    asked(project.database_url, "UPDATE tb_confiture SET execution_time_ms = 99999 RETURNING 1")
    done = project.confiture(*command, env=on(receiver))
    assert done.returncode == 0, done.stderr
    assert events(receiver) == ["migration_success"]
    payload = json.loads(receiver.requests[0].body)
    assert payload["execution"]["rows_affected"] == 2
    assert payload["execution"]["duration_seconds"] < 99
    assert payload["run"]["command"] == "confiture migrate up"
    assert stored(project.database_url) == [("migration_success", "delivered")]
    assert asked(project.database_url, "SELECT * FROM confiture_webhooks.intents") == []


NAMED_OTHERWISE = """
from confiture.models.migration import Migration
class Named(Migration):
    version, name = "002", "otherwise"
    def up(self):
        self.execute("SELECT 1")
    def down(self):
        pass
"""


def test_killed_at_the_commit_nothing_before_it_is_missing(project: Any, receiver: Any) -> None:
    """What waited for the COMMIT went with it; one that is not named as its file is sent once."""
    kinds = ["migration_started", "migration_success"]
    endpoint = {"name": "a", "url": receiver.url, "events": kinds}
    project.environment_file(webhooks={"outbox": "postgres", "endpoints": [endpoint]})
    project.migration("001", "a", up=TABLE, down="DROP TABLE a")
    assert project.confiture("migrate", "up").returncode == 0
    project.python_migration("002", "file", NAMED_OTHERWISE)
    crash(project, "after commit", "migrate", "up")
    assert project.confiture("webhooks", "deliver").returncode == 0
    assert [
        (request.payload["event_type"], request.payload["migration"]["name"])
        for request in receiver.requests[2:]
    ] == [(kind, "002_otherwise") for kind in kinds]


def test_a_later_run_of_the_pipeline_adds_nothing_to_a_killed_ones_event(
    project: Any, receiver: Any
) -> None:
    """They share its TRACEPARENT, and not their command, nor the link to their CI run."""
    project.migration("001", "a", up=TABLE, down="DROP TABLE a")
    pipeline = {"TRACEPARENT": f"00-{'c' * 32}-{'d' * 16}-01", "GITHUB_REPOSITORY": "o/r"}
    pipeline |= {"GITHUB_ACTIONS": "true", "GITHUB_SERVER_URL": "https://github.example"}
    killed = on(receiver, **pipeline, GITHUB_RUN_ID="7")
    crash(project, "after commit", "migrate", "up", **killed)
    done = project.confiture("migrate", "down", env=on(receiver, **pipeline, GITHUB_RUN_ID="8"))
    assert done.returncode == 0, done.stderr
    assert events(receiver) == ["migration_success", "migration_rollback"]
    link = "https://github.example/o/r/actions/runs/"
    assert [request.payload["run"] for request in receiver.requests] == [
        {"command": "confiture migrate up", "url": f"{link}7"},
        {"command": "confiture migrate down", "url": f"{link}8"},
    ]


def test_the_outbox_may_be_in_another_database(project: Any, receiver: Any, postgres: Any) -> None:
    """With a DSN, nothing of ours is in the migrated database."""
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE elsewhere TEMPLATE template0")
    try:
        other = postgres.dsn("elsewhere")
        project.migration("001", "a", up=TABLE, down="DROP TABLE a")
        env = on(receiver, CONFITURE_WEBHOOK_OUTBOX=f"postgres:{other}")
        done = project.confiture("migrate", "up", env=env)
        assert done.returncode == 0, done.stderr
        assert events(receiver) == ["migration_success"]
        assert stored(other) == [("migration_success", "delivered")]
        assert asked(
            project.database_url, "SELECT to_regnamespace('confiture_webhooks')::text"
        ) == [(None,)]
    finally:
        with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
            admin.execute("DROP DATABASE elsewhere WITH (FORCE)")


def test_an_unreachable_outbox_is_said_and_the_run_goes_on(project: Any, receiver: Any) -> None:
    """With nobody at the outbox's address the event is delivered from memory; stderr says so."""
    project.migration("001", "a", up=TABLE, down="DROP TABLE a")
    env = on(receiver, CONFITURE_WEBHOOK_OUTBOX="postgres:postgresql://u:CANARY@127.0.0.1:1/x")
    done = project.confiture("migrate", "up", env=env)
    plain = project.confiture("migrate", "status")
    assert done.returncode == 0, done.stderr
    assert plain.returncode == 0
    assert events(receiver) == ["migration_success"]
    assert "outbox postgres 127.0.0.1:1/x: the server does not answer" in done.stderr
    assert "CANARY" not in done.stderr + done.stdout


@pytest.mark.lowest
@pytest.mark.parametrize(
    ("words", "code", "stdout"),
    [
        (("list", "--format", "json"), 0, '"deliveries": []'),
        (("show", "dlv_1"), 1, ""),
        (("status", "--format", "json"), 0, '"ok": true'),
        (("redeliver", "--dead", "--yes"), 0, "Nothing to redeliver"),
    ],
)
def test_a_look_makes_no_outbox(
    project: Any, receiver: Any, words: tuple[str, ...], code: int, stdout: str
) -> None:
    """Where there is none yet, nothing is found; the database stays as it was."""
    done = project.confiture("webhooks", *words, env=on(receiver))
    assert done.returncode == code
    assert stdout in " ".join(done.stdout.split())
    assert "Traceback" not in done.stderr
    made = "SELECT to_regnamespace('confiture_webhooks')"
    assert asked(project.database_url, made) == [(None,)]


def test_a_look_at_an_unreachable_outbox_fails(project: Any, receiver: Any) -> None:
    """Nobody at its address is no empty outbox: exit 1, and why."""
    env = on(receiver, CONFITURE_WEBHOOK_OUTBOX="postgres:postgresql://u:CANARY@127.0.0.1:1/x")
    done = project.confiture("webhooks", "status", env=env)
    assert done.returncode == 1
    assert "outbox postgres 127.0.0.1:1/x: the server does not answer" in done.stderr
    assert "CANARY" not in done.stderr + done.stdout


@pytest.mark.parametrize("place", ["CONFITURE_DATABASE_URL", "`database_url` of db/environments/"])
def test_a_database_address_that_cannot_be_read_is_named(project: Any, place: str) -> None:
    """The setting that it stands in, and the form that it has there."""
    env = {"CONFITURE_WEBHOOK_OUTBOX": "postgres", "CONFITURE_WEBHOOK_URL": "https://h.example/"}
    if place == "CONFITURE_DATABASE_URL":
        env[place] = "shop"
    else:
        project.environment_file(database_url="shop")
    done = project.confiture("webhooks", "status", env=env)
    assert f"Write {place}" in done.stderr
    assert " as `postgresql://user:password@host:5432/database`\n" in done.stderr


@pytest.mark.parametrize("place", ["variable", "block"])
def test_a_run_names_the_setting_of_an_outbox_elsewhere(
    one_migration: Any, receiver: Any, place: str
) -> None:
    """Not that of the migrated database, which is right."""
    outbox = "postgres:postgresql://nobody@127.0.0.1:1/none"
    env, block = {"CONFITURE_WEBHOOK_URL": receiver.url}, {}
    if place == "variable":
        env["CONFITURE_WEBHOOK_OUTBOX"] = outbox
    else:
        block = {"webhooks": {"outbox": outbox}}
    one_migration.environment_file(**block)
    done = one_migration.confiture("migrate", "up", env=env)
    assert done.returncode == 0, done.stderr
    setting = "CONFITURE_WEBHOOK_OUTBOX" if place == "variable" else "webhooks.outbox"
    assert f"Check that it runs, and its address in {setting}" in done.stderr
    assert "For an outbox elsewhere" not in done.stderr
    assert "database_url" not in done.stderr


def test_a_migration_that_drops_the_outbox_loses_no_event(project: Any, receiver: Any) -> None:
    """What the run had recorded before is recorded again in the new one, and sent once."""
    project.migration("001", "a", up=TABLE, down="DROP TABLE a")
    project.migration("002", "b", up="DROP SCHEMA confiture_webhooks CASCADE", down="SELECT 1")
    project.migration("003", "c", up="CREATE TABLE c (id int)", down="DROP TABLE c")
    up = project.confiture("migrate", "up", env=on(receiver))
    assert up.returncode == 0, up.stderr
    sent = [json.loads(request.body)["migration"]["version"] for request in receiver.requests]
    assert sent == ["001", "002", "003"]
    assert stored(project.database_url) == [("migration_success", "delivered")] * 3
