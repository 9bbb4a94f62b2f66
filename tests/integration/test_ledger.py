"""What a real server answers about a migration before it, and about its backend and ledger afterwards."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import conninfo, sql

from confiture_webhooks.adapters import ledger
from confiture_webhooks.adapters.backend import LOCK_NAMESPACE, backend_of, before, project_dsn
from confiture_webhooks.adapters.ledger import TIMEOUT_S, Ledger, ask_over
from confiture_webhooks.outbox import NO_ROW, Intent
from confiture_webhooks.settlement import Ending, Known, judge
from ledgers import ADD, LEDGER, Engine, intent
from pooler import PROGRAM, PgBouncer


@contextmanager
def connected(dsn: str) -> Iterator[Any]:
    """A connection that ends with the block, whatever its transaction."""
    connection = psycopg.connect(dsn)
    try:
        yield connection
    finally:
        connection.close()


@pytest.fixture
def stranger(shop: str, postgres: Any) -> Iterator[str]:
    """The DSN of an ordinary role that may read the ledger and nothing else."""
    name, word = f"role_{secrets.token_hex(4)}", secrets.token_hex(8)
    role = sql.Identifier(name)
    with psycopg.connect(shop, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, word))
        admin.execute(sql.SQL("GRANT SELECT ON tb_confiture TO {}").format(role))
        url = urlsplit(shop)
        yield url._replace(netloc=f"{name}:{word}@{url.hostname}:{url.port}").geturl()
        admin.execute(sql.SQL("DROP OWNED BY {}").format(role))
        admin.execute(sql.SQL("DROP ROLE {}").format(role))


def staged(connection: Any, table: str = "tb_confiture") -> Intent:
    """The intent of a migration that *connection* is about to run."""
    engine = Engine(connection, table)
    return intent(before(backend_of(engine), engine, "005"))


def asked(dsn: str, one: Intent) -> Known:
    """What the server at *dsn* says of *one*."""
    return Ledger(dsn).ask([one])[one.event_id]


def ending(dsn: str, one: Intent) -> Ending:
    """How *one* ended, by what the server at *dsn* says."""
    return judge(one, Ledger(dsn).ask([one]).get(one.event_id), datetime.now(UTC)).ending


@pytest.mark.parametrize("is_kept", [True, False])
def test_open_while_its_process_lives_then_what_the_ledger_says(shop: str, is_kept: bool) -> None:
    """Until the connection is gone it is open; then committed exactly when the row is there."""
    with connected(shop) as connection:
        one = staged(connection)
        connection.execute(ADD.format("tb_confiture"))
        assert ending(shop, one) is Ending.OPEN
        if is_kept:
            connection.commit()
        assert ending(shop, one) is Ending.OPEN
    wait_until_gone(shop, one.backend_pid)
    assert ending(shop, one) is (Ending.COMMITTED if is_kept else Ending.NOT_COMMITTED)
    if is_kept:
        assert asked(shop, one).row is not None
        assert asked(shop, one).row.execution_time_ms == 7


@pytest.mark.survived("A pooler ends the session that holds the migration lock", "true")
@pytest.mark.parametrize("is_kept", [True, False])
def test_without_its_lock_a_pooled_migration_is_open_while_its_transaction_is(
    shop: str, is_kept: bool
) -> None:
    """Behind a pooler the lock may be another session's, which ends before the migration does."""
    with connected(shop) as connection:
        one = replace(staged(connection), backend_pid=None, backend_started_at=None, has_lock=True)
        connection.execute(ADD.format("tb_confiture"))
        assert ending(shop, one) is Ending.UNSETTLED
        connection.commit() if is_kept else connection.rollback()
        assert ending(shop, one) is (Ending.COMMITTED if is_kept else Ending.NOT_COMMITTED)


def wait_until_gone(dsn: str, pid: int | None) -> None:
    """Until no process has *pid*."""
    with psycopg.connect(dsn, autocommit=True) as watch:
        while watch.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (pid,)).fetchone():
            time.sleep(0.02)


def test_what_is_asked_leaves_the_transaction_as_it_was(shop: str) -> None:
    """Before a migration an idle connection stays idle, one in a transaction in it."""
    with connected(shop) as connection:
        staged(connection)
        assert connection.info.transaction_status.name == "IDLE"
        connection.execute("CREATE TABLE a ()")
        staged(connection)
        assert connection.info.transaction_status.name == "INTRANS"
        connection.execute("SELECT 1 FROM a")


def test_what_the_ledger_had_before_is_its_rows_id(shop: str) -> None:
    """No row is distinguished from a row, and one row from the next of the same version."""
    with connected(shop) as connection:
        assert staged(connection).ledger_before == NO_ROW
        row = connection.execute(ADD.format("tb_confiture") + " RETURNING id::text").fetchone()
        assert staged(connection).ledger_before == row[0]


