"""Numbers in the lines that people read."""

from __future__ import annotations


def counted(count: int, one: str, more: str) -> str:
    """*count* and what is counted: ``1 delivery``, ``2 deliveries``."""
    return f"{count} {one if count == 1 else more}"
