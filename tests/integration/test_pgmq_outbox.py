"""The PostgreSQL outbox where it meets the server: transactions, roles, versions, breakdowns."""

from __future__ import annotations

import builtins
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql

from confiture_webhooks.adapters import pgmq_connection
from confiture_webhooks.adapters import pgmq_rows as documents
from confiture_webhooks.adapters import pgmq_schema as schema
from confiture_webhooks.adapters.pgmq import PgmqOutbox, has_outbox
from confiture_webhooks.errors import OutboxError
from confiture_webhooks.outbox import Intent
from contract.acts import claim_ids, claim_one, finish, release
from contract.made import DELIVERED, LEASE, NOW, attempt, delivery, event_id, intent
from outbox_databases import count, emptied
from passage import Passage


@pytest.fixture
def opened(outbox_database: str) -> Callable[[], PgmqOutbox]:
    """Opens the outbox, which holds nothing: each call is another worker's."""
    return emptied(outbox_database)


@pytest.fixture
def outbox(opened: Callable[[], PgmqOutbox]) -> Iterator[PgmqOutbox]:
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


def test_a_release_comes_with_the_transaction(
    outbox: PgmqOutbox, migrating: psycopg.Connection[Any]
) -> None:
    """Nothing is there before the commit, all of it afterwards; a second release adds nothing."""
    outbox.stage(intent(1))
    assert outbox.release_on(migrating, event_id(1), [delivery(1), delivery(1, "b")])
    assert not outbox.deliveries()
    assert outbox.intents()
    migrating.commit()
    outbox.release(event_id(1), [delivery(1), delivery(1, "b")])
    assert [row.delivery for row in outbox.deliveries()] == [delivery(1, "b"), delivery(1)]
    assert not outbox.intents()


def test_a_release_goes_with_the_transaction(
    outbox: PgmqOutbox, migrating: psycopg.Connection[Any]
) -> None:
    """After a rollback there is no delivery, the intent is there, and the event can be told."""
    outbox.stage(intent(1))
    assert outbox.release_on(migrating, event_id(1), [delivery(1)])
    migrating.rollback()
    assert not outbox.deliveries()
    assert outbox.intents() == [intent(1)]
    release(outbox, 1)
    assert claim_ids(outbox) == ["dlv_a_1"]


def test_a_refused_release_leaves_the_transaction_as_it_was(
    outbox: PgmqOutbox, migrating: psycopg.Connection[Any]
) -> None:
    """An INSERT that fails costs its savepoint: the transaction goes on and commits."""
    release(outbox, 1)
    again = replace(delivery(2), id="dlv_a_1")
    assert not outbox.release_on(migrating, event_id(2), [again])
    migrating.execute("INSERT INTO made VALUES (1)")
    migrating.commit()
    row = migrating.execute("SELECT count(*) FROM made").fetchone()
    assert row == (1,)


def test_a_release_needs_a_transaction_in_its_database(
    outbox: PgmqOutbox, migrating: psycopg.Connection[Any], database: str
) -> None:
    """In autocommit, after a failure, and in another database it does nothing."""
    migrating.rollback()
    assert not outbox.release_on(migrating, event_id(1), [delivery(1)])
    with suppress(psycopg.Error):
        migrating.execute("SELECT nosuch")
    assert not outbox.release_on(migrating, event_id(1), [delivery(1)])
    with psycopg.connect(database) as elsewhere:
        elsewhere.execute("SELECT 1")
        assert not outbox.release_on(elsewhere, event_id(1), [delivery(1)])
    assert not outbox.deliveries()


# Documents


def test_an_intent_of_another_version_is_read(outbox: PgmqOutbox, outbox_database: str) -> None:
    """A field that was not known then is missing, one that is not known now is left out."""
    outbox.stage(intent(1))
    with psycopg.connect(outbox_database, autocommit=True) as connection:
        connection.execute(
            "UPDATE confiture_webhooks.intents SET intent = "
            "(intent - 'database_host' - 'backend_started_at') || '{\"later\": 1}'"
        )
    [found] = outbox.intents()
    assert found == replace(intent(1), database_host=None, backend_started_at=None)


def test_every_field_of_an_intent_is_kept() -> None:
    """The document has each field of Intent, whatever fields it has."""
    document = json.loads(documents.intent_document(intent(1)))
    assert set(document) == set(Intent.__dataclass_fields__)
    assert documents.intent(document) == intent(1)


