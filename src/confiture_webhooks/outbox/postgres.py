"""The durable outbox in PostgreSQL, shared by any number of machines.

A release is on the server's disk when it returns, or when the migration's transaction that it
was part of has committed. A claim and a record are not waited for: a crash of the server may undo
the latest of them, and leaves their deliveries to be sent again, with the same event id.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import psycopg
from psycopg import errors
from psycopg import sql as pgsql
from psycopg.pq import TransactionStatus

from ..delivery import Delivery
from ..errors import OutboxError
from . import rows, schema
from .outbox import Found, Outbox, Step
from .postgres_listener import Listener
from .postgres_session import (
    Session,
    ask,
    connect,
    conninfo_of,
    described,
    is_at,
    settings,
    translated,
)
from .values import Intent

SCHEMA = "confiture_webhooks"
TABLES = ("intents", "released", "deliveries", "bodies", "attempts", "endpoints")
_LOCK = 0x43465748
"""Advisory: two runs that find no outbox make one."""
_VERSION = f"SELECT version FROM {SCHEMA}.outbox_version"
_OF_PGMQ = f"SELECT pg_catalog.to_regclass('{SCHEMA}.schema_version') IS NOT NULL AS is_there"
_NOTIFY = f"SELECT pg_catalog.pg_notify('{SCHEMA}', :payload)"
_NEWS = _NOTIFY.replace(":payload", "''")
_MISSING = (errors.UndefinedTable, errors.InvalidSchemaName)
_PATIENCE = {"lock_timeout": "200ms", "statement_timeout": "2s"}
"""How long a statement in a migration's transaction may wait, or take."""


def _having(values: Mapping[str, str]) -> str:
    calls = (f"pg_catalog.set_config('{name}', {to}, true)" for name, to in values.items())
    return f"SELECT {', '.join(calls)}"


_OWN = ", ".join(f"pg_catalog.current_setting('{one}') AS {one}" for one in _PATIENCE)
_KEEP = (
    f"DECLARE {SCHEMA} NO SCROLL CURSOR FOR {_having({one: f'own.{one}' for one in _PATIENCE})} "
    f"FROM (SELECT {_OWN} OFFSET 0) own "
    "CROSS JOIN LATERAL pg_catalog.generate_series(0, pg_catalog.length(own.lock_timeout))"
)
"""A cursor that reads the transaction's own settings at its first row, and has them at each."""
_NEXT = f"FETCH {SCHEMA}"
_HURRY = _having({one: f"'{value}'" for one, value in _PATIENCE.items()})


@cache
def statement(name: str) -> str:
    """The statement *name* in PostgreSQL's dialect; ``list <filters>`` has its filters in it."""
    name, _, filters = name.partition(" ")
    text = {"news": _NEWS, "notify": _NOTIFY}.get(name) or schema.queries()[name]
    text = text.replace("{filters}", filters).replace("main.", f"{SCHEMA}.")
    return re.sub(r"(?<!:):(\w+)", r"%(\1)s", text)


def _composed(connection: psycopg.Connection[Any], steps: Sequence[Step]) -> list[str]:
    """*steps* with their values in them, as *connection* writes literals."""
    cursor = psycopg.ClientCursor(connection)
    return [cursor.mogrify(statement(name), dict(values)) for name, values in steps]


class PostgresStore:
    """The statements on PostgreSQL. Makes the schema where there is none, if the role may."""

    is_durable = True

    def __init__(self, dsn: str) -> None:
        self.session = Session(dsn, self._prepare)
        self.where = self.session.where
        self.has_made = False
        """Whether the outbox was not there before."""

    def read(self, *steps: Step) -> list[Found]:
        """The rows that each of *steps* returns."""
        return self._done(steps, settings())

    def write(self, *steps: Step, is_synced: bool = True) -> list[Any]:
        """Do all of *steps* or none; the rows each returns, or how many it changed."""
        return self._done(steps, settings(synchronous_commit="on" if is_synced else "off"))

    def _done(self, steps: Sequence[Step], beginning: str) -> list[Any]:
        return self.session.ask(lambda lent: [beginning, *_composed(lent, steps)])[2:]

    def _prepare(self, connection: psycopg.Connection[Any]) -> None:
        self.has_made |= prepare(connection, self.where)

    def close(self) -> None:
        """Close the connection."""
        self.session.close()


