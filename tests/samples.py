"""Values that tests of several modules start from."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from confiture_webhooks.delivery import Attempt, Delivery, TraceContext
from confiture_webhooks.endpoint import Endpoint
from confiture_webhooks.event import (
    Database,
    Direction,
    ErrorInfo,
    Event,
    EventType,
    MigrationRef,
)

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
AT = datetime(2026, 1, 9, 14, 23, 45, 123456, tzinfo=UTC)
REF = MigrationRef(version="005", slug="add_payment_table")
DATABASE = Database(host="db.production.internal", port=5432, name="shop", schema="public")
ERROR = ErrorInfo(
    type="UndefinedTable",
    message='relation "nosuch" does not exist',
    sqlstate="42P01",
    detail="SQL: SELECT * FROM nosuch",
)
TRACE = TraceContext(traceparent=f"00-{TRACE_ID}-00f067aa0ba902b7-01")

_EVENT = Event(
    id="evt_1",
    type=EventType.MIGRATION_SUCCESS,
    occurred_at=AT,
    trace_id=TRACE_ID,
    environment="production",
    database=DATABASE,
    direction=Direction.UP,
    migration=REF,
    started_at=AT - timedelta(seconds=2.123),
    ended_at=AT,
    duration_s=2.123,
    rows_affected=50000,
)
_DELIVERY = Delivery(
    id="dlv_1",
    event_id="evt_1",
    event_type=EventType.MIGRATION_SUCCESS,
    endpoint="analytics",
    body=b'{"event_id": "evt_1"}',
    content_type="application/json",
    trace=TRACE,
    correlation_id=TRACE_ID,
    created_at=AT,
    migration_version="005",
    migration_name="005_add_payment_table",
    environment="production",
)
_ENDPOINT = Endpoint(name="analytics", url="https://analytics.invalid/hooks/a?key=b")


def event(**changes: Any) -> Event:
    """The event of the design's example payload, with *changes*."""
    return replace(_EVENT, **changes)


def delivery(**changes: Any) -> Delivery:
    """A delivery of that event, with *changes*."""
    return replace(_DELIVERY, **changes)


def endpoint(**changes: Any) -> Endpoint:
    """An endpoint, with *changes*."""
    return replace(_ENDPOINT, **changes)


def attempt(number: int = 1, **facts: Any) -> Attempt:
    """An attempt that took a tenth of a second."""
    return Attempt(number=number, started_at=AT, duration=timedelta(milliseconds=100), **facts)
