"""The migrated database: its address, and the facts its connection has before a migration."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg import conninfo
from psycopg import sql as pgsql
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from ..config.file import expand, read
from ..config.rules import Invalid
from ..event import Database
from ..outbox import NO_ROW
from ..outbox.postgres_session import identifier, is_at, is_plain, parameters_of
from ..outbox.rows import at_best
from ..run.migration import Backend, is_idle

KEYS = ("database_url", "database")
VARIABLES = ("CONFITURE_DATABASE_URL", "DATABASE_URL")
DEFAULT_PORT = 5432
ASKABLE = (TransactionStatus.IDLE, TransactionStatus.INTRANS)
"""The states in which a connection takes a question."""
LOCK_NAMESPACE = 1751936052
"""The first key of every migration lock, ``MigrationLock.DEFAULT_LOCK_NAMESPACE``."""

MICROS = "(extract(epoch FROM {}) * 1000000)::bigint"
"""SQL for an instant as the outbox keeps one: its text depends on no DateStyle."""
IDENTITY = (
    "SELECT system_identifier || '/' || database.oid, timeline_id "
    "FROM pg_catalog.pg_control_system(), pg_catalog.pg_control_checkpoint(), "
    "pg_catalog.pg_database AS database WHERE datname = current_database()"
)
_PROCESS = (
    "SELECT current_schema(), pg_backend_pid(), "
    f"(SELECT {MICROS.format('backend_start')} FROM pg_catalog.pg_stat_activity "
    "WHERE pid = pg_backend_pid()), nspname, relname, pg_class.oid "
    "FROM (VALUES (to_regclass(%s))) AS ledger (oid) "
    "LEFT JOIN pg_catalog.pg_class ON pg_class.oid = ledger.oid "
    "LEFT JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace"
)
_LOCK = (  # on its own: a role that may not see locks knows the rest all the same
    "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND granted "
    "AND classid = %s AND pid = pg_backend_pid())"
)
_ROW = (
    f"SELECT {MICROS.format('clock_timestamp()')}, (SELECT id::text FROM {{}} WHERE version = %s)"
)


def backend_of(engine: Any, *, for_hooks: bool = False) -> Backend:
    """The facts about *engine*'s server process and ledger, the same for all its migrations.

    To be asked under the migration lock, if the run takes it.
    """
    connection, ledger = engine.connection, str(engine.migration_table)
    info = connection.info
    asked = (table(ledger).as_string(None),)
    schema, pid, started_at, *found = _asked(connection, _PROCESS, asked) or [None] * 6
    identity, timeline = _asked(connection, IDENTITY) or (None, None)
    locked = _asked(connection, _LOCK, (LOCK_NAMESPACE,))
    # A pooler answers with a pid of its own making, and gives each transaction another process.
    is_direct = pid == info.backend_pid
    return Backend(
        database=replace(database_of(connection), schema=schema),
        ledger_table=".".join(found[:2]) if found[2] else ledger,
        database_url=masked_url(info) if for_hooks else "",
        backend_pid=pid if is_direct else None,
        backend_started_at=at_best(started_at) if is_direct else None,
        database_identity=identity,
        timeline=timeline,
        ledger_oid=found[2],
        has_lock=bool(locked and locked[0]),
    )


def database_of(connection: Any) -> Database:
    """The database of *connection*, as far as it is known without a question."""
    info = connection.info
    return Database(host=info.host or None, port=info.port or None, name=info.dbname or None)


def masked_url(info: Any) -> str:
    """The connection's URL with ``***`` for a password, and no port when it is PostgreSQL's own."""
    host, user = quote(info.host or "", safe=":"), quote(info.user or "", safe="")
    host = f"[{host}]" if ":" in host else host
    port = f":{info.port}" if info.port and info.port != DEFAULT_PORT else ""
    password = ":***" if info.password else ""
    return f"postgresql://{user}{password}@{host}{port}/{quote(info.dbname or '', safe='')}"


def before(backend: Backend, engine: Any, version: str) -> Backend:
    """*backend* with what its ledger says of *version* now."""
    row = _asked(engine.connection, pgsql.SQL(_ROW).format(table(backend.ledger_table)), (version,))
    return replace(
        backend,
        ledger_read_at=at_best(row[0]) if row else None,
        ledger_before=(row[1] or NO_ROW) if row else None,
        is_idle=is_idle(engine.connection),
        is_gone=bool(engine.connection.closed),
    )


def table(name: str) -> pgsql.SQL:
    """The ledger's *name*, with its schema or without, as an identifier."""
    schema, _, bare = name.rpartition(".")
    return pgsql.SQL(identifier(*filter(None, (schema, bare))))


