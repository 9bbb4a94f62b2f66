"""The outbox: keeps every event until each endpoint has it, in SQLite, PostgreSQL or memory."""

from ..outlook import Standing
from .outbox import Outbox, Release, Store
from .values import (
    NO_ROW,
    Claim,
    Intent,
    Row,
    Summary,
    Unreadable,
    UnreadableIntent,
    total,
)

__all__ = [
    "NO_ROW",
    "Claim",
    "Intent",
    "Outbox",
    "Release",
    "Row",
    "Standing",
    "Store",
    "Summary",
    "Unreadable",
    "UnreadableIntent",
    "total",
]
