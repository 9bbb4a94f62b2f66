"""Others' spans of HTTP requests: none for ours, and no address in those of ``requests``."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib import metadata
from typing import Any, cast

from opentelemetry.context import Context
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import NoOpTracerProvider, Span, Status, StatusCode, Tracer, TracerProvider

from ..errors import Fault
from ..networks import origin

PROPAGATORS = "OTEL_PROPAGATORS"
_OPT_IN = "OTEL_SEMCONV_STABILITY_OPT_IN"
_ADDRESSES = ("url.full", "http.url")
"""Attributes of a span that hold a whole address."""


@functools.cache
def ensure_propagators() -> Fault | None:
    """Import ``opentelemetry.propagate``, which fails when a propagator it reads is missing.

    Every instrumentation imports it. The propagators that are installed are kept.
    """
    try:
        import opentelemetry.propagate  # noqa: PLC0415
    except Exception:  # noqa: BLE001  not installed, or broken
        given = os.environ.get(PROPAGATORS, "")
        names = [name.strip() for name in given.split(",")]
        os.environ[PROPAGATORS] = ",".join(filter(_loads, names)) or "tracecontext"
        try:
            with suppress(Exception):
                import opentelemetry.propagate  # noqa: F401, PLC0415
        finally:
            os.environ[PROPAGATORS] = given
        problem = "names a propagator that is not installed or broken, so it is left out"
        return Fault(PROPAGATORS, problem, "Install its package, or take its name out")
    return None


def _loads(name: str) -> bool:
    try:
        (found,) = metadata.entry_points(group="opentelemetry_propagator", name=name)
        found.load()()
    except Exception:  # noqa: BLE001  not installed, or broken
        return False
    return True


def propagate(context: Context) -> dict[str, str]:
    """The headers that carry *context*'s trace, by the propagators that are set."""
    ensure_propagators()
    from opentelemetry.propagate import inject  # noqa: PLC0415

    carrier: dict[str, str] = {}
    inject(carrier, context)
    return carrier


def without_http_spans() -> AbstractContextManager[None]:
    """Requests in the block make no spans, even if their instrumentation is on."""
    try:
        ensure_propagators()
        from opentelemetry.instrumentation import utils  # noqa: PLC0415

        return cast("AbstractContextManager[None]", utils.suppress_http_instrumentation())
    except Exception:  # noqa: BLE001  a span too many; the delivery is what counts
        return nullcontext()


def trace_requests(
    tracers: TracerProvider | None, meters: MeterProvider | None
) -> Callable[[], None]:
    """Trace every ``requests`` call of the process, users' hooks included; the call that ends it.

    Raises whatever the instrumentation raises.
    """
    # Read once per process, at the first instrumentor: without it the HTTP names are the old ones.
    os.environ[_OPT_IN] = os.environ.get(_OPT_IN, "").strip() or "http"
    ensure_propagators()
    from opentelemetry.instrumentation.requests import RequestsInstrumentor  # noqa: PLC0415

    instrumentor = RequestsInstrumentor()
    if instrumentor.is_instrumented_by_opentelemetry:
        return lambda: None
    instrumentor.instrument(
        tracer_provider=DiscreetProvider(tracers or NoOpTracerProvider()),
        meter_provider=meters,
        skip_dep_check=True,
    )
    return cast("Callable[[], None]", instrumentor.uninstrument)


@dataclass(frozen=True)
class DiscreetProvider(TracerProvider):
    """Tracers of *provider* for `requests`: neither address nor error text in their spans."""

    provider: TracerProvider

    def get_tracer(self, *args: Any, **kwargs: Any) -> Tracer:
        """One of the provider's tracers."""
        return _DiscreetTracer(self.provider.get_tracer(*args, **kwargs))


@dataclass(frozen=True)
class _DiscreetTracer(Tracer):
    tracer: Tracer

    def start_span(self, name: str, *args: Any, **kwargs: Any) -> Span:
        return self.tracer.start_span(name, *args, **_cut(kwargs))

    @contextmanager
    def start_as_current_span(  # type: ignore[override]
        self, name: str, *args: Any, **kwargs: Any
    ) -> Iterator[Span]:
        # An exception's text holds the address, and so would the span's status and event.
        quiet = {"record_exception": False, "set_status_on_exception": False}
        with self.tracer.start_as_current_span(name, *args, **_cut(kwargs) | quiet) as span:
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
            attributes[name] = origin(str(attributes[name]))
    return {**kwargs, "attributes": attributes}
