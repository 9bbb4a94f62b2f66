"""The bodies for services of chat and of paging, made of an event's ``Message``.

The bodies for Slack and Discord look like those of the host's own renderers. Its Teams renderer
makes a MessageCard, which not all workflows that replaced connectors accept. Its renderers for
paging name an alert by the migration's version alone: a success in one environment would close the
alert of another.

A failure opens an alert, the next success closes it. The stored body of a delivery holds no secret
and no address: PagerDuty's routing key, and the address that closes an alert of OpsGenie, are added
when it is sent, as are the headers of CloudEvents in binary mode.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from ..endpoint import Endpoint
from ..event import Event, body, rfc3339, utf8
from ..terminal import printable
from .message import Message, Tone, cut, key

_DISCORD_TOTAL = 6000
_OPSGENIE_DETAILS = 8000
TEAMS_TOTAL = 28_000
"""Bytes; the documented limit is 28 KB."""

_SOURCE = "confiture"
_SHORT = 40
"""A value up to this stands beside another."""
_RGB = {Tone.GOOD: 0x36A64F, Tone.BAD: 0xCC0000, Tone.NEUTRAL: 0x5865A6}
_MARKS = re.compile(r"[\\*_~`|\[\]<>#@]|(?m:^[-+])")
_COLORS = {Tone.GOOD: "Good", Tone.BAD: "Attention", Tone.NEUTRAL: "Default"}

CLOUDEVENTS_TYPE = "application/cloudevents+json"
_NEEDED = frozenset({"event_id", "event_type", "timestamp", "trace_id"})
# The HTTP binding escapes all but printable ASCII without space, quotation mark and percent.
_PLAIN = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')


def slack(event: Event, message: Message) -> dict[str, Any]:
    """A message for a Slack incoming webhook.

    Source: Slack, Reference: Secondary message attachments; Formatting message text.
    """
    facts = [(name, value, len(value) <= _SHORT) for name, value in message.facts]
    facts += [(name, url, False) for name, url in message.links]
    facts.append(("Time", f"{event.occurred_at:%Y-%m-%d %H:%M UTC}", True))
    card = {
        "color": f"#{_RGB[message.tone]:06x}",
        "fallback": _slack_text(message.summary),
        "fields": [
            {"title": name, "value": _slack_text(value), "short": is_short}
            for name, value, is_short in facts
        ],
        "mrkdwn_in": [],
        "title": _slack_text(message.title),
        **({"text": _slack_text(message.text)} if message.text else {}),
    }
    return {"attachments": [card]}


def discord(event: Event, message: Message) -> dict[str, Any]:
    """A message for a Discord webhook; it mentions no one, whatever a text says.

    Source: Discord, Webhook resource: Execute Webhook; Message resource: Embed limits.
    """
    facts = [
        {"name": name, "value": cut(_marked(value), 1024), "inline": len(value) <= _SHORT}
        for name, value in message.facts
    ]
    facts += [{"name": name, "value": _open(url), "inline": True} for name, url in message.links]
    embed = {
        "color": _RGB[message.tone],
        "fields": facts,
        "timestamp": event.occurred_at.isoformat(),
        "title": cut(_marked(message.title), 256),
        **({"description": cut(_marked(message.text), 4096)} if message.text else {}),
    }
    return {"allowed_mentions": {"parse": []}, "embeds": [embed]}


def discord_fits(document: Mapping[str, Any]) -> bool:
    """Whether Discord takes *document*; it counts texts in the units of ``cut``."""
    (embed,) = document["embeds"]
    texts = [embed["title"], embed.get("description", "")]
    texts += [text for item in embed["fields"] for text in (item["name"], item["value"])]
    return sum(len(text.encode("utf-16-le")) // 2 for text in texts) <= _DISCORD_TOTAL


def teams(_: Event, message: Message) -> dict[str, Any]:
    """A message for a Teams workflow that starts with a webhook request.

    Source: Microsoft, Create incoming webhooks with Workflows; Adaptive Cards 1.4.
    """
    title = {
        "type": "TextBlock",
        "text": _no_link(message.title),
        "size": "Large",
        "weight": "Bolder",
        "color": _COLORS[message.tone],
        "wrap": True,
    }
    blocks: list[dict[str, Any]] = [title]
    if message.text:
        blocks.append({"type": "TextBlock", "text": _no_link(message.text), "wrap": True})
    facts = [{"title": name, "value": _no_link(value)} for name, value in message.facts]
    facts += [{"title": name, "value": _open(url)} for name, url in message.links]
    blocks.append({"type": "FactSet", "facts": facts})
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "fallbackText": message.summary,
        "body": blocks,
    }
    kind = "application/vnd.microsoft.card.adaptive"
    attachment = {"contentType": kind, "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


def pagerduty(event: Event, message: Message) -> dict[str, Any]:
    """An event for PagerDuty, all but its ``routing_key``.

    Source: PagerDuty, Events API v2: Send an Alert Event.
    """
    named = {"dedup_key": key(event, 255)}
    if message.tone is not Tone.BAD:
        return {"event_action": "resolve", **named}
    alert = {
        "summary": cut(message.summary, 1024),
        "source": cut(utf8(event.database.host or _SOURCE), 255),
        "severity": "critical",
        "timestamp": rfc3339(event.occurred_at),
        "component": cut(utf8(event.database.name or ""), 255),
        "group": cut(utf8(event.environment or ""), 255),
        "class": event.type.value,
        "custom_details": dict(message.facts + message.links),
    }
    return {
        "event_action": "trigger",
        **named,
        "client": "Confiture",
        **({"client_url": message.links[0][1]} if message.links else {}),
        "payload": {name: value for name, value in alert.items() if value},
    }


def opsgenie(event: Event, message: Message) -> dict[str, Any]:
    """An alert for OpsGenie, or, without a ``message``, the end of the one named ``alias``.

    Source: Opsgenie, Alert API: Create Alert, Close Alert.
    """
    named = {"alias": key(event, 512), "source": _SOURCE}
    if message.tone is not Tone.BAD:
        return {**named, "note": cut(message.summary, 25_000)}
    facts = dict(message.facts + message.links)
    tags = [event.type.value, event.environment]
    alert: dict[str, Any] = {
        "message": cut(message.summary, 130),
        "description": cut("\n".join(f"{name}: {value}" for name, value in facts.items()), 15_000),
        "details": facts,
        "entity": cut(message.text, 512),
        "priority": "P2",
        "tags": [cut(utf8(tag), 50) for tag in tags if tag],
    }
    return {**named, **{name: value for name, value in alert.items() if value}}


def opsgenie_fits(document: Mapping[str, Any]) -> bool:
    """Whether Opsgenie takes *document*, whose details have a limit together."""
    details = document.get("details", {})
    return sum(len(name) + len(value) for name, value in details.items()) <= _OPSGENIE_DETAILS


def _marked(text: str) -> str:
    """*text* with the characters escaped that Discord's Markdown gives a meaning to."""
    return _MARKS.sub(r"\\\g<0>", text)