def _asked(connection: Any, query: Any, values: tuple[object, ...] = ()) -> Any:
    """The row that answers *query*, ``None`` when refused; the transaction stays as it was."""
    if connection.info.transaction_status not in ASKABLE:
        return None
    with suppress(psycopg.Error), connection.transaction():
        return run(connection, query, values).fetchone()
    return None


def run(
    connection: psycopg.Connection[Any], query: Any, values: tuple[object, ...] = ()
) -> psycopg.Cursor[Any]:
    """*query*, prepared nowhere: a pooler would hand that to others."""
    return connection.cursor(row_factory=tuple_row).execute(query, values, prepare=False)


# The address


def dsn_of(connection: Any, configured: str | None = None) -> str:
    """The DSN that *connection* (open: afterwards libpq forgets it) was made with.

    It names one server. If *configured* names several, it is kept: another may take over.
    psycopg's own list of it needs a home directory, which not every user has.
    """
    given = parameters_of(configured or "")
    hosts = given.get("host", given.get("hostaddr", ""))
    if configured and "," in hosts and is_at(configured, connection.info):
        return configured
    options = [one for one in connection.pgconn.info if one.val not in (None, one.compiled)]
    return conninfo.make_conninfo(**{one.keyword.decode(): one.val.decode() for one in options})


def named(dsn: str | None) -> Database:
    """The database that *dsn* names, with libpq's variables and defaults, without asking it."""
    given: dict[str, str] = {}
    with suppress(psycopg.ProgrammingError, UnicodeError):
        if dsn is not None and is_plain(conninfo.conninfo_to_dict(dsn)):
            given = parameters_of(dsn)
    port = given.get("port", "")
    return Database(
        host=given.get("host"),
        port=int(port) if port.isdecimal() else None,
        name=given.get("dbname") or given.get("user"),
    )


def project_dsn(config_file: Path | None, environ: Mapping[str, str]) -> str | None:
    """The database Confiture would use here; ``None``: it is not known.

    *config_file* is the environment file, ``None`` where the address comes from a variable.
    """
    from confiture.core.connection import dsn_from_config  # noqa: PLC0415

    if config_file is None:
        return next((environ[name] for name in VARIABLES if environ.get(name)), None)
    try:
        content, _ = read(config_file)
        if not any(map(content.get, KEYS)) and environ.get(VARIABLES[0]):
            return environ[VARIABLES[0]]
        # No more than this: a variable of another part that is not set is no fault of the address.
        found = expand({key: content.get(key) for key in KEYS}, environ)
        return str(dsn_from_config(found) or "") or None
    except Exception:  # noqa: BLE001  what the host cannot use, either
        return None


def address_setting(config_file: Path | None, environ: Mapping[str, str]) -> str:
    """The setting that names the migrated database, for a sentence."""
    if config_file is not None and names_database(config_file, {}):
        return f"`database_url` of {config_file}"
    return next((name for name in VARIABLES if environ.get(name)), VARIABLES[0])


def names_database(config_file: Path | None, environ: Mapping[str, str]) -> bool:
    """Whether the file, or a variable, names the database; otherwise it is the host's default."""
    if config_file is None or environ.get(VARIABLES[0]):
        return any(map(environ.get, VARIABLES))
    try:
        content, _ = read(config_file)
    except Invalid:
        return False
    return any(map(content.get, KEYS))
