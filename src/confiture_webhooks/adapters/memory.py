"""The outbox of one process: complete, thread-safe, gone with the process."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from itertools import count, islice

from ..delivery import Attempt, Decision, Delivery, Outcome, State
from ..event import EventType
from ..outbox import Claim, Intent, Row, Summary, total

UNDELIVERED = frozenset({State.PENDING, State.IN_FLIGHT})

_Where = tuple[str, str | None]
"""An endpoint's name, and the environment it has that name in."""


@dataclass(slots=True)
class _Entry:
    """One delivery, where it stands, and what was tried."""

    delivery: Delivery
    sequence: int
    due_at: datetime
    state: State = State.PENDING
    is_ready: bool = True
    """Due already: it waits for nothing but a claim."""
    lease_until: datetime | None = None
    token: str | None = None
    tries: int = 0
    attempts: list[Attempt] = field(default_factory=list)
    finished_at: datetime | None = None

    @property
    def where(self) -> _Where:
        """Whom it is for."""
        return self.delivery.endpoint, self.delivery.environment

    @property
    def wakes_at(self) -> datetime:
        """When it becomes claimable, unless it is ready."""
        return self.lease_until or self.due_at

    def row(self) -> Row:
        """Itself, for operators."""
        return Row(
            delivery=self.delivery,
            state=self.state,
            attempts=len(self.attempts),
            next_attempt_at=self.due_at if self.state is State.PENDING else None,
        )


@dataclass(slots=True)
class _Lane:
    """What an endpoint has to deliver. Heap entries that no longer hold are skipped."""

    ready: list[int] = field(default_factory=list)
    """Sequences of what is due, a heap: claims come in the order of release."""
    waiting: list[tuple[datetime, int]] = field(default_factory=list)
    """What becomes claimable later, a heap by when."""


