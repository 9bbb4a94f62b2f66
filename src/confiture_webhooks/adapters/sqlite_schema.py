"""The SQLite outbox's tables, and how a file comes to have the newest of them.

A file's ``user_version`` is the number of migrations it has had. Migrations only go forward:
a released one is never edited, the next is appended.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from ..errors import OutboxError

APPLICATION_ID = 0x43465748
"""``CFWH``, in the file's header: tells an outbox from somebody's own database."""

_TABLES = (
    """
    CREATE TABLE intents (
        event_id TEXT PRIMARY KEY,
        direction TEXT NOT NULL,
        migration_version TEXT NOT NULL,
        migration_slug TEXT NOT NULL,
        environment TEXT,
        ledger_table TEXT NOT NULL,
        database_host TEXT,
        database_port INTEGER,
        database_name TEXT,
        database_schema TEXT,
        database_identity TEXT,
        timeline INTEGER,
        ledger_oid INTEGER,
        ledger_before TEXT,       -- NULL: not known; empty: there was no row
        ledger_read_at TEXT,
        has_lock INTEGER NOT NULL,
        backend_pid INTEGER,
        backend_started_at TEXT,
        traceparent TEXT NOT NULL,
        tracestate TEXT,
        correlation_id TEXT NOT NULL,
        staged_at TEXT NOT NULL
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE released (  -- event ids that were released: a second time changes nothing
        event_id TEXT PRIMARY KEY,
        released_at TEXT NOT NULL
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE deliveries (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order of release
        id TEXT NOT NULL UNIQUE,
        event_id TEXT NOT NULL,
        event_type TEXT NOT NULL,
        endpoint TEXT NOT NULL,
        content_type TEXT NOT NULL,
        traceparent TEXT NOT NULL,
        tracestate TEXT,
        correlation_id TEXT NOT NULL,
        created_at TEXT NOT NULL,
        migration_version TEXT,
        migration_name TEXT,
        environment TEXT,
        state TEXT NOT NULL DEFAULT 'pending',
        due_at TEXT NOT NULL,     -- when its next attempt is, or was, to be made
        is_ready INTEGER NOT NULL DEFAULT 1,  -- waits for nothing but a claim
        wakes_at TEXT,            -- when it becomes ready: due, or its lease has ended
        token TEXT,               -- of the claim that holds the lease
        attempts INTEGER NOT NULL DEFAULT 0,  -- over all schedules
        tries INTEGER NOT NULL DEFAULT 0,     -- in the current schedule
        finished_at TEXT
    )
    """,
    # Apart from the rest, so that moving a delivery does not rewrite its body.
    "CREATE TABLE bodies (seq INTEGER PRIMARY KEY, body BLOB NOT NULL)",
    """
    CREATE TABLE attempts (
        seq INTEGER NOT NULL,     -- the delivery's
        number INTEGER NOT NULL,
        started_at TEXT NOT NULL,
        duration_us INTEGER NOT NULL,
        status_code INTEGER,
        error_type TEXT,
        retry_after_us INTEGER,
        PRIMARY KEY (seq, number)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE endpoints_off (
        endpoint TEXT NOT NULL,
        environment TEXT NOT NULL,  -- empty: none
        since TEXT NOT NULL,
        PRIMARY KEY (endpoint, environment)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE tallies (  -- kept by triggers: counting a million rows takes too long
        endpoint TEXT NOT NULL,
        environment TEXT NOT NULL,  -- empty: none
        state TEXT NOT NULL,
        count INTEGER NOT NULL,
        PRIMARY KEY (endpoint, environment, state)
    ) WITHOUT ROWID
    """,
)

# Each holds only the rows its question is about, so that a claim costs the same however many
# deliveries are stored, waiting, delivered or dead. An index entry ends with the row's seq.
_INDEXES = (
    "CREATE INDEX deliveries_ready ON deliveries (endpoint, environment) WHERE is_ready = 1",
    """
    CREATE INDEX deliveries_waiting ON deliveries (endpoint, environment, wakes_at)
    WHERE wakes_at IS NOT NULL
    """,
    """
    CREATE INDEX deliveries_undelivered ON deliveries (environment, created_at)
    WHERE finished_at IS NULL
    """,
    "CREATE INDEX deliveries_delivered ON deliveries (finished_at) WHERE state = 'delivered'",
    "CREATE INDEX deliveries_event ON deliveries (event_id)",
    "CREATE INDEX released_age ON released (released_at)",
)

_TALLY_OLD = """
    UPDATE tallies SET count = count - 1
    WHERE endpoint = OLD.endpoint AND environment = ifnull(OLD.environment, '')
      AND state = OLD.state
"""
_TALLY_NEW = """
    INSERT OR IGNORE INTO tallies VALUES
        (NEW.endpoint, ifnull(NEW.environment, ''), NEW.state, 0);
    UPDATE tallies SET count = count + 1
    WHERE endpoint = NEW.endpoint AND environment = ifnull(NEW.environment, '')
      AND state = NEW.state
"""

_TRIGGERS = (
    f"CREATE TRIGGER delivery_made AFTER INSERT ON deliveries BEGIN {_TALLY_NEW}; END",
    f"""
    CREATE TRIGGER delivery_moved AFTER UPDATE OF state ON deliveries WHEN OLD.state <> NEW.state
    BEGIN {_TALLY_OLD}; {_TALLY_NEW}; END
    """,
    f"""
    CREATE TRIGGER delivery_pruned AFTER DELETE ON deliveries
    BEGIN
        {_TALLY_OLD};
        DELETE FROM bodies WHERE seq = OLD.seq;
        DELETE FROM attempts WHERE seq = OLD.seq;
    END
    """,
)

MIGRATIONS: tuple[tuple[str, ...], ...] = ((*_TABLES, *_INDEXES, *_TRIGGERS),)


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the file to the newest schema, in one transaction.

    Raises OutboxError for a file of a newer version, or of somebody else.
    """
    if _version(connection, path) == len(MIGRATIONS):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Again, now that nobody else can write: another process may have just done it.
        for statements in MIGRATIONS[_version(connection, path) :]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """How many migrations the file has had."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    is_empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if application_id != APPLICATION_ID and not is_empty:
        raise OutboxError(
            f"outbox {path}: this is another program's SQLite database",
            "Name another file: CONFITURE_WEBHOOK_OUTBOX=sqlite:<path>",
        )
    if version > len(MIGRATIONS):
        raise OutboxError(
            f"outbox {path}: written by a newer confiture-webhooks (schema {version}; this one "
            f"knows {len(MIGRATIONS)})",
            "Upgrade confiture-webhooks, or name another file: "
            "CONFITURE_WEBHOOK_OUTBOX=sqlite:<path>",
        )
    return version
