"""The body of a delivery in the format its endpoint asks for, made once and stored.

A format's size limit is kept by cutting texts, never the JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..endpoint import Endpoint
from ..event import Event, body, payload
from ..provider import CLOUDEVENTS_TYPE, attributes
from . import services
from .message import Message, message

JSON = "application/json"
BUDGETS = (1000, 500, 200, 80, 40)
"""How long each text may be: the first with which the whole fits is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """What is stored and sent."""

    body: bytes = field(repr=False)
    content_type: str = JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """A format made of an event's ``Message``, and whether what was made is small enough."""

    make: Callable[[Event, Message], dict[str, Any]]
    fits: Callable[[dict[str, Any]], bool] = lambda _: True


WORDS: Mapping[str, Words] = {
    "slack": Words(make=services.slack),
    "discord": Words(make=services.discord, fits=services.discord_fits),
    "teams": Words(make=services.teams, fits=lambda made: len(body(made)) <= services.TEAMS_TOTAL),
    "pagerduty": Words(make=services.pagerduty),
    "opsgenie": Words(make=services.opsgenie, fits=services.opsgenie_fits),
}


def render(event: Event, endpoint: Endpoint) -> Rendered:
    """*event* as *endpoint* asked for it. Holds no secret: ``provider`` adds what is one."""
    if words := WORDS.get(endpoint.format):
        return Rendered(body=_in_words(event, words, include_sql=endpoint.include_sql))
    document = payload(event, endpoint.name, include_sql=endpoint.include_sql)
    if endpoint.format == "cloudevents":
        data = json.loads(body(document))
        whole = {**attributes(data), "datacontenttype": JSON, "data": data}
        return Rendered(body=body(whole), content_type=CLOUDEVENTS_TYPE)
    return Rendered(body=body(document))


def _in_words(event: Event, words: Words, *, include_sql: bool) -> bytes:
    whole = message(event, include_sql=include_sql)
    for budget in BUDGETS:
        document = words.make(event, whole.cut(budget))
        if words.fits(document):
            break
    return body(document)
