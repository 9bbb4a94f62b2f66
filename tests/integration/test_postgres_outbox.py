"""The PostgreSQL outbox where it meets the server: transactions, roles, versions, breakdowns."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.pq import TransactionStatus

from confiture_webhooks.config import Settings
from confiture_webhooks.delivery import Delivery
from confiture_webhooks.errors import OutboxError
from confiture_webhooks.outbox import (
    Intent,
    Outbox,
    postgres,
    postgres_rights,
    postgres_session,
)
from confiture_webhooks.outbox import postgres_schema as schema
from confiture_webhooks.outbox import rows as documents
from confiture_webhooks.outbox import schema as versions
from confiture_webhooks.outbox.postgres import PostgresOutbox
from confiture_webhooks.outbox.postgres_schema import is_there
from confiture_webhooks.outbox.postgres_session import connect, conninfo_of
from confiture_webhooks.watch import Configuration, _Delivering
from confiture_webhooks.wiring import outbox_exists
from contract.acts import claim_ids, claim_one, finish, release
from contract.made import (
    A_SECOND,
    DEAD,
    DELIVERED,
    LEASE,
    NOW,
    attempt,
    committed,
    delivery,
    event_id,
    intent,
)
from outbox_databases import count, emptied
from passage import Passage


@pytest.fixture
def opened(outbox_database: str) -> Callable[[], PostgresOutbox]:
    """Opens the outbox, which holds nothing: each call is another worker's."""
    return emptied(outbox_database)


@pytest.fixture
def outbox(opened: Callable[[], PostgresOutbox]) -> Iterator[PostgresOutbox]:
    """The outbox."""
    with closing(opened()) as outbox:
        yield outbox


@pytest.fixture
def migrating(outbox_database: str) -> Iterator[psycopg.Connection[Any]]:
    """A migration's connection, with a transaction open that has made a table."""
    with psycopg.connect(outbox_database) as connection:
        connection.execute("CREATE TEMPORARY TABLE made (id int)")
        yield connection
        with suppress(psycopg.Error):
            connection.rollback()


# In the migration's transaction


def over(outbox: Outbox, connection: Any) -> Outbox:
    """The outbox by way of a connection to its database."""
    found = outbox.over(connection)
    assert found is not None
    return found


def is_done(call: Callable[[], object]) -> bool:
    """Whether it was not refused."""
    try:
        call()
    except OutboxError:
        return False
    return True


def release_on(outbox: Outbox, connection: Any, event: str, deliveries: list[Delivery]) -> bool:
    """Whether the event could be released over the connection."""
    return is_done(lambda: over(outbox, connection).release(event, deliveries))


def commit_on(outbox: Outbox, connection: Any, number: int = 1, **changes: Any) -> bool:
    """Whether the success of an event could go with the connection's transaction."""
    intent = replace(committed(number), **changes)
    return is_done(lambda: over(outbox, connection).stage_committed(intent))


def stage_on(outbox: Outbox, connection: Any, staged: Intent) -> bool:
    """Whether the intent could be staged over the connection."""
    return is_done(lambda: over(outbox, connection).stage(staged))


@pytest.mark.parametrize("is_staged", [True, False])
def test_a_success_comes_with_the_transaction(
    outbox: PostgresOutbox, migrating: psycopg.Connection[Any], is_staged: bool
) -> None:
    """Before the commit its event is not there, afterwards it is: one row, released by anybody."""
    if is_staged:
        outbox.stage(intent(1))
    assert commit_on(outbox, migrating)
    assert outbox.intents() == ([intent(1)] if is_staged else [])
    migrating.commit()
    assert outbox.intents() == [committed(1)]
    assert outbox.release(event_id(1), [delivery(1), delivery(1, "b")])
    assert [row.delivery for row in outbox.deliveries()] == [delivery(1, "b"), delivery(1)]
    assert not outbox.intents()


@pytest.mark.parametrize("is_staged", [True, False])
def test_a_commit_reads_no_table_as_a_whole(
    outbox: PostgresOutbox, migrating: psycopg.Connection[Any], is_staged: bool
) -> None:
    """Its plan is kept for a session: one made while a table is small reads it all when it has grown."""
    outbox.stage(intent(2))
    if is_staged:
        outbox.stage(intent(1))
    migrating.execute("ANALYZE confiture_webhooks.intents, confiture_webhooks.released")
    assert commit_on(outbox, migrating)
    scans = (
        "SELECT sum(seq_scan), sum(seq_tup_read), max(idx_scan) FROM pg_stat_xact_user_tables "
        "WHERE schemaname = 'confiture_webhooks'"
    )
    read = migrating.execute(scans).fetchone()
    assert read is not None
    assert (read[0], read[1], read[2] > 0) == (0, 0, True)


def test_a_success_goes_with_the_transaction(
    outbox: PostgresOutbox, migrating: psycopg.Connection[Any]
) -> None:
    """After a rollback the intent is as it was, and the event can be released as another."""
    outbox.stage(intent(1))
    assert commit_on(outbox, migrating)
    migrating.rollback()
    assert outbox.intents() == [intent(1)]
    release(outbox, 1)
    assert claim_ids(outbox) == ["dlv_a_1"]


def test_nothing_else_goes_with_the_transaction(
    outbox: PostgresOutbox, migrating: psycopg.Connection[Any]
) -> None:
    """An intent or a release would be undone with it."""
    assert not stage_on(outbox, migrating, intent(1))
    assert not release_on(outbox, migrating, event_id(1), [delivery(1)])
    assert migrating.info.transaction_status == TransactionStatus.INTRANS


@pytest.mark.survived(
    "A success that the outbox's database refuses, inside the migration's transaction", "unharmed"
)
@pytest.mark.parametrize("is_staged", [True, False])
def test_a_refused_success_leaves_the_transaction_as_it_was(
    outbox: PostgresOutbox,
    migrating: psycopg.Connection[Any],
    outbox_database: str,
    is_staged: bool,
) -> None:
    """A statement that fails costs its savepoint: the transaction goes on and commits."""
    if is_staged:
        outbox.stage(intent(1))
    with psycopg.connect(outbox_database, autocommit=True) as admin:
        change = "ALTER TABLE confiture_webhooks.intents"
        admin.execute(f"{change} ADD CONSTRAINT c CHECK (false) NOT VALID")
        try:
            assert not commit_on(outbox, migrating)
            migrating.execute("INSERT INTO made VALUES (1)")
            migrating.commit()
        finally:
            migrating.rollback()
            admin.execute(f"{change} DROP CONSTRAINT c")
    row = migrating.execute("SELECT count(*) FROM made").fetchone()
    assert row == (1,)
    assert outbox.intents() == ([intent(1)] if is_staged else [])


def test_a_lock_on_the_outbox_does_not_hold_the_transaction_up(
    outbox: PostgresOutbox, migrating: psycopg.Connection[Any], outbox_database: str
) -> None:
    """Where another session keeps a table or the intent locked, a success gives up at once."""
    outbox.stage(intent(1))
    for lock in ("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", "SELECT 1 FROM {} FOR UPDATE"):
        with psycopg.connect(outbox_database) as other:
            other.execute(lock.format("confiture_webhooks.intents"))
            migrating.execute("SET LOCAL lock_timeout = '1min'")
            began = time.monotonic()
            assert not commit_on(outbox, migrating)
            assert time.monotonic() - began < 30  # noqa: PLR2004
            other.rollback()
    assert migrating.info.transaction_status == TransactionStatus.INTRANS
    assert migrating.execute("SHOW lock_timeout").fetchone() == ("1min",)


def test_a_transaction_timeout_does_not_end_the_migrations_session(
    outbox: PostgresOutbox, outbox_database: str
) -> None:
    """What waits for a lock over the idle connection is refused; the session keeps its setting."""
    with (
        psycopg.connect(outbox_database) as idle,
        psycopg.connect(outbox_database) as other,
    ):
        if idle.info.server_version < 170000:  # noqa: PLR2004
            pytest.skip("this server has no such setting")
        idle.execute("SET transaction_timeout = '400ms'")
        idle.commit()
        assert stage_on(outbox, idle, intent(1))
        other.execute("LOCK TABLE confiture_webhooks.intents IN ACCESS EXCLUSIVE MODE")
        assert not stage_on(outbox, idle, intent(2))
        assert idle.execute("SHOW transaction_timeout").fetchone() == ("400ms",)


