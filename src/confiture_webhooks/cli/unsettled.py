"""Killed runs that are not settled: what ``status`` shows and ``discard`` does about them."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from ..event import rfc3339
from ..outlook import shown_environment
from ..run.outgoing import TELEMETRY_BUDGET
from ..run.settling import LONGEST_QUESTION_S, examine
from ..settlement import Ending
from ..terminal import counted
from ..wiring import command_telemetry
from .context import Context, ask_of
from .output import fail

if TYPE_CHECKING:
    from ..outbox import Intent
    from ..run.settling import Judged
    from ..settlement import Verdict


def unsettled_rows(intents: Sequence[Intent], context: Context) -> list[dict[str, str]]:
    """The migrations whose end was not reported yet, since when, and why; not those under way."""
    judged = examine(intents, ask_of(context.config) if intents else None, LONGEST_QUESTION_S)
    return [
        {
            "event_id": intent.event_id,
            "migration": intent.migration.name,
            "direction": intent.direction.value,
            "since": rfc3339(intent.staged_at),
            "why": f"{verdict.reason}. The next run reports it, or {context.command('deliver')}"
            if verdict.is_settled
            else verdict.reason,
        }
        for intent, verdict in judged
        if verdict.ending is not Ending.OPEN
    ]


def unsettled(context: Context, ids: Collection[str]) -> Judged:
    """The intents among *ids*, or the end of the command if one is not to be given up."""
    named = [intent for intent in context.outbox.intents() if intent.event_id in ids]
    judged = examine(named, ask_of(context.config) if named else None, LONGEST_QUESTION_S)
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
    if (intent.environment or None) != (context.environment or None):
        return f"of environment {shown_environment(intent.environment)}: use its --config"
    if verdict.ending is Ending.OPEN:
        return verdict.reason
    if verdict.is_settled:
        return f"its end is known: {context.command('deliver')} reports it"
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
    telemetry = command_telemetry(context.settings, os.environ)
    try:
        for intent, verdict in judged:
            context.outbox.release(intent.event_id, [])
            telemetry.intent_discarded(intent, verdict.reason)
    finally:
        telemetry.shutdown(TELEMETRY_BUDGET)
