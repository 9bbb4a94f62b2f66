"""Spans within a run: what they share, migrations, and hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from traceback import walk_tb

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, Tracer

from ..bounded import contained
from ..delivery import TraceContext
from ..event import Direction, ErrorInfo, MigrationRef
from . import names
from .context import Attributes, around, nanoseconds, set_failed, storable, to_stored
from .logs import Logs
from .metrics import Metrics


@dataclass(kw_only=True, eq=False, repr=False)
class Signals:
    """Traces, measures and logs the parts of a run. Never raises."""

    run: SpanContext
    """The run's span; before it starts, or where no tracer makes one, a context with real ids."""
    logs: Logs
    now: Callable[[], datetime]
    environment: str | None
    migration_spans_left: int
    metrics: Metrics = field(default_factory=Metrics)
    tracer: Tracer | None = None
    is_started: bool = False
    """Whether the run's span has started."""
    test_ends_at: datetime | None = None
    """Of a test. It sends nothing later, so a delivery put off is neither logged nor counted."""
    _reported: set[tuple[str, str]] = field(default_factory=set)
    _has_failed: bool = False

    def start_span(
        self,
        name: str,
        *,
        parent: SpanContext | None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes | None = None,
        link: SpanContext | None = None,
        started_at: datetime | None = None,
    ) -> Span:
        """A new span, not made the current one; with its parent's context if none is made."""
        if self.tracer is not None:
            try:
                span = self.tracer.start_span(
                    name,
                    context=around(parent) if parent else Context(),
                    kind=kind,
                    attributes=storable(attributes or {}),
                    links=[Link(link)] if link else (),
                    start_time=nanoseconds(started_at) if started_at else None,
                )
                if span.get_span_context().is_valid:
                    return span
            except Exception as error:  # noqa: BLE001  a provider of the user's: go on unrecorded
                self.report("start_span", error)
        return NonRecordingSpan(parent or self.run)

    def log(
        self, spec: names.LogSpec, context: SpanContext | None = None, /, **fields: object
    ) -> None:
        """Log the event *spec* with the ids of *context*, by default the run's."""
        fields["correlation_id"] = fields.get("correlation_id") or f"{self.run.trace_id:032x}"
        self.logs.emit(spec, context or self.run, fields)

    def migrated(
        self,
        ref: MigrationRef,
        direction: Direction,
        span: Span,
        error: ErrorInfo | None,
        duration_s: float | None,
        rows_affected: int | None,
        **fields: object,
    ) -> None:
        """Count how long a migration took, and log how it ended."""
        error_type = error.sqlstate or error.type if error else None
        about = {names.MIGRATION_DIRECTION: direction.value, names.ERROR_TYPE: error_type}
        self.metrics.record(names.MIGRATION_DURATION, duration_s or 0.0, about, span)
        spec = names.LOG_APPLIED if direction is Direction.UP else names.LOG_ROLLED_BACK
        self.log(
            spec if error is None else names.LOG_MIGRATION_FAILED,
            span.get_span_context(),
            migration_version=ref.version,
            migration_name=ref.name,
            database=self.metrics.database,
            direction=direction.value,
            duration_ms=None if duration_s is None else milliseconds(duration_s),
            rows_affected=rows_affected,
            error_type=error_type,
            sqlstate=error.sqlstate if error else None,
            **{"environment": self.environment, **fields},
        )

    def failed(self, where: str, error: BaseException) -> None:
        """Log a fault of our own, once for each place and class.

        The error's message is left out: it may hold anything.
        """
        key = (where, type(error).__name__)
        if key in self._reported:
            return
        self._reported.add(key)
        *_, (frame, line) = [(None, None), *walk_tb(error.__traceback__)]
        file = frame.f_code.co_filename if frame else None
        with suppress(Exception):  # the log itself is broken
            self.log(names.LOG_FAILED, where=where, error_type=key[1], file=file, line=line)

    def report(self, where: str, error: BaseException) -> None:
        """Log the first fault in telemetry itself; later ones are silent."""
        if not self._has_failed:
            self._has_failed = True
            self.failed(f"telemetry.{where}", error)


@dataclass(eq=False, repr=False)
class Part:
    """A part of a run that is under way, with its span."""

    _signals: Signals
    span: Span

    @property
    def trace(self) -> TraceContext:
        """The context that deliveries from this part continue."""
        return to_stored(self.span.get_span_context())

    def report(self, where: str, error: BaseException) -> None:
        """At most one log line, whatever breaks."""
        self._signals.report(where, error)


class MigrationSpan(Part):
    """One migration under way. Beyond the cap, a success is an event on the run's span."""

    def __init__(
        self, signals: Signals, run: Span, ref: MigrationRef, direction: Direction
    ) -> None:
        super().__init__(signals, run)
        self._run = run
        self._ref = ref
        self._direction = direction
        self._about = {
            names.MIGRATION_VERSION: ref.version,
            names.MIGRATION_NAME: ref.name,
            names.MIGRATION_DIRECTION: direction.value,
        }
        self._started_at = signals.now()
        self._is_finished = False
        self._has_span = False
        if signals.migration_spans_left > 0:
            signals.migration_spans_left -= 1
            self._start()

    @contained
    def finish(
        self, *, duration_s: float, rows_affected: int | None, error: ErrorInfo | None
    ) -> None:
        """End it: span, duration metric and log line. Later calls do nothing."""
        if self._is_finished:
            return
        self._is_finished = True
        if error is not None and not self._has_span:
            self._start()
        try:
            self._mark(duration_s, rows_affected, error)
            self._signals.migrated(
                self._ref, self._direction, self.span, error, duration_s, rows_affected
            )
        finally:
            if self._has_span:
                ended_at = self._started_at + timedelta(seconds=max(0.0, duration_s))
                self.span.end(nanoseconds(ended_at))

    @contained
    def leave(self, *, duration_s: float) -> None:
        """End it without a result: the command that settles the migration logs and counts that."""
        if not self._is_finished:
            self._is_finished = True
            self._mark(duration_s, None, None)
            if self._has_span:
                self.span.end()

    def _start(self) -> None:
        self._has_span = True
        self.span = self._signals.start_span(
            names.APPLY if self._direction is Direction.UP else names.ROLL_BACK,
            parent=self._run.get_span_context(),
            attributes=self._about,
            started_at=self._started_at,
        )

    def _mark(self, duration_s: float, rows_affected: int | None, error: ErrorInfo | None) -> None:
        rows = {names.MIGRATION_ROWS_AFFECTED: rows_affected}
        if not self._has_span:
            about = {**self._about, **rows, names.DURATION_S: duration_s}
            self._run.add_event(names.MIGRATION_DONE, storable(about))
            return
        self.span.set_attributes(storable(rows))
        if error is not None:
            set_failed(self.span, error.sqlstate or error.type)
            self.span.set_attributes(storable({names.DB_STATUS_CODE: error.sqlstate}))


def milliseconds(seconds: float) -> float:
    """*seconds* in milliseconds, to the microsecond."""
    return round(seconds * 1000, 3)


class HookSpan(Part):
    """One run of a user's hook, ``<module>:<function>``."""

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make its span the calling thread's current one, without baggage, for the block."""
        token = otel_context.attach(around(self.span))
        try:
            yield
        finally:
            otel_context.detach(token)

    @contained
    def finish(self, error_type: str | None = None) -> None:
        """End it; *error_type* when the hook raised or ran out of time."""
        if error_type is not None:
            set_failed(self.span, error_type)
        self.span.end()
