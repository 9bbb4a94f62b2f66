"""A PostgreSQL outbox for tests: one database for many of them, emptied before each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import psycopg

from confiture_webhooks.adapters.pgmq import PgmqOutbox

TABLES = (
    "pgmq.q_confiture_webhooks",
    "pgmq.a_confiture_webhooks",
    *(
        f"confiture_webhooks.{name}"
        for name in ("intents", "released", "deliveries", "attempts", "endpoints_off")
    ),
)


def emptied(dsn: str) -> Callable[[], PgmqOutbox]:
    """Opens the outbox at *dsn*, which holds nothing now: each call is another worker's."""
    PgmqOutbox(dsn).close()
    with psycopg.connect(dsn, autocommit=True) as connection:
        for table in TABLES:  # TRUNCATE would make and sync forty files
            connection.execute(f"DELETE FROM {table}")
    return partial(PgmqOutbox, dsn)


def count(dsn: str, table: str) -> int:
    """How many rows *table* of an outbox has."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert row is not None
    return int(row[0])
