"""The port to the durable store: what the worker and the run need of it, and no more.

Guarantees every outbox gives, each checked by the contract suite:

- ``release`` is atomic and idempotent: the intent is gone and every delivery is there, or
  neither; releasing an event id a second time changes nothing, until ``prune`` has forgotten
  the first. A released delivery is due at once.
- A delivery comes back from ``claim`` byte for byte as it was released: body, trace context,
  correlation id.
- A claim is a lease. Until ``lease`` has passed by the ``now`` of the claims, no other claim
  returns the delivery; from then on it is claimable again. The lease is lost when another
  claim takes the delivery: nothing recorded under it is kept, ``record`` answers ``False``.
- A delivery is claimed for its endpoint in its own environment only (none is one, too): the
  same name may be another receiver there. An endpoint is switched off in one environment.
- Deliveries of one endpoint are claimed in the order they were released, those that are due.
- ``record`` moves a delivery and keeps the attempt in one step. A ``GONE`` decision switches
  the endpoint off in that step, in the delivery's environment; nothing is claimed for an
  endpoint that is off.
- A killed process undoes nothing that returned. A power cut undoes no release and nothing an
  operator did; it may undo the latest claims and records, whose deliveries are then made again.
- Instants are aware and come from the caller. A clock set forward ends leases early: what
  follows is one more attempt with the same event id, and the token lets one record stand. A
  clock set back makes retries and crashed workers' deliveries late by as much, never lost.
- Only delivered deliveries are pruned. A dead letter stays until somebody redelivers or
  discards it.
- It keeps no URL, no secret, no header value and no body of an answer.

Every method raises ``OutboxError`` when the store refuses, with the store's error as cause.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol, runtime_checkable

from .delivery import Attempt, Decision, Delivery, State
from .event import Direction, EventType, MigrationRef

NO_ROW = ""
"""In the place of a ledger row's id: the version had none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """An event whose outcome is not known yet: what must be known to settle it later.

    ``backend_pid`` and ``backend_started_at`` name the server process that runs the
    migration: while it lives the outcome is open; once it is gone the ledger knows. What
    could not be seen is ``None``.
    """

    event_id: str
    direction: Direction
    migration: MigrationRef
    environment: str | None
    ledger_table: str
    """With its schema, where that is known."""
    database_host: str | None
    database_port: int | None = None
    database_name: str | None
    database_schema: str | None = None
    database_identity: str | None = None
    """``<system identifier>/<oid>``: tells the database from every other, a copy included."""
    timeline: int | None = None
    """Of the server's history: another one after a failover or a restored backup."""
    ledger_oid: int | None = None
    """Tells the ledger's table from one made later under its name."""
    ledger_before: str | None = None
    """The id of the version's row before the migration; ``NO_ROW``: there was none."""
    ledger_read_at: datetime | None = None
    """When that was, by the server's clock."""
    has_lock: bool = False
    """Whether the backend held the migration lock."""
    backend_pid: int | None
    backend_started_at: datetime | None
    traceparent: str
    tracestate: str | None
    correlation_id: str
    staged_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A delivery that is ours to send until the lease ends."""

    delivery: Delivery
    token: str
    """Fences ``record``: another claim of the same delivery has another token."""
    attempts: int
    """Attempts recorded before this claim, over all schedules."""
    tries: int
    """Attempts recorded in the current schedule; 0 again after a redelivery."""

    @property
    def number(self) -> int:
        """Of the attempt that is made under this claim, from 1."""
        return self.attempts + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The outbox at a glance, for metrics and for the line a run ends with."""

    counts: Mapping[State, int] = field(default_factory=dict)
    undelivered: Mapping[str, int] = field(default_factory=dict)
    """Pending and in-flight deliveries by endpoint name."""
    oldest_at: datetime | None = None
    """When the oldest undelivered delivery was made."""


