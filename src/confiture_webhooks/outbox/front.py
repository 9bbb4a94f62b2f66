"""The front of an endpoint's line: the runs that can be claimed, and when the next can be."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from ..outlook import Standing
from . import rows

WAKE_BATCH = 5_000
"""So many retries become ready at once: a statement must end in its time."""
WINDOW = 64
"""So many of the first deliveries are looked at to find a run to claim."""
CANDIDATES = 4
END_OF_TIME = 2**62
QUICK_S = 0.005
PASSED = 1_000
"""A look that takes longer is not repeated for each claim, once so many have been passed."""


class Front:
    """The front of one endpoint's line, in one environment.

    Each look passes over the rows that a long transaction keeps alive for others. If that takes
    long, the result of the last look is used for a while.
    """

    def __init__(self, store: rows.Store, place: Mapping[str, Any]) -> None:
        self._store = store
        self.place = place
        self._origin: int | None = None
        self._floor = 0
        """No delivery that is ready was released before this one."""
        self._cost_s = self._looked_at = 0.0
        self._waiting: Sequence[object] = ()
        """When the first and the last of those that wait become ready."""
        self._seen: tuple[Standing, list[rows.Stored]] | None = None

    def runs(self, now: datetime, max_wait: timedelta | None) -> dict[str, Any]:
        """The oldest runs that can be claimed at *now*, as values of ``lease``; empty: none can."""
        at, latest = rows.instant(now), horizon(now, max_wait)
        (off_since, rests_until), heads = self._look()
        if off_since or _rests(rests_until, now, max_wait):
            return {}
        waking = {**self.place, "now": at, "horizon": latest, "limit": WAKE_BATCH}
        is_woken = False
        names = ("make_ready", at), ("make_unbelievable_ready", None)
        for wakes_at, (name, bound) in zip(self._waiting, names, strict=False):
            if _is_due(wakes_at, bound, latest):
                is_woken = True
                rows.write_all(self._store, name, waking, is_synced=False)
        if is_woken:
            self._cost_s = 0.0
            _, heads = self._look()
        seqs = [head["head"] for head in heads[:CANDIDATES]]
        seqs += seqs[-1:] * (CANDIDATES - len(seqs))
        return {f"head{number}": seq for number, seq in enumerate(seqs)}

    def next_at(
        self, now: datetime, max_wait: timedelta | None, *, is_seen: bool
    ) -> datetime | None:
        """When something can be claimed, which may be past; *is_seen*: by the last look."""
        (off_since, rests_until), heads = (is_seen and self._seen) or self._look()
        if off_since is not None:
            return None
        due = [rows.at_best(head["due_at"]) or now for head in heads]
        for wakes_at in self._waiting:
            is_over = _is_due(wakes_at, None, horizon(now, max_wait))
            due.append(now if is_over else rows.at_best(wakes_at) or now)
        if due and rests_until is not None and _rests(rests_until, now, max_wait):
            due = [max(min(due), rests_until)]
        return min(due, default=None)

    def _look(self) -> tuple[Standing, list[rows.Stored]]:
        """Whether the endpoint is on, and the first deliveries of runs that no lease holds."""
        looking = {**self.place, "window": WINDOW, "floor": 0}
        has_passed = self._origin is not None and self._floor - self._origin > PASSED
        is_slow = has_passed and self._cost_s > QUICK_S
        standing: rows.Found = ()
        seen: rows.Found = ()
        if is_slow and time.monotonic() - self._looked_at < 20 * self._cost_s:
            from_floor = looking | {"floor": self._floor}
            standing, seen = self._store.read(("standing", self.place), ("look", from_floor))
        if not seen:
            started = time.monotonic()
            standing, [waiting], seen = self._store.read(
                ("standing", self.place), ("waiting", self.place), ("look", looking)
            )
            self._looked_at = time.monotonic()
            self._cost_s = self._looked_at - started
            ends = (waiting["first_at"], waiting["last_at"])
            self._waiting = [at for at in ends if at is not None]
        self._floor = seen[0]["first"] if seen else 0
        if self._origin is None and seen:
            self._origin = self._floor
        free = [row for row in seen if not row["is_held"]]
        if seen and not free:  # runs that are held may hide others
            standing, seen = self._store.read(("standing", self.place), ("look_elsewhere", looking))
            free = [row for row in seen if not row["is_held"]]
        # Another lane's look may replace what is kept, but not what this one answers.
        found = self._seen = standing_of(standing), free
        return found


def standing_of(found: rows.Found) -> Standing:
    """Whether an endpoint is off or rests, by its row; off also if since when cannot be read."""
    if not found:
        return Standing(None, None)
    off_since = found[0]["off_since"]
    off_at = None if off_since is None else rows.at_best(off_since) or rows.EPOCH
    return Standing(off_at, rows.at_best(found[0]["rests_until"]))


def horizon(now: datetime, max_wait: timedelta | None) -> int:
    """The latest instant that a clock that is right can have put anything off to."""
    return rows.instant(now + max_wait) if max_wait is not None else END_OF_TIME


def _rests(until: datetime | None, now: datetime, max_wait: timedelta | None) -> bool:
    return until is not None and now < until and (max_wait is None or until <= now + max_wait)


def _is_due(stored: object, now: int | None, latest: int) -> bool:
    """Whether what waits for *stored* is due at *now*, or waits longer than can be."""
    if not isinstance(stored, int):
        return True
    return (now is not None and stored <= now) or stored > latest
