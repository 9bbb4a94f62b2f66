"""Answers: each read within its attempt, and what is kept of one."""

from __future__ import annotations

import http.client
import io
import math
import resource
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from urllib3.exceptions import ProxyError

from ..transport import Response
from .http_exchange import UNDER_WAY, retry_after, time_until

if TYPE_CHECKING:
    import socket

    from _typeshed import WriteableBuffer
    from urllib3.response import BaseHTTPResponse

    from .http_exchange import Exchange

_INTERIM = range(100, 200)
"""Answers before the answer, known or not (RFC 9110, 15.2); http.client knows only 100."""
_LONGEST_LINE = 65536
_MOST_LINES = 1000
"""More of a header that http.client refuses are not looked at."""
_NO_LINE = (b"\r\n", b"\n", b"")
KEPT_FREE = 16
"""So many file descriptors no connection takes: the migration may need them."""
MOST_INTERIM = 5
"""A receiver that sends more of them before its answer speaks no HTTP."""
BODY_LIMIT = 4096
"""How much of an answer's body is read, and thrown away, to use its connection again."""


@dataclass(eq=False, repr=False)
class _Incoming(io.RawIOBase):
    """The bytes of a socket, each read bounded by the exchange's time left."""

    _raw: io.RawIOBase
    _sock: socket.socket
    _exchange: Exchange
    is_ended: bool = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        self._sock.settimeout(self._exchange.left())
        count = self._raw.readinto(buffer)
        if count:
            self._exchange.is_heard = True
        elif count == 0:
            self.is_ended = True
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Lines(io.BufferedReader):
    """An answer's lines; each that asks for a wait is noted at once."""

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"retry-after":
            UNDER_WAY.get().asked_to_wait(value.decode("latin-1"))
        return line


class Answer(http.client.HTTPResponse):
    """An answer: its status line decides, whatever comes after it."""

    fp: io.BufferedReader

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._exchange = UNDER_WAY.get()
        self._incoming = _Incoming(self.fp.detach(), sock, self._exchange)
        self._is_receivers = False
        self._is_scarce = descriptors_left(sock.fileno()) <= 2 * KEPT_FREE
        self.fp = _Lines(self._incoming)

    def begin(self) -> None:
        """Read the header. http.client takes one that breaks off for a whole one."""
        self._is_receivers = True
        self._exchange.sent()
        try:
            super().begin()
        except http.client.HTTPException:
            for _ in range(_MOST_LINES):
                if self.fp.readline(_LONGEST_LINE) in _NO_LINE:
                    break
            raise
        if self._incoming.is_ended:
            raise ConnectionResetError
        self.will_close |= self._is_scarce  # another endpoint has its turn

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(1 + MOST_INTERIM):
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if self._incoming.is_ended:
                raise ConnectionResetError
            if status not in _INTERIM or status == http.HTTPStatus.SWITCHING_PROTOCOLS:
                break
            while self.fp.readline(_LONGEST_LINE) not in _NO_LINE:
                pass  # its headers say nothing of the answer
        if status in _INTERIM:
            raise http.client.UnknownProtocol(str(status))
        is_refusal = status == http.HTTPStatus.PROXY_AUTHENTICATION_REQUIRED
        if is_refusal and self._is_receivers and self._exchange.is_forwarded:
            self._exchange.reason = str(status)
            raise ProxyError("no way through", OSError(status))
        if self._is_receivers and version.startswith(("HTTP/1.", "HTTP/0.9")):
            self._exchange.answered(Response(status_code=status), is_whole=False)
        return version, status, reason


def descriptors_left(descriptor: int) -> float:
    """How many descriptors at most this process may still open, as *descriptor* is in use."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.inf if most == resource.RLIM_INFINITY else most - descriptor


def response_of(answer: BaseHTTPResponse) -> Response:
    """*answer* as the port has it, with the longest wait that it asks for."""
    date, longest = answer.headers.get("Date"), None
    if given := answer.headers.get("Retry-After"):  # several, with commas, if a gateway added one
        now = datetime.now(UTC)
        theirs = now + (time_until(date, now) or timedelta())  # a date of theirs is by their clock
        longest = retry_after(given, theirs)
    version = f"{answer.version / 10}"  # http.client's 11
    return Response(status_code=answer.status, retry_after=longest, date=date, version=version)


def drain(exchange: Exchange) -> None:
    """Read the rest of a short answer, so that its connection is kept; else close it."""
    # Not kept on the exchange: a cycle through it would keep a closed session's connections open.
    raw, exchange.unread = exchange.unread, None
    if raw is None:
        return
    with suppress(Exception):
        exchange.excerpt = raw.read(BODY_LIMIT, decode_content=False)
    with suppress(Exception):
        if raw.connection is not None:
            raw.close()
            raw.release_conn()
