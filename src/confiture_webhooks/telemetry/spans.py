"""Spans of a run: the run itself, its migrations, users' hooks, a pass of the worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import TYPE_CHECKING

from opentelemetry import context as otel_context
from opentelemetry.trace import Span, SpanContext

from ..contained import contained
from ..delivery import TraceContext
from ..event import Database, Direction, ErrorInfo, MigrationRef
from . import names
from .context import around, nanoseconds, set_failed, storable, to_stored

if TYPE_CHECKING:
    from .context import Tracing
    from .logs import Logs
    from .metrics import Metrics


@dataclass(slots=True)
class Signals:
    """What spans of a run are made with, and where the run stands in its trace."""

    tracing: Tracing
    metrics: Metrics
    logs: Logs
    run: SpanContext
    """The run's span; before it starts, what it will have at least the trace id of."""
    environment: str | None = None
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    monotonic: Callable[[], float] = monotonic
    migration_spans_left: int = 0
    has_run: bool = False
    has_failed: bool = False
    is_test: bool = False
    """Whether nothing is sent later: a delivery that is put off is neither logged nor counted."""

    @property
    def started(self) -> SpanContext | None:
        """The run's span, once it has started."""
        return self.run if self.has_run else None

    def failed(self, where: str, error: BaseException) -> None:
        """Log the first fault in telemetry itself; later ones are silent. Never raises."""
        if not self.has_failed:
            self.has_failed = True
            self.logs.failed(where, error, self.run)


class Part:
    """What is made with *signals*, and reports its own faults to them."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals

    def report(self, where: str, error: BaseException) -> None:
        """At most one log line, whatever breaks."""
        self._signals.failed(f"telemetry.{where}", error)


@contextmanager
def current(span: Span) -> Iterator[None]:
    """Make *span* the calling thread's current one, without baggage, for the block."""
    token = otel_context.attach(around(span))
    try:
        yield
    finally:
        otel_context.detach(token)


class RunSpan(Part):
    """A run, from its command's start to the end of its migrations."""

    def __init__(
        self,
        signals: Signals,
        command: str,
        parent: SpanContext | None,
        started_at: datetime | None,
        *,
        is_counted: bool,
    ) -> None:
        super().__init__(signals)
        self._command = command.removeprefix("confiture ")
        self._database: str | None = None
        self._is_open = True
        self._is_counted = is_counted
        self.span = signals.tracing.start(
            command,
            parent=parent,
            started_at=started_at,
            attributes={names.DB_SYSTEM: "postgresql"},
        )
        signals.run = self.span.get_span_context()
        signals.has_run = True

    @contained
    def connected(self, database: Database) -> None:
        """The run's *database* is known."""
        self._database = database.name or self._database
        about = {
            names.DB_NAMESPACE: _namespace(database),
            names.SERVER_ADDRESS: database.host,
            names.SERVER_PORT: database.port,
        }
        self.span.set_attributes(storable(about))

    @contained
    def finish(
        self, *, applied: int, failed: int, error_type: str | None, is_known: bool = True
    ) -> None:
        """End it, and count it if *is_known*. Later calls do nothing."""
        if not self._is_open:
            return
        self._is_open = False
        self.span.set_attributes({names.RUN_APPLIED: applied, names.RUN_FAILED: failed})
        if error_type is not None:
            set_failed(self.span, error_type)
        try:
            if self._is_counted and is_known:
                self._count(applied, error_type)
        finally:
            self.span.end()

    @contained
    def abandon(self) -> None:
        """End it without a result; a span that never ends is never exported."""
        if self._is_open:
            self._is_open = False
            self.span.end()

    def _count(self, applied: int, error_type: str | None) -> None:
        signals = self._signals
        signals.metrics.count_run(self._command, error_type, signals.now(), self.span)
        if error_type is not None:
            fields: dict[str, object] = {
                "command": self._command,
                "environment": signals.environment,
                "database": self._database,
                "error_type": error_type,
                "migrations_applied": applied,
            }
            signals.logs.emit(names.LOG_RUN_FAILED, self.span.get_span_context(), fields)


def _namespace(database: Database) -> str | None:
    if database.name and database.schema:
        return f"{database.name}|{database.schema}"
    return database.name


