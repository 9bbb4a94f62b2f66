"""The events of a run: what is told of its migrations, and of itself."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from ..event import Database, ErrorInfo, Event, EventType, outcome_event
from .migration import new_event_id

if TYPE_CHECKING:
    from .migration import Migration


class Begun(Protocol):
    """A run under way, as far as its events show it."""

    database: Database
    started_at: datetime


def started_event(migration: Migration, environment: str | None, trace_id: str) -> Event:
    """*migration* is about to run."""
    return _of(
        EventType.MIGRATION_STARTED,
        migration,
        environment,
        trace_id,
        event_id=new_event_id(),
    )


def ended_event(
    migration: Migration,
    environment: str | None,
    trace_id: str,
    *,
    ended_at: datetime | None,
    duration_s: float,
    rows_affected: int | None,
    error: ErrorInfo | None = None,
) -> Event:
    """How *migration* ended: with *error*, or well. Its id is the same however often it is made."""
    return _of(
        outcome_event(migration.direction, is_success=error is None),
        migration,
        environment,
        trace_id,
        event_id=migration.event_id,
        ended_at=ended_at,
        duration_s=round(duration_s, 6),
        rows_affected=rows_affected,
        error=error,
    )


def run_event(
    kind: EventType,
    ended: Sequence[tuple[Migration, bool]],
    environment: str | None,
    trace_id: str,
    *,
    run: Begun,
    duration_s: float,
    error: ErrorInfo | None,
) -> Event:
    """How *run* ended in which these migrations *ended*, each with whether it succeeded."""
    now = datetime.now(UTC)
    return Event(
        id=new_event_id(),
        type=kind,
        occurred_at=now,
        trace_id=trace_id,
        environment=environment,
        database=run.database,
        started_at=run.started_at,
        ended_at=now,
        duration_s=round(duration_s, 6),
        error=error,
        migrations=[migration.row(is_success=is_success) for migration, is_success in ended],
    )


def _of(
    kind: EventType,
    migration: Migration,
    environment: str | None,
    trace_id: str,
    *,
    event_id: str,
    **facts: Any,
) -> Event:
    return Event(
        id=event_id,
        type=kind,
        occurred_at=datetime.now(UTC),
        trace_id=trace_id,
        environment=environment,
        database=migration.backend.database,
        direction=migration.direction,
        migration=migration.ref,
        started_at=migration.started_at,
        **facts,
    )