def test_what_no_text_can_hold_is_escaped(outbox: PgmqOutbox) -> None:
    """NUL and half a surrogate pair are told as escapes, and the release is not lost."""
    odd = replace(delivery(1), environment="a\0b\udcff", migration_name="\\")
    outbox.release(event_id(1), [odd])
    [row] = outbox.deliveries()
    assert row.delivery == replace(odd, environment="a\\x00b\\udcff")


# Rights and versions


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


def test_a_role_that_may_not_create_is_told_what_to_do(role: tuple[str, str]) -> None:
    """Where there is no outbox and it may make none, the error names the remedy."""
    with pytest.raises(OutboxError, match="confiture webhooks outbox init"):
        PgmqOutbox(role[1])


def test_the_printed_grants_are_enough(role: tuple[str, str], database: str) -> None:
    """With them, and nothing else, every method works and a migration can release."""
    name, dsn = role
    PgmqOutbox(database).close()
    with psycopg.connect(database, autocommit=True) as admin:
        for statement in schema.grants(name):
            admin.execute(statement)
    with closing(PgmqOutbox(dsn)) as outbox:
        outbox.stage(intent(1))
        release(outbox, 1, 2, 3, 4)
        outbox.give_back(claim_one(outbox))
        finish(outbox)
        finish(outbox)
        assert outbox.redeliver("dlv_a_1", now=NOW)
        outbox.disable("a", "production", NOW)
        assert outbox.enable("a", "production")
        assert outbox.summary().undelivered == {"a": 3}
        assert outbox.prune(before=NOW + timedelta(days=1), keep=0) == 1
        with psycopg.connect(dsn) as migrating:
            migrating.execute("SELECT 1")
            assert outbox.release_on(migrating, event_id(9), [delivery(9)])
        assert outbox.deliveries()[0].delivery.id == "dlv_a_9"


def test_no_printed_grant_is_too_much(role: tuple[str, str], database: str) -> None:
    """With any one of them missing, something does not work."""
    name, dsn = role
    PgmqOutbox(database).close()
    granted = schema.grants(name)
    for missing in granted:
        with psycopg.connect(database, autocommit=True) as admin:
            admin.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
            for statement in granted:
                if statement != missing:
                    admin.execute(statement)
        with pytest.raises(OutboxError):
            used_by(dsn)


def used_by(dsn: str) -> None:
    """Tell, deliver and switch an endpoint on, as one that may do no more than it must."""
    with closing(PgmqOutbox(dsn)) as outbox:
        release(outbox, 1)
        finish(outbox)
        outbox.enable("a", "production")


def test_a_newer_outbox_is_refused(outbox: PgmqOutbox, outbox_database: str) -> None:
    """What a newer version made is left alone, and the error says so."""
    with psycopg.connect(outbox_database, autocommit=True) as admin:
        admin.execute("UPDATE confiture_webhooks.schema_version SET version = 99")
        try:
            with pytest.raises(OutboxError, match="newer confiture-webhooks"):
                PgmqOutbox(outbox_database)
        finally:
            admin.execute(
                "UPDATE confiture_webhooks.schema_version SET version = %s",
                (len(schema.MIGRATIONS),),
            )


