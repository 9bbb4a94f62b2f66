"""Killed runs that are not settled: what ``status`` shows and ``discard`` does about them."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..event import rfc3339
from ..run.outgoing import TELEMETRY_BUDGET
from ..run.settler import LONGEST_QUESTION_S, examine
from ..settlement import Ending
from ..terminal import counted
from ..wiring import command_telemetry
from .output import fail
from .project import ask_of

if TYPE_CHECKING:
    from ..config import Settings
    from ..outbox import Intent, Outbox
    from ..run.settler import Judged
    from ..settlement import Verdict


def unsettled_rows(intents: Sequence[Intent], config: Path | None) -> list[dict[str, str]]:
    """Which migrations' ends are not told yet, since when, and why; not those under way."""
    judged = examine(intents, ask_of(config) if intents else None, LONGEST_QUESTION_S)
    return [
        {
            "event_id": intent.event_id,
            "migration": intent.migration.name,
            "direction": intent.direction.value,
            "since": rfc3339(intent.staged_at),
            "why": f"{verdict.reason}; the next run or 'confiture webhooks deliver' tells it"
            if verdict.is_settled
            else verdict.reason,
        }
        for intent, verdict in judged
        if verdict.ending is not Ending.OPEN
    ]


def unsettled(
    settings: Settings, outbox: Outbox, ids: Collection[str], config: Path | None, output: str
) -> Judged:
    """The intents among *ids*, or the end of the command if one is not to be given up."""
    named = [intent for intent in outbox.intents() if intent.event_id in ids]
    judged = examine(named, ask_of(config) if named else None, LONGEST_QUESTION_S)
    refused = [
        f"{intent.event_id} ({why})"
        for intent, verdict in judged
        if (why := _why_not(intent, verdict, settings.environment))
    ]
    if refused:
        fail(f"Not possible: {', '.join(refused)}. Nothing was changed", output)
    return judged


def _why_not(intent: Intent, verdict: Verdict, environment: str | None) -> str | None:
    """Why the intent is not to be discarded; ``None``: it may be."""
    if intent.environment != environment:
        return f"of environment {intent.environment or '-'}: add its --config"
    if verdict.ending is Ending.OPEN:
        return verdict.reason
    if verdict.is_settled:
        return "its end is known: confiture webhooks deliver tells it"
    return None


def told_unsettled(judged: Judged) -> str:
    """What is about to be discarded, and why each of it is not settled."""
    each = ", ".join(f"{intent.migration.name}: {verdict.reason}" for intent, verdict in judged)
    return f"{runs(len(judged))} ({each})"


def runs(count: int) -> str:
    """So many of them."""
    return counted(count, "unsettled migration", "unsettled migrations")


def forget(settings: Settings, outbox: Outbox, judged: Judged) -> None:
    """Forget the intents: nobody is told how they ended. That is logged."""
    if not judged:
        return
    telemetry = command_telemetry(settings, os.environ)
    try:
        for intent, verdict in judged:
            outbox.release(intent.event_id, [])
            telemetry.intent_discarded(intent, verdict.reason)
    finally:
        telemetry.shutdown(TELEMETRY_BUDGET)
