"""The questions that settle a migration, asked of the server over a connection of our own.

The migration's connection is never used, and each question takes a few seconds at most. If the
database is gone, or somebody keeps a table locked, there is no answer.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql as pgsql

from ..outbox import Intent
from ..outbox.postgres_session import ADAPTERS
from ..outbox.rows import EPOCH, at_best
from ..settlement import Known, LedgerRow
from .backend import ASKABLE, IDENTITY, LOCK_NAMESPACE, MICROS, database_of, run, table

TIMEOUT_S = 3
_BOUND = f"SET LOCAL statement_timeout = {TIMEOUT_S * 1000}"
_FRESH = "SELECT pg_stat_clear_snapshot(), current_setting('transaction_isolation')"
_STANDBY = "SELECT pg_is_in_recovery()"
_OTHERS = "CASE WHEN pid <> pg_backend_pid() THEN xact_start END"
_BACKENDS = (
    f"SELECT pid, {MICROS.format('backend_start')}, {MICROS.format(_OTHERS)} "
    "FROM pg_catalog.pg_stat_activity WHERE datname = current_database()"
)
_LOCKED = (
    "FROM pg_catalog.pg_locks JOIN pg_catalog.pg_database ON oid = database "
    "WHERE datname = current_database()"
)
_LOCKS = (
    f"SELECT pid, pid = pg_backend_pid() {_LOCKED} "
    "AND locktype = 'advisory' AND granted AND classid = %s"
)
_WRITERS = f"SELECT 1 {_LOCKED} AND relation = to_regclass(%s)::oid AND mode = 'RowExclusiveLock'"
"""Transactions that have written to a ledger and are not over, whatever pooler is in between."""
_HAS = "SELECT 1 FROM {} WHERE version = %s"
_ROW = (
    f"SELECT id::text, {MICROS.format('applied_at')}, execution_time_ms, "
    "to_jsonb(ledger) ->> 'name', to_jsonb(ledger) ->> 'slug' "
    "FROM {} AS ledger WHERE version = %s"
)
_REINIT = "WHERE to_jsonb(ledger) ->> 'slug' ~ '_reinit$'"
_WRITTEN_ANEW = f"SELECT {MICROS.format('max(applied_at)')} FROM {{}} AS ledger {_REINIT}"
"""When the host last emptied the ledger and marked what is in it: ``reinit`` and ``rebuild``."""
_REASON = re.compile(r"[0-9]{8}_[0-9]{6}_.")
"""After name and version a slug has the time, and of a row without a run why it was written."""
_NO_ANSWER = (psycopg.OperationalError, psycopg.InterfaceError)


@dataclass(frozen=True, slots=True)
class Ledger:
    """The host's table of applied migrations, and what the server says of its backends."""

    dsn: str = field(repr=False)

    def has(self, ledger_table: str, version: str) -> bool | None:
        """Whether *version* is recorded; ``None`` when there is no answer in time.

        A transaction that has written to the ledger may be inside its COMMIT: it is waited for.
        """
        ledger = table(ledger_table)
        with suppress(psycopg.Error), self._connected() as connection:
            until = time.monotonic() + TIMEOUT_S
            while time.monotonic() < until:
                with _asking(connection):
                    if _one(connection, _STANDBY)[0]:
                        return None
                    if not run(connection, _WRITERS, (ledger.as_string(None),)).fetchone():
                        query = pgsql.SQL(_HAS).format(ledger)
                        return run(connection, query, (version,)).fetchone() is not None
                time.sleep(0.1)
        return None

    def ask(self, intents: Sequence[Intent]) -> Mapping[str, Known]:
        """The server's answers about *intents*, by event id; none when it does not answer."""
        try:
            with self._connected() as connection, _asking(connection):
                return _known(connection, intents)
        except psycopg.Error:
            return {}

    def _connected(self) -> psycopg.Connection[Any]:
        connection = psycopg.connect(
            self.dsn,
            autocommit=True,
            prepare_threshold=None,
            connect_timeout=TIMEOUT_S,
            application_name="confiture-webhooks",
            context=ADAPTERS,
        )
        # Not as the role or the database may have it: an older snapshot would miss a COMMIT.
        connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        connection.read_only = True
        return connection


