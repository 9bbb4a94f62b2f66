"""The deliveries of an event: one for each endpoint that wants it, its body made."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..delivery import Delivery, TraceContext
from ..endpoint import DEFAULT_FORMAT, Endpoint
from ..formats import Rendered, render

if TYPE_CHECKING:
    from ..event import Event

Report = Callable[[str, Exception], None]
"""Called with where a fault of ours was, and the fault."""


def deliveries_of(
    event: Event, endpoints: Sequence[Endpoint], trace: TraceContext, *, report: Report
) -> list[Delivery]:
    """One delivery of *event* for each of *endpoints* that wants it."""
    return [
        _delivery(event, endpoint, trace, _rendered(event, endpoint, report))
        for endpoint in endpoints
        if endpoint.wants(event)
    ]


def _rendered(event: Event, endpoint: Endpoint, report: Report) -> Rendered:
    """The body *endpoint* asked for; in the default format when that cannot be made.

    The receiver then refuses it, and the delivery stays where an operator sees it.
    """
    try:
        return render(event, endpoint)
    except Exception as error:
        if endpoint.format == DEFAULT_FORMAT:
            raise
        # A fault of one endpoint's format costs no other endpoint.
        report("format", error)
        return render(event, replace(endpoint, format=DEFAULT_FORMAT))


def _delivery(
    event: Event, endpoint: Endpoint, trace: TraceContext, rendered: Rendered
) -> Delivery:
    return Delivery(
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
