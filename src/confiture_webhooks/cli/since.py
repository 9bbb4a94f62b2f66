"""``--since``: an instant, or how long ago."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_AGO = re.compile(r"(\d{1,6})\s*(s|min|m|h|d|w)")
_UNITS = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "min": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}


def since(text: str, now: datetime) -> datetime:
    """The instant *text* means: ``90min``, ``2h``, ``7d``, a date, or a date with a time.

    Without an offset it is UTC, as everything the commands print. Raises ValueError.
    """
    if ago := _AGO.fullmatch(text.strip().lower()):
        try:
            return now - int(ago[1]) * _UNITS[ago[2]]
        except OverflowError:
            return datetime.min.replace(tzinfo=UTC)
    try:
        instant = datetime.fromisoformat(text.strip())
    except ValueError:
        message = f"{text!r} is neither an instant (2026-01-09T14:00) nor an age (90min, 2h, 7d)"
        raise ValueError(message) from None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)
