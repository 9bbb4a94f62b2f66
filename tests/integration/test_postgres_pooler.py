"""The PostgreSQL outbox behind a pooler that gives its sessions to others: nothing stays on them."""

from __future__ import annotations

from contextlib import closing

import psycopg
import pytest

from confiture_webhooks.delivery import State
from confiture_webhooks.errors import OutboxError
from confiture_webhooks.outbox.postgres import PostgresOutbox
from confiture_webhooks.outbox.postgres_session import ask, settings
from contract.acts import claim_ids, claim_one
from contract.made import A_SECOND, DELIVERED, NOW, attempt, delivery, event_id, intent, retry
from outbox_databases import emptied
from passage import Passage

SETTINGS = (
    "SELECT name, setting FROM pg_settings WHERE name = ANY(%s) ORDER BY name",
    [["enable_seqscan", "search_path", "statement_timeout", "synchronous_commit", "TimeZone"]],
)
PREPARED = "SELECT count(*) FROM pg_prepared_statements"


@pytest.mark.survived("A pooler that gives sessions to others", "unharmed")
def test_a_poolers_sessions_are_left_as_they_were(outbox_database: str) -> None:
    """After everything the outbox does a session has no setting and no statement of ours."""
    emptied(outbox_database)
    with psycopg.connect(outbox_database) as fresh:
        before = fresh.execute(*SETTINGS).fetchall()
    with (
        Passage(outbox_database, pools=True) as pooler,
        closing(PostgresOutbox(pooler.dsn)) as outbox,
    ):
        for number in range(1, 9):
            outbox.stage(intent(number))
            outbox.release(event_id(number), [delivery(number)])
            claim = claim_one(outbox)
            outbox.record(claim, attempt(), DELIVERED if number > 1 else retry(NOW + A_SECOND))
        assert outbox.redeliver("dlv_a_2", now=NOW)
        assert outbox.prune(before=NOW + A_SECOND, keep=0) == 6
        assert outbox.summary("production").counts == {State.PENDING: 2}
        with pytest.raises(OutboxError):
            outbox._store.read(("list 1 / 0 = 1", {"limit": 1}))
        session = outbox._store._connection
        assert session is not None
        left = [tuple(row.values()) for row in session.execute(*SETTINGS).fetchall()]
        assert left == before
        assert session.execute(PREPARED).fetchone() == {"count": 0}


def test_behind_a_pooler_it_has_its_settings_in_a_transaction(outbox_database: str) -> None:
    """They hold where they are needed, and what others made is read, by the newest snapshot."""
    opened = emptied(outbox_database)
    with psycopg.connect(outbox_database, autocommit=True) as admin:
        name = admin.info.dbname
        admin.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
        admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        try:
            with (
                Passage(outbox_database, pools=True) as pooler,
                closing(PostgresOutbox(pooler.dsn)) as outbox,
                closing(opened()) as other,
            ):
                other.release(event_id(1), [delivery(1)])
                assert claim_ids(outbox) == ["dlv_a_1"]
                shown = "SHOW search_path", "SHOW transaction_isolation"
                with outbox._store.lent() as connection:
                    answers = ask(connection, settings(), *shown)
                assert answers[-2] == [{"search_path": "pg_catalog"}]
                assert answers[-1] == [{"transaction_isolation": "read committed"}]
        finally:
            admin.execute("SET default_transaction_read_only = off")
            admin.execute(f"ALTER DATABASE {name} RESET ALL")


def test_a_new_outbox_is_made_through_a_pooler(database: str) -> None:
    """Making it needs nothing that a pooler would not give."""
    with Passage(database, pools=True) as pooler, closing(PostgresOutbox(pooler.dsn)) as outbox:
        assert outbox.is_made_anew()
        outbox.release(event_id(1), [delivery(1)])
        assert claim_ids(outbox) == ["dlv_a_1"]
