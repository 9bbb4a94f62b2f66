"""``confiture webhooks test``: one ping to each endpoint, through the real path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from .adapters.memory import InMemoryOutbox
from .delivery import Attempt, State
from .event import Database, Event, EventType
from .run.migration import new_event_id
from .run.outgoing import TELEMETRY_BUDGET, Outgoing
from .wiring import command_telemetry, make_transport, parts

if TYPE_CHECKING:
    from .config import Settings

COMMAND = "confiture webhooks test"


@dataclass(frozen=True, slots=True, kw_only=True)
class PingResult:
    """How the ping to one endpoint went."""

    endpoint: str
    state: State
    attempts: tuple[Attempt, ...]
    correlation_id: str

    @property
    def is_delivered(self) -> bool:
        """Whether the receiver accepted it."""
        return self.state is State.DELIVERED

    def as_dict(self) -> dict[str, object]:
        """The result as ``--format json`` prints it; durations in milliseconds."""
        last = self.attempts[-1] if self.attempts else None
        return {
            "endpoint": self.endpoint,
            "delivered": self.is_delivered,
            "status_code": last.status_code if last else None,
            # Without an attempt that ended, ours was cut at the flush timeout.
            "error_type": last.failure if last else "timeout",
            "attempts": len(self.attempts),
            "duration_ms": round(last.duration.total_seconds() * 1000, 1) if last else None,
            "trace_id": self.correlation_id,
        }


def ping(settings: Settings, environ: Mapping[str, str], name: str | None) -> list[PingResult]:
    """Tell a ``ping`` to the endpoint called *name*, or to all, and wait as a run would."""
    chosen = tuple(e for e in settings.endpoints if name is None or e.name == name)
    narrowed = replace(settings, endpoints=chosen)
    telemetry = command_telemetry(narrowed, environ)
    outbox = InMemoryOutbox()
    made = replace(
        parts(narrowed, environ, lambda: telemetry),
        outbox=lambda _: outbox,
        transport=make_transport,
    )
    telemetry.start_run(COMMAND, Database())
    outgoing = Outgoing(narrowed, made, telemetry)
    now = datetime.now(UTC)
    event = Event(
        id=new_event_id(),
        type=EventType.PING,
        occurred_at=now,
        trace_id=telemetry.correlation_id,
        environment=settings.environment,
    )
    outgoing.tell(event, telemetry.trace_of_run())
    outgoing.flush(settings.flush_timeout)
    outgoing.stop()
    results = [
        PingResult(
            endpoint=row.delivery.endpoint,
            state=row.state,
            attempts=tuple(outbox.attempts(row.delivery.id)),
            correlation_id=telemetry.correlation_id,
        )
        for row in outbox.deliveries()
    ]
    failed = [result for result in results if not result.is_delivered]
    last = failed[0].attempts[-1].failure if failed and failed[0].attempts else None
    telemetry.end_run(applied=0, failed=0, error_type=(last or "timeout") if failed else None)
    telemetry.shutdown(TELEMETRY_BUDGET)
    outgoing.close()
    return sorted(results, key=lambda result: [e.name for e in chosen].index(result.endpoint))
