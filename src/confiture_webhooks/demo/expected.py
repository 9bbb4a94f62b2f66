"""Everything that the demo must receive; the rest is named as missing."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ..event import EventType
from ..telemetry import names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .view import Seen

RUNS = ("confiture migrate up", "confiture migrate down")
EVENTS = {
    EventType.MIGRATION_SUCCESS: 2,
    EventType.MIGRATION_ERROR: 2,
    EventType.MIGRATION_ROLLBACK: 1,
}
LOGS = {
    names.LOG_APPLIED.event: 2,
    names.LOG_MIGRATION_FAILED.event: 2,
    names.LOG_ROLLED_BACK.event: 1,
    names.LOG_ATTEMPT_FAILED.event: 1,
    names.LOG_DELIVERED.event: 5,
}
METRICS = (
    names.DELIVERIES.name,
    names.DELIVERY_DURATION.name,
    names.DELIVERY_LAG.name,
    names.RETRIES.name,
    names.FAILURES.name,
    names.MIGRATION_DURATION.name,
    "http.client.request.duration",
)


def missing(seen: Seen) -> list[str]:
    """Everything the five migrations should have led to and that was not received."""
    return [
        *_missing_webhooks(seen),
        *_missing_settlement(seen),
        *_missing_telemetry(seen),
        *_loose_ends(seen),
    ]


def _missing_webhooks(seen: Seen) -> Iterator[str]:
    accepted = [request for request in seen.requests if request.answer.is_success]
    received = Counter(
        request.payload.get("event_type")
        for request in accepted
        if isinstance(request.payload, dict)
    )
    for event_type, count in EVENTS.items():
        if received[event_type.value] != count:
            yield f"{count} x {event_type.value} by webhook (received {received[event_type.value]})"
    refused = {r.headers.get("webhook-id") for r in seen.requests if not r.answer.is_success}
    if not refused or not refused <= {r.headers.get("webhook-id") for r in accepted}:
        yield "a webhook answered 503 and sent again with the same webhook-id"
    for request in seen.requests:
        if request.verified is not True:
            yield f"a valid signature of {request.headers.get('webhook-id', 'a request')}"


def _missing_settlement(seen: Seen) -> Iterator[str]:
    """The one webhook of the killed run, in the trace that the run was given."""
    received = [
        request.payload.get("error", {}).get("type")
        for request in seen.requests
        if isinstance(request.payload, dict) and request.payload.get("trace_id") == seen.killed
    ]
    if received != ["Interrupted"]:
        yield f"one migration_error of the killed run, Interrupted (received {received})"


def _missing_telemetry(seen: Seen) -> Iterator[str]:
    runs = [run.name for run in seen.runs]
    if runs != list(RUNS):
        yield f"the traces of {' and '.join(RUNS)} (received {', '.join(runs) or 'none'})"
    answers = [
        [attempt.attributes.get(names.HTTP_STATUS_CODE) for attempt in seen.attempts(delivery)]
        for delivery in seen.deliveries
    ]
    if sorted(answers) != [[200], [200], [200], [200], [503, 200]]:
        yield f"spans of five deliveries, one of them tried twice (received {answers})"
    logged = Counter(record.event_name for record in seen.logs)
    for event, count in LOGS.items():
        if logged[event] != count:
            yield f"{count} x log record {event} (received {logged[event]})"
    measured = {point.name for point in seen.points}
    yield from (f"metric {name}" for name in METRICS if name not in measured)


def _loose_ends(seen: Seen) -> Iterator[str]:
    """What was received but does not carry the id of a run everywhere it should."""
    ids = {seen.killed, *(run.trace_id for run in seen.runs)}
    for request in seen.requests:
        payload = request.payload if isinstance(request.payload, dict) else {}
        found = {request.headers.get("X-Correlation-ID"), payload.get("trace_id")}
        if len(found) != 1 or not found <= ids:
            yield f"the trace id of a run on {request.headers.get('webhook-id', 'a request')}"
    for record in seen.logs:
        found = {record.attributes.get("correlation_id"), record.trace_id}
        if len(found) != 1 or not found <= ids:
            yield f"the trace id of a run on the log record {record.event_name}"
