"""A PostgreSQL outbox for tests: one database for many of them, emptied before each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import psycopg

from confiture_webhooks.outbox.postgres import PostgresOutbox
from confiture_webhooks.outbox.postgres_rights import SCHEMA, TABLES


def emptied(dsn: str) -> Callable[[], PostgresOutbox]:
    """Opens the outbox at *dsn*, which holds nothing now: each call is another worker's."""
    PostgresOutbox(dsn).close()
    with psycopg.connect(dsn, autocommit=True) as connection:
        for table in TABLES:  # TRUNCATE would make and sync many files
            connection.execute(f"DELETE FROM {SCHEMA}.{table}")
    return partial(PostgresOutbox, dsn)


def count(dsn: str, table: str) -> int:
    """How many rows *table* of an outbox has."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(f"SELECT count(*) FROM {SCHEMA}.{table}").fetchone()
    assert row is not None
    return int(row[0])
