"""The outbox: keeps every event until each endpoint has it, in SQLite, PostgreSQL or memory."""

from .outbox import KEPT_FOR, Outbox, Release
from .values import (
    NO_ROW,
    UNSETTLED_FOR,
    Claim,
    Committed,
    Facts,
    Intent,
    Left,
    Row,
    Summary,
    Unreadable,
    UnreadableIntent,
)

__all__ = [
    "KEPT_FOR",
    "NO_ROW",
    "UNSETTLED_FOR",
    "Claim",
    "Committed",
    "Facts",
    "Intent",
    "Left",
    "Outbox",
    "Release",
    "Row",
    "Summary",
    "Unreadable",
    "UnreadableIntent",
]
