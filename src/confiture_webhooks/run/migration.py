"""One migration under way: where it runs, when it began, how it ended, and the events of that."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
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

if TYPE_CHECKING:
    from ..telemetry import MigrationSpan

UNKNOWN = ErrorInfo(type="Interrupted", message="how this migration ended is not known")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """Where a migration runs: the database, its ledger, and the server process.

    Its fields are those of ``Intent``; what could not be seen is ``None``.
    """

    database: Database
    ledger_table: str
    database_url: str = field(default="", repr=False)
    """For users' hooks; without the password."""
    pid: int | None = None
    started_at: datetime | None = None
    identity: str | None = None
    timeline: int | None = None
    ledger_oid: int | None = None
    ledger_before: str | None = None
    ledger_read_at: datetime | None = None
    has_lock: bool = False
    is_idle: bool = True
    """Its connection is outside a transaction: waiting now costs nobody's locks."""
    is_gone: bool = False
    """Its connection is broken before the migration begins: nothing can be committed on it."""


class Migration:
    """One migration under way. It ends once: ``succeeded``, ``failed`` or ``unknown``."""

    def __init__(
        self,
        ref: MigrationRef,
        direction: Direction,
        backend: Backend,
        span: MigrationSpan,
        *,
        conclude: Conclude,
        settle_later: Callable[[Migration], None],
        event_id: str | None = None,
    ) -> None:
        self._conclude = conclude
        self._settle_later = settle_later
        self.event_id = event_id or new_event_id()
        self.ref = ref
        self.direction = direction
        self.backend = backend
        self.span = span
        self.started_at = datetime.now(UTC)
        self._started = time.monotonic()
        self.ended_at: datetime | None = None
        self.duration_s = 0.0
        self.error: ErrorInfo | None = None
        """Why the call failed; of a migration whose outcome is unknown, too."""
        self.ask_ledger: Callable[[], bool | None] = lambda: None

    def stop_clock(self) -> None:
        """Take the time, before anything of ours is counted in. Later calls change nothing."""
        if self.ended_at is None:
            self.ended_at = datetime.now(UTC)
            self.duration_s = self._elapsed_s()

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._started

    def started_event(self, environment: str | None, trace_id: str) -> Event:
        """It is about to run."""
        return self._event(EventType.MIGRATION_STARTED, new_event_id(), environment, trace_id)

    def ended_event(
        self,
        environment: str | None,
        trace_id: str,
        *,
        rows_affected: int | None,
        error: ErrorInfo | None = None,
    ) -> Event:
        """How it ended: with *error*, or well; before that, how it would end now.

        Its id is the same however often it is made.
        """
        return self._event(
            outcome_event(self.direction, is_success=error is None),
            self.event_id,
            environment,
            trace_id,
            ended_at=self.ended_at or datetime.now(UTC),
            duration_s=round(self.duration_s if self.ended_at else self._elapsed_s(), 6),
            rows_affected=rows_affected,
            error=error,
        )

    def _event(
        self, kind: EventType, event_id: str, environment: str | None, trace_id: str, **facts: Any
    ) -> Event:
        return Event(
            id=event_id,
            type=kind,
            occurred_at=datetime.now(UTC),
            trace_id=trace_id,
            environment=environment,
            database=self.backend.database,
            direction=self.direction,
            migration=self.ref,
            started_at=self.started_at,
            **facts,
        )

    def row(self, *, is_success: bool) -> dict[str, Any]:
        """Itself in the list of a run's event."""
        duration_s = round(self.duration_s, 6)
        return migration_row(self.ref, self.direction, duration_s, is_success=is_success)

    def succeeded(self, rows_affected: int | None) -> None:
        """It committed."""
        self._conclude(self, rows_affected, None)

    def failed(self, error: ErrorInfo) -> None:
        """It did not commit, and that is certain."""
        self._conclude(self, None, error)

    def unknown(self, ask_ledger: Callable[[], bool | None]) -> None:
        """Its end was not seen: ``finish`` asks the ledger (``None``: it cannot say)."""
        self.ask_ledger = ask_ledger
        self._settle_later(self)


def run_event(
    event_id: str,
    kind: EventType,
    ended: Sequence[tuple[Migration, bool]],
    environment: str | None,
    trace_id: str,
    *,
    database: Database,
    started_at: datetime,
    duration_s: float,
    error: ErrorInfo | None,
) -> Event:
    """How a run ended in which these migrations *ended*, each with whether it succeeded."""
    now = datetime.now(UTC)
    return Event(
        id=event_id,
        type=kind,
        occurred_at=now,
        trace_id=trace_id,
        environment=environment,
        database=database,
        started_at=started_at,
        ended_at=now,
        duration_s=round(duration_s, 6),
        error=error,
        migrations=[migration.row(is_success=is_success) for migration, is_success in ended],
    )


Conclude = Callable[[Migration, int | None, ErrorInfo | None], object]
"""Called with a migration that ended, the rows it touched, and why it failed if it did."""


def new_event_id() -> str:
    """A fresh event id, never seen before."""
    return f"evt_{uuid.uuid4().hex}"
