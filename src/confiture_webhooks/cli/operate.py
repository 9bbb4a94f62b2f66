"""``confiture webhooks redeliver``, ``discard`` and ``enable``: the operator's second chance."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from ..delivery import State
from ..errors import Fault
from ..wording import counted
from .options import ConfigOpt
from .output import FAILED, fail, refuse, say
from .project import check_endpoint, opened
from .unsettled import forget, runs, told_unsettled, unsettled

if TYPE_CHECKING:
    from ..outbox import Outbox, Row
    from ..run.settler import Judged

PAGE = 500
"""So many are read at once: a year of dead letters fits into no memory."""
EVERY = 100_000
AGAIN = ": new attempts, the same webhook-id"


def redeliver(
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Deliveries")] = None,
    dead: Annotated[bool, typer.Option("--dead", help="Every dead letter")] = False,  # noqa: FBT002
    pending: Annotated[  # noqa: FBT002
        bool, typer.Option("--pending", help="Everything that waits for its next attempt")
    ] = False,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", help="With --dead, --pending: only this endpoint's")
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

      confiture webhooks redeliver --pending --yes
        ↳ What waits for its next attempt, now instead

      confiture webhooks redeliver dlv_4bf92f35 --yes
        ↳ One, also if it was delivered, from a script

    EXIT CODES:
      0  They are due now, or there was none.
      1  An id is none that can be redelivered, the answer was no, or nobody could be asked.
      2  Not exactly one of ids, --dead and --pending.
      5  The configuration is invalid, or there is no endpoint of that name.
    """
    if (bool(ids), dead, pending).count(True) != 1:
        raise typer.BadParameter("give ids, --dead or --pending", param_hint="ID")
    if endpoint is not None and ids:
        raise typer.BadParameter("goes with --dead or --pending", param_hint="--endpoint")
    with opened(config, "text") as (settings, outbox):
        check_endpoint(settings, outbox, endpoint, "text")
        now = datetime.now(UTC)
        what = f"Redeliver {{}}{AGAIN}"
        if ids:
            rows = _named(outbox, ids, lambda row: row.state is State.IN_FLIGHT)
            _agree(what.format(_told(rows)), yes=yes)
            done = sum(outbox.redeliver(row.delivery.id, now=now) for row in rows)
        else:
            state = State.DEAD_LETTER if dead else State.PENDING
            done = _all(outbox, state, endpoint, now=now, yes=yes)
    makes = f"; confiture webhooks deliver makes {_them(done)}"
    print(f"{_deliveries(done)} due now{makes}" if done else "Nothing to redeliver")


def discard(
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID", help="Deliveries, or events of runs that stay unsettled"),
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", help="Everything undelivered to this endpoint")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")] = False,  # noqa: FBT002
    config: ConfigOpt = None,
) -> None:
    """Drop deliveries, or killed runs that nobody can settle: nothing is left of them.

    PROCESS:
      Says what it will do and asks, unless --yes. For an endpoint that was renamed or removed, and
      for a database that is gone: how its killed migrations ended will never be known, and
      `confiture webhooks status` shows them, with the ids of their events.

    EXAMPLES:
      confiture webhooks discard --endpoint former
        ↳ What waits, is dead or gone of an endpoint, of every environment

      confiture webhooks discard evt_4bf92f3577b34da6
        ↳ A killed run that stays unsettled: nobody is told how it ended

    EXIT CODES:
      0  They are forgotten, or there was none.
      1  An id is unknown, in flight or can be settled, the answer was no, or nobody could be asked.
      2  Neither ids nor --endpoint, or both.
      5  The configuration is invalid, or there is no endpoint of that name.
    """
    if bool(ids) is (endpoint is not None):
        raise typer.BadParameter("give ids, or --endpoint", param_hint="ID")
    with opened(config, "text") as (settings, outbox):
        check_endpoint(settings, outbox, endpoint, "text")
        killed: Judged = []
        if ids:
            killed = unsettled(settings, outbox, ids, config)
            events = {intent.event_id for intent, _ in killed}
            rows = _named(outbox, [one for one in ids if one not in events], lambda _: False)
        else:
            rows = [
                row
                for state in State
                if state is not State.DELIVERED
                for row in outbox.deliveries(state=state, endpoint=endpoint, limit=EVERY)
            ]
        plan = [f"Discard {_told(rows)}: nobody will make {_them(len(rows))}"] if rows else []
        plan += [f"Discard {told_unsettled(killed)}: nobody will be told"] if killed else []
        if plan:
            _agree(". ".join(plan), yes=yes)
        now = datetime.now(UTC)
        done = sum(outbox.discard(row.delivery.id, now=now) for row in rows)
        forget(settings, outbox, killed)
    gone = [_deliveries(done)] if done else []
    gone += [runs(len(killed))] if killed else []
    print(f"{' and '.join(gone)} discarded" if gone else "Nothing to discard")
    if done < len(rows):
        fail(f"{_deliveries(len(rows) - done)} under way: not discarded")


