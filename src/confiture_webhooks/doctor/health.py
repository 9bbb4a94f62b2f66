"""What a check of a set-up came to: one row, with what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Health(StrEnum):
    """What a check came to."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One row of the table, against this set-up."""

    name: str
    health: Health
    detail: str
    remedy: str | None = None

    def as_dict(self) -> dict[str, object]:
        """The row as ``--format json`` prints it."""
        return {
            "check": self.name,
            "status": self.health.value,
            "detail": self.detail,
            "remedy": self.remedy,
        }


def ok(name: str, detail: str) -> Check:
    """All is well."""
    return Check(name=name, health=Health.OK, detail=detail)


def warn(name: str, detail: str, remedy: str) -> Check:
    """It works, and might not always."""
    return Check(name=name, health=Health.WARNING, detail=detail, remedy=remedy)


def wrong(name: str, detail: str, remedy: str) -> Check:
    """It does not work."""
    return Check(name=name, health=Health.PROBLEM, detail=detail, remedy=remedy)


def skipped(name: str, detail: str) -> Check:
    """Nothing was checked."""
    return Check(name=name, health=Health.SKIPPED, detail=detail)
