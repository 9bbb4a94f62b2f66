"""The durable outbox in PostgreSQL, on a pgmq queue, shared by any number of machines.

A release is on the server's disk when it returns, or when the migration's transaction that it
was part of has committed. A claim and a record are not waited for: a crash of the server may undo
the latest of them, and leaves their deliveries to be made again, with the same event id.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from ..delivery import Attempt, Decision, Delivery, Outcome, State
from ..errors import OutboxError
from ..event import EventType
from ..outbox import Claim, Intent, Outbox, Row, Standing, Summary, total
from . import pgmq_rows as rows
from . import pgmq_schema as schema
from . import pgmq_statements as sql
from .pgmq_connection import PgmqConnection, briefly, conninfo_of, described, translated
from .pgmq_listener import Listener

PRUNE_BATCH = 500
WAKE_BATCH = 5_000
"""So many retries become ready at once: a statement must end in its time."""


class PgmqOutbox(Outbox):
    """Keeps what happened in the database at *dsn* until it has been told.

    Makes its schema where there is none, if the role may. Raises OutboxError when it may not,
    when the server does not answer, or when a newer version has been at the database. A server
    that comes back is used again.
    """

    is_durable = True

    def __init__(self, dsn: str) -> None:
        self._server = PgmqConnection(dsn, schema.migrate)

    @property
    def where(self) -> str:  # type: ignore[override]
        """Host and database, fit for any log."""
        return self._server.where

    @property
    def has_made(self) -> bool:
        """Whether it, or a part of it, was not there before."""
        return self._server.has_made

    def stage(self, intent: Intent) -> None:
        """Remember that a migration is about to run; a second time, or late, changes nothing."""
        values = {
            "event_id": rows.text(intent.event_id),
            "staged_at": intent.staged_at,
            "intent": rows.intent_document(intent),
        }
        self._run(sql.STAGE, values)

    def intents(self) -> Sequence[Intent]:
        """Those staged and not released, oldest first."""
        return [rows.intent(row["intent"]) for row in self._rows(sql.INTENTS)]

    def release(self, event_id: str, deliveries: Sequence[Delivery]) -> None:
        """Replace the intent, if any, by its deliveries."""
        self._run(sql.RELEASE, (rows.text(event_id), rows.delivery_documents(deliveries)))

    def release_on(
        self, connection: psycopg.Connection[Any], event_id: str, deliveries: Sequence[Delivery]
    ) -> bool:
        """Release in the transaction that *connection* has open, if it is in this database."""
        info = connection.info
        if not self._server.is_at(info) or info.transaction_status != TransactionStatus.INTRANS:
            return False
        # A cursor of our own kind: it binds the values itself, so that all goes in one message.
        cursor = psycopg.ClientCursor(connection)
        try:
            cursor.execute(
                sql.RELEASE_WITHIN, (rows.text(event_id), rows.delivery_documents(deliveries))
            )
        except psycopg.Error:
            if connection.pgconn.transaction_status == TransactionStatus.INERROR:
                with suppress(psycopg.Error):  # broken: the host will find out, and tell
                    cursor.execute(sql.UNDO_RELEASE)
            return False
        return True

    def claim(
        self,
        endpoint: str,
        *,
        environment: str | None,
        now: datetime,
        lease: timedelta,
        limit: int = 1,
        **_: Any,
    ) -> Sequence[Claim]:
        """Up to *limit* of *environment* for *endpoint* that are due at *now*, oldest first."""
        values = _where(endpoint, environment) | {"now": now, "limit": limit}
        # Looking first writes nothing: an idle worker is in nobody's way.
        [found] = self._rows(sql.LOOK, values)
        is_woken = found["wakes_at"] is not None and found["wakes_at"] <= now
        if found["is_off"] or not (is_woken or found["ready"] is not None):
            return []
        woken = WAKE_BATCH if is_woken else 0
        while woken == WAKE_BATCH:
            woken = self._run(sql.MAKE_READY, values | {"limit": WAKE_BATCH})
        leased = self._rows(sql.LEASE, values | {"lease_until": now + lease})
        return [rows.claim(row) for row in leased]

    def record(self, claim: Claim, attempt: Attempt, decision: Decision, **_: Any) -> bool:
        """Keep *attempt* and move the delivery as decided; ``False``: the lease was lost."""
        is_over = decision.outcome is not Outcome.RETRY
        finished_at = attempt.started_at + attempt.duration
        values = rows.attempt_values(attempt) | {
            "id": claim.delivery.id,
            "token": claim.token,
            "next_attempt_at": decision.next_attempt_at,
            "outcome": decision.outcome.state.value if is_over else None,
            "finished_at": finished_at if is_over else None,
            "off_at": finished_at if decision.outcome is Outcome.GONE else None,
        }
        return bool(self._rows(sql.RECORD_END if is_over else sql.RECORD_RETRY, values))

    def give_back(self, claim: Claim) -> None:
        """End the lease without an attempt; the delivery is due as before."""
        values = {"id": claim.delivery.id, "token": claim.token}
        self._rows(sql.GIVE_BACK, values)

    def next_due_at(self, endpoint: str, environment: str | None, **_: Any) -> datetime | None:
        """When there is something to claim for *endpoint* there; ``None``: nothing is waiting."""
        [found] = self._rows(sql.LOOK, _where(endpoint, environment))
        if found["is_off"]:
            return None
        for row in self._rows(sql.DUE_AT, (found["ready"],)):
            due_at: datetime = row["due_at"]
            return due_at
        wakes_at: datetime | None = found["wakes_at"]
        return wakes_at

    def disable(self, endpoint: str, environment: str | None, at: datetime) -> None:
        """Switch *endpoint* off there: its deliveries wait. Off already: since when stays."""
        self._run(sql.DISABLE, _where(endpoint, environment) | {"at": at})

    def enable(self, endpoint: str, environment: str | None) -> bool:
        """Switch *endpoint* on again in *environment*; ``False``: it was not off."""
        return self._run(sql.ENABLE, _where(endpoint, environment)) > 0

    def standing(self, environment: str | None) -> Mapping[str, Standing]:
        """The endpoints that are off in *environment*."""
        return {name: Standing(at, None) for name, at in self.disabled(environment).items()}

    def disabled(self, environment: str | None) -> Mapping[str, datetime]:
        """The endpoints that are off in *environment*, and since when."""
        found = self._rows(sql.DISABLED, _where("", environment))
        return {row["endpoint"]: row["since"] for row in found}

    def redeliver(self, delivery_id: str, *, now: datetime) -> bool:
        """Start the schedule of one that is not in flight over, due now; ``False``: no such one."""
        return bool(self._rows(sql.REDELIVER, {"id": rows.text(delivery_id), "now": now}))

    def discard(self, delivery_id: str, *, now: datetime) -> bool:
        """Forget a delivery, unless a lease on it holds at *now*; ``False``: no such one."""
        return bool(self._rows(sql.DISCARD, {"id": rows.text(delivery_id), "now": now}))

    def prune(self, *, before: datetime, keep: int) -> int:
        """Forget deliveries delivered before *before*, and all but the last *keep* delivered."""
        cutoff = (before, 0)
        for surplus in self._rows(sql.NEWEST_SURPLUS, (keep,)):
            cutoff = max(cutoff, (surplus["finished_at"], surplus["seq"]))
        pruned = self._delete(sql.PRUNE, {"at": cutoff[0], "seq": cutoff[1]})
        self._delete(sql.FORGET_RELEASED, {"at": before})
        return pruned

    def deliveries(
        self,
        *,
        state: State | None = None,
        endpoint: str | None = None,
        event_type: EventType | None = None,
        since: datetime | None = None,
        limit: int = 100,
        **_: Any,
    ) -> Sequence[Row]:
        """Up to *limit* deliveries that match, newest first; *since* is about when made."""
        wanted = {
            "state": state.value if state else None,
            "endpoint": rows.text(endpoint) if endpoint is not None else None,
            "event_type": event_type.value if event_type else None,
            "since": since,
            "limit": limit,
        }
        return [rows.standing(row) for row in self._rows(sql.LIST, wanted)]

    def find(self, delivery_id: str) -> Row | None:
        """The delivery with this id; ``None``: there is none."""
        found = self._rows(sql.FIND, (rows.text(delivery_id),))
        return rows.standing(found[0]) if found else None

    def attempts(self, delivery_id: str) -> Sequence[Attempt]:
        """The attempts of one delivery by number."""
        return [rows.attempt(row) for row in self._rows(sql.ATTEMPTS, (rows.text(delivery_id),))]

    def summary(self) -> Summary:
        """Counts by state and endpoint, and the oldest undelivered, of all environments."""
        return total(self.summaries().values())

    def summaries(self) -> Mapping[str | None, Summary]:
        """The same for each environment that has a delivery."""
        parts: defaultdict[str | None, list[Summary]] = defaultdict(list)
        for row in self._rows(sql.UNDELIVERED):
            one = Summary(
                counts={State(row["state"]): row["count"]},
                undelivered={row["endpoint"]: row["count"]},
                oldest_at=row["oldest_at"],
            )
            parts[row["environment"]].append(one)
        for row in self._rows(sql.ENDED):
            parts[row["environment"]].append(Summary(counts={State(row["state"]): row["count"]}))
        return {environment: total(each) for environment, each in parts.items()}

    def listen(self, wake: Callable[[], None], heard: Callable[[bool], None]) -> Callable[[], None]:
        """Call *wake* whenever others made something claimable, or due earlier; what ends it.

        It takes one more connection.
        """

        def tell(payload: str) -> None:
            self._rows(sql.TELL, (payload,))

        return Listener(self._server.dsn, schema.CHANNEL, tell, wake, heard).stop

    def close(self) -> None:
        """Let go of the connection. What is called afterwards raises OutboxError."""
        self._server.close()

    def _run(self, statement: str, values: Any = ()) -> int:
        """How many rows *statement* made, changed or deleted."""
        with self._server.working() as connection:
            return connection.execute(statement, values).rowcount

    def _rows(self, statement: str, values: Any = ()) -> list[Any]:
        """The rows that *statement* returns."""
        with self._server.working() as connection:
            return connection.execute(statement, values).fetchall()

    def _delete(self, statement: str, values: Mapping[str, Any]) -> int:
        """Delete in batches until nothing is left to delete; how many were."""
        total = 0
        while True:
            deleted = self._run(statement, {**values, "limit": PRUNE_BATCH})
            total += deleted
            if deleted < PRUNE_BATCH:
                return total


def _where(endpoint: str, environment: str | None) -> dict[str, Any]:
    """An endpoint and its environment, as named values."""
    stored = rows.text(environment) if environment is not None else None
    return {"endpoint": rows.text(endpoint), "environment": stored}


def is_there(dsn: str) -> bool:
    """Whether the database at *dsn* has an outbox. Raises OutboxError when it cannot be asked."""
    with translated(described(conninfo_of(dsn))), briefly(dsn) as connection:
        return schema.version(connection) > 0


def may_make(dsn: str) -> bool:
    """Whether the role of *dsn* may make one there. Raises OutboxError when it cannot be asked."""
    question = "SELECT has_database_privilege(current_database(), 'CREATE') AS may"
    with translated(described(conninfo_of(dsn))), briefly(dsn) as connection:
        row = connection.execute(question).fetchone()
        return row is not None and bool(row["may"])


def has_outbox(dsn: str) -> bool:
    """The same; ``False`` also when it cannot be asked."""
    with suppress(OutboxError):
        return is_there(dsn)
    return False