def test_an_error_that_would_end_the_migrations_session_does_not(database: str) -> None:
    """Not the question for an outbox that is not there yet, nor a lock on it in a transaction."""
    with (
        closing(PostgresOutbox(database, connects=False)) as outbox,
        psycopg.connect(database) as migrating,
        psycopg.connect(database) as other,
    ):
        migrating.execute("SET exit_on_error = on")
        migrating.commit()
        assert stage_on(outbox, migrating, intent(1))
        migrating.execute("CREATE TEMPORARY TABLE made (id int)")
        other.execute("LOCK TABLE confiture_webhooks.intents IN ACCESS EXCLUSIVE MODE")
        assert not commit_on(outbox, migrating)
        assert migrating.execute("SHOW exit_on_error").fetchone() == ("on",)


@pytest.mark.parametrize("scope", ["SET LOCAL", "SET"])
def test_a_success_leaves_the_settings_of_the_transaction(
    outbox: PostgresOutbox, migrating: psycopg.Connection[Any], scope: str
) -> None:
    """What the migration has set holds after it, and after the commit if it is to."""
    migrating.execute("SET LOCAL enable_nestloop = off")
    migrating.execute(f"{scope} lock_timeout = '3s'")
    migrating.execute(f"{scope} statement_timeout = '1min'")
    shown = "SELECT current_setting('lock_timeout'), current_setting('statement_timeout')"
    assert commit_on(outbox, migrating)
    assert migrating.execute(shown).fetchone() == ("3s", "1min")
    migrating.commit()
    after = ("3s", "1min") if scope == "SET" else ("0", "0")
    assert migrating.execute(shown).fetchone() == after
    left = (
        "SELECT (SELECT count(*) FROM pg_cursors), "
        "current_setting('confiture_webhooks.lock_timeout', true)"
    )
    assert migrating.execute(left).fetchone() == (0, None)


def test_a_success_needs_its_database_and_a_sound_transaction(
    outbox: PostgresOutbox, migrating: psycopg.Connection[Any], database: str
) -> None:
    """After a failure, and in another database, it does nothing."""
    with suppress(psycopg.Error):
        migrating.execute("SELECT nosuch")
    assert not commit_on(outbox, migrating)
    with psycopg.connect(database) as elsewhere:
        elsewhere.execute("SELECT 1")
        assert outbox.over(elsewhere) is None
    assert not outbox.intents()


def test_over_an_idle_connection_it_has_a_transaction_of_its_own(
    outbox: PostgresOutbox, outbox_database: str
) -> None:
    """An intent, the list of intents and a release need no second session, and leave nothing."""
    before = (
        "SELECT name, setting FROM pg_settings WHERE source = 'session' "
        "AND name NOT LIKE 'transaction%' ORDER BY 1"
    )
    with psycopg.connect(outbox_database) as idle:
        settings = idle.execute(before).fetchall()
        idle.rollback()
        assert stage_on(outbox, idle, intent(1))
        assert idle.info.transaction_status == TransactionStatus.IDLE
        assert over(outbox, idle).intents() == [intent(1)]
        assert outbox.intents() == [intent(1)]
        assert release_on(outbox, idle, event_id(1), [delivery(1)])
        assert idle.info.transaction_status == TransactionStatus.IDLE
        assert not idle.autocommit
        assert claim_ids(outbox) == ["dlv_a_1"]
        assert idle.execute(before).fetchall() == settings
        assert not stage_on(outbox, idle, intent(2))  # in a transaction


def test_a_connection_of_another_encoding_refuses_what_it_cannot_hold(
    outbox: PostgresOutbox, outbox_database: str
) -> None:
    """It is an answer of the outbox, which is asked again over a connection of its own."""
    there = replace(delivery(1), environment="\u043f\u0440\u043e\u0434")
    with psycopg.connect(outbox_database, client_encoding="latin1") as idle:
        assert not release_on(outbox, idle, event_id(1), [there])
        idle.execute("SELECT 1")
        assert not commit_on(outbox, idle, environment=there.environment)
        assert idle.info.transaction_status == TransactionStatus.INTRANS
    outbox.release(event_id(1), [there])
    assert [row.delivery.environment for row in outbox.deliveries()] == [there.environment]


def test_without_a_question_there_is_no_connection(database: str) -> None:
    """One that does not connect makes the outbox over the connection it is given."""
    with (
        psycopg.connect(database) as idle,
        closing(PostgresOutbox(database, connects=False)) as outbox,
    ):
        assert stage_on(outbox, idle, intent(1))
        row = idle.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name = 'confiture-webhooks'"
        ).fetchone()
        assert row == (0,)
    assert is_there(database)


