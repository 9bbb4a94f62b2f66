"""Spans of deliveries: in a run, in a worker's pass, and at the receiver."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from time import monotonic

from opentelemetry import trace
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind

from ..bounded import contained
from ..delivery import Attempt, Delivery, TraceContext
from ..event import rfc3339
from ..signature import Verified
from ..transport import Request
from . import names
from .attempts import AttemptSpan
from .context import around, from_stored, set_failed, storable
from .spans import Part, Signals, milliseconds

LINK_ONLY_AFTER = timedelta(hours=24)
"""Traces are often kept no longer: a span that continues an older one would stand alone."""
LONGEST_PASS_S = 60
"""A worker that is never idle begins a new pass so often: a span that never ends is never seen."""


@dataclass(eq=False, repr=False)
class PassSpans:
    """The passes of a worker that belongs to no run: from a claim until nothing is left to do."""

    _start: Callable[[], Span]
    report: Callable[[str, BaseException], None]
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _span: Span | None = None
    _claimed: int = 0
    _ends_at: float = 0.0

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
        super().__init__(signals, _start(signals, delivery, worker_pass))

    def attempt(self, request: Request) -> AttemptSpan:
        """An attempt to send *request*, for a block."""
        return AttemptSpan(self._signals, self.span, request)

    @contained
    def attempt_failed(self, attempt: Attempt, *, retry_in: timedelta | None) -> None:
        """An attempt failed; *retry_in* is the wait before the next, ``None``: there is none."""
        ends_at = self._signals.test_ends_at
        if retry_in is not None and ends_at and self._signals.now() + retry_in > ends_at:
            retry_in = None
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
        """End it with *outcome* at *at*: span, metrics and one log line. It is called once."""
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
            if outcome == names.DEFERRED and self._signals.test_ends_at:
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
        kind = self._delivery.event_type.value
        detail = {**ended, names.WEBHOOK_EVENT_TYPE: kind, names.ERROR_TYPE: failure}
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
