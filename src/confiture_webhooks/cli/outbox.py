"""``confiture webhooks list``, ``show`` and ``status``: what is in the outbox."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from ..delivery import Attempt, State
from ..doctor.standing import UNSETTLED_FOR, stuck
from ..errors import Fault, OutboxError
from ..event import EventType, rfc3339
from ..outbox import Summary
from ..run.summary import by_environment, elsewhere, listed
from ..wiring import operators_outbox
from .settings import (
    FAILED,
    ConfigOpt,
    FormatOpt,
    is_json,
    print_json,
    refuse,
    settings_of,
    unsettled_rows,
)
from .since import since as instant_of
from .tables import age, length, print_facts, print_table

if TYPE_CHECKING:
    from ..config import Settings
    from ..outbox import Outbox, Row

LIMIT = 100
LATE = timedelta(minutes=15)


SEARCHED = 10_000
"""Among so many of the newest the beginning of an id is looked for."""


def say(text: str, style: str | None = None) -> None:
    """A line for people, on stderr."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(escape(text), style=style)


def fail(text: str, output: str = "text") -> NoReturn:
    """A line for people, or a document for programs, and the end of the command."""
    if is_json(output):
        print_json({"ok": False, "error": text})
    else:
        say(f"❌ {text}", style="red")
    raise typer.Exit(FAILED)


@contextmanager
def opened(config: Any, output: str) -> Iterator[tuple[Settings, Outbox]]:
    """The settings and the outbox they name; whatever it refuses ends the command in a line."""
    settings = settings_of(config, output)
    try:
        outbox = operators_outbox(settings, os.environ, notice=say)
        try:
            yield settings, outbox
        finally:
            outbox.close()
    except OutboxError as error:
        fail(str(error), output)


def check_endpoint(settings: Settings, outbox: Outbox, name: str | None, output: str) -> None:
    """End the command unless *name* is an endpoint's, configured or only in the outbox."""
    names = [endpoint.name for endpoint in settings.endpoints]
    if name is None or name in names or outbox.deliveries(endpoint=name, limit=1):
        return
    known = f"One of: {', '.join(names)}"
    refuse([Fault("endpoint", f"no endpoint is called {name!r}", known)], output)


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
    row = outbox.find(given)
    if row is not None:
        return row
    found = [row for row in outbox.deliveries(limit=SEARCHED) if row.delivery.id.startswith(given)]
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


def status(config: ConfigOpt = None, output: FormatOpt = "text") -> None:
    """Count the deliveries of the environment in the outbox; a check for monitoring.

    Dead is what was given up, and what a 410 ended: until it is redelivered or discarded.
    Stuck is what nobody will deliver: an endpoint that is off, or no longer configured; what
    has been due for a quarter of an hour without a worker; a run that a day could not settle.

    EXIT CODES:
      0  Nothing is dead or stuck.
      1  Something is, or the outbox cannot be read.
      5  The configuration is invalid.
    """
    now = datetime.now(UTC)
    with opened(config, output) as (settings, outbox):
        environment, summaries = settings.environment, outbox.summaries()
        summary = summaries.get(environment, Summary())
        off = outbox.disabled(environment)
        intents = [one for one in outbox.intents() if one.environment == environment]
        names = [endpoint.name for endpoint in settings.endpoints]
        due = {name: outbox.next_due_at(name, environment) for name in names}
    late = {name: at for name, at in due.items() if at is not None and at < now - LATE}
    # Not of what is new: between two looks it may have been delivered.
    is_old = summary.oldest_at is not None and summary.oldest_at < now - LATE
    unqueued = [name for name, at in due.items() if at is None] if is_old else []
    unsettled = unsettled_rows(intents, config)
    others = elsewhere(summaries, environment)
    reasons = stuck(summary, names, off=off, late=late, unqueued=unqueued)
    old = sum(1 for intent in intents if intent.staged_at < now - UNSETTLED_FOR)
    if old:
        reasons["unsettled"] = f"{old} for more than {length(UNSETTLED_FOR)}"
    is_dead = any(summary.counts.get(state) for state in (State.DEAD_LETTER, State.GONE))
    is_well = not is_dead and not reasons
    counts = {state.value: summary.counts.get(state, 0) for state in State}
    if is_json(output):
        oldest_at = summary.oldest_at
        document = {
            "ok": is_well,
            "counts": counts,
            "environment": environment,
            "undelivered": dict(summary.undelivered),
            "elsewhere": by_environment(others),
            "oldest_at": rfc3339(oldest_at) if oldest_at else None,
            "oldest_age_s": round((now - oldest_at).total_seconds(), 1) if oldest_at else None,
            "endpoints_off": {name: rfc3339(at) for name, at in off.items()},
            "unsettled": len(unsettled),
            "intents": unsettled,
            "stuck": reasons,
        }
        print_json(document)
    else:
        undelivered = ", ".join(f"{name} {count}" for name, count in summary.undelivered.items())
        remedy = f"{listed(others)} (--config of that environment delivers them)"
        print_facts(
            [
                ("environment", environment or "-"),
                *((state.replace("_", " "), str(count)) for state, count in counts.items()),
                ("undelivered", undelivered or "-"),
                *([("elsewhere", remedy)] if others else []),
                ("oldest", f"{age(summary.oldest_at, now)} ago" if summary.oldest_at else "-"),
                ("endpoints off", ", ".join(off) or "-"),
                ("unsettled", str(len(unsettled))),
                ("stuck", "; ".join(f"{name}: {why}" for name, why in reasons.items()) or "-"),
            ]
        )
        for row in unsettled:
            console = Console(soft_wrap=True, highlight=False)
            told = f"{row['event_id']}  {row['migration']} since {row['since']}: {row['why']}"
            console.print(f"  {escape(told)}")
    if not is_well:
        raise typer.Exit(FAILED)
