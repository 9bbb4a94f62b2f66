"""What a user reads at the end of a run that did not deliver everything: a line or two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from datetime import datetime

from ..delivery import Outcome
from ..errors import CUT
from ..event import rfc3339
from ..outbox import Summary

UNKNOWN = "unknown"
"""In the place of a failure: no endpoint of that name is configured."""
_LOST = "They are lost with this process"
_KEEP = f"{_LOST}: set CONFITURE_WEBHOOK_OUTBOX=sqlite to keep them for a later run."
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
    is_durable: bool,
    refusal: str | None = None,
) -> str | None:
    """How many deliveries are left, to which endpoints, why, and what to do; ``None``: none are.

    *next_at*: when the next of them is due, ``None``: now, or never. *refusal*: why memory stands
    in for the outbox. Those of other environments than *environment* are only counted, as an
    addition.
    """
    summary = summaries.get(environment, Summary())
    if not summary.undelivered:
        return None
    reasons = dict.fromkeys(summary.undelivered.keys() - set(configured), UNKNOWN)
    reasons = {**failures, **reasons}
    total = sum(summary.undelivered.values())
    where = ", ".join(
        f"{name}: {count}, {_reason(name, reasons.get(name))}"
        for name, count in sorted(summary.undelivered.items())
    )
    noun = "delivery" if total == 1 else "deliveries"
    is_sent_some_day = any(reasons.get(name) not in (OFF, UNKNOWN) for name in summary.undelivered)
    remedy = _remedy(next_at, is_sent_some_day=is_sent_some_day) if is_durable else _lost(refusal)
    others = elsewhere(summaries, environment)
    more = f" {elsewhere_line(others)}" if others else ""
    return f"confiture-webhooks: {total} {noun} not sent ({where}). {remedy}{more}"


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
    parts, remedies = [], []
    for name, counts in sorted(given_up.items()):
        if dead := counts[Outcome.DEAD_LETTER]:
            noun = "dead letter" if dead == 1 else "dead letters"
            parts.append(f"{name}: {dead} {noun}, {_reason(name, failures.get(name))}")
            remedies.append(f"'confiture webhooks redeliver --dead --endpoint {name}'")
        if counts[Outcome.GONE]:
            parts.append(f"{name}: answered 410 and is switched off")
            remedies.append(
                f"'confiture webhooks enable {name}' and 'confiture webhooks redeliver ID'"
            )
    if not parts:
        return None
    again = f"Once the receiver is well: {', '.join(remedies)}."
    remedy = again if is_durable else _lost(refusal)
    return f"confiture-webhooks: given up ({', '.join(parts)}). {remedy}"


def _lost(refusal: str | None) -> str:
    return f"{_LOST}, which could not use its {refusal}." if refusal else _KEEP


def _remedy(next_at: datetime | None, *, is_sent_some_day: bool) -> str:
    if not is_sent_some_day:
        return "They are kept."
    if next_at is None:
        return (
            "They are kept and go out with the next 'confiture migrate' command, "
            "or now with 'confiture webhooks deliver'."
        )
    return (
        f"They are kept; the next is due at {rfc3339(next_at)}. From then on the next 'confiture "
        "migrate' command or 'confiture webhooks deliver' makes it; "
        "'confiture webhooks redeliver --pending' makes them due now."
    )


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