class InMemoryOutbox:
    """Keeps everything in this process; a run without a usable disk goes on with it."""

    is_durable = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sequences = count(1)
        self._tokens = count(1)
        self._intents: dict[str, Intent] = {}
        self._released: dict[str, datetime] = {}
        self._entries: dict[int, _Entry] = {}
        self._by_id: dict[str, _Entry] = {}
        self._lanes: defaultdict[_Where, _Lane] = defaultdict(_Lane)
        self._off: dict[_Where, datetime] = {}

    def stage(self, intent: Intent) -> None:
        """Remember that a migration is about to run; a second time, or late, changes nothing."""
        with self._lock:
            if intent.event_id not in self._released:
                self._intents.setdefault(intent.event_id, intent)

    def intents(self) -> Sequence[Intent]:
        """Those staged and not released, oldest first."""
        with self._lock:
            return sorted(self._intents.values(), key=lambda intent: intent.staged_at)

    def release(self, event_id: str, deliveries: Sequence[Delivery]) -> None:
        """Replace the intent, if any, by its deliveries."""
        with self._lock:
            if event_id in self._released:
                return
            self._released[event_id] = datetime.now(UTC)
            self._intents.pop(event_id, None)
            for delivery in deliveries:
                entry = _Entry(delivery, next(self._sequences), delivery.created_at)
                self._entries[entry.sequence] = entry
                self._by_id[delivery.id] = entry
                self._make_ready(entry)

    def claim(
        self,
        endpoint: str,
        *,
        environment: str | None,
        now: datetime,
        lease: timedelta,
        limit: int = 1,
    ) -> Sequence[Claim]:
        """Up to *limit* of *environment* for *endpoint* that are due at *now*, oldest first."""
        with self._lock:
            if (endpoint, environment) in self._off:
                return []
            lane = self._lanes[endpoint, environment]
            while (entry := self._next_waiting(lane)) and entry.wakes_at <= now:
                self._make_ready(entry)
            claims: list[Claim] = []
            while len(claims) < limit and (entry := self._next_ready(lane)):
                entry.state, entry.is_ready = State.IN_FLIGHT, False
                entry.lease_until, entry.token = now + lease, f"{next(self._tokens)}"
                heappush(lane.waiting, (entry.wakes_at, entry.sequence))
                claims.append(
                    Claim(
                        delivery=entry.delivery,
                        token=entry.token,
                        attempts=len(entry.attempts),
                        tries=entry.tries,
                    )
                )
            return claims

    def record(self, claim: Claim, attempt: Attempt, decision: Decision) -> bool:
        """Keep *attempt* and move the delivery as decided; ``False``: the lease was lost."""
        with self._lock:
            entry = self._held(claim)
            if entry is None:
                return False
            finished_at = attempt.started_at + attempt.duration
            entry.attempts.append(attempt)
            entry.tries += 1
            entry.state, entry.is_ready = decision.outcome.state, False
            entry.lease_until = entry.token = None
            if decision.next_attempt_at is not None:
                entry.due_at = decision.next_attempt_at
                lane = self._lanes[entry.where]
                heappush(lane.waiting, (entry.due_at, entry.sequence))
            else:
                entry.finished_at = finished_at
            if decision.outcome is Outcome.GONE:
                self._off.setdefault(entry.where, finished_at)
            return True

    def give_back(self, claim: Claim) -> None:
        """End the lease without an attempt; the delivery is due as before."""
        with self._lock:
            if entry := self._held(claim):
                entry.state = State.PENDING
                entry.lease_until = entry.token = None
                self._make_ready(entry)

    def next_due_at(self, endpoint: str, environment: str | None) -> datetime | None:
        """When there is something to claim for *endpoint* there; ``None``: nothing is waiting."""
        with self._lock:
            if (endpoint, environment) in self._off:
                return None
            lane = self._lanes[endpoint, environment]
            if entry := self._next_ready(lane):
                heappush(lane.ready, entry.sequence)
                return entry.due_at
            entry = self._next_waiting(lane)
            return entry.wakes_at if entry else None

    def disable(self, endpoint: str, environment: str | None, at: datetime) -> None:
        """Switch *endpoint* off there: its deliveries wait. Off already: since when stays."""
        with self._lock:
            self._off.setdefault((endpoint, environment), at)

    def enable(self, endpoint: str, environment: str | None) -> bool:
        """Switch *endpoint* on again in *environment*; ``False``: it was not off."""
        with self._lock:
            return self._off.pop((endpoint, environment), None) is not None

    def disabled(self, environment: str | None) -> Mapping[str, datetime]:
        """The endpoints that are off in *environment*, and since when."""
        with self._lock:
            return {name: at for (name, where), at in self._off.items() if where == environment}

    def redeliver(self, delivery_id: str, *, now: datetime) -> bool:
        """Start the schedule of one that is not in flight over, due now; ``False``: no such one."""
        with self._lock:
            entry = self._by_id.get(delivery_id)
            if entry is None or entry.state is State.IN_FLIGHT:
                return False
            entry.state, entry.tries, entry.due_at = State.PENDING, 0, now
            entry.finished_at = None
            self._make_ready(entry)
            return True

    def discard(self, delivery_id: str, *, now: datetime) -> bool:
        """Forget a delivery, unless a lease on it holds at *now*; ``False``: no such one."""
        with self._lock:
            entry = self._by_id.get(delivery_id)
            if entry is None or (entry.lease_until is not None and entry.lease_until > now):
                return False
            del self._by_id[self._entries.pop(entry.sequence).delivery.id]
            return True

    def prune(self, *, before: datetime, keep: int) -> int:
        """Forget deliveries delivered before *before*, and all but the last *keep* delivered."""
        with self._lock:
            delivered = sorted(
                (entry.finished_at, entry.sequence)
                for entry in self._entries.values()
                if entry.state is State.DELIVERED and entry.finished_at is not None
            )
            surplus = max(0, len(delivered) - keep)
            doomed = [
                sequence
                for place, (finished_at, sequence) in enumerate(delivered)
                if place < surplus or finished_at < before
            ]
            for sequence in doomed:
                del self._by_id[self._entries.pop(sequence).delivery.id]
            kept = {entry.delivery.event_id for entry in self._entries.values()}
            self._released = {
                event_id: at
                for event_id, at in self._released.items()
                if at >= before or event_id in kept
            }
            return len(doomed)

    def deliveries(
        self,
        *,
        state: State | None = None,
        endpoint: str | None = None,
        event_type: EventType | None = None,
        since: datetime | None = None,
        limit: int = 100,
    ) -> Sequence[Row]:
        """Up to *limit* deliveries that match, newest first; *since* is about when made."""
        with self._lock:
            rows = (
                entry.row()
                for entry in reversed(self._entries.values())
                if (state is None or entry.state is state)
                and (endpoint is None or entry.delivery.endpoint == endpoint)
                and (event_type is None or entry.delivery.event_type is event_type)
                and (since is None or entry.delivery.created_at >= since)
            )
            return list(islice(rows, limit))

    def find(self, delivery_id: str) -> Row | None:
        """The delivery with this id; ``None``: there is none."""
        with self._lock:
            entry = self._by_id.get(delivery_id)
            return entry.row() if entry else None

    def attempts(self, delivery_id: str) -> Sequence[Attempt]:
        """The attempts of one delivery by number."""
        with self._lock:
            entry = self._by_id.get(delivery_id)
            return list(entry.attempts) if entry else []

    def summary(self) -> Summary:
        """Counts by state and endpoint, and the oldest undelivered, of all environments."""
        return total(self.summaries().values())

    def summaries(self) -> Mapping[str | None, Summary]:
        """The same for each environment that has a delivery."""
        by_environment: defaultdict[str | None, list[_Entry]] = defaultdict(list)
        with self._lock:
            for entry in self._entries.values():
                by_environment[entry.delivery.environment].append(entry)
            return {where: _summary(entries) for where, entries in by_environment.items()}

    def close(self) -> None:
        """Keep everything: there is nothing to let go of."""

    def _held(self, claim: Claim) -> _Entry | None:
        """The entry whose lease *claim* still holds."""
        entry = self._by_id.get(claim.delivery.id)
        return entry if entry is not None and entry.token == claim.token else None

    def _make_ready(self, entry: _Entry) -> None:
        entry.is_ready = True
        heappush(self._lanes[entry.where].ready, entry.sequence)

    def _next_ready(self, lane: _Lane) -> _Entry | None:
        """Take the oldest that is due off the lane."""
        while lane.ready:
            entry = self._entries.get(heappop(lane.ready))
            if entry is not None and entry.is_ready:
                return entry
        return None

    def _next_waiting(self, lane: _Lane) -> _Entry | None:
        """The one that becomes claimable next; it stays on the lane."""
        while lane.waiting:
            wakes_at, sequence = lane.waiting[0]
            entry = self._entries.get(sequence)
            if (
                entry is not None
                and not entry.is_ready
                and entry.state in UNDELIVERED
                and entry.wakes_at == wakes_at
            ):
                return entry
            heappop(lane.waiting)
        return None


def _summary(entries: Sequence[_Entry]) -> Summary:
    waiting = [entry.delivery for entry in entries if entry.state in UNDELIVERED]
    return Summary(
        counts=dict(Counter(entry.state for entry in entries)),
        undelivered=dict(Counter(delivery.endpoint for delivery in waiting)),
        oldest_at=min((delivery.created_at for delivery in waiting), default=None),
    )
