"""The result of a check of a set-up: one row, with its remedy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import partial


class Health(StrEnum):
    """The result of a check."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Check:
    """One row of the table, as ``--format json`` prints it."""

    status: Health
    check: str
    detail: str
    remedy: str | None = None


ok = partial(Check, Health.OK)
warn = partial(Check, Health.WARNING)
"""It works, and might not always."""
wrong = partial(Check, Health.PROBLEM)
skipped = partial(Check, Health.SKIPPED)
