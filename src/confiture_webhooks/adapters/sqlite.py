"""The durable outbox in one SQLite file, shared by any number of processes of one machine.

A release is on the disk when it returns, as is what an operator changes. A claim and a record
are with the operating system: a killed process loses neither. A power cut may undo the latest of
them, in order, and leaves their deliveries to be made again, with the same event id; in return a
delivery waits for no disk.
"""

from __future__ import annotations

import os
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ..delivery import Attempt, Decision, Delivery, Outcome, State
from ..event import EventType
from ..outbox import Claim, Intent, Row, Summary, total
from . import sqlite_statements as sql
from .memory import UNDELIVERED
from .sqlite_file import DamagedError, default_path, may_be_there, set_aside
from .sqlite_transactions import Transactions

__all__ = ["SqliteOutbox", "default_path", "may_be_there", "open_outbox"]

PRUNE_BATCH = 500
"""So many deliveries are pruned at once: others wait no longer than that takes."""


def open_outbox(path: Path) -> tuple[SqliteOutbox, list[str]]:
    """The outbox at *path*, and what its user must be told.

    A damaged file is set aside, never deleted, and a fresh one takes its place. What cannot be
    opened otherwise is left as it is: raises OutboxError.
    """
    notices: list[str] = []
    try:
        return SqliteOutbox(path), notices
    except DamagedError as damage:
        if aside := set_aside(path, damage):
            notices.append(
                f"outbox {path}: the file is damaged. It is kept as {aside.name}, what it "
                "holds is not sent, and a fresh one takes its place"
            )
    return SqliteOutbox(path), notices


