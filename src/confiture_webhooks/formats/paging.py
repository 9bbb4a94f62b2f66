"""Alerts for PagerDuty and OpsGenie: opened by a failure, closed by the next success.

What the outbox may not keep is put in when a delivery is sent, by ``provider``: PagerDuty's
routing key, and the address that closes an alert of OpsGenie.

The host's renderers name an alert by the migration's version alone, so that a success in one
environment closes the alert of another, and OpsGenie's opens an alert for each success.
"""

from __future__ import annotations

from typing import Any

from ..event import Event, rfc3339
from .message import Message, Tone, cut, key, plain

_SOURCE = "confiture"


def pagerduty(event: Event, message: Message) -> dict[str, Any]:
    """An event for PagerDuty, all but its ``routing_key``.

    Source: PagerDuty, Events API v2: Send an Alert Event.
    """
    named = {"dedup_key": key(event, 255)}
    if message.tone is not Tone.BAD:
        return {"event_action": "resolve", **named}
    alert = {
        "summary": cut(message.summary, 1024),
        "source": cut(plain(event.database.host or _SOURCE), 255),
        "severity": "critical",
        "timestamp": rfc3339(event.occurred_at),
        "component": cut(plain(event.database.name or ""), 255),
        "group": cut(plain(event.environment or ""), 255),
        "class": event.type.value,
        "custom_details": _details(message),
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
    facts = _details(message)
    tags = [event.type.value, event.environment]
    alert: dict[str, Any] = {
        "message": cut(message.summary, 130),
        "description": cut("\n".join(f"{name}: {value}" for name, value in facts.items()), 15_000),
        "details": facts,
        "entity": cut(message.text, 512),
        "priority": "P2",
        "tags": [cut(plain(tag), 50) for tag in tags if tag],
    }
    return {**named, **{name: value for name, value in alert.items() if value}}


def _details(message: Message) -> dict[str, str]:
    return dict(message.facts) | {f"{name} link": url for name, url in message.links}
