"""Behind a real PgBouncer with one server connection, in both modes, with both outboxes."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from pooler import PROGRAM, PgBouncer

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="pgbouncer is not installed"),
    pytest.mark.timeout(240),
]
POOLS = [("session", 1), ("transaction", 1), ("transaction", 5)]
WAITS, OPENS = "SELECT pg_advisory_xact_lock(4711)", "SELECT pg_advisory_unlock(4711)"
COMMIT_WAITS = f"""
CREATE TABLE tb_a (a int);
CREATE FUNCTION waits() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM {WAITS.removeprefix("SELECT ")}; RETURN NULL; END';
CREATE CONSTRAINT TRIGGER waits AFTER INSERT ON tb_a DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION waits();
INSERT INTO tb_a VALUES (1);
"""
LEFT = (
    "SELECT (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = "
    "(SELECT oid FROM pg_database WHERE datname = current_database())), "
    "(SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%%confiture_webhooks%%'), "
    "(SELECT string_agg(name || '=' || setting, ',') FROM pg_settings WHERE source = 'session' AND name NOT LIKE 'transaction_%%' AND name NOT IN "
    "('client_encoding', 'application_name', 'DateStyle', 'TimeZone'))"
)


@contextmanager
def pooled(
    project: Any, receiver: Any, mode: str, outbox: str, size: int = 1, **more: object
) -> Iterator[Any]:
    """*project* behind a pooler."""
    with PgBouncer(
        project.database_url, project.path.with_name("pooler"), mode=mode, size=size, **more
    ) as pooler:
        project.database_url = pooler.url
        endpoint = {"name": "a", "url": receiver.url}
        project.environment_file(webhooks={"outbox": outbox, "endpoints": [endpoint]})
        yield pooler


@contextmanager
def gate(project: Any) -> Iterator[psycopg.Connection[Any]]:
    """A session of the test's own that keeps the lock for which a migration WAITS."""
    with psycopg.connect(project.database_url, autocommit=True) as admin:
        admin.execute("SELECT pg_advisory_lock(4711)")
        yield admin


def killed_at_the_gate(project: Any, admin: psycopg.Connection[Any]) -> None:
    """Kill a run while its migration waits on the server."""
    process = project.spawn("migrate", "up")
    waits = "SELECT 1 FROM pg_locks JOIN pg_database d ON d.oid = database WHERE datname = current_database() AND locktype = 'advisory' AND objid = 4711 AND NOT granted"
    while admin.execute(waits).fetchone() is None:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.kill()
    process.wait(60)


def sent(receiver: Any) -> list[tuple[str, str, str | None]]:
    """Type, version and error of every event, in order, each event once."""
    events = {request.payload["event_id"]: request.payload for request in receiver.requests}
    return [
        (
            one["event_type"],
            one["migration"]["version"] if "migration" in one else "",
            (one.get("error") or {}).get("type"),
        )
        for one in events.values()
    ]


@pytest.mark.survived(
    "A pooler with one connection, in session and transaction mode", "unharmed", "kept"
)
@pytest.mark.parametrize("outbox", ["sqlite", "postgres"])
@pytest.mark.parametrize(("mode", "size"), POOLS)
def test_a_pool_of_one_is_enough(
    project: Any, receiver: Any, mode: str, size: int, outbox: str
) -> None:
    """Fifteen migrations commit and are reported in order, and nothing stays on the session."""
    versions = [f"{number:03}" for number in range(1, 16)]
    for version in versions:
        project.migration(version, "t", f"CREATE TABLE tb_{version} (a int)", "SELECT 1")
    with pooled(project, receiver, mode, outbox, size) as pooler:
        started = time.monotonic()
        done = project.confiture("migrate", "up")
        assert done.returncode == 0, done.stdout + done.stderr
        assert time.monotonic() - started < 100
        with psycopg.connect(pooler.url, autocommit=True, prepare_threshold=None) as session:
            assert session.execute(LEFT).fetchone() == (0, 0, None)
        assert project.confiture("migrate", "up").returncode == 0
        assert "not sent" not in done.stderr
        assert "may not have been held" not in done.stderr
    assert sent(receiver) == [("migration_success", version, None) for version in versions]


@pytest.mark.survived("Killed behind a pooler, and run again at once", "kept", "true")
@pytest.mark.parametrize("outbox", ["sqlite", "postgres"])
@pytest.mark.parametrize(("mode", "size"), POOLS)
def test_killed_and_run_again_at_once(
    project: Any, receiver: Any, mode: str, size: int, outbox: str
) -> None:
    """The next run reports that the killed one was interrupted, and its own success; once each."""
    project.migration("001", "a", "CREATE TABLE tb_a (a int)", "SELECT 1")
    project.migration("002", "b", WAITS, "SELECT 1")
    with gate(project) as admin, pooled(project, receiver, mode, outbox, size):
        killed_at_the_gate(project, admin)
        project.migration("002", "b", "CREATE TABLE tb_b (a int)", "SELECT 1")
        again = project.spawn("migrate", "up", "--lock-timeout", "60000")
        time.sleep(1)  # so that it comes while the killed one's statement runs
        admin.execute(OPENS)
        out, err = again.communicate(timeout=100)
        assert again.returncode == 0, out + err
        assert "may not have been held" not in err
        first = sorted(sent(receiver))
        assert first == [
            ("migration_error", "002", "Interrupted"),
            ("migration_success", "001", None),
            ("migration_success", "002", None),
        ]
        project.confiture("webhooks", "deliver")
        assert sorted(sent(receiver)) == first


@pytest.mark.survived("Killed behind a pooler, and nothing runs again", "kept", "true")
def test_a_killed_run_is_settled_without_another(project: Any, receiver: Any) -> None:
    """Where nothing runs again, the free lock proves that it is over."""
    project.migration("001", "a", WAITS, "SELECT 1")
    with gate(project) as admin, pooled(project, receiver, "session", "sqlite"):
        killed_at_the_gate(project, admin)
        admin.execute(OPENS)
        until = time.monotonic() + 90
        while not receiver.requests and time.monotonic() < until:
            project.confiture("webhooks", "deliver")
    assert sent(receiver) == [("migration_error", "001", "Interrupted")]


@pytest.mark.survived("A pooler ends the connection while a COMMIT is under way", "kept", "true")
@pytest.mark.parametrize(("mode", "size"), POOLS)
def test_a_commit_that_a_pooler_has_cut_did_not_fail(
    project: Any, receiver: Any, mode: str, size: int
) -> None:
    """While the server is at it nothing is guessed; afterwards it is the success that it was."""
    project.migration("001", "a", COMMIT_WAITS, "SELECT 1")
    with (
        gate(project) as admin,
        pooled(project, receiver, mode, "sqlite", size, query_timeout=1),
    ):
        done = project.confiture("migrate", "up")
        assert done.returncode == 3
        assert "the database does not say how 001_a ended" in done.stderr
        assert not receiver.requests
        admin.execute(OPENS)
        until = time.monotonic() + 30
        while not receiver.requests and time.monotonic() < until:
            project.confiture("webhooks", "deliver")
    assert sent(receiver) == [("migration_success", "001", None)]
