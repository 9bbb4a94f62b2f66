"""The values that an outbox keeps and gives back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from ..delivery import Attempt, Delivery, State, TraceContext
from ..event import Database, Direction, MigrationRef

NO_ROW = ""
"""In the place of a ledger row's id: the version had none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """A migration's ledger and server process, as seen; ``None``: it could not be seen.

    While the process lives the migration's outcome is open; once it is gone the ledger knows.
    """

    ledger_table: str
    """With its schema, where that is known."""
    database_identity: str | None = None
    """``<system identifier>/<oid>``: every other database, a copy included, has another."""
    timeline: int | None = None
    """The timeline of the server: another one after a failover or a restored backup."""
    ledger_oid: int | None = None
    """A table that is made later under the ledger's name has another."""
    ledger_before: str | None = None
    """The id of the version's row before the migration; ``NO_ROW``: there was none."""
    ledger_read_at: datetime | None = None
    """When that was, by the server's clock."""
    has_lock: bool = False
    """Whether the process held the migration lock."""
    backend_pid: int | None = None
    backend_started_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """How a migration ended: written in its transaction, which has committed."""

    started_at: datetime
    ended_at: datetime
    duration_s: float
    rows_affected: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent(Facts):
    """An event whose outcome is not known yet, with the facts that settle it later."""

    event_id: str
    direction: Direction
    migration: MigrationRef
    environment: str | None
    database_host: str | None
    database_port: int | None = None
    database_name: str | None
    database_schema: str | None = None
    traceparent: str
    tracestate: str | None
    correlation_id: str
    staged_at: datetime
    command: str | None = None
    """The command, the CI run and the link to the trace, as the event has them."""
    run_url: str | None = None
    trace_url: str | None = None
    committed: Committed | None = None
    has_committed: bool | None = None
    """Whether it did, as a run of another environment saw before it did the same version."""
    holder: str | None = field(default=None, compare=False)
    """The outbox that staged it, one of one process: runs may share their trace."""

    @property
    def database(self) -> Database:
        host, port, name = self.database_host, self.database_port, self.database_name
        return Database(host=host, port=port, name=name, schema=self.database_schema)

    @property
    def trace(self) -> TraceContext:
        """The trace that the deliveries of its event continue."""
        return TraceContext(traceparent=self.traceparent, tracestate=self.tracestate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable(Delivery):
    """A stored delivery that this version cannot read: the fields it can, and why not the rest.

    ``event_type`` has the stored text as its ``value``; ``body`` is empty, and ``created_at`` is
    1970 where it cannot be read. It is claimed, listed, redelivered and discarded like any other.
    """

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableIntent:
    """A stored intent that this version cannot read. ``discard_intent`` is for it."""

    event_id: str
    """Made up, ``intent-…``, where what is stored is no id."""
    key: object = field(repr=False)
    """Its id as it is stored."""
    environment: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A delivery that is ours to send until the lease ends."""

    delivery: Delivery
    """An ``Unreadable`` cannot be sent: record an attempt with the error type ``other``."""
    token: str
    """Fences ``record``: another claim of the same delivery has another token."""
    attempts: int
    """Attempts recorded before this claim, over all schedules."""
    tries: int
    """Attempts recorded in the current schedule; 0 again after a redelivery."""


class Batch(list[Claim]):
    """The deliveries of one claim, and what its look at the outbox saw beside them."""

    def __init__(self, claims: Iterable[Claim], next_due_at: datetime | None) -> None:
        super().__init__(claims)
        self.next_due_at = next_due_at
        """When something else can be claimed; past means now, ``None`` that nothing else waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A delivery and where it stands, for operators."""

    delivery: Delivery
    """An ``Unreadable`` when this version cannot read it."""
    state: State
    attempts: int
    """Attempts recorded, over all schedules."""
    next_attempt_at: datetime | None = None
    """When a pending one is due, as it is stored; ``None`` in every other state."""
    is_ready: bool = field(default=False, compare=False)
    """Whether it can be claimed now, whenever it is due."""
    last_attempt: Attempt | None = field(default=None, compare=False)
    """The latest one recorded."""

    @property
    def last_answer(self) -> str | None:
        """The answer to the latest attempt; ``None``: no attempt was made."""
        return self.last_attempt.answer if self.last_attempt is not None else None
