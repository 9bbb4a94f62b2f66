"""What a user reads at the end of a run that leaves deliveries behind: one line."""

from __future__ import annotations

from collections.abc import Mapping

from .errors import CUT
from .outbox import Summary

NO_ENVIRONMENT = "(none)"
OFF = "off"
"""In the place of a failure: the endpoint answered 410 once and is told nothing since."""


def leftover_line(
    summaries: Mapping[str | None, Summary],
    environment: str | None,
    failures: Mapping[str, str],
    *,
    is_durable: bool,
) -> str | None:
    """How many deliveries are left, to which endpoints, why, and what to do; ``None``: none are.

    Those of other environments than *environment* are only counted, as an addition.
    """
    summary = summaries.get(environment, Summary())
    if not summary.undelivered:
        return None
    total = sum(summary.undelivered.values())
    where = ", ".join(
        f"{name}: {count}, {_reason(failures.get(name))}"
        for name, count in sorted(summary.undelivered.items())
    )
    noun = "delivery" if total == 1 else "deliveries"
    remedy = (
        "They are kept and go out with the next 'confiture migrate' command, "
        "or now with 'confiture webhooks deliver'."
        if is_durable
        else "They are lost with this process: "
        "set CONFITURE_WEBHOOK_OUTBOX=sqlite to keep them for a later run."
    )
    others = elsewhere(summaries, environment)
    more = f" {elsewhere_line(others)}" if others else ""
    return f"confiture-webhooks: {total} {noun} not sent ({where}). {remedy}{more}"


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


def _reason(failure: str | None) -> str:
    if failure is None:
        return "waiting for the next attempt"
    if failure == OFF:
        return "switched off by a 410; 'confiture webhooks enable' switches it on"
    if failure == CUT:
        return "no answer before the run's flush_timeout"
    return f"last answer {failure}" if failure.isdigit() else f"last attempt failed: {failure}"
