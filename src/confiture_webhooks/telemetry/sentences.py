"""A log event as one sentence for people, without what is not known."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from ..terminal import counted, printable

HIDDEN: Final = frozenset(
    {
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
)
"""In the sentence in other words, or of use to programs only: they read the JSON form."""
_ATTEMPTED: Final = "|: {error_type}|, {attempts}|, {duration_ms}"
_MIGRATED: Final = "| in {duration_ms}|, {rows_affected}"
_WHERE: Final = "|: {error_type}|, {reason}|, file {file}|, line {line}"
SENTENCES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "webhook.delivered": "{subject} |delivered| to {endpoint}| in {duration_ms}|, {attempts}",
        "webhook.attempt_failed": "{subject} |not accepted| by {endpoint}|: {error_type}|, {reason}"
        "|, attempt {attempt}|, {duration_ms}|, again in {retry_in_s} s",
        "webhook.deferred": "{subject} |deferred| for {endpoint}"
        f"{_ATTEMPTED}|, next attempt {{next_attempt_at}}",
        "webhook.dead_lettered": f"{{subject}} |given up| for {{endpoint}}{_ATTEMPTED}",
        "webhook.endpoint_gone": f"{{subject}} |refused for good| by {{endpoint}}{_ATTEMPTED}",
        "hook.failed": f"hook |{{hook}} |failed{_WHERE}",
        "migration.applied": f"{{subject}} |applied{_MIGRATED}",
        "migration.rolled_back": f"{{subject}} |rolled back{_MIGRATED}",
        "migration.failed": "{subject} |failed| after {duration_ms}|: {error_type}"
        "|, {rows_affected}",
        "run.failed": "{command} |failed| on {database}|: {error_type}"
        "|, {migrations_applied} applied",
        "webhooks.intent_discarded": "{subject} |ended unknown|: {reason}",
        "webhooks.config_invalid": "wrong configuration|: {faults}",
        "webhooks.outbox_failed": "outbox failed|: {reason}",
        "webhooks.failed": f"internal fault| in {{where}}{_WHERE}",
        "telemetry.flush_incomplete": "telemetry lost|: {lost}|, {lost_spans}"
        "|, {lost_metric_points}|, {lost_log_records}|, within {budget_s} s|: {reason}",
    }
)
"""By event; a part between bars is left out when its field is not known."""
_COUNTED: Final = MappingProxyType(
    {
        "attempts": ("attempt", "attempts"),
        "rows_affected": ("row", "rows"),
        "migrations_applied": ("migration", "migrations"),
        "lost": ("item", "items"),
        "lost_spans": ("span", "spans"),
        "lost_metric_points": ("metric point", "metric points"),
        "lost_log_records": ("log record", "log records"),
    }
)
_FIELD: Final = re.compile(r"{(\w+)}")
_COLORS: Final = {"debug": "2", "info": "32", "warning": "33", "error": "31"}
_TRACE_DIGITS: Final = 8
_EXACT_BELOW_MS: Final = 10


def sentence(name: str, fields: Mapping[str, Any]) -> str:
    """``005_add_payment_table applied in 12 ms, 7 rows``, of the event *name*, on one line."""
    subject = fields.get("migration_name") or fields.get("event_type")
    known = {**fields, "subject": subject}
    parts = (_filled(part, known) for part in SENTENCES[name].split("|"))
    return printable("".join(parts))


def line(event: Mapping[str, Any], *, colors: bool) -> str:
    """``14:23:45Z warning webhook.deferred: 005_a deferred for ops: 503 (trace 4bf92f35)``."""
    level = str(event["level"])
    shown = f"\x1b[{_COLORS.get(level, '0')}m{level}\x1b[0m" if colors else level
    moment = f"{event['timestamp'][11:19]}Z"
    trace = event["trace_id"][:_TRACE_DIGITS]
    name = event["event"]
    return f"{moment} {shown} {name}: {sentence(name, event)} (trace {trace})"


def _filled(part: str, known: Mapping[str, Any]) -> str:
    """*part* with its field; nothing when that is not known."""
    field = _FIELD.search(part)
    if field is None:
        return part
    name = field.group(1)
    value = known.get(name)
    return "" if value is None else part.replace(field.group(), _shown(name, value))


def _shown(name: str, value: Any) -> str:
    if name in _COUNTED and isinstance(value, int):
        return counted(value, *_COUNTED[name])
    if name == "duration_ms":
        return f"{value:.0f} ms" if value >= _EXACT_BELOW_MS else f"{value:g} ms"
    if isinstance(value, list | tuple):
        return "; ".join(map(str, value))
    return str(value)
