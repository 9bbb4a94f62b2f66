"""``confiture webhooks list`` and ``show``: the deliveries in the outbox."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..delivery import Attempt, State
from ..event import rfc3339
from ..outbox import Unreadable
from ..outlook import NO_ENVIRONMENT, rest_of, shown_environment
from ..remedy import shown
from ..run.run_outbox import KEPT_FOR
from ..terminal import say
from .context import Context, opened
from .options import (
    RECORDED,
    ConfigOpt,
    FormatOpt,
    check_trace,
    instant,
    is_json,
    known,
    not_empty,
    words,
)
from .tables import age, fail, milliseconds, print_facts, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..delivery import Delivery
    from ..outbox import Outbox, Row

SEARCHED = 10_000
SHORTEST = 8
"""An acting command takes a beginning with so many characters after ``dlv_`` or ``evt_``."""
MOST_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What an id names."""

    rows: Sequence[Row]
    ids: Collection[str]
    """The whole ids that begin so; several: the beginning is ambiguous."""

    @property
    def is_ambiguous(self) -> bool:
        """Whether more than one delivery, event or trace begins so."""
        return len(self.ids) > 1

    def candidates(self) -> list[str]:
        """A line for each delivery that may be meant."""
        lines = [_candidate(row) for row in self.rows[:MOST_SHOWN]]
        left = len(self.rows) - len(lines)
        return [*lines, f"and {left} more"] if left > 0 else lines


def find(outbox: Outbox, given: str) -> Found:
    """The deliveries that *given* names; a whole id is never ambiguous."""
    rows = outbox.look_up(given, limit=SEARCHED)
    if whole := [row for row in rows if given in _ids(row.delivery)]:
        return Found(rows=whole, ids={given})
    ids = {one for row in rows for one in _ids(row.delivery) if one.startswith(given)}
    return Found(rows=rows, ids=ids)


def is_unsettled(context: Context, given: str) -> bool:
    """Whether *given* is the event of a migration whose end is not known yet."""
    return any(intent.event_id.startswith(given) for intent in context.outbox.intents())


def is_short(given: str) -> bool:
    """Whether *given* is too short a beginning to change what it names."""
    return len(given.removeprefix("dlv_").removeprefix("evt_")) < SHORTEST


def _candidate(row: Row) -> str:
    one = row.delivery
    ids = f"{one.id}  {one.event_id}  {one.event_type.value}  {one.migration_name or '-'}"
    where = f"{one.endpoint}  {shown_environment(one.environment)}  {row.state.value}"
    return f"{ids}  {where}  {rfc3339(one.created_at)}"


def _ids(one: Delivery) -> tuple[str, str, str]:
    return one.id, one.event_id, one.correlation_id


LIMIT = 100


