"""A log event as one short line for people: what is known of it, and nothing twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

HIDDEN: Final = frozenset(
    {
        "correlation_id",
        "delivery_id",
        "direction",
        "environment",
        "event_id",
        "event_type",
        "lag_ms",
        "migration_version",
        "span_id",
    }
)
"""Told in words by others, or of use to programs only: they read the JSON form."""
_WORDS: Final = MappingProxyType(
    {
        "status_code": "{}",
        "error_type": "{}",
        "sqlstate": "{}",
        "attempt": "attempt {}",
        "attempts": "attempts: {}",
        "duration_ms": "{} ms",
        "retry_in_s": "again in {} s",
        "next_attempt_at": "next attempt {}",
        "rows_affected": "rows: {}",
        "hook": "{}",
        "where": "in {}",
        "file": "file {}",
        "line": "line {}",
        "faults": "{}",
        "reason": "{}",
        "budget_s": "within {} s",
        "lost": "lost: {}",
        "lost_spans": "spans: {}",
        "lost_metric_points": "metric points: {}",
        "lost_log_records": "log records: {}",
    }
)
SHOWN: Final = frozenset(_WORDS) | {"migration_name", "endpoint"}
_COLORS: Final = {"debug": "2", "info": "32", "warning": "33", "error": "31"}
_TRACE_DIGITS = 8


def line(event: Mapping[str, Any], *, colors: bool) -> str:
    """``14:23:45Z warning webhook.deferred 005_a to ops: 503, attempts: 2 (trace 4bf92f35)``."""
    level = str(event["level"])
    shown = f"\x1b[{_COLORS.get(level, '0')}m{level}\x1b[0m" if colors else level
    about = " ".join(_about(event))
    known = ", ".join(dict.fromkeys(_known(event)))
    told = ": ".join(part for part in (about, known) if part)
    moment = f"{event['timestamp'][11:19]}Z"
    trace = event["trace_id"][:_TRACE_DIGITS]
    return f"{moment} {shown} {event['event']} {_printable(told)} (trace {trace})"


def _about(event: Mapping[str, Any]) -> Iterator[str]:
    if subject := event.get("migration_name") or event.get("event_type"):
        yield str(subject)
    if endpoint := event.get("endpoint"):
        yield f"to {endpoint}"


def _known(event: Mapping[str, Any]) -> Iterator[str]:
    for name, words in _WORDS.items():
        value = event.get(name)
        if isinstance(value, list):
            value = "; ".join(map(str, value))
        if value is not None:
            yield words.format(value)


def _printable(text: str) -> str:
    """*text* without what would move a terminal's cursor or colour it."""
    return "".join(char if char.isprintable() else "?" for char in text)
