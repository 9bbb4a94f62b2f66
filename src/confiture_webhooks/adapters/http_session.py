"""An endpoint's ``requests`` session, its attempts' traces and logs, and why one had no answer."""

from __future__ import annotations

import http.client
import io
import logging
import re
import socket
import ssl
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import requests
from opentelemetry import baggage, context, trace
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth
from requests.exceptions import InvalidProxyURL, InvalidSchema
from urllib3.exceptions import HeaderParsingError, ProxyError, ProxySchemeUnknown, ReadTimeoutError
from urllib3.exceptions import SSLError as UrllibSSLError
from urllib3.response import HTTPResponse
from urllib3.util import Timeout
from urllib3.util.ssl_match_hostname import CertificateError

from ..delivery import ERROR_TYPES
from ..networks import origin
from ..telemetry.http_spans import ADDRESSES, without_http_spans
from ..transport import Response
from .http_connection import POOLS, SOCKS_POOLS, DeniedError, look_up, permitted
from .http_exchange import UNDER_WAY, ahead, retry_after
from .http_way import Way, address_of, file_obstacle, is_socks, proxy_obstacle, way_to

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from urllib3.response import BaseHTTPResponse

    from ..transport import Request
    from .http_exchange import Exchange

BODY_LIMIT = 4096
"""How much of an answer's body is read, and thrown away, to use its connection again."""
MOST_KEPT = 32
"""Connections that are kept for one endpoint, at most."""

_PLAIN_REQUEST_HEADER = re.compile(
    r"content_(length|type)|trace(parent|state)|user_agent|webhook_(id|timestamp)"
    r"|x_confiture_(attempt|delivery|event)|x_(correlation_id|environment|migration_version)"
)
"""Request headers that a span may show if its owner asked for some."""
_PLAIN_ANSWER_HEADERS = ("content-length", "content-type", "date", "retry-after")
_CALLER: ContextVar[trace.Span] = ContextVar("confiture_webhooks_caller")


class NoAnswer(Exception):  # noqa: N818  (its subclasses are the error types)
    """An attempt had no answer. Holds its error type and nothing else."""


_NO_ANSWER = {
    name: type(name, (NoAnswer,), {"__module__": __name__, "__qualname__": name})
    for name in ERROR_TYPES
}
"""A class each: instrumentation takes the class's name for ``error.type``."""


class EndpointSession(requests.Session):
    """One endpoint's connections. Keeps no cookies, follows no redirect, reads no netrc."""

    def __init__(self, *, is_export: bool = False) -> None:
        super().__init__()
        self._is_export = is_export
        self.under_way: set[Exchange] = set()
        """Its attempts under way."""
        self._way: Way | None = None
        """The way of the latest attempt."""
        self.adapters.clear()
        # For every scheme, so that a wrong one is also refused where its text stays inside.
        adapter = _CleanAdapter(pool_connections=2, pool_maxsize=MOST_KEPT)
        adapter.poolmanager.pool_classes_by_scheme = POOLS
        self.mount("", adapter)
        for name in ("connection", "connectionpool", "poolmanager", "response", "util.retry"):
            logging.getLogger(f"urllib3.{name}").addFilter(_is_not_ours)

    def exchange(self, exchange: Exchange) -> str | None:
        """Send its request, and put the answer into it; or the error type."""
        UNDER_WAY.set(exchange)
        context.attach(baggage.clear())
        _CALLER.set(trace.get_current_span())
        way = None
        try:
            way = self._way_of(exchange.request)
            exchange.proxy, exchange.is_forwarded = way.proxy_variable, way.is_forwarded
            if way.obstacle is not None:
                error_type, exchange.reason, exchange.fault = way.obstacle
                return error_type
            networks = exchange.request.networks
            if way.proxy and (networks.allowed or networks.denied):
                # The proxy will reach the host: its addresses are looked at here first.
                permitted(look_up(*address_of(way.url), exchange), networks, every=True)
            prepared = _prepare(exchange.request, way.url)
            self.send(prepared, timeout=exchange.left(), way=way, **way.settings)
        except Exception as error:  # noqa: BLE001  (its text may hold the address)
            if way is not None:
                way.has_answered, exchange.authority = False, way.authority
            return _error_type(exchange, error)
        finally:
            _drain(exchange)
        way.has_answered = not way.proxy
        return None

    def has_answered(self, request: Request) -> bool:
        """Whether the latest attempt went the way of *request*, just now, and had an answer."""
        way = self._way
        return way is not None and way.has_answered and way.is_for(request.url, request.tls)

    def _way_of(self, request: Request) -> Way:
        """The way to *request*'s address; connections over another one are closed.

        It is not worked out anew for each request, as that takes a good part of the time of one.
        """
        known = self._way
        if known and known.is_for(request.url, request.tls):
            return known
        way = way_to(request.url, request.tls, is_export=self._is_export)
        if known is None or known.obstacle or (known.stamp, known.proxy) != (way.stamp, way.proxy):
            way.obstacle = proxy_obstacle(way) or file_obstacle(way)
        if known and known.stamp != way.stamp:
            self.close()
        self._way = way
        return way

    def close(self) -> None:
        """Close its connections. The next request opens new ones."""
        self._way = None  # urllib3 closes a pool once nothing refers to it
        super().close()


