"""Log events for people: one sentence, without what is not known, and harmless to a terminal."""

from __future__ import annotations

import re

import pytest

from confiture_webhooks.telemetry import names
from confiture_webhooks.telemetry.logs import line, sentence

HIDDEN = {
    "correlation_id",
    "database",
    "delivery_id",
    "direction",
    "environment",
    "event_id",
    "event_type",
    "lag_ms",
    "migration_name",
    "migration_version",
    "span_id",
    "sqlstate",
    "status_code",
}
"""In the sentence in other words, or of use to programs only: they read the JSON form."""

COMMON = {
    "timestamp": "2026-01-09T14:23:45.123Z",
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "span_id": "00f067aa0ba902b7",
    "correlation_id": "4bf92f3577b34da6a3ce929d0e0e4736",
}
DELIVERY = {
    "endpoint": "analytics",
    "event_type": "migration_success",
    "event_id": "evt_1",
    "delivery_id": "dlv_1",
    "migration_version": "005",
    "migration_name": "005_add_payment_table",
    "environment": None,
}


def test_a_failed_attempt() -> None:
    """The migration, the endpoint, the answer once, which attempt, how long, when again."""
    event = {
        **COMMON,
        **DELIVERY,
        "level": "warning",
        "event": "webhook.attempt_failed",
        "attempt": 1,
        "status_code": 503,
        "error_type": "503",
        "duration_ms": 12.5,
        "retry_in_s": 2.0,
    }
    assert line(event, colors=False) == (
        "14:23:45Z warning webhook.attempt_failed: 005_add_payment_table not accepted by "
        "analytics: 503, attempt 1, 12 ms, due again in 2 s (trace 4bf92f35)"
    )
    assert "\x1b[33mwarning\x1b[0m" in line(event, colors=True)


@pytest.mark.parametrize(
    ("name", "fields", "shown"),
    [
        (
            "migration.applied",
            {"migration_name": "001_create_users", "duration_ms": 12.4, "rows_affected": 7},
            "001_create_users applied in 12 ms, 7 rows",
        ),
        (
            "migration.failed",
            {"migration_name": "001_a", "duration_ms": 0.25, "error_type": "42P01"},
            "001_a failed after 0.25 ms: 42P01",
        ),
        (
            "webhook.delivered",
            {**DELIVERY, "attempts": 1, "duration_ms": 1234.5},
            "005_add_payment_table delivered to analytics in 1234 ms, 1 attempt",
        ),
        (
            "webhook.dead_lettered",
            {"event_type": "run_error", "endpoint": "ops", "error_type": "dns", "attempts": 7},
            "run_error given up for ops: dns, 7 attempts",
        ),
        (
            "run.failed",
            {
                "command": "migrate up",
                "database": "shop",
                "error_type": "ChecksumError",
                "migrations_applied": 1,
            },
            "migrate up failed on shop: ChecksumError, 1 migration applied",
        ),
        (
            "run.failed",
            {"command": "migrate up", "database": "shop", "error_type": "Interrupted"},
            "migrate up failed on shop: Interrupted (that run was killed, or lost its database)",
        ),
        (
            "telemetry.flush_incomplete",
            dict(zip(("lost", *names.LOST), (27, 4, 20, 3), strict=True)),
            "telemetry lost: 27 items (4 spans, 20 metric points, 3 log records)",
        ),
        (
            "webhooks.config_invalid",
            {"faults": ["a: is wrong", "b: is worse"]},
            "wrong configuration: a: is wrong; b: is worse",
        ),
    ],
)
def test_sentences(name: str, fields: dict[str, object], shown: str) -> None:
    """Subject and verb, then the facts that are known."""
    assert sentence(name, fields) == shown


@pytest.mark.parametrize("spec", names.LOG_EVENTS, ids=lambda spec: spec.event)
def test_what_is_not_known_is_not_said(spec: names.LogSpec) -> None:
    """Of an event without a single fact its verb is left."""
    said = sentence(spec.event, dict.fromkeys(spec.fields))
    assert re.fullmatch(r"[a-z]+( [a-z]+)*", said), said


@pytest.mark.parametrize("spec", names.LOG_EVENTS, ids=lambda spec: spec.event)
def test_every_field_is_shown_or_left_out_on_purpose(spec: names.LogSpec) -> None:
    """A new field of a log event has to be placed."""
    placed = set(re.findall(r"{(\w+)}", spec.sentence))
    assert set(spec.fields) - HIDDEN <= placed


def test_a_line_is_one_line() -> None:
    """A name with a line break or an escape sequence stays in its line and changes no colour."""
    event = {
        **COMMON,
        "level": "error",
        "event": "webhooks.config_invalid",
        "faults": ["a: is\nbad", "b: \x1b[31mred"],
    }
    shown = line(event, colors=False)
    assert shown.endswith(r"a: is\nbad; b: \x1b[31mred (trace 4bf92f35)")
    assert len(shown.splitlines()) == 1
