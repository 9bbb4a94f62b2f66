"""The parts of a request that the outbox may not keep, or that do not belong to the body.

The stored body of a delivery holds no secret and no address. PagerDuty wants its routing key
in the body; OpsGenie closes an alert under an address of its own; CloudEvents in binary mode
are sent in headers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from ..endpoint import Endpoint
from ..event import body

CLOUDEVENTS_TYPE = "application/cloudevents+json"
_EVENT_TYPE_PREFIX = "com.github.fraiseql.confiture."
_NEEDED = frozenset({"event_id", "event_type", "timestamp", "trace_id"})
# The HTTP binding escapes all but printable ASCII without space, quotation mark and percent.
_PLAIN = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """Where a request goes, and the bytes that are signed and sent."""

    url: str = field(repr=False)
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


def attributes(document: Mapping[str, Any]) -> dict[str, str]:
    """The CloudEvents 1.0 context attributes of an event in the default format.

    ``correlationid`` is the extension of that name; ``source`` and ``id`` name the event.
    """
    database, migration = document.get("database") or {}, document.get("migration") or {}
    place = (migration.get("environment") or document.get("environment"), database.get("name"))
    found = {
        "specversion": "1.0",
        "id": document["event_id"],
        "source": "/confiture/" + "/".join(quote(part or "-", safe="") for part in place),
        "type": _EVENT_TYPE_PREFIX + document["event_type"],
        "time": document["timestamp"],
        "subject": migration.get("name"),
        "correlationid": document["trace_id"],
    }
    return {name: value for name, value in found.items() if value}


def cloudevents_binary(_: Endpoint, document: dict[str, Any], plain: Completed) -> Completed:
    """CloudEvents in binary mode: the attributes of the event go in headers."""
    if not document.keys() >= _NEEDED:
        return plain
    headers = {
        f"ce-{name}": quote(value, safe=_PLAIN) for name, value in attributes(document).items()
    }
    return replace(plain, headers=headers)


def pagerduty(endpoint: Endpoint, document: dict[str, Any], plain: Completed) -> Completed:
    """With the routing key, unless a hook gave a body of its own."""
    if "event_action" not in document or endpoint.routing_key is None:
        return plain
    return replace(plain, body=body({**document, "routing_key": endpoint.routing_key}))


def opsgenie(_: Endpoint, document: dict[str, Any], plain: Completed) -> Completed:
    """An alert that ends is closed under its own address."""
    if "alias" not in document or "message" in document:
        return plain
    closing = {name: value for name, value in document.items() if name != "alias"}
    parts = urlsplit(plain.url)
    path = f"{parts.path.rstrip('/')}/{quote(document['alias'], safe='')}/close"
    query = "&".join(part for part in (parts.query, "identifierType=alias") if part)
    url = urlunsplit(parts._replace(path=path, query=query))
    return Completed(url=url, body=body(closing))