def _error_type(exchange: Exchange, error: Exception) -> str:
    if isinstance(error, NoAnswer):
        return type(error).__name__
    is_connected = exchange.step in ("tls", "answers")
    error_type, reason = why(error, is_past_proxy=is_connected and not exchange.is_forwarded)
    if exchange.is_forwarded and error_type == "protocol":
        error_type, reason = "proxy", error_type
    if error_type == "proxy" and is_connected:
        exchange.step = "proxy"  # the receiver was not heard
    verdict = exchange.verdict(error_type)
    if verdict == error_type:
        exchange.reason = exchange.reason or reason
    return verdict


class _CleanAdapter(HTTPAdapter):
    """Sends within the span of the attempt; neither it nor an error it raises has an address."""

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = SOCKS_POOLS if is_socks(proxy) else POOLS
        return manager

    def send(  # type: ignore[override]
        self, request: requests.PreparedRequest, *, way: Way, **_: Any
    ) -> requests.Response:
        """Send *request*; raises NoAnswer, made outside the handler so that it has no context."""
        exchange = UNDER_WAY.get()
        try:
            _describe_span(request.url or "", exchange.request.resend_count)
            with without_http_spans():
                answer = exchange.unread = self._send(request, exchange, way)
            exchange.answered(_response(answer))
        except Exception as error:  # noqa: BLE001  (its text may hold the address)
            if exchange.response is not None:
                return _shown(exchange.response.status_code, {}, 11)
            error_type = _error_type(exchange, error)
        else:
            return _shown(answer.status, answer.headers, answer.version)
        raise _NO_ANSWER[error_type](error_type)

    def _send(
        self, request: requests.PreparedRequest, exchange: Exchange, way: Way
    ) -> BaseHTTPResponse:
        """Send it; again if a kept connection turns out to be closed. Same ``webhook-id``."""
        pool = way.pool = way.pool or self._pool(request, way)
        while True:
            try:
                left = exchange.left()
                answer: BaseHTTPResponse = pool.urlopen(
                    request.method,
                    way.target,
                    request.body,
                    request.headers,
                    self.max_retries,
                    redirect=False,
                    assert_same_host=False,
                    timeout=Timeout(connect=left, read=left),
                    preload_content=False,
                    decode_content=False,
                )
            except Exception as error:
                is_stale = not (exchange.is_fresh or exchange.is_heard)
                if not is_stale or why(error, is_past_proxy=True)[0] != "connection_reset":
                    raise
            else:
                return answer

    def _pool(self, request: requests.PreparedRequest, way: Way) -> Any:
        """The pool of connections for *way*. Only requests itself looks it up for each request."""
        verify, cert, proxies = (way.settings[name] for name in ("verify", "cert", "proxies"))
        way.target = self.request_url(request, proxies)
        pool = self.get_connection_with_tls_context(request, verify, proxies, cert)
        # By the pool's scheme: requests does not verify a proxy's certificate for plain http.
        self.cert_verify(pool, pool.scheme, verify, cert)  # type: ignore[no-untyped-call]
        return pool


def _prepare(request: Request, url: str) -> requests.PreparedRequest:
    """The request as requests sends it, without looking for credentials in the URL or netrc."""
    prepared = requests.PreparedRequest()
    prepared.prepare_method(request.method)
    prepared.url = url
    prepared.prepare_headers(dict(request.headers))
    prepared.prepare_body(request.body, None)
    if request.basic_auth and "Authorization" not in prepared.headers:
        user, password = (part.encode() for part in request.basic_auth)
        HTTPBasicAuth(user, password)(prepared)
    return prepared


def _response(answer: BaseHTTPResponse) -> Response:
    date, longest = answer.headers.get("Date"), None
    if given := answer.headers.getlist("Retry-After"):
        now = datetime.now(UTC)
        theirs = now + (ahead(date, now) or timedelta())  # a date of theirs is by their clock
        # A gateway may add one to the receiver's own.
        waits = [retry_after(one, theirs) for one in given]
        longest = max((wait for wait in waits if wait is not None), default=None)
    return Response(status_code=answer.status, retry_after=longest, date=date)


def _shown(status_code: int, headers: Mapping[str, str], version: int) -> requests.Response:
    """The answer as instrumentation sees it: without body, address, and possible secrets."""
    shown = requests.Response()
    shown.status_code = status_code
    shown.reason = ""
    shown.raw = _without_body(version)
    shown.headers.update({name: headers[name] for name in _PLAIN_ANSWER_HEADERS if name in headers})
    return shown


