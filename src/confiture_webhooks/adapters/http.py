"""Webhooks over HTTP: an attempt that is bounded, whatever hangs."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..bounded import NoThreadError, TimedOut, bounded
from ..errors import CUT, TransportError
from .http_exchange import Exchange

if TYPE_CHECKING:
    from datetime import timedelta

    from ..transport import Request, Response
    from .http_session import EndpointSession

SPARE_THREADS = 2
"""Beyond an endpoint's lanes, so many attempts may hang where nothing can interrupt them."""


@dataclass(eq=False, repr=False)
class HttpTransport:
    """Sends webhooks over one kept session for each endpoint.

    An attempt runs in a daemon thread with the caller's context. So the caller gets an answer in
    time, even if nothing can interrupt the thread. If the address has just answered, every wait is
    a socket's, which ends in time: then there is no thread.
    Proxies and trusted certificates come from the environment, as with ``requests``; it is
    read once a second. *on_end* gets the endpoint and the exchange of each attempt.
    """

    on_end: Callable[[str, Exchange], None] | None = None
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _sessions: dict[str, EndpointSession] = field(default_factory=dict)
    _is_aborted: bool = False

    def send(self, request: Request, *, timeout: timedelta) -> Response:
        """POST *request*; raises ``TransportError`` with why there was no answer."""
        exchange = Exchange(request, timeout)
        session = self._enter(exchange, timeout)

        def attempt() -> None:
            error_type: str | None = "other"
            try:
                error_type = session.exchange(exchange)
            finally:
                self._leave(session, exchange, error_type)

        try:
            if session.has_answered(request):
                contextvars.copy_context().run(attempt)
            else:
                bounded(attempt, exchange.ends_at - time.monotonic(), cut=exchange.cut)
        except NoThreadError as error:
            exchange.reason = str(error)
            self._leave(session, exchange, "other")
        except TimedOut:
            pass  # the thread ends with its exchange
        try:
            return exchange.outcome()
        finally:
            if self.on_end is not None:
                self.on_end(request.endpoint, exchange)

    def _enter(self, exchange: Exchange, timeout: timedelta) -> EndpointSession:
        # requests costs a tenth of a second: not for a command that sends nothing.
        from .http_session import EndpointSession  # noqa: PLC0415

        request = exchange.request
        with self._changed:
            session = self._sessions.get(request.endpoint)
            if session is None:
                session = self._sessions[request.endpoint] = EndpointSession()
            most, under_way = request.lanes + SPARE_THREADS, session.under_way
            is_free = self._changed.wait_for(
                lambda: self._is_aborted or len(under_way) < most, timeout.total_seconds()
            )
            if self._is_aborted:
                raise TransportError(CUT)
            if not is_free:
                raise TransportError("timeout")
            under_way.add(exchange)
        return session

    def _leave(self, session: EndpointSession, exchange: Exchange, error_type: str | None) -> None:
        with self._changed:
            session.under_way.discard(exchange)
            self._changed.notify_all()
        exchange.finish(error_type)

    def abort(self) -> None:
        """End every attempt under way, now, as ``TransportError(CUT)``; later ones too."""
        with self._changed:
            self._is_aborted = True
            self._changed.notify_all()
            under_way = [one for each in self._sessions.values() for one in each.under_way]
        for exchange in under_way:
            exchange.cut(is_abort=True)

    def close(self) -> None:
        """Close the connections that are kept."""
        for session in list(self._sessions.values()):
            with suppress(Exception):
                session.close()
