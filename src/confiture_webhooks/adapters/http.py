"""Webhooks over HTTP, with ``requests``."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from ..errors import CUT, TransportError
from .http_exchange import Exchange

if TYPE_CHECKING:
    from datetime import timedelta

    from ..transport import Request, Response
    from .http_session import EndpointSession

IDLE_S = 1.0
"""How long a thread is kept for the next attempt."""
THREADS_PER_ENDPOINT = 3
"""One attempt is under way at a time; more are what a hang leaves behind, for a while."""


class _Hand:
    """A daemon thread that makes one attempt after the other until it is idle for a while.

    *retires* is asked then: ``False`` when there is a job on its way after all.
    """

    def __init__(self, name: str, retires: Callable[[_Hand], bool]) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._retires = retires
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def do(self, job: Callable[[], None]) -> None:
        """Do *job*, after which this hand is free for the next."""
        self._jobs.put(job)

    def rest(self) -> None:
        """End the thread once it is free."""
        self._jobs.put(None)

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=IDLE_S)
            except Empty:
                if self._retires(self):
                    return
                continue
            if job is None:
                return
            job()
            del job  # what it holds (a body, a context) is not kept until the next comes


@dataclass(slots=True)
class _Line:
    """One endpoint's connections, its attempts under way, and hands that are free."""

    session: EndpointSession
    under_way: set[Exchange] = field(default_factory=set)
    free: list[_Hand] = field(default_factory=list)


class HttpTransport:
    """Sends webhooks with ``requests``, one kept session per endpoint.

    Every attempt runs in a daemon thread with the caller's context: the caller gets an
    answer in time even where nothing can interrupt what the thread is waiting for. A thread
    is kept for the next attempt; one that hangs is left behind, and another takes its place.
    Proxies and trusted certificates come from the environment, as with ``requests``; it is
    looked at once a second.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._lines: dict[str, _Line] = {}
        self._is_aborted = False
        self._is_ending = False

    def send(
        self,
        request: Request,
        *,
        timeout: timedelta,
        meanwhile: Callable[[], None] | None = None,
    ) -> Response:
        """POST *request*; raises ``TransportError`` with why there was no answer."""
        try:
            exchange = self._begin(request, timeout)
            if meanwhile is not None:
                exchange.wait_until_sent()
        finally:
            if meanwhile is not None:
                meanwhile()
        return exchange.outcome()

    def _begin(self, request: Request, timeout: timedelta) -> Exchange:
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
            if self._is_aborted:
                raise TransportError(CUT)
            if not is_free:
                raise TransportError("timeout")
            line.under_way.add(exchange)
            hand = line.free.pop() if line.free else None
        try:
            hand = hand or _Hand(f"webhooks-{request.endpoint}-attempt", self._retires)
            context = contextvars.copy_context()
            hand.do(lambda: context.run(self._run, line, hand, request, exchange))
        except RuntimeError:
            # No thread to be had: out of memory, or the interpreter is on its way out.
            self._leave(line, exchange, "other")
        return exchange

    def abort(self) -> None:
        """End every attempt under way, now, as ``TransportError(CUT)``; later ones too."""
        with self._changed:
            self._is_aborted = True
            self._changed.notify_all()
            under_way = [one for line in self._lines.values() for one in line.under_way]
        for exchange in under_way:
            exchange.cut(is_abort=True)
        self._dismiss()

    def close(self) -> None:
        """Close the connections that are kept."""
        for line in self._dismiss():
            with suppress(Exception):
                line.session.close()

    def _dismiss(self) -> list[_Line]:
        """End the threads that are free, and the others as soon as they are; every line."""
        with self._changed:
            self._is_ending = True
            lines = list(self._lines.values())
            hands = [line.free.pop() for line in lines for _ in list(line.free)]
        for hand in hands:
            hand.rest()
        return lines

    def _retires(self, hand: _Hand) -> bool:
        with self._changed:
            for line in self._lines.values():
                if hand in line.free:
                    line.free.remove(hand)
                    return True
        return False

    def _run(self, line: _Line, hand: _Hand, request: Request, exchange: Exchange) -> None:
        error_type: str | None = "other"
        try:
            with suppress(Exception):
                error_type = line.session.exchange(request, exchange)
        finally:
            self._leave(line, exchange, error_type, hand)

    def _leave(
        self, line: _Line, exchange: Exchange, error_type: str | None, hand: _Hand | None = None
    ) -> None:
        with self._changed:
            line.under_way.discard(exchange)
            if hand is not None and self._is_ending:
                hand.rest()
            elif hand is not None:
                line.free.append(hand)
            self._changed.notify_all()
        exchange.finish(error_type)
