"""The rule that settles an intent: how a migration ended whose run was killed.

First, whether anybody can know it; then, whether the migration is over; then what the ledger
says. The first row that fits decides.

| what is known | verdict |
|---|---|
| a run of another environment saw it, before it ran the same version | what it saw |
| the database does not answer, or the server is a standby | unsettled |
| it is another database, or a restored or failed-over one (its timeline is another) | unsettled |
| the backend lives: its pid, with its start | open |
| its pid is gone, belongs to another start or works in another database | over |
| its start cannot be seen, but it held the migration lock: the pid still holds it | open |
| … and the pid does not hold it | over |
| it cannot be seen (a pooler), but it held the lock: that is free, or the asking run's now | over |
| it cannot be seen, and another process holds the lock | unsettled, unless the ledger has it |
| it cannot be seen, took no lock, and is not a day old | unsettled, unless the ledger has it |
| … and is older | over |

| over, direction, the ledger before | the ledger now | verdict |
|---|---|---|
| any | cannot be read, or was made or written anew since | unsettled |
| up, no row | no row, or one that only marks it as applied | not committed |
| up, no row | a row that began at most a minute after | committed |
| up, no row | a row that began later: another run's | unsettled |
| up, a row (a forced re-application writes none) | any | unsettled |
| up, not known | no row | not committed |
| down, a row | no row | committed |
| down, a row | that row | not committed |
| down, a row | another row: applied again since | unsettled |
| down, no row (the host refuses) | any | not committed |
| any, not known | otherwise | unsettled |

If the migration's transaction has recorded its event, the migration committed, and the ledger is
not read. Where the backend lives or the verdict would be unsettled, the event is left to its run
for a minute. Then it is committed, too, but its run may go on.

Pure: the caller asks the server first for the backend, then for the ledger. The other way
round, a COMMIT in between would be missed.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from .event import Database, Direction, ErrorInfo, Event, EventType, migration_row, outcome_event
from .outbox import NO_ROW, Intent

INTERRUPTED = ErrorInfo(
    type="Interrupted", message="the run ended before this migration did, and it did not commit"
)
KILLED = ErrorInfo(type="Interrupted", message="the run ended before it reported its end")
UNSEEN_FOR = timedelta(days=1)
"""So old, and no migration lock held: a backend that cannot be seen counts as gone."""
LATE = timedelta(minutes=1)
"""A ledger row or transaction that began later than this after its intent is another run's."""
ITS_RUNS_FOR = timedelta(minutes=1)
"""So long after its COMMIT an event is left to its run, which knows its endpoints."""
_RECORDED = "it committed, and its event is recorded"


class Ending(StrEnum):
    """How an intent's migration ended, as far as it is known."""

    OPEN = "open"
    COMMITTED = "committed"
    NOT_COMMITTED = "not_committed"
    UNSETTLED = "unsettled"


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """The ledger's row of a version."""

    id: str
    applied_at: datetime
    execution_time_ms: int | None = None
    is_marked: bool = False
    """Whether no run wrote it: the host marks only what the ledger does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A server's answers about one intent; ``None`` where it gave none."""

    identity: str | None
    timeline: int | None
    database: Database
    """Without its schema."""
    is_standby: bool = False
    has_pid: bool = False
    """Whether a backend has the intent's pid, in the intent's database."""
    pid_started_at: datetime | None = None
    lock_holders: AbstractSet[int] = frozenset()
    """The pids that hold the migration lock of the database."""
    began_at: AbstractSet[datetime] = frozenset()
    """When the transactions began that others have open in the database, as far as is shown."""
    is_lock_ours: bool = False
    """Whether the asking run holds it: then no other run does."""
    is_ledger_read: bool = True
    ledger_oid: int | None = None
    written_anew_at: datetime | None = None
    """When the host last emptied the ledger, and marked what it found on disk."""
    row: LedgerRow | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How a migration ended, why that is said, and the ledger's row when it committed."""

    ending: Ending
    reason: str
    row: LedgerRow | None = None
    may_go_on: bool = False
    """Whether it committed in a run that may not be over: that is no killed run."""

    @property
    def is_settled(self) -> bool:
        """Whether an event follows from it."""
        return self.ending in (Ending.COMMITTED, Ending.NOT_COMMITTED)


