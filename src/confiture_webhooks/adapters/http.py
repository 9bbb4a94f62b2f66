"""Webhooks over HTTP, with ``requests``."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..bounded import TimedOut, bounded
from ..errors import CUT, TransportError
from .http_exchange import Exchange

if TYPE_CHECKING:
    from datetime import timedelta

    from ..transport import Request, Response
    from .http_session import EndpointSession

SPARE_THREADS = 2
"""Beyond an endpoint's lanes, so many attempts may hang where nothing can interrupt them."""


@dataclass(slots=True)
class _Line:
    """One endpoint's connections, and its attempts under way."""

    session: EndpointSession
    under_way: set[Exchange] = field(default_factory=set)


class HttpTransport:
    """Sends webhooks with ``requests``, one kept session per endpoint.

    Every attempt runs in a daemon thread with the caller's context: the caller gets an
    answer in time even where nothing can interrupt what the thread is waiting for.
    Proxies and trusted certificates come from the environment, as with ``requests``; it is
    looked at once a second. *on_answer* gets the endpoint and the beginning of each answer's body.
    """

    def __init__(self, on_answer: Callable[[str, bytes], None] | None = None) -> None:
        self._on_answer = on_answer
        self._changed = threading.Condition()
        self._lines: dict[str, _Line] = {}
        self._is_aborted = False

    def send(self, request: Request, *, timeout: timedelta) -> Response:
        """POST *request*; raises ``TransportError`` with why there was no answer."""
        exchange = Exchange(timeout, resend_count=request.resend_count, networks=request.networks)
        line = self._enter(request, exchange, timeout)

        def attempt() -> None:
            error_type: str | None = "other"
            try:
                with suppress(Exception):
                    error_type = line.session.exchange(request, exchange)
            finally:
                self._leave(line, exchange, error_type)

        try:
            bounded(attempt, exchange.left(), cut=exchange.cut)
        except (TimedOut, TimeoutError):
            pass
        except RuntimeError:  # no thread to be had: the interpreter is on its way out
            self._leave(line, exchange, "other")
        response = exchange.outcome()
        if self._on_answer is not None:
            self._on_answer(request.endpoint, exchange.excerpt)
        return response

    def _enter(self, request: Request, exchange: Exchange, timeout: timedelta) -> _Line:
        # requests costs a tenth of a second: not for a command that sends nothing.
        from .http_session import EndpointSession  # noqa: PLC0415

        with self._changed:
            line = self._lines.get(request.endpoint)
            if line is None:
                line = self._lines[request.endpoint] = _Line(EndpointSession())
            is_free = self._changed.wait_for(
                lambda: self._is_aborted or len(line.under_way) < request.lanes + SPARE_THREADS,
                timeout.total_seconds(),
            )
            if self._is_aborted:
                raise TransportError(CUT)
            if not is_free:
                raise TransportError("timeout")
            line.under_way.add(exchange)
        return line

    def _leave(self, line: _Line, exchange: Exchange, error_type: str | None) -> None:
        with self._changed:
            line.under_way.discard(exchange)
            self._changed.notify_all()
        exchange.finish(error_type)

    def abort(self) -> None:
        """End every attempt under way, now, as ``TransportError(CUT)``; later ones too."""
        with self._changed:
            self._is_aborted = True
            self._changed.notify_all()
            under_way = [one for line in self._lines.values() for one in line.under_way]
        for exchange in under_way:
            exchange.cut(is_abort=True)

    def close(self) -> None:
        """Close the connections that are kept."""
        with self._changed:
            lines = list(self._lines.values())
        for line in lines:
            with suppress(Exception):
                line.session.close()
