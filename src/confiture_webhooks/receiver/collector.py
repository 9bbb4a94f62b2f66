"""A real OTLP/HTTP receiver on loopback that keeps spans, points and records as plain values."""

from __future__ import annotations

import importlib.util
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import WebhooksError
from ..remedy import INSTALL_DEMO
from .server import Answer, Incoming, LoopbackServer, Scripted, answer_of

PROTOBUF = "application/x-protobuf"
MISSING = f"decoding OTLP needs opentelemetry-proto. Install it: {INSTALL_DEMO}"
MAX_BODY = 64 * 1024 * 1024
KEPT = 100_000
"""So many of the last spans, points and records each, and as many bytes as one body may have."""
_SPAN_KINDS = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
_STATUS_CODES = ("UNSET", "OK", "ERROR")
_TEMPORALITIES = (None, "delta", "cumulative")

Attributes = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanEvent:
    """Something that happened during a span."""

    name: str
    attributes: Attributes


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanLink:
    """Another span that a span points at."""

    trace_id: str
    span_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A finished span; ids are lower-case hex, kind and status the names in the specification."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str | None
    start_ns: int
    end_ns: int
    status: str
    attributes: Attributes = field(default_factory=dict)
    events: tuple[SpanEvent, ...] = ()
    links: tuple[SpanLink, ...] = ()
    resource: Attributes = field(default_factory=dict)

    @property
    def duration_s(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricPoint:
    """One point of a metric: a ``value``, or a histogram's ``count`` and ``sum``."""

    name: str
    unit: str
    kind: str
    """``sum``, ``gauge``, ``histogram``, ``exponential_histogram`` or ``summary``."""
    attributes: Attributes
    time_ns: int
    value: float | None = None
    count: int | None = None
    sum: float | None = None
    temporality: str | None = None
    """``delta``, ``cumulative``, or ``None`` where there is no such thing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRecord:
    """One log record; without a trace id where it was written outside of any span."""

    event_name: str
    severity: str
    attributes: Attributes
    trace_id: str | None
    time_ns: int


class LocalCollector(LoopbackServer):
    """An OTLP/HTTP receiver on 127.0.0.1, serving inside its ``with`` block.

    ``url`` is what ``OTEL_EXPORTER_OTLP_ENDPOINT`` takes. *answers* are what ``LocalReceiver``
    takes; a request that is not answered with success adds to ``bodies`` only. Raises
    WebhooksError when opentelemetry-proto is not installed.
    """

    def __init__(self, answers: Iterable[Scripted] = ()) -> None:
        if importlib.util.find_spec("opentelemetry.proto") is None:
            raise WebhooksError(MISSING)
        self._script = deque(answer_of(entry) for entry in answers)
        self._guard = threading.Lock()
        self._bodies: deque[tuple[str, bytes]] = deque()
        self._kept: dict[str, deque[Any]] = {path: deque(maxlen=KEPT) for path in _DECODERS}
        super().__init__(self._receive, max_body=MAX_BODY)

    @property
    def spans(self) -> tuple[Span, ...]:
        """The last spans, in order of arrival."""
        return self._kept_at("/v1/traces")

    @property
    def metrics(self) -> tuple[MetricPoint, ...]:
        """The last metric points, in order of arrival."""
        return self._kept_at("/v1/metrics")

    @property
    def logs(self) -> tuple[LogRecord, ...]:
        """The last log records, in order of arrival."""
        return self._kept_at("/v1/logs")

    @property
    def bodies(self) -> tuple[tuple[str, bytes], ...]:
        """Path and unpacked body of the last requests, in order of arrival."""
        with self._guard:
            return tuple(self._bodies)

    def _kept_at(self, path: str) -> tuple[Any, ...]:
        with self._guard:
            return tuple(self._kept[path])

    def _receive(self, request: Incoming) -> Answer:
        kind = request.headers.get("Content-Type", "").partition(";")[0].strip()
        if request.method != "POST" or kind != PROTOBUF:
            return Answer(status=400)
        try:
            decode = _DECODERS[request.path]
            body = _unpacked(request)
            records = decode(body)
        except OverflowError:
            return Answer(status=413)
        except (ValueError, LookupError, EOFError, zlib.error):
            return Answer(status=400)
        with self._guard:
            answer = self._script.popleft() if self._script else Answer()
            self._bodies.append((request.path, body))
            while sum(len(kept) for _, kept in self._bodies) > MAX_BODY:
                self._bodies.popleft()
            if answer.is_success:
                self._kept[request.path].extend(records)
        # An empty body is an empty Export…ServiceResponse: everything was accepted.
        return answer if answer.headers else replace(answer, headers={"Content-Type": PROTOBUF})


def _unpacked(request: Incoming) -> bytes:
    """The body, unpacked; raises OverflowError for one that grows beyond all bounds."""
    if request.headers.get("Content-Encoding", "identity") == "identity":
        return request.body
    unpacking = zlib.decompressobj(wbits=47)  # gzip or zlib
    body = unpacking.decompress(request.body, MAX_BODY + 1)
    if len(body) > MAX_BODY:
        raise OverflowError
    if not unpacking.eof:
        raise EOFError
    return body


def spans(content: bytes) -> list[Span]:
    """The spans of an ``ExportTraceServiceRequest``; raises ValueError when it is none."""
    return [
        Span(
            name=span.name,
            kind=_SPAN_KINDS[span.kind],
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent_id=span.parent_span_id.hex() or None,
            start_ns=span.start_time_unix_nano,
            end_ns=span.end_time_unix_nano,
            status=_STATUS_CODES[span.status.code],
            attributes=_attributes(span),
            events=tuple(
                SpanEvent(name=event.name, attributes=_attributes(event)) for event in span.events
            ),
            links=tuple(
                SpanLink(trace_id=link.trace_id.hex(), span_id=link.span_id.hex())
                for link in span.links
            ),
            resource=_attributes(resource),
        )
        for span, resource in _records("trace", "spans", "spans", content)
    ]


def metric_points(content: bytes) -> list[MetricPoint]:
    """The points of an ``ExportMetricsServiceRequest``; raises ValueError when it is none."""
    metrics = _records("metrics", "metrics", "metrics", content)
    return [point for metric, _ in metrics for point in _points(metric)]


def _points(metric: Any) -> Iterator[MetricPoint]:
    kind = metric.WhichOneof("data")
    if kind is None:
        return
    data = getattr(metric, kind)
    for point in data.data_points:
        which = point.WhichOneof("value") if kind in ("sum", "gauge") else None
        yield MetricPoint(
            name=metric.name,
            unit=metric.unit,
            kind=kind,
            attributes=_attributes(point),
            time_ns=point.time_unix_nano,
            value=getattr(point, which) if which else None,
            count=getattr(point, "count", None),
            sum=getattr(point, "sum", None),
            temporality=_TEMPORALITIES[getattr(data, "aggregation_temporality", 0)],
        )


def log_records(content: bytes) -> list[LogRecord]:
    """The records of an ``ExportLogsServiceRequest``; raises ValueError when it is none."""
    return [
        LogRecord(
            event_name=record.event_name,
            severity=record.severity_text,
            attributes=_attributes(record),
            trace_id=record.trace_id.hex() or None,
            time_ns=record.time_unix_nano or record.observed_time_unix_nano,
        )
        for record, _ in _records("logs", "logs", "log_records", content)
    ]


def _records(signal: str, group: str, name: str, content: bytes) -> Iterator[tuple[Any, Any]]:
    from google.protobuf import message  # type: ignore[import-untyped]  # noqa: PLC0415

    service = f"opentelemetry.proto.collector.{signal}.v1.{signal}_service_pb2"
    request = getattr(importlib.import_module(service), f"Export{signal.title()}ServiceRequest")()
    try:
        request.ParseFromString(content)
    except message.DecodeError as error:
        raise ValueError("not an OTLP request") from error
    for entry in getattr(request, f"resource_{group}"):
        for scope in getattr(entry, f"scope_{group}"):
            for record in getattr(scope, name):
                yield record, entry.resource


def _attributes(part: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in part.attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind) if kind else None


_DECODERS: Mapping[str, Callable[[bytes], list[Any]]] = {
    "/v1/traces": spans,
    "/v1/metrics": metric_points,
    "/v1/logs": log_records,
}
