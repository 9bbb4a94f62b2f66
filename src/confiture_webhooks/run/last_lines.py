"""The lines at the end of a run that did not deliver everything: what is left, why, what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from ..delivery import Outcome, State
from ..errors import CUT, UNRECORDED
from ..event import rfc3339
from ..outbox import Summary, waiting_elsewhere
from ..outlook import Wait, again_lines, correct_first
from ..remedy import shown
from ..terminal import counted
from .other_environment import elsewhere_line

GIVEN_UP = frozenset({Outcome.DEAD_LETTER, Outcome.GONE})


class Loss(NamedTuple):
    """Why undelivered events are lost: they are in memory."""

    refusal: str | None = None
    """Why memory stands in for the configured outbox."""
    is_project: bool = True
    """Whether the command ran in a Confiture project."""

    @property
    def line(self) -> str:
        """Says what is lost, why, and how to avoid it."""
        if self.refusal:
            why = f", which could not use its {self.refusal}."
        elif self.is_project:
            why = ". To keep deliveries for a later run, set CONFITURE_WEBHOOK_OUTBOX=sqlite."
        else:
            why = ": this directory is no Confiture project, so no outbox was created. "
            why += "Run the command in the project's directory."
        return f"Each is lost with this process{why}"


def leftover_line(
    summaries: Mapping[str | None, Summary],
    environment: str | None,
    failures: Mapping[str, str],
    *,
    waits: Sequence[Wait] = (),
    next_at: datetime | None = None,
    loss: Loss | None = None,
) -> str | None:
    """How many deliveries are left, to which endpoints, why, and what to do; ``None``: none are.

    *failures*: by endpoint, why its latest attempt failed. *waits*: who rests, or waits in vain.
    *next_at*: when the next is due, ``None``: now, or never. *loss*: ``None`` when the outbox
    keeps them.
    """
    summary = summaries.get(environment, Summary())
    left = summary.undelivered
    if not left:
        return None
    by_name = {wait.endpoint: wait for wait in waits}
    is_claimed = loss is None and summary.counts.get(State.IN_FLIGHT) == summary.waiting
    is_anothers = is_claimed and UNRECORDED not in failures.values()
    where = ", ".join(
        f"{name}: {count}, "
        + ("under way" if is_anothers else _reason(failures.get(name), by_name.get(name)))
        for name, count in sorted(left.items())
    )
    if loss is not None:
        remedies = [loss.line]
    elif is_claimed:
        at = f"from {rfc3339(next_at)} on" if next_at else "now"
        them = "it" if summary.waiting == 1 else "them"
        whose = f"Another worker is sending {them}. If that was killed, send {them}"
        whose = whose if is_anothers else f"Each may have arrived. Send {them} again"
        remedies = [f"{whose} {at}: {shown('deliver')}."]
    else:
        is_shared = bool(summary.counts.get(State.IN_FLIGHT)) and not failures
        remedies = _kept(left, waits, next_at, is_shared=is_shared)
    if others := waiting_elsewhere(summaries, environment):
        remedies.append(f"{elsewhere_line(others)}.")
    total = counted(summary.waiting, "delivery", "deliveries")
    sent = "not recorded as sent" if is_claimed and not is_anothers else "not sent"
    return f"confiture-webhooks: {total} {sent} ({where}). {' '.join(remedies)}"


def _kept(
    left: Mapping[str, int], waits: Sequence[Wait], next_at: datetime | None, *, is_shared: bool
) -> list[str]:
    """How the outbox's deliveries go out: by the next run, or once somebody has acted.

    *is_shared*: another worker has claimed some, and no attempt failed here.
    """
    going = sorted(left.keys() - {wait.endpoint for wait in waits if wait.is_in_vain})
    due = f", the first at {rfc3339(next_at)}" if next_at else ""
    kept = [f"Each is kept, and sent by the next run when it is due{due}."]
    if len(going) < len(left):
        kept = ["Each is kept."]
        kept += [f"The next run sends those to {', '.join(going)}{due}."] if going else []
    kept += [f"{wait.endpoint}: {wait.remedy}." for wait in waits]
    if left.keys() - {wait.endpoint for wait in waits}:
        all_now, due_now = shown("redeliver", "--pending"), shown("deliver")
        now = f"Send all now: {all_now}." if next_at else f"Send those due now: {due_now}."
        then = f"Unless a worker runs, send them then: {due_now}."
        kept.append(then if next_at and is_shared else now)
    return kept


def given_up_line(
    given_up: Mapping[str, Counter[Outcome]],
    failures: Mapping[str, str],
    loss: Loss | None = None,
) -> str:
    """Which deliveries the run will not send again, *given_up* by endpoint, and what to do."""
    parts = []
    for name, counts in sorted(given_up.items()):
        dead, gone = counts[Outcome.DEAD_LETTER], counts[Outcome.GONE]
        if dead:
            letters = counted(dead, "dead letter", "dead letters")
            parts.append(f"{name}: {letters}, {_reason(failures.get(name))}.")
        if gone:
            parts.append(f"{name}: answered 410 and is switched off.")
        if loss is None:
            on = [f"Once it works again: {shown('enable', name)}"] if gone else []
            parts += [f"{one}." for one in [*on, *again_lines(dead, gone, "--endpoint", name)]]
    if loss is not None:
        parts.append(loss.line)
    return f"confiture-webhooks: {' '.join(parts)}"


def _reason(failure: str | None, wait: Wait | None = None) -> str:
    if wait is not None:
        return wait.reason
    if failure is None:
        return "waiting for the next attempt"
    if failure == CUT:
        return "no answer before the run stopped waiting"
    if failure == UNRECORDED:
        return failure
    if failure.isdigit():
        return f"last answer {failure}{correct_first(failure)}"
    return f"last attempt failed: {failure}"
