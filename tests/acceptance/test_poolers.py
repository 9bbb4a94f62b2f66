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
LEFT = (
    "SELECT (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = "
    "(SELECT oid FROM pg_database WHERE datname = current_database())), "
    "(SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%%confiture_webhooks%%'), "
    "(SELECT string_agg(name || '=' || setting, ',') FROM pg_settings WHERE source = 'session' AND name NOT LIKE 'transaction_%%' AND name NOT IN "
    "('client_encoding', 'application_name', 'DateStyle', 'TimeZone'))"
)


@contextmanager
def pooled(project: Any, receiver: Any, mode: str, outbox: str, size: int = 1) -> Iterator[Any]:
    """*project* behind a pooler."""
    with PgBouncer(
        project.database_url, project.path.with_name("pooler"), mode=mode, size=size
    ) as pooler:
        project.database_url = pooler.url
        endpoint = {"name": "a", "url": receiver.url}
        project.environment_file(webhooks={"outbox": outbox, "endpoints": [endpoint]})
        yield pooler


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
    project.migration("002", "b", "SELECT pg_sleep(60)", "SELECT 1")
    direct = project.database_url
    with pooled(project, receiver, mode, outbox, size):
        process = project.spawn("migrate", "up")
        wait_for_sleep(direct, process)
        process.kill()
        process.wait(60)
        project.migration("002", "b", "CREATE TABLE tb_b (a int)", "SELECT 1")
        done = project.confiture("migrate", "up", "--lock-timeout", "30000")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "may not have been held" not in done.stderr
        first = sorted(sent(receiver))
        assert first == [
            ("migration_error", "002", "Interrupted"),
            ("migration_success", "001", None),
            ("migration_success", "002", None),
        ]
        project.confiture("webhooks", "deliver")
        assert sorted(sent(receiver)) == first


def wait_for_sleep(dsn: str, process: Any) -> None:
    """Until the migration sleeps on the server."""
    with psycopg.connect(dsn, autocommit=True) as admin:
        asked = (
            "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' "
            "AND state = 'active' AND pid <> pg_backend_pid() AND datname = current_database()"
        )
        while admin.execute(asked).fetchone() is None:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)


@pytest.mark.survived("Killed behind a pooler, and nothing runs again", "kept", "true")
def test_a_killed_run_is_settled_without_another(project: Any, receiver: Any) -> None:
    """Where nothing runs again, the free lock proves that it is over."""
    project.migration("001", "a", "SELECT pg_sleep(60)", "SELECT 1")
    direct = project.database_url
    with pooled(project, receiver, "session", "sqlite"):
        process = project.spawn("migrate", "up")
        wait_for_sleep(direct, process)
        process.kill()
        process.wait(60)
        until = time.monotonic() + 90
        while not receiver.requests and time.monotonic() < until:
            project.confiture("webhooks", "deliver")
    assert sent(receiver) == [("migration_error", "001", "Interrupted")]
