"""What in an outbox nobody will deliver without an operator. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ..event import rfc3339

if TYPE_CHECKING:
    from ..outbox import Summary

UNSETTLED_FOR = timedelta(days=1)
"""A run that has ended is settled by the next one; so long, and nobody can."""


def stuck(
    summary: Summary,
    configured: Collection[str],
    *,
    off: Mapping[str, datetime],
    late: Mapping[str, datetime],
    unqueued: Collection[str] = (),
) -> dict[str, str]:
    """By endpoint, why what it waits for does not come.

    *off*: since when an endpoint is off. *late*: endpoints with something due for too long,
    and since when. *unqueued*: those of which nothing will ever be due.
    """
    reasons = {
        name: f"no such endpoint is configured ({count} waiting)"
        for name, count in summary.undelivered.items()
        if name not in configured and name not in off
    }
    reasons |= {
        name: f"{count} waiting, and none of them in the queue; 'confiture webhooks redeliver "
        "--pending' puts them there"
        for name, count in summary.undelivered.items()
        if name in unqueued
    }
    reasons |= {name: f"due since {rfc3339(at)}, no worker runs" for name, at in late.items()}
    reasons |= {
        name: f"off since {rfc3339(at)} ({summary.undelivered.get(name, 0)} waiting)"
        for name, at in off.items()
    }
    return reasons