def _no_link(text: str) -> str:
    """*text* in which nothing is a link of a card's Markdown."""
    return text.replace("](", "] (")


def _open(url: str) -> str:
    return f"[Open]({url})"


def _slack_text(text: str) -> str:
    """*text* with the three characters escaped that Slack gives a meaning to."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# Added when a delivery is sent


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
        "type": f"com.github.fraiseql.confiture.{document['event_type']}",
        "time": document["timestamp"],
        "subject": migration.get("name"),
        "correlationid": document["trace_id"],
    }
    # The specification allows no control character.
    return {name: printable(value) for name, value in found.items() if value}


def in_headers(_: Endpoint, document: dict[str, Any], plain: Completed) -> Completed:
    """CloudEvents in binary mode: the attributes of the event go in headers."""
    if not document.keys() >= _NEEDED:
        return plain
    headers = {
        f"ce-{name}": quote(value, safe=_PLAIN) for name, value in attributes(document).items()
    }
    return replace(plain, headers=headers)


def with_routing_key(endpoint: Endpoint, document: dict[str, Any], plain: Completed) -> Completed:
    """PagerDuty's body with the routing key, unless a hook gave a body of its own."""
    if "event_action" not in document or endpoint.routing_key is None:
        return plain
    return replace(plain, body=body({**document, "routing_key": endpoint.routing_key}))


def closed_by_address(_: Endpoint, document: dict[str, Any], plain: Completed) -> Completed:
    """An alert of OpsGenie that ends is closed under its own address."""
    if "alias" not in document or "message" in document:
        return plain
    closing = {name: value for name, value in document.items() if name != "alias"}
    parts = urlsplit(plain.url)
    path = f"{parts.path.rstrip('/')}/{quote(document['alias'], safe='')}/close"
    query = "&".join(part for part in (parts.query, "identifierType=alias") if part)
    url = urlunsplit(parts._replace(path=path, query=query))
    return Completed(url=url, body=body(closing))
