"""For those who receive: ``verify`` a request, and a local receiver to try senders against.

Source of the signature with a time: Standard Webhooks 1.0.0.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

from .errors import ConfigError, Fault, SignatureError
from .receiver_server import (
    Answer,
    Headers,
    Incoming,
    LoopbackServer,
    Scripted,
    answer_of,
)
from .signature import body_signature, signing_key

if TYPE_CHECKING:
    import ssl

DEFAULT_TOLERANCE = timedelta(minutes=5)
DEFAULT_MAX_BODY = 1024 * 1024
REFUSAL = "the request is not authentic, too old, or cannot be read"
_MAX_HEADER = 16 * 1024
_MAX_TIMESTAMP_DIGITS = 11
_SIGNED_HEADERS = frozenset(
    {"webhook-id", "webhook-timestamp", "webhook-signature", "x-confiture-signature"}
)
_OTHER_HEADERS = frozenset({"x-correlation-id", "traceparent"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """An authentic event. ``payload`` is what was signed; ``sent_at`` too, when it is there."""

    id: str | None
    """The ``webhook-id``, the same on every attempt: what to deduplicate by."""
    type: str | None
    sent_at: datetime | None
    """When this attempt was signed; ``None`` with ``X-Confiture-Signature`` alone."""
    correlation_id: str | None
    """The run's trace id: the payload's, else the ``X-Correlation-ID`` header's."""
    traceparent: str | None
    """From its header, which no signature covers."""
    payload: dict[str, Any] = field(repr=False)


def verify(
    headers: Mapping[str, str],
    body: bytes,
    secret: str | Sequence[str],
    *,
    tolerance: timedelta | None = DEFAULT_TOLERANCE,
    now: datetime | None = None,
    max_body: int = DEFAULT_MAX_BODY,
    require_timestamp: bool = True,
) -> Verified:
    """The event in a request, or ``SignatureError``: one answer whatever the cause.

    *body* is the bytes as received. Several secrets are all tried, as during a rotation.
    The Standard Webhooks signature is checked when its header is there;
    ``X-Confiture-Signature`` alone has no time, can be replayed for ever, and is accepted
    only with ``require_timestamp=False``. ``tolerance=None`` accepts any time. Raises
    ``ConfigError`` when a secret is empty or not base64 after ``whsec_``.
    """
    secrets = (secret,) if isinstance(secret, str) else tuple(secret)
    keys = _keys(secrets)
    try:
        fields = _fields(headers)
        if not isinstance(body, bytes | bytearray | memoryview) or len(body) > max_body:
            raise SignatureError(REFUSAL)
        content = bytes(body)
        sent_at = None
        if "webhook-signature" in fields or require_timestamp:
            sent_at = _check_webhook_signature(fields, content, keys)
            if tolerance is not None and abs((now or datetime.now(UTC)) - sent_at) > tolerance:
                raise SignatureError(REFUSAL)
        else:
            _check_body_signature(fields, content, secrets)
        payload = json.loads(content)
        if not isinstance(payload, dict):
            raise SignatureError(REFUSAL)
    except (SignatureError, KeyError, ValueError, RecursionError):
        raise SignatureError(REFUSAL) from None
    return _verified(fields, payload, sent_at)


def _keys(secrets: Sequence[str]) -> list[bytes]:
    keys, faults = [], []
    for secret in secrets:
        try:
            keys.append(signing_key(secret))
        except ValueError as error:
            faults.append(Fault("secret", str(error), "Use the secret the sender signs with."))
    if not secrets:
        faults.append(Fault("secret", "none given", "Use the secret the sender signs with."))
    if faults:
        raise ConfigError(faults)
    return keys


def _fields(headers: Any) -> dict[str, str]:
    """The headers that matter, by lower-case name; one that decides is refused when repeated."""
    fields: dict[str, str] = {}
    items = getattr(headers, "items", dict[str, str]().items)
    for name, value in items():
        if not isinstance(name, str) or not isinstance(value, str) or len(value) > _MAX_HEADER:
            continue
        key = name.lower()
        if key in fields and key in _SIGNED_HEADERS:
            raise SignatureError(REFUSAL)
        if key in _SIGNED_HEADERS or key in _OTHER_HEADERS:
            fields.setdefault(key, value)
    return fields


