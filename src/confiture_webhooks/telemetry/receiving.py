"""The receiver's side: its span, in the trace of the run that sent the webhook."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from ..delivery import TraceContext
from .context import around, from_stored
from .names import (
    ERROR_TYPE,
    HANDLE,
    SCHEMA_URL,
    SCOPE,
    WEBHOOK_CORRELATION_ID,
    WEBHOOK_EVENT_ID,
    WEBHOOK_EVENT_TYPE,
)

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

    from ..verification import Verified


@contextmanager
def handling(event: Verified) -> Iterator[None]:
    """A span around the handling of *event*, by the global providers, current in the block.

    It continues the sender's trace. Where a framework's instrumentation has opened a span it is
    that one's child, linked to the sender when that is another trace. What is raised leaves its
    class on the span and nothing of its text.
    """
    sender = _sender(event)
    current = trace.get_current_span().get_span_context()
    is_elsewhere = sender is not None and current.is_valid and current.trace_id != sender.trace_id
    found = {
        WEBHOOK_EVENT_TYPE: event.type,
        WEBHOOK_EVENT_ID: event.id,
        WEBHOOK_CORRELATION_ID: event.correlation_id,
    }
    span = trace.get_tracer(SCOPE, schema_url=SCHEMA_URL).start_span(
        HANDLE,
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
            span.set_attribute(ERROR_TYPE, type(error).__name__)
            span.set_status(Status(StatusCode.ERROR))
            raise


def _sender(event: Verified) -> SpanContext | None:
    if event.traceparent is None:
        return None
    stored = TraceContext(traceparent=event.traceparent, tracestate=event.tracestate)
    return from_stored(stored, is_remote=True)