class PostgresOutbox(Outbox):
    """Keeps what happened in the database at *dsn*.

    Makes its schema where there is none, if the role may. Raises OutboxError when it may not,
    when the server does not answer, or when a newer version has been at the database. A server
    that comes back is used again. Without *connects* the first use opens the connection.
    """

    _store: PostgresStore

    def __init__(self, dsn: str, *, connects: bool = True) -> None:
        super().__init__(PostgresStore(dsn))
        self._is_known = False
        if connects:
            with self._store.session.lent():
                pass

    @property
    def has_made(self) -> bool:
        """Whether the outbox was not there before."""
        return self._store.has_made

    def stage_on(self, connection: psycopg.Connection[Any], intent: Intent, /) -> bool:
        """Stage over *connection*, if it is idle in this database."""
        if connection.info.transaction_status != TransactionStatus.IDLE:
            return False
        return self._asked_on(connection, [self._staging(intent)]) is not None

    def intents_on(self, connection: psycopg.Connection[Any], /) -> Sequence[Intent] | None:
        """The intents over *connection*; ``None``: not possible there."""
        answers = self._asked_on(connection, [("intents", {})])
        if answers is None:
            return None
        return [one for one in self._understood(answers[0]) if isinstance(one, Intent)]

    def release_on(
        self, connection: psycopg.Connection[Any], event_id: str, deliveries: Sequence[Delivery], /
    ) -> bool:
        """Release over *connection*, if it is to this database. Never raises OutboxError."""
        return self._asked_on(connection, self._releasing(event_id, deliveries)) is not None

    def _asked_on(
        self, connection: psycopg.Connection[Any], steps: Sequence[Step]
    ) -> list[Any] | None:
        """What *steps* answer over another's *connection*; ``None``: nothing was done there."""
        with suppress(psycopg.Error, OutboxError):
            if not is_at(self._store.session.dsn, connection.info):
                return None
            status = connection.info.transaction_status
            if status == TransactionStatus.IDLE:
                with _committing(connection):
                    if not self._is_known:
                        prepare(connection, self.where, wait="2s")
                        self._is_known = True
                    beginning = settings(synchronous_commit="on")
                    return ask(connection, beginning, *_composed(connection, steps))[2:]
            if status == TransactionStatus.INTRANS:
                return _within(connection, steps)
        return None

    def listen(
        self, wake: Callable[[], None], on_change: Callable[[bool], None]
    ) -> Callable[[], None]:
        """Listen, over one more connection."""

        def notify(payload: str) -> None:
            self._store.read(("notify", {"payload": payload}))

        return Listener(self._store.session.dsn, SCHEMA, notify, wake, on_change).stop


