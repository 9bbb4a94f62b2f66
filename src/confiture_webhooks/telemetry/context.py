"""Trace contexts: read and written without baggage, real ids with or without an SDK."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import datetime
from typing import TYPE_CHECKING
from weakref import WeakSet

from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    Status,
    StatusCode,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ..delivery import TraceContext
from ..event import encodable
from .names import ERROR_TYPE

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider
    from opentelemetry.util.types import AttributeValue

Attributes = Mapping[str, object]
made_here: WeakSet[TracerProvider] = WeakSet()
"""Tracer providers of earlier runs in this process: no other owner has set them."""
_W3C = TraceContextTextMapPropagator()
_reading: ContextVar[bool] = ContextVar("confiture_webhooks_reading", default=False)
# Its warnings quote the refused value, and Python writes them to standard error by default.
for _name in ("span", "propagation.tracecontext"):
    logging.getLogger(f"opentelemetry.trace.{_name}").addFilter(lambda _: not _reading.get())


def fresh() -> SpanContext:
    """A random, sampled context, for when no SDK makes one."""
    return SpanContext(
        trace_id=secrets.randbits(128) or 1,
        span_id=secrets.randbits(64) or 1,
        is_remote=False,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )


def from_stored(stored: TraceContext, *, is_remote: bool) -> SpanContext | None:
    """The context *stored* names, ``None`` when it is not a valid one."""
    carrier = {"traceparent": stored.traceparent}
    if stored.tracestate:
        carrier["tracestate"] = stored.tracestate
    token = _reading.set(True)
    found = get_current_span(_W3C.extract(carrier, Context())).get_span_context()
    _reading.reset(token)
    if not found.is_valid:
        return None
    return SpanContext(
        found.trace_id, found.span_id, is_remote, found.trace_flags, found.trace_state
    )


def to_stored(context: SpanContext) -> TraceContext:
    """*context*, a valid one, as header values."""
    headers: dict[str, str] = {}
    _W3C.inject(headers, around(context))
    return TraceContext(**headers)


def around(span: Span | SpanContext) -> Context:
    """A context that holds *span* and nothing else, so no baggage."""
    active = NonRecordingSpan(span) if isinstance(span, SpanContext) else span
    return set_span_in_context(active, Context())


def nanoseconds(instant: datetime) -> int:
    """*instant* in nanoseconds since 1970."""
    return int(instant.timestamp() * 1e6) * 1000


def set_failed(span: Span, error_type: str | None) -> None:
    """Mark *span* as failed. Its status has no description: that could hold anything."""
    span.set_status(Status(StatusCode.ERROR))
    if error_type is not None:
        span.set_attributes(storable({ERROR_TYPE: error_type}))


def storable(attributes: Attributes) -> dict[str, AttributeValue]:
    """*attributes* without those that are not known, as UTF-8 can carry them."""
    return {key: encodable(value) for key, value in attributes.items() if value is not None}
