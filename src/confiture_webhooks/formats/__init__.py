"""The deliveries of an event: one for each endpoint that wants it, in the format it asks for.

The body is made once and stored. A format's size limit is kept by cutting texts, never the JSON.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ..delivery import Delivery, TraceContext
from ..endpoint import DEFAULT_FORMAT, Endpoint
from ..event import Event, body, payload
from . import services
from .message import Message, message
from .provider import CLOUDEVENTS_TYPE, attributes

JSON = "application/json"
Report = Callable[[str, Exception], None]
"""Called with where a fault of ours was, and the fault."""
BUDGETS = (1000, 500, 200, 80, 40)
"""How long each text may be: the first with which the whole fits is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """What is stored and sent."""

    body: bytes = field(repr=False)
    content_type: str = JSON


class Words(NamedTuple):
    """A format made of an event's ``Message``, and whether what was made is small enough."""

    make: Callable[[Event, Message], dict[str, Any]]
    fits: Callable[[dict[str, Any]], bool] = lambda _: True


WORDS: Mapping[str, Words] = {
    "slack": Words(services.slack),
    "discord": Words(services.discord, services.discord_fits),
    "teams": Words(services.teams, lambda made: len(body(made)) <= services.TEAMS_TOTAL),
    "pagerduty": Words(services.pagerduty),
    "opsgenie": Words(services.opsgenie, services.opsgenie_fits),
}


def render(event: Event, endpoint: Endpoint) -> Rendered:
    """*event* as *endpoint* asked for it. Holds no secret: ``provider`` adds what is one."""
    if words := WORDS.get(endpoint.format):
        said = message(event, include_sql=endpoint.include_sql)
        for budget in BUDGETS:
            document = words.make(event, said.cut(budget))
            if words.fits(document):
                break
        return Rendered(body=body(document))
    document = payload(event, endpoint.name, include_sql=endpoint.include_sql)
    if endpoint.format == "cloudevents":
        data = json.loads(body(document))
        whole = {**attributes(data), "datacontenttype": JSON, "data": data}
        return Rendered(body=body(whole), content_type=CLOUDEVENTS_TYPE)
    return Rendered(body=body(document))


def deliveries_of(
    event: Event, endpoints: Sequence[Endpoint], trace: TraceContext, *, report: Report
) -> list[Delivery]:
    """One delivery of *event* for each of *endpoints* that wants it, in the format it asks for.

    In the default format when that cannot be made: the receiver then refuses it, and the
    delivery stays where an operator sees it.
    """
    made = []
    for endpoint in endpoints:
        if not endpoint.wants(event):
            continue
        try:
            rendered = render(event, endpoint)
        except Exception as error:
            if endpoint.format == DEFAULT_FORMAT:
                raise
            # A fault of one endpoint's format costs no other endpoint.
            report("format", error)
            rendered = render(event, replace(endpoint, format=DEFAULT_FORMAT))
        made.append(
            Delivery(
                id=f"dlv_{uuid.uuid4().hex}",
                event_id=event.id,
                event_type=event.type,
                endpoint=endpoint.name,
                body=rendered.body,
                content_type=rendered.content_type,
                trace=trace,
                correlation_id=event.trace_id,
                created_at=event.occurred_at,
                migration_version=event.migration.version if event.migration else None,
                migration_name=event.migration.name if event.migration else None,
                environment=event.environment,
            )
        )
    return made
