"""The PostgreSQL outbox's schema: made, brought forward, looked for, removed."""

from __future__ import annotations

import re
from contextlib import suppress

from psycopg import errors

from ..errors import OutboxError
from . import schema
from .postgres_refusal import CHANGED, MISSING, LackingError, init
from .postgres_rights import COMMIT, NEEDED, RELEASE, SCHEMA, TABLES, briefly, missing_rights
from .postgres_session import Connection, ask, conninfo_of, described, settings
from .summary import LEFT_BEHIND_QUERIES, LeftBehind, left_behind

HURRY = "200ms"
"""How long a statement in a migration's transaction may wait for a lock."""
MAKING_S = 2.0
"""How long a run waits until its outbox is made: event triggers of others may be slow."""
_LOCK = 0x43465748
"""Advisory: two runs that find no outbox make one."""
_HAS = {one: f"to_regclass('{SCHEMA}.{one}') IS NOT NULL" for one in (*TABLES, "outbox_version")}
_COLUMNS = ", ".join(
    f"('{SCHEMA}.{table[1]}', '{name}', '{kind}', {' DEFAULT ' in rest})"
    for text in schema.statements("postgres", 0)
    if (table := re.match(r"CREATE TABLE IF NOT EXISTS (\w+)", text))
    for name, kind, rest in re.findall(r"^ +([a-z_]+) (\w+)(.*)", text, re.MULTILINE)
)
_CHANGED = f"""(
  SELECT string_agg(place || name, ', ' ORDER BY place || name) FROM (
    SELECT place || '.' AS place, name
    FROM (VALUES {_COLUMNS}) AS ours (place, name, kind, has_default)
    LEFT JOIN pg_attribute ON attrelid = to_regclass(place) AND attname = name
    WHERE format_type(atttypid, atttypmod) IS DISTINCT FROM kind OR attgenerated <> ''
      OR has_default AND NOT atthasdef AND attidentity = ''
    UNION ALL
    SELECT place, ''
    FROM (VALUES {", ".join(f"('{SCHEMA}.{one}')" for one in TABLES)}) AS ours (place)
    JOIN pg_class ON pg_class.oid = to_regclass(place)
    WHERE relkind <> 'r' OR EXISTS (SELECT FROM pg_rewrite WHERE ev_class = pg_class.oid)
      OR NOT EXISTS (SELECT FROM pg_index WHERE indrelid = pg_class.oid AND indisprimary)
    UNION ALL
    SELECT tgrelid::regclass::text || ' (trigger ', tgname || ')' FROM pg_trigger
    WHERE tgrelid IN ({", ".join(f"to_regclass('{SCHEMA}.{one}')" for one in TABLES)})
      AND tgtype & 3 = 3 AND tgenabled IN ('O', 'A')  -- for each row, before: it may drop the row
  ) AS changed
)"""
"""The columns and tables that are not as they were made: by others, so that writing would fail."""
_VERSION = (
    # Without a row it is a copy of a database without its data.
    f"SELECT coalesce(max(version::integer), {schema.FIRST}) AS version, "
    f"to_regprocedure('{RELEASE}') IS NOT NULL "
    f"AND to_regprocedure('{COMMIT}') IS NOT NULL AS has_functions, "
    f"{' AND '.join(_HAS.values())} AS has_tables, {_CHANGED} AS changed "
    f"FROM {SCHEMA}.outbox_version"
)
_OTHERS = (*MISSING, errors.UndefinedColumn, errors.RaiseException, errors.IntegrityError)
"""While it is made, they come from event triggers of others."""
_IS_PGMQ = f"to_regclass('{SCHEMA}.schema_version') IS NOT NULL"


def fitted(name: str, value: str) -> str:
    r"""The statement *name* in PostgreSQL's dialect, with *value* for each ``:name``: ``\1``."""
    return re.sub(r"(?<!:):(\w+)", value, schema.query(name).replace("main.", f"{SCHEMA}."))


_SETTINGS = """RETURNS boolean LANGUAGE plpgsql
SET search_path = pg_catalog SET plan_cache_mode = force_generic_plan SET exit_on_error = off
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off SET row_security = on"""
"""Settings of our functions. They end with each call: a transaction keeps its own."""


