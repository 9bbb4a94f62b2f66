"""An ``Event``: something that happened, its kinds, and its wire form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from json import dumps
from typing import Any


class EventType(StrEnum):
    """The kinds of event; the value is ``event_type`` in the payload."""

    # The text below a member is its row in the documentation.
    MIGRATION_SUCCESS = "migration_success"
    """`up` committed"""
    MIGRATION_ERROR = "migration_error"
    """`up` failed: its SQL, a precondition, its COMMIT, or loading its file"""
    MIGRATION_ROLLBACK = "migration_rollback"
    """`down` committed"""
    MIGRATION_ROLLBACK_ERROR = "migration_rollback_error"
    """`down` failed"""
    MIGRATION_STARTED = "migration_started"
    """before the first statement of an `up`"""
    RUN_SUCCESS = "run_success"
    """a whole run ended well, listing its migrations"""
    RUN_ERROR = "run_error"
    """a whole run failed, listing its migrations; also sent, to endpoints without `events`, when no
    migration's event says so: no connection, a lock, a checksum
    """
    PING = "ping"
    """`confiture webhooks test`"""
    CUSTOM = "custom"
    """a hook calls `context.send`: only `X-Confiture-Event` says so, the body is the [hook's
    own](hooks.md#contextsend)
    """


SUBSCRIBABLE = frozenset(EventType) - {EventType.PING, EventType.CUSTOM}
DEFAULT_SUBSCRIPTION = frozenset(
    {
        EventType.MIGRATION_SUCCESS,
        EventType.MIGRATION_ERROR,
        EventType.MIGRATION_ROLLBACK,
        EventType.MIGRATION_ROLLBACK_ERROR,
    }
)
FAILURES = frozenset(
    {EventType.MIGRATION_ERROR, EventType.MIGRATION_ROLLBACK_ERROR, EventType.RUN_ERROR}
)
OF_RUNS = frozenset({EventType.RUN_SUCCESS, EventType.RUN_ERROR})
"""Those about a whole run."""


class Direction(StrEnum):
    """Which way a migration ran."""

    UP = "up"
    DOWN = "down"


def outcome_event(direction: Direction, *, is_success: bool) -> EventType:
    """The event of how one migration ended."""
    if direction is Direction.UP:
        return EventType.MIGRATION_SUCCESS if is_success else EventType.MIGRATION_ERROR
    return EventType.MIGRATION_ROLLBACK if is_success else EventType.MIGRATION_ROLLBACK_ERROR


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """The migrated database, as much of it as may be sent: never a user or password."""

    host: str | None = None
    port: int | None = None
    name: str | None = None
    schema: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationRef:
    """Which migration: its version, and its name as the payload shows it."""

    version: str
    slug: str
    """The part after the version: ``add_payment_table``."""

    @property
    def name(self) -> str:
        """``<version>_<slug>``, as in ``005_add_payment_table``."""
        return f"{self.version}_{self.slug}"


def migration_row(
    ref: MigrationRef, direction: Direction, duration_s: float | None, *, is_success: bool
) -> dict[str, Any]:
    """A migration in the list of a run's event."""
    return {
        "version": ref.version,
        "name": ref.name,
        "direction": direction.value,
        "status": "success" if is_success else "error",
        "duration_seconds": duration_s,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorInfo:
    """Why a migration failed: the root cause's class, its message, the server's SQLSTATE."""

    type: str
    message: str
    """The server's primary message, or what may be sent of another error: no SQL, no values."""
    sqlstate: str | None = None
    detail: str | None = field(default=None, repr=False)
    """The whole text, SQL and all: only for endpoints that ask with ``include_sql``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened, once. Its ``id`` is the ``webhook-id`` of every attempt."""

    id: str
    type: EventType
    occurred_at: datetime
    trace_id: str
    environment: str | None = None
    database: Database = Database()
    direction: Direction | None = None
    migration: MigrationRef | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    duration_s: float | None = None
    rows_affected: int | None = None
    error: ErrorInfo | None = None
    migrations: Sequence[Mapping[str, Any]] | None = None
    """For ``run_*`` events: one row per migration, oldest first."""
    command: str | None = None
    """The command that ran: ``confiture migrate up``."""
    run_url: str | None = None
    """The CI run it was part of: ``Settings.run_url``."""
    trace_url: str | None = None
    """A link to the run's trace: ``Settings.trace_link(trace_id)``."""


def rfc3339(instant: datetime) -> str:
    """*instant* (aware) as UTC with milliseconds: ``2026-01-09T14:23:45.123Z``."""
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def payload(event: Event, endpoint_name: str, *, include_sql: bool = False) -> dict[str, Any]:
    """The default format: the guide's keys, with the endpoint it is for in ``webhook_target``."""
    database, migration, error = event.database, event.migration, event.error
    is_run = event.command is not None or event.run_url is not None
    document: dict[str, Any] = {
        "event_id": event.id,
        "event_type": event.type.value,
        "timestamp": rfc3339(event.occurred_at),
        "trace_id": event.trace_id,
        "webhook_target": endpoint_name,
        "database": {"host": database.host, "name": database.name, "schema": database.schema},
        "run": {"command": event.command, "url": event.run_url} if is_run else None,
        "trace_url": event.trace_url,
        "direction": event.direction and event.direction.value,
        "environment": None if migration else event.environment,
        "migration": migration
        and {
            "environment": event.environment,
            "name": migration.name,
            "version": migration.version,
        },
        "execution": event.started_at
        and {
            "start_time": rfc3339(event.started_at),
            "end_time": event.ended_at and rfc3339(event.ended_at),
            "duration_seconds": event.duration_s,
            "rows_affected": event.rows_affected,
        },
        "error": error
        and {"type": error.type, "message": error.message, "sqlstate": error.sqlstate},
        "migrations": None if event.migrations is None else [dict(one) for one in event.migrations],
    }
    if include_sql and error is not None and error.detail is not None:
        document["error"]["detail"] = error.detail
    return {key: value for key, value in document.items() if value is not None}


def body(document: Mapping[str, Any]) -> bytes:
    """*document* as the bytes that are signed, stored and sent.

    Keys are sorted and the text is ASCII, so that a receiver that parses and
    serialises again with sorted keys gets the same bytes. Text that no UTF-8 can
    carry (a file name that is not UTF-8) arrives with its bad bytes escaped.
    """
    return dumps(encodable(document), sort_keys=True, allow_nan=False).encode()


def utf8(text: str) -> str:
    """*text* as UTF-8 can carry it: bad bytes (of a file name that is not UTF-8) are escaped."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def stored_text(text: str) -> str:
    """*text* as every store can hold it: with NUL, and halves of surrogate pairs, escaped."""
    return utf8(text).replace("\0", "\\x00")


def encodable(value: Any) -> Any:
    """*value* with all its texts as UTF-8 can carry them: one bad byte would fail a whole batch."""
    if isinstance(value, str):
        return utf8(value)
    if isinstance(value, Mapping):
        return {encodable(key): encodable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encodable(item) for item in value]
    return value
