"""OTLP requests, decoded from their protobuf into plain values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import WebhooksError
from ..remedy import INSTALL_DEMO

MISSING = f"decoding OTLP needs opentelemetry-proto. Install it: {INSTALL_DEMO}"
SPAN_KINDS = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
STATUS_CODES = ("UNSET", "OK", "ERROR")
_TEMPORALITIES = (None, "delta", "cumulative")

Attributes = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanEvent:
    """Something that happened during a span."""

    name: str
    time_ns: int
    attributes: Attributes


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanLink:
    """Another span that a span points at."""

    trace_id: str
    span_id: str
    attributes: Attributes


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A finished span; ids are lower-case hex."""

    name: str
    kind: str
    """One of ``SPAN_KINDS``."""
    trace_id: str
    span_id: str
    parent_id: str | None
    start_ns: int
    end_ns: int
    status: str
    """One of ``STATUS_CODES``."""
    status_message: str
    attributes: Attributes = field(default_factory=dict)
    events: tuple[SpanEvent, ...] = ()
    links: tuple[SpanLink, ...] = ()
    trace_state: str = ""
    resource: Attributes = field(default_factory=dict)
    scope: str = ""
    scope_version: str = ""
    schema_url: str = ""

    @property
    def duration_s(self) -> float:
        """How long it took."""
        return (self.end_ns - self.start_ns) / 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricPoint:
    """One point of a metric: a ``value``, or a histogram's ``count``, ``sum`` and ``buckets``."""

    name: str
    description: str
    unit: str
    kind: str
    """``sum``, ``gauge``, ``histogram``, ``exponential_histogram`` or ``summary``."""
    attributes: Attributes
    start_ns: int
    time_ns: int
    value: float | None = None
    count: int | None = None
    sum: float | None = None
    buckets: tuple[int, ...] = ()
    bounds: tuple[float, ...] = ()
    temporality: str | None = None
    """``delta``, ``cumulative``, or ``None`` where there is no such thing."""
    is_monotonic: bool | None = None
    exemplar_trace_ids: tuple[str, ...] = ()
    resource: Attributes = field(default_factory=dict)
    scope: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRecord:
    """One log record; ``None`` for ids that are not there."""

    event_name: str
    severity: str
    severity_number: int
    body: Any
    attributes: Attributes
    trace_id: str | None
    span_id: str | None
    time_ns: int
    resource: Attributes = field(default_factory=dict)
    scope: str = ""


def spans(content: bytes) -> list[Span]:
    """The spans of an ``ExportTraceServiceRequest``; raises ValueError when it is none."""
    return [_span(*one) for one in _records("trace", "spans", "spans", content)]


def metric_points(content: bytes) -> list[MetricPoint]:
    """The points of an ``ExportMetricsServiceRequest``; raises ValueError when it is none."""
    found = _records("metrics", "metrics", "metrics", content)
    return [point for one in found for point in _points(*one)]


def log_records(content: bytes) -> list[LogRecord]:
    """The records of an ``ExportLogsServiceRequest``; raises ValueError when it is none."""
    return [_log_record(*one) for one in _records("logs", "logs", "log_records", content)]


def _records(
    signal: str, plural: str, records: str, content: bytes
) -> Iterator[tuple[Any, Attributes, Any]]:
    """Each record in *content*, the attributes of its resource, and the group of its scope."""
    service = f"opentelemetry.proto.collector.{signal}.v1.{signal}_service_pb2"
    name = f"Export{signal.title()}ServiceRequest"
    try:
        message = getattr(__import__(service, fromlist=[name]), name)()
        from google.protobuf.message import (  # type: ignore[import-untyped]  # noqa: PLC0415
            DecodeError,
        )
    except ImportError as error:
        raise WebhooksError(MISSING) from error
    try:
        message.ParseFromString(content)
    except DecodeError as error:
        raise ValueError("not an OTLP request") from error
    for entry in getattr(message, f"resource_{plural}"):
        resource = _attributes(entry.resource)
        for group in getattr(entry, f"scope_{plural}"):
            for record in getattr(group, records):
                yield record, resource, group


def _span(span: Any, resource: Attributes, group: Any) -> Span:
    return Span(
        name=span.name,
        kind=SPAN_KINDS[span.kind],
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex() or None,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        status=STATUS_CODES[span.status.code],
        status_message=span.status.message,
        attributes=_attributes(span),
        events=tuple(
            SpanEvent(name=one.name, time_ns=one.time_unix_nano, attributes=_attributes(one))
            for one in span.events
        ),
        links=tuple(
            SpanLink(
                trace_id=one.trace_id.hex(), span_id=one.span_id.hex(), attributes=_attributes(one)
            )
            for one in span.links
        ),
        trace_state=span.trace_state,
        resource=resource,
        scope=group.scope.name,
        scope_version=group.scope.version,
        schema_url=group.schema_url,
    )


def _points(metric: Any, resource: Attributes, group: Any) -> Iterator[MetricPoint]:
    kind = metric.WhichOneof("data")
    if kind is None:
        return
    data = getattr(metric, kind)
    for point in data.data_points:
        yield MetricPoint(
            name=metric.name,
            description=metric.description,
            unit=metric.unit,
            kind=kind,
            attributes=_attributes(point),
            start_ns=point.start_time_unix_nano,
            time_ns=point.time_unix_nano,
            temporality=_TEMPORALITIES[getattr(data, "aggregation_temporality", 0)],
            is_monotonic=data.is_monotonic if kind == "sum" else None,
            exemplar_trace_ids=tuple(one.trace_id.hex() for one in getattr(point, "exemplars", ())),
            resource=resource,
            scope=group.scope.name,
            **_measured(kind, point),
        )


def _measured(kind: str, point: Any) -> dict[str, Any]:
    if kind in ("sum", "gauge"):
        which = point.WhichOneof("value")
        return {"value": getattr(point, which)} if which else {}
    measured: dict[str, Any] = {"count": point.count, "sum": point.sum}
    if kind == "histogram":
        measured["buckets"] = tuple(point.bucket_counts)
        measured["bounds"] = tuple(point.explicit_bounds)
    return measured


def _log_record(record: Any, resource: Attributes, group: Any) -> LogRecord:
    return LogRecord(
        event_name=record.event_name,
        severity=record.severity_text,
        severity_number=record.severity_number,
        body=_value(record.body),
        attributes=_attributes(record),
        trace_id=record.trace_id.hex() or None,
        span_id=record.span_id.hex() or None,
        time_ns=record.time_unix_nano or record.observed_time_unix_nano,
        resource=resource,
        scope=group.scope.name,
    )


def _attributes(part: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in part.attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return {pair.key: _value(pair.value) for pair in value.kvlist_value.values}
    return getattr(value, kind)
