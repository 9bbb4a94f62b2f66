"""What the instrumentation of requests exports, in memory."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from opentelemetry.instrumentation._semconv import _OpenTelemetrySemanticConventionStability
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

if TYPE_CHECKING:
    import pytest


class Observed:
    """Everything that instrumentation exported."""

    def __init__(self, conventions: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", conventions)
        # Read once per process: forget it, so that each test has its own.
        monkeypatch.setattr(_OpenTelemetrySemanticConventionStability, "_initialized", False)
        for side in ("REQUEST", "RESPONSE"):
            monkeypatch.setenv(f"OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_{side}", ".*")
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracing = TracerProvider(shutdown_on_exit=False)
        self.tracing.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.tracing.get_tracer("test")
        self._metering = MeterProvider([self._reader], shutdown_on_exit=False)
        self._instrumentor = RequestsInstrumentor()
        self._instrumentor.instrument(tracer_provider=self.tracing, meter_provider=self._metering)

    def close(self) -> None:
        """Instrument no more."""
        self._instrumentor.uninstrument()
        self._metering.shutdown()

    @property
    def attempts(self) -> list[ReadableSpan]:
        """The attempts' spans, one at least: that of an attempt that was given up may end later."""
        until = time.monotonic() + 20
        while True:
            finished = self._exporter.get_finished_spans()
            found = [one for one in finished if one.kind is SpanKind.CLIENT]
            if found or time.monotonic() > until:
                return found
            time.sleep(0.01)

    def everything(self) -> str:
        """All of it as one text."""
        spans = "".join(span.to_json() for span in self._exporter.get_finished_spans())
        metrics = self._reader.get_metrics_data()
        return spans + (metrics.to_json() if metrics else "")
