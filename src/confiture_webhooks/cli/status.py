"""``confiture webhooks status``: whether anything in the outbox waits for an operator."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import typer
from rich.console import Console
from rich.markup import escape

from ..delivery import State
from ..doctor.standing import UNSETTLED_FOR, stuck
from ..event import rfc3339
from ..outbox import Summary
from ..run.summary import by_environment, elsewhere, listed
from .options import ConfigOpt, FormatOpt, is_json
from .output import FAILED, print_json
from .project import opened
from .tables import age, length, print_facts
from .unsettled import unsettled_rows

LATE = timedelta(minutes=15)


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