class SqliteOutbox:
    """Keeps what happened in the file at *path* until it has been told.

    Raises OutboxError when the file cannot be opened, is another program's or of a newer
    version. An operation waits at most two seconds for other processes, then raises it.

    A file that is removed or set aside stays in use while it is open, so that a run loses nothing
    of its own. With *follows* the file that comes in its place is taken instead: a worker is for
    what others record.
    """

    is_durable = True

    def __init__(self, path: Path, *, follows: bool = False) -> None:
        self.path = path
        self._file = Transactions(path, follows=follows)

    def stage(self, intent: Intent) -> None:
        """Remember that a migration is about to run; a second time, or late, changes nothing."""
        with self._file.writing() as connection:
            connection.execute(sql.STAGE, sql.intent_values(intent))

    def intents(self) -> Sequence[Intent]:
        """Those staged and not released, oldest first."""
        with self._file.reading() as connection:
            return [sql.intent(row) for row in connection.execute(sql.INTENTS)]

    def release(self, event_id: str, deliveries: Sequence[Delivery]) -> None:
        """Replace the intent, if any, by its deliveries."""
        with self._file.writing() as connection:
            connection.execute(sql.UNSTAGE, (event_id,))
            released_at = sql.stored(datetime.now(UTC))
            if connection.execute(sql.MARK_RELEASED, (event_id, released_at)).rowcount == 0:
                return
            for delivery in deliveries:
                added = connection.execute(sql.ADD_DELIVERY, sql.delivery_values(delivery))
                connection.execute(sql.ADD_BODY, (added.lastrowid, delivery.body))

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
        where = sql.where(endpoint, environment)
        # Looking first costs no lock: an idle worker is in nobody's way.
        with self._file.reading() as connection:
            if not _has_due(connection, where, now):
                return []
        with self._file.writing(is_synced=False) as connection:
            if not _has_due(connection, where, now):
                return []
            connection.execute(sql.MAKE_READY, (*where, sql.stored(now)))
            lease_until, claims = sql.stored(now + lease), []
            for row in connection.execute(sql.READY, (*where, limit)).fetchall():
                token = f"{row['seq']}.{os.urandom(8).hex()}"
                connection.execute(sql.LEASE, (lease_until, token, row["seq"]))
                claims.append(sql.claim(row, token))
            return claims

    def record(self, claim: Claim, attempt: Attempt, decision: Decision) -> bool:
        """Keep *attempt* and move the delivery as decided; ``False``: the lease was lost."""
        seq = claim.token.partition(".")[0]
        finished_at = sql.stored(attempt.started_at + attempt.duration)
        next_at = decision.next_attempt_at
        move = {
            "seq": seq,
            "token": claim.token,
            "state": decision.outcome.state.value,
            "next_attempt_at": sql.stored(next_at) if next_at else None,
            "finished_at": None if decision.outcome is Outcome.RETRY else finished_at,
        }
        with self._file.writing(is_synced=False) as connection:
            if connection.execute(sql.MOVE, move).rowcount == 0:
                return False
            connection.execute(sql.ADD_ATTEMPT, sql.attempt_values(seq, attempt))
            if decision.outcome is Outcome.GONE:
                where = sql.where(claim.delivery.endpoint, claim.delivery.environment)
                connection.execute(sql.DISABLE, (*where, finished_at))
            return True

    def give_back(self, claim: Claim) -> None:
        """End the lease without an attempt; the delivery is due as before."""
        with self._file.writing(is_synced=False) as connection:
            connection.execute(sql.GIVE_BACK, (claim.token.partition(".")[0], claim.token))

    def next_due_at(self, endpoint: str, environment: str | None) -> datetime | None:
        """When there is something to claim for *endpoint* there; ``None``: nothing is waiting."""
        with self._file.reading() as connection:
            where = sql.where(endpoint, environment)
            if connection.execute(sql.IS_OFF, where).fetchone():
                return None
            for question in (sql.FIRST_READY, sql.NEXT_WAITING):
                if row := connection.execute(question, where).fetchone():
                    return sql.instant(row[0])
            return None

    def disable(self, endpoint: str, environment: str | None, at: datetime) -> None:
        """Switch *endpoint* off there: its deliveries wait. Off already: since when stays."""
        with self._file.writing() as connection:
            connection.execute(sql.DISABLE, (*sql.where(endpoint, environment), sql.stored(at)))

    def enable(self, endpoint: str, environment: str | None) -> bool:
        """Switch *endpoint* on again in *environment*; ``False``: it was not off."""
        with self._file.writing() as connection:
            return connection.execute(sql.ENABLE, sql.where(endpoint, environment)).rowcount > 0

    def disabled(self, environment: str | None) -> Mapping[str, datetime]:
        """The endpoints that are off in *environment*, and since when."""
        with self._file.reading() as connection:
            return {
                endpoint: datetime.fromisoformat(since)
                for endpoint, since in connection.execute(
                    sql.DISABLED, sql.where("", environment)[1:]
                )
            }

    def redeliver(self, delivery_id: str, *, now: datetime) -> bool:
        """Start the schedule of one that is not in flight over, due now; ``False``: no such one."""
        with self._file.writing() as connection:
            values = (sql.stored(now), delivery_id)
            return connection.execute(sql.REDELIVER, values).rowcount > 0

    def discard(self, delivery_id: str, *, now: datetime) -> bool:
        """Forget a delivery, unless a lease on it holds at *now*; ``False``: no such one."""
        with self._file.writing() as connection:
            return connection.execute(sql.DISCARD, (delivery_id, sql.stored(now))).rowcount > 0

    def prune(self, *, before: datetime, keep: int) -> int:
        """Forget deliveries delivered before *before*, and all but the last *keep* delivered."""
        cutoff = (sql.stored(before), 0)
        with self._file.reading() as connection:
            surplus = connection.execute(sql.NEWEST_SURPLUS, (keep,)).fetchone()
        if surplus:
            cutoff = max(cutoff, tuple(surplus))
        pruned = self._delete(sql.PRUNE, *cutoff)
        self._delete(sql.FORGET_RELEASED, sql.stored(before))
        return pruned

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
        wanted = {
            "state": state,
            "endpoint": endpoint,
            "event_type": event_type,
            "since": sql.stored(since) if since else None,
            "limit": limit,
        }
        with self._file.reading() as connection:
            return [sql.standing(row) for row in connection.execute(sql.LIST, wanted)]

    def find(self, delivery_id: str) -> Row | None:
        """The delivery with this id; ``None``: there is none."""
        with self._file.reading() as connection:
            row = connection.execute(sql.FIND, (delivery_id,)).fetchone()
            return sql.standing(row) if row else None

    def attempts(self, delivery_id: str) -> Sequence[Attempt]:
        """The attempts of one delivery by number."""
        with self._file.reading() as connection:
            return [sql.attempt(row) for row in connection.execute(sql.ATTEMPTS, (delivery_id,))]

    def summary(self) -> Summary:
        """Counts by state and endpoint, and the oldest undelivered, of all environments."""
        return total(self.summaries().values())

    def summaries(self) -> Mapping[str | None, Summary]:
        """The same for each environment that has a delivery."""
        counts: defaultdict[str | None, Counter[State]] = defaultdict(Counter)
        undelivered: defaultdict[str | None, Counter[str]] = defaultdict(Counter)
        with self._file.reading() as connection:
            for endpoint, environment, state, count in connection.execute(sql.TALLIES).fetchall():
                counts[environment][State(state)] += count
                if state in UNDELIVERED:
                    undelivered[environment][endpoint] += count
            return {
                environment: Summary(
                    counts=dict(counted),
                    undelivered=dict(undelivered[environment]),
                    oldest_at=sql.instant(
                        connection.execute(sql.OLDEST_UNDELIVERED, (environment,)).fetchone()[0]
                    ),
                )
                for environment, counted in counts.items()
            }

    def close(self) -> None:
        """Let go of the file. What is called afterwards raises OutboxError."""
        self._file.close()

    def _delete(self, statement: str, *values: object) -> int:
        """Delete in batches until nothing is left to delete; how many were."""
        total = 0
        while True:
            with self._file.writing() as connection:
                deleted = connection.execute(statement, (*values, PRUNE_BATCH)).rowcount
            total += deleted
            if deleted < PRUNE_BATCH:
                return total


def _has_due(connection: sqlite3.Connection, where: tuple[str, str | None], now: datetime) -> bool:
    """Whether the endpoint is on in its environment and has something due at *now*."""
    if connection.execute(sql.IS_OFF, where).fetchone():
        return False
    if connection.execute(sql.FIRST_READY, where).fetchone():
        return True
    waiting = connection.execute(sql.NEXT_WAITING, where).fetchone()
    return waiting is not None and waiting[0] <= sql.stored(now)