def _functions() -> list[str]:
    """The functions that release or stage an event, or go with a COMMIT: planned once a session."""
    head, one, given = r"head.\1", r"one.\1", r"stage_committed.\1"
    mark = f"SELECT FROM {SCHEMA}.released AS mark WHERE mark.event_id = head.event_id"
    return [
        f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.stage_committed(event_id text, changes text)
{_SETTINGS} SET lock_timeout = '{HURRY}'
AS $commit$
#variable_conflict use_column
BEGIN
    {fitted("stage_committed", given)};
    RETURN FOUND;
END
$commit$""",
        f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.release(given json, wait text)
{_SETTINGS} SET lock_timeout = 0
AS $release$
DECLARE
    head record;
    one record;
    is_first boolean;
BEGIN
    PERFORM set_config('lock_timeout', wait, true);
    SELECT * INTO head FROM json_to_record(given) AS head (
        event_id text, environment text, released_at bigint, token text, holder text,
        deliveries json, staged_at bigint, intent text
    );
    IF head.intent IS NOT NULL THEN
        {fitted("stage", head)};
        is_first := FOUND;
        ASSERT is_first OR EXISTS ({mark}) OR EXISTS (
            SELECT FROM {SCHEMA}.intents WHERE intents.event_id = head.event_id
        );
        RETURN is_first;
    END IF;
    IF head.event_id <> '' THEN
        {fitted("mark_released", head)};
    END IF;
    {fitted("unstage", head)};
    FOR one IN SELECT * FROM json_to_recordset(head.deliveries) AS one (
        id text, event_id text, event_type text, endpoint text, environment text,
        content_type text, traceparent text, tracestate text, correlation_id text,
        created_at bigint, migration_version text, migration_name text, body bytea, token text,
        holder text
    ) LOOP
        {fitted("add_delivery", one)};
        {fitted("add_body", one)};
        IF FOUND THEN
            PERFORM pg_notify('{SCHEMA}', '');
        END IF;
        IF one.holder IS NOT NULL THEN
            {fitted("end_leases", one)};
        END IF;
    END LOOP;
    is_first := EXISTS ({mark} AND mark.token = head.token);
    -- A trigger or rule of others may keep rows out without an error.
    ASSERT coalesce(head.event_id, '') = '' OR EXISTS ({mark}) AND (NOT is_first OR (
        SELECT count(*) FROM {SCHEMA}.deliveries JOIN {SCHEMA}.bodies USING (seq)
        WHERE deliveries.event_id = head.event_id
    ) >= json_array_length(head.deliveries));
    RETURN is_first;
END
$release$""",
    ]


def version(connection: Connection, where: str) -> int:
    """The schema's version in the database; 0: it has no outbox, or not all of its tables.

    Raises OutboxError if somebody has changed them.
    """
    try:
        *_, [row] = ask(connection, settings(), _VERSION)
    except MISSING:
        *_, [old] = ask(connection, settings(), f"SELECT {_IS_PGMQ} AS is_there")
        return 1 if old["is_there"] else 0
    found: int = row["version"]
    # Functions and parts of tables that somebody has dropped are made anew.
    is_less = found == schema.VERSION and not row["has_functions"]
    if found == schema.VERSION and row["has_tables"] and row["changed"]:
        problem = f"somebody has changed its tables: {row['changed']}"
        raise OutboxError(f"outbox {where}: {problem}", CHANGED)
    return found - is_less if row["has_tables"] or found > schema.VERSION else 0


def prepare(connection: Connection, where: str, *, wait_s: float = MAKING_S) -> bool:
    """Bring the database to the newest schema, in one statement; whether anything was made.

    It takes *wait_s* at most: slower event triggers of others are not waited for.

    Raises OutboxError for a database that another version has been at; LackingError for a role
    that could not do all that follows; another psycopg.Error when the server refuses.
    """
    had = version(connection, where)
    if had == 1:
        problem = f"outbox {where}: made by an unreleased confiture-webhooks, on pgmq"
        remove = f"DROP SCHEMA {SCHEMA} CASCADE; SELECT pgmq.drop_queue('{SCHEMA}')"
        remedy = f"Deliver what it holds with that version, then remove it: {remove}"
        raise OutboxError(problem, remedy)
    schema.check(had, f"outbox {where}", "CONFITURE_WEBHOOK_OUTBOX=postgres:<dsn>")
    if had == schema.VERSION:
        if lacking := missing_rights(connection, NEEDED):
            raise LackingError("; ".join(lacking))
        return False
    making = (
        f"PERFORM pg_catalog.pg_advisory_xact_lock({_LOCK})",
        *(_FIRST if had == 0 else ()),
        *schema.statements("postgres", had),
        # These lock the tables against everybody, so not where a backup may be reading them.
        *(_FITTINGS if had == 0 else ()),
        *_functions(),
        f"REVOKE ALL ON FUNCTION {RELEASE}, {COMMIT} FROM PUBLIC",
        _RIGHTS,
        f"DELETE FROM {SCHEMA}.outbox_version",
        f"INSERT INTO {SCHEMA}.outbox_version VALUES ({schema.VERSION})",
    )
    limit, for_locks = f"{wait_s:g}s", f"{800 * wait_s:.0f}ms"  # less: a lock has its own message
    try:
        ask(
            connection,
            settings(statement_timeout=limit, lock_timeout=for_locks, search_path=SCHEMA),
            "DO $make$ BEGIN\n{};\nEND $make$".format(";\n".join(making)),
        )
    except (errors.DuplicateTable, errors.DuplicateObject):
        return False  # another run has just made it
    except _OTHERS as error:
        problem = f"outbox {where}: making its tables fails"
        raise OutboxError(problem, "See the server's log") from error
    except errors.QueryCanceled as error:
        problem = f"outbox {where}: making its tables takes longer than {limit}"
        is_run = wait_s <= MAKING_S
        remedy = f"Create it beforehand: {init()}" if is_run else "Switch slow event triggers off"
        raise OutboxError(problem, remedy) from error
    return True


