"""The SDK for the ``confiture`` command: set up from ``OTEL_*``, shut down within a budget."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from opentelemetry import _logs, metrics, trace
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider, ObservableCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.trace import Span, Status, StatusCode, Tracer
from opentelemetry.trace import TracerProvider as AnyTracerProvider

from ..errors import Fault
from . import names
from .context import ensure_propagators, made_here, storable
from .exporting import (
    LogProcessor,
    SpanProcessor,
    Tally,
    exporter_for,
    fault_of,
    maker_of,
    metric_reader,
)
from .plan import RESOURCE, SIGNALS, TEMPORALITY, Complaints, Export, Plan, describe, service_name

RUN_EVENTS = 2000
"""Successes beyond the cap of migration spans are events of the run's span, 128 by default."""
_TUNING = {"traces": "OTEL_BSP_*", "metrics": "OTEL_METRIC_EXPORT_*", "logs": "OTEL_BLRP_*"}
_LOST = dict(zip(SIGNALS, names.LOST, strict=True))
_DELTA = dict.fromkeys((Counter, Histogram, ObservableCounter), AggregationTemporality.DELTA)
_ADDRESSES = ("url.full", "http.url")


@dataclass(slots=True)
class Sdk:
    """The providers that were set up, by signal."""

    complaints: Complaints
    providers: dict[str, Any] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    tallies: list[tuple[str, Tally]] = field(default_factory=list)
    uninstrument: Callable[[], None] = lambda: None

    def shutdown(self, budget: timedelta) -> dict[str, object] | None:
        """Export what is left, all signals at once, and leave after *budget* whatever happens.

        How much of each kind did not arrive, and why; ``None`` when all is known to have arrived.
        The providers' own time-outs are not kept when a collector is dead, hence the threads.
        """
        deadline = time.monotonic() + budget.total_seconds()
        threads = [
            threading.Thread(target=_shut, args=(provider,), daemon=True, name="webhooks-flush")
            for provider in self.providers.values()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self.complaints.end()
        is_cut = any(thread.is_alive() for thread in threads)
        lost = dict.fromkeys(names.LOST, 0)
        for signal, tally in self.tallies:
            lost[_LOST[signal]] += tally.lost
        if not is_cut and not any(lost.values()):
            return None
        reasons = (tally.reason for _, tally in self.tallies if tally.lost)
        return {"lost": sum(lost.values()), **lost, "reason": next(filter(None, reasons), None)}


def preload(exports: Iterable[Export]) -> None:
    """Import what *exports* need. Raises ImportError."""
    for export in exports:
        maker_of(export)


def _shut(provider: Any) -> None:
    with suppress(Exception):  # what did not arrive is counted
        provider.shutdown()


def set_up(
    plan: Plan, environ: Mapping[str, str], environment: str | None, complaints: Complaints
) -> Sdk:
    """Providers for *plan*, also as the global ones; ``requests`` is traced from now on."""
    sdk = Sdk(complaints)
    resource = _resource(environ, environment, sdk)
    for signal in SIGNALS:
        try:
            if made := list(_exporters(plan, signal, environ, sdk)):
                sdk.providers[signal] = _provider(signal, made, environ, resource)
        except Exception as error:  # noqa: BLE001  its text may quote the value
            problem = f"has a value OpenTelemetry refuses ({type(error).__name__}): no {signal}"
            sdk.faults.append(Fault(_TUNING[signal], problem, "Correct or unset it"))
    _make_global(sdk.providers)
    _instrument_requests(sdk)
    known = {fault.setting for fault in (*plan.faults, *sdk.faults)}
    sdk.faults += (fault for fault in complaints.faults() if fault.setting not in known)
    sdk.faults = list(dict.fromkeys(sdk.faults))
    return sdk


def _exporters(
    plan: Plan, signal: str, environ: Mapping[str, str], sdk: Sdk
) -> Iterator[tuple[Any, Tally]]:
    wanted = environ.get(TEMPORALITY, "").strip().lower()
    # Cumulative sums of processes that live for seconds add up to nothing.
    is_delta = signal == "metrics" and wanted not in ("cumulative", "lowmemory")
    preferences = {"preferred_temporality": _DELTA} if is_delta else {}
    for export in plan.exports:
        if export.signal != signal:
            continue
        tally = Tally()
        try:
            yield exporter_for(export, tally, **preferences), tally
        except Exception as error:  # noqa: BLE001  the other exporters go on
            sdk.faults.append(fault_of(export, error))
        else:
            sdk.tallies.append((signal, tally))


def _resource(environ: Mapping[str, str], environment: str | None, sdk: Sdk) -> Resource:
    """The process's own resource over ours, as our service unless it is named already."""
    ours: dict[str, object] = dict(describe(environ, environment))
    schema_url = ""
    try:
        detected = Resource.create()
        ours |= detected.attributes
        schema_url = detected.schema_url
    except Exception as error:  # noqa: BLE001  a detector of the user's
        problem = f"cannot be read ({type(error).__name__}), so it is left out"
        sdk.faults.append(Fault(RESOURCE, problem, "Correct or unset it"))
    service = service_name(environ)
    if service is not None:
        ours["service.name"] = service
    return Resource(storable(ours), schema_url)


def _provider(
    signal: str, made: list[tuple[Any, Tally]], environ: Mapping[str, str], resource: Resource
) -> Any:
    if signal == "metrics":
        readers = [metric_reader(*one) for one in made]
        return MeterProvider(readers, resource=resource, shutdown_on_exit=False)
    if signal == "logs":
        loggers = LoggerProvider(resource=resource, shutdown_on_exit=False)
        for one in made:
            loggers.add_log_record_processor(LogProcessor(*one))
        return loggers
    is_limited = bool(environ.get("OTEL_SPAN_EVENT_COUNT_LIMIT"))
    limits = SpanLimits() if is_limited else SpanLimits(max_events=RUN_EVENTS)
    tracers = TracerProvider(resource=resource, shutdown_on_exit=False, span_limits=limits)
    for one in made:
        tracers.add_span_processor(SpanProcessor(*one))
    return tracers


def _make_global(providers: Mapping[str, Any]) -> None:
    """So that users' own hooks are in the same trace. A second run in a process keeps its own."""
    if tracers := providers.get("traces"):
        made_here.add(tracers)
        trace.set_tracer_provider(tracers)
    if meters := providers.get("metrics"):
        metrics.set_meter_provider(meters)
    if loggers := providers.get("logs"):
        _logs.set_logger_provider(loggers)


def _instrument_requests(sdk: Sdk) -> None:
    """Trace every ``requests`` call of the process, users' hooks included."""
    tracers, meters = sdk.providers.get("traces"), sdk.providers.get("metrics")
    if tracers is None and meters is None:
        return
    # Read once per process, at the first instrumentor: without it the HTTP names are the old ones.
    os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")
    try:
        ensure_propagators()
        from opentelemetry.instrumentation.requests import RequestsInstrumentor  # noqa: PLC0415

        instrumentor = RequestsInstrumentor()
        if not instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.instrument(
                tracer_provider=DiscreetProvider(tracers or trace.NoOpTracerProvider()),
                meter_provider=meters,
                skip_dep_check=True,
            )
            sdk.uninstrument = instrumentor.uninstrument
    except Exception as error:  # noqa: BLE001  deliveries have no attempt spans then
        problem = f"requests cannot be traced ({type(error).__name__})"
        remedy = "Run: pip install -U opentelemetry-instrumentation-requests"
        sdk.faults.append(Fault("opentelemetry-instrumentation-requests", problem, remedy))


class DiscreetProvider(AnyTracerProvider):
    """Tracers of *provider* for `requests`: neither address nor error text in their spans."""

    def __init__(self, provider: AnyTracerProvider) -> None:
        self._provider = provider

    def get_tracer(self, *args: Any, **kwargs: Any) -> Tracer:
        """One of the provider's tracers."""
        return _DiscreetTracer(self._provider.get_tracer(*args, **kwargs))


class _DiscreetTracer(Tracer):
    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def start_span(self, name: str, *args: Any, **kwargs: Any) -> Span:
        return self._tracer.start_span(name, *args, **_cut(kwargs))

    @contextmanager
    def start_as_current_span(  # type: ignore[override]
        self, name: str, *args: Any, **kwargs: Any
    ) -> Iterator[Span]:
        # An exception's text holds the address, and so would the span's status and event.
        quiet = {"record_exception": False, "set_status_on_exception": False}
        with self._tracer.start_as_current_span(name, *args, **_cut(kwargs) | quiet) as span:
            try:
                yield span
            except BaseException:
                span.set_status(Status(StatusCode.ERROR))
                raise


def _cut(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """*kwargs* whose attributes hold no more of an address than scheme, host and port."""
    attributes = dict(kwargs.get("attributes") or {})
    for name in _ADDRESSES:
        if name in attributes:
            parts = urlsplit(str(attributes[name]))
            attributes[name] = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return {**kwargs, "attributes": attributes}
