"""An endpoint's ``requests`` session, and the traces and logs of its attempts."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import requests
from opentelemetry import baggage, context, trace
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth
from urllib3.util import Timeout

from ..networks import origin
from ..telemetry.http_spans import ADDRESSES, without_http_spans
from ..transport import Request
from .http_answer import bare_answer, drain, response_of
from .http_connection import POOLS, SOCKS_POOLS
from .http_exchange import UNDER_WAY, Exchange
from .http_failure import NO_ANSWER, error_type_of, why
from .http_way import Way, address_of, is_socks, look_up, permitted, way_to, wrong_file, wrong_proxy

MOST_KEPT = 32
"""Connections that are kept for one endpoint, at most."""

_PLAIN_REQUEST_HEADER = re.compile(
    r"content_(length|type)|trace(parent|state)|user_agent|webhook_(id|timestamp)"
    r"|x_confiture_(attempt|delivery|event)|x_(correlation_id|environment|migration_version)"
)
"""Request headers that a span may show if its owner asked for some."""
_CALLER: ContextVar[trace.Span] = ContextVar("confiture_webhooks_caller")


class EndpointSession(requests.Session):
    """One endpoint's connections. Keeps no cookies, follows no redirect, reads no netrc."""

    def __init__(self, *, is_export: bool = False) -> None:
        super().__init__()
        self._is_export = is_export
        self.under_way: set[Exchange] = set()
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
            exchange.proxy_variable, exchange.is_forwarded = way.proxy_variable, way.is_forwarded
            if way.wrong_setting is not None:
                error_type, exchange.reason, exchange.fault = way.wrong_setting
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
            return error_type_of(exchange, error)
        finally:
            drain(exchange)
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
        if not known or known.wrong_setting or (known.stamp, known.proxy) != (way.stamp, way.proxy):
            way.wrong_setting = wrong_proxy(way) or wrong_file(way)
        if known and known.stamp != way.stamp:
            self.close()
        self._way = way
        return way

    def close(self) -> None:
        """Close its connections. The next request opens new ones."""
        self._way = None  # urllib3 closes a pool once nothing refers to it
        super().close()


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
            exchange.answered(response_of(answer))
        except Exception as error:  # noqa: BLE001  (its text may hold the address)
            if exchange.response is not None:
                return bare_answer(exchange.response.status_code, {}, 11)
            error_type = error_type_of(exchange, error)
        else:
            return bare_answer(answer.status, answer.headers, answer.version)
        raise NO_ANSWER[error_type](error_type)

    def _send(self, request: requests.PreparedRequest, exchange: Exchange, way: Way) -> Any:
        """Send it; again if a kept connection turns out to be closed. Same ``webhook-id``."""
        pool = way.pool = way.pool or self._pool(request, way)
        while True:
            try:
                left = exchange.left()
                return pool.urlopen(
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
