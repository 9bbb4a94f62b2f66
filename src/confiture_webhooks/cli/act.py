"""``confiture webhooks redeliver``, ``discard``, ``enable`` and ``disable``: the second chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..delivery import State
from ..outlook import (
    again_lines,
    by_environment,
    elsewhere,
    elsewhere_line,
    listed,
    shown_environment,
)
from ..remedy import shown, shown_for
from ..terminal import counted, say
from .context import Context, opened
from .look import SHORTEST, check_endpoint, find, is_short, is_unsettled
from .options import ConfigOpt, EverywhereOpt, FormatOpt, YesOpt, is_json, not_empty
from .send import send_now
from .status import described, forget, runs, unsettled
from .tables import agree, conclude, fail, line

if TYPE_CHECKING:
    from ..outbox import Row
    from ..outlook import Standing
    from ..run.settling import Judged

EVERY = 10_000
"""So many are read at once: a year of dead letters fits into no memory."""
MOST_EVENTS = 5
"""A question names so many events."""
_KINDS = {
    State.DEAD_LETTER: ("dead letter", "dead letters"),
    State.PENDING: ("waiting delivery", "waiting deliveries"),
    State.GONE: ("delivery answered with 410", "deliveries answered with 410"),
}


def redeliver(
    ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ID",
            callback=not_empty,
            help=f"Ids of deliveries, events or traces, or beginnings of {SHORTEST} characters",
        ),
    ] = None,
    dead: Annotated[bool, typer.Option("--dead", help="Every dead letter")] = False,
    pending: Annotated[
        bool, typer.Option("--pending", help="Everything that waits for its next attempt")
    ] = False,
    gone: Annotated[
        bool, typer.Option("--gone", help="Everything that was answered with 410")
    ] = False,
    endpoint: Annotated[
        str | None,
        typer.Option("--endpoint", help="Only the deliveries to this endpoint"),
    ] = None,
    later: Annotated[
        bool, typer.Option("--later", help="Only make them due; the next worker sends them")
    ] = False,
    everywhere: EverywhereOpt = False,
    yes: YesOpt = False,
    config: ConfigOpt = None,
    output: FormatOpt = "text",
) -> None:
    """Send deliveries again: new attempts, the same event id.

    PROCESS:
      Says what it is about to do and asks, unless --yes. It acts on the environment of --config,
      and sends at once. Deliveries of an endpoint that is off or not configured wait until that is
      changed; those of other environments wait for their own worker.

    EXAMPLES:
      confiture webhooks redeliver --dead --endpoint analytics
        ↳ Every dead letter of one endpoint, after a question

      confiture webhooks redeliver evt_4bf92f35 --yes
        ↳ One event, also if it was delivered, from a script

      confiture webhooks redeliver --pending --later --yes
        ↳ Make everything that waits due now, for a worker that runs

    EXIT CODES:
      0  They were delivered, or made due with --later, or there was none.
      1  A delivery failed or waits in vain, an id cannot be redelivered, or the answer was no.
      2  Not exactly one of ids, --dead, --pending and --gone; or an id is empty.
      5  The configuration is invalid, or there is no endpoint of that name.
    """
    chosen = {State.DEAD_LETTER: dead, State.PENDING: pending, State.GONE: gone}
    states = [state for state, is_chosen in chosen.items() if is_chosen]
    if len(states) + bool(ids) != 1:
        reason = "give ids, or only one of --dead, --pending and --gone"
        raise typer.BadParameter(reason, param_hint="ID")
    with opened(config, output, is_sending=not later) as context:
        check_endpoint(context, endpoint)
        if ids:
            rows = _named(context, "redeliver", ids, endpoint=endpoint, everywhere=everywhere)
            what = f"{_deliveries(len(rows))} of {_events(rows)}"
        else:
            rows = _all(context, states, endpoint, everywhere=everywhere)
            what = counted(len(rows), *_KINDS[states[0]])
        nothing = _nothing(context, "redeliver", states, endpoint) if not rows else ""
        if rows:
            agree(f"Redeliver {what}: {_where(rows)}", yes=yes, output=output)
        now = datetime.now(UTC)
        done = [row for row in rows if context.outbox.redeliver(row.delivery.id, now=now)]
        standing = context.outbox.standing(context.environment)
    if not is_json(output):
        again = f"{_deliveries(len(done))} due again: {_where(done)}"
        line(again if done else nothing)
    _send(context, done, standing, is_later=later)


def _send(
    context: Context, rows: Sequence[Row], standing: Mapping[str, Standing], *, is_later: bool
) -> None:
    """Send those of *rows* that are sent from here, or say how; end with the exit code of that."""
    own = [row.delivery for row in rows if row.delivery.environment == context.environment]
    mine = Counter(one.endpoint for one in own)
    waits = context.outlook(mine, standing, datetime.now(UTC))
    names = sorted(mine.keys() - {wait.endpoint for wait in waits})
    others = elsewhere(_environments(rows), context.environment)
    document: dict[str, Any] = {"ok": True}
    if names and not is_later:
        document = send_now(context, names)
    document |= {
        "ok": document["ok"] and (is_later or not waits),
        "redelivered": len(rows),
        "environments": by_environment(_environments(rows)),
        "due": sum(mine[name] for name in names),
        "not_sent": {wait.endpoint: wait.why.value for wait in waits},
        "elsewhere": by_environment(others),
    }
    lines = [f"Send now: {shown('deliver')}"] if names and is_later else []
    lines += [wait.line for wait in waits]
    lines += [elsewhere_line(others)] if others else []
    conclude(document, lines, context.output)


def discard(
    ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ID",
            callback=not_empty,
            help="Ids of deliveries, events or traces, or of events that stay unsettled, or "
            f"beginnings of {SHORTEST} characters",
        ),
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", help="Everything undelivered to this endpoint")
    ] = None,
    everywhere: EverywhereOpt = False,
    yes: YesOpt = False,
    config: ConfigOpt = None,
    output: FormatOpt = "text",
) -> None:
    """Delete deliveries, or killed runs that cannot be settled.

    PROCESS:
      Says what it is about to do and asks, unless --yes. It acts on the environment of --config.
      For an endpoint that was renamed or removed, and for a database that is gone: the end of its
      killed migrations stays unknown, and `confiture webhooks status` shows them with their ids.

    EXAMPLES:
      confiture webhooks discard --endpoint former
        ↳ Every delivery to an endpoint that waits, is dead or was answered with 410

      confiture webhooks discard evt_4bf92f3577b34da6a3ce929d0e0e4736
        ↳ A killed run that stays unsettled: no event reports its end

    EXIT CODES:
      0  They are deleted, or there was none.
      1  An id is unknown, in flight or can be settled, the answer was no, or there is no terminal.
      2  Neither ids nor --endpoint, or both; or an id is empty.
      5  The configuration is invalid, or there is no endpoint of that name.
    """
    if bool(ids) is (endpoint is not None):
        raise typer.BadParameter("give either ids, or --endpoint", param_hint="ID")
    with opened(config, output) as context:
        check_endpoint(context, endpoint)
        nothing = ""
        killed: Judged = []
        broken: list[str] = []
        if ids:
            unreadable = context.outbox.unreadable_intents()
            known = {one.event_id for one in unreadable}
            known |= {one.event_id for one in context.outbox.intents()}
            ids = [_whole(given, known) for given in ids]
            killed = unsettled(context, ids)
            own = [one for one in unreadable if one.environment == context.environment]
            broken = [one.event_id for one in own if one.event_id in ids]
            events = {*broken, *(intent.event_id for intent, _ in killed)}
            others = [one for one in ids if one not in events]
            rows = _named(context, "discard", others, everywhere=everywhere)
        else:
            undelivered = [state for state in State if state is not State.DELIVERED]
            rows = _all(context, undelivered, endpoint, everywhere=everywhere)
            nothing = _nothing(context, "discard", undelivered, endpoint) if not rows else ""
        lost = [runs(len(broken), "unreadable")] if broken else []
        named = f" of {_events(rows)}" if ids else ""
        plan = [f"{_deliveries(len(rows))}{named}: {_where(rows)} ({_kinds(rows)})"] if rows else []
        plan += [described(killed)] if killed else []
        if plan or lost:
            agree(f"Discard {' and '.join(plan + lost)}", yes=yes, output=output)
        now = datetime.now(UTC)
        done = [row for row in rows if context.outbox.discard(row.delivery.id, now=now)]
        forget(context, killed)
        for event_id in broken:
            context.outbox.release(event_id, [])
    left = len(rows) - len(done)
    document = {
        "ok": not left,
        "discarded": len(done),
        "environments": by_environment(_environments(done)),
        "unsettled": len(killed) + len(broken),
        "under_way": left,
    }
    gone = [f"{_deliveries(len(done))} ({_where(done)})"] if done else []
    gone += [runs(len(killed)), *lost] if killed else lost
    lines = [f"Discarded {' and '.join(gone)}" if gone else nothing]
    lines += [f"❌ {_deliveries(left)} in flight: not discarded"] if left else []
    conclude(document, lines, output)


def _whole(given: str, known: Collection[str]) -> str:
    """The one of the *known* ids that begins so; *given* itself if there is none, or several."""
    found = [] if is_short(given) else [one for one in known if one.startswith(given)]
    return found[0] if len(found) == 1 else given


def _named(
    context: Context,
    verb: str,
    ids: list[str],
    *,
    endpoint: str | None = None,
    everywhere: bool,
) -> list[Row]:
    """The deliveries to *verb* called *ids*, or the end of the command if one is not to be had."""
    rows: dict[str, Row] = {}
    refused, candidates = [], []
    for one in ids:
        found = find(context.outbox, one)
        if found.is_ambiguous:
            candidates += found.candidates()
            refused.append(f"{one} (the beginning of {len(found.ids)} ids)")
        elif not found.rows:
            is_open = is_unsettled(context, one)
            unknown = f"unknown. See {shown('list')}"
            refused.append(f"{one} ({'its end is not known yet' if is_open else unknown})")
        elif is_short(one) and one not in found.ids:
            least = f"give {SHORTEST} characters of the id or more"
            refused.append(f"{one} (too short: {least}, as in {', '.join(found.ids)})")
        elif not (
            meant := [row for row in found.rows if endpoint in (None, row.delivery.endpoint)]
        ):
            refused.append(f"{one} (not to {endpoint})")
        elif why := _why_not(context, verb, one, meant, everywhere):
            refused.append(f"{one} ({why})")
        else:
            rows |= {row.delivery.id: row for row in meant}
    if refused:
        problem = f"Not possible: {', '.join(refused)}. Nothing was changed"
        fail(problem, context.output, candidates=candidates)
    return list(rows.values())


def _why_not(
    context: Context, verb: str, given: str, rows: Sequence[Row], everywhere: bool
) -> str | None:
    for row in rows:
        if not everywhere and row.delivery.environment != context.environment:
            name = row.delivery.environment
            return f"of environment {shown_environment(name)}: {_ways([name], verb, given)}"
        if verb != "discard" and row.state is State.IN_FLIGHT:
            return "in flight"
    return None


def _all(
    context: Context, states: Iterable[State], endpoint: str | None, *, everywhere: bool
) -> list[Row]:
    named: dict[str, Any] = {} if everywhere else {"environment": context.environment or ""}
    rows = [
        row
        for state in states
        for row in context.outbox.deliveries(state=state, endpoint=endpoint, limit=EVERY, **named)
    ]
    if len(rows) >= EVERY:
        say(f"These are the newest {EVERY}. Run the command again for the others")
    return rows


def _nothing(context: Context, verb: str, states: Iterable[State], endpoint: str | None) -> str:
    """That there is nothing to *verb* here, and which other environments have something."""
    others = _environments(_all(context, states, endpoint, everywhere=True))
    if not others:
        return f"Nothing to {verb}"
    words = [f"--{state.value.partition('_')[0]}" for state in states if verb == "redeliver"]
    words += ["--endpoint", endpoint] if endpoint is not None else []
    return (
        f"Nothing to {verb} in environment {shown_environment(context.environment)}. "
        f"Others have some ({listed(others)}): {_ways(others, verb, *words)}"
    )


def _ways(environments: Iterable[str | None], *words: str) -> str:
    """The commands that do it in *environments*, or all at once."""
    found = [shown_for(name, *words) for name in environments]
    return "".join([*(f"use {one}, or " for one in found if one), "add --all-environments"])


def _environments(rows: Sequence[Row]) -> Counter[str | None]:
    return Counter(row.delivery.environment for row in rows)


def _where(rows: Sequence[Row]) -> str:
    return listed(_environments(rows))


def _events(rows: Sequence[Row]) -> str:
    """The events of *rows* with the endpoints of each: ``evt_1 (005_shop) to a, b``."""
    events: dict[str, list[Row]] = {}
    for row in rows:
        events.setdefault(row.delivery.event_id, []).append(row)
    texts = []
    for event_id, each in list(events.items())[:MOST_EVENTS]:
        name = each[0].delivery.migration_name
        to = ", ".join(sorted({row.delivery.endpoint for row in each}))
        texts.append(f"{event_id}{f' ({name})' if name else ''} to {to}")
    left = len(events) - len(texts)
    return "; ".join([*texts, *([counted(left, "more event", "more events")] if left else [])])


def _kinds(rows: Sequence[Row]) -> str:
    where = Counter((row.delivery.endpoint, row.state.value) for row in rows)
    return ", ".join(f"{count} {state} to {name}" for (name, state), count in where.items())


def _deliveries(count: int) -> str:
    return counted(count, "delivery", "deliveries")


def enable(
    name: Annotated[str, typer.Argument(help="The endpoint's name")],
    config: ConfigOpt = None,
    output: FormatOpt = "text",
) -> None:
    """Switch an endpoint on again, after a 410 or `disable`.

    EXAMPLES:
      confiture webhooks enable analytics
        ↳ The next `confiture webhooks deliver` sends the deliveries that wait

    EXIT CODES:
      0  It is on.
      1  It was not off.
      5  The configuration is invalid, or there is no endpoint of that name.
    """
    with opened(config, output) as context:
        outbox, environment = context.outbox, context.environment
        _, waiting = _standing_of(context, name)
        if not outbox.enable(name, environment):
            fail(f"Endpoint {name} is not off", output)
        found = outbox.deliveries(state=State.GONE, endpoint=name, environment=environment)
        gone = [row.delivery.id for row in found]
        waits = context.outlook({name: waiting}, {}, datetime.now(UTC))
    lines = [f"Endpoint {name} is on in environment {shown_environment(environment)}"]
    lines += [wait.line for wait in waits]
    if waiting and not waits:
        are = "delivery is" if waiting == 1 else "deliveries are"
        lines.append(f"{waiting} {are} waiting for it. Send now: {shown('deliver')}")
    lines += again_lines(0, len(gone), "--endpoint", name)
    conclude({"ok": True, "endpoint": name, "waiting": waiting, "gone": gone}, lines, output)


def disable(
    name: Annotated[str, typer.Argument(help="The endpoint's name")],
    config: ConfigOpt = None,
    output: FormatOpt = "text",
) -> None:
    """Switch an endpoint off: its events are recorded and wait.

    EXAMPLES:
      confiture webhooks disable analytics
        ↳ Before its receiver is taken down for long; `enable` switches it on again

    EXIT CODES:
      0  It is off.
      1  It was off already, or the outbox cannot be used.
      5  The configuration is invalid, or there is no endpoint of that name.
    """
    with opened(config, output, creates=True) as context:
        is_off, waiting = _standing_of(context, name)
        if is_off:
            fail(f"Endpoint {name} is off already. Switch it on: {shown('enable', name)}", output)
        context.outbox.disable(name, context.environment, datetime.now(UTC))
    where = shown_environment(context.environment)
    lines = [
        f"Endpoint {name} is off in environment {where}: its events are recorded and wait",
        f"Switch it on: {shown('enable', name)}",
    ]
    conclude({"ok": True, "endpoint": name, "waiting": waiting}, lines, output)


def _standing_of(context: Context, name: str) -> tuple[bool, int]:
    """Whether endpoint *name* is off, and how many deliveries wait; refuses an unknown one."""
    standing = context.outbox.standing(context.environment).get(name)
    is_off = standing is not None and standing.off_since is not None
    if name not in context.names and not is_off:
        context.refuse_name("NAME", name, context.names)
    summary = context.outbox.summaries().get(context.environment)
    return is_off, summary.undelivered.get(name, 0) if summary else 0
