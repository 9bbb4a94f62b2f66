"""``confiture webhooks list``, ``show``, ``status``, ``redeliver``, ``enable`` and ``deliver``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .cli_settings import (
    FAILED,
    ConfigOpt,
    FormatOpt,
    ask_of,
    is_json,
    print_json,
    settings_of,
    unsettled_rows,
)
from .deliver import deliver_due
from .delivery import State
from .errors import OutboxError
from .event import EventType, rfc3339
from .outbox import Outbox, Row
from .session import make_outbox

LIMIT = 100


def _say(text: str) -> None:
    Console(stderr=True, soft_wrap=True).print(escape(text))


def _fail(text: str) -> NoReturn:
    _say(text)
    raise typer.Exit(FAILED)


@contextmanager
def _outbox(config: Any, output: str) -> Iterator[Outbox]:
    settings = settings_of(config, output)
    try:
        outbox = make_outbox(settings, os.environ, _say)
    except OutboxError as error:
        _fail(str(error))
    try:
        yield outbox
    finally:
        outbox.close()


def _known(kind: type[Any], value: str | None, option: str) -> Any:
    if value is None:
        return None
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(member.value for member in kind)
        raise typer.BadParameter(f"{value!r} is not one of: {known}", param_hint=option) from None


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
    state: Annotated[str | None, typer.Option("--state", help="Only this state")] = None,
    endpoint: Annotated[str | None, typer.Option("--endpoint", help="Only this endpoint")] = None,
    event: Annotated[str | None, typer.Option("--event", help="Only this event type")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many")] = LIMIT,
    config: ConfigOpt = None,
    output: FormatOpt = "text",
) -> None:
    """List the outbox's deliveries, newest first.

    EXAMPLES:
      confiture webhooks list --state dead_letter
        ↳ What was given up

    EXIT CODES:
      0  Listed, also when there is nothing to list.
      5  The configuration is invalid.
    """
    chosen, kind = _known(State, state, "--state"), _known(EventType, event, "--event")
    with _outbox(config, output) as outbox:
        rows = [
            _document(row)
            for row in outbox.deliveries(
                state=chosen, endpoint=endpoint, event_type=kind, limit=limit
            )
        ]
    if is_json(output):
        print_json({"deliveries": rows})
        return
    table = Table("id", "event", "endpoint", "state", "attempts", "created", "next attempt")
    for row in rows:
        table.add_row(
            row["id"],
            row["event_type"],
            escape(row["endpoint"]),
            row["state"],
            str(row["attempts"]),
            row["created_at"],
            row["next_attempt_at"] or "-",
        )
    Console(soft_wrap=True).print(table)


def show(
    delivery_id: Annotated[str, typer.Argument(metavar="ID", help="The delivery's id")],
    config: ConfigOpt = None,
    output: FormatOpt = "text",
) -> None:
    """Show one delivery, its attempts, and the trace id to look it up by.

    EXIT CODES:
      0  Shown.
      1  There is no such delivery.
    """
    with _outbox(config, output) as outbox:
        row = outbox.find(delivery_id)
        attempts = [
            {
                "number": attempt.number,
                "started_at": rfc3339(attempt.started_at),
                "duration_ms": round(attempt.duration.total_seconds() * 1000, 1),
                "status_code": attempt.status_code,
                "error_type": attempt.failure,
            }
            for attempt in outbox.attempts(delivery_id)
        ]
    if row is None:
        _fail(f"There is no delivery {delivery_id}; confiture webhooks list shows which there are")
    document = {**_document(row), "timeline": attempts}
    if is_json(output):
        print_json(document)
        return
    console = Console(soft_wrap=True)
    for key, value in document.items():
        if key != "timeline":
            console.print(f"{key}: {escape(str(value))}")
    table = Table("attempt", "started", "took", "result")
    for attempt in attempts:
        result = attempt["error_type"] or attempt["status_code"]
        took = f"{attempt['duration_ms']:g} ms"
        table.add_row(str(attempt["number"]), str(attempt["started_at"]), took, str(result))
    console.print(table)


def status(config: ConfigOpt = None, output: FormatOpt = "text") -> None:
    """Count the outbox's deliveries; a check for monitoring.

    EXIT CODES:
      0  Nothing is dead, and no endpoint is off.
      1  Something is.
      5  The configuration is invalid.
    """
    with _outbox(config, output) as outbox:
        summary, off = outbox.summary(), outbox.disabled()
        unsettled = unsettled_rows(outbox.intents(), config)
    document = {
        "counts": {state.value: summary.counts.get(state, 0) for state in State},
        "undelivered": dict(summary.undelivered),
        "oldest_at": rfc3339(summary.oldest_at) if summary.oldest_at else None,
        "endpoints_off": {name: rfc3339(at) for name, at in off.items()},
        "unsettled": len(unsettled),
    }
    is_well = not summary.counts.get(State.DEAD_LETTER) and not off
    if is_json(output):
        print_json({"ok": is_well, **document, "intents": unsettled})
    else:
        console = Console(soft_wrap=True)
        for key, value in document.items():
            shown = (
                ", ".join(f"{k} {v}" for k, v in value.items())
                if isinstance(value, dict)
                else value
            )
            console.print(f"{key}: {escape(str(shown or '-'))}")
        for row in unsettled:
            console.print(f"  {escape(row['migration'])} since {row['since']}: {row['why']}")
    if not is_well:
        raise typer.Exit(FAILED)


def redeliver(
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Deliveries")] = None,
    dead: Annotated[bool, typer.Option("--dead", help="Every dead letter")] = False,  # noqa: FBT002
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", help="With --dead: only this endpoint's")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")] = False,  # noqa: FBT002
    config: ConfigOpt = None,
) -> None:
    """Give deliveries a second chance: new attempts, the same event id.

    EXAMPLES:
      confiture webhooks redeliver --dead --endpoint analytics
        ↳ Every dead letter of one endpoint, after a question

    EXIT CODES:
      0  They are due now; `confiture webhooks deliver` makes them.
      1  One of the ids is none that can be redelivered, or the answer was no.
    """
    if bool(ids) is dead:
        raise typer.BadParameter("give ids, or --dead", param_hint="ID")
    with _outbox(config, "text") as outbox:
        chosen = list(ids or ())
        if dead:
            rows = outbox.deliveries(state=State.DEAD_LETTER, endpoint=endpoint, limit=1_000_000)
            chosen = [row.delivery.id for row in reversed(rows)]
            if chosen and not yes and not typer.confirm(f"Redeliver {len(chosen)} dead letters?"):
                raise typer.Exit(FAILED)
        now = datetime.now(UTC)
        refused = [one for one in chosen if not outbox.redeliver(one, now=now)]
    _say(f"{len(chosen) - len(refused)} due now; confiture webhooks deliver makes them")
    if refused:
        _fail(f"Not to be redelivered (unknown, or still pending): {', '.join(refused)}")


def enable(
    name: Annotated[str, typer.Argument(help="The endpoint's name")], config: ConfigOpt = None
) -> None:
    """Switch an endpoint on again that answered 410.

    EXIT CODES:
      0  It is on.
      1  It was not off.
    """
    with _outbox(config, "text") as outbox:
        if not outbox.enable(name):
            _fail(f"Endpoint {name} is not off")
    _say(f"Endpoint {name} is on; its deliveries go out again")


def deliver(config: ConfigOpt = None, output: FormatOpt = "text") -> None:
    """Make every delivery that is due now, once.

    EXAMPLES:
      confiture webhooks deliver
        ↳ After a run that left deliveries behind; or from a cron job

    EXIT CODES:
      0  Whatever was due has been delivered.
      1  Something failed; it is put off on its schedule, or dead.
      5  The configuration is invalid.
    """
    settings = settings_of(config, output, is_sending=True)
    try:
        result = deliver_due(settings, os.environ, ask_of(config))
    except OutboxError as error:
        _fail(str(error))
    if is_json(output):
        print_json(
            {
                "ok": result.is_clean,
                "delivered": result.delivered,
                "dead_letter": result.dead,
                "left": result.left,
                "failures": dict(result.failures),
            }
        )
    else:
        failed = "".join(f"; {name}: {why}" for name, why in result.failures.items())
        _say(
            f"{result.delivered} delivered, {result.dead} given up, {result.left} left for later"
            f"{failed}"
        )
    if not result.is_clean:
        raise typer.Exit(FAILED)
