"""Connections that end with their attempt: every wait is for what the attempt has left."""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import NewConnectionError
from urllib3.util import connection

from .http_exchange import UNDER_WAY

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from .http_exchange import Exchange

_SWITCHES = 101
"""An answer, but only to who asked for another protocol (RFC 9110, 15.2.2): nobody did."""
_INTERIM = range(102, 200)
"""Answers before the answer, known or not (RFC 9110, 15.2); http.client knows only 100."""
LEAST_PER_ADDRESS_S = 2.0
"""An address gets its share of the time left, and at least this: as with Go's dialer."""


class Resolver:
    """Looks names up. A lookup that hangs is left behind, one thread per name at most."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lookups: dict[tuple[str, int], Future[list[Any]]] = {}

    def addresses(self, host: str, port: int, exchange: Exchange) -> list[Any]:
        """Return what getaddrinfo does; raises gaierror, or TimeoutError when time is up."""
        is_known = threading.Event()
        exchange.stops_with(is_known.set)
        lookup = self._lookup((host, port))
        lookup.add_done_callback(lambda _: is_known.set())
        is_known.wait(exchange.left())
        return lookup.result(timeout=0)

    def _lookup(self, key: tuple[str, int]) -> Future[list[Any]]:
        """Join the lookup of *key* under way or start one: the C library cannot be interrupted."""
        with self._lock:
            if key not in self._lookups:
                future: Future[list[Any]] = Future()
                threading.Thread(
                    target=self._resolve, args=(key, future), name="webhooks-dns", daemon=True
                ).start()
                self._lookups[key] = future
            return self._lookups[key]

    def _resolve(self, key: tuple[str, int], future: Future[list[Any]]) -> None:
        found: list[Any] = []
        fault: Exception | None = None
        try:
            family = connection.allowed_gai_family()
            found = socket.getaddrinfo(*key, family, socket.SOCK_STREAM)
        except UnicodeError:
            fault = socket.gaierror("not a host name")
        except Exception as error:  # noqa: BLE001  (whoever waits says what it means)
            fault = error
        with self._lock:
            del self._lookups[key]
        if fault:
            future.set_exception(fault)
        else:
            future.set_result(found)


class Plug:
    """A second handle on a socket, so that another thread can end what is done with it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock.dup()
        self._lock = threading.Lock()

    def pull(self) -> None:
        """Shut the connection down: whoever reads, writes or connects goes on at once."""
        with self._lock, suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the socket."""
        with self._lock:
            self._sock.close()


class _Incoming(io.RawIOBase):
    """What comes from a socket, each read bounded by the exchange's time left."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, exchange: Exchange) -> None:
        self._raw = raw
        self._sock = sock
        self._exchange = exchange
        self.is_ended = False

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        """Read what is there, waiting for it while the exchange lasts."""
        self._sock.settimeout(self._exchange.left())
        count = self._raw.readinto(buffer)
        if count:
            self._exchange.is_heard = True
        elif count == 0:
            self.is_ended = True
        return count

    def close(self) -> None:
        """Let go of the socket."""
        self._raw.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    """An answer whose header has to be complete and in time."""

    fp: io.BufferedReader

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        exchange = UNDER_WAY.get()
        exchange.sent()
        self._incoming = _Incoming(self.fp.detach(), sock, exchange)
        self.fp = io.BufferedReader(self._incoming)

    def begin(self) -> None:
        """Read the header. http.client takes one that breaks off for a whole one."""
        super().begin()
        while self.status in _INTERIM:
            self.headers = self.msg = None  # type: ignore[assignment]
            super().begin()
        if self._incoming.is_ended:
            raise ConnectionResetError
        if self.status == _SWITCHES:
            raise http.client.UnknownProtocol(str(_SWITCHES))


class _Bounded(HTTPConnection):
    """A connection that is opened, used and ended within an exchange."""

    response_class = _Answer
    debuglevel = 0
    """Whatever http.client's is set to: it prints headers and addresses."""
    _plug: Plug | None = None

    def request(self, *args: Any, **kwargs: Any) -> None:
        """Send a request, over the connection there is or a new one."""
        if self._plug:
            UNDER_WAY.get().stops_with(self._plug.pull)
        super().request(*args, **kwargs)

    def close(self) -> None:
        """Close the connection, and the handle on it."""
        plug, self._plug = self._plug, None
        try:
            super().close()
        finally:
            if plug:
                plug.close()

    def _tunnel(self) -> None:
        super()._tunnel()
        # What the proxy said is not the receiver's answer.
        UNDER_WAY.get().is_heard = False

    def _new_conn(self) -> socket.socket:
        exchange = UNDER_WAY.get()
        exchange.is_fresh = True
        try:
            return self._dial(exchange)
        except OSError as error:
            raise NewConnectionError(self, "no connection") from error

    def _dial(self, exchange: Exchange) -> socket.socket:
        """Try one address after the other; one that hangs leaves time for the next."""
        addresses = RESOLVER.addresses(self._dns_host, self.port, exchange)
        fault: OSError = socket.gaierror("no address")
        for tried, (family, kind, proto, _, address) in enumerate(addresses):
            left = exchange.left()
            share = max(left / (len(addresses) - tried), min(left, LEAST_PER_ADDRESS_S))
            sock = socket.socket(family, kind, proto)
            try:
                return self._connect(sock, address, share, exchange)
            except OSError as error:
                fault = error
        raise fault

    def _connect(
        self,
        sock: socket.socket,
        address: tuple[Any, ...],
        share: float,
        exchange: Exchange,
    ) -> socket.socket:
        plug = Plug(sock)
        try:
            for option in self.socket_options or ():
                sock.setsockopt(*option)
            if self.source_address:
                sock.bind(self.source_address)
            exchange.stops_with(plug.pull)
            sock.settimeout(share)
            sock.connect(address)
            # A TLS handshake takes at most the socket's timeout, however it drips.
            sock.settimeout(exchange.left())
        except BaseException:
            plug.close()
            sock.close()
            raise
        self._plug = plug
        return sock


class _BoundedTls(_Bounded, HTTPSConnection):
    """The same over TLS."""

    def connect(self) -> None:
        """Open the connection, leaving no socket behind where it breaks off."""
        try:
            super().connect()
        except OSError as error:
            _close_lost(error)
            raise


def _close_lost(error: OSError) -> None:
    """Close the socket that ``ssl`` made, and lost when it raised *error*.

    It closes one whose handshake fails, but not one that is reset before: its traceback
    alone still knows it.
    """
    step = error.__traceback__
    while step is not None:
        lost = step.tb_frame.f_locals.get("self")
        if isinstance(lost, ssl.SSLSocket):
            lost.close()
        step = step.tb_next


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Bounded


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _BoundedTls


RESOLVER = Resolver()
POOLS = {"http": _Pool, "https": _TlsPool}
"""For a urllib3 ``PoolManager``."""
