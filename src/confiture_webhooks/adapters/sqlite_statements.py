"""The SQL of the SQLite outbox by name, and its rows as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from ..delivery import Attempt, Delivery, State, TraceContext
from ..event import Direction, EventType, MigrationRef
from ..outbox import Claim, Intent, Row

STAGE = """
    INSERT OR IGNORE INTO intents
    SELECT :event_id, :direction, :migration_version, :migration_slug, :environment,
           :ledger_table, :database_host, :database_port, :database_name, :database_schema,
           :database_identity, :timeline, :ledger_oid, :ledger_before, :ledger_read_at,
           :has_lock, :backend_pid, :backend_started_at,
           :traceparent, :tracestate, :correlation_id, :staged_at
    WHERE NOT EXISTS (SELECT 1 FROM released WHERE event_id = :event_id)
"""
INTENTS = "SELECT * FROM intents ORDER BY staged_at"
UNSTAGE = "DELETE FROM intents WHERE event_id = ?"
MARK_RELEASED = "INSERT OR IGNORE INTO released (event_id, released_at) VALUES (?, ?)"
ADD_DELIVERY = """
    INSERT INTO deliveries (id, event_id, event_type, endpoint, content_type, traceparent,
                            tracestate, correlation_id, created_at, migration_version,
                            migration_name, environment, due_at)
    VALUES (:id, :event_id, :event_type, :endpoint, :content_type, :traceparent,
            :tracestate, :correlation_id, :created_at, :migration_version,
            :migration_name, :environment, :created_at)
"""
ADD_BODY = "INSERT INTO bodies (seq, body) VALUES (?, ?)"

FIRST_READY = (
    "SELECT due_at FROM deliveries WHERE endpoint = ? AND environment IS ? AND is_ready = 1 "
    "ORDER BY seq LIMIT 1"
)
NEXT_WAITING = """
    SELECT wakes_at FROM deliveries
    WHERE endpoint = ? AND environment IS ? AND wakes_at IS NOT NULL
    ORDER BY wakes_at LIMIT 1
"""
MAKE_READY = """
    UPDATE deliveries SET is_ready = 1, wakes_at = NULL
    WHERE endpoint = ? AND environment IS ? AND wakes_at <= ?
"""
READY = """
    SELECT deliveries.*, body FROM deliveries JOIN bodies USING (seq)
    WHERE endpoint = ? AND environment IS ? AND is_ready = 1
    ORDER BY deliveries.seq LIMIT ?
"""
LEASE = """
    UPDATE deliveries SET state = 'in_flight', is_ready = 0, wakes_at = ?, token = ? WHERE seq = ?
"""
MOVE = """
    UPDATE deliveries
    SET state = :state, is_ready = 0, wakes_at = :next_attempt_at, token = NULL,
        due_at = coalesce(:next_attempt_at, due_at), finished_at = :finished_at,
        attempts = attempts + 1, tries = tries + 1
    WHERE seq = :seq AND token = :token
"""
ADD_ATTEMPT = "INSERT INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?)"
GIVE_BACK = """
    UPDATE deliveries SET state = 'pending', is_ready = 1, wakes_at = NULL, token = NULL
    WHERE seq = ? AND token = ?
"""
REDELIVER = """
    UPDATE deliveries
    SET state = 'pending', is_ready = 1, wakes_at = NULL, due_at = ?, tries = 0, finished_at = NULL
    WHERE id = ? AND state <> 'in_flight'
"""
DISCARD = """
    DELETE FROM deliveries WHERE id = ? AND (state <> 'in_flight' OR is_ready = 1 OR wakes_at <= ?)
"""

DISABLE = "INSERT OR IGNORE INTO endpoints_off VALUES (?, ifnull(?, ''), ?)"
ENABLE = "DELETE FROM endpoints_off WHERE endpoint = ? AND environment = ifnull(?, '')"
IS_OFF = "SELECT 1 FROM endpoints_off WHERE endpoint = ? AND environment = ifnull(?, '')"
DISABLED = """
    SELECT endpoint, since FROM endpoints_off WHERE environment = ifnull(?, '') ORDER BY endpoint
"""

NEWEST_SURPLUS = """
    SELECT finished_at, seq FROM deliveries WHERE state = 'delivered'
    ORDER BY finished_at DESC, seq DESC LIMIT 1 OFFSET ?
"""
PRUNE = """
    DELETE FROM deliveries WHERE seq IN (
        SELECT seq FROM deliveries WHERE state = 'delivered' AND (finished_at, seq) <= (?, ?)
        ORDER BY finished_at, seq LIMIT ?
    )
"""
FORGET_RELEASED = """
    DELETE FROM released WHERE event_id IN (
        SELECT event_id FROM released
        WHERE released_at < ?
          AND NOT EXISTS (SELECT 1 FROM deliveries WHERE event_id = released.event_id)
        LIMIT ?
    )
