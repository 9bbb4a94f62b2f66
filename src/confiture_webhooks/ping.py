"""``confiture webhooks test``: a ping or a sample to each endpoint, through the real path."""

from __future__ import annotations

import re
from base64 import b64encode
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote, urlsplit

from .adapters import http_session  # noqa: F401  here, for an attempt's time would include it
from .adapters.http import HttpTransport
from .adapters.http_exchange import Exchange
from .config import Settings
from .delivery import State
from .endpoint import Endpoint
from .event import (
    FAILURES,
    OF_RUNS,
    SUBSCRIBABLE,
    Database,
    Direction,
    ErrorInfo,
    Event,
    EventType,
    MigrationRef,
    migration_row,
)
from .formats import deliveries_of
from .outbox.sqlite import InMemoryOutbox
from .run import TELEMETRY_BUDGET
from .run.migration import new_event_id
from .wiring import make_telemetry
from .worker import Worker

SHORTEST_SECRET = 4
SHORTEST_TOKEN = 16
SAMPLE = MigrationRef(version="000", slug="confiture_webhooks_test")


def sample(kind: EventType, settings: Settings, trace_id: str) -> Event:
    """An event of *kind* as a run would report it, about a migration that says what it is."""
    at = datetime.now(UTC)
    event = Event(
        id=new_event_id(),
        type=kind,
        occurred_at=at,
        trace_id=trace_id,
        environment=settings.environment,
        trace_url=settings.trace_link(trace_id),
        run_url=settings.run_url,
    )
    if kind is EventType.PING:
        return event
    is_started = kind is EventType.MIGRATION_STARTED
    row = migration_row(SAMPLE, Direction.UP, 0.0, is_success=kind not in FAILURES)
    return replace(
        event,
        direction=Direction.DOWN if "rollback" in kind else Direction.UP,
        database=Database(host="db.example", name="sample"),
        migration=None if kind in OF_RUNS else SAMPLE,
        migrations=[row] if kind in OF_RUNS else None,
        started_at=at,
        ended_at=None if is_started else at,
        duration_s=None if is_started else 0.0,
        error=ErrorInfo(type="Sample", message="a sample sent by confiture webhooks test")
        if kind in FAILURES
        else None,
    )


def ping(
    settings: Settings, name: str | None, kind: EventType = EventType.PING
) -> list[dict[str, Any]]:
    """Send a ping, or a sample of *kind*, to the endpoint called *name* or to all, as a run would.

    An endpoint gets it whatever it subscribes to. A result is as ``--format json`` has it, with
    ``answer``, the beginning of the last answer's body without our credentials, and ``exchange``,
    the last attempt's, if any. Neither is stored.
    """
    chosen = tuple(
        replace(e, events=SUBSCRIBABLE, environments=None, migrations=())
        for e in settings.endpoints
        if name is None or e.name == name
    )
    telemetry = make_telemetry(replace(settings, endpoints=chosen))
    outbox = InMemoryOutbox()
    ended: defaultdict[str, list[Exchange]] = defaultdict(list)
    transport = HttpTransport(lambda name, exchange: ended[name].append(exchange))
    patience = settings.flush_timeout
    telemetry.start_run("confiture webhooks test", test_for=patience)
    event = sample(kind, settings, telemetry.correlation_id)
    trace = telemetry.trace_of_run()
    outbox.release(event.id, deliveries_of(event, trace, chosen, report=telemetry.failed))
    place = settings.environment
    worker = Worker(chosen, outbox, transport, telemetry, environment=place, hold=patience)
    worker.start()
    worker.drain(patience)
    worker.stop()
    rows = {row.delivery.endpoint: row for row in outbox.deliveries()}
    results: list[dict[str, Any]] = []
    for endpoint in chosen:
        if (row := rows.get(endpoint.name)) is None:
            continue
        attempts, begun = outbox.attempts(row.delivery.id), ended[endpoint.name]
        exchanges = begun[: len(attempts)] or begun  # not one more, which the flush timeout cut
        last = attempts[-1] if attempts else None
        result = {
            "endpoint": endpoint.name,
            "delivered": row.state is State.DELIVERED,
            "status_code": last.status_code if last else None,
            "error_type": last.failure if last else "timeout",
            "attempts": len(attempts),
            "duration_ms": round(last.duration.total_seconds() * 1000, 1) if last else None,
            "trace_id": telemetry.correlation_id,
            "answer": _excerpt(exchanges, endpoint),
            "exchange": exchanges[-1] if exchanges else None,
        }
        results.append(result)
    error_type = next((one["error_type"] for one in results if not one["delivered"]), None)
    telemetry.end_run(applied=0, failed=0, error_type=error_type)
    telemetry.shutdown(TELEMETRY_BUDGET)
    transport.close()
    outbox.close()
    return results


def _excerpt(ended: Sequence[Exchange], endpoint: Endpoint) -> str:
    """The beginning of *endpoint*'s answer; a receiver that repeats our secrets is not repeated."""
    answers = [exchange.excerpt for exchange in ended if exchange.response is not None]
    text = " ".join(b"".join(answers[-1:]).decode(errors="replace").split())
    parts = urlsplit(endpoint.url)
    hidden = {*endpoint.secrets, *endpoint.headers.values(), endpoint.routing_key or ""}
    words = re.split("[/&= ]", " ".join([parts.path, parts.query, *endpoint.headers.values()]))
    # A part may be a token, and not a word such as ``hooks``.
    tokens = (one for one in words if len(one) >= SHORTEST_TOKEN or any(map(str.isdigit, one)))
    hidden |= {parts.path, parts.query, *tokens}
    if endpoint.basic_auth is not None:
        pair = ":".join(endpoint.basic_auth)
        hidden |= {*endpoint.basic_auth, pair, b64encode(pair.encode()).decode()}
    hidden |= {unquote(one) for one in hidden}
    for secret in sorted(hidden, key=len, reverse=True):
        if len(secret) >= SHORTEST_SECRET:
            text = text.replace(secret, "(hidden)")
    return text[:300]