def judge(intent: Intent, known: Known | None, now: datetime) -> Verdict:
    """How the migration of *intent* ended; ``None`` for *known*: the database did not answer."""
    verdict = _judge(intent, known, now)
    if intent.committed is None or verdict.is_settled:
        return verdict
    if abs(now - intent.committed.ended_at) < ITS_RUNS_FOR:  # else also of a wrong clock
        return Verdict(ending=Ending.OPEN, reason="it has just committed")
    return Verdict(ending=Ending.COMMITTED, reason=_RECORDED, may_go_on=True)


def _judge(intent: Intent, known: Known | None, now: datetime) -> Verdict:
    if intent.has_committed is not None:
        ending = Ending.COMMITTED if intent.has_committed else Ending.NOT_COMMITTED
        return Verdict(ending=ending, reason="a later run saw it")
    if known is None:
        return _unsettled("its database does not answer")
    if stranger := _not_its_database(intent, known):
        return _unsettled(stranger)
    under_way = _still_open(intent, known)
    if under_way is not None:
        return Verdict(ending=Ending.OPEN, reason=under_way)
    unseen = _unseen(intent, known, now)
    if intent.committed is not None:
        return _unsettled(unseen) if unseen else Verdict(ending=Ending.COMMITTED, reason=_RECORDED)
    verdict = _judge_ledger(intent, known)
    # A ledger that has what was to be written proves it; one that does not may have it soon.
    return verdict if unseen is None or verdict.ending is Ending.COMMITTED else _unsettled(unseen)


def _judge_ledger(intent: Intent, known: Known) -> Verdict:
    if not known.is_ledger_read:
        return _unsettled(f"{intent.ledger_table} cannot be read")
    read_at, anew_at = intent.ledger_read_at, known.written_anew_at
    is_anew = read_at is not None and anew_at is not None and anew_at > read_at
    if is_anew or intent.ledger_oid not in (None, known.ledger_oid):
        return _unsettled(f"{intent.ledger_table} was made anew since")
    judge_row = _judge_up if intent.direction is Direction.UP else _judge_down
    return judge_row(intent, known.row)


def settled_event(intent: Intent, verdict: Verdict, now: datetime) -> Event:
    """The event that *verdict*, a settled one, makes of *intent*: under the intent's own id."""
    is_success = verdict.ending is Ending.COMMITTED
    return Event(
        id=intent.event_id,
        type=outcome_event(intent.direction, is_success=is_success),
        trace_id=intent.correlation_id,
        environment=intent.environment,
        database=intent.database,
        direction=intent.direction,
        migration=intent.migration,
        error=None if is_success else INTERRUPTED,
        command=intent.command,
        run_url=intent.run_url,
        trace_url=intent.trace_url,
        **_times(intent, verdict.row, now),
    )


def _times(intent: Intent, row: LedgerRow | None, now: datetime) -> dict[str, Any]:
    """When it happened: as its transaction recorded it, else as far as the ledger's *row* says."""
    if intent.committed is not None:
        return {"occurred_at": intent.committed.ended_at, **asdict(intent.committed)}
    times = {"occurred_at": now if row is None else row.applied_at, "started_at": intent.staged_at}
    if row is None or row.execution_time_ms is None:
        return times
    duration = timedelta(milliseconds=row.execution_time_ms)
    return {
        **times,
        "ended_at": intent.staged_at + duration,
        "duration_s": duration.total_seconds(),
    }


def killed_run_event(run: str, ended: Sequence[Event]) -> Event:
    """The event of a killed *run*, which has one id, whichever of its migrations *ended*."""
    last = ended[-1]
    rows = [
        migration_row(one.migration, one.direction, one.duration_s, is_success=one.error is None)
        for one in ended
        if one.migration and one.direction
    ]
    return Event(
        id=run_event_id(run),
        type=EventType.RUN_ERROR,
        occurred_at=last.occurred_at,
        trace_id=last.trace_id,
        environment=last.environment,
        database=last.database,
        started_at=ended[0].started_at,
        error=KILLED,
        migrations=rows,
        command=last.command,
        run_url=last.run_url,
        trace_url=last.trace_url,
    )