_FIRST = (
    f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}",
    f"CREATE TABLE IF NOT EXISTS {SCHEMA}.outbox_version (version integer PRIMARY KEY)",
    # Rows left of deliveries that are gone would be taken for rows of new ones.
    f"""DO $rest$ BEGIN IF NOT ({_HAS["deliveries"]}) THEN
        DROP TABLE IF EXISTS {SCHEMA}.bodies, {SCHEMA}.attempts;
    END IF; END $rest$""",
)
# If an administrator brings an outbox forward, the functions still belong to the tables' owner.
# Roles that may release by GRANTs that do not name them yet may call them.
_RIGHTS = f"""DO $rights$ DECLARE one record; given text; BEGIN
    FOR one IN
        SELECT DISTINCT CASE grantee WHEN 0 THEN 'PUBLIC'
            ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(grantee)) END AS name
        FROM pg_catalog.pg_class JOIN pg_catalog.pg_attribute ON attrelid = pg_class.oid,
            pg_catalog.aclexplode(relacl || attacl)
        WHERE pg_class.oid = '{SCHEMA}.deliveries'::pg_catalog.regclass
            AND privilege_type = 'INSERT'
    LOOP
        EXECUTE 'GRANT EXECUTE ON FUNCTION {RELEASE}, {COMMIT} TO ' || one.name;
    END LOOP;
    FOREACH given IN ARRAY ARRAY['{RELEASE}', '{COMMIT}'] LOOP
        EXECUTE pg_catalog.format('ALTER FUNCTION %s OWNER TO %I', given, (
            SELECT pg_catalog.pg_get_userbyid(relowner) FROM pg_catalog.pg_class
            WHERE pg_class.oid = '{SCHEMA}.deliveries'::pg_catalog.regclass
        ));
    END LOOP;
END $rights$"""
_FITTINGS = tuple(
    f"ALTER TABLE {SCHEMA}.{table} {change}"
    # Rows are moved often and soon dead: they are cleared away early.
    for change in ("SET (autovacuum_vacuum_scale_factor = 0.05)", "ENABLE ROW LEVEL SECURITY")
    for table in TABLES
)


def is_there(dsn: str) -> bool:
    """Whether the database at *dsn* has an outbox. Raises OutboxError when it cannot be asked."""
    question = f"SELECT {' OR '.join([_IS_PGMQ, *_HAS.values()])} AS is_there"
    with briefly(dsn) as connection, suppress(errors.InsufficientPrivilege):
        *_, [row] = ask(connection, settings(), question)
        return bool(row["is_there"])
    return True


def left_behind_in(dsn: str) -> dict[str | None, LeftBehind]:
    """The deliveries in an outbox at *dsn*, also a changed one; none if it cannot be asked."""
    with suppress(OutboxError), briefly(dsn) as connection:
        questions = (fitted(one, "") for one in LEFT_BEHIND_QUERIES)
        return left_behind(*ask(connection, settings(), *questions)[2:])
    return {}


def may_make(dsn: str) -> bool:
    """Whether the role of *dsn* may make one there. Raises OutboxError when it cannot be asked."""
    question = "SELECT has_database_privilege(current_database(), 'CREATE') AS may"
    with briefly(dsn) as connection:
        *_, [row] = ask(connection, settings(), question)
        return bool(row["may"])


def owner(dsn: str) -> tuple[str, bool]:
    """The role that owns the outbox there, and whether that of *dsn* may drop it as its owner may.

    Raises OutboxError when it cannot be asked, or there is none.
    """
    question = (
        "SELECT pg_get_userbyid(nspowner) AS name, pg_has_role(nspowner, 'USAGE') AS may "
        f"FROM pg_namespace WHERE nspname = '{SCHEMA}'"
    )
    with briefly(dsn) as connection:
        *_, rows = ask(connection, settings(), question)
        if not rows:
            raise OutboxError(f"outbox {described(conninfo_of(dsn))}: there is none")
        return str(rows[0]["name"]), bool(rows[0]["may"])


def drop(dsn: str) -> None:
    """Remove the outbox from the database, with all it holds."""
    statement = f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE"
    with briefly(dsn) as connection:
        ask(connection, settings(statement_timeout="30s"), statement)