"""

LIST = """
    SELECT deliveries.*, body FROM deliveries JOIN bodies USING (seq)
    WHERE (:state IS NULL OR state = :state)
      AND (:endpoint IS NULL OR endpoint = :endpoint)
      AND (:event_type IS NULL OR event_type = :event_type)
      AND (:since IS NULL OR created_at >= :since)
    ORDER BY deliveries.seq DESC LIMIT :limit
"""
FIND = "SELECT deliveries.*, body FROM deliveries JOIN bodies USING (seq) WHERE id = ?"
ATTEMPTS = """
    SELECT attempts.* FROM attempts JOIN deliveries USING (seq) WHERE id = ? ORDER BY number
"""
TALLIES = """
    SELECT endpoint, nullif(environment, ''), state, count FROM tallies WHERE count > 0
"""
OLDEST_UNDELIVERED = """
    SELECT min(created_at) FROM deliveries WHERE finished_at IS NULL AND environment IS ?
"""

_MICROSECOND = timedelta(microseconds=1)


def stored(instant: datetime) -> str:
    """*instant* as UTC text of fixed width, so that its order is the text's."""
    return instant.astimezone(UTC).isoformat(timespec="microseconds")


def instant(text: str | None) -> datetime | None:
    """The instant that was stored as *text*."""
    return datetime.fromisoformat(text) if text else None


def where(endpoint: str, environment: str | None) -> tuple[Any, Any]:
    """An endpoint and its environment, as stored."""
    return _as_stored(endpoint), _as_stored(environment)


def intent_values(intent: Intent) -> dict[str, Any]:
    """*intent* as the named values of ``STAGE``."""
    values = asdict(intent)
    del values["migration"]
    return _storable(
        values
        | {"migration_version": intent.migration.version, "migration_slug": intent.migration.slug}
    )


def intent(row: Mapping[str, Any]) -> Intent:
    """The intent in *row*."""
    values = {key: row[key] for key in row.keys()}  # noqa: SIM118  a Row iterates over values
    return Intent(
        migration=MigrationRef(
            version=values.pop("migration_version"), slug=values.pop("migration_slug")
        ),
        direction=Direction(values.pop("direction")),
        has_lock=bool(values.pop("has_lock")),
        ledger_read_at=instant(values.pop("ledger_read_at")),
        backend_started_at=instant(values.pop("backend_started_at")),
        staged_at=datetime.fromisoformat(values.pop("staged_at")),
        **values,
    )


def delivery_values(delivery: Delivery) -> dict[str, Any]:
    """*delivery* as the named values of ``ADD_DELIVERY``."""
    values = asdict(delivery)
    values |= values.pop("trace")
    return _storable(values)


def delivery(row: Mapping[str, Any]) -> Delivery:
    """The delivery in *row*."""
    return Delivery(
        id=row["id"],
        event_id=row["event_id"],
        event_type=EventType(row["event_type"]),
        endpoint=row["endpoint"],
        body=row["body"],
        content_type=row["content_type"],
        trace=TraceContext(traceparent=row["traceparent"], tracestate=row["tracestate"]),
        correlation_id=row["correlation_id"],
        created_at=datetime.fromisoformat(row["created_at"]),
        migration_version=row["migration_version"],
        migration_name=row["migration_name"],
        environment=row["environment"],
    )


def claim(row: Mapping[str, Any], token: str) -> Claim:
    """The claim of the delivery in *row*."""
    return Claim(delivery=delivery(row), token=token, attempts=row["attempts"], tries=row["tries"])


def standing(row: Mapping[str, Any]) -> Row:
    """The delivery in *row* and where it stands."""
    state = State(row["state"])
    return Row(
        delivery=delivery(row),
        state=state,
        attempts=row["attempts"],
        next_attempt_at=instant(row["due_at"]) if state is State.PENDING else None,
    )


def attempt_values(seq: str, attempt: Attempt) -> Sequence[Any]:
    """*attempt* of the delivery *seq* as the values of ``ADD_ATTEMPT``."""
    return (
        seq,
        attempt.number,
        stored(attempt.started_at),
        attempt.duration // _MICROSECOND,
        attempt.status_code,
        attempt.error_type,
        None if attempt.retry_after is None else attempt.retry_after // _MICROSECOND,
    )


def attempt(row: Mapping[str, Any]) -> Attempt:
    """The attempt in *row*."""
    retry_after_us = row["retry_after_us"]
    return Attempt(
        number=row["number"],
        started_at=datetime.fromisoformat(row["started_at"]),
        duration=row["duration_us"] * _MICROSECOND,
        status_code=row["status_code"],
        error_type=row["error_type"],
        retry_after=None if retry_after_us is None else retry_after_us * _MICROSECOND,
    )


def _storable(values: Mapping[str, Any]) -> dict[str, Any]:
    """*values* with instants as text, and bytes that no UTF-8 can carry escaped."""
    return {key: _as_stored(value) for key, value in values.items()}


def _as_stored(value: object) -> object:
    if isinstance(value, datetime):
        return stored(value)
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return value