class MigrationSpan(Part):
    """One migration under way. Beyond the cap, a success is an event on the run's span."""

    def __init__(
        self, signals: Signals, run: Span, ref: MigrationRef, direction: Direction
    ) -> None:
        super().__init__(signals)
        self._run = run
        self._ref = ref
        self._direction = direction
        self._started_at = signals.now()
        self._span: Span | None = None
        self._is_finished = False
        if signals.migration_spans_left > 0:
            signals.migration_spans_left -= 1
            self._span = self._start()

    @property
    def trace(self) -> TraceContext:
        """What deliveries of this migration's events continue."""
        return to_stored(self._shown.get_span_context())

    @property
    def span(self) -> Span:
        """The span to put children under."""
        return self._shown

    @contained
    def finish(
        self, *, duration_s: float, rows_affected: int | None, error: ErrorInfo | None
    ) -> None:
        """End it: span, duration metric and log line. Later calls do nothing."""
        if self._is_finished:
            return
        self._is_finished = True
        if error is not None and self._span is None:
            self._span = self._start()
        try:
            self._mark(duration_s, rows_affected, error)
            measure_migration(self._signals, self._direction, duration_s, error, self._shown)
            log_migration(
                self._signals,
                self._ref,
                self._direction,
                duration_s=duration_s,
                rows_affected=rows_affected,
                error=error,
                context=self._shown.get_span_context(),
                environment=self._signals.environment,
            )
        finally:
            if self._span is not None:
                ended_at = self._started_at + timedelta(seconds=max(0.0, duration_s))
                self._span.end(nanoseconds(ended_at))

    @contained
    def leave(self, *, duration_s: float) -> None:
        """End it without a result: whoever settles the migration logs and counts that."""
        if not self._is_finished:
            self._is_finished = True
            self._mark(duration_s, None, None)
            if self._span is not None:
                self._span.end()

    @property
    def _shown(self) -> Span:
        return self._span if self._span is not None else self._run

    def _start(self) -> Span:
        name = names.APPLY if self._direction is Direction.UP else names.ROLL_BACK
        return self._signals.tracing.start(
            name,
            parent=self._run.get_span_context(),
            attributes=self._about(),
            started_at=self._started_at,
        )

    def _about(self) -> dict[str, object]:
        return {
            names.MIGRATION_VERSION: self._ref.version,
            names.MIGRATION_NAME: self._ref.name,
            names.MIGRATION_DIRECTION: self._direction.value,
        }

    def _mark(self, duration_s: float, rows_affected: int | None, error: ErrorInfo | None) -> None:
        rows = {names.MIGRATION_ROWS_AFFECTED: rows_affected}
        if self._span is None:
            about = {**self._about(), **rows, names.DURATION_S: duration_s}
            self._run.add_event(names.MIGRATION_DONE, storable(about))
            return
        self._span.set_attributes(storable(rows))
        if error is not None:
            set_failed(self._span, _error_type(error))
            self._span.set_attributes(storable({names.DB_STATUS_CODE: error.sqlstate}))


def log_migration(
    signals: Signals,
    ref: MigrationRef,
    direction: Direction,
    *,
    duration_s: float | None,
    rows_affected: int | None,
    error: ErrorInfo | None,
    context: SpanContext,
    environment: str | None,
    correlation_id: str | None = None,
) -> None:
    """One line that says how a migration ended."""
    done = names.LOG_APPLIED if direction is Direction.UP else names.LOG_ROLLED_BACK
    fields: dict[str, object] = {
        "correlation_id": correlation_id,
        "migration_version": ref.version,
        "migration_name": ref.name,
        "environment": environment,
        "database": signals.metrics.database,
        "direction": direction.value,
        "duration_ms": None if duration_s is None else milliseconds(duration_s),
        "rows_affected": rows_affected,
        "error_type": _error_type(error) if error else None,
        "sqlstate": error.sqlstate if error else None,
    }
    spec = done if error is None else names.LOG_MIGRATION_FAILED
    signals.logs.emit(spec, context, fields)


def measure_migration(
    signals: Signals, direction: Direction, duration_s: float, error: ErrorInfo | None, span: Span
) -> None:
    """Count a migration that ended, by how long it took."""
    about = {
        names.MIGRATION_DIRECTION: direction.value,
        names.ERROR_TYPE: _error_type(error) if error else None,
    }
    signals.metrics.measure(names.MIGRATION_DURATION, duration_s, about, span)


def _error_type(error: ErrorInfo) -> str:
    return error.sqlstate or error.type


def milliseconds(seconds: float) -> float:
    """*seconds* in milliseconds, to the microsecond."""
    return round(seconds * 1000, 3)


class HookSpan(Part):
    """One run of a user's hook, ``<module>:<function>``."""

    def __init__(self, signals: Signals, hook: str, event: str, parent: SpanContext | None) -> None:
        super().__init__(signals)
        self.span = signals.tracing.start(
            f"{names.RUN_HOOK} {hook}", parent=parent, attributes={names.HOOK_EVENT: event}
        )

    @property
    def trace(self) -> TraceContext:
        """What deliveries the hook asks for continue."""
        return to_stored(self.span.get_span_context())

    def current(self) -> AbstractContextManager[None]:
        """Make it the calling thread's current span, so that the hook's requests are under it."""
        return current(self.span)

    @contained
    def finish(self, error_type: str | None = None) -> None:
        """End it; *error_type* when the hook raised or ran out of time."""
        if error_type is not None:
            set_failed(self.span, error_type)
        self.span.end()


class WorkerPassSpan(Part):
    """One pass over the outbox by a worker that belongs to no run."""

    def __init__(self, signals: Signals, parent: SpanContext | None) -> None:
        super().__init__(signals)
        self.span = signals.tracing.start(names.DRAIN, parent=parent)
        self._claimed = 0

    @contained
    def claimed(self, count: int) -> None:
        """*count* more deliveries were claimed."""
        self._claimed += count

    @contained
    def finish(self) -> None:
        """End it."""
        self.span.set_attribute(names.WEBHOOK_CLAIMED, self._claimed)
        self.span.end()
