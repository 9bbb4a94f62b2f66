"""One wide line per outcome, and the same as an OTLP log record.

A command writes its lines to standard error, a library to ``logging``.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from opentelemetry.trace import SpanContext

from .. import terminal
from ..event import rfc3339
from . import names
from .context import around, clean, span_id, trace_id
from .names import COMMON_FIELDS, LOG_FAILED, LogSpec
from .sentences import line, sentence

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from opentelemetry._logs import LoggerProvider

Form = Literal["json", "console", "off"]
Records = Callable[[LogSpec, Mapping[str, object], SpanContext], None]
"""Takes log events, their fields cleaned, as records that belong to a span."""
LIBRARY = "confiture_webhooks"
"""The name of the logger that ``attach()`` writes to."""
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}


class Logs:
    """Log events of one run, each with the ids of the span it belongs to."""

    def __init__(
        self,
        *,
        form: Form | None,
        level: str | None,
        records: Records | None,
        correlation_id: Callable[[], str],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        is_library: bool = False,
    ) -> None:
        self._form = form
        self._level = _LEVELS.get(level.strip().lower()) if level is not None else None
        self._least_shown: int | None = None
        self._records = records
        self._correlation_id = correlation_id
        self._now = now
        self._logger: Any = None
        self._is_library = is_library
        self._reported: set[tuple[str, str]] = set()

    def emit(self, spec: LogSpec, context: SpanContext, fields: dict[str, object]) -> None:
        """Write event *spec*; *fields* that are left out are null, unknown ones are dropped."""
        severity = _LEVELS[spec.level]
        is_recorded = severity >= (self._level or logging.INFO) and self._records is not None
        is_shown = self._form != "off" and severity >= self._threshold()
        if not is_recorded and not is_shown:
            return
        correlation_id = fields.get("correlation_id") or self._correlation_id()
        known = {"correlation_id": clean(correlation_id)}
        known |= {name: clean(fields.get(name)) for name in spec.fields}
        if is_shown:
            self._show(spec, context, known)
        if is_recorded and self._records is not None:
            self._records(spec, known, context)

    def failed(self, where: str, error: BaseException, context: SpanContext) -> None:
        """Log a fault of our own, once for each place and class. Never raises.

        The error's message is left out: it may hold anything.
        """
        key = (where, type(error).__name__)
        if key in self._reported:
            return
        self._reported.add(key)
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        fields: dict[str, object] = {
            "where": where,
            "error_type": type(error).__name__,
            "file": frame.tb_frame.f_code.co_filename if frame else None,
            "line": frame.tb_lineno if frame else None,
        }
        with suppress(Exception):  # the log itself is broken
            self.emit(LOG_FAILED, context, fields)

    def _threshold(self) -> int:
        """The least severe level of a line: where people read, what went well is not shown."""
        if self._is_library:
            return 0  # its owner's logging decides
        if self._least_shown is None:
            default = logging.WARNING if _is_for_people(self._form) else logging.INFO
            self._least_shown = default if self._level is None else self._level
        return self._least_shown

    def _show(self, spec: LogSpec, context: SpanContext, known: dict[str, object]) -> None:
        ids = {"trace_id": trace_id(context), "span_id": span_id(context)}
        if self._is_library:
            extra = {"event": spec.event, **ids, **known}
            library().log(_LEVELS[spec.level], "%s", sentence(spec.event, known), extra=extra)
            return
        if self._logger is None:
            self._logger = _make_logger(self._form)
        getattr(self._logger, spec.level)(
            spec.event, timestamp=rfc3339(self._now()), **ids, **known
        )


def note(text: str) -> None:
    """Lines for the people behind a library: warnings of its owner's logger."""
    for one in text.split("\n"):
        library().warning("%s", terminal.printable(one))


def library() -> logging.Logger:
    """The owner's logger for a library. Without a handler of the owner's it is silent."""
    logger = logging.getLogger(LIBRARY)
    if not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
        logger.addHandler(logging.NullHandler())
    return logger


def records(provider: LoggerProvider | None, version: str) -> Records:
    """Records on *provider*, or on the global one; their body is the event's sentence.

    The only function that touches ``opentelemetry._logs``, which is marked as developing.
    """
    from opentelemetry._logs import SeverityNumber, get_logger  # noqa: PLC0415

    severities = {
        "debug": SeverityNumber.DEBUG,
        "info": SeverityNumber.INFO,
        "warning": SeverityNumber.WARN,
        "error": SeverityNumber.ERROR,
    }
    logger = get_logger(names.SCOPE, version, provider, names.SCHEMA_URL)

    def emit(spec: LogSpec, fields: Mapping[str, object], context: SpanContext) -> None:
        severity = severities[spec.level]
        attributes: Any = {name: value for name, value in fields.items() if value is not None}
        logger.emit(
            timestamp=time.time_ns(),
            context=around(context),
            severity_number=severity,
            severity_text=severity.name,
            body=sentence(spec.event, fields),
            event_name=spec.event,
            attributes=attributes,
        )

    return emit


class _StandardError:
    """Where structlog's lines go."""

    def write(self, text: str) -> None:
        terminal.write(f"{text}\n")

    debug = info = warning = error = write


def _make_logger(form: Form | None) -> Any:
    """A logger with processors of its own; the host's structlog configuration is not touched."""
    import structlog  # noqa: PLC0415  tens of milliseconds, and many runs log nothing

    return structlog.wrap_logger(
        _StandardError(),
        processors=[_arrange, _console if _is_for_people(form) else _json],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        context_class=dict,
        cache_logger_on_first_use=True,
    )


def _arrange(_: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put the fields every line has first, in the order of the contract."""
    event["level"] = method
    first = {name: event.pop(name) for name in COMMON_FIELDS}
    return {**first, **event}


def _json(_: object, __: str, event: MutableMapping[str, Any]) -> str:
    return json.dumps(event, default=str)


def _console(_: object, __: str, event: MutableMapping[str, Any]) -> str:
    return line(event, colors=terminal.is_terminal() and "NO_COLOR" not in os.environ)


def _is_for_people(form: Form | None) -> bool:
    return form == "console" or (form is None and terminal.is_terminal())
