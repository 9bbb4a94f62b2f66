"""One migration under way, as a run sees it: where it runs, when it began, how it ended."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ..event import Database, Direction, ErrorInfo, MigrationRef

if TYPE_CHECKING:
    from ..telemetry import MigrationSpan

UNKNOWN = ErrorInfo(type="Interrupted", message="how this migration ended is not known")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """Where a migration runs: the database, its ledger, and the server process.

    Its fields are those of ``Intent``; what could not be seen is ``None``.
    """

    database: Database
    ledger_table: str
    database_url: str = field(default="", repr=False)
    """For users' hooks; without the password."""
    pid: int | None = None
    started_at: datetime | None = None
    identity: str | None = None
    timeline: int | None = None
    ledger_oid: int | None = None
    ledger_before: str | None = None
    ledger_read_at: datetime | None = None
    has_lock: bool = False
    is_idle: bool = True
    """Its connection is outside a transaction: waiting now costs nobody's locks."""
    is_gone: bool = False
    """Its connection is broken before the migration begins: nothing can be committed on it."""


class Migration:
    """One migration under way. It ends once: ``succeeded``, ``failed`` or ``unknown``."""

    def __init__(
        self,
        ref: MigrationRef,
        direction: Direction,
        backend: Backend,
        span: MigrationSpan,
        *,
        conclude: Conclude,
        settle_later: Callable[[Migration], None],
        event_id: str | None = None,
    ) -> None:
        self._conclude = conclude
        self._settle_later = settle_later
        self.event_id = event_id or new_event_id()
        self.ref = ref
        self.direction = direction
        self.backend = backend
        self.span = span
        self.started_at = datetime.now(UTC)
        self._started = time.monotonic()
        self.ended_at: datetime | None = None
        self.duration_s = 0.0
        self.error: ErrorInfo | None = None
        """Why the call failed; of a migration whose outcome is unknown, too."""
        self.ask_ledger: Callable[[], bool | None] = lambda: None

    def stop_clock(self) -> None:
        """Take the time, before anything of ours is counted in. Later calls change nothing."""
        if self.ended_at is None:
            self.ended_at = datetime.now(UTC)
            self.duration_s = time.monotonic() - self._started

    def so_far(self) -> tuple[datetime, float]:
        """The time now, and the seconds since it began."""
        return datetime.now(UTC), time.monotonic() - self._started

    def row(self, *, is_success: bool) -> dict[str, object]:
        """Itself in the list of a run's event."""
        return {
            "version": self.ref.version,
            "name": self.ref.name,
            "direction": self.direction.value,
            "status": "success" if is_success else "error",
            "duration_seconds": round(self.duration_s, 6),
        }

    def succeeded(self, rows_affected: int | None) -> None:
        """It committed."""
        self._conclude(self, rows_affected, None)

    def failed(self, error: ErrorInfo) -> None:
        """It did not commit, and that is certain."""
        self._conclude(self, None, error)

    def unknown(self, ask_ledger: Callable[[], bool | None]) -> None:
        """Nobody here saw how it ended: ``finish`` asks the ledger (``None``: it cannot say)."""
        self.ask_ledger = ask_ledger
        self._settle_later(self)


Conclude = Callable[[Migration, int | None, ErrorInfo | None], object]
"""Told of a migration that ended: the rows it touched, and why it failed if it did."""


def new_event_id() -> str:
    """A fresh event id, never seen before."""
    return f"evt_{uuid.uuid4().hex}"