def _check_webhook_signature(
    fields: Mapping[str, str], body: bytes, keys: Sequence[bytes]
) -> datetime:
    """The time that one of *keys* signed with the id and *body*."""
    event_id, timestamp = fields["webhook-id"], fields["webhook-timestamp"]
    if not (timestamp.isascii() and timestamp.isdigit() and event_id):
        raise SignatureError(REFUSAL)
    if len(timestamp) > _MAX_TIMESTAMP_DIGITS:
        raise SignatureError(REFUSAL)
    signed = f"{event_id}.{timestamp}.".encode() + body
    expected = [b"v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)) for key in keys]
    candidates = [text.encode() for text in fields["webhook-signature"].split(" ")]
    _check_any_equal(expected, candidates)
    return datetime.fromtimestamp(int(timestamp), UTC)


def _check_body_signature(fields: Mapping[str, str], body: bytes, secrets: Sequence[str]) -> None:
    expected = [body_signature(secret, body).encode() for secret in secrets]
    _check_any_equal(expected, [fields["x-confiture-signature"].strip().encode()])


def _check_any_equal(expected: Iterable[bytes], candidates: Sequence[bytes]) -> None:
    # Every pair is compared, so that the time taken does not tell which one matched.
    matches = [hmac.compare_digest(one, other) for one in expected for other in candidates]
    if not any(matches):
        raise SignatureError(REFUSAL)


def _verified(
    fields: Mapping[str, str], payload: dict[str, Any], sent_at: datetime | None
) -> Verified:
    def text(key: str) -> str | None:
        value = payload.get(key)
        return value if isinstance(value, str) else None

    return Verified(
        id=text("event_id") if sent_at is None else fields["webhook-id"],
        type=text("event_type"),
        sent_at=sent_at,
        correlation_id=text("trace_id") or fields.get("x-correlation-id"),
        traceparent=fields.get("traceparent"),
        payload=payload,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One request as the local receiver got it, and how it was answered."""

    method: str
    path: str
    headers: Headers
    body: bytes
    payload: Any
    """The body as JSON; ``None`` when it is not."""
    received_at: datetime
    verified: bool | None
    """``None``: no secret to check with."""
    answer: Answer


class LocalReceiver:
    """A real HTTP receiver on 127.0.0.1, serving inside its ``with`` block.

    Requests are answered from *answers*, then with 200. An entry is a status, a status
    with headers and maybe a body, ``"slow"``, or a fault: ``hang``, ``reset``, ``close``,
    ``drip``, ``drip_body``, ``rubbish``, ``endless``. *on_request* is called with each
    request before its answer is sent, on the connection's thread.
    """

    def __init__(
        self,
        port: int = 0,
        secret: str | Sequence[str] | None = None,
        answers: Iterable[Scripted] = (),
        on_request: Callable[[Received], None] | None = None,
        *,
        tolerance: timedelta | None = DEFAULT_TOLERANCE,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._secret = secret
        if secret is not None:
            _keys((secret,) if isinstance(secret, str) else tuple(secret))
        self._on_request = on_request
        self._tolerance = tolerance
        self._default: deque[Answer] = deque(answer_of(entry) for entry in answers)
        self._scripts: dict[str, deque[Answer]] = {}
        self._requests: list[Received] = []
        self._changed = threading.Condition()
        self._server = LoopbackServer(self._receive, port=port, tls=tls)
        self.url = self._server.url
        self.port = self._server.port

    def script(self, path: str, answers: Iterable[Scripted]) -> None:
        """Answer requests for *path* (without query) from *answers* first."""
        with self._changed:
            self._scripts.setdefault(path, deque()).extend(answer_of(entry) for entry in answers)

    @property
    def requests(self) -> tuple[Received, ...]:
        """Every request so far, in order of arrival."""
        with self._changed:
            return tuple(self._requests)

    @property
    def connections(self) -> int:
        """How many connections were ever accepted."""
        return self._server.connections

    def wait_for(self, n: int = 1, timeout: float = 10.0) -> tuple[Received, ...]:
        """The requests, once there are *n*; raises TimeoutError after *timeout* seconds."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while len(self._requests) < n:
                if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError(f"{len(self._requests)} of {n} requests in {timeout} s")
            return tuple(self._requests)

    def close(self) -> None:
        """End every connection and stop listening. Closing twice is allowed."""
        self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _receive(self, request: Incoming) -> Answer:
        verdict = self._verdict(request)
        with self._changed:
            own = self._scripts.get(request.path.partition("?")[0])
            script = own or self._default
            received = Received(
                method=request.method,
                path=request.path,
                headers=request.headers,
                body=request.body,
                payload=_json(request.body),
                received_at=datetime.now(UTC),
                verified=verdict,
                answer=script.popleft() if script else Answer(),
            )
            self._requests.append(received)
            self._changed.notify_all()
        if self._on_request is not None:
            self._on_request(received)
        return received.answer

    def _verdict(self, request: Incoming) -> bool | None:
        if self._secret is None:
            return None
        try:
            verify(
                request.headers,
                request.body,
                self._secret,
                tolerance=self._tolerance,
                max_body=len(request.body),
                require_timestamp=False,
            )
        except SignatureError:
            return False
        return True


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
