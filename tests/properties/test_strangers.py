"""What strangers send and stores give back is read or refused, whatever it is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confiture_webhooks.adapters.http_exchange import LONGEST_RETRY_AFTER, retry_after
from confiture_webhooks.outbox import Intent, UnreadableIntent, rows
from confiture_webhooks.receiver import collector as otlp
from confiture_webhooks.terminal import printable
from confiture_webhooks.transport import header_text

NOW = datetime(2026, 1, 9, 14, 23, 45, tzinfo=UTC)
COLUMNS = (
    *("id", "event_id", "event_type", "endpoint", "body", "content_type", "traceparent", "state"),
    *("tracestate", "correlation_id", "created_at", "migration_version", "migration_name", "seq"),
    *(
        "environment",
        "attempts",
        "tries",
        "due_at",
        "wakes_at",
        "is_ready",
        "last_number",
        "last_started_at",
    ),
    *("last_duration", "last_status_code", "last_error_type", "last_retry_after"),
)
VALUES = st.none() | st.integers() | st.floats() | st.text() | st.binary()
DATES = st.datetimes().map(lambda at: at.strftime("%a, %d %b %Y %H:%M:%S GMT"))


@pytest.mark.survived("A Retry-After of any text", "kept")
@given(st.text() | st.integers().map(str) | DATES | st.floats().map(str))
def test_any_retry_after_is_a_bounded_wait_or_none(text: str) -> None:
    """It is never negative, never beyond a bound, and never an error."""
    wait = retry_after(text, NOW)
    assert wait is None or timedelta(0) <= wait <= LONGEST_RETRY_AFTER


@pytest.mark.survived("Any text in a header or on a terminal", "private")
@given(st.text())
def test_any_text_is_a_header(text: str) -> None:
    """It is printable ASCII on one line."""
    made = header_text(text)
    assert made.isascii()
    assert made.isprintable() or not made


@pytest.mark.survived("Any text in a header or on a terminal", "private")
@given(st.text() | st.binary())
def test_any_text_is_shown_on_one_line(text: object) -> None:
    """Nothing in it moves, colours or reverses a terminal."""
    assert printable(text).isprintable()


@pytest.mark.survived("Rows of a delivery or an intent that cannot be read", "kept", "said")
@given(st.fixed_dictionaries(dict.fromkeys(COLUMNS, VALUES)))
def test_any_row_of_a_delivery_can_be_claimed_and_listed(row: dict[str, Any]) -> None:
    """One that cannot be read says why, and stands where it stands."""
    claim, listed = rows.claim(row, "token"), rows.row_of(row)
    assert claim.delivery.id == listed.delivery.id
    assert claim.attempts >= 0
    assert claim.tries >= 0


@pytest.mark.survived("Rows of a delivery or an intent that cannot be read", "kept", "said")
@given(st.fixed_dictionaries({"intent": VALUES, "event_id": VALUES, "environment": VALUES}))
def test_any_row_of_an_intent_is_an_intent_or_unreadable(row: dict[str, Any]) -> None:
    """Nothing a store gives back stops the others from being settled."""
    assert isinstance(rows.intent(row), Intent | UnreadableIntent)


@pytest.mark.survived("Any bytes in place of OTLP", "unharmed")
@pytest.mark.parametrize("read", [otlp.spans, otlp.metric_points, otlp.log_records])
@given(content=st.binary(max_size=300))
def test_any_bytes_are_otlp_or_refused(read: Any, content: bytes) -> None:
    """A collector of ours refuses what it cannot read, and goes on."""
    try:
        found = read(content)
    except ValueError:
        return
    assert isinstance(found, list)
