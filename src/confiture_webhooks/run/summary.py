"""The lines at the end of a run that did not deliver everything. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from ..delivery import Outcome, State
from ..errors import CUT
from ..event import rfc3339
from ..outbox import Summary
from ..outlook import Wait, elsewhere, elsewhere_line
from ..remedy import shown
from ..terminal import counted

if TYPE_CHECKING:
    from ..outbox import Row

LOOKED_AT = 500
"""How many pending deliveries are read at most to find out whether all of them are due."""


def undelivered(summaries: Mapping[str | None, Summary]) -> dict[str | None, int]:
    """How many deliveries wait, by environment."""
    return {name: sum(one.undelivered.values()) for name, one in summaries.items()}


class Loss(NamedTuple):
    """Why what is not sent is lost: it is in memory."""

    refusal: str | None = None
    """Why memory stands in for the configured outbox."""
    is_project: bool = True
    """Whether the command ran in a Confiture project."""


def leftover_line(
    summaries: Mapping[str | None, Summary],
    environment: str | None,
    failures: Mapping[str, str],
    *,
    waits: Sequence[Wait] = (),
    next_at: datetime | None = None,
    is_all_due: bool = True,
    loss: Loss | None = None,
) -> str | None:
    """How many deliveries are left, to which endpoints, why, and what to do; ``None``: none are.

    *failures*: by endpoint, why its latest attempt failed. *waits*: who rests, or waits in vain.
    *next_at*: when the next is due, ``None``: now, or never. *is_all_due*: whether all of them are
    due now. *loss*: ``None`` when the outbox keeps them.
    """
    summary = summaries.get(environment, Summary())
    if not summary.undelivered:
        return None
    by_name = {wait.endpoint: wait for wait in waits}
    total = sum(summary.undelivered.values())
    is_claimed = loss is None and summary.counts.get(State.IN_FLIGHT) == total
    where = ", ".join(
        f"{name}: {count}, "
        + ("under way" if is_claimed else _reason(failures.get(name), by_name.get(name)))
        for name, count in sorted(summary.undelivered.items())
    )
    if loss is not None:
        remedies = [_lost(loss, is_one=total == 1)]
    elif is_claimed:
        remedies = [_claimed(next_at, is_one=total == 1)]
    else:
        found = [by_name.get(name) for name in summary.undelivered]
        remedies = [_kept(next_at, found, is_one=total == 1, is_all_due=is_all_due)]
        remedies += [f"{wait.endpoint}: {wait.remedy}." for wait in waits if wait.is_in_vain]
    if others := elsewhere(undelivered(summaries), environment):
        remedies.append(f"{elsewhere_line(others)}.")
    left = counted(total, "delivery", "deliveries")
    return f"confiture-webhooks: {left} not sent ({where}). {' '.join(remedies)}"


def is_all_due(
    pending: Sequence[Row], environment: str | None, names: Collection[str], now: datetime
) -> bool:
    """Whether all of *pending* to endpoints *names* there is due; too many: it is not known."""
    return len(pending) < LOOKED_AT and all(
        row.next_attempt_at is None or row.next_attempt_at <= now
        for row in pending
        if row.delivery.environment == environment and row.delivery.endpoint in names
    )


def given_up_line(
    given_up: Mapping[str, Counter[Outcome]],
    failures: Mapping[str, str],
    loss: Loss | None = None,
) -> str | None:
    """Which deliveries the run will not send again, and what to do; ``None``: none."""
    parts, lost = [], 0
    for name, counts in sorted(given_up.items()):
        dead, gone = counts[Outcome.DEAD_LETTER], counts[Outcome.GONE]
        lost += dead + gone
        if dead:
            letters = counted(dead, "dead letter", "dead letters")
            parts.append(f"{name}: {letters}, {_reason(failures.get(name))}.")
            again = shown("redeliver", "--dead", "--endpoint", name)
            parts += [f"Once it works again: {again}."] if loss is None else []
        if gone:
            parts.append(f"{name}: answered 410 and is switched off.")
            again = shown("redeliver", "--gone", "--endpoint", name)
            on = shown("enable", name)
            parts += [f"Once it works again: {on} and {again}."] if loss is None else []
    if not parts:
        return None
    parts += [_lost(loss, is_one=lost == 1)] if loss is not None else []
    return f"confiture-webhooks: {' '.join(parts)}"


def _reason(failure: str | None, wait: Wait | None = None) -> str:
    """Why deliveries to an endpoint are left."""
    if wait is not None and wait.is_in_vain:
        return wait.reason
    if failure is None:
        reason = "waiting for the next attempt"
    elif failure == CUT:
        reason = "no answer before the run's flush_timeout"
    else:
        answer = "last answer" if failure.isdigit() else "last attempt failed:"
        reason = f"{answer} {failure}"
    return f"{reason}, {wait.reason}" if wait is not None else reason


def _kept(
    next_at: datetime | None, waits: Sequence[Wait | None], *, is_one: bool, is_all_due: bool
) -> str:
    """That the outbox keeps them, when they are sent, and how to send them now.

    *waits*: of each endpoint that has some.
    """
    kept, them = ("It is kept", "it") if is_one else ("They are kept", "them")
    deliver = shown("deliver")
    everything = shown("redeliver", "--pending")
    sent = [wait for wait in waits if wait is None or not wait.is_in_vain]
    if not sent:
        return f"{kept}."
    if next_at is None and not is_all_due:
        return f"{kept}, and some are due. Send those now: {deliver}. Send all now: {everything}."
    if next_at is None:
        return f"{kept}, and the next run sends {them}. Send {them} now: {deliver}."
    due = f"{kept}{' and' if is_one else '; the next is'} due at {rfc3339(next_at)}"
    if all(wait is not None for wait in sent):
        return f"{due}. The next run after that sends {them}. Send {them} then: {deliver}."
    return f"{due}. The next run after that sends {them}. Send {them} now: {everything}."


def _claimed(next_at: datetime | None, *, is_one: bool) -> str:
    """Another worker has claimed them: it sends them, or was killed, and its lease ends."""
    them = "it" if is_one else "them"
    when = f"from {rfc3339(next_at)} on" if next_at else "when its lease has ended"
    return (
        f"Another worker is sending {them}. If it was killed, send {them} {when}: "
        f"{shown('deliver')}."
    )


def _lost(loss: Loss, *, is_one: bool) -> str:
    lost, them = ("It is lost", "it") if is_one else ("They are lost", "them")
    if loss.refusal:
        return f"{lost} with this process, which could not use its {loss.refusal}."
    if not loss.is_project:
        return (
            f"{lost} with this process: this directory is no Confiture project, so no outbox was "
            "created. Run the command in the project's directory."
        )
    return (
        f"{lost} with this process. "
        f"To keep {them} for a later run, set CONFITURE_WEBHOOK_OUTBOX=sqlite."
    )
