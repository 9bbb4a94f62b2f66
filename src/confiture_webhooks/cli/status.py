"""``confiture webhooks status``: what waits for an operator; killed runs that are not settled."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer

from ..delivery import State
from ..doctor.outbox import MOST_NAMED, UNSETTLED_FOR, Findings, examine
from ..event import rfc3339
from ..outlook import (
    again_lines,
    by_environment,
    dead_elsewhere_line,
    listed,
    shown_environment,
    unserved_line,
)
from ..remedy import shown, shown_for
from ..run import settling
from ..run.parts import TELEMETRY_BUDGET
from ..settlement import Ending
from ..terminal import counted
from ..wiring import make_telemetry
from .context import Context, opened
from .options import ConfigOpt, FormatOpt, is_json
from .tables import FAILED, age, fail, length, line, print_facts, print_json

if TYPE_CHECKING:
    from ..outbox import Intent
    from ..run.settling import Judged
    from ..settlement import Verdict


def status(config: ConfigOpt = None, output: FormatOpt = "text") -> None:
    """Count the deliveries of the environment in the outbox; a check for monitoring.

    PROCESS:
      Dead letters, deliveries that a 410 ended, and records that cannot be read count until they
      are redelivered or discarded. Deliveries wait in vain if their endpoint is off, not
      configured or wrongly configured, if they are due for 15 minutes without a worker (also those
      of other environments in this outbox), or if their receiver puts them off with 429 or 503 and
      Retry-After for more than a day. So does a killed run that a day could not settle. A migration
      that is under way is named; it does not count.

    EXIT CODES:
      0  Nothing waits for an operator.
      1  Something does, or the outbox cannot be read.
      5  The configuration is invalid.
    """
    now = datetime.now(UTC)
    with opened(config, output) as context:
        findings = examine(context.outbox, context.settings, now)
    unknown = open_document(_judged(findings.intents, context))
    if is_json(output):
        print_json({**_document(context, findings), **unknown})
    else:
        _show(context, findings, unknown)
    if not findings.is_well:
        raise typer.Exit(FAILED)


def _document(context: Context, findings: Findings) -> dict[str, Any]:
    summary, oldest_at = findings.summary, findings.summary.oldest_at
    stuck = {one.endpoint: f"{one.reason} ({one.count} waiting)" for one in findings.in_vain}
    if findings.old_intents:
        stuck["unsettled"] = _unsettled(findings)
    return {
        "ok": findings.is_well,
        "outbox": context.where,
        "is_there": context.is_there,
        "counts": {state.value: summary.counts.get(state, 0) for state in State},
        "environment": context.environment,
        "undelivered": dict(summary.undelivered),
        "elsewhere": by_environment(findings.others),
        "dead_elsewhere": by_environment(findings.dead_elsewhere),
        "oldest_at": rfc3339(oldest_at) if oldest_at else None,
        "oldest_age_s": round((findings.now - oldest_at).total_seconds(), 1) if oldest_at else None,
        "endpoints_off": {name: rfc3339(at) for name, at in findings.off.items()},
        "endpoints_resting": {
            wait.endpoint: rfc3339(until) for wait in findings.waits if (until := wait.rests_until)
        },
        "waits": {one.endpoint: f"{one.reason} ({one.count} waiting)" for one in findings.waits},
        "unreadable": findings.unreadable,
        "from_the_future": findings.future,
        "unserved": {
            shown_environment(name): {"due": count, "since": rfc3339(since)}
            for name, (count, since) in findings.unserved.items()
        },
        "stuck": stuck,
    }


def _unsettled(findings: Findings) -> str:
    return f"{findings.old_intents} for more than {length(UNSETTLED_FOR)}"


def _show(context: Context, findings: Findings, unknown: dict[str, Any]) -> None:
    if not context.is_there:
        return
    summary = findings.summary
    undelivered = ", ".join(f"{name} {count}" for name, count in summary.undelivered.items())
    oldest = f"{age(summary.oldest_at, findings.now)} ago" if summary.oldest_at else "-"
    print_facts(
        [
            ("outbox", context.where),
            ("environment", shown_environment(context.environment)),
            *(
                (state.value.replace("_", " "), str(summary.counts.get(state, 0)))
                for state in State
            ),
            ("undelivered", undelivered or "-"),
            *([("elsewhere", listed(findings.others))] if findings.others else []),
            ("oldest", oldest),
            ("endpoints off", ", ".join(findings.off) or "-"),
            ("unsettled", str(unknown["unsettled"])),
            *(
                ("under way", f"{row['migration']} since {row['since']}")
                for row in unknown["under_way"]
            ),
        ]
    )
    for text in _lines(context, findings):
        line(text)
    for row in unknown["intents"]:
        line(f"  {row['event_id']}  {row['migration']} since {row['since']}: {row['why']}")


def _lines(context: Context, findings: Findings) -> list[str]:
    """What an operator has to do, a line each."""
    lines = [wait.line for wait in findings.waits]
    dead, gone = (findings.summary.counts.get(one, 0) for one in (State.DEAD_LETTER, State.GONE))
    lines += again_lines(dead, gone)
    lines += [dead_elsewhere_line(*one) for one in findings.dead_elsewhere.items()]
    lines += [
        unserved_line(name, count, since, mine=context.environment)
        for name, (count, since) in findings.unserved.items()
    ]
    if findings.unreadable:
        ids = findings.unreadable
        drop = shown("discard", *ids[:MOST_NAMED])
        records = counted(len(ids), "record", "records")
        lines.append(f"{records} cannot be read by this version. Drop them: {drop}")
    if findings.future:
        lines.append(
            f"Made in the future by a clock that was wrong: {', '.join(findings.future)}. "
            f"Send them now: {shown('redeliver', '--pending')}"
        )
    if findings.old_intents:
        lines.append(f"Not settled: {_unsettled(findings)}")
    return lines


def open_document(judged: Judged) -> dict[str, Any]:
    """The migrations whose end is not known yet, since when and why, as JSON has them."""
    unsettled = [
        {
            "event_id": intent.event_id,
            "migration": intent.migration.name,
            "direction": intent.direction.value,
            "since": rfc3339(intent.staged_at),
            "why": f"{verdict.reason}. The next run reports it, or {shown('deliver')}"
            if verdict.is_settled
            else verdict.reason,
        }
        for intent, verdict in judged
        if verdict.ending is not Ending.OPEN
    ]
    under_way = [
        {"migration": intent.migration.name, "since": rfc3339(intent.staged_at)}
        for intent, verdict in judged
        if verdict.ending is Ending.OPEN
    ]
    return {"unsettled": len(unsettled), "intents": unsettled, "under_way": under_way}


def open_lines(judged: Judged) -> list[str]:
    """A line for the migrations that are under way, and one for those that are not settled."""
    under_way = [
        f"{intent.migration.name} since {rfc3339(intent.staged_at)}"
        for intent, verdict in judged
        if verdict.ending is Ending.OPEN
    ]
    unsettled = [one for one in judged if one[1].ending is not Ending.OPEN]
    lines = [f"Under way: {', '.join(under_way)}. Its end is reported later"] if under_way else []
    if unsettled:
        lines.append(f"Not settled: {described(unsettled)}. Show them: {shown('status')}")
    return lines


def _judged(intents: Sequence[Intent], context: Context) -> Judged:
    ask = context.ask if intents else None
    return settling.examine(intents, ask, settling.LONGEST_QUESTION_S)


def unsettled(context: Context, ids: Collection[str]) -> Judged:
    """The intents among *ids*, or the end of the command if one is not to be given up."""
    named = [intent for intent in context.outbox.intents() if intent.event_id in ids]
    judged = _judged(named, context)
    refused = [
        f"{intent.event_id} ({why})"
        for intent, verdict in judged
        if (why := _why_not(intent, verdict, context))
    ]
    if refused:
        fail(f"Not possible: {', '.join(refused)}. Nothing was changed", context.output)
    return judged


def _why_not(intent: Intent, verdict: Verdict, context: Context) -> str | None:
    """Why the intent is not to be discarded; ``None``: it may be."""
    if intent.environment != context.environment:
        there = shown_for(intent.environment, "discard", intent.event_id)
        name = shown_environment(intent.environment)
        return f"of environment {name}" + (f": use {there}" if there else "")
    if verdict.ending is Ending.OPEN:
        return verdict.reason
    if verdict.is_settled:
        return f"its end is known: {shown('deliver')} reports it"
    return None


def described(judged: Judged) -> str:
    """The intents about to be discarded, and why each is not settled."""
    each = ", ".join(f"{intent.migration.name}: {verdict.reason}" for intent, verdict in judged)
    return f"{runs(len(judged))} ({each})"


def runs(count: int, kind: str = "unsettled") -> str:
    """So many of them."""
    return counted(count, f"{kind} migration", f"{kind} migrations")


def forget(context: Context, judged: Judged) -> None:
    """Forget the intents: their end is never reported. That is logged."""
    if not judged:
        return
    telemetry = make_telemetry(context.settings, os.environ)
    try:
        for intent, verdict in judged:
            context.outbox.release(intent.event_id, [])
            telemetry.intent_discarded(intent, verdict.reason)
    finally:
        telemetry.shutdown(TELEMETRY_BUDGET)
