"""Spans of attempts: a request of a delivery, how long it took, and the trace that it carries."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, replace
from time import monotonic
from typing import Self

from opentelemetry.trace import INVALID_SPAN, Span, SpanKind

from ..bounded import contained
from ..config.rules import Invalid, header_name
from ..errors import CUT, TransportError
from ..networks import address_of, origin
from ..transport import Request, Response, header_text
from . import names
from .context import around, set_failed, storable
from .http_spans import propagate
from .spans import Part, Signals

_FAILED = 400
"""Statuses from here on are errors of the client's span, as OpenTelemetry has it."""


class AttemptSpan(Part):
    """One attempt, while the block lasts, with the span of its *delivery* as parent."""

    def __init__(self, signals: Signals, delivery: Span, request: Request) -> None:
        super().__init__(signals, INVALID_SPAN)
        self._delivery = delivery
        self.request = request
        """What to send: it names the attempt's span as the receiver's parent."""
        self.response: Response | None = None
        self._about: dict[str, object] = {}
        self._started = monotonic()

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._finish(error)

    @contained
    def _start(self) -> None:
        request = self.request
        host, port = address_of(request.url)
        self._about = {
            names.HTTP_METHOD: request.method,
            names.SERVER_ADDRESS: host,
            names.SERVER_PORT: port,
        }
        shown = {
            names.URL_FULL: origin(request.url),
            names.HTTP_RESEND_COUNT: request.resend_count or None,
        }
        self.span = self._signals.start_span(
            request.method,
            parent=self._delivery.get_span_context(),
            kind=SpanKind.CLIENT,
            attributes={**self._about, **shown},
        )
        if self._signals.tracer is not None:
            # Our own first: a propagator may raise.
            own = {k: v for k, v in asdict(self.trace).items() if v}
            self.request = replace(request, headers={**request.headers, **own})
            others = {}
            for name, value in propagate(around(self.span)).items():
                with suppress(Invalid):
                    others[header_name(name)] = header_text(value)
            self.request = replace(request, headers={**others, **self.request.headers})

    @contained
    def _finish(self, error: BaseException | None) -> None:
        """End it, with the answer or the *error* that came in its place."""
        duration_s, answer = monotonic() - self._started, self.response
        error_type = "other" if error is not None else None
        if isinstance(error, TransportError):
            error_type = "timeout" if error.error_type == CUT else error.error_type
        elif answer is not None and answer.status_code >= _FAILED:
            error_type = str(answer.status_code)
        answered = {
            names.HTTP_STATUS_CODE: answer.status_code if answer else None,
            names.PROTOCOL_VERSION: answer.version if answer else None,
        }
        try:
            self.span.set_attributes(storable(answered))
            if error_type is not None:
                set_failed(self.span, error_type)
            about = {**self._about, **answered, names.ERROR_TYPE: error_type}
            self._signals.metrics.record(names.REQUEST_DURATION, duration_s, about, self.span)
        finally:
            self.span.end()
