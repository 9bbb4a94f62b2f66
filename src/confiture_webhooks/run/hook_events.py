"""What a run gives its hooks, a context, and what they give it, deliveries. Pure."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ..delivery import Delivery, TraceContext
from ..errors import HookError
from ..event import Direction, ErrorInfo, EventType, body
from ..formats import JSON
from ..hooks import Hook, HookContext, MigrationFailed
from .migration import Migration, new_event_id

if TYPE_CHECKING:
    from ..endpoint import Endpoint

_ENDED = {Direction.UP: "post_execute", Direction.DOWN: "post_rollback"}
LARGEST = 1024 * 1024
"""Bytes of a payload, at most."""
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class HookSource:
    """A module with hooks, and how to import it: ``load`` raises LoadFault, or anything."""

    module: str
    load: Callable[[], Sequence[Hook]]


def started_context(migration: Migration, environment: str | None, trace_id: str) -> HookContext:
    """For ``pre_execute``: *migration* is about to run."""
    return HookContext(
        event="pre_execute",
        migration_name=migration.ref.name,
        migration_version=migration.ref.version,
        environment=environment,
        start_time=migration.started_at,
        database_url=migration.backend.database_url,
        schema_name=migration.backend.database.schema,
        trace_id=trace_id,
    )


def ended_context(
    migration: Migration, environment: str | None, trace_id: str, rows_affected: int | None
) -> HookContext:
    """For the event of how *migration* ended."""
    return replace(
        started_context(migration, environment, trace_id),
        event=_ENDED[migration.direction] if migration.error is None else "on_error",
        end_time=migration.ended_at,
        duration=timedelta(seconds=migration.duration_s),
        rows_affected=rows_affected,
        error=_raised(migration.error) if migration.error is not None else None,
    )


def _raised(info: ErrorInfo) -> MigrationFailed:
    """*info* as an exception of its root cause's name."""
    failed: MigrationFailed = type(info.type, (MigrationFailed,), {})(info.message)
    failed.sqlstate, failed.detail = info.sqlstate, info.detail
    return failed


def chosen(endpoints: Sequence[Endpoint], name: str | None) -> Endpoint:
    """The endpoint called *name*, or the only one there is. Raises HookError."""
    known = ", ".join(endpoint.name for endpoint in endpoints) or "none is configured"
    if name is None:
        if len(endpoints) == 1:
            return endpoints[0]
        raise HookError(f"context.send needs endpoint=…, one of: {known}")
    for endpoint in endpoints:
        if endpoint.name == name:
            return endpoint
    # An address that was given in its place may hold a secret.
    given = repr(name) if isinstance(name, str) and _NAME.fullmatch(name) else "that"
    raise HookError(f"no endpoint is called {given}; there are: {known}")


def custom_delivery(
    payload: Mapping[str, Any], endpoint: Endpoint, context: HookContext, trace: TraceContext
) -> Delivery:
    """*payload* for *endpoint*, about *context*'s migration. Raises HookError if it is not JSON."""
    return Delivery(
        id=f"dlv_{uuid.uuid4().hex}",
        event_id=new_event_id(),
        event_type=EventType.CUSTOM,
        endpoint=endpoint.name,
        body=_encoded(payload),
        content_type=JSON,
        trace=trace,
        correlation_id=context.correlation_id,
        created_at=datetime.now(UTC),
        migration_version=context.migration_version,
        migration_name=context.migration_name,
        environment=context.environment,
    )


def _encoded(payload: Mapping[str, Any]) -> bytes:
    if not isinstance(payload, Mapping):
        raise HookError(f"a payload is a JSON object, not {type(payload).__name__}")
    try:
        encoded = body(payload)
    except (TypeError, ValueError, RecursionError) as error:
        # Its text may quote the payload.
        raise HookError(f"the payload is not JSON ({type(error).__name__})") from None
    if len(encoded) > LARGEST:
        raise HookError(f"the payload is larger than {LARGEST} bytes")
    return encoded
