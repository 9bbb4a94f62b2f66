"""``confiture webhooks redeliver``, ``discard`` and ``enable``: the operator's second chance."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from ..delivery import State
from ..errors import Fault
from ..outbox import Summary
from ..run.summary import UNKNOWN, barred_line
from ..terminal import counted
from .options import ConfigOpt, FormatOpt, YesOpt, is_json
from .output import FAILED, fail, print_json, refuse, say
from .project import check_endpoint, opened, rows_called
from .prospect import Place, prospect_of
from .unsettled import forget, runs, told_unsettled, unsettled

if TYPE_CHECKING:
    from ..outbox import Outbox, Row
    from ..run.settler import Judged

PAGE = 500
"""So many are read at once: a year of dead letters fits into no memory."""
EVERY = 100_000
SHORTEST = len("dlv_") + 8
"""So much of an id names a delivery that is to be changed, or all of it."""
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
    yes: YesOpt = False,  # noqa: FBT002
    config: ConfigOpt = None,
    output: FormatOpt = "text",
) -> None:
    """Give deliveries a second chance: new attempts, the same event id.

    PROCESS:
      Says what it will do and asks, unless --yes. They are due at once; the next
      `confiture migrate` command or `confiture webhooks deliver` makes them. Those of an
      endpoint that is off, or is no longer configured, wait until that is changed.

    EXAMPLES:
      confiture webhooks redeliver --dead --endpoint analytics
        ↳ Every dead letter of one endpoint, after a question

      confiture webhooks redeliver --pending --yes
        ↳ What waits for its next attempt, now instead

      confiture webhooks redeliver dlv_4bf92f35 --yes
        ↳ One, also if it was delivered, from a script

    EXIT CODES:
      0  They have new attempts, or there was none.
      1  An id is none that can be redelivered, the answer was no, or nobody could be asked.
      2  Not exactly one of ids, --dead and --pending.
      5  The configuration is invalid, or there is no endpoint of that name.
    """
    if (bool(ids), dead, pending).count(True) != 1:
        raise typer.BadParameter("give ids, --dead or --pending", param_hint="ID")
    if endpoint is not None and ids:
        raise typer.BadParameter("goes with --dead or --pending", param_hint="--endpoint")
    with opened(config, output) as (settings, outbox):
        check_endpoint(settings, outbox, endpoint, output)
        agree = partial(_agree, yes=yes, output=output)
        if ids:
            rows = _named(outbox, ids, lambda row: row.state is State.IN_FLIGHT, output)
            agree(f"Redeliver {_told(rows)}{AGAIN}")
            done = _again(outbox, rows)
        else:
            state = State.DEAD_LETTER if dead else State.PENDING
            done = _all(outbox, state, endpoint, agree)
        prospect = prospect_of(settings, outbox, done)
    if is_json(output):
        print_json({"ok": True, "redelivered": done.total(), **prospect.as_dict()})
        return
    for line in prospect.lines() or ["Nothing to redeliver"]:
        print(line)


def discard(
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID", help="Deliveries, or events of runs that stay unsettled"),
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", help="Everything undelivered to this endpoint")
    ] = None,
    yes: YesOpt = False,  # noqa: FBT002
    config: ConfigOpt = None,
    output: FormatOpt = "text",
) -> None:
    """Drop deliveries, or killed runs that nobody can settle: nothing is left of them.

    PROCESS:
      Says what it will do and asks, unless --yes. For an endpoint that was renamed or removed, and
      for a database that is gone: how its killed migrations ended will never be known, and
      `confiture webhooks status` shows them, with the ids of their events.

    EXAMPLES:
      confiture webhooks discard --endpoint former
        ↳ What waits, is dead or gone of an endpoint, of every environment

      confiture webhooks discard evt_4bf92f3577b34da6a3ce929d0e0e4736
        ↳ A killed run that stays unsettled: nobody is told how it ended

    EXIT CODES:
      0  They are forgotten, or there was none.
      1  An id is unknown, in flight or can be settled, the answer was no, or nobody could be asked.
      2  Neither ids nor --endpoint, or both.
      5  The configuration is invalid, or there is no endpoint of that name.
    """
    if bool(ids) is (endpoint is not None):
        raise typer.BadParameter("give ids, or --endpoint", param_hint="ID")
    with opened(config, output) as (settings, outbox):
        check_endpoint(settings, outbox, endpoint, output)
        killed: Judged = []
        if ids:
            killed = unsettled(settings, outbox, ids, config, output)
            events = {intent.event_id for intent, _ in killed}
            others = [one for one in ids if one not in events]
            rows = _named(outbox, others, lambda _: False, output)
        else:
            rows = [
                row
                for state in State
                if state is not State.DELIVERED
                for row in outbox.deliveries(state=state, endpoint=endpoint, limit=EVERY)
            ]
        plan = [f"Discard {_told(rows)}: nothing is left of {_them(len(rows))}"] if rows else []
        plan += [f"Discard {told_unsettled(killed)}: nobody will be told"] if killed else []
        if plan:
            _agree(". ".join(plan), yes=yes, output=output)
        now = datetime.now(UTC)
        done = sum(outbox.discard(row.delivery.id, now=now) for row in rows)
        forget(settings, outbox, killed)
    left = len(rows) - done
    if is_json(output):
        print_json({"ok": not left, "discarded": done, "unsettled": len(killed), "under_way": left})
    else:
        gone = [_deliveries(done)] if done else []
        gone += [runs(len(killed))] if killed else []
        print(f"{' and '.join(gone)} discarded" if gone else "Nothing to discard")
        if left:
            say(f"❌ {_deliveries(left)} under way: not discarded", style="red")
    if left:
        raise typer.Exit(FAILED)


def _named(
    outbox: Outbox, ids: list[str], is_refused: Callable[[Row], bool], output: str
) -> list[Row]:
    """The deliveries called *ids*, or the end of the command if one of them is not to be had."""
    rows: dict[str, Row] = {}
    refused = []
    for one in ids:
        found = rows_called(outbox, one)
        if len(one) < SHORTEST:  # a slip of the pen, if it is no whole id
            found = [row for row in found if row.delivery.id == one]
        if len(found) == 1 and not is_refused(found[0]):
            rows[found[0].delivery.id] = found[0]
        elif len(found) > 1:
            refused.append(f"{one} (the beginning of {len(found)})")
        else:
            refused.append(f"{one} ({'in flight' if found else 'unknown'})")
    if refused:
        fail(f"Not possible: {', '.join(refused)}. Nothing was changed", output)
    return list(rows.values())


def _again(outbox: Outbox, rows: Sequence[Row]) -> Counter[Place]:
    """Redeliver *rows*; how many were, by endpoint and environment."""
    now = datetime.now(UTC)
    return Counter(
        (row.delivery.endpoint, row.delivery.environment)
        for row in rows
        if outbox.redeliver(row.delivery.id, now=now)
    )


def _told(rows: Sequence[Row]) -> str:
    where = Counter((row.delivery.endpoint, row.state.value) for row in rows)
    parts = ", ".join(f"{count} {state} to {name}" for (name, state), count in where.items())
    return f"{_deliveries(len(rows))} ({parts})"


def _all(
    outbox: Outbox, state: State, endpoint: str | None, agree: Callable[[str], None]
) -> Counter[Place]:
    """Redeliver everything in *state*; how many were, by endpoint and environment."""
    done: Counter[Place] = Counter()
    first = outbox.deliveries(state=state, endpoint=endpoint, limit=PAGE)
    if not first:
        return done
    total = outbox.summary().counts.get(state, 0)
    is_all = endpoint is None
    count = _deliveries(total if is_all else len(first))
    more = "" if is_all or len(first) < PAGE else " or more"
    where = "" if is_all else f" to {endpoint}"
    what = "dead letter" if state is State.DEAD_LETTER else "delivery that waits"
    agree(f"Redeliver every {what}{where}: {count}{more}{AGAIN}")
    if state is State.PENDING:  # they stay pending: no page of them follows another
        rows = outbox.deliveries(state=state, endpoint=endpoint, limit=EVERY)
        return _again(outbox, rows)
    page = first
    # At most as many as there were: what a worker gives up meanwhile is not tried for ever.
    while page and done.total() < total:
        changed = _again(outbox, page)
        if not changed:
            break
        done += changed
        page = outbox.deliveries(state=state, endpoint=endpoint, limit=PAGE)
    return done


def _deliveries(count: int) -> str:
    return counted(count, "delivery", "deliveries")


def _them(count: int) -> str:
    return "it" if count == 1 else "them"


def _agree(what: str, *, yes: bool, output: str) -> None:
    """Say what will be done, and end the command unless somebody agrees."""
    say(f"{what}.")
    if yes:
        return
    if not sys.stdin.isatty():
        fail("Nobody can be asked here: this is not a terminal. Add --yes to do it", output)
    if not typer.confirm("Go on?", err=True):
        fail("Nothing was changed", output)


def enable(
    name: Annotated[str, typer.Argument(help="The endpoint's name")],
    config: ConfigOpt = None,
    output: FormatOpt = "text",
) -> None:
    """Switch an endpoint on again that answered 410.

    EXAMPLES:
      confiture webhooks enable analytics
        ↳ What waits for it goes out with the next `confiture webhooks deliver`

    EXIT CODES:
      0  It is on.
      1  It was not off.
      5  The configuration is invalid, or there is no endpoint of that name.
    """
    with opened(config, output) as (settings, outbox):
        is_known = name in [endpoint.name for endpoint in settings.endpoints]
        if not is_known and name not in outbox.disabled(settings.environment):
            names = ", ".join(endpoint.name for endpoint in settings.endpoints)
            problem = f"no endpoint called {name!r} is configured"
            refuse([Fault("NAME", problem, f"One of: {names}")], output)
        if not outbox.enable(name, settings.environment):
            fail(f"Endpoint {name} is not off", output)
        summary = outbox.summaries().get(settings.environment, Summary())
        waiting = summary.undelivered.get(name, 0)
        gone = [
            row.delivery.id
            for row in outbox.deliveries(state=State.GONE, endpoint=name)
            if row.delivery.environment == settings.environment
        ]
    if is_json(output):
        print_json({"ok": True, "endpoint": name, "waiting": waiting, "gone": gone})
        return
    print(f"Endpoint {name} is on")
    if waiting and is_known:
        print(f"Waiting for it: {waiting}; confiture webhooks deliver makes what is due of that")
    elif waiting:
        print(barred_line(name, UNKNOWN))
    if gone:
        print(f"Not what it answered 410: confiture webhooks redeliver {' '.join(gone)}")
