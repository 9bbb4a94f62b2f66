"""Log events: a JSON line or a sentence on standard error or in ``logging``, and an OTLP record."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from json import dumps
from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, Literal

from opentelemetry.trace import SpanContext, format_span_id, format_trace_id

from .. import terminal
from ..event import encodable, rfc3339
from . import names
from .context import around
from .names import COMMON_FIELDS, LogSpec

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from opentelemetry._logs import LoggerProvider

Form = Literal["json", "console", "off"]
Records = Callable[[LogSpec, Mapping[str, object], SpanContext], None]
"""Takes log events, their fields encodable, as records that belong to a span."""
_LIBRARY = logging.getLogger("confiture_webhooks")
"""``attach()`` writes to it. Without a handler of its owner's it is silent."""
_LIBRARY.addHandler(logging.NullHandler())
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_COLORS = {"info": "32", "warning": "33", "error": "31"}
_COUNTED = {
    "attempts": ("attempt", "attempts"),
    "rows_affected": ("row", "rows"),
    "migrations_applied": ("migration", "migrations"),
    "lost": ("item", "items"),
    "lost_spans": ("span", "spans"),
    "lost_metric_points": ("metric point", "metric points"),
    "lost_log_records": ("log record", "log records"),
}
_FIELD = re.compile(r"{(\w+)}")
_SENTENCES: Final = MappingProxyType(
    {
        one.event: [_FIELD.split(part) for part in one.sentence.split("|")]
        for one in names.LOG_EVENTS
    }
)
"""Each part of a sentence: its text, or the text around a field and the field between."""
_TRACE_DIGITS = 8
_EXACT_BELOW_MS = 10


@dataclass(kw_only=True, eq=False, repr=False)
class Logs:
    """Writes log events, each with the ids of the span it belongs to."""

    form: Form | None
    level: str | None
    records: Records | None
    now: Callable[[], datetime]
    is_library: bool
    _logger: Any = None

    def __post_init__(self) -> None:
        is_on_terminal = self.form is None and terminal.is_terminal()
        self._is_for_people = (self.form == "console" or is_on_terminal) and not self.is_library
        given = _LEVELS.get(self.level.strip().lower()) if self.level is not None else None
        self._least_recorded = given or logging.INFO
        self._least_shown = given or (logging.WARNING if self._is_for_people else logging.INFO)
        if self.is_library:
            self._least_shown = 0  # its owner's logging decides

    def emit(self, spec: LogSpec, context: SpanContext, fields: Mapping[str, object]) -> None:
        """Write event *spec*; *fields* that are left out are null, unknown ones are dropped."""
        severity = _LEVELS[spec.level]
        is_said = fields.get("is_said") and self._is_for_people
        is_shown = self.form != "off" and severity >= self._least_shown and not is_said
        records = self.records if severity >= self._least_recorded else None
        if records is None and not is_shown:
            return
        known = {name: encodable(fields.get(name)) for name in ("correlation_id", *spec.fields)}
        if is_shown:
            self._show(spec, context, known)
        if records is not None:
            records(spec, known, context)

    def _show(self, spec: LogSpec, context: SpanContext, known: dict[str, object]) -> None:
        ids = {
            "trace_id": format_trace_id(context.trace_id),
            "span_id": format_span_id(context.span_id),
        }
        if self.is_library:
            extra = {"event": spec.event, **ids, **known}
            _LIBRARY.log(_LEVELS[spec.level], "%s", sentence(spec.event, known), extra=extra)
            return
        if self._logger is None:
            import structlog  # noqa: PLC0415  tens of milliseconds, and many runs log nothing

            # With processors of its own: the host's structlog configuration is not touched.
            self._logger = structlog.wrap_logger(
                SimpleNamespace(info=terminal.write, warning=terminal.write, error=terminal.write),
                processors=[self._render],
                wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
                context_class=dict,
                cache_logger_on_first_use=True,
            )
        write = getattr(self._logger, spec.level)
        write(spec.event, timestamp=rfc3339(self.now()), **ids, **known)

    def _render(self, _: object, level: str, event: MutableMapping[str, Any]) -> str:
        event["level"] = level
        ordered = {**{name: event.pop(name) for name in COMMON_FIELDS}, **event}
        if not self._is_for_people:
            return f"{dumps(ordered, default=str)}\n"
        colors = terminal.is_terminal() and "NO_COLOR" not in os.environ
        return f"{line(ordered, colors=colors)}\n"


def note(text: str) -> None:
    """Lines for the people behind a library: warnings of its owner's logger. Never raises."""
    for one in text.split("\n"):
        with suppress(Exception):  # a handler or a filter of its owner's
            _LIBRARY.warning("%s", terminal.printable(one))


def records(provider: LoggerProvider | None, version: str) -> Records:
    """Records on *provider*, or on the global one; their body is the event's sentence.

    The only function that touches ``opentelemetry._logs``, which is marked as developing.
    """
    from opentelemetry._logs import SeverityNumber, get_logger  # noqa: PLC0415

    severities = {
        "info": SeverityNumber.INFO,
        "warning": SeverityNumber.WARN,
        "error": SeverityNumber.ERROR,
    }
    logger = get_logger(names.SCOPE, version, provider, names.SCHEMA_URL)

    def emit(spec: LogSpec, fields: Mapping[str, object], context: SpanContext) -> None:
        attributes: Any = {name: value for name, value in fields.items() if value is not None}
        logger.emit(
            timestamp=time.time_ns(),
            context=around(context),
            severity_number=severities[spec.level],
            severity_text=severities[spec.level].name,
            body=sentence(spec.event, fields),
            event_name=spec.event,
            attributes=attributes,
        )

    return emit


def sentence(name: str, fields: Mapping[str, Any]) -> str:
    """``005_add_payment_table applied in 12 ms, 7 rows``, of the event *name*, on one line."""
    subject = fields.get("migration_name") or fields.get("event_type")
    known = {**fields, "subject": subject}
    shown = ""
    for before, *rest in _SENTENCES[name]:
        if not rest:
            shown += before
        elif (value := known.get(rest[0])) is not None:
            shown += f"{before}{_shown(rest[0], value)}{rest[1]}"
    return terminal.printable(shown)


def line(event: Mapping[str, Any], *, colors: bool) -> str:
    """``14:23:45Z warning webhook.deferred: 005_a deferred for ops: 503 (trace 4bf92f35)``."""
    level = str(event["level"])
    shown = f"\x1b[{_COLORS.get(level, '0')}m{level}\x1b[0m" if colors else level
    moment, trace = event["timestamp"][11:19], event["trace_id"][:_TRACE_DIGITS]
    name = event["event"]
    return f"{moment}Z {shown} {name}: {sentence(name, event)} (trace {trace})"


def _shown(name: str, value: Any) -> str:
    if name in _COUNTED and isinstance(value, int):
        return terminal.counted(value, *_COUNTED[name])
    if value == names.INTERRUPTED:
        return f"{value} (that run was killed, or lost its database)"
    if name == "duration_ms":
        return f"{value:.0f} ms" if value >= _EXACT_BELOW_MS else f"{value:g} ms"
    if isinstance(value, list | tuple):
        return "; ".join(map(str, value))
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)
