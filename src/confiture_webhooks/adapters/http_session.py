"""An endpoint's kept connections, and one attempt over them."""

from __future__ import annotations

import logging
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from urllib3.util import Timeout

from ..networks import address_of
from ..telemetry.http_spans import without_http_spans
from ..transport import Request
from .http_answer import drain, response_of
from .http_connection import POOLS, SOCKS_POOLS
from .http_exchange import UNDER_WAY, Exchange
from .http_failure import error_type_of, why
from .http_way import Way, is_socks, look_up, permitted, way_to, wrong_file, wrong_proxy

MOST_KEPT = 32
"""Connections that are kept for one endpoint, at most."""


class EndpointSession:
    """One endpoint's connections. Keeps no cookies, follows no redirect, reads no netrc."""

    def __init__(self, *, is_export: bool = False) -> None:
        self._is_export = is_export
        self.under_way: set[Exchange] = set()
        self._way: Way | None = None
        """The way of the latest attempt."""
        self._adapter = _Adapter(pool_connections=2, pool_maxsize=MOST_KEPT)
        self._adapter.poolmanager.pool_classes_by_scheme = POOLS
        for name in ("connection", "connectionpool", "poolmanager", "response", "util.retry"):
            logging.getLogger(f"urllib3.{name}").addFilter(_is_not_ours)

    def exchange(self, exchange: Exchange) -> str | None:
        """Send its request, and put the answer into it; or the error type."""
        UNDER_WAY.set(exchange)
        way = failed = None
        try:
            way = self._way_of(exchange.request)
            exchange.proxy_variable, exchange.is_forwarded = way.proxy_variable, way.is_forwarded
            exchange.authority = way.authority
            if way.wrong_setting is not None:
                error_type, exchange.reason, exchange.fault = way.wrong_setting
                return error_type
            networks = exchange.request.networks
            if way.proxy and (networks.allowed or networks.denied):
                # The proxy will reach the host: its addresses are looked at here first.
                permitted(look_up(*address_of(way.url), exchange), networks, every=True)
            with without_http_spans():
                exchange.unread = self._send(exchange, way)
            exchange.answered(response_of(exchange.unread))
        except Exception as error:  # noqa: BLE001  (its text may hold the address)
            if exchange.response is None:
                failed = error_type_of(exchange, error)
        finally:
            drain(exchange)
        if way is not None:
            way.has_answered = failed is None and not way.proxy
        return failed

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
        self._adapter.close()

    def _send(self, exchange: Exchange, way: Way) -> Any:
        """Send it; again if a kept connection turns out to be closed. Same ``webhook-id``."""
        request, pool = exchange.request, self._pool_of(way)
        headers = CaseInsensitiveDict(request.headers)  # of two in different case the later one
        while True:
            try:
                left = exchange.left()
                return pool.urlopen(
                    request.method,
                    way.target,
                    request.body or None,
                    headers,
                    self._adapter.max_retries,
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

    def _pool_of(self, way: Way) -> Any:
        """The pool of connections for *way*."""
        if way.pool is None:
            verify, cert, proxies = (way.settings[name] for name in ("verify", "cert", "proxies"))
            asked = requests.PreparedRequest()
            asked.url = way.url
            way.target = self._adapter.request_url(asked, proxies)
            pool = self._adapter.get_connection_with_tls_context(asked, verify, proxies, cert)
            # By the pool's scheme: requests does not verify a proxy's certificate for plain http.
            self._adapter.cert_verify(pool, pool.scheme, verify, cert)  # type: ignore[no-untyped-call]
            way.pool = pool
        return way.pool


class _Adapter(HTTPAdapter):
    """What of ``requests`` finds the pool for an address, its proxies and certificates."""

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = SOCKS_POOLS if is_socks(proxy) else POOLS
        return manager


def _is_not_ours(record: logging.LogRecord) -> bool:  # noqa: ARG001
    """Keep a record unless it is about an attempt: urllib3 logs paths and answers."""
    return UNDER_WAY.get(None) is None
