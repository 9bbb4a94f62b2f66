"""Intents, deliveries and attempts for tests of an outbox, all of one instant."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from confiture_webhooks.delivery import Attempt, Decision, Delivery, Outcome, TraceContext
from confiture_webhooks.event import Direction, EventType, MigrationRef
from confiture_webhooks.outbox import Committed, Intent
from confiture_webhooks.outbox.sqlite import SqliteOutbox

NOW = datetime(2020, 1, 9, 14, 23, 45, 123456, tzinfo=UTC)
A_SECOND = timedelta(seconds=1)
LEASE = timedelta(seconds=40)
TRACEPARENT = f"00-{'a' * 32}-{'b' * 16}-01"

DELIVERED = Decision(outcome=Outcome.DELIVERED)
DEAD = Decision(outcome=Outcome.DEAD_LETTER)
GONE = Decision(outcome=Outcome.GONE)


def retry(at: datetime) -> Decision:
    """The decision to try again at *at*."""
    return Decision(outcome=Outcome.RETRY, next_attempt_at=at)


def event_id(number: int) -> str:
    """The id of event *number*."""
    return f"evt_{number}"


def delivery(
    number: int,
    endpoint: str = "a",
    *,
    event_type: EventType = EventType.MIGRATION_SUCCESS,
    created_at: datetime = NOW,
    environment: str | None = "production",
) -> Delivery:
    """Event *number* for *endpoint*, its id ``dlv_<endpoint>_<number>``."""
    return Delivery(
        id=f"dlv_{endpoint}_{number}",
        event_id=event_id(number),
        event_type=event_type,
        endpoint=endpoint,
        body=b'{"n": %d, "text": "\xc3\xa9\x00"}' % number,
        content_type="application/json",
        trace=TraceContext(traceparent=TRACEPARENT, tracestate="vendor=1"),
        correlation_id="a" * 32,
        created_at=created_at,
        migration_version=f"{number:03}",
        migration_name=f"{number:03}_add_café",
        environment=environment,
    )


def intent(number: int, *, staged_at: datetime = NOW) -> Intent:
    """The intent of event *number*."""
    return Intent(
        event_id=event_id(number),
        direction=Direction.DOWN,
        migration=MigrationRef(version=f"{number:03}", slug="add_café"),
        environment=None,
        ledger_table="public.tb_confiture",
        database_host="db.internal",
        database_port=5432,
        database_name="shop",
        database_schema="public",
        database_identity="7582/16384",
        timeline=1,
        ledger_oid=16400,
        ledger_before="",
        ledger_read_at=NOW - timedelta(seconds=1),
        has_lock=True,
        backend_pid=4711,
        backend_started_at=NOW - timedelta(minutes=3),
        traceparent=TRACEPARENT,
        tracestate=None,
        correlation_id="a" * 32,
        staged_at=staged_at,
        command="confiture migrate down",
        run_url="https://ci.example/1",
        trace_url="https://traces.example/1",
    )


def committed(number: int) -> Intent:
    """The same with the end that its migration's transaction has recorded, and that span's trace."""
    return replace(
        intent(number),
        traceparent=TRACEPARENT.replace("-b", "-c"),
        committed=Committed(
            started_at=NOW - timedelta(seconds=1), ended_at=NOW, duration_s=1.5, rows_affected=7
        ),
    )


def attempt(
    number: int = 1, *, at: datetime = NOW, status_code: int | None = 200, **fields: object
) -> Attempt:
    """Attempt *number*, begun at *at* and over at once."""
    return Attempt(
        number=number,
        started_at=at,
        duration=timedelta(),
        status_code=status_code,
        **fields,  # type: ignore[arg-type]
    )


def filled(path: Path, count: int = 1) -> None:
    """Make a SQLite outbox at *path* that holds *count* deliveries."""
    with closing(SqliteOutbox(path)) as outbox:
        for number in range(count):
            outbox.release(event_id(number), [delivery(number)])
