"""The SDK for the ``confiture`` command, set up from ``OTEL_*``.

A finished flush proves nothing, so every exporter keeps count of what did not arrive, and why.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property, partial
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

import requests
from opentelemetry import _logs, metrics, trace
from opentelemetry.sdk._logs import LoggerProvider, ReadWriteLogRecord
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider, ObservableCounter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from ..config.variables import RESOURCE, ci_run
from ..errors import Fault
from ..networks import is_loopback, proxy_variable
from ..terminal import stderr
from ..transport import version
from .context import made_here, storable
from .http_spans import trace_requests
from .logs import records
from .names import SERVICE_NAME
from .plan import CONSOLE, GRPC, INSTALL, SIGNALS, TEMPORALITY, Export, Plan, culprit, held
from .providers import Providers, Tally

_EXPORTERS = {
    "traces": ("trace_exporter", "OTLPSpanExporter", "trace.export", "ConsoleSpanExporter"),
    "metrics": ("metric_exporter", "OTLPMetricExporter", "metrics.export", "ConsoleMetricExporter"),
    "logs": ("_log_exporter", "OTLPLogExporter", "_logs.export", "ConsoleLogRecordExporter"),
}
"""Module and class of each signal's exporter: of OTLP's, and of the console's."""
_REFUSED_DELTA = (
    f"this collector refuses delta metrics. Set {TEMPORALITY}=cumulative, or send to an "
    "OpenTelemetry collector with deltatocumulative"
)
_HEADERS = "OTEL_EXPORTER_OTLP_HEADERS"
_CERTIFICATE = "OTEL_EXPORTER_OTLP_CERTIFICATE"
_CHECK = {
    "401": _HEADERS,
    "403": _HEADERS,
    "413": "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "431": _HEADERS,
    "InvalidHeader": _HEADERS,
    "UnicodeEncodeError": _HEADERS,
    "OSError": f"{_CERTIFICATE} and OTEL_EXPORTER_OTLP_CLIENT_*",
    "SSLError": f"the scheme of the address, and {_CERTIFICATE}",
}
"""Where to look, by status or class of error: otherwise the address, or the collector's log."""
UNNAMED = "unknown_service"
"""OpenTelemetry's name for a service without one."""
RUN_EVENTS = 2000
"""Successes beyond the cap of migration spans are events of the run's span, 128 by default."""
_WAITS = {
    "traces": "OTEL_BSP_SCHEDULE_DELAY",
    "metrics": "OTEL_METRIC_EXPORT_INTERVAL",
    "logs": "OTEL_BLRP_SCHEDULE_DELAY",
}
_DELTA = dict.fromkeys((Counter, Histogram, ObservableCounter), AggregationTemporality.DELTA)


class CollectorSession(requests.Session):
    """Keeps why a collector refused, and to the certificate it was given."""

    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self._tally = tally
        user = requests.utils.get_auth_from_url(tally.export.endpoint or "")
        # Without one, requests puts a .netrc's credentials in the place of those of the headers.
        self.auth = user if any(user) else lambda request: request

    def _refused(self, why: str, cause: object, check: str | None = None) -> None:
        """Keep *why*, and what to check: by its *cause*, else *check*, else the address."""
        export = self._tally.export
        found = _CHECK.get(str(cause)) or check or export.setting
        if cause == "ProxyError":
            found = f"{proxy_variable(export.endpoint or '')} and NO_PROXY"
        self._tally.reason = f"{why}. Check {held(found, os.environ, export.signal)}"

    def merge_environment_settings(self, url: Any, *args: Any, **kwargs: Any) -> Any:
        """No proxy to this machine; REQUESTS_CA_BUNDLE only where no variable of OTLP's is set."""
        merged = super().merge_environment_settings(url, *args, **kwargs)
        if is_loopback(urlsplit(url).hostname or ""):
            merged["proxies"] = {}
        if isinstance(self.verify, str):
            merged["verify"] = self.verify
        return merged

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        """A redirect or a web page is no collector's answer: an error, which nothing retries."""
        try:
            answer = super().request(*args, **{**kwargs, "allow_redirects": False})
        except Exception as error:
            kind = type(error).__name__
            self._refused(f"no collector answers ({kind})", kind)
            raise
        code, kind = answer.status_code, answer.headers.get("Content-Type", "").lower()
        is_page = "html" in kind or answer.content.lstrip().startswith(b"<")
        if code in range(300, 400) or (answer.ok and is_page):
            self._refused(f"no collector answers there (HTTP {code})", code)
            raise ValueError(self._tally.reason)
        rejected = _rejected(answer.content) if answer.ok and "x-protobuf" in kind else 0
        self._tally.made(0, lost=rejected)
        if rejected:
            self._refused("the collector took a part", code, "its log")
        elif not answer.ok:
            check = None if code in (404, 405) else "its log"
            self._refused(f"the collector answers {code}", code, check)
        if (rejected or not answer.ok) and b"temporality" in answer.content.lower():
            self._tally.reason = _REFUSED_DELTA
        return answer