def _named(outbox: Outbox, ids: list[str], is_refused: Callable[[Row], bool]) -> list[Row]:
    found = {one: outbox.find(one) for one in dict.fromkeys(ids)}
    refused = [
        f"{one} ({'unknown' if row is None else 'in flight'})"
        for one, row in found.items()
        if row is None or is_refused(row)
    ]
    if refused:
        fail(f"Not possible: {', '.join(refused)}. Nothing was changed")
    return [row for row in found.values() if row is not None]


def _told(rows: Sequence[Row]) -> str:
    where = Counter((row.delivery.endpoint, row.state.value) for row in rows)
    parts = ", ".join(f"{count} {state} to {name}" for (name, state), count in where.items())
    return f"{_deliveries(len(rows))} ({parts})"


def _all(outbox: Outbox, state: State, endpoint: str | None, *, now: datetime, yes: bool) -> int:
    """Redeliver everything in *state*; how many were."""
    first = outbox.deliveries(state=state, endpoint=endpoint, limit=PAGE)
    if not first:
        return 0
    total = outbox.summary().counts.get(state, 0)
    is_all = endpoint is None
    count = _deliveries(total if is_all else len(first))
    more = "" if is_all or len(first) < PAGE else " or more"
    where = "" if is_all else f" to {endpoint}"
    what = "dead letter" if state is State.DEAD_LETTER else "delivery that waits"
    _agree(f"Redeliver every {what}{where}: {count}{more}{AGAIN}", yes=yes)
    if state is State.PENDING:  # they stay pending: no page of them follows another
        rows = outbox.deliveries(state=state, endpoint=endpoint, limit=EVERY)
        return sum(outbox.redeliver(row.delivery.id, now=now) for row in rows)
    done, page = 0, first
    # At most as many as there were: what a worker gives up meanwhile is not tried for ever.
    while page and done < total:
        changed = sum(outbox.redeliver(row.delivery.id, now=now) for row in page)
        if not changed:
            break
        done += changed
        page = outbox.deliveries(state=state, endpoint=endpoint, limit=PAGE)
    return done


def _deliveries(count: int) -> str:
    return counted(count, "delivery", "deliveries")


def _them(count: int) -> str:
    return "it" if count == 1 else "them"


def _agree(what: str, *, yes: bool) -> None:
    """Say what will be done, and end the command unless somebody agrees."""
    say(f"{what}.")
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
        is_known = name in [endpoint.name for endpoint in settings.endpoints]
        if not is_known and name not in outbox.disabled(settings.environment):
            names = ", ".join(endpoint.name for endpoint in settings.endpoints)
            problem = f"no endpoint called {name!r} is configured"
            refuse([Fault("NAME", problem, f"One of: {names}")], "text")
        if not outbox.enable(name, settings.environment):
            fail(f"Endpoint {name} is not off")
        gone = [
            row.delivery.id
            for row in outbox.deliveries(state=State.GONE, endpoint=name)
            if row.delivery.environment == settings.environment
        ]
    print(f"Endpoint {name} is on; what waits for it goes out again")
    if gone:
        print(f"Not what it answered 410: confiture webhooks redeliver {' '.join(gone)}")
