"""A captured request: as ``listen`` shows it, and read back from a file."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import WebhooksError
from ..event import rfc3339
from .local import payload_of
from .server import Headers

if TYPE_CHECKING:
    from .local import Received

HIDDEN = "(hidden)"
SENDERS_SETTING = "CONFITURE_WEBHOOK_SECRET, or `secret` of the endpoint"
"""Where a sender of ours has its secret."""
LARGEST = 64 * 1024 * 1024
"""Bytes of a file that is read: a body of the largest size, twice and in base64, fits."""
_HIDDEN_HEADERS = frozenset(
    {"authorization", "cookie", "proxy-authorization", "x-confiture-secret"}
)
_SIGNATURES = frozenset({"webhook-signature", "x-confiture-signature"})
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_LENGTH = re.compile(r"[0-9]{1,19}")
_REQUEST_LINE = re.compile(r"[A-Z]+ \S+ HTTP/[\d.]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """A request whose signature is checked."""

    headers: Headers = field(repr=False)
    body: bytes = field(repr=False)


def as_document(received: Received) -> dict[str, Any]:
    """*received* as JSON can say it; credentials in its headers are hidden."""
    payload = received.payload if isinstance(received.payload, dict) else {}
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
        **_body_as_text(received.body),
    }


def _body_as_text(body: bytes) -> dict[str, str]:
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body).decode()}


def describe(document: dict[str, Any], why_not: str = "") -> tuple[str, dict[str, str]]:
    """A request for human eyes, as a title and facts; *why_not*: why its signature is not valid."""
    payload = document["payload"] if isinstance(document["payload"], dict) else {}
    migration, execution, error, run = (
        part if isinstance(part, dict) else {}
        for part in map(payload.get, ("migration", "execution", "error", "run"))
    )
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


def read_capture(content: bytes) -> Captured:
    """The request in *content*: JSON as ``listen --format json`` prints it, or raw HTTP.

    Raises WebhooksError when it is neither, or larger than ``LARGEST``.
    """
    if len(content) > LARGEST:
        raise WebhooksError("it is larger than 64 MiB")
    if content.lstrip().startswith(b"{"):
        return _from_json(content)
    return _from_http(content)


def _from_json(content: bytes) -> Captured:
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
    return Captured(headers=Headers(headers), body=body)


def _from_http(content: bytes) -> Captured:
    parts = _BLANK_LINE.split(content, maxsplit=1)
    if len(parts) == 1:
        raise WebhooksError("no blank line between headers and body")
    lines = [line.removesuffix("\r") for line in parts[0].decode("latin-1").split("\n")]
    if lines and _REQUEST_LINE.fullmatch(lines[0]):
        del lines[0]
    pairs = [line.partition(":") for line in lines]
    if not all(colon for _, colon, _ in pairs):
        raise WebhooksError("a header line without a colon")
    headers = Headers([(name.strip(), value.strip()) for name, _, value in pairs])
    # Editors end a file with a line break that was not sent.
    sent = _LENGTH.fullmatch(headers.get("Content-Length", ""))
    return Captured(headers=headers, body=parts[1][: int(sent[0])] if sent else parts[1])
