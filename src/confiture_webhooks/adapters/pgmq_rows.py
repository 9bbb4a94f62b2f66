"""The PostgreSQL outbox's rows as values, and values as what its statements take."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, get_type_hints

from ..delivery import Attempt, Delivery, State, TraceContext
from ..event import Direction, EventType, MigrationRef
from ..outbox import Claim, Intent, Row


def text(value: str) -> str:
    """*value* with what no text of PostgreSQL's can hold escaped: NUL, and halves of pairs."""
    return value.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def intent_document(intent: Intent) -> str:
    """*intent* as JSON: every field it has, whatever they are."""
    return json.dumps(_plain(intent))


def intent(document: Mapping[str, Any]) -> Intent:
    """The intent that was stored as *document*, maybe by another version.

    What this version does not know is left out; what that one did not know is its default,
    else ``None``.
    """
    hints = get_type_hints(Intent)
    values: dict[str, Any] = {}
    for field in fields(Intent):
        if field.name in document:
            values[field.name] = _typed(hints[field.name], document[field.name])
        elif field.default is field.default_factory:  # both are missing: there is none
            values[field.name] = None
    return Intent(**values)


def _plain(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    return text(value) if isinstance(value, str) else value


def _typed(hint: Any, value: Any) -> Any:
    """*value* out of JSON as what *hint* says it was."""
    if value is None:
        return None
    kinds = {hint, *getattr(hint, "__args__", ())}
    if datetime in kinds:
        return datetime.fromisoformat(value)
    if Direction in kinds:
        return Direction(value)
    return MigrationRef(**value) if MigrationRef in kinds else value


def delivery_documents(deliveries: Sequence[Delivery]) -> str:
    """*deliveries* as the JSON array that ``confiture_webhooks.release`` takes."""
    return json.dumps([_document(one) for one in deliveries])


def _document(delivery: Delivery) -> dict[str, Any]:
    return {
        **{
            field.name: _plain(getattr(delivery, field.name))
            for field in fields(delivery)
            if field.name not in ("body", "trace", "event_id")
        },
        **_plain(delivery.trace),
        "body": base64.b64encode(delivery.body).decode(),
    }


def delivery(row: Mapping[str, Any]) -> Delivery:
    """The delivery in *row*."""
    return Delivery(
        id=row["id"],
        event_id=row["event_id"],
        event_type=EventType(row["event_type"]),
        endpoint=row["endpoint"],
        body=bytes(row["body"]),
        content_type=row["content_type"],
        trace=TraceContext(traceparent=row["traceparent"], tracestate=row["tracestate"]),
        correlation_id=row["correlation_id"],
        created_at=row["created_at"],
        migration_version=row["migration_version"],
        migration_name=row["migration_name"],
        environment=row["environment"],
    )


def claim(row: Mapping[str, Any]) -> Claim:
    """The claim of the delivery in *row*."""
    return Claim(
        delivery=delivery(row),
        token=row["token"],
        attempts=row["attempts"],
        tries=row["tries"],
    )


def standing(row: Mapping[str, Any]) -> Row:
    """The delivery in *row* and where it stands."""
    state = State(row["state"])
    return Row(
        delivery=delivery(row),
        state=state,
        attempts=row["attempts"],
        next_attempt_at=row["due_at"] if state is State.PENDING else None,
    )


def attempt_values(attempt: Attempt) -> dict[str, Any]:
    """*attempt* as named values of ``RECORD_…``."""
    return {field.name: getattr(attempt, field.name) for field in fields(attempt)}


def attempt(row: Mapping[str, Any]) -> Attempt:
    """The attempt in *row*."""
    duration: timedelta = row["duration"]
    return Attempt(
        number=row["number"],
        started_at=row["started_at"],
        duration=duration,
        status_code=row["status_code"],
        error_type=row["error_type"],
        retry_after=row["retry_after"],
    )
