"""``confiture webhooks status``: what waits for an operator; killed runs that are not settled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from ..delivery import State
from ..doctor.findings import Findings, examine, needs
from ..errors import OutboxError
from ..event import rfc3339
from ..outbox import UNSETTLED_FOR, Intent, LeftBehind
from ..outlook import by_environment, elsewhere, listed, shown_environment
from ..remedy import shown
from ..run import settling
from ..run.settling import Judged
from ..settlement import Ending
from ..terminal import counted
from .context import Context, opened
from .options import ConfigOpt, FormatOpt
from .tables import conclude, length


def status(config: ConfigOpt = None, output: FormatOpt = "text") -> None:
    """Count the deliveries of the environment in the outbox; a check for monitoring.

    PROCESS:
      Exits with 1 for dead letters, deliveries that a 410 ended, records that cannot be read,
      and killed runs that a day could not settle. It does so too for deliveries whose endpoint is
      off, not configured or wrongly configured, and for those that answers of 429 or 503 put off
      for more than a day. In any environment of this outbox, it does so for deliveries that are
      due for 15 minutes without a worker, and for killed runs that cannot be settled or read. If
      the project's SQLite file was the outbox before, those of this environment in it count, too.
      If the migrated database has an outbox that is not this one, the command only names it.

    EXIT CODES:
      0  Nothing waits for an operator.
      1  Something does, or the outbox cannot be read.
      5  The configuration is invalid.
    """
    now = datetime.now(UTC)
    with opened(config) as context:
        findings = examine(context.outbox, context.settings, now, dsn=context.dsn)
        is_there = context.outbox.is_durable
    document = {
        **_document(context, findings),
        "is_there": is_there,
        **open_document(judged(findings.intents, context)),
    }
    lines = [f"{name}: {value}" for name, value in _facts(document)] if is_there else []
    lines += [wait.line for wait in findings.waits]
    for row in needs(findings):
        if row.check != "unsettled":  # they follow, each with its reason
            lines.append(f"{row.check}: {row.detail}. {row.remedy}")
    lines += open_lines(document)
    conclude(document, lines, output)


def _document(context: Context, findings: Findings) -> dict[str, Any]:
    summary, oldest_at = findings.summary, findings.summary.oldest_at
    here, unreadable = findings.environment, findings.unreadable_runs
    stuck = {wait.endpoint: wait.detail for wait in findings.in_vain}
    if old := findings.old_intents.get(findings.environment):
        stuck["unsettled"] = f"{old} for more than a day"
    return {
        "ok": findings.is_well,
        "outbox": context.where,
        "counts": {state.value: summary.counts.get(state, 0) for state in State},
        "environment": context.environment,
        "undelivered": dict(summary.undelivered),
        "elsewhere": by_environment(findings.others),
        "dead_elsewhere": by_environment(findings.ended_elsewhere(State.DEAD_LETTER)),
        "gone_elsewhere": by_environment(findings.ended_elsewhere(State.GONE)),
        "oldest_at": rfc3339(oldest_at) if oldest_at else None,
        "oldest_age_s": round((findings.now - oldest_at).total_seconds(), 1) if oldest_at else None,
        "endpoints_off": {name: rfc3339(at) for name, at in findings.off.items()},
        "endpoints_resting": {
            wait.endpoint: rfc3339(until) for wait in findings.waits if (until := wait.rests_until)
        },
        "waits": {wait.endpoint: wait.detail for wait in findings.waits},
        "refused": dict(findings.refused),
        "unreadable": [*findings.unreadable, *unreadable.get(here, ())],
        "unreadable_elsewhere": {
            shown_environment(name): ids for name, ids in unreadable.items() if name != here
        },
        "unsettled_elsewhere": by_environment(elsewhere(findings.old_intents, here)),
        "from_the_future": findings.future,
        "left_in_sqlite": _left_behind(findings.left_in_file),
        "left_in_postgres": _left_behind(findings.left_in_database),
        "unserved": {
            shown_environment(name): {"due": count, "since": rfc3339(since)}
            for name, (count, since) in findings.unserved.items()
        },
        "stuck": stuck,
    }


def _left_behind(found: Mapping[str | None, LeftBehind] | OutboxError) -> dict[str, Any]:
    if isinstance(found, OutboxError):
        return {"error": found.problem}
    return {shown_environment(name): left._asdict() for name, left in found.items()}


def _facts(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "outbox", document["outbox"]
    yield "environment", shown_environment(document["environment"])
    for state, count in document["counts"].items():
        yield state.replace("_", " "), str(count)
    yield "undelivered", listed(document["undelivered"]) or "-"
    if document["elsewhere"]:
        yield "other environments", listed(document["elsewhere"])
    age_s = document["oldest_age_s"]
    yield "oldest", "-" if age_s is None else f"{length(timedelta(seconds=max(age_s, 0)))} ago"
    yield "endpoints off", ", ".join(document["endpoints_off"]) or "-"
    yield "unsettled", str(document["unsettled"])


def judged(intents: Sequence[Intent], context: Context) -> Judged:
    """How each of *intents* ended, as far as the database of *context* knows."""
    ask = context.ask if intents else None
    return settling.examine(intents, ask, settling.LONGEST_QUESTION_S)


def open_document(judged: Judged) -> dict[str, Any]:
    """The migrations whose end is not known yet, since when and why, as JSON has them."""
    intents, under_way = [], []
    for intent, verdict in judged:
        name, since = intent.migration.name, rfc3339(intent.staged_at)
        if verdict.ending is Ending.OPEN:
            under_way.append({"migration": name, "since": since})
            continue
        then = ""
        if verdict.is_settled:
            then = f". The next run reports it, or now: {shown('deliver')}"
        elif intent.staged_at < datetime.now(UTC) - UNSETTLED_FOR:
            then = f". If that stays so, drop it: {shown('discard', intent.event_id)}"
        row = {"event_id": intent.event_id, "migration": name, "direction": intent.direction.value}
        intents.append(row | {"since": since, "why": verdict.reason + then})
    return {"unsettled": len(intents), "intents": intents, "under_way": under_way}


def open_lines(document: Mapping[str, Any]) -> list[str]:
    """A line for each migration that is under way, or not settled."""
    lines = [f"Under way: {row['migration']} since {row['since']}" for row in document["under_way"]]
    return lines + [
        f"Not settled: {row['event_id']}  {row['migration']} since {row['since']}: {row['why']}"
        for row in document["intents"]
    ]


def runs(count: int, kind: str = "unsettled") -> str:
    """So many of them."""
    return counted(count, f"{kind} migration", f"{kind} migrations")
