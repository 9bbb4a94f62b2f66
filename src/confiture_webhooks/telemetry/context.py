"""Trace contexts: read from the environment or a stored delivery, written as headers.

Only ``traceparent`` and ``tracestate``; baggage is neither read nor kept.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    TraceFlags,
    format_span_id,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ..delivery import TraceContext

_W3C = TraceContextTextMapPropagator()


def fresh() -> SpanContext:
    """A random, sampled context, for when no SDK makes one."""
    return SpanContext(
        trace_id=secrets.randbits(128) or 1,
        span_id=secrets.randbits(64) or 1,
        is_remote=False,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )


def from_environ(environ: Mapping[str, str]) -> SpanContext | None:
    """What ``TRACEPARENT`` and ``TRACESTATE`` say, upper case only; ``None`` when invalid."""
    traceparent = environ.get("TRACEPARENT")
    if not traceparent:
        return None
    stored = TraceContext(traceparent=traceparent, tracestate=environ.get("TRACESTATE"))
    return from_stored(stored, is_remote=True)


def from_stored(stored: TraceContext, *, is_remote: bool) -> SpanContext | None:
    """The context *stored* names, ``None`` when it is not a valid one."""
    carrier = {"traceparent": stored.traceparent}
    if stored.tracestate:
        carrier["tracestate"] = stored.tracestate
    found = get_current_span(_W3C.extract(carrier, Context())).get_span_context()
    if not found.is_valid:
        return None
    return SpanContext(
        found.trace_id, found.span_id, is_remote, found.trace_flags, found.trace_state
    )


def as_local(context: SpanContext) -> SpanContext:
    """*context*, as of a span of this process."""
    return SpanContext(
        trace_id=context.trace_id,
        span_id=context.span_id,
        is_remote=False,
        trace_flags=context.trace_flags,
        trace_state=context.trace_state,
    )


def to_stored(context: SpanContext) -> TraceContext:
    """*context* as header values."""
    flags = f"{int(context.trace_flags) & 0xFF:02x}"
    return TraceContext(
        traceparent=f"00-{trace_id(context)}-{span_id(context)}-{flags}",
        tracestate=context.trace_state.to_header() or None,
    )


def trace_id(context: SpanContext) -> str:
    """32 lower-case hex digits."""
    return format_trace_id(context.trace_id)


def span_id(context: SpanContext) -> str:
    """16 lower-case hex digits."""
    return format_span_id(context.span_id)


def around(span: Span | SpanContext) -> Context:
    """A context that holds *span* and nothing else, so no baggage."""
    active = NonRecordingSpan(span) if isinstance(span, SpanContext) else span
    return set_span_in_context(active, Context())
