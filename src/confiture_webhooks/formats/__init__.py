"""The deliveries of an event: one for each endpoint that subscribes to it, in its format.

The body is made once and stored. A format's size limit is kept by cutting texts, never the JSON.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ..delivery import Delivery, TraceContext
from ..endpoint import DEFAULT_FORMAT, Endpoint
from ..event import Event, EventType, body, payload
from . import services
from .message import Message, message
from .services import CLOUDEVENTS_TYPE, Completed, attributes

JSON = "application/json"
Report = Callable[[str, Exception], None]
"""Called with where a fault of ours was, and the fault."""
BUDGETS = (1000, 500, 200, 80, 40)
"""How long each text may be: the first with which the whole fits is taken."""


class Format(NamedTuple):
    """How the body of a format is made and completed."""

    make: Callable[[Event, Message], dict[str, Any]] | None = None
    """Makes it of an event's ``Message``; ``None``: it is the payload."""
    fits: Callable[[dict[str, Any]], bool] = lambda _: True
    """Whether what was made is small enough."""
    complete: Callable[[Endpoint, dict[str, Any], Completed], Completed] | None = None
    """Adds to a request what the provider wants and the outbox may not keep."""
    hosts: tuple[str, ...] = ()
    """A service's, and those below them: they read this format only, and check no signature."""


FORMATS: Mapping[str, Format] = {
    DEFAULT_FORMAT: Format(),
    "cloudevents": Format(),
    "cloudevents-binary": Format(complete=services.in_headers),
    "slack": Format(services.slack, hosts=("hooks.slack.com", "hooks.slack-gov.com")),
    "discord": Format(
        services.discord, services.discord_fits, hosts=("discord.com", "discordapp.com")
    ),
    "teams": Format(
        services.teams,
        lambda made: len(body(made)) <= services.TEAMS_TOTAL,
        hosts=("webhook.office.com", "logic.azure.com", "powerplatform.com"),
    ),
    "pagerduty": Format(
        services.pagerduty,
        complete=services.with_routing_key,
        hosts=("events.pagerduty.com", "events.eu.pagerduty.com"),
    ),
    "opsgenie": Format(
        services.opsgenie,
        services.opsgenie_fits,
        services.closed_by_address,
        hosts=("api.opsgenie.com", "api.eu.opsgenie.com"),
    ),
}


def format_of(url: str) -> str | None:
    """The only format that the service at *url* reads; ``None``: it is none of those known here."""
    host = f".{urlsplit(url).hostname or ''}"
    found = (name for name, one in FORMATS.items() for end in one.hosts if host.endswith(f".{end}"))
    return next(found, None)


def render(event: Event, endpoint: Endpoint) -> tuple[bytes, str]:
    """The body of *event* as *endpoint* asked for it, and its content type.

    Holds no secret: ``complete`` adds what is one.
    """
    chosen = FORMATS.get(endpoint.format, Format())
    if chosen.make is not None:
        said = message(event, include_sql=endpoint.include_sql)
        for budget in BUDGETS:
            document = chosen.make(event, said.cut(budget))
            if chosen.fits(document):
                break
        return body(document), JSON
    document = payload(event, endpoint.name, include_sql=endpoint.include_sql)
    if endpoint.format == "cloudevents":
        data = json.loads(body(document))
        whole = {**attributes(data), "datacontenttype": JSON, "data": data}
        return body(whole), CLOUDEVENTS_TYPE
    return body(document), JSON


def complete(endpoint: Endpoint, delivery: Delivery) -> Completed:
    """The request of *delivery*, with what *endpoint*'s provider needs. The same every time."""
    plain = Completed(url=endpoint.url, body=delivery.body)
    add = FORMATS.get(endpoint.format, Format()).complete
    # The payload of a user's hook is its own: it is sent as it was given.
    if delivery.event_type is EventType.CUSTOM or add is None:
        return plain
    document = json.loads(delivery.body)
    # A body that was stored before the endpoint's format was changed is sent as it is.
    return add(endpoint, document, plain) if isinstance(document, dict) else plain


def deliveries_of(
    event: Event, trace: TraceContext, endpoints: Sequence[Endpoint], *, report: Report
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
            content, content_type = render(event, endpoint)
        except Exception as error:
            if endpoint.format == DEFAULT_FORMAT:
                raise
            # A fault of one endpoint's format costs no other endpoint.
            report("format", error)
            content, content_type = render(event, replace(endpoint, format=DEFAULT_FORMAT))
        made.append(
            Delivery(
                id=f"dlv_{uuid.uuid4().hex}",
                event_id=event.id,
                event_type=event.type,
                endpoint=endpoint.name,
                body=content,
                content_type=content_type,
                trace=trace,
                correlation_id=event.trace_id,
                created_at=event.occurred_at,
                migration_version=event.migration.version if event.migration else None,
                migration_name=event.migration.name if event.migration else None,
                environment=event.environment,
            )
        )
    return made
