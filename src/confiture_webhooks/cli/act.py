"""``confiture webhooks redeliver``, ``discard``, ``enable`` and ``disable``: the second chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Annotated

import typer

from ..delivery import State
from ..outbox import Row
from ..outlook import (
    again_lines,
    by_environment,
    elsewhere,
    listed,
    once_possible,
    outlook,
    shown_environment,
)
from ..remedy import shown
from ..run import TELEMETRY_BUDGET
from ..run.other_environment import elsewhere_line
from ..run.settling import Judged
from ..terminal import counted
from ..wiring import make_telemetry
from .context import Context, opened
from .options import ConfigOpt, EverywhereOpt, FormatOpt, IdsArg, NameArg, YesOpt
from .selection import chosen, environments, intents_of
from .send import send_now
from .status import runs
from .tables import CommandError, agree, conclude, line


def redeliver(
    ids: IdsArg = None,
    dead: Annotated[bool, typer.Option("--dead", help="Every dead letter")] = False,
    pending: Annotated[
        bool, typer.Option("--pending", help="Everything that waits for its next attempt")
    ] = False,
    gone: Annotated[
        bool, typer.Option("--gone", help="Everything that was answered with 410")
    ] = False,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", help="Only the deliveries to this endpoint")
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
      Asks first, unless --yes, sends at once, and counts these deliveries alone, without those
      that a worker sent meanwhile. Those of an endpoint that is off or not configured wait until
      that is changed; those of other environments for their own worker. If none of them can be
      sent, nothing changes, unless --later is given.

    EXAMPLES:
      confiture webhooks redeliver --dead --endpoint analytics
        ↳ Every dead letter of one endpoint

      confiture webhooks redeliver evt_4bf92f35 --yes
        ↳ One event, also if it was delivered, from a script

    EXIT CODES:
      0  They were delivered, or made due with --later, or there was none.
      1  A delivery failed or waits in vain, an id cannot be redelivered, or the answer was no.
      2  Not exactly one of ids, --dead, --pending and --gone; or an id is empty.
      5  The configuration is invalid, or there is no endpoint of that name.
    """
    asked = {State.DEAD_LETTER: dead, State.PENDING: pending, State.GONE: gone}
    states = [state for state, is_asked in asked.items() if is_asked]
    if len(states) + bool(ids) != 1:
        reason = "give ids, or only one of --dead, --pending and --gone"
        raise typer.BadParameter(reason, param_hint="ID")
    with opened(config, is_sending=not later) as context:
        rows, away, nothing = chosen(context, "redeliver", ids, states, endpoint, everywhere)
        here = context.environment
        mine = Counter(r.delivery.endpoint for r in rows if r.delivery.environment == here)
        if mine and not later:
            _ = context.sending_settings  # which raises that there is none, as for `deliver`
        waits = context.waits(mine)
        due = sorted(mine.keys() - {wait.endpoint for wait in waits})
        in_vain = {wait.endpoint for wait in waits if wait.is_in_vain}
        is_refused = bool(rows) and not (later or mine.keys() - in_vain)
        if rows and not is_refused:
            agree(f"Redeliver {_counted(rows)}", yes=yes)
        now, acted_on = datetime.now(UTC), [] if is_refused else rows
        again = context.outbox.redeliver
        done = [row for row in acted_on if again(row.delivery.id, now=now, was=row.state)]
        refusal = {"error": _not_done(rows, here)} if is_refused else {}
        if output == "text":
            unsent = f"❌ {refusal['error']}" if refusal else nothing
            unsent = unsent or "Nothing is due again: a worker has sent it, or is sending it"
            line(f"Due again: {_counted(done)}" if done else unsent)
        own = [] if later else [row for row in done if row.delivery.environment == here]
        sending = [row for row in own if row.delivery.endpoint in due]
        sent = send_now(context, sending, output) if sending else {"ok": True}
    others = away or elsewhere(environments(rows if is_refused else done), here)
    document = {
        **sent,
        "ok": sent["ok"] and not is_refused and (later or not waits),
        "redelivered": len(done),
        "environments": by_environment(environments(done)),
        "due": sum(mine[name] for name in due),
        "not_sent": {wait.endpoint: wait.why.value for wait in waits},
        "elsewhere": by_environment(others),
        **refusal,
    }
    lines = [f"Send now: {shown('deliver')}"] if due and later else []
    lines += [wait.line for wait in waits]
    lines += [elsewhere_line(others)] if others and done else []
    conclude(document, lines, output)


def _not_done(rows: Sequence[Row], here: str | None) -> str:
    place = f"Nothing can be sent from environment {shown_environment(here)}, "
    return f"{place}so nothing was changed: {_counted(rows)}. Add --later to leave that to a worker"


