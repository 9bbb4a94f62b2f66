"""A tracer for the ``requests`` of users' hooks: neither address nor error text in its spans."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.trace import Span, Status, StatusCode, Tracer, TracerProvider

_ADDRESSES = ("url.full", "http.url")


class DiscreetProvider(TracerProvider):
    """Gives the tracers of *provider*, made discreet."""

    def __init__(self, provider: TracerProvider) -> None:
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
