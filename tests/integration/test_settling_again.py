"""A version that runs again: the killed attempt before it is reported as what it was, and in time."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from confiture_webhooks.adapters.backend import backend_of, before
from confiture_webhooks.adapters.ledger import ask_over
from confiture_webhooks.settlement import Ending, judge
from crashing import crash
from ledgers import ADD, Engine, intent

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def role(database: str) -> Iterator[tuple[str, Any]]:
    """The DSN of a role that may migrate the database, and what limits its connections."""
    name, word = f"role_{secrets.token_hex(4)}", secrets.token_hex(8)
    url, role = urlsplit(database), sql.Identifier(name)
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, word))
        there = sql.Identifier(admin.info.dbname)
        admin.execute(sql.SQL("GRANT ALL ON DATABASE {} TO {}").format(there, role))
        admin.execute(sql.SQL("GRANT ALL ON SCHEMA public TO {}").format(role))

        def limit(count: int) -> None:
            admin.execute(sql.SQL("ALTER ROLE {} CONNECTION LIMIT {}").format(role, count))

        yield url._replace(netloc=f"{name}:{word}@{url.hostname}:{url.port}").geturl(), limit
        admin.execute(sql.SQL("DROP OWNED BY {}").format(role))
        admin.execute(sql.SQL("DROP ROLE {}").format(role))


@pytest.mark.survived("Run again at once after a kill, at the limit of connections", "true")
def test_without_a_second_connection_no_success_is_invented(
    project: Any, receiver: Any, role: tuple[str, Any]
) -> None:
    """Killed before its COMMIT, run again at the limit of connections: an error, then a success."""
    project.database_url, limit = role
    project.environment_file(webhooks={"endpoints": [{"name": "a", "url": receiver.url}]})
    project.migration("001", "a", up="CREATE TABLE a (id int)", down="DROP TABLE a")
    crash(project, "before commit", "migrate", "up")
    limit(1)
    done = project.confiture("migrate", "up")
    assert done.returncode == 0, done.stderr
    limit(-1)
    assert project.confiture("webhooks", "deliver").returncode == 0
    reported = [request.payload["event_type"] for request in receiver.requests]
    assert reported == ["migration_error", "migration_success"]


def test_a_migrations_own_connection_knows_who_is_gone(shop: str) -> None:
    """Also within a transaction that has looked before, and it is left as it was."""
    earlier = psycopg.connect(shop)
    engine = Engine(earlier)
    one = intent(before(backend_of(engine), engine, "005"))
    with psycopg.connect(shop) as connection:
        connection.execute("CREATE TEMP TABLE work (id int)")  # its transaction goes on

        def ending() -> Ending:
            known = ask_over(connection, [one])
            return judge(one, known.get(one.event_id), datetime.now(UTC)).ending

        assert ending() is Ending.OPEN
        earlier.execute(ADD.format("tb_confiture"))
        earlier.commit()
        earlier.close()
        while connection.execute(
            "SELECT 1 FROM pg_stat_get_activity(%s)", (one.backend_pid,)
        ).fetchone():
            connection.execute("SELECT pg_stat_clear_snapshot()")
        assert ending() is Ending.COMMITTED
        connection.execute("INSERT INTO work VALUES (1)")
        connection.execute("ALTER TABLE tb_confiture RENAME TO gone")
        assert ending() is Ending.UNSETTLED
        connection.execute("INSERT INTO work VALUES (2)")
        assert connection.execute("SELECT count(*) FROM work").fetchone() == (2,)


@pytest.mark.parametrize("state", ["aborted", "old snapshot"])
def test_a_connection_that_cannot_say_says_nothing(shop: str, state: str) -> None:
    """In an aborted transaction, or one that would miss a COMMIT, nothing is known."""
    with psycopg.connect(shop) as connection:
        engine = Engine(connection)
        one = intent(before(backend_of(engine), engine, "005"))
        connection.rollback()
        if state == "aborted":
            with pytest.raises(psycopg.Error):
                connection.execute("SELECT 1 / 0")
        else:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        assert ask_over(connection, [one]) == {}
        connection.rollback()
