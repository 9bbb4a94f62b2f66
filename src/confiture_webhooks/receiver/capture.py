"""A request on paper: as ``listen`` shows it, and read back from a file."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.text import Text

from ..errors import WebhooksError
from ..event import rfc3339
from ..terminal import printable
from .local import payload_of
from .server import Headers

if TYPE_CHECKING:
    from .local import Received

HIDDEN = "(hidden)"
SENDERS_SETTING = "CONFITURE_WEBHOOK_SECRET, or `secret` of the endpoint"
"""Where a sender of ours has its secret."""
LARGEST = 64 * 1024 * 1024
"""Bytes of a file that is read: a body of the largest size, twice and in base64, fits."""
_KEYS = {
    "cloudevents": "specversion",
    "confiture": "event_id",
    "pagerduty": "event_action",
    "discord": "embeds",
    "teams": "type",
    "slack": "attachments",
    "opsgenie": "source",
}
"""A key that only the body of this format has, among those that follow."""
_TEXTS = ("fallback", "fallbackText", "title", "summary", "message", "note")
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
        "format": _format_of(payload, received.headers),
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


def _format_of(payload: dict[str, Any], headers: Headers) -> str | None:
    """The format of a request of ours; ``None``: it is none."""
    if "X-Confiture-Event" not in headers:
        return None
    if "ce-specversion" in headers:
        return "cloudevents-binary"
    found = (name for name, key in _KEYS.items() if key in payload)
    return next(found, "another format")


def _body_as_text(body: bytes) -> dict[str, str]:
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body).decode()}


def describe(document: dict[str, Any], why_not: str = "") -> Text:
    """A request for human eyes: event, signature, and *why_not* if that is not valid, and run."""
    payload = document["payload"] if isinstance(document["payload"], dict) else {}
    migration, execution, error, run = (
        part if isinstance(part, dict) else {}
        for part in map(payload.get, ("migration", "execution", "error", "run"))
    )
    duration_s = execution.get("duration_seconds")
    text = Text()
    text.append(f"{document['received_at'][11:19]} ", style="dim")
    known = document["format"] not in {None, "confiture"}
    title = f"{document['event_type']} ({document['format']})" if known else document["event_type"]
    text.append(printable(title or "not an event of ours"), style="bold")
    text.append(f" {printable(migration.get('name') or '')}")
    text.append(f"  {document['method']} {printable(document['path'])}", style="dim")
    attempt = f"attempt {printable(document['attempt'])}, " if document["attempt"] else ""
    text.append(f"  {attempt}answered {document['answer']}\n", style="dim")
    text.append("  signature       ")
    text.append_text(_verdict(document))
    if why_not and is_signed(document["headers"]):
        text.append(f"\n                  {why_not}", style="red")
    facts = {
        "text": _text_of(payload) if known else None,
        "correlation id": document["correlation_id"],
        "event id": document["event_id"],
        "environment": migration.get("environment") or payload.get("environment"),
        "command": run.get("command"),
        "duration": None if duration_s is None else f"{duration_s} s",
        "rows affected": execution.get("rows_affected"),
        "error": f"{error.get('type')}: {error.get('message')}" if error else None,
    }
    for name, value in facts.items():
        if value is not None:
            style = "red" if name == "error" else ""
            text.append(f"\n  {name:<15} {printable(value)}", style=style)
    return text


def _text_of(value: Any, depth: int = 6) -> str | None:
    """The first text of a chat message or an alert, wherever its format has it."""
    if depth and isinstance(value, list):
        return next(filter(None, (_text_of(one, depth - 1) for one in value)), None)
    if not (depth and isinstance(value, dict)):
        return None
    text = next((value[key] for key in _TEXTS if isinstance(value.get(key), str)), None)
    return text or _text_of(list(value.values()), depth - 1)


def _verdict(document: dict[str, Any]) -> Text:
    if document["verified"] is None:
        return Text("not checked", style="yellow")
    if not is_signed(document["headers"]):
        ours = f": the sender has no secret ({SENDERS_SETTING})" if document["format"] else ""
        return Text(f"- not signed{ours}", style="yellow")
    if not document["verified"]:
        return Text("❌ not valid", style="bold red")
    names = {name.lower() for name in document["headers"]}
    checked = "webhook-signature" if "webhook-signature" in names else "X-Confiture-Signature"
    return Text(f"✅ valid ({checked})", style="green")


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
