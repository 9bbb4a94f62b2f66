"""What goes out of one run: its outbox, its worker and its transport, made on first use."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from .delivery import Delivery, TraceContext
from .endpoint import Endpoint
from .errors import OutboxError
from .event import Event, body, payload
from .outbox import Intent, Outbox
from .summary import OFF, leftover_line
from .worker import Worker

if TYPE_CHECKING:
    from .config import Settings
    from .hook_runner import HookRunner, Send
    from .telemetry import Telemetry
    from .transport import Transport

TELEMETRY_BUDGET = timedelta(seconds=2)
CONTENT_TYPE = "application/json"
KEPT_FOR = timedelta(days=30)
KEPT_DELIVERED = 10_000
"""Delivered deliveries are kept so long and so many, for operators to look at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a run is put together from; each is made on first use and at most once."""

    telemetry: Callable[[], Telemetry]
    outbox: Callable[[Telemetry], Outbox]
    spare_outbox: Callable[[], Outbox]
    """In memory, for when the configured one cannot be used."""
    transport: Callable[[], Transport]
    user_agent: str
    hooks: Callable[[Telemetry, Send], HookRunner] | None = None
    """What runs users' hooks; ``None``: there are none."""
    has_leftovers: Callable[[], bool] = lambda: False
    """Cheap: whether an earlier run may have left deliveries to make."""


class Outgoing:
    """Keeps and sends what one run has to tell. An outbox that breaks is replaced by memory."""

    def __init__(self, settings: Settings, parts: Parts, telemetry: Telemetry) -> None:
        self._settings = settings
        self._parts = parts
        self._telemetry = telemetry
        self._outbox: Outbox | None = None
        self._transport: Transport | None = None
        self._worker: Worker | None = None
        self._guard = threading.RLock()
        """Hooks send from threads of their own."""

    def stage(self, intent: Intent) -> None:
        """Remember an event whose outcome is not known yet."""
        if not self._settings.endpoints:
            return
        with self._guard:
            try:
                self._opened().stage(intent)
            except OutboxError as error:
                self._replace(error)

    def tell(self, event: Event, trace: TraceContext) -> None:
        """Release *event*: one delivery for each endpoint that wants it, on its way at once."""
        deliveries = [
            _delivery(event, endpoint, trace)
            for endpoint in self._settings.endpoints
            if endpoint.wants(event)
        ]
        self.release(event.id, deliveries)

    def release(self, event_id: str, deliveries: Sequence[Delivery]) -> None:
        """Keep *deliveries* in place of the intent *event_id*, and begin to make them."""
        if not self._settings.endpoints:
            return
        with self._guard:
            try:
                self._opened().release(event_id, deliveries)
            except OutboxError as error:
                self._replace(error).release(event_id, deliveries)
            if deliveries:
                self._working().wake()

    def flush(self, budget: timedelta) -> None:
        """Wait for what is due within *budget*, left-overs of earlier runs included."""
        if self._worker is None:
            if not self._settings.endpoints or not self._parts.has_leftovers():
                return
            self._working().wake()
        assert self._worker is not None
        self._worker.drain(budget)

    def stop(self) -> str | None:
        """End the worker; the line to read when something is left, else ``None``."""
        if self._worker is None or self._outbox is None:
            return None
        self._worker.stop()
        off = dict.fromkeys(self._outbox.disabled(), OFF)
        line = leftover_line(
            self._outbox.summary(),
            {**self._worker.failures(), **off},
            is_durable=self._outbox.is_durable,
        )
        self._outbox.prune(before=datetime.now(UTC) - KEPT_FOR, keep=KEPT_DELIVERED)
        return line

    def close(self) -> None:
        """Let go of connections and files."""
        with ExitStack() as last:
            for part in (self._outbox, self._transport):
                if part is not None:
                    last.callback(part.close)

    def _opened(self) -> Outbox:
        if self._outbox is None:
            try:
                self._outbox = self._parts.outbox(self._telemetry)
            except OutboxError as error:
                return self._replace(error)
            self._telemetry.observe_outbox(self._outbox.summary)
        return self._outbox

    def _replace(self, error: OutboxError) -> Outbox:
        """Go on in memory: what the broken outbox holds stays there for a later run."""
        self._telemetry.outbox_failed(str(error))
        worker, transport, outbox = self._worker, self._transport, self._outbox
        self._worker, self._transport = None, None
        self._outbox = self._parts.spare_outbox()
        with suppress(OutboxError), ExitStack() as last:
            for part in (outbox, transport):
                if part is not None:
                    last.callback(part.close)
            if worker is not None:
                worker.stop()
        self._telemetry.observe_outbox(self._outbox.summary)
        return self._outbox

    def _working(self) -> Worker:
        if self._worker is None:
            outbox = self._opened()
            self._transport = self._parts.transport()
            self._worker = Worker(
                self._settings.endpoints,
                outbox,
                self._transport,
                self._telemetry,
                user_agent=self._parts.user_agent,
                hold=self._settings.flush_timeout,
            )
            self._worker.start()
        return self._worker


def _delivery(event: Event, endpoint: Endpoint, trace: TraceContext) -> Delivery:
    document = payload(event, endpoint.name, include_sql=endpoint.include_sql)
    return Delivery(
        id=f"dlv_{uuid.uuid4().hex}",
        event_id=event.id,
        event_type=event.type,
        endpoint=endpoint.name,
        body=body(document),
        content_type=CONTENT_TYPE,
        trace=trace,
        correlation_id=event.trace_id,
        created_at=event.occurred_at,
        migration_version=event.migration.version if event.migration else None,
        migration_name=event.migration.name if event.migration else None,
        environment=event.environment,
    )