def test_a_ledger_that_is_not_there_is_not_known(database: str) -> None:
    """Without a ledger nothing is known of it, before or after, and nothing raised."""
    with connected(database) as connection:
        one = staged(connection)
        assert one.backend_pid == connection.info.backend_pid
    assert (one.ledger_before, one.ledger_oid, one.ledger_table) == (None, None, "tb_confiture")
    wait_until_gone(database, one.backend_pid)
    assert not asked(database, one).is_ledger_read
    assert ending(database, one) is Ending.UNSETTLED


def test_a_role_that_may_not_see_locks_knows_its_process_and_ledger(
    shop: str, stranger: str
) -> None:
    """Only whether the run holds the migration lock is not known then."""
    with psycopg.connect(shop, autocommit=True) as admin:
        admin.execute("REVOKE SELECT ON pg_catalog.pg_locks FROM PUBLIC")
    with connected(stranger) as connection:
        found = backend_of(Engine(connection, "tb_confiture"))
        assert found.backend_pid == connection.info.backend_pid
    assert (found.database.schema, found.has_lock) == ("public", False)
    assert found.ledger_oid is not None


@pytest.mark.parametrize("name", ["", "a\0b", "a.b.c.d", "x; DROP TABLE tb_confiture"])
def test_what_is_no_table_costs_its_own_intent(shop: str, name: str) -> None:
    """The other intents are asked about all the same."""
    with connected(shop) as connection:
        one = staged(connection)
    wait_until_gone(shop, one.backend_pid)
    known = Ledger(shop).ask([replace(one, event_id="evt_odd", ledger_table=name), one])
    assert [known[key].is_ledger_read for key in ("evt_odd", one.event_id)] == [False, True]


def test_a_ledger_in_a_schema_is_found_whatever_the_search_path(database: str) -> None:
    """The table is remembered with the schema it was found in, quoted where it must be."""
    with psycopg.connect(database) as connection:
        connection.execute('CREATE SCHEMA "Ops-1"')
        connection.execute(LEDGER.format('"Ops-1".tb_confiture'))
    with connected(database) as connection:
        connection.execute('SET search_path = "Ops-1"')
        one = staged(connection)
        assert one.ledger_table == "Ops-1.tb_confiture"
        connection.execute(ADD.format("tb_confiture"))
        connection.commit()
    wait_until_gone(database, one.backend_pid)
    assert ending(database, one) is Ending.COMMITTED


def test_a_ledger_made_anew_is_not_believed(shop: str) -> None:
    """A table of the same name that was made since settles nothing."""
    with connected(shop) as connection:
        one = staged(connection)
    with psycopg.connect(shop) as connection:
        connection.execute("DROP TABLE tb_confiture")
        connection.execute(LEDGER.format("tb_confiture"))
    wait_until_gone(shop, one.backend_pid)
    assert ending(shop, one) is Ending.UNSETTLED


@pytest.mark.survived("A copy, a restored or another database answers for a killed run", "true")
def test_another_database_of_the_same_server_is_not_the_same(shop: str, postgres: Any) -> None:
    """Its identity differs although the server is the same."""
    with connected(shop) as connection:
        one = staged(connection)
    assert one.database_identity is not None
    assert ending(postgres.dsn(), one) is Ending.UNSETTLED


@pytest.mark.parametrize("is_locked", [True, False])
def test_a_role_that_cannot_see_the_start_goes_by_the_lock(
    shop: str, stranger: str, is_locked: bool
) -> None:
    """To an ordinary role the start is hidden; while the pid holds the migration lock it is open."""
    with connected(shop) as connection:
        connection.execute("SELECT pg_advisory_lock(%s, 1)", (LOCK_NAMESPACE,))
        one = staged(connection)
        assert one.has_lock
        if not is_locked:
            connection.execute("SELECT pg_advisory_unlock(%s, 1)", (LOCK_NAMESPACE,))
        known = asked(stranger, one)
        assert (known.has_pid, known.pid_started_at) == (True, None)
        assert known.identity == one.database_identity
        assert ending(stranger, one) is (Ending.OPEN if is_locked else Ending.NOT_COMMITTED)
        assert ending(shop, one) is Ending.OPEN


@pytest.mark.survived("A pooler's process in place of the migration's own", "true")
def test_behind_a_pooler_no_process_is_named(shop: str) -> None:
    """When the pid the client was given is not the server's, nobody's process is remembered."""
    with connected(shop) as connection:
        info = connection.info
        pooled = SimpleNamespace(
            info=SimpleNamespace(
                host=info.host,
                user=info.user,
                password="",
                port=info.port,
                dbname=info.dbname,
                backend_pid=info.backend_pid + 1,
                transaction_status=info.transaction_status,
            ),
            transaction=connection.transaction,
            cursor=connection.cursor,
            closed=False,
            broken=False,
        )
        one = staged(pooled)
        assert (one.backend_pid, one.backend_started_at) == (None, None)
        assert ending(shop, one) is Ending.UNSETTLED


