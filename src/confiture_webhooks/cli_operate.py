"""``confiture webhooks redeliver`` and ``enable``: the operator's second chance."""

from __future__ import annotations

import sys
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from .cli_outbox import check_endpoint, fail, opened, say
from .cli_settings import FAILED, ConfigOpt
from .delivery import State

if TYPE_CHECKING:
    from .outbox import Outbox, Row

PAGE = 500
"""So many are read at once: a year of dead letters fits into no memory."""
_UNFINISHED = (State.PENDING, State.IN_FLIGHT)


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

    PROCESS:
      Says what it will do and asks, unless --yes. They are due at once; the next
      `confiture migrate` command or `confiture webhooks deliver` makes them.

    EXAMPLES:
      confiture webhooks redeliver --dead --endpoint analytics
        ↳ Every dead letter of one endpoint, after a question

      confiture webhooks redeliver dlv_4bf92f35 --yes
        ↳ One, also if it was delivered, from a script

    EXIT CODES:
      0  They are due now, or there was none.
      1  An id is none that can be redelivered, the answer was no, or nobody could be asked.
      2  Neither ids nor --dead, or both.
      5  The configuration is invalid, or there is no endpoint of that name.
    """
    if bool(ids) is dead:
        raise typer.BadParameter("give ids, or --dead", param_hint="ID")
    if endpoint is not None and not dead:
        raise typer.BadParameter("goes with --dead", param_hint="--endpoint")
    with opened(config, "text") as (settings, outbox):
        check_endpoint(settings, outbox, endpoint, "text")
        done = _dead(outbox, endpoint, yes=yes) if dead else _named(outbox, ids or [], yes=yes)
    say(f"{_deliveries(done)} due now; confiture webhooks deliver makes them")


def _named(outbox: Outbox, ids: list[str], *, yes: bool) -> int:
    found = {one: outbox.find(one) for one in dict.fromkeys(ids)}
    refused = [f"{one} ({_why_not(row)})" for one, row in found.items() if _why_not(row)]
    if refused:
        fail(f"Not to be redelivered: {', '.join(refused)}. Nothing was changed")
    rows = [row for row in found.values() if row is not None]
    where = Counter((row.delivery.endpoint, row.state.value) for row in rows)
    parts = ", ".join(f"{count} {state} to {name}" for (name, state), count in where.items())
    _agree(f"Redeliver {_deliveries(len(rows))} ({parts})", yes=yes)
    now = datetime.now(UTC)
    return sum(outbox.redeliver(row.delivery.id, now=now) for row in rows)


def _dead(outbox: Outbox, endpoint: str | None, *, yes: bool) -> int:
    first = outbox.deliveries(state=State.DEAD_LETTER, endpoint=endpoint, limit=PAGE)
    if not first:
        return 0
    total = outbox.summary().counts.get(State.DEAD_LETTER, 0)
    is_all = endpoint is None
    count = _deliveries(total if is_all else len(first))
    more = "" if is_all or len(first) < PAGE else " or more"
    where = "" if is_all else f" to {endpoint}"
    _agree(f"Redeliver every dead letter{where}: {count}{more}", yes=yes)
    now, done, page = datetime.now(UTC), 0, first
    # At most as many as there were: what a worker gives up meanwhile is not tried for ever.
    while page and done < total:
        changed = sum(outbox.redeliver(row.delivery.id, now=now) for row in page)
        if not changed:
            break
        done += changed
        page = outbox.deliveries(state=State.DEAD_LETTER, endpoint=endpoint, limit=PAGE)
    return done


def _why_not(row: Row | None) -> str | None:
    if row is None:
        return "unknown"
    return f"still {row.state.value.replace('_', ' ')}" if row.state in _UNFINISHED else None


def _deliveries(count: int) -> str:
    return "1 delivery" if count == 1 else f"{count} deliveries"


def _agree(what: str, *, yes: bool) -> None:
    """Say what will be done, and end the command unless somebody agrees."""
    say(f"{what}: new attempts, the same webhook-id.")
    if yes:
        return
    if not sys.stdin.isatty():
        fail("Nobody can be asked here: this is not a terminal. Add --yes to do it")
    if not typer.confirm("Go on?", err=True):
        say("Nothing was changed")
        raise typer.Exit(FAILED)


def enable(
    name: Annotated[str, typer.Argument(help="The endpoint's name")], config: ConfigOpt = None
) -> None:
    """Switch an endpoint on again that answered 410.

    EXIT CODES:
      0  It is on.
      1  It was not off.
      5  The configuration is invalid, or there is no endpoint of that name.
    """
    with opened(config, "text") as (settings, outbox):
        check_endpoint(settings, outbox, name, "text")
        if not outbox.enable(name, settings.environment):
            fail(f"Endpoint {name} is not off")
    say(f"Endpoint {name} is on; its deliveries go out again")
