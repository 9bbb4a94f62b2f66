"""Why an attempt had no answer, by the errors of its libraries."""

from __future__ import annotations

import http.client
import os
import re
import socket
import ssl
from typing import TYPE_CHECKING

from requests.exceptions import InvalidProxyURL, InvalidSchema
from urllib3.exceptions import HeaderParsingError, ProxyError, ProxySchemeUnknown, ReadTimeoutError
from urllib3.exceptions import SSLError as UrllibSSLError
from urllib3.util.ssl_match_hostname import CertificateError

from .http_way import DeniedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .http_exchange import Exchange


TYPES: tuple[tuple[str, tuple[type[BaseException], ...]], ...] = (
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
_OF_OPENSSL = {
    **dict.fromkeys(("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"), "no_tls"),
    **dict.fromkeys(("UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION"), "old_tls"),
}
"""Reasons by OpenSSL's. Bytes that are no TLS have a wrong version, too."""
_ALERT = re.compile("alert|TLSV1_", re.IGNORECASE)
"""In OpenSSL's text, if the peer has said why it ends the handshake. Some have no reason."""
_OF_SOCKS = {
    "SOCKS5AuthError": "credentials",
    "SOCKS5Error": "not_reached",
    "SOCKS4Error": "not_reached",
}
"""Reasons by PySocks' errors."""
_OF_THE_SYSTEM = (OSError, PermissionError)
"""The other classes of its errors have a type of their own, or a reason."""


def error_type_of(exchange: Exchange, error: Exception) -> str:
    """The error type of *exchange*, which *error* has ended, and which keeps the reason."""
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


def why(error: BaseException, *, is_past_proxy: bool = False) -> tuple[str, str | None]:
    """The error type of *error*, and more about it, where it is known: ``expired``, ``no_tls``, …

    The type is the first in the table that its chain has. More about a proxy that is not reached
    is the error type that a receiver would have. urllib3 blames the proxy for all that its
    connection meets; *is_past_proxy* says that it is the receiver's.
    """
    chain = list(_chain(error))
    types = [name for name, kinds in TYPES if any(isinstance(link, kinds) for link in chain)]
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
    elif isinstance(error, CertificateError):  # urllib3 1.26 compares the names itself
        reason = "wrong_host"
    elif isinstance(error, ssl.SSLError):
        refused = "refused" if _ALERT.search(str(error)) else None
        reason = _OF_OPENSSL.get(str(of_openssl), refused)
    elif isinstance(error, OSError) and type(error) in _OF_THE_SYSTEM and error.errno:
        reason = os.strerror(error.errno).lower()  # "no route to host", "too many open files"
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
