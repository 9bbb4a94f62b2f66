"""Exporters that keep count, because a finished flush proves nothing. Imports the SDK."""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any

import requests
from opentelemetry.sdk._logs import ReadWriteLogRecord
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExportResult
from opentelemetry.sdk.metrics.export import (
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult

from ..errors import Fault
from ..terminal import Stderr
from .plan import CONSOLE, GRPC, INSTALL, TEMPORALITY, Export

_OTLP = {
    "traces": ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "OTLPSpanExporter"),
    "metrics": ("opentelemetry.exporter.otlp.proto.http.metric_exporter", "OTLPMetricExporter"),
    "logs": ("opentelemetry.exporter.otlp.proto.http._log_exporter", "OTLPLogExporter"),
}
_CONSOLE = {
    "traces": ("opentelemetry.sdk.trace.export", "ConsoleSpanExporter"),
    "metrics": ("opentelemetry.sdk.metrics.export", "ConsoleMetricExporter"),
    "logs": ("opentelemetry.sdk._logs.export", "ConsoleLogRecordExporter"),
}
_REDIRECTS = range(300, 400)
_REFUSALS = range(400, 600)
_REFUSED_DELTA = (
    f"this collector refuses delta metrics. Set {TEMPORALITY}=cumulative, or send to an "
    "OpenTelemetry collector with deltatocumulative"
)


class Tally:
    """How many items of one export have not arrived so far, and why."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.lost = 0
        self.reason: str | None = None

    def made(self, count: int) -> None:
        """*count* more items want to be exported; fewer, when it is negative."""
        with self._lock:
            self.lost += count


class CollectorSession(requests.Session):
    """Keeps why a collector refused, and to the certificate it was given."""

    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self._tally = tally

    def merge_environment_settings(self, *args: Any, **kwargs: Any) -> Any:
        """REQUESTS_CA_BUNDLE holds only where OpenTelemetry's own variable names no file."""
        merged = super().merge_environment_settings(*args, **kwargs)
        if isinstance(self.verify, str):
            merged["verify"] = self.verify
        return merged

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        """A redirect or a web page is no collector's answer: an error, which nothing retries."""
        answer = super().request(*args, **kwargs)
        code = answer.status_code
        is_page = answer.ok and answer.headers.get("Content-Type", "").startswith("text/html")
        if code in _REDIRECTS or is_page:
            self._tally.reason = f"no collector answers there (HTTP {code})"
            raise ValueError(self._tally.reason)
        if code in _REFUSALS:
            is_delta = "temporality" in answer.text.lower()
            self._tally.reason = _REFUSED_DELTA if is_delta else f"the collector answers {code}"
        return answer


def maker_of(export: Export) -> Any:
    """The exporter's class. Raises ImportError when its package is not installed."""
    module, name = (_CONSOLE if export.protocol == CONSOLE else _OTLP)[export.signal]
    if export.protocol == GRPC:
        module = module.replace(".http.", ".grpc.")
    return getattr(import_module(module), name)


def exporter_for(export: Export, tally: Tally, **preferences: Any) -> Any:
    """The exporter; *tally* gets a collector's reason to refuse. Raises ImportError."""
    if export.protocol == CONSOLE:
        return maker_of(export)(out=Stderr(), **preferences)
    if export.protocol != GRPC:
        preferences["session"] = CollectorSession(tally)
    return maker_of(export)(endpoint=export.endpoint, timeout=export.timeout_s, **preferences)


def probe(export: Export) -> str | None:
    """Send an empty batch of *export*'s signal: why the collector does not take it, if so.

    With the address, headers and certificates of a run. Waits up to its time-out and raises
    what the exporter raises.
    """
    tally = Tally()
    exporter = exporter_for(export, tally)
    try:
        result = exporter.export(MetricsData([]) if export.signal == "metrics" else [])
    finally:
        exporter.shutdown()
    return None if result.name == "SUCCESS" else tally.reason or "the collector does not answer"


def fault_of(export: Export, error: Exception) -> Fault:
    """The reason *export* has no exporter."""
    if not isinstance(error, ImportError):  # its text may quote a header or a password
        problem = f"the exporter cannot be made ({type(error).__name__})"
        return Fault(export.setting, problem, "Check the OTEL_* variables")
    if export.protocol == GRPC:
        remedy = "Run: pip install opentelemetry-exporter-otlp-proto-grpc"
        return Fault("OTEL_EXPORTER_OTLP_PROTOCOL", "needs a package that is missing", remedy)
    return Fault(export.setting, "needs the OTLP exporter, which is not installed", INSTALL)


def tallied(
    exporter: Any,
    tally: Tally,
    failure: Any,
    count: Callable[[Any], int] = len,
    *,
    makes: bool = False,
) -> Any:
    """*exporter*, whose exceptions are failures and whose successes *tally* takes off.

    *makes*: whether items are made when they are exported, as data points are.
    """
    export = exporter.export

    def counted(batch: Any, *args: Any, **kwargs: Any) -> Any:
        tally.made(count(batch) if makes else 0)
        try:
            result = export(batch, *args, **kwargs)
        except Exception:  # noqa: BLE001  said once, at the end, with the tally
            return failure
        if result is not failure:
            tally.made(-count(batch))
        return result

    exporter.export = counted
    return exporter


class SpanProcessor(BatchSpanProcessor):
    """Counts sampled spans as they end, also those a full queue then drops."""

    def __init__(self, exporter: Any, tally: Tally) -> None:
        self._tally = tally
        super().__init__(tallied(exporter, tally, SpanExportResult.FAILURE))

    def on_end(self, span: ReadableSpan) -> None:
        """Queue *span*."""
        if span.context is not None and span.context.trace_flags.sampled:
            self._tally.made(1)
        super().on_end(span)


class LogProcessor(BatchLogRecordProcessor):
    """Counts log records as they are emitted."""

    def __init__(self, exporter: Any, tally: Tally) -> None:
        self._tally = tally
        super().__init__(tallied(exporter, tally, LogRecordExportResult.FAILURE))

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Queue *log_record*."""
        self._tally.made(1)
        super().on_emit(log_record)


def metric_reader(exporter: Any, tally: Tally) -> PeriodicExportingMetricReader:
    """A reader that counts data points on their way."""
    failure = MetricExportResult.FAILURE
    return PeriodicExportingMetricReader(tallied(exporter, tally, failure, _points, makes=True))


def _points(metrics_data: MetricsData) -> int:
    return sum(
        len(metric.data.data_points)
        for resource in metrics_data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    )