@pytest.mark.survived("DateStyle, IntervalStyle, search_path and TimeZone of a database", "kept")
@pytest.mark.parametrize(
    "setting",
    [
        "DateStyle = 'SQL, DMY'",
        "IntervalStyle = 'sql_standard'",
        "TimeZone = 'Asia/Kathmandu'",
        "standard_conforming_strings = off",
        "bytea_output = 'escape'",
        "search_path = ''",
        "default_transaction_read_only = on",
        "default_transaction_isolation = 'serializable'",
    ],
)
def test_no_setting_of_a_database_changes_anything(outbox_database: str, setting: str) -> None:
    """Deliveries with quotes, backslashes and bytes come back equal, over any connection."""
    opened = emptied(outbox_database)
    odd = replace(delivery(1), migration_name="o'\\\"é", body=b"\x00\\'\xff", content_type="a/b")
    with psycopg.connect(outbox_database, autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {admin.info.dbname} SET {setting}")
        try:
            with closing(opened()) as outbox, psycopg.connect(outbox_database) as idle:
                if "read_only" not in setting:
                    idle.execute("SELECT 1")
                assert stage_on(outbox, idle, intent(2)) == ("read_only" in setting)
                outbox.stage(intent(3))
                assert commit_on(outbox, idle, 4)
                idle.commit()
                outbox.release(event_id(1), [odd])
                [claim] = outbox.claim("a", environment="production", now=NOW, lease=LEASE)
                assert claim.delivery == odd
                assert outbox.record(claim, attempt(retry_after=A_SECOND), DELIVERED)
                assert outbox.attempts(odd.id) == [attempt(retry_after=A_SECOND)]
                assert {intent(3), committed(4)} <= set(outbox.intents())
        finally:
            admin.execute("SET default_transaction_read_only = off")
            admin.execute(f"ALTER DATABASE {admin.info.dbname} RESET ALL")


def test_no_plan_claims_more_than_asked(outbox_database: str) -> None:
    """Where the server loops over the rows and asks again for each, the limit holds all the same."""
    opened = emptied(outbox_database)
    with psycopg.connect(outbox_database, autocommit=True) as admin:
        for one in ("hashjoin", "mergejoin", "hashagg", "sort", "material", "memoize"):
            admin.execute(f"ALTER DATABASE {admin.info.dbname} SET enable_{one} = off")
        try:
            with closing(opened()) as outbox:
                for number in range(1, 7):
                    release(outbox, number)
                assert len(outbox.claim("a", environment="production", now=NOW, lease=LEASE)) == 1
        finally:
            admin.execute(f"ALTER DATABASE {admin.info.dbname} RESET ALL")


# Documents


def test_an_intent_of_another_version_is_read(outbox: PostgresOutbox, outbox_database: str) -> None:
    """A field that was not known then is missing, one that is not known now is left out."""
    outbox.stage(intent(1))
    with psycopg.connect(outbox_database, autocommit=True) as connection:
        connection.execute(
            "UPDATE confiture_webhooks.intents SET intent = "
            "(intent::jsonb - 'database_host' - 'backend_started_at') || '{\"later\": 1}'"
        )
    [found] = outbox.intents()
    assert found == replace(intent(1), database_host=None, backend_started_at=None)


def test_every_field_of_an_intent_is_kept() -> None:
    """The document has each field of Intent, whatever fields it has."""
    values = documents.intent_values(intent(1))
    assert set(json.loads(values["intent"])) == set(Intent.__dataclass_fields__)
    assert documents.intent(values) == intent(1)
    assert documents.intent(documents.intent_values(committed(1))) == committed(1)


def test_an_intent_of_another_environment_than_its_rows_is_not_read(
    outbox: PostgresOutbox, outbox_database: str
) -> None:
    """A role that is kept to rows of one environment reports nothing in another."""
    outbox.stage(replace(committed(1), environment="production"))
    assert len(outbox.intents()) == 1
    with psycopg.connect(outbox_database, autocommit=True) as connection:
        connection.execute("UPDATE confiture_webhooks.intents SET environment = 'staging'")
    assert not outbox.intents()
    [found] = outbox.unreadable_intents()
    assert (found.event_id, found.environment) == (event_id(1), "staging")


def test_what_no_text_can_hold_is_escaped(outbox: PostgresOutbox) -> None:
    """NUL and half a surrogate pair are reported as escapes, and the release is not lost."""
    odd = replace(delivery(1), environment="a\0b\udcff", migration_name="\\")
    outbox.release(event_id(1), [odd])
    [row] = outbox.deliveries()
    assert row.delivery == replace(odd, environment="a\\x00b\\udcff")


# Rights and versions

FUNCTIONS = (
    "confiture_webhooks.release(json, text)",
    "confiture_webhooks.stage_committed(text, text)",
)


@pytest.fixture
def role(postgres: Any, database: str) -> Iterator[tuple[str, str]]:
    """A role that owns nothing and may create nothing, and the DSN of *database* for it."""
    name = f"deployer_{time.monotonic_ns()}"
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'p'").format(sql.Identifier(name)))
        admin.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    parameters = psycopg.conninfo.conninfo_to_dict(database) | {"user": name, "password": "p"}
    yield name, psycopg.conninfo.make_conninfo(**parameters)
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
        admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def test_a_role_that_may_not_create_is_shown_what_to_do(role: tuple[str, str]) -> None:
    """Where there is no outbox and it may make none, the error names the remedy."""
    with pytest.raises(OutboxError, match="confiture webhooks outbox init"):
        PostgresOutbox(role[1])


def test_a_role_for_which_row_security_is_off_uses_the_outbox(
    role: tuple[str, str], database: str
) -> None:
    """PostgreSQL would refuse it every row, as it refuses them to a dump."""
    name, dsn = role
    PostgresOutbox(database).close()
    with psycopg.connect(database, autocommit=True) as admin:
        for statement in postgres_rights.grants(name):
            admin.execute(statement)  # type: ignore[arg-type]
        admin.execute(f"ALTER ROLE {name} SET row_security = off")  # type: ignore[arg-type]
    with closing(PostgresOutbox(dsn)) as outbox, psycopg.connect(dsn) as migrating:
        outbox.stage(intent(1))
        migrating.execute("SELECT 1")
        assert commit_on(outbox, migrating)
        migrating.commit()
        release(outbox, 1)
        assert claim_ids(outbox) == ["dlv_a_1"]


def test_the_printed_grants_are_enough(role: tuple[str, str], database: str) -> None:
    """With them, and nothing else, every method works and a success goes with its migration."""
    name, dsn = role
    PostgresOutbox(database).close()
    with psycopg.connect(database, autocommit=True) as admin:
        for statement in postgres_rights.grants(name):
            admin.execute(statement)
    with closing(PostgresOutbox(dsn)) as outbox:
        outbox.stage(intent(1))
        release(outbox, 1, 2, 3, 4)
        outbox.give_back(claim_one(outbox))
        finish(outbox)
        finish(outbox)
        assert outbox.redeliver("dlv_a_1", now=NOW)
        outbox.disable("a", "production", NOW)
        assert outbox.enable("a", "production")
        assert outbox.summary("production").undelivered == {"a": 3}
        assert outbox.prune(before=NOW + timedelta(days=1), keep=0) == 1
        with psycopg.connect(dsn) as migrating:
            migrating.execute("SELECT 1")
            assert commit_on(outbox, migrating, 9)
        assert outbox.intents() == [committed(9)]


def missing_rights(dsn: str) -> list[str]:
    """Those of ``grants`` that the role of *dsn* lacks."""
    with connect(conninfo_of(dsn)) as connection:
        return postgres_rights.missing_rights(connection)


def test_the_printed_grants_are_all_the_rights_that_doctor_misses(
    role: tuple[str, str], database: str
) -> None:
    """Rights on columns are enough for it; one that releases cannot do without is named."""
    name, dsn = role
    PostgresOutbox(database).close()
    with psycopg.connect(database, autocommit=True) as admin:
        for statement in postgres_rights.grants(name):
            admin.execute(statement)
        assert missing_rights(dsn) == []
        named = sql.Identifier(name)
        execute = "REVOKE EXECUTE ON FUNCTION confiture_webhooks.release FROM {}"
        admin.execute(sql.SQL(execute).format(named))
        with pytest.raises(OutboxError, match="this role has no right to EXECUTE on release"):
            PostgresOutbox(dsn)
        admin.execute(f"GRANT EXECUTE ON FUNCTION {FUNCTIONS[0]} TO {name}")
        assert missing_rights(dsn) == []
        admin.execute(f"REVOKE EXECUTE ON FUNCTION {FUNCTIONS[1]} FROM {name}")
        delete = "REVOKE DELETE ON confiture_webhooks.deliveries FROM {}"
        admin.execute(sql.SQL(delete).format(named))
    assert missing_rights(dsn) == ["DELETE on deliveries", "EXECUTE on stage_committed"]


def test_doctor_names_each_printed_grant_that_is_missing(
    role: tuple[str, str], database: str
) -> None:
    """The right and its table, also where the role has it on some of the columns."""
    name, dsn = role
    PostgresOutbox(database).close()
    granted = [one for one in postgres_rights.grants(name) if one.startswith("GRANT")][
        1:
    ]  # but USAGE
    with psycopg.connect(database, autocommit=True) as admin:
        for statement in postgres_rights.grants(name):
            admin.execute(statement)
        for statement in granted:
            rights, _, rest = statement.removeprefix("GRANT ").partition(" ON ")
            admin.execute(f"REVOKE {rights} ON {rest.replace(' TO ', ' FROM ')}")  # type: ignore[arg-type]
            table = rest.removeprefix("FUNCTION ").removeprefix("confiture_webhooks.").split()[0]
            missing = missing_rights(dsn)
            for right in re.findall("[A-Z]+", rights):
                assert any(one.startswith(right) and table[:7] in one for one in missing)
            admin.execute(statement)
        assert missing_rights(dsn) == []
        admin.execute(f"REVOKE UPDATE (tries) ON confiture_webhooks.deliveries FROM {name}")
    assert missing_rights(dsn) == ["UPDATE on deliveries"]


@contextmanager
def of_role_without(right: str, role: tuple[str, str], database: str) -> Iterator[PostgresOutbox]:
    """The outbox as *role* has it once *right* is taken away; the block has to be refused."""
    name, dsn = role
    with psycopg.connect(database, autocommit=True) as admin:
        for statement in postgres_rights.grants(name):
            admin.execute(statement)
        with closing(PostgresOutbox(dsn)) as theirs:
            admin.execute(f"REVOKE {right} FROM {name}")  # type: ignore[arg-type]
            with pytest.raises(OutboxError, match="may not use"):
                yield theirs


@pytest.mark.parametrize(
    "right",
    [
        "INSERT ON confiture_webhooks.attempts",
        "INSERT ON confiture_webhooks.endpoints",
        "UPDATE (tries) ON confiture_webhooks.deliveries",
    ],
)
def test_a_role_that_may_not_record_claims_nothing(
    role: tuple[str, str], database: str, right: str
) -> None:
    """It would send the delivery again after each lease; its lease is undone."""
    with closing(PostgresOutbox(database)) as outbox:
        release(outbox, 1)
        with of_role_without(right, role, database) as theirs:
            theirs.claim("a", environment="production", now=NOW, lease=LEASE)
        assert claim_ids(outbox) == ["dlv_a_1"]


@pytest.mark.parametrize(
    "right", ["INSERT ON confiture_webhooks.deliveries", "DELETE ON confiture_webhooks.intents"]
)
def test_a_role_that_may_not_release_stages_nothing(
    role: tuple[str, str], database: str, right: str
) -> None:
    """An intent that stays would be settled falsely; that of a right that was taken is undone."""
    with closing(PostgresOutbox(database)) as outbox:
        with of_role_without(right, role, database) as theirs:
            theirs.stage(intent(1))
        assert outbox.intents() == []


def test_an_outbox_that_a_role_may_not_look_at_is_there(
    role: tuple[str, str], database: str
) -> None:
    """The rights are what is missing: commands name them, and not a missing outbox."""
    _, dsn = role
    assert not schema.is_there(dsn)
    PostgresOutbox(database).close()
    assert schema.is_there(dsn)


@pytest.mark.parametrize("table", ["intents", "deliveries"])
def test_a_role_needs_to_delete_intents_alone(
    role: tuple[str, str], database: str, table: str
) -> None:
    """An intent that it cannot release would be settled falsely; old deliveries only stay."""
    name, dsn = role
    PostgresOutbox(database).close()
    with psycopg.connect(database, autocommit=True) as admin:
        for statement in postgres_rights.grants(name):
            admin.execute(statement)
        admin.execute(f"REVOKE DELETE ON confiture_webhooks.{table} FROM {name}")  # type: ignore[arg-type]
    if table == "deliveries":
        PostgresOutbox(dsn).close()
    else:
        with pytest.raises(OutboxError, match="DELETE on intents"):
            PostgresOutbox(dsn)


@pytest.mark.parametrize("granted", [["production"], [""], ["o'dd \\ 100%"], ["", "production"]])
def test_grants_of_another_environment_are_seen_before_a_run(
    role: tuple[str, str], database: str, granted: list[str]
) -> None:
    """As a run finds them: it may record nothing of an environment that is not the role's."""
    name, dsn = role
    PostgresOutbox(database).close()
    notices: list[Any] = []  # psql would show them all: nothing is wrong
    with psycopg.connect(database, autocommit=True) as admin:
        admin.add_notice_handler(notices.append)
        for statement in postgres_rights.grants(name, *granted):
            admin.execute(statement)
        assert (missing_rights(dsn), notices) == ([], [])
        for environment in ("production", None, "o'dd \\ 100%", "staging"):
            with closing(PostgresOutbox(dsn)) as outbox:
                refused: Any = nullcontext()
                if (environment or "") not in granted:
                    refused = pytest.raises(OutboxError, match="may not use")
                with refused:
                    outbox.stage(replace(intent(1), environment=environment))
            assert is_shut_out(dsn, environment) == ((environment or "") not in granted)
        assert not is_shut_out(database, "staging")  # the owner's
        own = "CREATE POLICY own ON confiture_webhooks.intents USING (environment LIKE 's%')"
        admin.execute(own)
        assert not is_shut_out(dsn, "staging")


def is_shut_out(dsn: str, environment: str | None) -> bool:
    """Whether the role of *dsn* is refused there, with the remedy."""
    with closing(PostgresOutbox(dsn, environment=environment)) as outbox:
        try:
            outbox.check_role()
        except OutboxError as error:
            remedy = "--environment " if environment else "Set CONFITURE_ENVIRONMENT"
            assert remedy in str(error)
            return True
        return False


def test_a_worker_that_may_delete_nothing_delivers_without_a_word(
    role: tuple[str, str], database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing old is deleted, which `doctor` says: no log event of each minute does."""
    name, dsn = role
    PostgresOutbox(database).close()
    settings = Settings(outbox=f"postgres:{dsn}", environment="production", log="json")
    with psycopg.connect(database, autocommit=True) as admin:
        for statement in postgres_rights.grants(name, "production"):
            admin.execute(statement)
        admin.execute(f"REVOKE DELETE ON confiture_webhooks.deliveries FROM {name}")
    with closing(_Delivering(Configuration(settings))) as command:
        with pytest.raises(OutboxError):
            command.outbox.prune()
        command.tend()
    assert "webhooks.outbox_failed" not in capsys.readouterr().err


def test_a_worker_that_loses_the_rows_of_its_environment_says_so(
    role: tuple[str, str], database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that watches would see nothing more to do."""
    name, dsn = role
    PostgresOutbox(database).close()
    settings = Settings(outbox=f"postgres:{dsn}", environment="production", log="json")
    with psycopg.connect(database, autocommit=True) as admin:
        for statement in postgres_rights.grants(name):
            admin.execute(statement)
        with closing(_Delivering(Configuration(settings))) as command:
            command.tend()
            assert "webhooks.outbox_failed" not in capsys.readouterr().err
            for statement in postgres_rights.grants(name, "staging"):
                admin.execute(statement)
            command.tend()
            assert "not read or write rows of environment production" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("before", "named", "after"),
    [
        (None, ["staging"], ["staging"]),
        (None, [], []),
        (["o'dd \\ 100%", ""], ["staging", ""], ["o'dd \\ 100%", "", "staging"]),
        (["production"], [], []),
        ([], ["staging"], []),
    ],
)
def test_a_role_keeps_the_environments_that_it_had(
    role: tuple[str, str], database: str, before: Any, named: list[str], after: list[str]
) -> None:
    """Named ones add to those before, to all too; none is all, whatever a session setting is."""
    name, _ = role
    PostgresOutbox(database).close()
    with psycopg.connect(database, autocommit=True) as admin:
        for statement in postgres_rights.grants(name, *before) if before is not None else ():
            admin.execute(statement)
        own = sql.Identifier(admin.info.dbname)
        setting = sql.SQL("ALTER DATABASE {} SET standard_conforming_strings = off")
        admin.execute(setting.format(own))
    assert postgres_rights.added(database, name, named) == after


def test_grants_of_every_environment_shut_no_one_out(role: tuple[str, str], database: str) -> None:
    """Those that ``outbox init`` prints without ``--environment``."""
    PostgresOutbox(database).close()
    with psycopg.connect(database, autocommit=True) as admin:
        for statement in postgres_rights.grants(role[0]):
            admin.execute(statement)
    assert not is_shut_out(role[1], "staging")
    assert not is_shut_out(role[1], None)


def test_what_waits_is_counted_without_a_change(database: str) -> None:
    """By environment; where there is no outbox, or none that can be asked, nothing is made.

    Also in tables that somebody has changed.
    """
    assert (
        schema.left_behind_in(database)
        == schema.left_behind_in("postgresql://127.0.0.1:1/none")
        == {}
    )
    assert not schema.is_there(database)
    with closing(PostgresOutbox(database)) as outbox:
        outbox.stage(intent(9))
        release(outbox, 1, 2)
        outbox.record(claim_one(outbox), attempt(), DEAD)
    with psycopg.connect(database, autocommit=True) as admin:
        for change in ("SELECT 1", "ALTER TABLE confiture_webhooks.bodies DROP COLUMN body"):
            admin.execute(change)
            found = schema.left_behind_in(database)
            assert found == {"production": (1, 1, 0, 0, 0), None: (0, 0, 0, 1, 0)}


@pytest.mark.survived("A clock that was ahead by days", "kept")
def test_a_clock_that_is_ahead_forgets_nothing(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was delivered just now is not old because this machine's clock is 40 days ahead."""
    with closing(PostgresOutbox(database)) as outbox:
        release(outbox, 1)
        now = datetime.now(UTC)
        outbox.record(claim_one(outbox), replace(attempt(), started_at=now), DELIVERED)
        ahead = now + timedelta(days=40)
        with monkeypatch.context() as wrong:
            wrong.setattr(postgres, "datetime", SimpleNamespace(now=lambda _: ahead))
            assert outbox.prune(before=ahead - timedelta(days=30), keep=100) == 0
        assert outbox.prune(before=ahead - timedelta(days=30), keep=100) == 1


def test_no_printed_grant_is_too_much(role: tuple[str, str], database: str) -> None:
    """With any one of them missing, something does not work."""
    name, dsn = role
    PostgresOutbox(database).close()
    idle = ("DROP POLICY", "BEGIN", "COMMIT")
    granted = [one for one in postgres_rights.grants(name) if not one.startswith(idle)]
    for number, missing in enumerate(granted):
        with psycopg.connect(database, autocommit=True) as admin:
            admin.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
            for statement in granted:
                if statement != missing:
                    admin.execute(statement)
        with pytest.raises(OutboxError, match="may not use|has no right to"):
            used_by(dsn, number)


def test_roles_with_long_names_have_policies_of_their_own() -> None:
    """Two that differ only at the end of 63 bytes share none."""
    long = "svc_migrations_production_eu_west_1_customers_"
    policies = [
        {
            one.split('"')[1]
            for one in postgres_rights.grants(long + end)
            if one.startswith("CREATE POLICY")
        }
        for end in "ab"
    ]
    assert policies[0].isdisjoint(policies[1])
    assert all(len(name) < 64 for name in policies[0])  # noqa: PLR2004  the server cuts it there


def used_by(dsn: str, number: int) -> None:
    """Report, deliver and switch an endpoint on, as one that may do no more than it must."""
    with closing(PostgresOutbox(dsn)) as outbox:
        outbox.stage(intent(number))
        name = f"a{number}"  # what an earlier one left in flight holds its run
        release(outbox, number, endpoint=name)
        finish(outbox, endpoint=name)
        outbox.disable(name, "production", NOW)
        outbox.enable(name, "production")


@pytest.mark.survived("A role that reads or forges rows of another environment", "private", "true")
def test_a_role_has_the_rows_of_its_environment_only(role: tuple[str, str], database: str) -> None:
    """It reads, forges, moves and switches off nothing of another environment."""
    name, dsn = role
    with (
        closing(PostgresOutbox(database)) as outbox,
        psycopg.connect(database, autocommit=True) as admin,
    ):
        for _ in range(2):  # granted twice is granted once
            for statement in postgres_rights.grants(name, "staging"):
                admin.execute(statement)
        theirs, mine = delivery(1), replace(delivery(2), environment="staging")
        outbox.stage(replace(intent(5), environment="production"))
        outbox.release(event_id(1), [theirs])
        outbox.release(event_id(6), [])  # of no environment
        finish(outbox, DEAD)
        outbox.disable("a", "production", NOW)
        with closing(PostgresOutbox(dsn)) as staging:
            staging.release(event_id(2), [mine])
            with pytest.raises(OutboxError, match="may not use"):
                staging.release(event_id(7), [])
            staging.environment = "staging"
            staging.release(event_id(7), [])
            assert [row.delivery for row in staging.deliveries()] == [mine]
            assert staging.look_up("dlv_") == staging.deliveries()
            assert not staging.attempts(theirs.id)
            assert not staging.intents()
            assert set(staging.summaries()) == {"staging"}
            assert not staging.statuses("production")
            assert not staging.redeliver(theirs.id, now=NOW)
            assert not staging.discard(theirs.id, now=NOW)
            assert not staging.enable("a", "production")
            for forbidden in (
                lambda: staging.release(event_id(3), [delivery(3)]),
                lambda: staging.disable("b", "production", NOW),
                lambda: staging.stage(replace(intent(4), environment="production")),
            ):
                with pytest.raises(OutboxError, match="may not use"):
                    forbidden()
            [claim] = staging.claim("a", environment="staging", now=NOW, lease=LEASE)
            assert staging.record(claim, attempt(), DELIVERED)
        with psycopg.connect(dsn, autocommit=True) as raw:
            for table in ("bodies", "attempts"):
                row = raw.execute(f"SELECT count(*) FROM confiture_webhooks.{table}").fetchone()
                assert row == (1,)
            marks = raw.execute("SELECT event_id FROM confiture_webhooks.released ORDER BY 1")
            assert marks.fetchall() == [(event_id(2),), (event_id(7),)]
            moved = "UPDATE confiture_webhooks.deliveries SET environment = 'production'"
            squatted = (
                "INSERT INTO confiture_webhooks.deliveries (seq, id, event_id, event_type, endpoint, "
                "environment, content_type, traceparent, correlation_id, created_at, due_at) "
                "SELECT seq + 1, 'x', 'x', 'ping', 'a', 'staging', '', '', '', 0, 0 "
                "FROM confiture_webhooks.deliveries"
            )
            for forbidden_sql in (
                moved,
                squatted,
                "UPDATE confiture_webhooks.deliveries SET seq = seq + 1",
                "UPDATE confiture_webhooks.bodies SET body = ''",
                "TRUNCATE confiture_webhooks.deliveries CASCADE",
                "COPY confiture_webhooks.deliveries FROM STDIN",
                "CREATE TABLE confiture_webhooks.mine (id int)",
                "CREATE VIEW confiture_webhooks.mine AS SELECT * FROM confiture_webhooks.bodies",
                "ALTER TABLE confiture_webhooks.deliveries DISABLE ROW LEVEL SECURITY",
                "SELECT setval('confiture_webhooks.deliveries_seq_seq', 1)",
                "SET SESSION AUTHORIZATION postgres",
                "SET ROLE postgres",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    raw.execute(forbidden_sql)
        assert {row.delivery.id for row in outbox.deliveries()} == {theirs.id, mine.id}


def test_a_newer_outbox_is_refused(outbox: PostgresOutbox, outbox_database: str) -> None:
    """What a newer version made is left alone, and the error says so."""
    with psycopg.connect(outbox_database, autocommit=True) as admin:
        admin.execute("UPDATE confiture_webhooks.outbox_version SET version = 99")
        try:
            with pytest.raises(OutboxError, match="newer confiture-webhooks"):
                PostgresOutbox(outbox_database)
        finally:
            admin.execute(
                "UPDATE confiture_webhooks.outbox_version SET version = %s",
                (versions.VERSION,),
            )


def test_an_older_outbox_is_brought_forward(
    opened: Callable[[], PostgresOutbox], outbox_database: str
) -> None:
    """One of the version before the function that releases gets it, and keeps what it holds."""
    with closing(opened()) as outbox:
        release(outbox, 1)
    with psycopg.connect(outbox_database, autocommit=True) as admin:
        admin.execute("DROP FUNCTION confiture_webhooks.release")
        admin.execute("UPDATE confiture_webhooks.outbox_version SET version = 2")
    with closing(PostgresOutbox(outbox_database)) as outbox:
        release(outbox, 2)
        assert len(outbox.deliveries()) == 2


def test_an_outbox_that_another_role_brings_forward_stays_its_owners(
    role: tuple[str, str], database: str
) -> None:
    """Its owner goes on releasing when an administrator was the first with the newer version."""
    name, dsn = role
    with psycopg.connect(database, autocommit=True) as admin:
        at = sql.SQL("GRANT CREATE ON DATABASE {} TO {}")
        admin.execute(at.format(sql.Identifier(admin.info.dbname), sql.Identifier(name)))
        PostgresOutbox(dsn).close()
        admin.execute(f"DROP FUNCTION {', '.join(FUNCTIONS)}")
        admin.execute("UPDATE confiture_webhooks.outbox_version SET version = 2")
        PostgresOutbox(database).close()
        owner = "SELECT pg_get_userbyid(proowner) FROM pg_proc WHERE oid = %s::regprocedure"
        assert [admin.execute(owner, [one]).fetchone() for one in FUNCTIONS] == [(name,)] * 2
    with closing(PostgresOutbox(dsn)) as outbox:
        release(outbox, 1)
        assert claim_ids(outbox) == ["dlv_a_1"]


@pytest.mark.parametrize("of_columns", [True, False])
def test_those_who_might_release_may_when_an_outbox_was_brought_forward(
    role: tuple[str, str], database: str, of_columns: bool
) -> None:
    """A role with the GRANTs of the version before stages and releases; one that reads may not."""
    name, dsn = role
    others = {f'{name} "writes"': "INSERT", f"{name} 'reads'": "SELECT"}
    PostgresOutbox(database).close()
    with psycopg.connect(database, autocommit=True) as admin:
        for statement in postgres_rights.grants(name):
            if "EXECUTE" not in statement and (of_columns or "POLICY" in statement):
                admin.execute(statement)
        if not of_columns:
            admin.execute(f"GRANT USAGE ON SCHEMA confiture_webhooks TO {name}")
            admin.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA confiture_webhooks TO {name}")
        for other, right in others.items():
            named = sql.Identifier(other).as_string()
            admin.execute(f"CREATE ROLE {named}")
            admin.execute(f"GRANT {right} ON confiture_webhooks.deliveries TO {named}")
        admin.execute(f"DROP FUNCTION {', '.join(FUNCTIONS)}")
        admin.execute("UPDATE confiture_webhooks.outbox_version SET version = 2")
        PostgresOutbox(database).close()
        with closing(PostgresOutbox(dsn)) as outbox:
            outbox.stage(intent(1))
            release(outbox, 1)
            assert outbox.intents() == []
            assert claim_ids(outbox) == ["dlv_a_1"]
            with psycopg.connect(dsn) as migrating:
                migrating.execute("SELECT 1")
                assert commit_on(outbox, migrating, 9)
        may = "SELECT has_function_privilege(%s, %s, 'EXECUTE')"
        for other, right in others.items():
            for function in FUNCTIONS:
                assert admin.execute(may, [other, function]).fetchone() == (right == "INSERT",)
            named = sql.Identifier(other).as_string()
            admin.execute(f"DROP OWNED BY {named}")
            admin.execute(f"DROP ROLE {named}")


@pytest.mark.parametrize("name", ["release", "stage_committed"])
def test_a_function_that_was_dropped_is_made_anew(
    opened: Callable[[], PostgresOutbox], outbox_database: str, name: str
) -> None:
    """A migration may drop it: the next one that may make it does, and loses nothing."""
    with closing(opened()) as outbox:
        outbox.stage(intent(1))
    with psycopg.connect(outbox_database, autocommit=True) as admin:
        admin.execute(f"DROP FUNCTION confiture_webhooks.{name}")  # type: ignore[arg-type]
    with closing(PostgresOutbox(outbox_database)) as outbox:
        assert outbox.is_made_anew()
        outbox.stage_committed(committed(1))
        assert outbox.intents() == [committed(1)]
        release(outbox, 1)
        assert claim_ids(outbox) == ["dlv_a_1"]
    with closing(PostgresOutbox(outbox_database)) as outbox:
        assert not outbox.is_made_anew()


@pytest.mark.parametrize("name", [*postgres_rights.TABLES, "outbox_version"])
def test_a_table_that_was_dropped_is_made_anew(
    opened: Callable[[], PostgresOutbox], outbox_database: str, name: str
) -> None:
    """The others keep what they hold, and no new delivery gets the body of an old one."""
    with closing(opened()) as outbox:
        outbox.stage(intent(1))
        release(outbox, 2)
    with psycopg.connect(outbox_database, autocommit=True) as admin:
        admin.execute(f"DROP TABLE confiture_webhooks.{name} CASCADE")  # type: ignore[arg-type]
        assert is_there(outbox_database)
        with closing(PostgresOutbox(outbox_database)) as outbox:
            assert outbox.is_made_anew()
            assert len(outbox.intents()) == (name != "intents")
            release(outbox, 3)
            [*_, one] = outbox.claim("a", environment="production", now=NOW, lease=LEASE, limit=9)
            assert one.delivery == delivery(3)
            assert outbox.record(one, attempt(), DELIVERED) is not None
        secured = (
            "SELECT count(*) FROM pg_class WHERE relrowsecurity AND relnamespace = %s::regnamespace"
        )
        assert admin.execute(secured, ["confiture_webhooks"]).fetchone() == (
            len(postgres_rights.TABLES),
        )
    with closing(PostgresOutbox(outbox_database)) as outbox:
        assert not outbox.is_made_anew()


def test_an_intent_without_an_id_is_not_dropped_by_the_way(
    outbox: PostgresOutbox, outbox_database: str
) -> None:
    """It is damaged, and somebody is to see it."""
    outbox.stage(intent(1))
    with psycopg.connect(outbox_database, autocommit=True) as admin:
        admin.execute("UPDATE confiture_webhooks.intents SET event_id = ''")
        assert stage_on(outbox, admin, intent(2))
    outbox.stage(intent(3))
    assert len(outbox.unreadable_intents()) == 1


def test_an_outbox_in_a_copy_without_data_is_used(database: str) -> None:
    """A dump of the schema alone has its tables, and no row that says their version."""
    PostgresOutbox(database).close()
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute("DELETE FROM confiture_webhooks.outbox_version")
        assert is_there(database)
        admin.execute("DROP FUNCTION confiture_webhooks.release")
        with closing(PostgresOutbox(database)) as outbox:
            release(outbox, 1)
            assert claim_ids(outbox) == ["dlv_a_1"]
        found = admin.execute("SELECT version FROM confiture_webhooks.outbox_version").fetchall()
        assert found == [(versions.VERSION,)]
    schema.drop(database)
    assert not is_there(database)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("integer", [f"{versions.VERSION}", f"{versions.VERSION}"]),
        ("integer", ["2", f"{versions.VERSION}"]),
        ("integer", ["NULL"]),
        ("text", ["'1.2'"]),
    ],
)
def test_a_version_that_somebody_wrote_is_read_or_refused(
    database: str, kind: str, values: list[str]
) -> None:
    """Several rows, none or another's text are no fault that a run does not know how to take."""
    PostgresOutbox(database).close()
    with psycopg.connect(database, autocommit=True) as admin:
        place = "confiture_webhooks.outbox_version"
        admin.execute(f"DROP TABLE {place}")  # type: ignore[arg-type]
        admin.execute(f"CREATE TABLE {place} (version {kind})")  # type: ignore[arg-type]
        for value in values:
            admin.execute(f"INSERT INTO {place} VALUES ({value})")  # type: ignore[arg-type]
    if kind == "text":
        with pytest.raises(OutboxError, match="the server refuses"):
            PostgresOutbox(database)
    else:
        with closing(PostgresOutbox(database)) as outbox:
            release(outbox, 1)
            assert claim_ids(outbox) == ["dlv_a_1"]


def test_a_backup_does_not_keep_an_outbox_from_being_brought_forward(
    opened: Callable[[], PostgresOutbox], outbox_database: str
) -> None:
    """What dumps the database reads its tables for long; nobody waits behind the change."""
    opened().close()
    with psycopg.connect(outbox_database) as admin:
        admin.execute("DROP FUNCTION confiture_webhooks.release")
        admin.execute("UPDATE confiture_webhooks.outbox_version SET version = 2")
    with psycopg.connect(outbox_database) as backup, psycopg.connect(outbox_database) as idle:
        for table in (*postgres_rights.TABLES, "outbox_version"):
            backup.execute(f"LOCK TABLE confiture_webhooks.{table} IN ACCESS SHARE MODE")
        with closing(PostgresOutbox(outbox_database, connects=False)) as outbox:
            assert stage_on(outbox, idle, intent(1))
            assert outbox.intents() == [intent(1)]


def test_a_publication_of_all_tables_keeps_no_outbox_from_being_made(database: str) -> None:
    """Where every table is replicated, PostgreSQL deletes from none without a key."""
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute("CREATE PUBLICATION everything FOR ALL TABLES")
        PostgresOutbox(database).close()
        admin.execute("DROP FUNCTION confiture_webhooks.release")
    with closing(PostgresOutbox(database)) as outbox:
        release(outbox, 1)
        assert claim_ids(outbox) == ["dlv_a_1"]


@pytest.mark.parametrize(
    "does",
    [
        "INSERT INTO ddl_log VALUES (tg_tag)",
        "RAISE 'no'",
        "INSERT INTO public.ddl_log VALUES (NULL)",
    ],
)
def test_an_event_trigger_that_fails_is_not_answered_with_the_command_that_failed(
    database: str, does: str
) -> None:
    """To create the tables once more would fail in the same way; there are none to undo yet."""
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute("CREATE TABLE ddl_log (tag text NOT NULL)")
        admin.execute(
            "CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql AS "  # type: ignore[arg-type]
            f"$$ BEGIN {does}; END $$"
        )
        admin.execute("CREATE EVENT TRIGGER noted ON ddl_command_end EXECUTE FUNCTION note()")
    with pytest.raises(OutboxError, match="making its tables fails.*See the server's log") as info:
        PostgresOutbox(database)
    assert "outbox init" not in str(info.value)


def test_slow_event_triggers_are_waited_for_once_not_for_each_statement(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Making it is one statement with one limit; ``outbox init`` has more time, for that alone."""
    monkeypatch.setattr(postgres_session._Bounded, "patience_s", 1.5)
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute(
            "CREATE FUNCTION slow() RETURNS event_trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_sleep(0.1); END $$"
        )
        admin.execute("CREATE EVENT TRIGGER slow ON ddl_command_end EXECUTE FUNCTION slow()")
    late = r"longer than (0\.5|2)s\. Create it beforehand: `confiture webhooks outbox init"
    with pytest.raises(OutboxError, match=late):
        PostgresOutbox(database, making_s=0.5)
    with pytest.raises(OutboxError, match=r"longer than 2\.1s\. Switch slow event triggers off"):
        PostgresOutbox(database, making_s=2.1)
    with (
        closing(PostgresOutbox(database, connects=False)) as outbox,
        psycopg.connect(database) as migrating,
        pytest.raises(OutboxError, match=late),
    ):
        over(outbox, migrating).stage(intent(1))
    assert not is_there(database)
    with (
        closing(PostgresOutbox(database, making_s=60)) as outbox,
        outbox._store.lent() as connection,
    ):
        assert connection.patience_s == 1.5
    assert is_there(database)


def test_a_lock_that_is_in_the_way_of_making_it_is_named(database: str) -> None:
    """It is given up before the statement, whose message would blame slow event triggers."""
    with psycopg.connect(database) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", (schema._LOCK,))
        with pytest.raises(OutboxError, match="another session keeps its tables locked"):
            PostgresOutbox(database, making_s=0.5)


TRIGGER = """
CREATE FUNCTION keep_out() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER t"""
EACH = "FOR EACH ROW EXECUTE FUNCTION keep_out()"


@pytest.mark.parametrize("table", ["released", "deliveries", "bodies", "intents"])
def test_rows_that_a_trigger_keeps_out_are_not_taken_for_written(database: str, table: str) -> None:
    """A trigger that returns NULL drops a row without an error: the event is recorded elsewhere."""
    with (
        closing(PostgresOutbox(database)) as outbox,
        psycopg.connect(database, autocommit=True) as admin,
    ):
        release(outbox, 1)
        admin.execute(f"{TRIGGER} BEFORE INSERT ON confiture_webhooks.{table} {EACH}")  # type: ignore[arg-type]
        write = outbox.stage if table == "intents" else lambda _: release(outbox, 2)
        with pytest.raises(OutboxError, match="put a trigger, rule or constraint on them"):
            write(intent(2))
        assert len(outbox.deliveries()) == 1
        assert not outbox.release(event_id(1), [delivery(1)])  # released before is no fault
        outbox.stage(intent(1))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("ALTER TABLE {}.deliveries RENAME COLUMN is_ready TO other", "deliveries.is_ready"),
        ("ALTER TABLE {}.attempts DROP COLUMN retry_after", "attempts.retry_after"),
        ("ALTER TABLE {}.deliveries ALTER environment TYPE varchar(5)", "deliveries.environment"),
        ("ALTER TABLE {}.deliveries ALTER created_at TYPE integer", "deliveries.created_at"),
        ("ALTER TABLE {}.bodies ALTER body TYPE text", "bodies.body"),
        ("ALTER TABLE {}.deliveries ALTER state DROP DEFAULT", "deliveries.state"),
        ("ALTER TABLE {}.deliveries ALTER seq DROP IDENTITY", "deliveries.seq"),
        (
            "ALTER TABLE {}.endpoints DROP off_since, ADD off_since bigint GENERATED ALWAYS AS (1) STORED",
            "endpoints.off_since",
        ),
        ("ALTER TABLE {}.endpoints DROP CONSTRAINT endpoints_pkey", "endpoints"),
        ("CREATE RULE r AS ON INSERT TO {}.deliveries DO INSTEAD NOTHING", "deliveries"),
        (
            "ALTER TABLE {0}.intents RENAME TO old; CREATE VIEW {0}.intents AS TABLE {0}.old",
            "intents",
        ),
        (f"{TRIGGER} BEFORE UPDATE ON {{0}}.deliveries {EACH}", r"deliveries \(trigger t\)"),
        (f"{TRIGGER} BEFORE INSERT OR DELETE ON {{0}}.intents {EACH}", r"intents \(trigger t\)"),
    ],
)
def test_tables_that_somebody_has_changed_are_refused(
    database: str, change: str, named: str
) -> None:
    """Before anything is written, with what was changed; the remedy puts them aside."""
    with psycopg.connect(database, autocommit=True) as admin:
        PostgresOutbox(database).close()
        admin.execute(change.format("confiture_webhooks"))  # type: ignore[arg-type]
        with pytest.raises(
            OutboxError,
            match=f"somebody has changed its tables: confiture_webhooks.{named}. Undo that",
        ) as info:
            PostgresOutbox(database)
        admin.execute(str(info.value.remedy).split(": ")[-1])  # type: ignore[arg-type]
    with closing(PostgresOutbox(database)) as outbox:
        assert outbox.is_made_anew()


@pytest.mark.parametrize(
    "change",
    [
        f"{TRIGGER} AFTER UPDATE ON {{0}}.deliveries {EACH}",
        f"{TRIGGER} BEFORE DELETE ON {{0}}.intents EXECUTE FUNCTION keep_out()",
        *(
            f"{TRIGGER} BEFORE UPDATE ON {{0}}.intents {EACH}; ALTER TABLE {{0}}.intents {how} t"
            for how in ("DISABLE TRIGGER", "ENABLE REPLICA TRIGGER")
        ),
    ],
)
def test_a_trigger_that_drops_no_row_is_left_alone(database: str, change: str) -> None:
    """Others may count, copy or watch what is written."""
    with psycopg.connect(database, autocommit=True) as admin:
        PostgresOutbox(database).close()
        admin.execute(change.format("confiture_webhooks"))  # type: ignore[arg-type]
    with closing(PostgresOutbox(database)) as outbox:
        outbox.stage(intent(1))
        release(outbox, 1)
        assert not outbox.intents()
        outbox.record(claim_one(outbox), attempt(), DELIVERED)


def test_a_rule_that_is_dropped_again_is_forgotten_at_once(database: str) -> None:
    """ "Undo that" is all it takes: the server itself remembers the rule until the next VACUUM."""
    with psycopg.connect(database, autocommit=True) as admin:
        PostgresOutbox(database).close()
        admin.execute("CREATE RULE r AS ON INSERT TO confiture_webhooks.bodies DO INSTEAD NOTHING")
        with pytest.raises(OutboxError, match="changed its tables: confiture_webhooks.bodies"):
            PostgresOutbox(database)
        admin.execute("DROP RULE r ON confiture_webhooks.bodies")
    PostgresOutbox(database).close()


def test_a_column_that_goes_while_a_worker_is_connected_is_an_error_of_the_outbox(
    database: str,
) -> None:
    """The server names what is missing, not a lookup in Python."""
    with closing(PostgresOutbox(database)) as outbox:
        release(outbox, 1)
        with psycopg.connect(database, autocommit=True) as admin:
            admin.execute("ALTER TABLE confiture_webhooks.deliveries DROP COLUMN tracestate")
        with pytest.raises(OutboxError, match="somebody has changed its tables"):
            outbox.deliveries()
        with pytest.raises(OutboxError, match="somebody has changed its tables"):
            claim_ids(outbox)


def test_two_that_find_no_outbox_make_one(database: str) -> None:
    """Several first runs at once all end up with the same outbox."""
    assert not is_there(database)
    outboxes: list[PostgresOutbox] = []
    threads = [
        threading.Thread(target=lambda: outboxes.append(PostgresOutbox(database))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outboxes) == 4
    assert is_there(database)
    for outbox in outboxes:
        outbox.close()


@pytest.mark.survived("An outbox of the unreleased version on pgmq", "kept", "said")
def test_an_outbox_on_pgmq_is_refused_and_left_alone(database: str) -> None:
    """What the unreleased version on pgmq made is named with the remedy, and not touched."""
    with psycopg.connect(database) as admin:
        admin.execute("CREATE SCHEMA confiture_webhooks")
        admin.execute("CREATE TABLE confiture_webhooks.schema_version (version integer)")
        admin.execute("CREATE TABLE confiture_webhooks.deliveries (seq bigint)")
    with pytest.raises(OutboxError, match="on pgmq.*DROP SCHEMA confiture_webhooks CASCADE"):
        PostgresOutbox(database)
    with psycopg.connect(database) as admin:
        rows = admin.execute(
            "SELECT count(*) FROM pg_class WHERE relnamespace = 'confiture_webhooks'::regnamespace"
        )
        assert rows.fetchone() == (2,)


# Breakdowns


@pytest.mark.survived("The outbox's connection is ended while it is idle", "kept")
def test_a_connection_ended_while_idle_is_made_again(
    outbox: PostgresOutbox, outbox_database: str
) -> None:
    """What is asked next is answered, over a new connection, and nobody notices."""
    release(outbox, 1)
    with psycopg.connect(outbox_database, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'confiture-webhooks' AND datname = current_database()"
        )
    time.sleep(0.1)
    assert outbox.summary("production").undelivered == {"a": 1}
    assert claim_ids(outbox) == ["dlv_a_1"]


def test_a_release_whose_answer_was_lost_is_asked_again(
    outbox: PostgresOutbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands, once, and was the first."""
    asked: list[int] = []

    def ask(connection: psycopg.Connection[Any], *messages: str) -> list[Any]:
        answers = answered(connection, *messages)
        asked.append(len(messages))
        if len(asked) == 1:
            connection.close()
            raise psycopg.OperationalError
        return answers

    answered = postgres.ask
    monkeypatch.setattr(postgres, "ask", ask)
    assert outbox.release(event_id(1), [delivery(1)])
    assert len(asked) == 2
    assert claim_ids(outbox) == ["dlv_a_1"]


@pytest.mark.survived("A server of the outbox that takes a question and never answers", "unharmed")
def test_a_server_that_falls_silent_is_not_waited_for(
    outbox_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that takes a question and never answers costs the patience, then an error."""
    with Passage(outbox_database) as deaf, closing(PostgresOutbox(deaf.dsn)) as outbox:
        monkeypatch.setattr(postgres_session, "PATIENCE_S", 0.5)
        deaf.is_deaf = True
        started = time.monotonic()
        with pytest.raises(OutboxError):
            outbox.summary("production")
        assert time.monotonic() - started < 20


def test_whether_there_is_an_outbox_is_not_waited_for_without_end(
    outbox_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that takes the question and gives no answer has none, before a run would hang."""
    monkeypatch.setattr(postgres_session, "PATIENCE_S", 1.0)
    emptied(outbox_database)
    found: list[bool] = []

    def lose(question: bytes) -> bytes:
        return b"" if b"outbox_version" in question else question

    with Passage(outbox_database, lose) as way:
        settings = Settings(outbox=f"postgres:{way.dsn}")
        asking = threading.Thread(
            target=lambda: found.append(outbox_exists(settings, is_asked=True)), daemon=True
        )
        asking.start()
        asking.join(20)
        assert found == [False]
    assert is_there(outbox_database)


def test_after_closing_everything_is_refused(opened: Callable[[], PostgresOutbox]) -> None:
    """A closed outbox raises OutboxError, and leaves no thread behind."""
    outbox = opened()
    outbox.close()
    with pytest.raises(OutboxError, match="closed"):
        outbox.summary("production")


def test_no_password_is_shown() -> None:
    """Neither an error, nor a repr, shows more of a DSN than host, port and database."""
    with pytest.raises(OutboxError) as caught:
        PostgresOutbox("postgresql://user:CANARY@127.0.0.1:1/shop?options=CANARY")
    assert str(caught.value).startswith("outbox postgres 127.0.0.1:1/shop: the server does not")
    with pytest.raises(OutboxError) as caught:
        PostgresOutbox("postgresql://user:CANARY@[broken")
    assert "CANARY" not in str(caught.value) + repr(caught.value.__cause__)


# Several workers


@pytest.mark.survived("Workers that claim at the same time", "true")
def test_workers_share_the_work(opened: Callable[[], PostgresOutbox]) -> None:
    """Four workers at once claim each delivery exactly once."""
    with closing(opened()) as reporter:
        release(reporter, *range(60))
    claimed: list[str] = []

    def work() -> None:
        with closing(opened_again()) as outbox:
            while True:
                claims = outbox.claim(
                    "a", environment="production", now=datetime.now(UTC), lease=LEASE, limit=3
                )
                if not claims and outbox.next_due_at("a", "production") is None:
                    return
                for claim in claims:
                    claimed.append(claim.delivery.id)
                    assert outbox.record(claim, attempt(at=datetime.now(UTC)), DELIVERED)

    dsn = reporter._store.dsn

    def opened_again() -> PostgresOutbox:
        return PostgresOutbox(dsn)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted(f"dlv_a_{number}" for number in range(60))
    assert count(dsn, "attempts") == 60


def test_an_open_success_keeps_no_worker_waiting(
    outbox: PostgresOutbox, migrating: psycopg.Connection[Any]
) -> None:
    """While a migration has yet to commit its event, others report, claim and record theirs."""
    assert commit_on(outbox, migrating)
    release(outbox, 2)
    finish(outbox)
    assert outbox.prune(before=NOW + timedelta(days=1), keep=0) == 1
    migrating.commit()
    assert outbox.intents() == [committed(1)]


@pytest.mark.parametrize("name", ["redeliver", "discard", "attempts", "list id = :id"])
def test_what_is_asked_by_id_costs_the_same_however_many_are_stored(
    outbox: PostgresOutbox, name: str
) -> None:
    """No statement about one delivery reads the others."""
    release(outbox, *range(1, 6))
    numbers = ("seq", "now", "horizon", "limit", "was_delivered")
    values = dict.fromkeys(numbers, 1) | {"id": "dlv_a_1"}
    copied = (
        "INSERT INTO confiture_webhooks.deliveries (id, event_id, event_type, endpoint, "
        "environment, content_type, traceparent, correlation_id, created_at, due_at) "
        "SELECT id || number, event_id, event_type, endpoint, environment, content_type, "
        "traceparent, correlation_id, created_at, due_at "
        "FROM confiture_webhooks.deliveries, generate_series(1, 1000) AS number; "
        "INSERT INTO confiture_webhooks.attempts (seq, number, started_at, duration) "
        "SELECT seq, 1, 1, 1 FROM confiture_webhooks.deliveries; ANALYZE"
    )
    with outbox._store.lent() as connection:
        connection.execute(copied)
        text = psycopg.ClientCursor(connection).mogrify(postgres.statement(name), values)
        plan = postgres_session.ask(connection, postgres_session.settings(), f"EXPLAIN {text}")[-1]
    assert all(int(rows) < 10 for rows in re.findall(r"rows=(\d+)", str(plan))), plan