@contextmanager
def _committing(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Have each message be a transaction of its own: *connection* is idle, before and after."""
    was = connection.autocommit
    connection.autocommit = True
    try:
        yield
    finally:
        if not connection.closed:
            connection.autocommit = was


def _within(connection: psycopg.Connection[Any], steps: Sequence[Step]) -> list[Any]:
    """What *steps* answer in a savepoint of the transaction that is open: one round trip.

    It waits for no lock for long. The transaction's own settings are back when it returns.
    """
    saved, released = f"SAVEPOINT {SCHEMA}", f"RELEASE SAVEPOINT {SCHEMA}"
    composed = _composed(connection, steps)
    try:
        hurried = [saved, _KEEP, _NEXT, _HURRY]
        answers = ask(connection, *hurried, *composed, _NEXT, f"CLOSE {SCHEMA}", released)
        return answers[len(hurried) : -3]
    except psycopg.Error:
        if connection.pgconn.transaction_status == TransactionStatus.INERROR:
            ask(connection, f"ROLLBACK TO {saved}", released)
        raise


def version(connection: psycopg.Connection[Any]) -> int:
    """The schema's version in the database; 0: it has no outbox."""
    try:
        *_, found = ask(connection, settings(), _VERSION)
    except _MISSING:
        *_, [old] = ask(connection, settings(), _OF_PGMQ)
        return 1 if old["is_there"] else 0
    return int(found[0]["version"]) if found else 0


def prepare(connection: psycopg.Connection[Any], where: str, *, wait: str = "30s") -> bool:
    """Bring the database to the newest schema, in one transaction; whether anything was made.

    Raises OutboxError for a database that another version has been at; psycopg.Error when the
    server refuses.
    """
    had = version(connection)
    if had == 1:
        raise OutboxError(
            f"outbox {where}: made by an unreleased confiture-webhooks, on pgmq",
            "Deliver what it holds with that version, then remove it: DROP SCHEMA "
            f"{SCHEMA} CASCADE; SELECT pgmq.drop_queue('{SCHEMA}')",
        )
    schema.check(had, f"outbox {where}", "CONFITURE_WEBHOOK_OUTBOX=postgres:<dsn>")
    if had == schema.VERSION:
        return False
    try:
        ask(
            connection,
            settings(statement_timeout=wait, lock_timeout=wait, search_path=SCHEMA),
            f"SELECT pg_catalog.pg_advisory_xact_lock({_LOCK})",
            *([f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}", _VERSION_TABLE] if had == 0 else []),
            *schema.statements("postgres", had),
            *(_FITTINGS if had == 0 else ()),
            f"UPDATE {SCHEMA}.outbox_version SET version = {schema.VERSION}",
        )
    except (errors.DuplicateTable, errors.DuplicateObject):
        return False  # another run has just made it
    return True


_VERSION_TABLE = (
    f"CREATE TABLE {SCHEMA}.outbox_version (version integer NOT NULL); "
    f"INSERT INTO {SCHEMA}.outbox_version VALUES (0)"
)
_FITTINGS = tuple(
    f"ALTER TABLE {SCHEMA}.{table} {change}"
    # Rows are moved often and soon dead: they are cleared away early.
    for change in ("SET (autovacuum_vacuum_scale_factor = 0.05)", "ENABLE ROW LEVEL SECURITY")
    for table in TABLES
)


_RELEASED = (
    "id, event_id, event_type, endpoint, environment, content_type, traceparent, tracestate, "
    "correlation_id, created_at, migration_version, migration_name, due_at"
)
_MOVED = "state, due_at, is_ready, wakes_at, token, attempts, tries, finished_at"
_ON_DELIVERIES = f"SELECT, INSERT ({_RELEASED}), UPDATE ({_MOVED}), DELETE"


def grants(role: str, environment: str | None = None) -> list[str]:
    """The statements that let *role* use an outbox it may not create.

    With *environment* it may read and write the rows of that environment only.
    """
    import hashlib  # noqa: PLC0415  loads OpenSSL, which no run needs here

    name = pgsql.Identifier(role).as_string(None)
    # Longer names lose their end, which may be all that two roles differ in.
    digest = hashlib.sha256(role.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    policy = pgsql.Identifier(f"confiture_webhooks {digest}").as_string(None)
    is_own = "true"
    if environment is not None:
        is_own = f"environment = {pgsql.Literal(rows.text(environment)).as_string(None)}"
    is_of_own = f"EXISTS (SELECT 1 FROM {SCHEMA}.deliveries WHERE deliveries.seq = {{}}.seq)"
    rules = {
        table: is_of_own.format(table) if table in ("bodies", "attempts") else is_own
        for table in TABLES
    }
    whole = ("endpoints", "intents")
    statements = [
        f"GRANT USAGE ON SCHEMA {SCHEMA} TO {name};",
        f"GRANT SELECT ON {SCHEMA}.outbox_version TO {name};",
        *(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {SCHEMA}.{one} TO {name};" for one in whole),
        # No role chooses a seq, which is another's next.
        f"GRANT {_ON_DELIVERIES} ON {SCHEMA}.deliveries TO {name};",
        f"GRANT SELECT, INSERT, DELETE ON {SCHEMA}.released TO {name};",
        f"GRANT SELECT, INSERT ON {SCHEMA}.bodies, {SCHEMA}.attempts TO {name};",
    ]
    for table, rule in rules.items():
        place = f"ON {SCHEMA}.{table}"
        statements += [
            f"DROP POLICY IF EXISTS {policy} {place};",
            f"CREATE POLICY {policy} {place} TO {name} USING ({rule}) WITH CHECK ({rule});",
        ]
    return statements


@contextmanager
def _briefly(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection for a question. Raises OutboxError."""
    with translated(described(conninfo_of(dsn))), connect(conninfo_of(dsn)) as connection:
        yield connection


def is_there(dsn: str) -> bool:
    """Whether the database at *dsn* has an outbox. Raises OutboxError when it cannot be asked."""
    with _briefly(dsn) as connection:
        try:
            return version(connection) > 0
        except errors.InsufficientPrivilege:
            return True


def has_outbox(dsn: str) -> bool:
    """The same; ``False`` also when it cannot be asked."""
    with suppress(OutboxError):
        return is_there(dsn)
    return False


def may_make(dsn: str) -> bool:
    """Whether the role of *dsn* may make one there. Raises OutboxError when it cannot be asked."""
    question = "SELECT has_database_privilege(current_database(), 'CREATE') AS may"
    with _briefly(dsn) as connection:
        *_, [row] = ask(connection, settings(), question)
        return bool(row["may"])


def drop(dsn: str) -> bool:
    """Remove the outbox from the database, with all it holds; ``False``: there is none."""
    with _briefly(dsn) as connection:
        if version(connection) == 0:
            return False
        ask(connection, settings(statement_timeout="30s"), f"DROP SCHEMA {SCHEMA} CASCADE")
        return True
