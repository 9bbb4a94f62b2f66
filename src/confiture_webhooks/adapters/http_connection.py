"""Connections that end with their attempt: every wait ends with the attempt."""

from __future__ import annotations

import errno
import http.client
import io
import math
import os
import re
import resource
import socket
import ssl
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import NewConnectionError, ProxyError
from urllib3.util import connection

from ..networks import ip, is_loopback
from ..transport import Response
from .http_exchange import UNDER_WAY

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from ..networks import Networks
    from .http_exchange import Exchange

_SWITCHES = 101
"""An answer to a request for another protocol (RFC 9110, 15.2.2), which none of ours is."""
_INTERIM = range(100, 200)
"""Answers before the answer, known or not (RFC 9110, 15.2); http.client knows only 100."""
_LONGEST_LINE = 65536
_MOST_LINES = 1000
"""More of a header that http.client refuses are not looked at."""
_NO_LINE = (b"\r\n", b"\n", b"")
LEFT_TO_MIGRATION = 16
"""So many file descriptors no connection takes: the migration may need them."""
MOST_INTERIM = 5
"""A receiver that sends more of them before its answer speaks no HTTP."""
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
LEAST_PER_ADDRESS_S = 2.0
"""An address gets its share of the time left, and at least this: as with Go's dialer."""


class DeniedError(OSError):
    """No address of the host may be dialled; its text is the rule that says so."""


_lookups: dict[tuple[str, int], Future[list[Any]]] = {}
"""Those under way. The C library cannot be interrupted: one that hangs is left behind."""
_lookups_lock = threading.Lock()


def look_up(host: str, port: int, exchange: Exchange) -> list[Any]:
    """The addresses of *host*, as getaddrinfo has them, on one thread per name at most.

    Raises gaierror, or TimeoutError when time is up.
    """
    if ":" in host:
        host = host.replace("%25", "%")  # before a zone (RFC 6874)
    elif is_loopback(host) and ip(host) is None:
        host = "localhost"  # whatever a resolver would answer (RFC 6761, 6.3)
    key = (host, port)
    is_known = threading.Event()
    exchange.stops_with(is_known.set)
    with _lookups_lock:
        if key not in _lookups:
            made: Future[list[Any]] = Future()
            threading.Thread(
                target=_resolve, args=(key, made), name="webhooks-dns", daemon=True
            ).start()
            _lookups[key] = made
        found = _lookups[key]
    found.add_done_callback(lambda _: is_known.set())
    is_known.wait(exchange.left())
    return found.result(timeout=0)


def _resolve(key: tuple[str, int], found: Future[list[Any]]) -> None:
    family = connection.allowed_gai_family()
    try:
        found.set_result(socket.getaddrinfo(*key, family, socket.SOCK_STREAM))
    except UnicodeError:
        found.set_exception(socket.gaierror("not a host name"))
    except Exception as error:  # noqa: BLE001  (raised again where it is waited for)
        found.set_exception(error)
    finally:
        with _lookups_lock:
            del _lookups[key]


@dataclass(eq=False)
class Plug:
    """A second handle on a socket, its ``dup``, so that another thread can end its use."""

    _sock: socket.socket
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def pull(self) -> None:
        """Shut the connection down: every read, write or connect on it ends at once."""
        with self._lock, suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def fileno(self) -> int:
        """The number of its descriptor: the lowest that was free when it was made."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close it."""
        with self._lock:
            self._sock.close()


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


class _Answer(http.client.HTTPResponse):
    """An answer: its status line decides, whatever comes after it."""

    fp: io.BufferedReader

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._exchange = UNDER_WAY.get()
        self._incoming = _Incoming(self.fp.detach(), sock, self._exchange)
        self._is_receivers = False
        self._is_scarce = _room(sock.fileno()) <= 2 * LEFT_TO_MIGRATION
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
            if status not in _INTERIM or status == _SWITCHES:
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


