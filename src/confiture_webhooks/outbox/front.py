"""The front of an endpoint's line: the runs that can be claimed, and when the next can be."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ..outlook import EndpointStatus
from . import rows, schema

WAKE_BATCH = 5_000
"""So many retries become ready at once: a statement must end in its time."""
WINDOW = 64
"""So many of the first deliveries are looked at to find a run to claim."""
RUNS = 16
CANDIDATES = 4
END_OF_TIME = 2**62
QUICK_S = 0.005
PASSED = 1_000
"""A look that takes longer is not repeated for each claim, once so many have been passed."""


@dataclass(frozen=True, slots=True)
class Look:
    """The front of a line as a look at *now* saw it."""

    now: datetime
    latest: int
    """The latest instant that a clock that is right can have put anything off to."""
    closed: EndpointStatus
    """Since when the endpoint is off, and until when it rests; ``None``: it is on, it does not."""
    heads: Sequence[schema.Stored]
    """The first deliveries of runs that no lease holds, oldest first."""
    hides: bool
    """Whether there may be more runs than these: the look ends after some rows."""
    waiting: Sequence[object]
    """When the first and the last of those that wait become ready."""

    def candidates(self) -> dict[str, Any]:
        """The oldest runs that can be claimed, as values of ``lease``; empty: none can."""
        if any(self.closed) or not self.heads:
            return {}
        seqs = [head["head"] for head in self.heads[:CANDIDATES]]
        seqs += seqs[-1:] * (CANDIDATES - len(seqs))
        return {f"head{number}": seq for number, seq in enumerate(seqs)}

    def next_at(self, claimed: object = None) -> datetime | None:
        """When something can be claimed, which may be past, beside the run that is *claimed*."""
        if self.closed.off_since is not None:
            return None
        # One that is ready was put off by a clock that was ahead, if at all.
        due = [
            min(rows.at_best(head["due_at"]) or self.now, self.now)
            for head in self.heads
            if claimed is None or head["run"] != claimed
        ]
        if claimed is not None and self.hides:
            due.append(self.now)
        for wakes_at in self.waiting:
            is_over = _is_due(wakes_at, None, self.latest)
            due.append(self.now if is_over else rows.at_best(wakes_at) or self.now)
        return max(min(due), self.closed.rests_until or min(due)) if due else None


@dataclass(eq=False, repr=False)
class Front:
    """The front of one endpoint's line, in one environment.

    Each look passes over the rows that a long transaction keeps alive for others. If that takes
    long, looks begin for a while where the last whole one found its first row.
    """

    _store: schema.Store
    place: Mapping[str, Any]
    _origin: int | None = None
    _floor: int = 0
    """No delivery that is ready was released before this one."""
    _cost_s: float = 0.0
    _looked_at: float = 0.0
    _waiting: Sequence[object] = ()

    def woken(self, now: datetime, max_wait: timedelta | None) -> Look:
        """Look, and once more if something that waited was due, which is ready then."""
        look, at = self.look(now, max_wait), rows.instant(now)
        if any(look.closed):
            return look
        waking = {**self.place, "now": at, "horizon": look.latest, "limit": WAKE_BATCH}
        is_woken = False
        names = ("make_ready", at), ("make_unbelievable_ready", None)
        for wakes_at, (name, bound) in zip(look.waiting, names, strict=False):
            if _is_due(wakes_at, bound, look.latest):
                is_woken = True
                schema.write_all(self._store, name, waking, is_synced=False)
        if not is_woken:
            return look
        self._cost_s = 0.0
        return self.look(now, max_wait)

    def look(self, now: datetime, max_wait: timedelta | None) -> Look:
        """Whether the endpoint is on, and the first deliveries of runs that no lease holds."""
        looking = {**self.place, "window": WINDOW, "runs": RUNS, "floor": 0}
        has_passed = self._origin is not None and self._floor - self._origin > PASSED
        is_slow = has_passed and self._cost_s > QUICK_S
        status: schema.Found = ()
        seen: schema.Found = ()
        ends = self._waiting
        if is_slow and time.monotonic() - self._looked_at < 20 * self._cost_s:
            from_floor = looking | {"floor": self._floor}
            status, seen = self._store.read(("status", self.place), ("look", from_floor))
        if not seen:
            started = time.monotonic()
            status, [waiting], seen = self._store.read(
                ("status", self.place), ("waiting", self.place), ("look", looking)
            )
            self._looked_at = time.monotonic()
            self._cost_s = self._looked_at - started
            found = (waiting["first_at"], waiting["last_at"])
            ends = self._waiting = [at for at in found if at is not None]
        self._floor = seen[0]["first"] if seen else 0
        if self._origin is None and seen:
            self._origin = self._floor
        hides = len(seen) >= RUNS or sum(row["ready"] for row in seen) >= WINDOW
        free = [row for row in seen if not row["is_held"]]
        if seen and not free:  # runs that are held may hide others
            status, seen = self._store.read(("status", self.place), ("look_elsewhere", looking))
            free = [row for row in seen if not row["is_held"]]
        latest, (off_since, until) = horizon(now, max_wait), status_of(status)
        rests = until is not None and now < until and rows.instant(until) <= latest
        closed = EndpointStatus(off_since, until if rests else None)
        return Look(now, latest, closed, free, hides, ends)


def status_of(found: schema.Found) -> EndpointStatus:
    """Whether an endpoint is off or rests, by its row; off also if since when cannot be read."""
    if not found:
        return EndpointStatus(None, None)
    off_since = found[0]["off_since"]
    off_at = None if off_since is None else rows.at_best(off_since) or rows.EPOCH
    return EndpointStatus(off_at, rows.at_best(found[0]["rests_until"]))


def horizon(now: datetime, max_wait: timedelta | None) -> int:
    """The latest instant that a clock that is right can have put anything off to."""
    return rows.instant(now + max_wait) if max_wait is not None else END_OF_TIME


def _is_due(stored: object, now: int | None, latest: int) -> bool:
    """Whether what waits for *stored* is due at *now*, or waits longer than can be."""
    if not isinstance(stored, int):
        return True
    return (now is not None and stored <= now) or stored > latest
