"""The SDK for the ``confiture`` command: set up from ``OTEL_*``, shut down within a budget.

Importing this file imports the SDK; the facade does so only when an exporter is asked for.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from opentelemetry import _logs, metrics, trace
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider, ObservableCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import Aggregation, ExponentialBucketHistogramAggregation
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider

from ..errors import Fault
from . import names
from .discreet import DiscreetProvider
from .export import TalliedLogProcessor, TalliedMetricExporter, TalliedSpanProcessor
from .exporters import Late, Workshop
from .plan import SIGNALS, Plan
from .quiet import Complaints
from .tracing import made_here

_TUNING = {"traces": "OTEL_BSP_*", "metrics": "OTEL_METRIC_EXPORT_*", "logs": "OTEL_BLRP_*"}
RUN_EVENTS = 2000
"""Successes beyond the cap of migration spans are events of the run's span, 128 by default."""
_DELTA = AggregationTemporality.DELTA
_TEMPORALITIES: Mapping[str, dict[type, AggregationTemporality]] = {
    "cumulative": {},
    "delta": dict.fromkeys((Counter, Histogram, ObservableCounter), _DELTA),
    "lowmemory": dict.fromkeys((Counter, Histogram), _DELTA),
}


class _Counting(Protocol):
    @property
    def lost(self) -> int: ...


