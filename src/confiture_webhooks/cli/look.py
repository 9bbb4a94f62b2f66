"""``confiture webhooks list`` and ``show``: the deliveries in the outbox."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from operator import itemgetter
from typing import Annotated, Any

import typer

from ..delivery import Delivery, State
from ..event import EventType, rfc3339
from ..outbox import KEPT_FOR, Row, Summary
from ..outlook import NO_ENVIRONMENT, Wait, listed, once_possible, shown_environment
from ..receiver.local import payload_of
from ..remedy import shown
from ..run.other_environment import in_environment
from ..signature import part
from ..terminal import say
from .context import Context, opened
from .options import (
    RECORDED,
    SHORTEST,
    ConfigOpt,
    FormatOpt,
    environment_of,
    not_empty,
    one_event,
    one_of,
    since,
    whole_trace,
)
from .selection import ambiguous, check_endpoint, documents, find
from .tables import CommandError, conclude, line, print_facts, print_table

LIMIT = 100


def _next(row: dict[str, Any]) -> str:
    until = row.get("rests_until")
    return _to_second(f"rests until {until}" if until else row["next_attempt_at"] or "")


def _to_second(instant: str) -> str:
    return re.sub(r"\.\d+", "", instant)


_COLUMNS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "id": lambda row: row["id"][: len("dlv_") + SHORTEST],
    "event": itemgetter("event_type"),
    "migration": itemgetter("migration_name"),
    "endpoint": itemgetter("endpoint"),
    "environment": lambda row: shown_environment(row["environment"]),
    "state": itemgetter("state"),
    "tries": lambda row: str(row["attempts"]),
    "answer": itemgetter("last_answer"),
    "created": lambda row: _to_second(row["created_at"]),
    "next attempt": _next,
    "trace": lambda row: row["correlation_id"][:SHORTEST],
}
"""The columns of the list: beginnings of ids, and whole seconds."""


def list_deliveries(
    state: Annotated[
        State | None,
        typer.Option("--state", parser=one_of(State), help=f"Only this state: {', '.join(State)}"),
    ] = None,
    endpoint: Annotated[str | None, typer.Option("--endpoint", help="Only this endpoint")] = None,
    event_type: Annotated[
        EventType | None,
        one_event("--event-type", "--event", among=RECORDED, what="Only this event type"),
    ] = None,
    migration: Annotated[
        str | None,
        typer.Option(
            "--migration",
            callback=not_empty,
            help="Only this migration: its version, or <version>_<name>",
        ),
    ] = None,
    environment: Annotated[
        str | None,
        typer.Option(
            "--environment",
            callback=environment_of,
            help=f"Only this environment; {NO_ENVIRONMENT}: without one",
        ),
    ] = None,
    trace: Annotated[
        str | None, typer.Option("--trace", callback=whole_trace, help="Only this trace id")
    ] = None,
    made_since: Annotated[
        datetime | None,
        typer.Option(
            "--since", parser=since, help="Only made since: 2h, 7d, 2026-01-09T14:00 (UTC)"
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=1, metavar="NUMBER", help="At most so many")
    ] = LIMIT,
    config: ConfigOpt = None,
    output: FormatOpt = "text",
) -> None:
    """List the outbox's deliveries, newest first, of every environment.

    PROCESS:
      Shows the beginnings of ids and traces, which `show`, `redeliver` and `discard` take. `show`
      and --format json have them whole, as --trace needs one. An empty column is left out.

    EXAMPLES:
      confiture webhooks list --state dead_letter --since 7d
        ↳ The dead letters of this week

      confiture webhooks list --migration 007 --environment production
        ↳ Everything about one migration

    EXIT CODES:
      0  Listed, also when there is nothing to list.
      1  The outbox cannot be read.
      2  A filter is wrong: an unknown state or event type, no date, half a trace id.
      5  The configuration is invalid, or there is no endpoint of that name.
    """
    with opened(config) as context:
        check_endpoint(context, endpoint)
        found = context.outbox.deliveries(
            state=state,
            endpoint=endpoint,
            event_type=event_type,
            since=made_since,
            limit=limit,
            migration=migration,
            trace=trace,
            **({"environment": environment} if environment is not None else {}),
        )
        rows = documents(context, found)
        is_empty = not found and context.outbox.is_durable  # of a missing one a line is said
        others = context.outbox.summaries() if is_empty else None
    document = {"ok": True, "outbox": context.where, "deliveries": rows}
    conclude(document, partial(_print_list, rows, others, limit), output)


def _print_list(
    rows: Sequence[dict[str, Any]], others: Mapping[str | None, Summary] | None, limit: int
) -> None:
    """*others*: of all deliveries, if none was found in an outbox."""
    cells = {name: [str(cell(row) or "-") for row in rows] for name, cell in _COLUMNS.items()}
    columns = [name for name in cells if set(cells[name]) != {"-"}]
    print_table(columns, zip(*(cells[name] for name in columns), strict=True))
    if len(rows) == limit:
        say(f"The newest are listed, at most {limit}; --limit lists more")
    if others is not None:
        counts = listed({name: one.total for name, one in others.items()})
        there = f"There are, by environment: {counts}" if counts else "There is none yet"
        say(f"No delivery matches. {there}")


def show(
    identifier: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            callback=not_empty,
            help="The id of a delivery, an event or a trace, or its beginning",
        ),
    ],
    config: ConfigOpt = None,
    output: FormatOpt = "text",
) -> None:
    """Show a delivery: its event, its attempts as a timeline, and its trace id.

    EXAMPLES:
      confiture webhooks show evt_4bf92f35
        ↳ By a receiver's `webhook-id`. The beginning is enough if it names one event

    EXIT CODES:
      0  Shown.
      1  There is no such delivery, several begin so, or the outbox cannot be read.
      2  The id is empty.
      5  The configuration is invalid.
    """
    with opened(config) as context:
        rows = _sought(context, identifier)
        facts = documents(context, rows)
        wholes = [_whole(context, *one) for one in zip(rows, facts, strict=True)]
        here = context.environment
        waits = context.waits(dict.fromkeys((row.delivery.endpoint for row in rows), 1))
    document = wholes[0] if len(wholes) == 1 else {"deliveries": wholes}
    conclude({"ok": True, **document}, partial(_show, wholes, here, waits), output)


def _whole(context: Context, row: Row, facts: dict[str, Any]) -> dict[str, Any]:
    payload = _payload(row.delivery)
    return {
        **facts,
        **({"payload": payload} if payload else {}),
        "trace_id": facts["correlation_id"],
        "timeline": [
            {
                "number": attempt.number,
                "started_at": rfc3339(attempt.started_at),
                "duration_ms": round(attempt.duration.total_seconds() * 1000, 1),
                "status_code": attempt.status_code,
                "error_type": attempt.failure,
            }
            for attempt in context.outbox.attempts(row.delivery.id)
        ],
    }


def _show(wholes: Sequence[dict[str, Any]], here: str | None, waits: Sequence[Wait]) -> None:
    """*here*: the environment of the command. *waits*: its endpoints to which nothing is sent."""
    for whole in wholes:
        named = whole | {"environment": shown_environment(whole["environment"])}
        named |= _of_body(named.pop("payload", {}))
        hidden = ("timeline", "correlation_id")
        facts = {name: value for name, value in named.items() if name not in hidden}
        print_facts((name, "-" if one in (None, "") else str(one)) for name, one in facts.items())
        rows = []
        for one in whole["timeline"]:
            took, result = f"{one['duration_ms']:g} ms", one["error_type"] or one["status_code"]
            rows.append((str(one["number"]), one["started_at"], took, str(result)))
        print_table(("attempt", "started", "took", "result"), rows)
        if whole["state"] == State.DEAD_LETTER:
            words, there = ("redeliver", whole["id"]), whole["environment"]
            again = shown(*words) if there == here else in_environment(there, *words)
            first = [one for one in waits if there == here and one.endpoint == whole["endpoint"]]
            line(once_possible(first, f"Send it again: {again}"))


def _payload(delivery: Delivery) -> dict[str, Any] | None:
    """The body as the receiver has it, if it is of the default format."""
    found = payload_of(delivery.body)
    is_ours = isinstance(found, dict) and found.get("event_id") == delivery.event_id
    return found if is_ours and "event_type" in found else None


def _of_body(payload: dict[str, Any]) -> dict[str, str]:
    error, database, run = (part(payload, key) for key in ("error", "database", "run"))
    named = {
        "error": ": ".join(str(error[key]) for key in ("type", "message") if error.get(key)),
        "sqlstate": error.get("sqlstate"),
        "database": " on ".join(str(one) for one in map(database.get, ("name", "host")) if one),
        "command": run.get("command"),
        "CI run": run.get("url"),
    }
    return {name: str(value) for name, value in named.items() if value}


def _sought(context: Context, given: str) -> Sequence[Row]:
    rows, ids = find(context.outbox, given)
    if len(ids) > 1:
        problem = f"{len(ids)} ids begin with {given}. Give more characters"
        raise ambiguous(context, problem, rows)
    if rows:
        return rows
    hints = (
        f"List what is here: {shown('list')}. Migrations whose end is not known: {shown('status')}",
        "Another --config, or another directory, may have another outbox",
        f"Delivered ones are forgotten after {KEPT_FOR.days} days",
        "The log lines of the run have the event id and the trace id: search for either",
    )
    raise CommandError(f"There is no delivery {given} in {context.where}", lines=hints, hints=hints)
