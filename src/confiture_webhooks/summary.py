"""What a user reads at the end of a run that leaves deliveries behind: one line."""

from __future__ import annotations

from collections.abc import Mapping

from .outbox import Summary

OFF = "off"
"""In the place of a failure: the endpoint answered 410 once and is told nothing since."""


def leftover_line(summary: Summary, failures: Mapping[str, str], *, is_durable: bool) -> str | None:
    """How many deliveries are left, to which endpoints, why, and what to do; ``None``: none are."""
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
    return f"confiture-webhooks: {total} {noun} not sent ({where}). {remedy}"


def _reason(failure: str | None) -> str:
    if failure is None:
        return "waiting for the next attempt"
    if failure == OFF:
        return "switched off by a 410; 'confiture webhooks enable' switches it on"
    return f"last answer {failure}" if failure.isdigit() else f"last attempt failed: {failure}"