def discard(
    ids: IdsArg = None,
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
      Asks first, unless --yes. Use it if an endpoint was renamed or removed. Use it also if a
      database is gone: the end of its killed migrations stays unknown, and `status` shows the ids.

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
    with opened(config) as context:
        others, killed, broken = intents_of(context, ids or ())
        undelivered = [] if ids else [state for state in State if state is not State.DELIVERED]
        rows, away, nothing = chosen(context, "discard", others, undelivered, endpoint, everywhere)
        lost = [runs(len(broken), "unreadable")] if broken else []
        plan = [_counted(rows)] if rows else []
        if killed:
            each = (f"{intent.migration.name}: {verdict.reason}" for intent, verdict in killed)
            plan.append(f"{runs(len(killed))} ({', '.join(each)})")
        if plan or lost:
            agree(f"Discard {' and '.join(plan + lost)}", yes=yes)
        now, drop = datetime.now(UTC), context.outbox.discard
        done = [row for row in rows if drop(row.delivery.id, now=now, was=row.state)]
        kept = {row.delivery.id for row in rows} - {row.delivery.id for row in done}
        found = context.outbox.named([*kept])
        left = sum(row.state is not State.DELIVERED for row in found)
        killed = _forget(context, killed)
        for one in broken:
            context.outbox.discard_intent(one)
    document = {
        "ok": not left,
        "discarded": len(done),
        "environments": by_environment(environments(done)),
        "elsewhere": by_environment(away),
        "unsettled": len(killed) + len(broken),
        "under_way": left,
    }
    gone = [_counted(done)] if done else []
    gone += [runs(len(killed)), *lost] if killed else lost
    lines = [f"Discarded {' and '.join(gone)}" if gone else nothing or "Nothing was discarded"]
    if meanwhile := len(kept) - left:
        lines.append(f"Not discarded, because delivered or discarded meanwhile: {meanwhile}")
    lines += [f"❌ Not discarded, because in flight: {left}"] if left else []
    conclude(document, lines, output)


def _forget(context: Context, killed: Judged) -> Judged:
    """Delete the intents that no other process has settled, and log each; returns the deleted."""
    if not killed:
        return []
    gone, telemetry = [], make_telemetry(context.settings)
    try:
        for intent, verdict in killed:
            if context.outbox.release(intent.event_id, []):
                telemetry.intent_discarded(intent, verdict.reason)
                gone.append((intent, verdict))
    finally:
        telemetry.shutdown(TELEMETRY_BUDGET)
    return gone


def _counted(rows: Sequence[Row]) -> str:
    """How many there are, and how many of each environment: ``2 deliveries (staging 2)``."""
    return f"{counted(len(rows), 'delivery', 'deliveries')} ({listed(environments(rows))})"


def enable(name: NameArg, config: ConfigOpt = None, output: FormatOpt = "text") -> None:
    """Switch an endpoint on again, after a 410 or `disable`.

    EXAMPLES:
      confiture webhooks enable analytics
        ↳ The next `confiture webhooks deliver` sends the deliveries that wait

    EXIT CODES:
      0  It is on.
      1  It was not off.
      5  The configuration is invalid, or there is no endpoint of that name.
    """
    with opened(config) as context:
        outbox, environment = context.outbox, context.environment
        _, waiting = _status_of(context, name)
        if not outbox.enable(name, environment):
            raise CommandError(f"Endpoint {name} is not off")
        found = outbox.deliveries(state=State.GONE, endpoint=name, environment=environment)
        gone = [row.delivery.id for row in found]
        configured = context.settings.recorded
        look = partial(outlook, configured=configured, now=datetime.now(UTC))
        waits, first = look({name: waiting}), look({name: len(gone)})
    lines = [f"Endpoint {name} is on in environment {shown_environment(environment)}"]
    lines += [wait.line for wait in waits]
    if waiting and not waits:
        lines.append(f"Waiting deliveries: {waiting}. Send now: {shown('deliver')}")
    lines += [once_possible(first, one) for one in again_lines(0, len(gone), "--endpoint", name)]
    conclude({"ok": True, "endpoint": name, "waiting": waiting, "gone": gone}, lines, output)


def disable(name: NameArg, config: ConfigOpt = None, output: FormatOpt = "text") -> None:
    """Switch an endpoint off: its events are recorded and wait.

    EXAMPLES:
      confiture webhooks disable analytics
        ↳ Before its receiver is taken down for long; `enable` switches it on again

    EXIT CODES:
      0  It is off.
      1  It was off already, or the outbox cannot be used.
      5  The configuration is invalid, or there is no endpoint of that name.
    """
    with opened(config, creates=True) as context:
        is_off, waiting = _status_of(context, name)
        if is_off:
            on = shown("enable", name)
            raise CommandError(f"Endpoint {name} is off already. Switch it on: {on}")
        context.outbox.disable(name, context.environment, datetime.now(UTC))
    where = f"off in environment {shown_environment(context.environment)}"
    lines = [f"Endpoint {name} is {where}: its events are recorded and wait"]
    lines += [f"Switch it on: {shown('enable', name)}"]
    conclude({"ok": True, "endpoint": name, "waiting": waiting}, lines, output)


def _status_of(context: Context, name: str) -> tuple[bool, int]:
    """Whether endpoint *name* is off, and how many deliveries wait; refuses an unknown one."""
    status = context.outbox.statuses(context.environment).get(name)
    is_off = status is not None and status.off_since is not None
    if not is_off and name not in {endpoint.name for endpoint in context.settings.recorded}:
        raise context.unknown_endpoint(name)
    return is_off, context.outbox.summary(context.environment).undelivered.get(name, 0)
