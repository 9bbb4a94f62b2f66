"""Log lines for people: short, without what is not known, and harmless to a terminal."""

from __future__ import annotations

import pytest

from confiture_webhooks.telemetry import names
from confiture_webhooks.telemetry.console import HIDDEN, SHOWN, line

COMMON = {
    "timestamp": "2026-01-09T14:23:45.123Z",
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "span_id": "00f067aa0ba902b7",
    "correlation_id": "4bf92f3577b34da6a3ce929d0e0e4736",
}


def test_a_failed_attempt() -> None:
    """The migration, the endpoint, the answer once, which attempt, how long, when again."""
    event = {
        **COMMON,
        "level": "warning",
        "event": "webhook.attempt_failed",
        "endpoint": "analytics",
        "event_type": "migration_success",
        "event_id": "evt_1",
        "delivery_id": "dlv_1",
        "migration_version": "005",
        "migration_name": "005_add_payment_table",
        "environment": None,
        "attempt": 1,
        "status_code": 503,
        "error_type": "503",
        "duration_ms": 12.5,
        "retry_in_s": 2,
    }
    assert line(event, colors=False) == (
        "14:23:45Z warning webhook.attempt_failed 005_add_payment_table to analytics: "
        "503, attempt 1, 12.5 ms, again in 2 s (trace 4bf92f35)"
    )
    assert "\x1b[33mwarning\x1b[0m" in line(event, colors=True)


@pytest.mark.parametrize("spec", names.LOG_EVENTS, ids=lambda spec: spec.event)
def test_what_is_not_known_is_not_said(spec: names.LogSpec) -> None:
    """Of an event without a single fact its name, level and trace are told."""
    event = {**COMMON, "level": spec.level, "event": spec.event, **dict.fromkeys(spec.fields)}
    told = line(event, colors=False).split()
    assert told == ["14:23:45Z", spec.level, spec.event, "(trace", "4bf92f35)"]


def test_every_field_is_shown_or_left_out_on_purpose() -> None:
    """A new field of a log event has to be placed."""
    fields = {field for spec in names.LOG_EVENTS for field in spec.fields}
    assert fields - HIDDEN == SHOWN


def test_a_line_is_one_line() -> None:
    """A name with a line break or an escape sequence stays in its line and changes no colour."""
    event = {
        **COMMON,
        "level": "error",
        "event": "webhooks.config_invalid",
        "faults": ["a: is\nbad", "b: \x1b[31mred"],
    }
    shown = line(event, colors=False)
    assert shown.endswith("a: is?bad; b: ?[31mred (trace 4bf92f35)")
    assert len(shown.splitlines()) == 1
