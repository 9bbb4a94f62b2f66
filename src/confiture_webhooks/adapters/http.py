"""Webhooks over HTTP, with ``requests``."""

from __future__ import annotations

import contextvars
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import TransportError
from .http_exchange import Exchange

if TYPE_CHECKING:
    from datetime import timedelta

    from ..transport import Request, Response
    from .http_session import EndpointSession

THREADS_PER_ENDPOINT = 3
"""One attempt is under way at a time; more are what a hang leaves behind, for a while."""


@dataclass(slots=True)
class _Line:
    """One endpoint's connections, and its attempts under way."""

    session: EndpointSession
    under_way: set[Exchange] = field(default_factory=set)


class HttpTransport:
    """Sends webhooks with ``requests``, one kept session per endpoint.

    Every attempt runs in a daemon thread with the caller's context: the caller gets an
    answer in time even where nothing can interrupt what the thread is waiting for.
    Proxies and trusted certificates come from the environment, as with ``requests``.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._lines: dict[str, _Line] = {}
        self._is_aborted = False

    def send(self, request: Request, *, timeout: timedelta) -> Response:
        """POST *request*; raises ``TransportError`` with why there was no answer."""
        # requests costs a tenth of a second: not for who sends nothing, nor from *timeout*.
        from .http_session import EndpointSession  # noqa: PLC0415

        exchange = Exchange(timeout, resend_count=request.resend_count)
        with self._changed:
            line = self._lines.get(request.endpoint)
            if line is None:
                line = self._lines[request.endpoint] = _Line(EndpointSession())
            is_free = self._changed.wait_for(
                lambda: self._is_aborted or len(line.under_way) < THREADS_PER_ENDPOINT,
                timeout.total_seconds(),
            )
            if self._is_aborted or not is_free:
                raise TransportError("timeout")
            line.under_way.add(exchange)
        thread = threading.Thread(
            target=contextvars.copy_context().run,
            args=(self._run, line, request, exchange),
            name=f"webhooks-{request.endpoint}-attempt",
            daemon=True,
        )
        try:
            thread.start()
        except RuntimeError:
            # No thread to be had: out of memory, or the interpreter is on its way out.
            self._leave(line, exchange, "other")
        return exchange.outcome()

    def abort(self) -> None:
        """End every attempt under way, now, as ``TransportError('timeout')``; later ones too."""
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

    def _run(self, line: _Line, request: Request, exchange: Exchange) -> None:
        error_type: str | None = "other"
        try:
            with suppress(Exception):
                error_type = line.session.exchange(request, exchange)
        finally:
            self._leave(line, exchange, error_type)

    def _leave(self, line: _Line, exchange: Exchange, error_type: str | None) -> None:
        with self._changed:
            line.under_way.discard(exchange)
            self._changed.notify_all()
        exchange.finish(error_type)
