"""The span of one delivery: its attempts, its end, and what is counted and logged of them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import datetime, timedelta

from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind

from ..contained import contained
from ..delivery import Attempt, Delivery
from ..event import rfc3339
from . import names
from .context import as_local, from_stored, set_failed, storable
from .spans import Part, Signals, current, milliseconds

LINK_ONLY_AFTER = timedelta(hours=24)
"""Traces are often kept no longer: a span that continues an older one would stand alone."""


class DeliverySpan(Part):
    """One delivery while it is being tried. It ends once."""

    def __init__(
        self, signals: Signals, delivery: Delivery, *, remote: bool, worker_pass: Span | None
    ) -> None:
        super().__init__(signals)
        self._delivery = delivery
        self._started = signals.monotonic()
        self._is_finished = False
        self.span = _start(signals, delivery, remote=remote, worker_pass=worker_pass)

    def current(self) -> AbstractContextManager[None]:
        """Make it the calling thread's current span, without baggage, for a block."""
        return current(self.span)

    @contained
    def attempt_failed(self, attempt: Attempt, *, retry_in: timedelta | None) -> None:
        """An attempt failed; *retry_in* is the wait before the next, ``None``: there is none."""
        delay_s = retry_in.total_seconds() if retry_in is not None else None
        about = {names.WEBHOOK_ENDPOINT: self._delivery.endpoint, names.ERROR_TYPE: attempt.failure}
        self._signals.metrics.count(names.FAILURES, about, self.span)
        if delay_s is not None:
            self._signals.metrics.count(names.RETRIES, about, self.span)
            event = {
                names.DELAY_S: delay_s,
                names.ERROR_TYPE: attempt.failure,
                names.HTTP_STATUS_CODE: attempt.status_code,
            }
            self.span.add_event(names.RETRY_SCHEDULED, storable(event))
        fields = self._about() | {
            "attempt": attempt.number,
            "status_code": attempt.status_code,
            "error_type": attempt.failure,
            "reason": attempt.reason,
            "duration_ms": milliseconds(attempt.duration.total_seconds()),
            "retry_in_s": round(delay_s, 3) if delay_s is not None else None,
        }
        self._signals.logs.emit(names.LOG_ATTEMPT_FAILED, self.span.get_span_context(), fields)

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
        duration_s = self._signals.monotonic() - self._started
        failure = last.failure if last is not None else None
        lag_s = max(0.0, (at - self._delivery.created_at).total_seconds())
        try:
            self._mark(outcome, attempts, failure)
            if outcome == names.DEFERRED and self._signals.is_test:
                return
            self._measure(outcome, duration_s, lag_s, failure)
            fields = self._about() | {
                "attempts": attempts,
                "status_code": last.status_code if last is not None else None,
                "error_type": failure,
                "duration_ms": milliseconds(duration_s),
                "lag_ms": milliseconds(lag_s),
                "next_attempt_at": rfc3339(next_attempt_at) if next_attempt_at else None,
            }
            context = self.span.get_span_context()
            self._signals.logs.emit(names.ENDINGS[outcome], context, fields)
        finally:
            self.span.end()

    def _mark(self, outcome: str, attempts: int, failure: str | None) -> None:
        self.span.set_attributes({names.WEBHOOK_OUTCOME: outcome, names.WEBHOOK_ATTEMPTS: attempts})
        if outcome != names.DELIVERED:
            set_failed(self.span, failure)
        if outcome == names.DEAD_LETTER:
            self.span.add_event(names.DEAD_LETTERED)

    def _measure(self, outcome: str, duration_s: float, lag_s: float, failure: str | None) -> None:
        metrics = self._signals.metrics
        endpoint = {names.WEBHOOK_ENDPOINT: self._delivery.endpoint}
        ended = {**endpoint, names.WEBHOOK_OUTCOME: outcome}
        detail: dict[str, object] = {
            **ended,
            names.WEBHOOK_EVENT_TYPE: self._delivery.event_type.value,
            names.ERROR_TYPE: failure,
        }
        metrics.count(names.DELIVERIES, ended, self.span)
        metrics.measure(names.DELIVERY_DURATION, duration_s, detail, self.span)
        if outcome == names.DELIVERED:
            metrics.measure(names.DELIVERY_LAG, lag_s, endpoint, self.span)

    def _about(self) -> dict[str, object]:
        delivery = self._delivery
        return {
            "endpoint": delivery.endpoint,
            "event_type": delivery.event_type.value,
            "event_id": delivery.event_id,
            "delivery_id": delivery.id,
            "correlation_id": delivery.correlation_id,
            "migration_version": delivery.migration_version,
            "migration_name": delivery.migration_name,
            "environment": delivery.environment,
        }


def _start(signals: Signals, delivery: Delivery, *, remote: bool, worker_pass: Span | None) -> Span:
    """A span under the stored context; one of its own, with a link, when that is out of reach."""
    stored = from_stored(delivery.trace, is_remote=True)
    remote = remote or _is_of_another_run(signals, stored)
    here = worker_pass.get_span_context() if worker_pass is not None else signals.started
    parent, linked = stored, here if remote else None
    if remote and (stored is None or _is_out_of_reach(signals, delivery, stored)):
        parent, linked = here, stored
    elif not remote and stored is not None:
        parent = as_local(stored)
    span = _started_under(signals, delivery, parent, linked, remote=remote)
    if stored is not None and not span.is_recording() and parent is not stored:
        return NonRecordingSpan(stored)  # not recorded: the receiver gets the known trace
    return span


def _started_under(
    signals: Signals,
    delivery: Delivery,
    parent: SpanContext | None,
    linked: SpanContext | None,
    *,
    remote: bool,
) -> Span:
    return signals.tracing.start(
        f"{names.DELIVER} {delivery.endpoint}",
        parent=parent,
        kind=SpanKind.CONSUMER if remote else SpanKind.INTERNAL,
        links=[linked] if linked is not None else [],
        attributes={
            names.WEBHOOK_ENDPOINT: delivery.endpoint,
            names.WEBHOOK_EVENT_TYPE: delivery.event_type.value,
            names.WEBHOOK_EVENT_ID: delivery.event_id,
            names.WEBHOOK_DELIVERY_ID: delivery.id,
            names.WEBHOOK_CORRELATION_ID: delivery.correlation_id,
        },
    )


def _is_of_another_run(signals: Signals, stored: SpanContext | None) -> bool:
    """Whether an earlier run left *stored* behind: that is as far as another machine."""
    run = signals.started
    return run is not None and stored is not None and run.trace_id != stored.trace_id


def _is_out_of_reach(signals: Signals, delivery: Delivery, stored: SpanContext) -> bool:
    """Whether a continuation would stand alone: nothing was recorded, or it is gone by now."""
    is_old = signals.now() - delivery.created_at > LINK_ONLY_AFTER
    return is_old or not stored.trace_flags.sampled
