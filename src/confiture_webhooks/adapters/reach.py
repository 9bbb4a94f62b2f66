"""Whether an address can be reached at all: name, connection, TLS; and what time it is there."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies, select_proxy

from .http_reason import error_type_of

_PORTS = {"http": 80, "https": 443}
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@dataclass(slots=True)
class Reach:
    """How far it went; ``error_type`` is of the first step that failed."""

    step: str = "resolves"
    """``resolves``, ``connects``, ``tls``, or ``answers`` when all of them went well."""
    error_type: str | None = None
    is_proxied: bool = False
    """Only the proxy was reached for: what lies behind it answers to the transport alone."""
    skew: timedelta | None = None
    """By how much the clock there is ahead, where its answer told."""


def reach(url: str, timeout: timedelta) -> Reach:
    """Try *url*'s host, in at most about *timeout*. Tells it no path, query or credentials."""
    found = Reach()
    thread = threading.Thread(
        target=_try, args=(url, timeout.total_seconds(), found), name="webhooks-reach", daemon=True
    )
    thread.start()
    thread.join(timeout.total_seconds())
    if thread.is_alive():
        # Left behind: nothing can end a name resolution.
        return Reach(step=found.step, error_type="timeout", is_proxied=found.is_proxied)
    return found


def _try(url: str, timeout_s: float, found: Reach) -> None:
    try:
        proxy = select_proxy(url, get_environ_proxies(url))
        found.is_proxied = bool(proxy)
        parts = urlsplit(proxy if proxy and "://" in proxy else f"http://{proxy}" if proxy else url)
        host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 443)
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        found.step = "connects"
        with socket.create_connection((host, port), timeout_s) as plain:
            found.step = "tls"
            is_secured = parts.scheme == "https"
            sock = _context().wrap_socket(plain, server_hostname=host) if is_secured else plain
            found.step = "answers"
            if not found.is_proxied:
                found.skew = _skew(sock, host, timeout_s)
            sock.close()
    except Exception as error:  # noqa: BLE001  its text may hold the address
        found.error_type = error_type_of(error)


def _context() -> ssl.SSLContext:
    """Trusting whom ``requests`` trusts."""
    named = (os.environ.get(name) for name in CA_VARIABLES)
    given = next((path for path in named if path), DEFAULT_CA_BUNDLE_PATH)
    is_directory = os.path.isdir(given)  # noqa: PTH112
    return ssl.create_default_context(
        cafile=None if is_directory else given, capath=given if is_directory else None
    )


def _skew(sock: socket.socket, host: str, timeout_s: float) -> timedelta | None:
    """The ``Date`` of the answer to a bare HEAD against our clock; ``None`` without one."""
    with suppress(OSError, ValueError, TypeError, http.client.HTTPException):
        sock.settimeout(min(timeout_s, 2))
        connection = http.client.HTTPConnection(host)
        connection.sock = sock
        connection.request("HEAD", "/", headers={"Connection": "close"})
        date = connection.getresponse().getheader("Date")
        at = parsedate_to_datetime(date or "")
        return (at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime.now(UTC)
    return None