def total(summaries: Iterable[Summary]) -> Summary:
    """*summaries* as one."""
    counts: Counter[State] = Counter()
    undelivered: Counter[str] = Counter()
    oldest: list[datetime] = []
    for summary in summaries:
        counts.update(summary.counts)
        undelivered.update(summary.undelivered)
        oldest += [summary.oldest_at] if summary.oldest_at else []
    return Summary(
        counts=dict(counts), undelivered=dict(undelivered), oldest_at=min(oldest, default=None)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A delivery and where it stands, for operators."""

    delivery: Delivery
    state: State
    attempts: int
    """Attempts recorded, over all schedules."""
    next_attempt_at: datetime | None = None
    """When a pending one is due; ``None`` in every other state."""


class Outbox(Protocol):
    """Keeps what happened until it has been told."""

    is_durable: bool
    """Whether what is stored outlives this process."""

    def stage(self, intent: Intent) -> None:
        """Remember that a migration is about to run; a second time, or late, changes nothing."""

    def intents(self) -> Sequence[Intent]:
        """Those staged and not released, oldest first."""

    def release(self, event_id: str, deliveries: Sequence[Delivery]) -> None:
        """The outcome is known: replace the intent, if any, by its deliveries (maybe none)."""

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

    def record(self, claim: Claim, attempt: Attempt, decision: Decision) -> bool:
        """Keep *attempt* and move the delivery as decided; ``False``: the lease was lost."""

    def give_back(self, claim: Claim) -> None:
        """End the lease without an attempt; the delivery is due as before."""

    def next_due_at(self, endpoint: str, environment: str | None) -> datetime | None:
        """When there is something to claim for *endpoint* there; ``None``: nothing is waiting.

        The end of a lease counts, so that a crashed worker's delivery is taken up.
        """

    def disable(self, endpoint: str, environment: str | None, at: datetime) -> None:
        """Switch *endpoint* off there: its deliveries wait. Off already: since when stays."""

    def enable(self, endpoint: str, environment: str | None) -> bool:
        """Switch *endpoint* on again in *environment*; ``False``: it was not off."""

    def disabled(self, environment: str | None) -> Mapping[str, datetime]:
        """The endpoints that are off in *environment*, and since when."""

    def redeliver(self, delivery_id: str, *, now: datetime) -> bool:
        """Start the schedule of one that is not in flight over, due now; ``False``: no such one.

        Attempt numbers count on, and its place in the endpoint's order stays.
        """

    def discard(self, delivery_id: str, *, now: datetime) -> bool:
        """Forget a delivery, unless a lease on it holds at *now*; ``False``: no such one."""

    def prune(self, *, before: datetime, keep: int) -> int:
        """Forget deliveries delivered before *before*, and all but the last *keep* delivered.

        Returns how many. An event id released before *before*, by the store's clock, may be
        forgotten once it has no delivery left.
        """

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

    def find(self, delivery_id: str) -> Row | None:
        """The delivery with this id; ``None``: there is none."""

    def attempts(self, delivery_id: str) -> Sequence[Attempt]:
        """The attempts of one delivery by number; empty also when there is no such delivery."""

    def summary(self) -> Summary:
        """Counts by state and endpoint, and the oldest undelivered, of all environments."""

    def summaries(self) -> Mapping[str | None, Summary]:
        """The same for each environment that has a delivery."""

    def close(self) -> None:
        """Let go of files and connections. Closing twice is allowed."""


@runtime_checkable
class Enlisting(Protocol):
    """An outbox that may lie in the migrated database, and then goes with its transaction."""

    def release_on(self, connection: Any, event_id: str, deliveries: Sequence[Delivery]) -> bool:
        """Release in the transaction *connection* has open: it stays if that commits.

        ``False``: not possible there, or refused; the transaction is as it was. Never raises
        OutboxError: ``release``, later, is the way that tells what is wrong.
        """


@runtime_checkable
class Announcing(Protocol):
    """An outbox that tells of what other processes have put into it."""

    def listen(self, wake: Callable[[], None], heard: Callable[[bool], None]) -> Callable[[], None]:
        """Call *wake*, in a thread of its own, whenever there is something new; what ends it.

        *heard* is told when that can be relied on, and when not any more: at both instants
        something may have come that nobody was woken for. Even so it is a hint, not a promise:
        looking now and then is still needed.
        """
