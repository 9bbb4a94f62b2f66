"""Spans within a run: migrations, deliveries (at the receiver, too), hooks, a worker's pass."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from time import monotonic
from traceback import walk_tb
from typing import TYPE_CHECKING

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind

from ..contained import contained
from ..delivery import Attempt, Delivery, TraceContext
from ..event import Direction, ErrorInfo, MigrationRef, rfc3339
from . import names
from .context import Attributes, around, from_stored, nanoseconds, set_failed, storable, to_stored
from .metrics import Metrics

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from ..verification import Verified
    from .logs import Logs

LINK_ONLY_AFTER = timedelta(hours=24)
"""Traces are often kept no longer: a span that continues an older one would stand alone."""
LONGEST_PASS_S = 60
"""A worker that is never idle begins a new pass so often: a span that never ends is never seen."""


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
    is_test: bool = False
    """Whether nothing is sent later: a delivery that is put off is neither logged nor counted."""
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

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make its span the calling thread's current one, without baggage, for the block."""
        token = otel_context.attach(around(self.span))
        try:
            yield
        finally:
            otel_context.detach(token)

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
            migrated(
                self._signals,
                self._ref,
                self._direction,
                self.span,
                error,
                duration_s=duration_s,
                rows_affected=rows_affected,
                environment=self._signals.environment,
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


def migrated(
    signals: Signals,
    ref: MigrationRef,
    direction: Direction,
    span: Span,
    error: ErrorInfo | None,
    *,
    duration_s: float | None,
    **fields: object,
) -> None:
    """Count how long a migration took, and log how it ended."""
    error_type = error.sqlstate or error.type if error else None
    about = {names.MIGRATION_DIRECTION: direction.value, names.ERROR_TYPE: error_type}
    signals.metrics.record(names.MIGRATION_DURATION, duration_s or 0.0, about, span)
    spec = names.LOG_APPLIED if direction is Direction.UP else names.LOG_ROLLED_BACK
    signals.log(
        spec if error is None else names.LOG_MIGRATION_FAILED,
        span.get_span_context(),
        migration_version=ref.version,
        migration_name=ref.name,
        database=signals.metrics.database,
        direction=direction.value,
        duration_ms=None if duration_s is None else milliseconds(duration_s),
        error_type=error_type,
        sqlstate=error.sqlstate if error else None,
        **fields,
    )


def milliseconds(seconds: float) -> float:
    """*seconds* in milliseconds, to the microsecond."""
    return round(seconds * 1000, 3)


class HookSpan(Part):
    """One run of a user's hook, ``<module>:<function>``."""

    @contained
    def finish(self, error_type: str | None = None) -> None:
        """End it; *error_type* when the hook raised or ran out of time."""
        if error_type is not None:
            set_failed(self.span, error_type)
        self.span.end()


class Passes:
    """Passes of a worker that belongs to no run: from a claim until nothing is left to do."""

    def __init__(
        self, start: Callable[[], Span], report: Callable[[str, BaseException], None]
    ) -> None:
        self._start = start
        self.report = report
        self._lock = threading.Lock()
        self._span: Span | None = None
        self._claimed = 0
        self._ends_at = 0.0

    def begin(self, claims: int = 1) -> SpanContext:
        """The pass under way, to which *claims* more belong; it is begun if there is none."""
        with self._lock:
            if monotonic() >= self._ends_at:
                self._finish()
            if self._span is None:
                self._span = self._start()
                self._ends_at = monotonic() + LONGEST_PASS_S
            self._claimed += claims
            return self._span.get_span_context()

    def end(self) -> None:
        """Nothing is left to do for now."""
        with self._lock:
            self._finish()

    @contained
    def _finish(self) -> None:
        span, claimed = self._span, self._claimed
        self._span, self._claimed = None, 0
        if span is not None:
            span.set_attribute(names.WEBHOOK_CLAIMED, claimed)
            span.end()


class DeliverySpan(Part):
    """One delivery while it is being tried. It ends once."""

    def __init__(
        self, signals: Signals, delivery: Delivery, worker_pass: SpanContext | None
    ) -> None:
        self._delivery = delivery
        self._started = monotonic()
        self._is_finished = False
        super().__init__(signals, _start(signals, delivery, worker_pass))

    @contained
    def attempt_failed(self, attempt: Attempt, *, retry_in: timedelta | None) -> None:
        """An attempt failed; *retry_in* is the wait before the next, ``None``: there is none."""
        delay_s = retry_in.total_seconds() if retry_in is not None else None
        about = {names.WEBHOOK_ENDPOINT: self._delivery.endpoint, names.ERROR_TYPE: attempt.failure}
        self._signals.metrics.record(names.FAILURES, 1, about, self.span)
        if delay_s is not None:
            self._signals.metrics.record(names.RETRIES, 1, about, self.span)
            event = {
                names.DELAY_S: delay_s,
                names.ERROR_TYPE: attempt.failure,
                names.HTTP_STATUS_CODE: attempt.status_code,
            }
            self.span.add_event(names.RETRY_SCHEDULED, storable(event))
        self._log(
            names.LOG_ATTEMPT_FAILED,
            attempt=attempt.number,
            status_code=attempt.status_code,
            error_type=attempt.failure,
            reason=attempt.reason,
            duration_ms=milliseconds(attempt.duration.total_seconds()),
            retry_in_s=round(delay_s, 3) if delay_s is not None else None,
        )

    @contained
    def finish(
        self,
        outcome: str,
        *,
        last: Attempt | None,
        attempts: int,
        at: datetime,
        next_attempt_at: datetime | None = None,
    ) -> None:
        """End it with *outcome* at *at*: span, metrics and one log line. Later calls do nothing."""
        if self._is_finished:
            return
        self._is_finished = True
        duration_s = monotonic() - self._started
        failure = last.failure if last is not None else None
        lag_s = max(0.0, (at - self._delivery.created_at).total_seconds())
        try:
            self.span.set_attributes(
                {names.WEBHOOK_OUTCOME: outcome, names.WEBHOOK_ATTEMPTS: attempts}
            )
            if outcome != names.DELIVERED:
                set_failed(self.span, failure)
            if outcome == names.DEAD_LETTER:
                self.span.add_event(names.DEAD_LETTERED)
            if outcome == names.DEFERRED and self._signals.is_test:
                return
            self._measure(outcome, duration_s, lag_s, failure)
            self._log(
                names.ENDINGS[outcome],
                attempts=attempts,
                status_code=last.status_code if last is not None else None,
                error_type=failure,
                duration_ms=milliseconds(duration_s),
                lag_ms=milliseconds(lag_s),
                next_attempt_at=rfc3339(next_attempt_at) if next_attempt_at else None,
            )
        finally:
            self.span.end()

    def _measure(self, outcome: str, duration_s: float, lag_s: float, failure: str | None) -> None:
        record = self._signals.metrics.record
        endpoint = {names.WEBHOOK_ENDPOINT: self._delivery.endpoint}
        ended = {**endpoint, names.WEBHOOK_OUTCOME: outcome}
        detail: dict[str, object] = {
            **ended,
            names.WEBHOOK_EVENT_TYPE: self._delivery.event_type.value,
            names.ERROR_TYPE: failure,
        }
        record(names.DELIVERIES, 1, ended, self.span)
        record(names.DELIVERY_DURATION, duration_s, detail, self.span)
        if outcome == names.DELIVERED:
            record(names.DELIVERY_LAG, lag_s, endpoint, self.span)

    def _log(self, spec: names.LogSpec, **fields: object) -> None:
        delivery = self._delivery
        self._signals.log(
            spec,
            self.span.get_span_context(),
            endpoint=delivery.endpoint,
            event_type=delivery.event_type.value,
            event_id=delivery.event_id,
            delivery_id=delivery.id,
            correlation_id=delivery.correlation_id,
            migration_version=delivery.migration_version,
            migration_name=delivery.migration_name,
            environment=delivery.environment,
            **fields,
        )


def _start(signals: Signals, delivery: Delivery, worker_pass: SpanContext | None) -> Span:
    """A span under the stored context; one of its own, with a link, when that is out of reach."""
    here = signals.run if signals.is_started else None
    is_remote = worker_pass is not None
    stored = from_stored(delivery.trace, is_remote=is_remote)
    if worker_pass is not None:
        here = worker_pass
    elif stored and here and here.trace_id != stored.trace_id:
        # A delivery of an earlier run is as far away as one of another machine.
        is_remote, stored = True, from_stored(delivery.trace, is_remote=True)
    parent, linked = stored, here if is_remote else None
    # A continuation would stand alone where nothing was recorded, or it is gone by now.
    is_old = signals.now() - delivery.created_at > LINK_ONLY_AFTER
    if is_remote and (stored is None or is_old or not stored.trace_flags.sampled):
        parent, linked = here, stored
    span = signals.start_span(
        f"{names.DELIVER} {delivery.endpoint}",
        parent=parent,
        kind=SpanKind.CONSUMER if is_remote else SpanKind.INTERNAL,
        link=linked,
        attributes={
            names.WEBHOOK_ENDPOINT: delivery.endpoint,
            names.WEBHOOK_EVENT_TYPE: delivery.event_type.value,
            names.WEBHOOK_EVENT_ID: delivery.event_id,
            names.WEBHOOK_DELIVERY_ID: delivery.id,
            names.WEBHOOK_CORRELATION_ID: delivery.correlation_id,
        },
    )
    if stored is not None and not span.is_recording() and parent is not stored:
        return NonRecordingSpan(stored)  # not recorded: the receiver gets the known trace
    return span


@contextmanager
def handling(event: Verified) -> Iterator[None]:
    """A span around the handling of *event*, by the global providers, current in the block.

    It continues the sender's trace. If a framework's instrumentation has opened a span, it is a
    child of that, linked to the sender if the trace is another. An error leaves its class on the
    span and nothing of its text.
    """
    sender = None
    if event.traceparent is not None:
        stored = TraceContext(traceparent=event.traceparent, tracestate=event.tracestate)
        sender = from_stored(stored, is_remote=True)
    current = trace.get_current_span().get_span_context()
    is_elsewhere = sender is not None and current.is_valid and current.trace_id != sender.trace_id
    found = {
        names.WEBHOOK_EVENT_TYPE: event.type,
        names.WEBHOOK_EVENT_ID: event.id,
        names.WEBHOOK_CORRELATION_ID: event.correlation_id,
    }
    span = trace.get_tracer(names.SCOPE, schema_url=names.SCHEMA_URL).start_span(
        names.HANDLE,
        context=around(sender) if sender is not None and not current.is_valid else None,
        kind=SpanKind.CONSUMER,
        attributes={name: str(value) for name, value in found.items() if value is not None},
        links=[Link(sender)] if sender is not None and is_elsewhere else [],
    )
    with trace.use_span(
        span, end_on_exit=True, record_exception=False, set_status_on_exception=False
    ):
        try:
            yield
        except BaseException as error:
            set_failed(span, type(error).__name__)
            raise
