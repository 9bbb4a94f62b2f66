"""Connections that end with their attempt: every wait ends with the attempt."""

from __future__ import annotations

import errno
import http.client
import os
import re
import socket
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from traceback import walk_tb
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import NewConnectionError, ProxyError

from .http_answer import KEPT_FREE, Answer, descriptors_left
from .http_exchange import UNDER_WAY, Exchange
from .http_way import look_up, permitted

IDLE_AT_MOST_S = 60.0
"""A connection that was idle for longer is not used again: a gateway may have forgotten it."""
_PROBES = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
KEEP_ALIVE = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in _PROBES
        if hasattr(socket, name)
    ),
]
"""Socket options: probes find out that a connection is gone, and keep a gateway from forgetting."""
SOCKS_PORT = 1080
MOST_PER_ADDRESS_S = 2.0
"""An address gets its share of the time left, and only the last one more than this."""


@dataclass(eq=False)
class SocketHandle:
    """A second handle on a socket, its ``dup``, so that another thread can end its use."""

    _sock: socket.socket
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def shut_down(self) -> None:
        """Shut the connection down: every read, write or connect on it ends at once."""
        with self._lock, suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it."""
        with self._lock:
            self._sock.close()


class _Bounded(HTTPConnection):
    """A connection that is opened, used and ended within an exchange."""

    response_class = Answer
    debuglevel = 0
    """Whatever http.client's is set to: it prints headers and addresses."""
    _handle: SocketHandle | None = None
    used_at = 0.0
    """When the last request over it began, by the monotonic clock."""

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self._handle:
            UNDER_WAY.get().stops_with(self._handle.shut_down)
        self.used_at = time.monotonic()
        try:
            super().request(*args, **kwargs)
        except ssl.SSLEOFError as error:
            raise BrokenPipeError from error  # urllib3 then reads the answer, or the alert

    def close(self) -> None:
        handle, self._handle = self._handle, None
        try:
            super().close()
        finally:
            if handle:
                handle.close()

    def _tunnel(self) -> None:
        exchange = UNDER_WAY.get()
        try:
            super()._tunnel()
        except (OSError, http.client.HTTPException) as error:
            status = re.match(r"Tunnel connection failed: (\d+)", str(error))
            exchange.reason = status[1] if status else None
            raise ProxyError("no tunnel", error) from error
        exchange.step = "tls"
        # The proxy's answer is not the receiver's.
        exchange.is_heard = False

    def _new_conn(self) -> socket.socket:
        exchange = UNDER_WAY.get()
        addresses = look_up(self._dns_host, self.port, exchange)
        if self.proxy is None:
            addresses = permitted(addresses, exchange.request.networks)
        return self._first(addresses, exchange)

    def _first(self, addresses: list[Any], exchange: Exchange) -> socket.socket:
        """Connect to one address after the other; one that hangs leaves time for the next."""
        exchange.is_fresh = True
        exchange.step = "connects"
        fault: OSError = socket.gaierror("no address")
        for tried, (*kind, _, address) in enumerate(addresses):
            share, others = exchange.left(), len(addresses) - tried - 1
            if others:
                share = min(share / (1 + others), MOST_PER_ADDRESS_S)
            sock, target = self._socket(kind, address)
            twin = sock.dup()  # its descriptor is the lowest that is free
            handle = SocketHandle(twin)
            try:
                if descriptors_left(twin.fileno()) <= KEPT_FREE:
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))  # noqa: TRY301
                for option in KEEP_ALIVE:
                    sock.setsockopt(*option)
                exchange.stops_with(handle.shut_down)
                sock.settimeout(share)
                sock.connect(target)
                # A TLS handshake takes at most the socket's timeout, however it drips.
                sock.settimeout(exchange.left())
            except BaseException as error:
                handle.close()
                sock.close()
                if not isinstance(error, OSError):
                    raise
                fault = error
            else:
                self._handle = handle
                exchange.step = "proxy" if self.proxy else "tls"
                return sock
        raise NewConnectionError(self, "no connection") from fault

    def _socket(self, kind: list[int], address: Any) -> tuple[socket.socket, Any]:
        return socket.socket(*kind), address


class _Tls(HTTPSConnection):
    """TLS that leaves no socket open when it fails."""

    def connect(self) -> None:
        try:
            super().connect()
        except OSError as error:
            # ``ssl`` made one, and lost it when the peer reset it before the handshake.
            for frame, _ in walk_tb(error.__traceback__):
                if isinstance(lost := frame.f_locals.get("self"), ssl.SSLSocket):
                    lost.close()
            raise


class _Dials(socket.socket):
    """Notes when it is connected to a SOCKS proxy, which then connects it further."""

    def connect(self, address: Any, /) -> None:
        super().connect(address)
        UNDER_WAY.get().step = "proxy"


class _Socks(_Bounded):
    """A connection through a SOCKS proxy, with PySocks."""

    def __init__(self, *args: Any, _socks_options: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._options = _socks_options

    def _new_conn(self) -> socket.socket:
        exchange = UNDER_WAY.get()
        host = self._dns_host
        if not self._options["rdns"]:
            found = look_up(host, self.port, exchange)
            host = permitted(found, exchange.request.networks)[0][4][0]
        self._target = host, self.port
        proxy = self._options["proxy_host"], int(self._options["proxy_port"] or SOCKS_PORT)
        try:
            return self._first(look_up(*proxy, exchange), exchange)
        except (OSError, NewConnectionError) as error:
            raise ProxyError("no way through", error) from error

    def _socket(self, kind: list[int], address: Any) -> tuple[socket.socket, Any]:
        import socks  # noqa: PLC0415  the extra of that name; without it there is no such pool

        o = self._options
        sock = type("Sock", (socks.socksocket, _Dials), {})(*kind)
        version, rdns = o["socks_version"], o["rdns"]
        sock.set_proxy(version, address[0], address[1], rdns, o["username"], o["password"])
        return sock, self._target


class _Pool:
    """Gives out no connection that was idle for long, or on which more than an answer came."""

    def _get_conn(self, *args: Any, **kwargs: Any) -> Any:
        connection = super()._get_conn(*args, **kwargs)  # type: ignore[misc]
        has_more = getattr(connection.sock, "pending", int)()  # TLS may have read it already
        if has_more or time.monotonic() - connection.used_at > IDLE_AT_MOST_S:
            connection.close()
        return connection


def _pools(plain: type[_Bounded]) -> dict[str, Any]:
    """The classes of pools for a urllib3 ``PoolManager``, whose connections are *plain* or TLS."""
    tls = type("Tls", (plain, _Tls), {})
    return {
        "http": type("Pool", (_Pool, HTTPConnectionPool), {"ConnectionCls": plain}),
        "https": type("TlsPool", (_Pool, HTTPSConnectionPool), {"ConnectionCls": tls}),
    }


POOLS, SOCKS_POOLS = _pools(_Bounded), _pools(_Socks)
