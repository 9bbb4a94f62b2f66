"""Trace contexts and spans: real ids whether or not an SDK records them.

Of the environment and of stored deliveries only ``traceparent`` and ``tracestate`` are read;
baggage is neither read nor kept.
"""

from __future__ import annotations

import functools
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import datetime
from importlib import metadata
from typing import TYPE_CHECKING, cast
from weakref import WeakSet

from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    format_span_id,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ..delivery import TraceContext
from ..errors import Fault
from .names import ERROR_TYPE

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer, TracerProvider
    from opentelemetry.util.types import AttributeValue

Attributes = Mapping[str, object]
PROPAGATORS = "OTEL_PROPAGATORS"
made_here: WeakSet[TracerProvider] = WeakSet()
"""Tracer providers of earlier runs in this process: they are nobody else's."""
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


class Tracing:
    """Spans from *tracer*. Where it makes none, a span has its parent's context.

    That is what OpenTelemetry's own no-op tracer does; a root then has *fallback*, so that
    an id is there without an SDK, with a disabled one, and under an unsampled parent.
    """

    def __init__(
        self,
        tracer: Tracer | None,
        fallback: SpanContext,
        report: Callable[[str, BaseException], None],
    ) -> None:
        self.tracer = tracer
        self._report = report
        self.fallback = fallback

    def start(
        self,
        name: str,
        *,
        parent: SpanContext | None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes | None = None,
        links: Sequence[SpanContext] = (),
        started_at: datetime | None = None,
    ) -> Span:
        """A new span; it is not made the current one. Never raises."""
        if self.tracer is not None:
            try:
                span = self.tracer.start_span(
                    name,
                    context=around(parent) if parent else Context(),
                    kind=kind,
                    attributes=storable(attributes or {}),
                    links=[Link(context) for context in links],
                    start_time=nanoseconds(started_at) if started_at else None,
                )
                if span.get_span_context().is_valid:
                    return span
            except Exception as error:  # noqa: BLE001  somebody's provider: go on unrecorded
                self._report("telemetry.start_span", error)
        return NonRecordingSpan(parent or self.fallback)


def nanoseconds(instant: datetime) -> int:
    """*instant* in nanoseconds since 1970."""
    return int(instant.timestamp() * 1e6) * 1000


def set_failed(span: Span, error_type: str | None) -> None:
    """Mark *span* as failed. Its status has no description: that could hold anything."""
    span.set_status(Status(StatusCode.ERROR))
    if error_type is not None:
        span.set_attributes(storable({ERROR_TYPE: error_type}))


def storable(attributes: Attributes) -> dict[str, AttributeValue]:
    """*attributes* without those that are not known, cleaned."""
    return {
        key: cast("AttributeValue", clean(value))
        for key, value in attributes.items()
        if value is not None
    }


def clean(value: object) -> object:
    """*value* with what UTF-8 cannot carry escaped; sequences are cleaned item by item.

    One lone surrogate (a file name that is not UTF-8) would fail a whole OTLP batch.
    """
    if isinstance(value, str):
        if value.isascii():
            return value
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return clean(str(value))


@functools.cache
def ensure_propagators() -> Fault | None:
    """Import ``opentelemetry.propagate``, which raises when one of its variable is missing.

    Every instrumentation imports it. The propagators that are installed are kept.
    """
    try:
        import opentelemetry.propagate  # noqa: PLC0415
    except Exception:  # noqa: BLE001  not installed, or broken
        given = os.environ.get(PROPAGATORS, "")
        names = [name.strip() for name in given.split(",")]
        os.environ[PROPAGATORS] = ",".join(filter(_loads, names)) or "tracecontext"
        try:
            with suppress(Exception):
                import opentelemetry.propagate  # noqa: F401, PLC0415
        finally:
            os.environ[PROPAGATORS] = given
        problem = "names a propagator that is not installed or broken, so it is left out"
        return Fault(PROPAGATORS, problem, "Install its package, or take its name out")
    return None


def _loads(name: str) -> bool:
    try:
        (found,) = metadata.entry_points(group="opentelemetry_propagator", name=name)
        found.load()()
    except Exception:  # noqa: BLE001  not installed, or broken
        return False
    return True


def without_http_spans() -> AbstractContextManager[None]:
    """Requests in the block make no spans, whoever has switched their instrumentation on."""
    try:
        ensure_propagators()
        from opentelemetry.instrumentation.utils import (  # noqa: PLC0415
            suppress_http_instrumentation,
        )

        return cast("AbstractContextManager[None]", suppress_http_instrumentation())
    except Exception:  # noqa: BLE001  a span too many; the delivery is what counts
        return nullcontext()