def run_event_id(run: str) -> str:
    """The id of the event of how *run* ended: the same for every process that reports it."""
    return f"evt_{uuid.uuid5(uuid.NAMESPACE_OID, run).hex}"


def _unsettled(reason: str) -> Verdict:
    return Verdict(ending=Ending.UNSETTLED, reason=reason)


def _not_its_database(intent: Intent, known: Known) -> str | None:
    """Why what the server says is not about the database of *intent*; ``None``: it is."""
    if known.is_standby:
        return "the server that answers is a standby"
    if intent.database_identity is not None or known.identity is not None:
        is_same = intent.database_identity == known.identity
    else:  # the role may not ask
        is_same = known.database == replace(intent.database, schema=None)
    if not is_same:
        return "it ran in another database than the one that answers"
    if intent.timeline != known.timeline:
        return "its database was restored or failed over since"
    return None


def _still_open(intent: Intent, known: Known) -> str | None:
    """Why the migration is still under way; ``None``: it is over, or cannot be seen."""
    pid, started_at = intent.backend_pid, intent.backend_started_at
    if pid is None or not known.has_pid:
        return None
    if started_at is not None and known.pid_started_at is not None:
        return "it is under way" if known.pid_started_at == started_at else None
    if intent.has_lock and pid in known.lock_holders:
        return "its process holds the migration lock"
    return None


def _unseen(intent: Intent, known: Known, now: datetime) -> str | None:
    """Why nothing proves that the migration is over; ``None``: something does."""
    pid, started_at = intent.backend_pid, intent.backend_started_at
    is_seen = pid is not None and (
        not known.has_pid or (started_at is not None and known.pid_started_at is not None)
    )
    if is_seen or (intent.has_lock and (pid is not None or known.is_lock_ours)):
        return None
    if known.lock_holders:
        return "its process cannot be seen, and the migration lock is held"
    # A pooler may have ended the session with the lock, and not that of the migration.
    if any(timedelta() <= at - (intent.ledger_read_at or now) <= LATE for at in known.began_at):
        return "its process cannot be seen, and a transaction that began then is open"
    if intent.has_lock or now - intent.staged_at >= UNSEEN_FOR:
        return None
    return "its process cannot be seen, and it began less than a day ago"


def _judge_up(intent: Intent, row: LedgerRow | None) -> Verdict:
    table = intent.ledger_table
    if intent.ledger_before not in (None, NO_ROW):
        return _unsettled("it was applied before, and a second application leaves no trace")
    if row is None:
        return Verdict(ending=Ending.NOT_COMMITTED, reason=f"{table} does not have it")
    if intent.ledger_before is None or intent.ledger_read_at is None:
        return _unsettled(f"{table} could not be read before it began")
    if row.is_marked:
        return Verdict(ending=Ending.NOT_COMMITTED, reason=f"{table} has it only as marked")
    # ``applied_at`` is when its transaction began; of a non-transactional one, when it ended.
    began_at = row.applied_at - timedelta(milliseconds=row.execution_time_ms or 0)
    if began_at > intent.ledger_read_at + LATE:
        return _unsettled("a later run applied it")
    return Verdict(ending=Ending.COMMITTED, reason=f"{table} has it", row=row)


def _judge_down(intent: Intent, row: LedgerRow | None) -> Verdict:
    table = intent.ledger_table
    if intent.ledger_before is None:
        return _unsettled(f"{table} could not be read before it began")
    if intent.ledger_before == NO_ROW:
        return Verdict(ending=Ending.NOT_COMMITTED, reason="there was nothing to roll back")
    if row is None:
        return Verdict(ending=Ending.COMMITTED, reason=f"{table} has it no more")
    if row.id == intent.ledger_before:
        return Verdict(ending=Ending.NOT_COMMITTED, reason=f"{table} still has it")
    return _unsettled("it was applied again since")
