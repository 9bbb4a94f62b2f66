"""An endpoint's ``requests`` session, and what its attempts leave in traces and logs."""

from __future__ import annotations

import base64
import functools
import io
import logging
import ssl
import time
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from opentelemetry import baggage, context, trace
from opentelemetry.instrumentation.utils import suppress_http_instrumentation
from requests.adapters import HTTPAdapter

from ..delivery import ERROR_TYPES
from ..transport import Response
from .http_connection import POOLS
from .http_exchange import UNDER_WAY
from .http_reason import error_type_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..transport import Request
    from .http_exchange import Exchange

BODY_LIMIT = 4096
"""How much of an answer's body is read, and thrown away, to use its connection again."""
LONGEST_RETRY_AFTER = timedelta(days=365)

_SECONDS_DIGITS = 9
_DEFAULT_PORTS = {"http": 80, "https": 443}
_PLAIN_REQUEST_HEADERS = frozenset(
    {
        "content_length",
        "content_type",
        "traceparent",
        "tracestate",
        "user_agent",
        "webhook_id",
        "webhook_timestamp",
        "x_confiture_attempt",
        "x_confiture_delivery",
        "x_confiture_event",
        "x_correlation_id",
        "x_environment",
        "x_migration_version",
    }
)
"""What a span may show where its owner asked for request headers."""
_PLAIN_ANSWER_HEADERS = ("content-length", "content-type", "date", "retry-after")
LOOKS_AROUND_EVERY_S = 1.0
"""How soon a change of proxies and certificates in the environment is seen, at the latest."""
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

    def __init__(self) -> None:
        super().__init__()
        self._found: tuple[str, float, tuple[str, dict[str, Any]]] | None = None
        self.adapters.clear()
        # For every scheme, so that a wrong one is also refused where its text stays inside.
        self.mount("", _CleanAdapter(pool_connections=2, pool_maxsize=2))
        for name in ("connection", "connectionpool", "poolmanager", "response", "util.retry"):
            logging.getLogger(f"urllib3.{name}").addFilter(_is_not_ours)

    def exchange(self, request: Request, exchange: Exchange) -> str | None:
        """Send *request*, putting its answer into *exchange*; or the error type."""
        UNDER_WAY.set(exchange)
        context.attach(baggage.clear())
        _CALLER.set(trace.get_current_span())
        try:
            url, settings = self._way(request.url)
            prepared = _prepare(request, url)
            self.send(prepared, timeout=exchange.left(), allow_redirects=False, **settings)
        except NoAnswer as error:
            return type(error).__name__
        except Exception as error:  # noqa: BLE001  (its text may hold the address)
            return exchange.verdict(error_type_of(error))
        finally:
            _drain(exchange)
        return None

    def _way(self, address: str) -> tuple[str, dict[str, Any]]:
        """*address* as requests writes it, and the proxies and certificates for it.

        They are not worked out anew for each request: that takes as long as the rest of one.
        """
        found, now = self._found, time.monotonic()
        if found and found[0] == address and now - found[1] <= LOOKS_AROUND_EVERY_S:
            return found[2]
        plain = requests.PreparedRequest()
        plain.prepare_url(address, None)
        url = plain.url or ""
        settings = self.merge_environment_settings(url, {}, stream=True, verify=None, cert=None)
        way = url, dict(settings)
        self._found = address, now, way
        return way


