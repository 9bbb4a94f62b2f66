"""Events and their payload: the shape the contract shows, as bytes anyone can make again."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from confiture_webhooks.event import (
    DEFAULT_SUBSCRIPTION,
    SUBSCRIBABLE,
    Direction,
    ErrorInfo,
    Event,
    EventType,
    body,
    outcome_event,
    payload,
    rfc3339,
)
from samples import AT, ERROR, TRACE_ID, event

COMMON = {"database", "event_id", "event_type", "timestamp", "trace_id", "webhook_target"}
OF_MIGRATION = COMMON | {"direction", "migration"}
OF_OUTCOME = OF_MIGRATION | {"execution"}
OF_RUN = COMMON | {"environment", "execution", "migrations"}
ROWS = [{"version": "005", "name": "005_add_payment_table", "status": "success"}]

KEYS = {
    EventType.MIGRATION_SUCCESS: OF_OUTCOME,
    EventType.MIGRATION_ERROR: OF_OUTCOME | {"error"},
    EventType.MIGRATION_ROLLBACK: OF_OUTCOME,
    EventType.MIGRATION_ROLLBACK_ERROR: OF_OUTCOME | {"error"},
    EventType.MIGRATION_STARTED: OF_OUTCOME,
    EventType.RUN_SUCCESS: OF_RUN,
    EventType.RUN_ERROR: OF_RUN | {"error"},
    EventType.PING: COMMON | {"environment"},
}


def made(kind: EventType) -> Event:
    """An event of *kind* with the facts such an event has."""
    facts: dict[str, Any] = {"type": kind}
    if kind.value.endswith("error"):
        facts["error"] = ERROR
    if kind.value.startswith("run"):
        facts |= {"migration": None, "direction": None, "migrations": ROWS}
    if kind is EventType.PING:
        facts |= {"migration": None, "direction": None, "started_at": None}
    if "rollback" in kind.value:
        facts["direction"] = Direction.DOWN
    return event(**facts)


def test_the_payload_is_the_one_the_design_shows() -> None:
    """The event of the design's example makes exactly the design's example."""
    assert payload(event(), "analytics") == {
        "database": {"host": "db.production.internal", "name": "shop", "schema": "public"},
        "direction": "up",
        "event_id": "evt_1",
        "event_type": "migration_success",
        "execution": {
            "duration_seconds": 2.123,
            "end_time": "2026-01-09T14:23:45.123Z",
            "rows_affected": 50000,
            "start_time": "2026-01-09T14:23:43.000Z",
        },
        "migration": {
            "environment": "production",
            "name": "005_add_payment_table",
            "version": "005",
        },
        "timestamp": "2026-01-09T14:23:45.123Z",
        "trace_id": TRACE_ID,
        "webhook_target": "analytics",
    }


def test_every_kind_of_event_has_its_keys_in_the_table() -> None:
    """No kind of event is left out of the test below."""
    assert set(KEYS) == set(EventType) - {EventType.CUSTOM}


@pytest.mark.parametrize("kind", KEYS)
def test_a_kind_of_event_has_exactly_its_keys(kind: EventType) -> None:
    """A payload's top-level keys depend on the kind of event alone."""
    document = payload(made(kind), "analytics")
    assert set(document) == KEYS[kind]
    assert document["event_type"] == kind.value


def test_an_error_is_reported_without_its_sql() -> None:
    """The error's type, message and SQLSTATE are reported, its whole text is not."""
    document = payload(made(EventType.MIGRATION_ERROR), "analytics")
    assert document["error"] == {
        "type": "UndefinedTable",
        "message": 'relation "nosuch" does not exist',
        "sqlstate": "42P01",
    }


def test_include_sql_adds_the_whole_text() -> None:
    """An endpoint that asks for SQL gets the whole text as ``error.detail``."""
    document = payload(made(EventType.MIGRATION_ERROR), "analytics", include_sql=True)
    assert document["error"]["detail"] == ERROR.detail