@pytest.mark.skipif(PROGRAM is None, reason="pgbouncer is not installed")
def test_the_lock_of_a_run_that_shares_the_process_of_the_pooler_is_its_own(
    shop: str, tmp_path: Any
) -> None:
    """Who asks took no lock: a pooler gave it the process that holds the run's, which goes on."""
    with (
        PgBouncer(shop, tmp_path / "pooler", mode="transaction") as pooler,
        connected(pooler.url) as running,
    ):
        running.execute("SELECT pg_advisory_lock(%s, 1)", (LOCK_NAMESPACE,))
        one = staged(running)
        running.commit()
        known = asked(pooler.url, one)
        assert (one.has_lock, one.backend_pid) == (True, None)
        assert known.lock_holders
        assert ending(pooler.url, one) is Ending.UNSETTLED
        assert ask_over(running, [one])[one.event_id].is_lock_ours


@pytest.mark.survived("The ledger is locked by somebody else", "true")
def test_a_locked_ledger_is_no_answer_in_time(shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While somebody keeps the ledger locked the question ends in time, and settles nothing."""
    with connected(shop) as connection:
        one = staged(connection)
    wait_until_gone(shop, one.backend_pid)
    with connected(shop) as other, monkeypatch.context() as soon:
        soon.setattr(ledger, "_BOUND", "SET LOCAL statement_timeout = 300")
        other.execute("LOCK TABLE tb_confiture IN ACCESS EXCLUSIVE MODE")
        started = time.monotonic()
        assert Ledger(shop).ask([one]) == {}
        assert time.monotonic() - started < 10 * TIMEOUT_S
    assert ending(shop, one) is Ending.NOT_COMMITTED


def test_a_standby_does_not_say_how_a_migration_ended(
    shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have yet to replay the COMMIT."""
    assert Ledger(shop).has("tb_confiture", "005") is False
    monkeypatch.setattr(ledger, "_STANDBY", "SELECT true")
    assert Ledger(shop).has("tb_confiture", "005") is None


def test_an_older_snapshot_does_not_hide_a_commit(shop: str) -> None:
    """Where the database's default is REPEATABLE READ, the ledger is read as it is."""
    with psycopg.connect(shop, autocommit=True) as admin:
        name = sql.Identifier(admin.info.dbname)
        level = "ALTER DATABASE {} SET default_transaction_isolation = 'repeatable read'"
        admin.execute(sql.SQL(level).format(name))
    with connected(shop) as connection:
        one = staged(connection)
    with psycopg.connect(shop, autocommit=True) as admin, Ledger(shop)._connected() as asking:
        with asking.transaction():
            asking.execute("SELECT 1")
            admin.execute(ADD.format("tb_confiture"))
            seen = asking.execute("SELECT count(*) FROM tb_confiture").fetchone()
    assert seen == (1,)
    assert replace(one, event_id="evt_2").ledger_before == NO_ROW


def test_the_projects_database_is_the_files_or_the_variables(tmp_path: Any) -> None:
    """With a file its address, variables put in, or the host's own; without one a variable's."""
    file = tmp_path / "local.yaml"
    file.write_text("database_url: ${SHOP}\nother: ${UNSET}\n", encoding="utf-8")
    assert project_dsn(file, {"SHOP": "a", "DATABASE_URL": "x"}) == "a"
    assert project_dsn(file, {}) is None
    assert project_dsn(None, {"CONFITURE_DATABASE_URL": "a", "DATABASE_URL": "x"}) == "a"
    assert project_dsn(None, {"DATABASE_URL": "a"}) == "a"
    assert project_dsn(None, {}) is None
    assert project_dsn(tmp_path / "none.yaml", {}) is None
    for text, address in (
        ("database: {host: db, database: shop, user: u}", {"host": "db", "dbname": "shop"}),
        ("name: local", {"host": "localhost", "port": "5432", "dbname": "postgres"}),
    ):
        file.write_text(text, encoding="utf-8")
        found = conninfo.conninfo_to_dict(project_dsn(file, {}))
        assert address.items() <= found.items()
    file.write_text("database: 5", encoding="utf-8")
    assert project_dsn(file, {}) is None


def test_a_database_that_is_gone_is_no_answer(shop: str) -> None:
    """Where nobody listens nothing is known, soon."""
    with connected(shop) as connection:
        one = staged(connection)
    assert Ledger("postgresql://a:b@127.0.0.1:9/shop").ask([one]) == {}