def documents(context: Context, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Deliveries as JSON has them; of one that waits for an endpoint that rests, until when."""
    now = datetime.now(UTC)
    environments = {row.delivery.environment for row in rows}
    standing = {one: context.outbox.standing(one) for one in environments}
    own = {(context.environment, one.name): one for one in context.settings.recorded}
    found = []
    for row in rows:
        one = row.delivery
        stands = standing[one.environment].get(one.endpoint, (None, None))
        until = rest_of(stands, own.get((one.environment, one.endpoint)), now)
        is_resting = row.state is State.PENDING and until is not None and until > now
        found.append(
            {
                "id": one.id,
                "event_id": one.event_id,
                "event_type": one.event_type.value,
                "endpoint": one.endpoint,
                "environment": one.environment,
                "migration_version": one.migration_version,
                "migration_name": one.migration_name,
                "state": row.state.value,
                "attempts": row.attempts,
                "last_answer": row.last_answer,
                "created_at": rfc3339(one.created_at),
                "next_attempt_at": rfc3339(row.next_attempt_at) if row.next_attempt_at else None,
                "correlation_id": one.correlation_id,
                **({"rests_until": rfc3339(until)} if until and is_resting else {}),
                **({"unreadable": one.reason} if isinstance(one, Unreadable) else {}),
            }
        )
    return found


_COLUMNS = (
    *("id", "event", "migration", "endpoint", "environment", "state", "tries", "answer"),
    *("created", "next attempt", "trace"),
)


def _cells(row: dict[str, Any]) -> dict[str, str]:
    """A row of the list: beginnings of ids, and whole seconds."""
    rests = "rests until " if "rests_until" in row else ""
    next_at = row.get("rests_until") or row["next_attempt_at"]
    cells = {
        "id": row["id"][: len("dlv_") + SHORTEST],
        "event": row["event_type"],
        "migration": row["migration_name"],
        "endpoint": row["endpoint"],
        "environment": shown_environment(row["environment"]),
        "state": row["state"],
        "tries": str(row["attempts"]),
        "answer": row["last_answer"],
        "created": _to_second(row["created_at"]),
        "next attempt": next_at and rests + _to_second(next_at),
        "trace": row["correlation_id"][:SHORTEST],
    }
    return {name: str(cells[name] or "-") for name in _COLUMNS}


def _to_second(instant: str) -> str:
    return re.sub(r"\.\d+", "", instant)


def check_endpoint(context: Context, name: str | None) -> None:
    """End the command unless *name* is an endpoint's, configured or only in the outbox."""
    names = context.names
    if name is None or name in names or context.outbox.deliveries(endpoint=name, limit=1):
        return
    context.refuse_name("endpoint", name, names)


def list_deliveries(
    state: Annotated[
        str | None, typer.Option("--state", help=f"Only this state: {words(State)}")
    ] = None,
    endpoint: Annotated[str | None, typer.Option("--endpoint", help="Only this endpoint")] = None,
    event_type: Annotated[
        str | None,
        typer.Option("--event-type", "--event", help=f"Only this event type: {words(RECORDED)}"),
    ] = None,
    migration: Annotated[
        str | None,
        typer.Option("--migration", help="Only this migration: its version, or <version>_<name>"),
    ] = None,
    environment: Annotated[
        str | None,
        typer.Option("--environment", help=f"Only this environment; {NO_ENVIRONMENT}: without one"),
    ] = None,
    trace: Annotated[str | None, typer.Option("--trace", help="Only this trace id")] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Only made since: 2h, 7d, 2026-01-09T14:00 (UTC)")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many")] = LIMIT,
    config: ConfigOpt = None,
    output: FormatOpt = "text",
) -> None:
    """List the outbox's deliveries, newest first, of every environment.

    PROCESS:
      Ids and traces are shown by their beginnings, which every command takes; `show` and
      --format json have them whole. A column in which nothing stands is left out.

    EXAMPLES:
      confiture webhooks list --state dead_letter --since 7d
        ↳ The dead letters of this week

      confiture webhooks list --migration 007 --environment production
        ↳ Everything about one migration

      confiture webhooks list --endpoint analytics --format json
        ↳ One endpoint's, for a script

    EXIT CODES:
      0  Listed, also when there is nothing to list.
      1  The outbox cannot be read.
      2  A filter is wrong: an unknown state or event type, no date, half a trace id.
      5  The configuration is invalid, or there is no endpoint of that name.
    """
    chosen = known(State, state, "--state")
    check_trace(trace, "--trace")
    kind, made_since = known(RECORDED, event_type, "--event-type"), instant(since, "--since")
    with opened(config, output) as context:
        check_endpoint(context, endpoint)
        there = "" if environment == NO_ENVIRONMENT else environment
        found = context.outbox.deliveries(
            state=chosen,
            endpoint=endpoint,
            event_type=kind,
            since=made_since,
            limit=limit,
            migration=migration,
            trace=trace,
            **({"environment": there} if there is not None else {}),
        )
        rows = documents(context, found)
    if is_json(output):
        print_json({"ok": True, "outbox": context.where, "deliveries": rows})
        return
    cells = list(map(_cells, rows))
    columns = [name for name in _COLUMNS if not rows or {row[name] for row in cells} != {"-"}]
    print_table(columns, ([row[name] for name in columns] for row in cells))
    if len(rows) == limit:
        say(f"The newest are listed, at most {limit}; --limit lists more")


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
        ↳ What a receiver has: the `webhook-id`. The beginning is enough if it names one event

    EXIT CODES:
      0  Shown.
      1  There is no such delivery, several begin so, or the outbox cannot be read.
      2  The id is empty.
      5  The configuration is invalid.
    """
    with opened(config, output) as context:
        outbox, rows = context.outbox, _sought(context, identifier)
        attempts_of = [outbox.attempts(row.delivery.id) for row in rows]
        found = list(zip(rows, documents(context, rows), attempts_of, strict=True))
    if is_json(output):
        wholes = [
            {
                **facts,
                **({"payload": payload} if (payload := _payload(row.delivery)) else {}),
                "trace_id": facts["correlation_id"],
                "timeline": list(map(_attempt, attempts)),
            }
            for row, facts, attempts in found
        ]
        print_json({"ok": True, **(wholes[0] if len(wholes) == 1 else {"deliveries": wholes})})
        return
    for index, (row, facts, attempts) in enumerate(found):
        if index:
            print()
        _show(row, facts, attempts)


def _show(row: Row, facts: dict[str, Any], attempts: Sequence[Attempt]) -> None:
    named = {**facts, "environment": shown_environment(row.delivery.environment)}
    named["trace_id"] = named.pop("correlation_id")
    named |= _of_body(row.delivery)
    print_facts(
        (key.replace("_", " "), "-" if value is None else str(value))
        for key, value in named.items()
    )
    print()
    made_at = row.delivery.created_at
    print_table(
        ("attempt", "after", "started", "took", "result"),
        (
            (
                str(attempt.number),
                f"+{age(made_at, attempt.started_at)}",
                rfc3339(attempt.started_at),
                milliseconds(attempt.duration),
                str(attempt.failure or attempt.status_code),
            )
            for attempt in attempts
        ),
    )


def _payload(delivery: Delivery | Unreadable) -> dict[str, Any] | None:
    """The body as the receiver has it, if it is of the default format."""
    try:
        found = json.loads(delivery.body)
    except (AttributeError, ValueError):
        return None
    is_ours = isinstance(found, dict) and found.get("event_id") == delivery.event_id
    return found if is_ours and "event_type" in found else None


def _of_body(delivery: Delivery | Unreadable) -> dict[str, str]:
    """What happened, where, and in which run, as far as the body says so."""
    payload = _payload(delivery) or {}
    error, database, run = (
        found if isinstance(found := payload.get(key), dict) else {}
        for key in ("error", "database", "run")
    )
    named = {
        "error": ": ".join(str(error[key]) for key in ("type", "message") if error.get(key)),
        "sqlstate": error.get("sqlstate"),
        "database": "/".join(str(database[key]) for key in ("host", "name") if database.get(key)),
        "command": run.get("command"),
        "CI run": run.get("url"),
    }
    return {name: str(value) for name, value in named.items() if value}


def _sought(context: Context, given: str) -> list[Row]:
    found = find(context.outbox, given)
    if found.is_ambiguous:
        problem = f"{len(found.ids)} ids begin with {given}. Give more characters"
        fail(problem, context.output, candidates=found.candidates())
    if not found.rows:
        if is_unsettled(context, given):
            problem = f"{given} is the event of a migration whose end is not known yet"
            fail(f"{problem}. See {shown('status')}", context.output)
        hints = (
            "Another --config may name another outbox",
            "A run whose outbox did not open sends from memory",
            f"Delivered ones are forgotten after {KEPT_FOR.days} days",
            "The log lines of the run have the event id and the trace id: search for either",
            f"List what is here: {shown('list')}",
        )
        fail(f"There is no delivery {given} in {context.where}", context.output, hints=hints)
    return list(found.rows)


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "started_at": rfc3339(attempt.started_at),
        "duration_ms": round(attempt.duration.total_seconds() * 1000, 1),
        "status_code": attempt.status_code,
        "error_type": attempt.failure,
    }
