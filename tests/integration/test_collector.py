"""The local collector with the real exporters of OpenTelemetry."""

from __future__ import annotations

import gzip
import importlib.util
import logging
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from confiture_webhooks.errors import WebhooksError
from confiture_webhooks.receiver.collector import PROTOBUF, LocalCollector

RESOURCE = Resource({"service.name": "confiture"})


@pytest.fixture
def collector() -> Iterator[LocalCollector]:
    """A collector of this test's own."""
    with LocalCollector() as collector:
        yield collector


def export_spans(url: str, compression: Compression = Compression.NoCompression) -> Any:
    """Two spans, parent and child, exported for real; returns the parent's context."""
    provider = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(url + "/v1/traces", compression=compression)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("scope", "1.2", "https://example.test/schema")
    with tracer.start_as_current_span("parent", attributes={"list": ["a", "b"]}) as parent:
        linked = Link(parent.get_span_context(), {"why": "test"})
        child = tracer.start_span("child", kind=SpanKind.CLIENT, links=[linked])
        child.add_event("retry", {"delay_s": 1.5})
        child.set_status(Status(StatusCode.ERROR, "503"))
        child.end()
    provider.shutdown()
    return parent.get_span_context()


@pytest.mark.parametrize("compression", list(Compression))
def test_spans(collector: LocalCollector, compression: Compression) -> None:
    """A span arrives with ids, parent, kind, status, attributes, events, links and origin."""
    context = export_spans(collector.url, compression)
    child, parent = collector.spans
    assert (parent.name, parent.kind, parent.status) == ("parent", "INTERNAL", "UNSET")
    assert parent.trace_id == f"{context.trace_id:032x}"
    assert (parent.span_id, parent.parent_id) == (f"{context.span_id:016x}", None)
    assert parent.attributes == {"list": ["a", "b"]}
    assert (child.kind, child.parent_id) == ("CLIENT", parent.span_id)
    assert child.status == "ERROR"
    assert [(e.name, e.attributes) for e in child.events] == [("retry", {"delay_s": 1.5})]
    assert [(n.trace_id, n.span_id) for n in child.links] == [(parent.trace_id, parent.span_id)]
    assert child.resource["service.name"] == "confiture"
    assert 0 <= child.duration_s <= parent.duration_s
    assert parent.start_ns <= child.start_ns <= child.end_ns <= parent.end_ns


def test_metrics(collector: LocalCollector) -> None:
    """A point arrives with unit, attributes, value or sum, and temporality."""
    delta = AggregationTemporality.DELTA
    exporter = OTLPMetricExporter(
        collector.url + "/v1/metrics", preferred_temporality={Counter: delta, Histogram: delta}
    )
    provider = MeterProvider(
        [PeriodicExportingMetricReader(exporter)], RESOURCE, shutdown_on_exit=False
    )
    meter = provider.get_meter("scope")
    meter.create_counter("sent", "{delivery}", "How many").add(2, {"endpoint": "a"})
    meter.create_up_down_counter("size").add(-3)
    meter.create_gauge("level").set(0.5)
    histogram = meter.create_histogram("took", "s", explicit_bucket_boundaries_advisory=[1, 5])
    histogram.record(0.2)
    histogram.record(9)
    provider.shutdown()
    points = {point.name: point for point in collector.metrics}
    sent, took = points["sent"], points["took"]
    assert (sent.kind, sent.unit, sent.temporality) == ("sum", "{delivery}", "delta")
    assert (sent.value, sent.attributes) == (2, {"endpoint": "a"})
    assert (points["size"].value, points["size"].temporality) == (-3, "cumulative")
    level = points["level"]
    assert (level.kind, level.value, level.temporality) == ("gauge", 0.5, None)
    assert (took.kind, took.count, took.sum) == ("histogram", 2, 9.2)


def test_logs(collector: LocalCollector) -> None:
    """A record arrives with event name, severity, attributes and ids."""
    provider = LoggerProvider(RESOURCE, shutdown_on_exit=False)
    exporter = OTLPLogExporter(collector.url + "/v1/logs")
    provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
    provider.get_logger("scope").emit(
        LogRecord(
            timestamp=5,
            event_name="webhook.delivered",
            severity_text="INFO",
            severity_number=SeverityNumber.INFO,
            attributes={"attempts": 2, "nested": [1, 2], "bytes": b"bytes"},
        )
    )
    provider.shutdown()
    (record,) = collector.logs
    assert (record.event_name, record.severity) == ("webhook.delivered", "INFO")
    assert record.time_ns == 5
    assert record.attributes == {"attempts": 2, "nested": [1, 2], "bytes": b"bytes"}
    assert record.trace_id is None


def test_bodies_are_readable(collector: LocalCollector) -> None:
    """Everything that arrived can be searched, though it was compressed on the way."""
    export_spans(collector.url, Compression.Gzip)
    assert any(b"delay_s" in body for _, body in collector.bodies)


def test_scripted_refusal(caplog: pytest.LogCaptureFixture) -> None:
    """What is answered with an error is not kept: it was not accepted."""
    with LocalCollector(answers=[400, 400]) as collector, caplog.at_level(logging.CRITICAL):
        export_spans(collector.url)
        assert collector.spans == ()
        assert any(b"parent" in body for _, body in collector.bodies)


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"),
    [
        ("POST", "/v1/traces", {"Content-Type": PROTOBUF}, b"\xff\xff", 400),
        (
            "POST",
            "/v1/logs",
            {"Content-Type": PROTOBUF, "Content-Encoding": "gzip"},
            gzip.compress(bytes(65 * 1024 * 1024)),
            413,
        ),
        ("POST", "/v1/logs", {"Content-Type": PROTOBUF, "Content-Encoding": "gzip"}, b"x", 400),
        ("POST", "/v1/logs", {"Content-Type": PROTOBUF, "Content-Encoding": "br"}, b"", 400),
        ("POST", "/v1/metrics", {"Content-Type": "application/json"}, b"{}", 400),
        ("GET", "/v1/traces", {}, b"", 400),
        ("POST", "/v2/traces", {"Content-Type": PROTOBUF}, b"", 400),
    ],
)
def test_not_otlp(  # noqa: PLR0913
    collector: LocalCollector,
    method: str,
    path: str,
    headers: dict[str, str],
    body: bytes,
    status: int,
) -> None:
    """What is not OTLP in protobuf is refused: with 413 if it grows too large, else with 400."""
    answer = requests.request(method, collector.url + path, headers=headers, data=body, timeout=5)
    assert answer.status_code == status


def test_cut_short(collector: LocalCollector) -> None:
    """A compressed body that ends too early is refused."""
    for encoding, whole in (("gzip", gzip.compress(b"a" * 99)), ("deflate", zlib.compress(b"a"))):
        headers = {"Content-Type": PROTOBUF, "Content-Encoding": encoding}
        url = collector.url + "/v1/logs"
        answer = requests.post(url, headers=headers, data=whole[:-3], timeout=5)
        assert answer.status_code == 400


def test_without_protobuf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without opentelemetry-proto the error names the extra to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(WebhooksError, match=r"confiture-webhooks\[demo\]"):
        LocalCollector()