class _Bounded(HTTPConnection):
    """A connection that is opened, used and ended within an exchange."""

    response_class = _Answer
    debuglevel = 0
    """Whatever http.client's is set to: it prints headers and addresses."""
    _plug: Plug | None = None
    used_at = 0.0
    """When the last request over it began, by the monotonic clock."""

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self._plug:
            UNDER_WAY.get().stops_with(self._plug.pull)
        self.used_at = time.monotonic()
        super().request(*args, **kwargs)

    @property
    def is_connected(self) -> bool:
        is_recent = time.monotonic() - self.used_at <= IDLE_AT_MOST_S
        return is_recent and super().is_connected

    def close(self) -> None:
        plug, self._plug = self._plug, None
        try:
            super().close()
        finally:
            if plug:
                plug.close()

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
            left = exchange.left()
            share = max(left / (len(addresses) - tried), min(left, LEAST_PER_ADDRESS_S))
            sock, target = self._socket(kind, address)
            plug = Plug(sock.dup())
            try:
                _leave_some(plug)
                for option in KEEP_ALIVE:
                    sock.setsockopt(*option)
                exchange.stops_with(plug.pull)
                sock.settimeout(share)
                sock.connect(target)
                # A TLS handshake takes at most the socket's timeout, however it drips.
                sock.settimeout(exchange.left())
            except BaseException as error:
                plug.close()
                sock.close()
                if not isinstance(error, OSError):
                    raise
                fault = error
            else:
                self._plug = plug
                exchange.step = "proxy" if self.proxy else "tls"
                return sock
        raise NewConnectionError(self, "no connection") from fault

    def _socket(self, kind: list[int], address: Any) -> tuple[socket.socket, Any]:
        """A socket, and what it is to connect to."""
        return socket.socket(*kind), address


def _leave_some(plug: Plug) -> None:
    if _room(plug.fileno()) <= LEFT_TO_MIGRATION:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def _room(descriptor: int) -> float:
    """How many descriptors at most this process may still open, as *descriptor* is in use."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.inf if most == resource.RLIM_INFINITY else most - descriptor


class _Tls(HTTPSConnection):
    """TLS that leaves no socket open when it fails."""

    def connect(self) -> None:
        try:
            super().connect()
        except OSError as error:
            _close_lost(error)
            raise


def _close_lost(error: OSError) -> None:
    """Close the socket that ``ssl`` made, and lost when the peer reset it before the handshake."""
    step = error.__traceback__
    while step is not None:
        lost = step.tb_frame.f_locals.get("self")
        if isinstance(lost, ssl.SSLSocket):
            lost.close()
        step = step.tb_next


class _BoundedTls(_Bounded, _Tls):
    pass


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


class _TlsSocks(_Socks, _Tls):
    pass


POOLS = {
    "http": type("Pool", (HTTPConnectionPool,), {"ConnectionCls": _Bounded}),
    "https": type("TlsPool", (HTTPSConnectionPool,), {"ConnectionCls": _BoundedTls}),
}
"""The classes of pools for a urllib3 ``PoolManager``."""
SOCKS_POOLS = {
    "http": type("SocksPool", (HTTPConnectionPool,), {"ConnectionCls": _Socks}),
    "https": type("TlsSocksPool", (HTTPSConnectionPool,), {"ConnectionCls": _TlsSocks}),
}


def permitted(addresses: list[Any], networks: Networks, *, every: bool = False) -> list[Any]:
    """Those of *addresses* that may be dialled. Raises DeniedError when none, or not *every*."""
    if not (networks.allowed or networks.denied):
        return addresses
    refusals = [networks.refusal(one[4][0]) for one in addresses]
    allowed = [one for one, refusal in zip(addresses, refusals, strict=True) if refusal is None]
    if len(allowed) < (len(addresses) if every else min(1, len(addresses))):
        raise DeniedError(next(refusal for refusal in refusals if refusal))
    return allowed
