"""The outbox: keeps every event until each endpoint has it, in SQLite, PostgreSQL or memory."""

from .outbox import KEPT_FOR, Outbox, Release
from .summary import UNSETTLED_FOR, LeftBehind, Summary, waiting_elsewhere
from .values import NO_ROW, Claim, Committed, Facts, Intent, Row, Unreadable, UnreadableIntent

__all__ = [
    "KEPT_FOR",
    "NO_ROW",
    "UNSETTLED_FOR",
    "Claim",
    "Committed",
    "Facts",
    "Intent",
    "LeftBehind",
    "Outbox",
    "Release",
    "Row",
    "Summary",
    "Unreadable",
    "UnreadableIntent",
    "waiting_elsewhere",
]
