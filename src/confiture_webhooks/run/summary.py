"""The lines at the end of a run that did not deliver everything. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from ..delivery import Outcome, State
from ..errors import CUT
from ..event import rfc3339
from ..outbox import Summary
from ..outlook import Wait, again_lines, elsewhere, elsewhere_line
from ..remedy import shown
from ..terminal import counted

GIVEN_UP = frozenset({Outcome.DEAD_LETTER, Outcome.GONE})


def undelivered(summaries: Mapping[str | None, Summary]) -> dict[str | None, int]:
    """How many deliveries wait, by environment."""
    return {name: sum(one.undelivered.values()) for name, one in summaries.items()}


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
            why = (
                ": this directory is no Confiture project, so no outbox was created. "
                "Run the command in the project's directory."
            )
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
    is_claimed = loss is None and summary.counts.get(State.IN_FLIGHT) == sum(left.values())
    where = ", ".join(
        f"{name}: {count}, "
        + ("under way" if is_claimed else _reason(failures.get(name), by_name.get(name)))
        for name, count in sorted(left.items())
    )
    if loss is not None:
        remedies = [loss.line]
    elif is_claimed:
        at = f"from {rfc3339(next_at)} on" if next_at else "now"
        killed = f"If it was killed, send them {at}: {shown('deliver')}."
        remedies = [f"Another worker is sending them. {killed}"]
    else:
        remedies = _kept(left, waits, next_at)
    if others := elsewhere(undelivered(summaries), environment):
        remedies.append(f"{elsewhere_line(others)}.")
    total = counted(sum(left.values()), "delivery", "deliveries")
    return f"confiture-webhooks: {total} not sent ({where}). {' '.join(remedies)}"


def _kept(left: Mapping[str, int], waits: Sequence[Wait], next_at: datetime | None) -> list[str]:
    """How the outbox's deliveries go out: by the next run, or once somebody has acted."""
    going = sorted(left.keys() - {wait.endpoint for wait in waits if wait.is_in_vain})
    due = f", the first at {rfc3339(next_at)}" if next_at else ""
    kept = [f"Each is kept, and sent by the next run when it is due{due}."]
    if len(going) < len(left):
        kept = ["Each is kept."]
        kept += [f"The next run sends those to {', '.join(going)}{due}."] if going else []
    kept += [f"{wait.endpoint}: {wait.remedy}." for wait in waits]
    if left.keys() - {wait.endpoint for wait in waits}:
        all_now, due_now = shown("redeliver", "--pending"), shown("deliver")
        kept.append(f"Send all now: {all_now}." if next_at else f"Send those due now: {due_now}.")
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
    """Why deliveries to an endpoint are left."""
    if wait is not None:
        return wait.reason
    if failure is None:
        return "waiting for the next attempt"
    if failure == CUT:
        return "no answer before the run's flush_timeout"
    return f"last answer {failure}" if failure.isdigit() else f"last attempt failed: {failure}"
