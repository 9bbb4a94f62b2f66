"""Starting and ending spans; real ids whether or not somebody records them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
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
)

from .context import around
from .names import ERROR_TYPE
from .text import clean

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer, TracerProvider
    from opentelemetry.util.types import AttributeValue

Attributes = Mapping[str, object]

made_here: WeakSet[TracerProvider] = WeakSet()
"""Tracer providers of earlier runs in this process: they are nobody else's."""


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


def storable(attributes: Attributes) -> dict[str, AttributeValue]:
    """*attributes* without those that are not known, cleaned."""
    return {
        key: cast("AttributeValue", clean(value))
        for key, value in attributes.items()
        if value is not None
    }


def set_failed(span: Span, error_type: str | None) -> None:
    """Mark *span* as failed. Its status has no description: that could hold anything."""
    span.set_status(Status(StatusCode.ERROR))
    if error_type is not None:
        span.set_attributes(storable({ERROR_TYPE: error_type}))