@contextmanager
def _asking(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """A short transaction whose statements are bounded, also where a pooler forbids options."""
    with connection.transaction():
        run(connection, _BOUND)
        yield


def ask_over(connection: Any, intents: Sequence[Intent]) -> Mapping[str, Known]:
    """The same over the connection of a migration that has not begun; none when it cannot say.

    No limit on connections stands in its way. An older snapshot would miss a COMMIT, so it says
    nothing in a transaction that has one.
    """
    if connection.info.transaction_status not in ASKABLE:
        return {}
    try:
        with connection.transaction():
            if _one(connection, _FRESH)[1] != "read committed":
                return {}
            return _known(connection, intents, migrates=True)
    except psycopg.Error:
        return {}


def _known(
    connection: psycopg.Connection[Any], intents: Sequence[Intent], *, migrates: bool = False
) -> dict[str, Known]:
    """The backends first: read afterwards, the ledger has whatever they committed.

    *migrates*: *connection* may have taken the migration lock. Another has not, though a pooler may
    give it the very process that holds it.
    """
    is_standby = _one(connection, _STANDBY)[0]
    identity, timeline = _identity(connection)
    started = {pid: times for pid, *times in run(connection, _BACKENDS).fetchall()}
    locks = run(connection, _LOCKS, (LOCK_NAMESPACE,)).fetchall()
    known = {}
    for intent in intents:
        is_read, oid, written_anew_at, row = _row(connection, intent)
        known[intent.event_id] = Known(
            identity=identity,
            timeline=timeline,
            database=database_of(connection),
            is_standby=is_standby,
            has_pid=intent.backend_pid in started,
            pid_started_at=at_best(started.get(intent.backend_pid, [None])[0]),
            lock_holders=frozenset(pid for pid, _ in locks),
            began_at=frozenset(filter(None, (at_best(at) for _, at in started.values()))),
            is_lock_ours=migrates and any(is_ours for _, is_ours in locks),
            is_ledger_read=is_read,
            ledger_oid=oid,
            written_anew_at=written_anew_at,
            row=row,
        )
    return known


def _identity(connection: psycopg.Connection[Any]) -> tuple[str | None, int | None]:
    try:
        with connection.transaction():
            identity, timeline = _one(connection, IDENTITY)
    except _NO_ANSWER:  # not that it may not be asked
        raise
    except psycopg.Error:
        return None, None
    return identity, timeline


def _row(
    connection: psycopg.Connection[Any], intent: Intent
) -> tuple[bool, int | None, datetime | None, LedgerRow | None]:
    """Whether the ledger can be read, which table it is, since when, and the intent's row."""
    try:
        ledger, version = table(intent.ledger_table), intent.migration.version
        with connection.transaction():
            oid = _one(connection, "SELECT to_regclass(%s)::oid", (ledger.as_string(None),))[0]
            anew = _one(connection, pgsql.SQL(_WRITTEN_ANEW).format(ledger))[0]
            found = run(connection, pgsql.SQL(_ROW).format(ledger), (version,)).fetchone()
    except _NO_ANSWER:
        raise
    except (psycopg.Error, TypeError, ValueError):  # or what the intent names is no table
        return False, None, None, None
    if found is None:
        return True, oid, at_best(anew), None
    row_id, applied_at, execution_time_ms, name, slug = found
    prefix = f"{name}_{version}_"
    row = LedgerRow(
        id=row_id,
        applied_at=at_best(applied_at) or EPOCH,
        execution_time_ms=execution_time_ms,
        is_marked=bool(slug and slug.startswith(prefix) and _REASON.match(slug, len(prefix))),
    )
    return True, oid, at_best(anew), row


def _one(connection: psycopg.Connection[Any], query: Any, values: tuple[object, ...] = ()) -> Any:
    row = run(connection, query, values).fetchone()
    assert row is not None
    return row
