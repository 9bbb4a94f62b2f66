"""A ledger as Confiture keeps it, an engine that has one, and an intent that names it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from confiture_webhooks.event import Direction, MigrationRef
from confiture_webhooks.outbox import Intent
from confiture_webhooks.run.migration import Backend
from confiture_webhooks.run.settling import Settling
from fakes import FakeTelemetry

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
    staged: list[Intent] = []
    telemetry: Any = FakeTelemetry()
    recorder: Any = SimpleNamespace(stage=lambda one: (staged.append(one), ()))
    settling = Settling(telemetry, recorder, None, telemetry.failed)
    settling.prepare(MigrationRef(version="005", slug="a"), direction, backend, None)
    return replace(staged[0], event_id="evt_1")