class _CleanAdapter(HTTPAdapter):
    """Sends within the span of the attempt; neither it nor what it raises tells an address."""

    _found: tuple[Any, ...] = ()
    """What the last pool of connections was found by, and that pool."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools, of connections that end with their attempt."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Return the pools of a proxy, of connections that end with their attempt."""
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = POOLS
        return manager

    def get_connection_with_tls_context(
        self, request: requests.PreparedRequest, *args: Any, **kwargs: Any
    ) -> Any:
        """Return the pool for *request*: the last one, when it is wanted by the same terms."""
        terms = (request.url, args, kwargs)
        if not self._found or self._found[0] != terms:
            pool = super().get_connection_with_tls_context(request, *args, **kwargs)
            self._found = (terms, pool)
        return self._found[1]

    def close(self) -> None:
        """Close the pools, and know none of them any more."""
        self._found = ()
        super().close()

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Find the trusted certificates; that there are none is a fault of TLS."""
        try:
            super().cert_verify(conn, url, verify, cert)  # type: ignore[no-untyped-call]
        except OSError as error:
            raise ssl.SSLError from error

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:  # type: ignore[override]
        """Send *request*; raises NoAnswer, made outside the handler so that it has no context."""
        exchange = UNDER_WAY.get()
        try:
            _describe_span(request.url or "", exchange.resend_count)
            with suppress_http_instrumentation():
                answer = self._send(request, exchange, kwargs)
            exchange.unread = answer.raw
            exchange.answered(_response(answer))
        except Exception as error:  # noqa: BLE001  (its text may hold the address)
            error_type = exchange.verdict(error_type_of(error))
        else:
            return _shown(answer)
        raise _NO_ANSWER[error_type](error_type)

    def _send(
        self, request: requests.PreparedRequest, exchange: Exchange, kwargs: dict[str, Any]
    ) -> requests.Response:
        """Send it; once more if the kept connection turns out to be closed. Same ``webhook-id``."""
        try:
            return super().send(request, **kwargs)
        except Exception as error:
            is_stale = not (exchange.is_fresh or exchange.is_heard)
            if not is_stale or error_type_of(error) != "connection_reset":
                raise
        return super().send(request, **kwargs | {"timeout": exchange.left()})


class _NoBody(io.BytesIO):
    """What a session's hooks find in place of an answer's body."""

    version: int | None = None


def _prepare(request: Request, url: str) -> requests.PreparedRequest:
    """The request as requests sends it, without looking for credentials in the URL or netrc."""
    headers = dict(request.headers)
    if request.basic_auth and "authorization" not in {name.lower() for name in headers}:
        credentials = base64.b64encode(":".join(request.basic_auth).encode())
        headers["Authorization"] = f"Basic {credentials.decode()}"
    prepared = requests.PreparedRequest()
    prepared.prepare_method("POST")
    prepared.url = url
    prepared.prepare_headers(headers)
    prepared.headers["Content-Length"] = str(len(request.body))
    prepared.body = request.body
    return prepared


def _response(answer: requests.Response) -> Response:
    return Response(
        status_code=answer.status_code,
        retry_after=retry_after(answer.headers.get("Retry-After"), datetime.now(UTC)),
    )


def retry_after(text: str | None, now: datetime) -> timedelta | None:
    """What a ``Retry-After`` asks for (RFC 9110, 10.2.3); ``None`` when it cannot be read."""
    text = (text or "").strip()
    if text.isascii() and text.isdecimal():
        # A number can be longer than int() or timedelta() take.
        is_long = len(text) > _SECONDS_DIGITS
        wait = LONGEST_RETRY_AFTER if is_long else timedelta(seconds=int(text))
        return min(wait, LONGEST_RETRY_AFTER)
    try:
        at = parsedate_to_datetime(text)
        wait = (at if at.tzinfo else at.replace(tzinfo=UTC)) - now
    except (ValueError, OverflowError):
        return None
    return min(max(wait, timedelta(0)), LONGEST_RETRY_AFTER)


def _shown(answer: requests.Response) -> requests.Response:
    """The answer as instrumentation sees it: without body, address, and what may be secret."""
    shown = requests.Response()
    shown.status_code = answer.status_code
    shown.reason = ""
    shown.raw = _NoBody()
    shown.raw.version = answer.raw.version
    shown.headers.update(
        {name: answer.headers[name] for name in _PLAIN_ANSWER_HEADERS if name in answer.headers}
    )
    return shown


def _drain(exchange: Exchange) -> None:
    """Read the rest of a short answer, so that its connection is kept; else close it."""
    # Let go of it: a cycle through it would keep a closed session's connections open.
    raw, exchange.unread = exchange.unread, None
    if raw is None:
        return
    with suppress(Exception):
        raw.read(BODY_LIMIT, decode_content=False)
    with suppress(Exception):
        if raw.connection is not None:
            raw.close()
            raw.release_conn()


def _describe_span(url: str, resend_count: int) -> None:
    """Put host and port, and no more of the address, on the span that instrumentation opened."""
    span = trace.get_current_span()
    if span is _CALLER.get() or not span.is_recording():
        return
    host, port, shown = _told_of(url)
    attributes: dict[str, str | int] = {"server.address": host, "server.port": port}
    if resend_count:
        attributes["http.request.resend_count"] = resend_count
    # What was set cannot be removed. Without the SDK's spans nobody can tell what was.
    given: Mapping[str, Any] | None = getattr(span, "attributes", None)
    for name in ("url.full", "http.url"):
        if given is None or name in given:
            attributes[name] = shown
    for name in given or ():
        header = name.removeprefix("http.request.header.")
        if header not in (name, *_PLAIN_REQUEST_HEADERS):
            attributes[name] = "REDACTED"
    span.set_attributes(attributes)


@functools.lru_cache(maxsize=16)
def _told_of(url: str) -> tuple[str, int, str]:
    """Host, port, and scheme with both, of *url*."""
    parts = urlsplit(url)
    port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
    address = parts.netloc.rpartition("@")[2]
    return parts.hostname or "", port, f"{parts.scheme}://{address}"


def _is_not_ours(record: logging.LogRecord) -> bool:  # noqa: ARG001
    """Keep a record unless it is about an attempt: urllib3 logs paths and answers."""
    return UNDER_WAY.get(None) is None
