"""Whether an address can be reached: name, connection, proxy, TLS; and what time it is there."""

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
from urllib.parse import SplitResult, urlsplit

from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies, select_proxy

from .http_reason import error_type_of

_PORTS = {"http": 80, "https": 443}
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_REASONS = {
    9: "not_yet_valid",
    10: "expired",
    18: "self_signed",
    19: "untrusted",
    20: "untrusted",
    62: "wrong_host",
    64: "wrong_host",
}
"""Of OpenSSL's codes for a certificate that does not verify."""
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNSUPPORTED_PROTOCOL"})
"""What OpenSSL says of bytes that are no TLS."""
_OF_THE_PROXY = frozenset({407, 502, 503, 504})
"""Answers to a plain request that a proxy makes itself. A 403 may be the receiver's own, too."""
_LONGEST_ANSWER_S = 2.0


@dataclass(slots=True)
class Reach:
    """How far it went; ``error_type`` is of the first step that failed."""

    step: str = "resolves"
    """``resolves``, ``connects``, ``proxy``, ``tls``, or ``answers`` when all went well.

    With a proxy the first two are the proxy's.
    """
    error_type: str | None = None
    """Of those a delivery can have; of step ``proxy``, what the proxy answered."""
    reason: str | None = None
    """What is wrong with TLS, where that is known: ``expired``, ``wrong_host``, …"""
    is_proxied: bool = False
    skew: timedelta | None = None
    """By how much the clock there is ahead, where its answer told."""


class _BundleError(Exception):
    """The certificates to trust cannot be read."""


def reach(url: str, timeout: timedelta, ca_bundle: str | None = None) -> Reach:
    """Try *url*'s host, in at most about *timeout*. Tells it no path, query or credentials.

    *ca_bundle*: whom to trust, if not those that the environment names.
    """
    found = Reach()
    thread = threading.Thread(
        target=_try,
        args=(url, timeout.total_seconds(), ca_bundle, found),
        name="webhooks-reach",
        daemon=True,
    )
    thread.start()
    thread.join(timeout.total_seconds())
    if thread.is_alive():
        # Left behind: nothing can end a name resolution.
        return Reach(step=found.step, error_type="timeout", is_proxied=found.is_proxied)
    return found


def _try(url: str, timeout_s: float, ca_bundle: str | None, found: Reach) -> None:
    try:
        target, proxy = urlsplit(url), _proxy(url)
        found.is_proxied = proxy is not None
        first = proxy or target
        host, port = _place(first)
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        found.step = "connects"
        with socket.create_connection((host, port), timeout_s) as plain:
            plain.settimeout(timeout_s)
            if proxy is None:
                _talk(plain, target, ca_bundle, found)
            else:
                _through(plain, proxy, target, ca_bundle, found)
    except Exception as error:  # noqa: BLE001  its text may hold the address
        found.reason = _reason(error) if found.step == "tls" else None
        found.error_type = "tls" if found.reason else error_type_of(error)


def _proxy(url: str) -> SplitResult | None:
    """The proxy that the environment names for *url*."""
    given = select_proxy(url, get_environ_proxies(url))
    return urlsplit(given if "://" in given else f"http://{given}") if given else None


def _place(address: SplitResult) -> tuple[str, int]:
    return address.hostname or "", address.port or _PORTS.get(address.scheme, 443)


def _talk(sock: socket.socket, target: SplitResult, ca_bundle: str | None, found: Reach) -> None:
    """TLS, where *target* wants it, and what time it is there."""
    found.step = "tls"
    if target.scheme == "https":
        sock = _context(ca_bundle).wrap_socket(sock, server_hostname=target.hostname)
    found.step = "answers"
    with suppress(OSError, http.client.HTTPException), sock:
        found.skew = _skew(_head(sock, target, "/"))


def _through(
    sock: socket.socket,
    proxy: SplitResult,
    target: SplitResult,
    ca_bundle: str | None,
    found: Reach,
) -> None:
    """The same behind *proxy*, if it is one that is talked to in plain."""
    found.step = "proxy"
    if proxy.scheme != "http":
        found.step = "answers"  # no more can be said without speaking its protocol
        return
    headers = HTTPAdapter().proxy_headers(proxy.geturl())
    host, port = _place(target)
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if target.scheme == "https":
        _connection(sock, proxy).request("CONNECT", place, headers=headers)
        # Not the connection's own: that one would close the tunnel.
        answer = http.client.HTTPResponse(sock, method="CONNECT")
        answer.begin()
        status = answer.status
        if status == http.client.OK:
            _talk(sock, target, ca_bundle, found)
        else:
            found.error_type = str(status)
        return
    answer = _head(sock, target, f"http://{place}/", headers)
    if answer.status in _OF_THE_PROXY or answer.status == http.client.FORBIDDEN:
        found.error_type = str(answer.status)
        return
    found.step, found.skew = "answers", _skew(answer)


def _connection(sock: socket.socket, to: SplitResult) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(*_place(to))
    connection.sock = sock
    return connection


def _head(
    sock: socket.socket, target: SplitResult, path: str, headers: dict[str, str] | None = None
) -> http.client.HTTPResponse:
    sock.settimeout(min(sock.gettimeout() or _LONGEST_ANSWER_S, _LONGEST_ANSWER_S))
    connection = _connection(sock, target)
    connection.request("HEAD", path, headers={**(headers or {}), "Connection": "close"})
    return connection.getresponse()


def _skew(answer: http.client.HTTPResponse) -> timedelta | None:
    """The ``Date`` of *answer* against our clock; ``None`` without one."""
    with suppress(ValueError, TypeError, OverflowError):
        at = parsedate_to_datetime(answer.getheader("Date") or "")
        return (at if at.tzinfo else at.replace(tzinfo=UTC)) - datetime.now(UTC)
    return None


def _context(ca_bundle: str | None) -> ssl.SSLContext:
    """Trusting whom ``requests`` trusts, unless *ca_bundle* says whom."""
    named = (ca_bundle, *(os.environ.get(name) for name in CA_VARIABLES))
    given = next((path for path in named if path), DEFAULT_CA_BUNDLE_PATH)
    is_directory = os.path.isdir(given)  # noqa: PTH112
    try:
        return ssl.create_default_context(
            cafile=None if is_directory else given, capath=given if is_directory else None
        )
    except OSError as error:
        raise _BundleError from error


def _reason(error: BaseException) -> str | None:
    if isinstance(error, _BundleError):
        return "bundle"
    if isinstance(error, ssl.SSLCertVerificationError):
        return _REASONS.get(error.verify_code, "not_verified")
    is_plain = isinstance(error, ssl.SSLError) and error.reason in _NOT_TLS
    return "no_tls" if is_plain else None
