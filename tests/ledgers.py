"""A ledger as Confiture keeps it, an engine that has one, and an intent that names it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from confiture_webhooks.event import Direction, MigrationRef
from confiture_webhooks.outbox import Intent
from confiture_webhooks.run.migration import Backend

LEDGER = (
    "CREATE TABLE {} (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), version text UNIQUE, "
    "applied_at timestamptz DEFAULT now(), execution_time_ms int)"
)
ADD = "INSERT INTO {} (version, execution_time_ms) VALUES ('005', 7)"


class Engine:
    """As much of a migration engine as is looked at before a migration."""

    def __init__(self, connection: Any, migration_table: str = "tb_confiture") -> None:
        self.connection = connection
        self.migration_table = migration_table


def intent(backend: Backend, direction: Direction = Direction.UP) -> Intent:
    """The intent of a migration of version 005 on *backend*, as a run stages it."""
    return Intent(
        event_id="evt_1",
        direction=direction,
        migration=MigrationRef(version="005", slug="a"),
        environment=None,
        ledger_table=backend.ledger_table,
        database_host=backend.database.host,
        database_port=backend.database.port,
        database_name=backend.database.name,
        database_identity=backend.identity,
        timeline=backend.timeline,
        ledger_oid=backend.ledger_oid,
        ledger_before=backend.ledger_before,
        ledger_read_at=backend.ledger_read_at,
        has_lock=backend.has_lock,
        backend_pid=backend.pid,
        backend_started_at=backend.started_at,
        traceparent="",
        tracestate=None,
        correlation_id="",
        staged_at=datetime.now(UTC),
    )
