"""Why there was no answer: an error type for whatever requests, urllib3 or the system raised."""

from __future__ import annotations

import http.client
import socket
import ssl
from typing import TYPE_CHECKING

from urllib3.exceptions import HeaderParsingError, ReadTimeoutError
from urllib3.exceptions import SSLError as UrllibSSLError
from urllib3.util.ssl_match_hostname import CertificateError

if TYPE_CHECKING:
    from collections.abc import Iterator

_TYPES: tuple[tuple[str, tuple[type[BaseException], ...]], ...] = (
    ("timeout", (TimeoutError, ReadTimeoutError)),
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
"""In this order: what comes first wins over what it led to."""


def error_type_of(error: BaseException) -> str:
    """The error type of *error*: the first in the table that its chain has."""
    chain = list(_chain(error))
    for error_type, classes in _TYPES:
        if any(isinstance(link, classes) for link in chain):
            return error_type
    return "other"


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
