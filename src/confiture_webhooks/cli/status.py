"""``confiture webhooks status``: whether anything in the outbox waits for an operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import typer

from ..delivery import State
from ..event import rfc3339
from ..outbox import Summary
from ..outlook import (
    LATE,
    Standing,
    Wait,
    Why,
    by_environment,
    elsewhere,
    listed,
    outlook,
    shown_environment,
    unserved_line,
)
from .context import Context, opened
from .options import ConfigOpt, FormatOpt, is_json
from .output import FAILED, line, print_json
from .tables import age, length, print_facts
from .unsettled import unsettled_rows

if TYPE_CHECKING:
    from ..outbox import Intent, Outbox

UNSETTLED_FOR = timedelta(days=1)
"""A run that has ended is settled by the next one; after so long, by no run."""
FUTURE = timedelta(minutes=1)
"""A delivery made so far in the future was made by a clock that was wrong."""
MOST_NAMED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What an outbox holds, as far as the environment of a command is concerned."""

    now: datetime
    summary: Summary
    waits: list[Wait]
    standing: Mapping[str, Standing]
    others: Mapping[str | None, int]
    unserved: Mapping[str | None, tuple[int, datetime]] = field(default_factory=dict)
    """Of other environments: how many deliveries are due without a worker, and since when."""
    future: list[str] = field(default_factory=list)
    unreadable: int = 0
    old_intents: int = 0

    @property
    def is_well(self) -> bool:
        """Whether nothing waits for an operator."""
        dead = sum(self.summary.counts.get(state, 0) for state in (State.DEAD_LETTER, State.GONE))
        is_vain = any(wait.is_in_vain for wait in self.waits)
        return not (dead or is_vain or self.unserved or self.unreadable or self.old_intents)


def examine(context: Context, intents: list[Intent], now: datetime) -> Findings:
    """Look at everything once."""
    outbox, environment = context.outbox, context.environment
    summaries = {name or None: one for name, one in outbox.summaries().items()}
    summary = summaries.get(environment or None, Summary())
    standing = standing_of(outbox, environment)
    undelivered = {name: sum(one.undelivered.values()) for name, one in summaries.items()}
    return Findings(
        now=now,
        summary=summary,
        waits=outlook(
            summary.undelivered,
            configured=context.names,
            faulty=context.faulty,
            standing=standing,
            due={name: outbox.next_due_at(name, environment) for name in summary.undelivered},
            now=now,
        ),
        standing=standing,
        others=elsewhere(undelivered, environment),
        unserved={
            name: late
            for name, one in summaries.items()
            if name != (environment or None) and (late := _late(outbox, name, one, now))
        },
        future=_from_the_future(outbox, now),
        old_intents=sum(1 for intent in intents if intent.staged_at < now - UNSETTLED_FOR),
    )


def standing_of(outbox: Outbox, environment: str | None) -> Mapping[str, Standing]:
    """Which endpoints are off or rest in *environment*."""
    return {name: (since, None) for name, since in outbox.disabled(environment).items()}


def off_of(standing: Mapping[str, Standing]) -> dict[str, datetime]:
    """Since when each endpoint that is off is."""
    return {name: since for name, (since, _) in standing.items() if since is not None}


def _late(
    outbox: Outbox, environment: str | None, summary: Summary, now: datetime
) -> tuple[int, datetime] | None:
    """How many deliveries of another environment are due without a worker, since when."""
    off = off_of(standing_of(outbox, environment))
    due = {
        name: at
        for name in summary.undelivered
        if name not in off
        and (at := outbox.next_due_at(name, environment)) is not None
        and at < now - LATE
    }
    if not due:
        return None
    return sum(summary.undelivered[name] for name in due), min(due.values())


def _from_the_future(outbox: Outbox, now: datetime) -> list[str]:
    """The ids of deliveries that were made later than it is."""
    newest = outbox.deliveries(since=now + FUTURE, limit=MOST_NAMED)
    return [row.delivery.id for row in newest if row.delivery.created_at > now + FUTURE]


