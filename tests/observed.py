"""What the attempts of a delivery export, in memory."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from opentelemetry.instrumentation._semconv import _OpenTelemetrySemanticConventionStability
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from confiture_webhooks.telemetry import Telemetry
from confiture_webhooks.telemetry.providers import Providers
from samples import delivery

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

    from confiture_webhooks.transport import Request, Response, Transport

PATIENCE = timedelta(seconds=20)


class Observed:
    """Everything exported of attempts, while somebody has `requests` instrumented, too."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "http")
        # Read once per process: forget it, whichever test was the first.
        monkeypatch.setattr(_OpenTelemetrySemanticConventionStability, "_initialized", False)
        for side in ("REQUEST", "RESPONSE"):
            monkeypatch.setenv(f"OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_{side}", ".*")
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        tracing = TracerProvider(shutdown_on_exit=False)
        tracing.add_span_processor(SimpleSpanProcessor(self._exporter))
        metering = MeterProvider([self._reader], shutdown_on_exit=False)
        self._instrumentor = RequestsInstrumentor()
        self._instrumentor.instrument(tracer_provider=tracing, meter_provider=metering)
        self._providers = Providers(tracer_provider=tracing, meter_provider=metering)
        self.delivery = Telemetry(self._providers).delivery(delivery())

    def close(self) -> None:
        """Instrument no more."""
        self._instrumentor.uninstrument()

    def send(
        self, transport: Transport, request: Request, timeout: timedelta = PATIENCE
    ) -> Response:
        """Send *request* as an attempt of a delivery; raises what the transport raises."""
        with self.delivery.attempt(request) as attempt:
            attempt.response = transport.send(attempt.request, timeout=timeout)
        return attempt.response

    @property
    def attempts(self) -> list[ReadableSpan]:
        """The attempts' spans."""
        found = self._exporter.get_finished_spans()
        return [one for one in found if one.kind is SpanKind.CLIENT]

    def durations(self) -> Iterator[tuple[str, dict[str, object], int]]:
        """The scope, attributes and count of each series of ``http.client.request.duration``."""
        data = self._reader.get_metrics_data()
        for scope in data.resource_metrics[0].scope_metrics if data else ():
            for metric in scope.metrics:
                if metric.name == "http.client.request.duration":
                    for point in metric.data.data_points:
                        yield scope.scope.name, dict(point.attributes or {}), point.count  # type: ignore[union-attr]

    def everything(self) -> str:
        """All of it as one text."""
        spans = "".join(span.to_json() for span in self._exporter.get_finished_spans())
        metrics = self._reader.get_metrics_data()
        return spans + (metrics.to_json() if metrics else "")