def _rejected(content: bytes) -> int:
    """How many items an answer of success refuses. All signals' answers have the same form."""
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2  # noqa: PLC0415

    with suppress(Exception):  # not what its type says
        answer = trace_service_pb2.ExportTraceServiceResponse.FromString(content)
        return max(0, int(answer.partial_success.rejected_spans))
    return 0


def maker_of(export: Export) -> Any:
    """The exporter's class. Raises ImportError when its package is not installed."""
    otlp_module, otlp_class, module, name = _EXPORTERS[export.signal]
    if export.protocol == CONSOLE:
        return getattr(import_module(f"opentelemetry.sdk.{module}"), name)
    package = f"opentelemetry.exporter.otlp.proto.{'grpc' if export.protocol == GRPC else 'http'}"
    return getattr(import_module(f"{package}.{otlp_module}"), otlp_class)


def exporter_for(export: Export, **preferences: Any) -> tuple[Any, Tally]:
    """The exporter, and the tally that gets a collector's reason to refuse. Raises ImportError."""
    late = f"the collector did not take them in time. Check {export.setting}"
    if export.protocol == GRPC:  # why it refused is not seen
        headers = held(_HEADERS, os.environ, export.signal)
        late = f"the collector did not take them. Check {export.setting}, {headers} and its log"
    tally, make = Tally(export, late), maker_of(export)
    if export.protocol == CONSOLE:
        preferences["formatter"] = lambda item: f"{item.to_json(indent=None)}\n"
        return make(out=stderr, **preferences), tally
    if export.protocol != GRPC:
        preferences["session"] = CollectorSession(tally)
    return make(endpoint=export.endpoint, timeout=export.timeout_s, **preferences), tally


def probe(export: Export) -> str | None:
    """Send an empty batch of *export*'s signal: why the collector does not take it, if so.

    With the address, headers and certificates of a run. Waits up to its time-out and raises
    what the exporter raises.
    """
    exporter, tally = exporter_for(export)
    try:
        result = exporter.export(MetricsData([]) if export.signal == "metrics" else [])
    finally:
        exporter.shutdown()
    return None if result.name == "SUCCESS" else tally.reason


def _fault_of(export: Export, error: Exception, again: Callable[[], object]) -> Fault:
    if not isinstance(error, ImportError):  # its text may quote a header or a password
        problem = f"the exporter cannot be made ({type(error).__name__})"
        setting = culprit(error, again) or export.setting
        return Fault(setting, problem, "Check the OTEL_* variables")
    if export.protocol == GRPC:
        remedy = "Run: pip install opentelemetry-exporter-otlp-proto-grpc"
        setting = held("OTEL_EXPORTER_OTLP_PROTOCOL", os.environ, export.signal)
        return Fault(setting, "needs a package that is missing", remedy)
    return Fault(export.setting, "needs the OTLP exporter, which is not installed", INSTALL)


def _counted(exporter: Any, tally: Tally) -> Any:
    """*exporter*, whose exceptions are failures and whose successes *tally* takes off."""
    export, is_metric = exporter.export, tally.export.signal == "metrics"

    def counted(batch: Any, *args: Any, **kwargs: Any) -> Any:
        if tally.is_silent:
            return
        count = _points(batch) if is_metric else len(batch)
        tally.made(count if is_metric else 0)  # data points are made when they are exported
        lost = count
        with suppress(Exception):  # reported with the tally
            if export(batch, *args, **kwargs).name == "SUCCESS":
                lost = 0
        tally.made(-count, lost=lost)

    exporter.export = counted
    return exporter


class SpanProcessor(BatchSpanProcessor):
    """Counts sampled spans as they end, also those a full queue then drops."""

    def __init__(self, exporter: Any, tally: Tally) -> None:
        self._tally = tally
        super().__init__(_counted(exporter, tally))

    def on_end(self, span: ReadableSpan) -> None:
        """Queue *span*."""
        if span.context is not None and span.context.trace_flags.sampled:
            self._tally.made(1)
        super().on_end(span)


