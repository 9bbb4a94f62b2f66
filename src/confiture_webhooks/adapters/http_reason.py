"""Why there was no answer: an error type for whatever requests, urllib3 or the system raised."""

from __future__ import annotations

import http.client
import socket
import ssl
from typing import TYPE_CHECKING

from requests.exceptions import InvalidProxyURL, InvalidSchema
from requests.exceptions import ProxyError as RequestsProxyError
from urllib3.exceptions import HeaderParsingError, ProxyError, ProxySchemeUnknown, ReadTimeoutError
from urllib3.exceptions import SSLError as UrllibSSLError
from urllib3.util.ssl_match_hostname import CertificateError

if TYPE_CHECKING:
    from collections.abc import Iterator


class BundleError(ssl.SSLError):
    """A file with certificates or a key cannot be read."""


class DeniedError(OSError):
    """No address of the host may be dialled; its text is the rule that says so."""


_TYPES: tuple[tuple[str, tuple[type[BaseException], ...]], ...] = (
    ("timeout", (TimeoutError, ReadTimeoutError)),
    # Whatever went wrong before the proxy connected us says nothing of the receiver.
    ("proxy", (ProxyError, ProxySchemeUnknown, RequestsProxyError, InvalidProxyURL, InvalidSchema)),
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
"""Of OpenSSL's codes for a certificate that does not verify."""
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNSUPPORTED_PROTOCOL"})
"""OpenSSL's reasons for bytes that are no TLS."""
_NO_FILE = frozenset({"NO_CERTIFICATE_OR_CRL_FOUND", "NO_START_LINE", "KEY_VALUES_MISMATCH"})
"""OpenSSL's reasons for a file without a certificate, or a key that fits none."""


def why(error: BaseException) -> tuple[str, str | None]:
    """The error type of *error*, and more about it, where it is known: ``expired``, ``no_tls``, …

    The type is the first in the table that its chain has. More about a proxy that is not reached
    is the error type that a receiver would have.
    """
    chain = list(_chain(error))
    types = [name for name, kinds in _TYPES if any(isinstance(link, kinds) for link in chain)]
    types.append("other")
    reasons = [*map(_reason, chain), types[1] if types[0] == "proxy" else None]
    return types[0], next((reason for reason in reasons if reason), None)


def _reason(error: BaseException) -> str | None:
    of_openssl = getattr(error, "reason", None)
    reason: str | None = None
    if isinstance(error, DeniedError):
        reason = str(error)
    elif isinstance(error, ssl.SSLCertVerificationError):
        reason = _CERTIFICATE.get(getattr(error, "verify_code", 0), "not_verified")
    elif isinstance(error, BundleError) or of_openssl in _NO_FILE:
        reason = "bundle"
    elif isinstance(error, ssl.SSLError) and of_openssl in _NOT_TLS:
        reason = "no_tls"
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