@cache
def _without_body(version: int) -> HTTPResponse:
    return HTTPResponse(io.BytesIO(), version=version, preload_content=False)


def _drain(exchange: Exchange) -> None:
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


def _describe_span(url: str, resend_count: int) -> None:
    """Put host and port, and no more of the address, on the span that instrumentation opened."""
    span = trace.get_current_span()
    if span is _CALLER.get() or not span.is_recording():
        return
    # An attribute cannot be removed. Spans without the SDK do not show theirs.
    given: Mapping[str, Any] | None = getattr(span, "attributes", None)
    known = dict(given or {})
    host, port = address_of(url)
    attributes: dict[str, str | int] = {"server.address": host, "server.port": port}
    if resend_count:
        attributes["http.request.resend_count"] = resend_count
    attributes |= {one: origin(url) for one in ADDRESSES if given is None or one in known}
    for name in known:
        header = name.removeprefix("http.request.header.")
        if header != name and not _PLAIN_REQUEST_HEADER.fullmatch(header):
            attributes[name] = "REDACTED"
    span.set_attributes({name: one for name, one in attributes.items() if known.get(name) != one})


def _is_not_ours(record: logging.LogRecord) -> bool:  # noqa: ARG001
    """Keep a record unless it is about an attempt: urllib3 logs paths and answers."""
    return UNDER_WAY.get(None) is None


# Why there was no answer

_TYPES: tuple[tuple[str, tuple[type[BaseException], ...]], ...] = (
    ("timeout", (TimeoutError, ReadTimeoutError)),
    # Whatever went wrong before the proxy connected us says nothing of the receiver.
    ("proxy", (ProxyError, ProxySchemeUnknown, InvalidProxyURL, InvalidSchema)),
    ("dns", (socket.gaierror,)),
    ("connection_refused", (ConnectionRefusedError,)),
    (
        "connection_reset",
        # TLS connections that just end: the peer closed, its certificate was not the matter.
        (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError),
    ),
    ("tls", (ssl.SSLError, UrllibSSLError, CertificateError)),
    ("protocol", (http.client.HTTPException, HeaderParsingError)),
)
"""In this order: a cause comes before its effects."""
_CERTIFICATE = {
    9: "not_yet_valid",
    10: "expired",
    18: "self_signed",
    19: "untrusted",
    20: "untrusted",
    62: "wrong_host",
    64: "wrong_host",
}
"""Reasons by OpenSSL's code for a certificate that does not verify."""
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNSUPPORTED_PROTOCOL"})
"""OpenSSL's reasons for bytes that are no TLS."""


_OF_SOCKS = {
    "SOCKS5AuthError": "credentials",
    "SOCKS5Error": "not_reached",
    "SOCKS4Error": "not_reached",
}
"""Reasons by PySocks' errors."""


def why(error: BaseException, *, is_past_proxy: bool = False) -> tuple[str, str | None]:
    """The error type of *error*, and more about it, where it is known: ``expired``, ``no_tls``, …

    The type is the first in the table that its chain has. More about a proxy that is not reached
    is the error type that a receiver would have. urllib3 blames the proxy for all that its
    connection meets; *is_past_proxy* says that it is the receiver's.
    """
    chain = list(_chain(error))
    types = [name for name, kinds in _TYPES if any(isinstance(link, kinds) for link in chain)]
    if is_past_proxy:
        types = [name for name in types if name != "proxy"]
    of_proxy = [*types[1:], "protocol"] if types[:1] == ["proxy"] else []
    reasons = [*map(_reason, chain), *of_proxy]
    return next(iter(types), "other"), next((reason for reason in reasons if reason), None)


def _reason(error: BaseException) -> str | None:
    of_openssl = getattr(error, "reason", None)
    reason = _OF_SOCKS.get(type(error).__name__)
    if isinstance(error, DeniedError):
        reason = str(error)
    elif isinstance(error, ssl.SSLCertVerificationError):
        reason = _CERTIFICATE.get(getattr(error, "verify_code", 0), "not_verified")
    elif isinstance(error, ssl.SSLError) and of_openssl in _NOT_TLS:
        reason = "no_tls"
    elif isinstance(error, ssl.SSLError) and "_ALERT_" in (of_openssl or ""):
        reason = "refused"  # the peer's word for why it ends the handshake
    return reason


def _chain(error: BaseException) -> Iterator[BaseException]:
    """*error* and all it stands for: urllib3 and requests wrap in causes, reasons and arguments."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        link = waiting.pop()
        if isinstance(link, BaseException) and id(link) not in seen:
            seen.add(id(link))
            yield link
            waiting += [link.__cause__, link.__context__, getattr(link, "reason", None)]
            waiting += [getattr(link, "original_error", None), *link.args]