@dataclass(slots=True)
class Sdk:
    """The providers that were set up; ``None`` for a signal nobody asked for."""

    tracer_provider: TracerProvider | None = None
    meter_provider: MeterProvider | None = None
    logger_provider: LoggerProvider | None = None
    counting: dict[str, list[_Counting]] = field(
        default_factory=lambda: {what: [] for what in names.LOST}
    )
    """Who counts what did not arrive, by what it is."""
    faults_now: list[Fault] = field(default_factory=list)
    workshop: Workshop | None = None
    uninstrument: Callable[[], None] = lambda: None

    def await_ready(self) -> None:
        """Wait, a second at most, until ``requests`` is traced."""
        if self.workshop is not None:
            self.workshop.await_first()

    def faults(self, within: timedelta) -> list[Fault]:
        """What turned out wrong by the time all is set up."""
        return self.workshop.finish(within) if self.workshop is not None else []

    def shutdown(self, budget: timedelta) -> Mapping[str, int] | None:
        """Export what is left, all signals at once, and leave after *budget* whatever happens.

        How many of each kind did not arrive; ``None`` when all is known to have arrived.
        The providers' own time-outs are not kept when a collector is dead, hence the threads.
        """
        deadline = time.monotonic() + budget.total_seconds()
        providers = (self.tracer_provider, self.meter_provider, self.logger_provider)
        threads = [
            threading.Thread(target=_shut, args=(provider,), daemon=True, name="webhooks-flush")
            for provider in providers
            if provider is not None
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        is_cut = any(thread.is_alive() for thread in threads)
        lost = {what: sum(one.lost for one in them) for what, them in self.counting.items()}
        return lost if is_cut or any(lost.values()) else None


def _shut(provider: TracerProvider | MeterProvider | LoggerProvider) -> None:
    with suppress(Exception):  # what did not arrive is counted
        provider.shutdown()


def set_up(
    plan: Plan,
    environ: Mapping[str, str],
    about: Mapping[str, str],
    service: str | None,
    complaints: Complaints,
) -> Sdk:
    """Providers for *plan*, also as the global ones; exporters follow in the background."""
    sdk = Sdk()
    resource = _resource(about, service)
    sdk.workshop = workshop = Workshop(complaints, lambda: _instrument_requests(sdk))
    for signal in SIGNALS:
        late = [workshop.order(export) for export in plan.exports if export.signal == signal]
        if not late:
            continue
        try:
            _MAKERS[signal](sdk, late, environ, resource)
        except Exception as error:  # noqa: BLE001  its text may quote the value
            problem = f"has a value OpenTelemetry refuses ({type(error).__name__}): no {signal}"
            sdk.faults_now.append(Fault(_TUNING[signal], problem, "Correct or unset it"))
    _make_global(sdk)
    workshop.start()
    return sdk


def _resource(about: Mapping[str, str], service: str | None) -> Resource:
    """The process's own resource over *about*, as service *service* unless it is named already."""
    detected = Resource.create()
    attributes = {**about, **detected.attributes}
    if service is not None:
        attributes["service.name"] = service
    return Resource(attributes, detected.schema_url)


def _add_traces(
    sdk: Sdk, exporters: list[Late], environ: Mapping[str, str], resource: Resource
) -> None:
    is_limited = bool(environ.get("OTEL_SPAN_EVENT_COUNT_LIMIT"))
    limits = SpanLimits() if is_limited else SpanLimits(max_events=RUN_EVENTS)
    provider = TracerProvider(resource=resource, shutdown_on_exit=False, span_limits=limits)
    for late in exporters:
        processor = TalliedSpanProcessor(late)
        sdk.counting[names.LOST_SPANS].append(processor)
        provider.add_span_processor(processor)
    sdk.tracer_provider = provider


def _add_metrics(
    sdk: Sdk, exporters: list[Late], environ: Mapping[str, str], resource: Resource
) -> None:
    temporality, aggregation = _preferences(environ)
    tallied = [TalliedMetricExporter(late, temporality, aggregation) for late in exporters]
    sdk.counting[names.LOST_POINTS] += tallied
    sdk.meter_provider = MeterProvider(
        metric_readers=[PeriodicExportingMetricReader(exporter) for exporter in tallied],
        resource=resource,
        shutdown_on_exit=False,
    )


def _add_logs(
    sdk: Sdk, exporters: list[Late], environ: Mapping[str, str], resource: Resource
) -> None:
    del environ  # the SDK reads what it needs itself
    provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
    for late in exporters:
        processor = TalliedLogProcessor(late)
        sdk.counting[names.LOST_RECORDS].append(processor)
        provider.add_log_record_processor(processor)
    sdk.logger_provider = provider


_MAKERS = {"traces": _add_traces, "metrics": _add_metrics, "logs": _add_logs}


def _preferences(
    environ: Mapping[str, str],
) -> tuple[dict[type, AggregationTemporality], dict[type, Aggregation]]:
    """Temporality, delta unless the environment prefers another, and histograms' aggregation.

    Cumulative sums of processes that live for seconds add up to nothing.
    """
    prefix = "OTEL_EXPORTER_OTLP_METRICS_"
    wanted = environ.get(f"{prefix}TEMPORALITY_PREFERENCE", "").strip().lower()
    shape = environ.get(f"{prefix}DEFAULT_HISTOGRAM_AGGREGATION", "").strip().lower()
    is_exponential = shape == "base2_exponential_bucket_histogram"
    aggregation: dict[type, Aggregation] = (
        {Histogram: ExponentialBucketHistogramAggregation()} if is_exponential else {}
    )
    return _TEMPORALITIES.get(wanted, _TEMPORALITIES["delta"]), aggregation


def _make_global(sdk: Sdk) -> None:
    """So that users' own hooks are in the same trace. A second run in a process keeps its own."""
    if sdk.tracer_provider is not None:
        made_here.add(sdk.tracer_provider)
        trace.set_tracer_provider(sdk.tracer_provider)
    if sdk.meter_provider is not None:
        metrics.set_meter_provider(sdk.meter_provider)
    if sdk.logger_provider is not None:
        _logs.set_logger_provider(sdk.logger_provider)


def _instrument_requests(sdk: Sdk) -> Fault | None:
    """Trace every ``requests`` call of the process, users' hooks included."""
    if sdk.tracer_provider is None and sdk.meter_provider is None:
        return None
    # Read once per process, at the first instrumentor: without it the HTTP names are the old ones.
    os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")
    try:
        from opentelemetry.instrumentation.requests import RequestsInstrumentor  # noqa: PLC0415

        instrumentor = RequestsInstrumentor()
        if not instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.instrument(
                tracer_provider=DiscreetProvider(sdk.tracer_provider or trace.NoOpTracerProvider()),
                meter_provider=sdk.meter_provider,
                skip_dep_check=True,
            )
            sdk.uninstrument = instrumentor.uninstrument
    except Exception as error:  # noqa: BLE001  deliveries go out without attempt spans then
        problem = f"requests cannot be traced ({type(error).__name__})"
        remedy = "Run: pip install -U opentelemetry-instrumentation-requests"
        return Fault("opentelemetry-instrumentation-requests", problem, remedy)
    return None