def test_two_that_find_no_outbox_make_one(database: str) -> None:
    """Several first runs at once all end up with the same outbox."""
    assert not has_outbox(database)
    outboxes: list[PgmqOutbox] = []
    threads = [
        threading.Thread(target=lambda: outboxes.append(PgmqOutbox(database))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outboxes) == 4
    assert has_outbox(database)
    for outbox in outboxes:
        outbox.close()


def test_a_database_with_pgmq_keeps_its_own(database: str) -> None:
    """Where pgmq is installed already, only our queue and tables are added."""
    from pgmq import install_pgmq_from_sql

    with psycopg.connect(database) as connection:
        install_pgmq_from_sql(conn=connection)
        connection.execute("SELECT pgmq.create('theirs')")
        connection.commit()
    PgmqOutbox(database).close()
    with psycopg.connect(database) as connection:
        names = connection.execute("SELECT queue_name FROM pgmq.meta ORDER BY 1").fetchall()
    assert names == [("confiture_webhooks",), ("theirs",)]


def test_a_missing_extra_is_named(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the pgmq package, a database without an outbox gets one line with the remedy."""
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "pgmq":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(OutboxError, match=r"confiture-webhooks\[postgres\]") as caught:
        PgmqOutbox(database)
    assert "\n" not in str(caught.value)


# Breakdowns


def test_a_connection_that_breaks_is_made_again(outbox: PgmqOutbox, outbox_database: str) -> None:
    """What is asked at that moment fails, what is asked next is answered."""
    release(outbox, 1)
    with psycopg.connect(outbox_database, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'confiture-webhooks' AND datname = current_database()"
        )
    time.sleep(0.1)
    with pytest.raises(OutboxError, match="closed the connection|refuses"):
        outbox.summary()
    assert claim_ids(outbox) == ["dlv_a_1"]


def test_a_server_that_falls_silent_is_not_waited_for(
    outbox_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that takes a question and never answers costs the patience, then an error."""
    with Passage(outbox_database) as deaf, closing(PgmqOutbox(deaf.dsn)) as outbox:
        monkeypatch.setattr(pgmq_connection, "PATIENCE_S", 0.5)
        deaf.is_deaf = True
        started = time.monotonic()
        with pytest.raises(OutboxError), outbox._server.working(0.5) as connection:
            connection.execute("SELECT 1")
        assert time.monotonic() - started < 20


def test_whether_there_is_an_outbox_is_not_waited_for_without_end(
    outbox_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that takes the question and gives no answer has none, before a run would hang."""
    monkeypatch.setattr(pgmq_connection, "PATIENCE_S", 1.0)
    emptied(outbox_database)
    found: list[bool] = []

    def lose(question: bytes) -> bytes:
        return b"" if b"schema_version" in question else question

    with Passage(outbox_database, lose) as way:
        asking = threading.Thread(target=lambda: found.append(has_outbox(way.dsn)), daemon=True)
        asking.start()
        asking.join(20)
        assert found == [False]
    assert has_outbox(outbox_database)


def test_after_closing_everything_is_refused(opened: Callable[[], PgmqOutbox]) -> None:
    """A closed outbox raises OutboxError, and leaves no thread behind."""
    outbox = opened()
    outbox.close()
    with pytest.raises(OutboxError, match="closed"):
        outbox.summary()


def test_no_password_is_told() -> None:
    """Neither an error, nor a repr, shows more of a DSN than host, port and database."""
    with pytest.raises(OutboxError) as caught:
        PgmqOutbox("postgresql://user:CANARY@127.0.0.1:1/shop?options=CANARY")
    assert str(caught.value).startswith("outbox postgres 127.0.0.1:1/shop: the server does not")
    with pytest.raises(OutboxError) as caught:
        PgmqOutbox("postgresql://user:CANARY@[broken")
    assert "CANARY" not in str(caught.value) + repr(caught.value.__cause__)


# Several workers


def test_workers_share_the_work(opened: Callable[[], PgmqOutbox]) -> None:
    """Four workers at once claim each delivery exactly once."""
    with closing(opened()) as teller:
        release(teller, *range(60))
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

    dsn = teller._server.dsn

    def opened_again() -> PgmqOutbox:
        return PgmqOutbox(dsn)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted(f"dlv_a_{number}" for number in range(60))
    assert count(dsn, "pgmq.q_confiture_webhooks") == 0
    assert count(dsn, "pgmq.a_confiture_webhooks") == 60


def test_an_open_release_keeps_nobody_waiting(
    outbox: PgmqOutbox, migrating: psycopg.Connection[Any]
) -> None:
    """While a migration has yet to commit its event, others tell, claim and record theirs."""
    assert outbox.release_on(migrating, event_id(1), [delivery(1)])
    release(outbox, 2)
    finish(outbox)
    assert outbox.prune(before=NOW + timedelta(days=1), keep=0) == 1
    migrating.commit()
    assert claim_ids(outbox) == ["dlv_a_1"]


def test_a_message_says_to_pgmq_what_it_is(outbox: PgmqOutbox, outbox_database: str) -> None:
    """In the queue: the delivery's id, its endpoint as the FIFO group; once ended, in the archive."""
    release(outbox, 1)
    query = "SELECT message, headers FROM pgmq.{}_confiture_webhooks"
    told = [({"delivery": "dlv_a_1"}, {"x-pgmq-group": '["a", "production"]'})]
    with psycopg.connect(outbox_database, autocommit=True) as connection:
        assert connection.execute(query.format("q")).fetchall() == told
        finish(outbox)
        assert connection.execute(query.format("q")).fetchall() == []
        assert connection.execute(query.format("a")).fetchall() == told


def test_an_emptied_archive_does_not_prevent_a_redelivery(
    outbox: PgmqOutbox, outbox_database: str
) -> None:
    """History removed by pgmq's own means costs the history only."""
    release(outbox, 1)
    finish(outbox)
    with psycopg.connect(outbox_database, autocommit=True) as connection:
        connection.execute("DELETE FROM pgmq.a_confiture_webhooks")
    assert outbox.redeliver("dlv_a_1", now=NOW)
    assert claim_ids(outbox) == ["dlv_a_1"]
