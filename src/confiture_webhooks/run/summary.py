"""What a user reads at the end of a run that did not deliver everything: a line or two."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from ..delivery import Outcome, State
from ..errors import CUT
from ..event import rfc3339
from ..outbox import Summary
from ..terminal import counted

if TYPE_CHECKING:
    from pathlib import Path

    from ..outbox import Row

LOOKED_AT = 500
"""Of so many that wait a run that ends finds out whether all of them are due."""
UNKNOWN = "unknown"
"""In the place of a failure: no endpoint of that name is configured."""
_SOME_DUE = (
    "They are kept, and some are due: the next 'confiture migrate' command or 'confiture webhooks "
    "deliver' makes those; 'confiture webhooks redeliver --pending' makes the others due now."
)
_COMMAND = re.compile(r"'(confiture webhooks (?![^']*--config)[^']+)'")
NO_ENVIRONMENT = "(none)"
OFF = "off"
"""In the place of a failure: the endpoint answered 410 once and is told nothing since."""


def leftover_line(
    summaries: Mapping[str | None, Summary],
    environment: str | None,
    failures: Mapping[str, str],
    *,
    configured: Collection[str],
    next_at: datetime | None = None,
    is_all_due: bool = True,
    is_durable: bool,
    refusal: str | None = None,
) -> str | None:
    """How many deliveries are left, to which endpoints, why, and what to do; ``None``: none are.

    *next_at*: when the next of them is due, ``None``: now, or never. *is_all_due*: whether none of
    them has to wait when one is due. *refusal*: why memory stands in for the outbox. Those of
    other environments than *environment* are only counted, as an addition.
    """
    summary = summaries.get(environment, Summary())
    if not summary.undelivered:
        return None
    reasons = dict.fromkeys(summary.undelivered.keys() - set(configured), UNKNOWN)
    reasons = {**failures, **reasons}
    total = sum(summary.undelivered.values())
    is_claimed = is_durable and summary.counts.get(State.IN_FLIGHT) == total
    where = ", ".join(
        f"{name}: {count}, {'under way' if is_claimed else _reason(name, reasons.get(name))}"
        for name, count in sorted(summary.undelivered.items())
    )
    is_sent_some_day = any(reasons.get(name) not in (OFF, UNKNOWN) for name in summary.undelivered)
    is_one = total == 1
    if not is_durable:
        remedy = _lost(refusal, is_one=is_one)
    elif is_claimed:
        remedy = _claimed(next_at, is_one=is_one)
    elif is_sent_some_day and next_at is None and not is_all_due:
        remedy = _SOME_DUE
    else:
        remedy = _remedy(next_at, is_one=is_one, is_sent_some_day=is_sent_some_day)
    others = elsewhere(summaries, environment)
    more = f" {elsewhere_line(others)}" if others else ""
    left = counted(total, "delivery", "deliveries")
    return f"confiture-webhooks: {left} not sent ({where}). {remedy}{more}"


def is_all_due(
    pending: Sequence[Row], environment: str | None, names: Collection[str], now: datetime
) -> bool:
    """Whether of *pending* everything to endpoints *names* there is due; too many: it is not."""
    return len(pending) < LOOKED_AT and all(
        row.next_attempt_at is None or row.next_attempt_at <= now
        for row in pending
        if row.delivery.environment == environment and row.delivery.endpoint in names
    )


def barred(summary: Summary, off: Collection[str], configured: Collection[str]) -> dict[str, str]:
    """By endpoint that deliveries wait for and none goes out to, why: ``OFF`` or ``UNKNOWN``."""
    return {
        name: OFF if name in configured else UNKNOWN
        for name in sorted(summary.undelivered)
        if name in off or name not in configured
    }


def barred_line(name: str, why: str) -> str:
    """What waits for endpoint *name* goes out to nobody, and what to do."""
    return f"Not sent to {name}: {_reason(name, why)}"


def given_up_line(
    given_up: Mapping[str, Counter[Outcome]],
    failures: Mapping[str, str],
    *,
    is_durable: bool,
    refusal: str | None = None,
) -> str | None:
    """What the run gave up for good, and what to do; ``None``: nothing."""
    parts, remedies, lost = [], [], 0
    for name, counts in sorted(given_up.items()):
        if dead := counts[Outcome.DEAD_LETTER]:
            letters = counted(dead, "dead letter", "dead letters")
            parts.append(f"{name}: {letters}, {_reason(name, failures.get(name))}")
            remedies.append(f"'confiture webhooks redeliver --dead --endpoint {name}'")
        lost += dead + counts[Outcome.GONE]
        if counts[Outcome.GONE]:
            parts.append(f"{name}: answered 410 and is switched off")
            remedies.append(
                f"'confiture webhooks enable {name}' and 'confiture webhooks redeliver ID'"
            )
    if not parts:
        return None
    again = f"Once the receiver is well: {', '.join(remedies)}."
    remedy = again if is_durable else _lost(refusal, is_one=lost == 1)
    return f"confiture-webhooks: given up ({', '.join(parts)}). {remedy}"


def _remedy(next_at: datetime | None, *, is_one: bool, is_sent_some_day: bool) -> str:
    kept, go = ("It is kept", "goes") if is_one else ("They are kept", "go")
    if not is_sent_some_day:
        return f"{kept}."
    if next_at is None:
        return (
            f"{kept} and {go} out with the next 'confiture migrate' command, "
            "or now with 'confiture webhooks deliver'."
        )
    due, them = (" and", "it") if is_one else ("; the next is", "them")
    return (
        f"{kept}{due} due at {rfc3339(next_at)}. From then on the next 'confiture "
        "migrate' command or 'confiture webhooks deliver' makes it; "
        f"'confiture webhooks redeliver --pending' makes {them} due now."
    )


def _claimed(next_at: datetime | None, *, is_one: bool) -> str:
    """What another worker has claimed: it delivers it, or was killed, and its lease ends."""
    them, they = ("it", "it goes") if is_one else ("them", "they go")
    when = f"from {rfc3339(next_at)} on" if next_at else "when its lease has ended"
    return (
        f"Another worker has {them} in hand. If that one was killed, {they} out {when}, "
        "with the next 'confiture migrate' command or 'confiture webhooks deliver'."
    )


def _lost(refusal: str | None, *, is_one: bool) -> str:
    lost, them = ("It is lost", "it") if is_one else ("They are lost", "them")
    if refusal:
        return f"{lost} with this process, which could not use its {refusal}."
    return (
        f"{lost} with this process: "
        f"set CONFITURE_WEBHOOK_OUTBOX=sqlite to keep {them} for a later run."
    )


def naming(text: str, config: Path | None) -> str:
    """*text* whose commands name the environment file *config*: so they find the same outbox."""
    if config is None:
        return text
    file = f'"{config}"' if " " in str(config) else str(config)
    return _COMMAND.sub(lambda found: f"'{found[1]} --config {file}'", text)


def elsewhere(
    summaries: Mapping[str | None, Summary], environment: str | None
) -> dict[str | None, int]:
    """By environment other than *environment*, how many deliveries are still to make."""
    return {
        other: sum(summary.undelivered.values())
        for other, summary in summaries.items()
        if other != environment and summary.undelivered
    }


def elsewhere_line(others: Mapping[str | None, int]) -> str:
    """How many *others* there are, and what to do."""
    return (
        f"Waiting for other environments: {listed(others)}; "
        "'confiture webhooks deliver --config' with the file of one makes what is due there."
    )


def listed(others: Mapping[str | None, int]) -> str:
    """*others* in words."""
    return ", ".join(f"{name} {count}" for name, count in by_environment(others).items())


def by_environment(others: Mapping[str | None, int]) -> dict[str, int]:
    """*others* with a word for no environment."""
    return {name if name is not None else NO_ENVIRONMENT: n for name, n in others.items()}


def _reason(name: str, failure: str | None) -> str:
    if failure is None:
        return "waiting for the next attempt"
    if failure == OFF:
        return f"switched off by a 410; 'confiture webhooks enable {name}' switches it on"
    if failure == UNKNOWN:
        return (
            "no endpoint of that name is configured; "
            f"'confiture webhooks discard --endpoint {name}' drops what waits for it"
        )
    if failure == CUT:
        return "no answer before the run's flush_timeout"
    return f"last answer {failure}" if failure.isdigit() else f"last attempt failed: {failure}"
