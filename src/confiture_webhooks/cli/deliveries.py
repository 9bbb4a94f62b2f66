"""``confiture webhooks list`` and ``show``: the deliveries in the outbox."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..delivery import Attempt, State
from ..event import EventType, rfc3339
from .options import ConfigOpt, FormatOpt, is_json
from .output import fail, print_json, say
from .project import check_endpoint, opened, rows_called
from .since import since as instant_of
from .tables import age, length, print_facts, print_table

if TYPE_CHECKING:
    from ..outbox import Outbox, Row

LIMIT = 100


def _known(kind: type[StrEnum], value: str | None, option: str) -> Any:
    if value is None:
        return None
    try:
        return kind(value)
    except ValueError:
        reason = f"{value!r} is not one of: {_words(kind)}"
        raise typer.BadParameter(reason, param_hint=option) from None


def _words(kind: type[StrEnum]) -> str:
    return ", ".join(member.value for member in kind)


def _instant(value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        return instant_of(value, datetime.now(UTC))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--since") from None


def _document(row: Row) -> dict[str, Any]:
    delivery = row.delivery
    return {
        "id": delivery.id,
        "event_id": delivery.event_id,
        "event_type": delivery.event_type.value,
        "endpoint": delivery.endpoint,
        "state": row.state.value,
        "attempts": row.attempts,
        "created_at": rfc3339(delivery.created_at),
        "next_attempt_at": rfc3339(row.next_attempt_at) if row.next_attempt_at else None,
        "correlation_id": delivery.correlation_id,
    }


def list_deliveries(
    state: Annotated[
        str | None, typer.Option("--state", help=f"Only this state: {_words(State)}")
    ] = None,
    endpoint: Annotated[str | None, typer.Option("--endpoint", help="Only this endpoint")] = None,
    event_type: Annotated[
        str | None,
        typer.Option("--event-type", "--event", help=f"Only this event type: {_words(EventType)}"),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Only made since: 2h, 7d, 2026-01-09T14:00 (UTC)")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many")] = LIMIT,
    config: ConfigOpt = None,
    output: FormatOpt = "text",
) -> None:
    """List the outbox's deliveries, newest first.

    EXAMPLES:
      confiture webhooks list --state dead_letter --since 7d
        ↳ What was given up this week

      confiture webhooks list --endpoint analytics --format json
        ↳ One endpoint's, for a script

    EXIT CODES:
      0  Listed, also when there is nothing to list.
      1  The outbox cannot be read.
      2  A filter is not one: an unknown state or event type, a date that is none.
      5  The configuration is invalid, or there is no endpoint of that name.
    """
    chosen = _known(State, state, "--state")
    kind, made_since = _known(EventType, event_type, "--event-type"), _instant(since)
    with opened(config, output) as (settings, outbox):
        check_endpoint(settings, outbox, endpoint, output)
        found = outbox.deliveries(
            state=chosen, endpoint=endpoint, event_type=kind, since=made_since, limit=limit
        )
        rows = [_document(row) for row in found]
    if is_json(output):
        print_json({"deliveries": rows})
        return
    print_table(
        ("id", "event", "endpoint", "state", "attempts", "created", "next attempt"),
        (
            (
                row["id"],
                row["event_type"],
                row["endpoint"],
                row["state"],
                str(row["attempts"]),
                row["created_at"],
                row["next_attempt_at"] or "-",
            )
            for row in rows
        ),
    )
    if len(rows) == limit:
        say(f"The newest {limit}; --limit shows more")


def show(
    delivery_id: Annotated[
        str, typer.Argument(metavar="ID", help="The delivery's id, or its beginning")
    ],
    config: ConfigOpt = None,
    output: FormatOpt = "text",
) -> None:
    """Show one delivery: its event, its attempts as a timeline, and its trace id.

    EXAMPLES:
      confiture webhooks show dlv_4bf92f35
        ↳ The beginning of an id will do, if it is that of one delivery only

    EXIT CODES:
      0  Shown.
      1  There is no such delivery, or more than one, or the outbox cannot be read.
      2  Wrong option.
      5  The configuration is invalid.
    """
    with opened(config, output) as (_, outbox):
        row = _sought(outbox, delivery_id, output)
        attempts = outbox.attempts(row.delivery.id)
    event = {
        "environment": row.delivery.environment,
        "migration_version": row.delivery.migration_version,
        "migration_name": row.delivery.migration_name,
    }
    timeline = [_attempt(attempt) for attempt in attempts]
    document = {**_document(row), **event, "trace_id": row.delivery.correlation_id}
    if is_json(output):
        print_json({**document, "timeline": timeline})
        return
    del document["correlation_id"]
    print_facts((key.replace("_", " "), str(value or "-")) for key, value in document.items())
    print()
    print_table(
        ("attempt", "after", "started", "took", "result"),
        (
            (
                str(attempt.number),
                f"+{age(row.delivery.created_at, attempt.started_at)}",
                rfc3339(attempt.started_at),
                length(attempt.duration),
                str(attempt.failure or attempt.status_code),
            )
            for attempt in attempts
        ),
    )


def _sought(outbox: Outbox, given: str, output: str) -> Row:
    """The delivery called *given*, or the only one whose id begins so."""
    found = rows_called(outbox, given)
    if len(found) > 1:
        fail(f"{len(found)} deliveries' ids begin with {given}; give more of it", output)
    if not found:
        problem = f"There is no delivery {given}; confiture webhooks list shows which there are"
        fail(problem, output)
    return found[0]


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "started_at": rfc3339(attempt.started_at),
        "duration_ms": round(attempt.duration.total_seconds() * 1000, 1),
        "status_code": attempt.status_code,
        "error_type": attempt.failure,
    }
