"""A local receiver; a request as it shows one, and as it is read back from a file."""

from __future__ import annotations

import base64
import binascii
import json
import re
import ssl
import threading
from codecs import BOM_UTF8
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ..errors import SignatureError, WebhooksError
from ..event import rfc3339
from ..signature import DEFAULT_TOLERANCE, part, signing_keys, verify
from .server import Answer, Headers, Incoming, LoopbackServer, Scripted, answer_of

KEPT_REQUESTS = 10_000
KEPT_BYTES = 64 * 1024 * 1024
"""A receiver keeps its last requests: so many, with bodies of so many bytes together."""

HIDDEN = "(hidden)"
SENDERS_SETTING = "CONFITURE_WEBHOOK_SECRET, or `secret` of the endpoint"
"""Where a sender of ours has its secret."""
LARGEST = 64 * 1024 * 1024
"""Bytes of a file that is read: a body of the largest size, twice and in base64, fits."""
_HIDDEN_HEADERS = {"authorization", "cookie", "proxy-authorization", "x-confiture-secret"}
_SIGNATURES = frozenset({"webhook-signature", "x-confiture-signature"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Received(Incoming):
    """One request as the local receiver got it, and how it was answered."""

    payload: Any
    """The body as JSON; ``None`` when it is not."""
    received_at: datetime
    verified: bool | None
    """``None``: no secret to check with."""
    answer: Answer


class LocalReceiver(LoopbackServer):
    """A real HTTP receiver on 127.0.0.1, serving inside its ``with`` block.

    POSTs are answered from *answers*, then with 200, as every other request is. An entry is a
    status, a status with headers and maybe a body, ``"slow"``, or a fault: ``hang``, ``reset``,
    ``close``, ``drip``, ``drip_body``, ``rubbish``, ``endless``. *on_request* is called with each
    request before its answer is sent, on the connection's thread. With *refuses*, a POST without a
    good signature is answered with 401 instead of 200. ``url`` and ``port`` are its
    address, ``connections`` is how many were ever accepted, and ``close()`` ends it early.
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
        keeps: int = KEPT_REQUESTS,
        refuses: bool = False,
    ) -> None:
        self._secret = secret
        if secret is not None:
            signing_keys(secret)
        self._on_request = on_request
        self._tolerance = tolerance
        self._refuses = refuses
        self._default: deque[Answer] = deque(answer_of(entry) for entry in answers)
        self._scripts: dict[str, deque[Answer]] = {}
        self._keeps = keeps
        self._requests: deque[Received] = deque()
        self._kept_bytes = 0
        self._count = 0
        self._changed = threading.Condition()
        super().__init__(self._receive, port=port, tls=tls)

    def script(self, path: str, answers: Iterable[Scripted]) -> None:
        """Answer requests for *path* (without query) from *answers* first."""
        with self._changed:
            self._scripts.setdefault(path, deque()).extend(answer_of(entry) for entry in answers)

    @property
    def requests(self) -> tuple[Received, ...]:
        """The last requests, in order of arrival; older ones are forgotten."""
        with self._changed:
            return tuple(self._requests)

    def wait_for(self, n: int = 1, timeout: float = 10.0) -> tuple[Received, ...]:
        """The requests, once there are *n*; raises TimeoutError after *timeout* seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._count >= n, timeout):
                raise TimeoutError(f"{self._count} of {n} requests in {timeout} s")
            return tuple(self._requests)

    def _receive(self, request: Incoming) -> Answer:
        verdict = self._verdict(request)
        with self._changed:
            script = self._scripts.get(request.path.partition("?")[0]) or self._default
            # A look whether somebody is there, as `doctor` takes it, is no webhook.
            is_webhook = request.method == "POST"
            is_refused = is_webhook and self._refuses and verdict is False
            usual = Answer(status=401 if is_refused else 200)
            received = Received(
                method=request.method,
                path=request.path,
                headers=request.headers,
                body=request.body,
                payload=payload_of(request.body),
                received_at=datetime.now(UTC),
                verified=verdict,
                answer=script.popleft() if script and is_webhook else usual,
            )
            self._keep(received)
            self._changed.notify_all()
        if self._on_request is not None:
            self._on_request(received)
        return received.answer

    def _keep(self, received: Received) -> None:
        kept = self._requests
        kept.append(received)
        self._count += 1
        self._kept_bytes += len(received.body)
        while len(kept) > self._keeps or (self._kept_bytes > KEPT_BYTES and len(kept) > 1):
            self._kept_bytes -= len(kept.popleft().body)

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


def payload_of(body: bytes) -> Any:
    """The JSON value of *body*; ``None``: it is no JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


# A captured request


def as_document(received: Received) -> dict[str, Any]:
    """*received* as JSON can say it; credentials in its headers are hidden."""
    payload = received.payload if isinstance(received.payload, dict) else {}
    try:
        body = {"body": received.body.decode()}
    except UnicodeDecodeError:
        body = {"body_base64": base64.b64encode(received.body).decode()}
    return {
        "received_at": rfc3339(received.received_at),
        "method": received.method,
        "path": received.path,
        "event_type": payload.get("event_type") or received.headers.get("X-Confiture-Event"),
        "event_id": received.headers.get("webhook-id") or payload.get("event_id"),
        "correlation_id": received.headers.get("X-Correlation-ID") or payload.get("trace_id"),
        "attempt": received.headers.get("X-Confiture-Attempt"),
        "verified": received.verified,
        "answer": received.answer.fault or received.answer.status,
        "headers": {
            name: HIDDEN if name.lower() in _HIDDEN_HEADERS else value
            for name, value in received.headers.items()
        },
        "payload": received.payload,
        **body,
    }


def describe(document: dict[str, Any], why_not: str = "") -> tuple[str, dict[str, str]]:
    """A request for human eyes, as a title and facts; *why_not*: why its signature is not valid."""
    payload, keys = part(document, "payload"), ("migration", "execution", "error", "run")
    migration, execution, error, run = (part(payload, key) for key in keys)
    words = (
        document["received_at"][11:19],
        document["event_type"] or "not an event of ours",
        migration.get("name"),
        document["method"],
        document["path"],
        f"attempt {document['attempt']}" if document["attempt"] else None,
        f"answered {document['answer']}",
    )
    facts = {
        "signature": _verdict(document),
        "reason": why_not if is_signed(document["headers"]) else None,
        "correlation id": document["correlation_id"],
        "event id": document["event_id"],
        "environment": migration.get("environment") or payload.get("environment"),
        "command": run.get("command"),
        "seconds": execution.get("duration_seconds"),
        "rows affected": execution.get("rows_affected"),
        "error": f"{error.get('type')}: {error.get('message')}" if error else None,
    }
    title = " ".join(str(word) for word in words if word)
    return title, {name: str(value) for name, value in facts.items() if value not in (None, "")}


def _verdict(document: dict[str, Any]) -> str:
    if document["verified"] is None:
        return "not checked"
    if not is_signed(document["headers"]):
        is_ours = "x-confiture-event" in map(str.lower, document["headers"])
        return f"- not signed{f': the sender has no secret ({SENDERS_SETTING})' if is_ours else ''}"
    return "✅ valid" if document["verified"] else "❌ not valid"


def is_signed(headers: Iterable[str]) -> bool:
    """Whether one of the *headers*, by their names, is a signature; true or not."""
    return not _SIGNATURES.isdisjoint(name.lower() for name in headers)


def read_capture(content: bytes) -> Incoming:
    """The request in *content*: JSON as ``listen --format json`` prints it, or raw HTTP.

    Raises WebhooksError when it is neither, or larger than ``LARGEST``.
    """
    if len(content) > LARGEST:
        raise WebhooksError("it is larger than 64 MiB")
    content = content.removeprefix(BOM_UTF8)
    if content.lstrip().startswith(b"{"):
        return _from_json(content)
    return _from_http(content)


def _from_json(content: bytes) -> Incoming:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise WebhooksError("not one JSON document; give one line at a time") from error
    headers, text, encoded = (document.get(k) for k in ("headers", "body", "body_base64"))
    if not isinstance(headers, dict) or not all(isinstance(v, str) for v in headers.values()):
        raise WebhooksError('no "headers" with the request\'s headers in it')
    try:
        body = text.encode() if isinstance(text, str) else base64.b64decode(encoded, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise WebhooksError('neither "body" nor "body_base64" holds the body') from error
    if document.get("payload") not in (None, payload_of(body)):
        raise WebhooksError('"payload" is not what the body holds: one of them was changed')
    return Incoming(headers=Headers(headers), body=body)


def _from_http(content: bytes) -> Incoming:
    parts = re.split(rb"\r?\n\r?\n", content, maxsplit=1)
    if len(parts) == 1:
        raise WebhooksError("no blank line between headers and body")
    lines = [line.removesuffix("\r") for line in parts[0].decode("latin-1").split("\n")]
    if re.fullmatch(r"[A-Z]+ \S+ HTTP/[\d.]+", lines[0]):
        del lines[0]
    pairs = [line.partition(":") for line in lines]
    if not all(colon for _, colon, _ in pairs):
        raise WebhooksError("a header line without a colon")
    headers = Headers([(name.strip(), value.strip()) for name, _, value in pairs])
    sent = re.fullmatch("[0-9]{1,19}", headers.get("Content-Length", ""))
    length = int(sent[0]) if sent else len(parts[1].rstrip(b"\r\n"))
    # Editors end a file with a line break that was not sent. Anything else has been changed.
    is_longer = parts[1][length:].strip()
    return Incoming(headers=headers, body=parts[1] if is_longer else parts[1][:length])
