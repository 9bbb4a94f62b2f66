"""The port to the network: one attempt, one answer or one reason why there was none."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from importlib import metadata
from typing import Protocol

from .delivery import Delivery
from .endpoint import Endpoint, Tls
from .formats import complete
from .networks import Networks
from .signature import body_signature, webhook_signature

HOST = "fraiseql-confiture"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request to send. Its ``repr`` shows neither address, headers nor body."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    endpoint: str
    resend_count: int = 0
    """How many attempts were made before this one."""
    method: str = "POST"
    lanes: int = 1
    """How many requests to this endpoint may be under way at once."""
    tls: Tls = field(default_factory=Tls)
    networks: Networks = field(default_factory=Networks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """The answer, without its body."""

    status_code: int
    retry_after: timedelta | None = None
    """From ``Retry-After``, seconds or HTTP date; never negative; ``None`` when unreadable."""
    date: str | None = field(default=None, compare=False)
    version: str | None = field(default=None, compare=False)
    """HTTP's: ``1.1``."""


class Transport(Protocol):
    """Sends one request. A 503 is an answer; no answer raises ``TransportError``.

    - One attempt takes at most *timeout* as a whole, whatever the peer does: name
      resolution, connecting, TLS, a header that drips, a body that never ends.
    - Redirects are not followed: a 3xx is the answer.
    - Connections are kept per endpoint and used again.
    - An address outside the request's networks is not dialled.
    - ``send`` may be called from several threads, also for one endpoint.
    """

    def send(self, request: Request, *, timeout: timedelta) -> Response:
        """POST *request*; raises ``TransportError`` with why there was no answer."""

    def abort(self) -> None:
        """End every attempt under way, now, as ``TransportError(CUT)``; later ones too."""

    def close(self) -> None:
        """Close the connections that are kept."""


@cache
def version(distribution: str = "confiture-webhooks") -> str:
    """The version of this package, or of *distribution*, as it is installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown"


def prepare(endpoint: Endpoint, delivery: Delivery, *, attempt: int, at: datetime) -> Request:
    """The request of attempt number *attempt* (from 1), signed as of *at*.

    The ``webhook-id`` is the event's on every attempt; the timestamp is the attempt's.
    Headers the user configured come last and cannot replace one of these.
    """
    completed = complete(endpoint, delivery)
    headers = {
        "Content-Type": delivery.content_type,
        "User-Agent": f"Confiture/{version(HOST)} confiture-webhooks/{version()}",
        "X-Correlation-ID": delivery.correlation_id,
        "traceparent": delivery.trace.traceparent,
        "webhook-id": delivery.event_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "X-Confiture-Event": delivery.event_type.value,
        "X-Confiture-Delivery": delivery.id,
        "X-Confiture-Attempt": str(attempt),
    }
    optional = {
        "tracestate": delivery.trace.tracestate,
        "X-Migration-Version": delivery.migration_version,
        "X-Environment": delivery.environment,
    }
    headers |= {name: header_text(value) for name, value in optional.items() if value}
    headers |= completed.headers
    if endpoint.secrets:
        if "confiture" in endpoint.signatures:
            headers["X-Confiture-Signature"] = body_signature(endpoint.secrets[0], completed.body)
        if "standard" in endpoint.signatures:
            headers["webhook-signature"] = webhook_signature(
                endpoint.secrets, delivery.event_id, at, completed.body
            )
        if endpoint.send_secret and endpoint.url.lower().startswith("https:"):
            headers["X-Confiture-Secret"] = endpoint.secrets[0]
    taken = {name.lower() for name in headers}
    headers |= {k: v for k, v in endpoint.headers.items() if k.lower() not in taken}
    if endpoint.basic_auth and "authorization" not in map(str.lower, headers):
        credentials = b64encode(":".join(endpoint.basic_auth).encode())
        headers["Authorization"] = f"Basic {credentials.decode()}"
    return Request(
        url=completed.url,
        headers=headers,
        body=completed.body,
        endpoint=endpoint.name,
        resend_count=attempt - 1,
        lanes=endpoint.concurrency,
        tls=endpoint.tls,
        networks=endpoint.networks,
    )


def header_text(value: str) -> str:
    """*value* as a header can carry it: printable ASCII, the rest escaped, no blank at the ends."""
    return value.strip(" ").encode("ascii", "backslashreplace").decode().translate(_CONTROLS)


_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), 127)}