class LogProcessor(BatchLogRecordProcessor):
    """Counts log records as they are emitted."""

    def __init__(self, exporter: Any, tally: Tally) -> None:
        self._tally = tally
        super().__init__(_counted(exporter, tally))

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Queue *log_record*."""
        self._tally.made(1)
        super().on_emit(log_record)


def _points(metrics_data: MetricsData) -> int:
    return sum(
        len(metric.data.data_points)
        for resource in metrics_data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    )


def set_up(
    found: Providers, asked: Plan, environ: Mapping[str, str], environment: str | None
) -> None:
    """Fill *found* as *asked*; they are also the global ones, and ``requests`` is traced."""
    # It would be a line of its own on standard error, about a limit that the user has set.
    warnings.filterwarnings("ignore", "Log record attributes were dropped")
    resource = _resource(environ, environment, found)
    made: dict[str, Any] = {}
    for signal in SIGNALS:
        exporters = list(_exporters(asked, signal, environ, found))
        make = partial(_provider, signal, exporters, environ, resource)
        try:
            if exporters:
                made[signal] = make()
        except Exception as error:  # noqa: BLE001  its text may quote the value
            found.refused += [export for export in asked.exports if export.signal == signal]
            setting = culprit(error, lambda: make().shutdown()) or "OTEL_*"  # noqa: B023
            problem = f"has a value OpenTelemetry refuses ({type(error).__name__}): no {signal}"
            found.faults.append(Fault(setting, problem, "Correct or unset it"))
    found.made = list(made.values())
    # Global, so that users' own hooks are in the same trace. A second run keeps its own.
    if tracers := made.get("traces"):
        made_here.add(tracers)
        trace.set_tracer_provider(tracers)
        found.tracer_provider = tracers
    if meters := made.get("metrics"):
        metrics.set_meter_provider(meters)
        found.meter_provider = meters
    if loggers := made.get("logs"):
        _logs.set_logger_provider(loggers)
        found.records = records(loggers, version())
    if tracers or meters:
        try:
            found.uninstrument = trace_requests(tracers, meters)
        except Exception as error:  # noqa: BLE001  users' hooks have no spans then
            problem = f"requests cannot be traced ({type(error).__name__})"
            package = "opentelemetry-instrumentation-requests"
            named = culprit(error, lambda: trace_requests(tracers, meters)())  # noqa: PLW0108
            remedy = "Correct or unset it" if named else f"Run: pip install -U {package}"
            found.faults.append(Fault(named or package, problem, remedy))


def _exporters(
    asked: Plan, signal: str, environ: Mapping[str, str], found: Providers
) -> Iterator[tuple[Any, Tally]]:
    wanted = environ.get(TEMPORALITY, "").strip().lower()
    # Cumulative sums of processes that live for seconds add up to nothing.
    is_delta = signal == "metrics" and wanted not in ("cumulative", "lowmemory")
    preferences = {"preferred_temporality": _DELTA} if is_delta else {}
    for export in asked.exports:
        if export.signal != signal:
            continue
        make = partial(exporter_for, export, **preferences)
        try:
            made = make()
        except Exception as error:  # noqa: BLE001  the other exporters go on
            found.refused.append(export)
            found.faults.append(_fault_of(export, error, make))
        else:
            found.tallies.append(made[1])
            yield made


class _OneResource(Resource):
    """A resource whose hash is worked out once: the exporters ask for it with every item."""

    @cached_property
    def _hash(self) -> int:
        return super().__hash__()

    def __hash__(self) -> int:
        return self._hash


def _resource(environ: Mapping[str, str], environment: str | None, found: Providers) -> Resource:
    """The process's own resource over ours, as our service unless it is named already."""
    ours: dict[str, object] = {"deployment.environment.name": environment or None}
    ours |= ci_run(environ)
    schema_url = ""
    try:
        detected = Resource.create()
        ours |= detected.attributes
        schema_url = detected.schema_url
    except Exception as error:  # noqa: BLE001  a detector of the user's
        problem = f"cannot be read ({type(error).__name__}), so it is left out"
        found.faults.append(Fault(RESOURCE, problem, "Correct or unset it"))
    if str(ours.get("service.name", UNNAMED)).startswith(UNNAMED):
        ours["service.name"] = environ.get("OTEL_SERVICE_NAME", "").strip() or SERVICE_NAME
    return _OneResource(storable(ours), schema_url)


def _provider(
    signal: str, made: list[tuple[Any, Tally]], environ: Mapping[str, str], resource: Resource
) -> Any:
    with suppress(ValueError):  # no number: the SDK uses its default, and says so
        if not float(environ.get(_WAITS[signal], "")) / 1000 <= threading.TIMEOUT_MAX:
            raise OverflowError  # no thread can wait so long, or for nan: the SDK's would die
    if signal == "metrics":
        readers = [PeriodicExportingMetricReader(_counted(*one)) for one in made]
        return MeterProvider(readers, resource=resource, shutdown_on_exit=False)
    if signal == "logs":
        loggers = LoggerProvider(resource=resource, shutdown_on_exit=False)
        for one in made:
            loggers.add_log_record_processor(LogProcessor(*one))
        return loggers
    most = SpanLimits(max_events=None if "OTEL_SPAN_EVENT_COUNT_LIMIT" in environ else RUN_EVENTS)
    tracers = TracerProvider(resource=resource, shutdown_on_exit=False, span_limits=most)
    for one in made:
        tracers.add_span_processor(SpanProcessor(*one))
    return tracers