def status(config: ConfigOpt = None, output: FormatOpt = "text") -> None:
    """Count the deliveries of the environment in the outbox; a check for monitoring.

    PROCESS:
      Dead letters, deliveries that a 410 ended, and records that cannot be read count until they
      are redelivered or discarded. Deliveries wait in vain if their endpoint is off, not
      configured or wrongly configured, or if they are due for 15 minutes without a worker; also
      those of other environments in this outbox. So does a killed run that a day could not settle.

    EXIT CODES:
      0  Nothing waits for an operator.
      1  Something does, or the outbox cannot be read.
      5  The configuration is invalid.
    """
    now = datetime.now(UTC)
    with opened(config, output) as context:
        intents = [
            intent
            for intent in context.outbox.intents()
            if (intent.environment or None) == (context.environment or None)
        ]
        findings = examine(context, intents, now)
    unsettled = unsettled_rows(intents, context)
    if is_json(output):
        print_json(_document(context, findings, unsettled))
    else:
        _show(context, findings, unsettled)
    if not findings.is_well:
        raise typer.Exit(FAILED)


def _document(
    context: Context, findings: Findings, unsettled: list[dict[str, str]]
) -> dict[str, Any]:
    summary, oldest_at = findings.summary, findings.summary.oldest_at
    stuck = {
        wait.endpoint: f"{wait.reason} ({wait.count} waiting)"
        for wait in findings.waits
        if wait.is_in_vain
    }
    if findings.old_intents:
        stuck["unsettled"] = _unsettled(findings)
    rests = {wait.endpoint: wait.at for wait in findings.waits if wait.why is Why.RESTS}
    return {
        "ok": findings.is_well,
        "outbox": context.where,
        "is_there": context.is_there,
        "counts": {state.value: summary.counts.get(state, 0) for state in State},
        "environment": context.environment or None,
        "undelivered": dict(summary.undelivered),
        "elsewhere": by_environment(findings.others),
        "oldest_at": rfc3339(oldest_at) if oldest_at else None,
        "oldest_age_s": round((findings.now - oldest_at).total_seconds(), 1) if oldest_at else None,
        "endpoints_off": {name: rfc3339(at) for name, at in off_of(findings.standing).items()},
        "endpoints_resting": {name: rfc3339(at) for name, at in rests.items() if at},
        "unsettled": len(unsettled),
        "intents": unsettled,
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


def _show(context: Context, findings: Findings, unsettled: list[dict[str, str]]) -> None:
    if not context.is_there:
        line(f"No outbox at {context.where}: no run has recorded anything here yet")
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
            ("endpoints off", ", ".join(off_of(findings.standing)) or "-"),
            ("unsettled", str(len(unsettled))),
        ]
    )
    for text in _lines(context, findings):
        line(text)
    for row in unsettled:
        line(f"  {row['event_id']}  {row['migration']} since {row['since']}: {row['why']}")


def _lines(context: Context, findings: Findings) -> list[str]:
    """What an operator has to do, a line each."""
    lines = [wait.line(context.config) for wait in findings.waits if wait.count]
    counts = findings.summary.counts
    if counts.get(State.DEAD_LETTER):
        lines.append(f"Send dead letters again: {context.command('redeliver', '--dead')}")
    if counts.get(State.GONE):
        lines.append(
            "Deliveries answered with 410 are not retried. Send them again: "
            + context.command("redeliver", "--gone")
        )
    lines += [
        unserved_line(name, count, since, mine=context.environment)
        for name, (count, since) in findings.unserved.items()
    ]
    if findings.unreadable:
        lines.append(f"{findings.unreadable} records cannot be read: {context.command('list')}")
    if findings.future:
        lines.append(
            f"Made in the future by a clock that was wrong: {', '.join(findings.future)}. "
            f"Send them now: {context.command('redeliver', '--pending')}"
        )
    if findings.old_intents:
        lines.append(f"Not settled: {_unsettled(findings)}")
    return lines