def test_include_sql_adds_no_empty_key() -> None:
    """Without a whole text there is no ``detail``, asked for or not."""
    error = ErrorInfo(type="Interrupted", message="the run ended")
    document = payload(event(error=error), "analytics", include_sql=True)
    assert set(document["error"]) == {"type", "message", "sqlstate"}


def test_unknown_rows_are_null() -> None:
    """``rows_affected`` is there and ``null`` when nobody knows the sum."""
    document = payload(event(rows_affected=None), "analytics")
    assert document["execution"]["rows_affected"] is None


def test_a_started_migration_has_no_end_yet() -> None:
    """``end_time`` and ``duration_seconds`` are ``null`` until the migration has ended."""
    document = payload(event(ended_at=None, duration_s=None), "analytics")
    assert document["execution"]["end_time"] is None
    assert document["execution"]["duration_seconds"] is None


def test_a_migration_without_environment_says_null() -> None:
    """``migration.environment`` is there and ``null`` when there is no environment."""
    assert payload(event(environment=None), "a")["migration"]["environment"] is None


def test_a_ping_without_environment_has_no_such_key() -> None:
    """An event of no migration reports an environment only when there is one."""
    ping = event(
        type=EventType.PING, migration=None, direction=None, started_at=None, environment=None
    )
    assert "environment" not in payload(ping, "a")


def test_the_body_is_sorted_ascii_json() -> None:
    """The body is ASCII, with the keys of every level sorted and JSON's usual separators."""
    text = body({"b": {"z": 1, "a": "é"}, "a": [True, None]})
    assert text == b'{"a": [true, null], "b": {"a": "\\u00e9", "z": 1}}'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_json_is_refused(value: float) -> None:
    """NaN and infinity, which JSON does not have, make no body."""
    with pytest.raises(ValueError, match="JSON"):
        body({"value": value})


def test_text_that_is_not_utf8_arrives_escaped() -> None:
    """A name with bytes that are no UTF-8 is sent with those bytes escaped, not refused."""
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert json.loads(body({name: [name]})) == {"caf\\udce9": ["caf\\udce9"]}


def test_instants_are_utc_with_milliseconds() -> None:
    """Whatever its zone, an instant is written in UTC, cut to milliseconds."""
    tokyo = timezone(timedelta(hours=9))
    assert rfc3339(AT.astimezone(tokyo)) == "2026-01-09T14:23:45.123Z"
    assert rfc3339(datetime(2026, 1, 1, 9, tzinfo=tokyo)) == "2026-01-01T00:00:00.000Z"


@pytest.mark.parametrize(
    ("direction", "is_success", "kind"),
    [
        (Direction.UP, True, EventType.MIGRATION_SUCCESS),
        (Direction.UP, False, EventType.MIGRATION_ERROR),
        (Direction.DOWN, True, EventType.MIGRATION_ROLLBACK),
        (Direction.DOWN, False, EventType.MIGRATION_ROLLBACK_ERROR),
    ],
)
def test_each_way_to_end_has_its_event(
    direction: Direction, is_success: bool, kind: EventType
) -> None:
    """Direction and success together choose the event."""
    assert outcome_event(direction, is_success=is_success) is kind


def test_what_is_on_by_default_is_how_migrations_ended() -> None:
    """Without a choice an endpoint receives the four outcomes; a ping cannot be subscribed to."""
    assert {kind.value for kind in DEFAULT_SUBSCRIPTION} == {
        "migration_success",
        "migration_error",
        "migration_rollback",
        "migration_rollback_error",
    }
    assert set(EventType) - SUBSCRIBABLE == {EventType.PING, EventType.CUSTOM}


def test_an_error_never_shows_its_whole_text() -> None:
    """``repr`` of an error hides the text that may hold SQL and values."""
    assert "SELECT" not in repr(ERROR)
    assert "SELECT" not in repr(event(error=ERROR))
