"""What a run gives its hooks, a context, and what they give it: deliveries of their own."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ..delivery import Delivery, TraceContext
from ..errors import HookError
from ..event import Direction, ErrorInfo, EventType, body
from ..formats import JSON
from ..hooks import HookContext, MigrationFailed
from .migration import Migration, new_event_id

if TYPE_CHECKING:
    from ..config import Settings
    from ..endpoint import Endpoint
    from ..telemetry import Telemetry
    from .hook_runner import HookRunner, Send
    from .outgoing import Outgoing

_ENDED = {Direction.UP: "post_execute", Direction.DOWN: "post_rollback"}
LARGEST = 1024 * 1024
"""Bytes of a payload, at most."""
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


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


class HookFeed:
    """Tells a run's hooks of its migrations, each event once. No method raises."""

    def __init__(
        self,
        settings: Settings,
        make: Callable[[Telemetry, Send], HookRunner],
        telemetry: Telemetry,
        outgoing: Outgoing,
    ) -> None:
        self._settings = settings
        self._telemetry = telemetry
        self._outgoing = outgoing
        self._told: set[tuple[str, str]] = set()
        self._runner: HookRunner | None = None
        with self._contained():
            runner = make(telemetry, self._send)
            runner.start()
            self._runner = runner

    def started(self, migration: Migration) -> None:
        """*migration* is about to run."""
        with self._contained():
            self._tell(started_context(migration, *self._where()), migration)

    def ended(self, migration: Migration, rows_affected: int | None) -> None:
        """*migration* committed or failed, and that is certain."""
        with self._contained():
            self._tell(ended_context(migration, *self._where(), rows_affected), migration)

    def drain(self, deadline: float) -> None:
        """Wait for the hooks until *deadline* (monotonic)."""
        with self._contained():
            if self._runner is not None:
                self._runner.drain(deadline)

    def stop(self) -> None:
        """Call no more of them."""
        with self._contained():
            if self._runner is not None:
                self._runner.stop()

    def _where(self) -> tuple[str | None, str]:
        return self._settings.environment, self._telemetry.correlation_id

    def _tell(self, context: HookContext, migration: Migration) -> None:
        told = (migration.event_id, context.event)
        if self._runner is not None and told not in self._told:
            self._told.add(told)
            self._runner.tell(context, migration.span.trace)

    def _send(
        self,
        payload: Mapping[str, Any],
        name: str | None,
        context: HookContext,
        trace: TraceContext,
    ) -> str:
        """Keep what a hook sends; its ``webhook-id``. Raises HookError, in the hook."""
        endpoint = chosen(self._settings.recorded, name)
        delivery = custom_delivery(payload, endpoint, context, trace)
        self._outgoing.release(delivery.event_id, [delivery])
        return delivery.event_id

    @contextmanager
    def _contained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001  a bug of ours costs hooks, not the migration
            self._telemetry.failed("telling hooks", error)
