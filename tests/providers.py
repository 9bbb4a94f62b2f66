"""The chat and paging services, as far as they check what they are sent."""

from __future__ import annotations

import json
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from jsonschema import Draft202012Validator, FormatChecker

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMAS = Path(__file__).with_name("provider_schemas")
FORMATS = FormatChecker(())
ROUTING_KEY = "R0UT1NGK3Yc4n4ry0123456789abcdef"


@FORMATS.checks("date-time", raises=ValueError)
def _is_instant(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


@FORMATS.checks("uri-reference", raises=ValueError)
def _is_reference(value: object) -> bool:
    return not isinstance(value, str) or (value.isascii() and bool(urlsplit(value).path))


def check(name: str, document: Any) -> None:
    """Raise what is wrong with *document* by the provider's schema *name*."""
    _validator(name).validate(document)


@cache
def _validator(name: str) -> Draft202012Validator:
    schema = json.loads((SCHEMAS / f"{name}.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema, format_checker=FORMATS)


def accept(chosen: str, path: str, headers: Mapping[str, str], body: bytes) -> str:
    """What the provider of the format *chosen* does with a request; raises when it refuses."""
    document = json.loads(body)
    kind = headers["Content-Type"]
    assert kind == (
        "application/cloudevents+json" if chosen == "cloudevents" else "application/json"
    )
    return _ACCEPTS[chosen](urlsplit(path), headers, document, body)


def _slack(_: Any, __: Any, document: Any, ___: bytes) -> str:
    check("slack", document)
    return document["attachments"][0]["fallback"]


def _discord(_: Any, __: Any, document: Any, ___: bytes) -> str:
    check("discord", document)
    (embed,) = document["embeds"]
    texts = [embed["title"], embed.get("description", "")]
    texts += [text for field in embed["fields"] for text in (field["name"], field["value"])]
    assert sum(map(len, texts)) <= 6000
    return embed["title"]


def _teams(_: Any, __: Any, document: Any, body: bytes) -> str:
    check("teams", document)
    assert len(body) <= 28 * 1024
    return document["attachments"][0]["content"]["body"][0]["text"]


def _pagerduty(_: Any, __: Any, document: Any, body: bytes) -> str:
    check("pagerduty", document)
    assert len(body) <= 512 * 1024
    assert document["routing_key"] == ROUTING_KEY
    return f"{document['event_action']} {document['dedup_key']}"


def _opsgenie(path: Any, headers: Mapping[str, str], document: Any, _: bytes) -> str:
    assert headers["Authorization"] == "GenieKey k3y"
    if path.path == "/v2/alerts":
        check("opsgenie-create", document)
        details = document["details"]
        assert sum(len(name) + len(value) for name, value in details.items()) <= 8000
        return f"create {document['alias']}"
    start, alias, end = path.path.rsplit("/", 2)
    assert (start, end) == ("/v2/alerts", "close")
    assert parse_qs(path.query) == {"identifierType": ["alias"]}
    check("opsgenie-close", document)
    return f"close {unquote(alias)}"


def _cloudevents(_: Any, __: Any, document: Any, ___: bytes) -> str:
    check("cloudevents", document)
    assert document["data"]["event_id"] == document["id"]
    return document["type"]


def _cloudevents_binary(_: Any, headers: Mapping[str, str], document: Any, __: bytes) -> str:
    attributes = {
        name.lower().removeprefix("ce-"): unquote(value)
        for name, value in headers.items()
        if name.lower().startswith("ce-")
    }
    check("cloudevents", {**attributes, "data": document})
    assert document["event_id"] == attributes["id"]
    return attributes["type"]


_ACCEPTS = {
    "slack": _slack,
    "discord": _discord,
    "teams": _teams,
    "pagerduty": _pagerduty,
    "opsgenie": _opsgenie,
    "cloudevents": _cloudevents,
    "cloudevents-binary": _cloudevents_binary,
}
