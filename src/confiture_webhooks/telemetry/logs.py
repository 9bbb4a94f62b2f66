"""One wide line per outcome on stderr, and the same as an OTLP log record."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from opentelemetry.trace import SpanContext

from .. import terminal
from ..event import rfc3339
from . import console
from .context import span_id, trace_id
from .names import COMMON_FIELDS, LOG_FAILED, LogSpec
from .text import clean

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from .otlp_logs import Records

Form = Literal["json", "console", "off"]
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}


class Stderr:
    """Where lines go: what ``sys.stderr`` is at that moment. An error in writing is swallowed."""

    def write(self, line: str) -> None:
        """Write *line* in one piece, so that lines of two threads do not mix."""
        terminal.write(f"{line}\n")

    debug = info = warning = error = write


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
    ) -> None:
        self._form = form
        self._level = _LEVELS.get(level.strip().lower()) if level is not None else None
        self._least_shown: int | None = None
        self._records = records
        self._correlation_id = correlation_id
        self._now = now
        self._logger: Any = None
        self._told: set[tuple[str, str]] = set()

    def emit(self, spec: LogSpec, context: SpanContext, fields: dict[str, object]) -> None:
        """Tell event *spec*; fields that *fields* leaves out are null. Unknown ones are dropped."""
        severity = _LEVELS[spec.level]
        is_recorded = severity >= (self._level or logging.INFO) and self._records is not None
        is_shown = self._form != "off" and severity >= self._threshold()
        if not is_recorded and not is_shown:
            return
        correlation_id = fields.get("correlation_id") or self._correlation_id()
        known = {"correlation_id": clean(correlation_id)}
        known |= {name: clean(fields.get(name)) for name in spec.fields}
        if is_shown:
            self._print(spec, context, known)
        if is_recorded and self._records is not None:
            self._records(spec.event, spec.level, known, context)

    def _threshold(self) -> int:
        """The least severe level of a line: where people read, what went well is not told."""
        if self._least_shown is None:
            default = logging.WARNING if _is_for_people(self._form) else logging.INFO
            self._least_shown = default if self._level is None else self._level
        return self._least_shown

    def _print(self, spec: LogSpec, context: SpanContext, known: dict[str, object]) -> None:
        if self._logger is None:
            self._logger = _make_logger(self._form)
        getattr(self._logger, spec.level)(
            spec.event,
            timestamp=rfc3339(self._now()),
            trace_id=trace_id(context),
            span_id=span_id(context),
            **known,
        )

    def failed(self, where: str, error: BaseException, context: SpanContext) -> None:
        """Tell of a fault of our own, once for each place and class. Never raises.

        The error's message stays untold: it may hold anything.
        """
        key = (where, type(error).__name__)
        if key in self._told:
            return
        self._told.add(key)
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        fields: dict[str, object] = {
            "where": where,
            "error_type": type(error).__name__,
            "file": frame.tb_frame.f_code.co_filename if frame else None,
            "line": frame.tb_lineno if frame else None,
        }
        with suppress(Exception):  # the log itself is broken: nobody is left to tell
            self.emit(LOG_FAILED, context, fields)


def _arrange(_: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put the fields every line has first, in the order of the contract."""
    event["level"] = method
    first = {name: event.pop(name) for name in COMMON_FIELDS}
    return {**first, **event}


_ENCODER = json.JSONEncoder(default=str)


def _json(event: dict[str, Any], **_: Any) -> str:
    return _ENCODER.encode(event)


def _make_logger(form: Form | None) -> Any:
    """A logger with processors of its own; the host's structlog configuration is not touched."""
    import structlog  # noqa: PLC0415  tens of milliseconds, and many runs log nothing

    renderer: Any
    if _is_for_people(form):
        colors = terminal.is_terminal() and "NO_COLOR" not in os.environ
        renderer = partial(_for_people, colors=colors)
    else:
        renderer = structlog.processors.JSONRenderer(serializer=_json)
    return structlog.wrap_logger(
        Stderr(),
        processors=[_arrange, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        context_class=dict,
        cache_logger_on_first_use=True,
    )


def _for_people(_: object, __: str, event: MutableMapping[str, Any], *, colors: bool) -> str:
    return console.line(event, colors=colors)


def _is_for_people(form: Form | None) -> bool:
    return form == "console" or (form is None and terminal.is_terminal())
