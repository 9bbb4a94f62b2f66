"""The outbox: keeps every event until each endpoint has it, in SQLite, PostgreSQL or memory."""

from .outbox import Outbox, Release
from .values import NO_ROW, Claim, Facts, Intent, Row, Summary, Unreadable, UnreadableIntent

__all__ = [
    "NO_ROW",
    "Claim",
    "Facts",
    "Intent",
    "Outbox",
    "Release",
    "Row",
    "Summary",
    "Unreadable",
    "UnreadableIntent",
]
