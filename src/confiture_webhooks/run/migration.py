"""One migration under way: where it runs, when it began, how it ended, and the events of that."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ..event import (
    Database,
    Direction,
    ErrorInfo,
    Event,
    EventType,
    MigrationRef,
    migration_row,
    outcome_event,
)
from ..outbox import Committed, Facts

if TYPE_CHECKING:
    from ..telemetry.spans import MigrationSpan

IDLE = 0
"""libpq's ``PQTRANS_IDLE``."""
UNKNOWN = ErrorInfo(type="Interrupted", message="how this migration ended is not known")


def is_idle(connection: Any) -> bool:
    """Whether *connection* is alive and outside a transaction."""
    return connection is not None and bool(connection.info.transaction_status == IDLE)


def new_event_id() -> str:
    """A fresh event id, never seen before."""
    return f"evt_{uuid.uuid4().hex}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend(Facts):
    """Where a migration runs: the database, its ledger, and the server process."""

    database: Database
    database_url: str = field(default="", repr=False)
    """For users' hooks; without the password."""
    is_idle: bool = True
    """Its connection is outside a transaction: a wait now holds no locks."""
    is_gone: bool = False
    """Its connection is broken before the migration begins: nothing can be committed on it."""


@dataclass(eq=False, slots=True, kw_only=True)
class Migration:
    """One migration under way."""

    ref: MigrationRef
    direction: Direction
    backend: Backend
    span: MigrationSpan
    environment: str | None
    trace_id: str
    event_id: str
    """The id of the event of how it ends."""
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended_at: datetime | None = None
    duration_s: float = 0.0
    recorded: Committed | None = None
    """The event that went with its COMMIT: a release by anybody has the same bytes."""
    error: ErrorInfo | None = None
    """Why the call failed; of a migration whose outcome is unknown, too."""
    ask_ledger: Callable[[], bool | None] = lambda: None
    """Whether the ledger has it; ``None``: it cannot say."""
    _started: float = field(default_factory=time.monotonic)

    def stop_clock(self) -> None:
        """Take the time, before anything of ours is counted in. Later calls change nothing."""
        if self.ended_at is None:
            self.ended_at = datetime.now(UTC)
            self.duration_s = round(time.monotonic() - self._started, 6)

    def started_event(self) -> Event:
        """It is about to run."""
        now = datetime.now(UTC)
        return self._event(EventType.MIGRATION_STARTED, new_event_id(), occurred_at=now)

    def success(self, rows_affected: int | None) -> Committed:
        """How it ends if its transaction commits now."""
        return Committed(
            started_at=self.started_at,
            ended_at=datetime.now(UTC),
            duration_s=round(time.monotonic() - self._started, 6),
            rows_affected=rows_affected,
        )

    def ended_event(self, rows_affected: int | None, error: ErrorInfo | None = None) -> Event:
        """How it ended: with *error*, or well. Its id is the same however often it is made."""
        recorded = self.recorded if error is None else None
        ended_at = (recorded or self).ended_at or datetime.now(UTC)
        return self._event(
            outcome_event(self.direction, is_success=error is None),
            self.event_id,
            occurred_at=ended_at,
            ended_at=ended_at,
            duration_s=(recorded or self).duration_s,
            rows_affected=rows_affected,
            error=error,
        )

    def _event(self, kind: EventType, event_id: str, **facts: Any) -> Event:
        return Event(
            id=event_id,
            type=kind,
            trace_id=self.trace_id,
            environment=self.environment,
            database=self.backend.database,
            direction=self.direction,
            migration=self.ref,
            started_at=self.started_at,
            **facts,
        )

    def row(self) -> dict[str, Any]:
        """Itself, ended, in the list of a run's event."""
        is_success = self.error is None
        return migration_row(self.ref, self.direction, self.duration_s, is_success=is_success)
