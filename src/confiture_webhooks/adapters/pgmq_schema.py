"""The PostgreSQL outbox's tables, beside a pgmq queue, and how a database comes to have them.

pgmq keeps the queue: one for all endpoints, since a queue of its own for each would be DDL in
the middle of a run. A message names a delivery, its header ``x-pgmq-group`` the endpoint and its
environment; ``vt``
is the lease, or when a retry is due, or ``-infinity``: waits for nothing but a claim. What has
ended is in pgmq's archive. What pgmq cannot keep is in a schema of our own: exact bytes (its
messages are ``jsonb``), attempts, intents, endpoints that are off.

``schema_version`` is the number of migrations the database has had. They only go forward: a
released one is never edited, the next is appended.
"""

from __future__ import annotations

from typing import Any

from psycopg import sql as pgsql

from ..errors import OutboxError
from .pgmq_connection import Connection

SCHEMA = "confiture_webhooks"
QUEUE = "confiture_webhooks"
CHANNEL = f"pgmq.q_{QUEUE}.INSERT"
"""What pgmq calls the channel of a queue's new messages."""
_LOCK = 0x43465748
"""Advisory: two runs that find no outbox make one."""
SETUP_TIMEOUT_S = 30

# Each holds only the rows its question is about, so that a claim costs the same however many
# messages are in the queue, waiting for later.
_QUEUE_INDEXES = """
CREATE INDEX q_confiture_webhooks_ready ON pgmq.q_confiture_webhooks
    ((headers ->> 'x-pgmq-group'), msg_id) WHERE vt = '-infinity';
CREATE INDEX q_confiture_webhooks_waiting ON pgmq.q_confiture_webhooks
    ((headers ->> 'x-pgmq-group'), vt) WHERE vt > '-infinity';
"""

_TABLES = f"""
CREATE SCHEMA IF NOT EXISTS confiture_webhooks;

CREATE TABLE confiture_webhooks.schema_version (version integer NOT NULL);
INSERT INTO confiture_webhooks.schema_version VALUES (0);

CREATE TABLE confiture_webhooks.intents (
    event_id text PRIMARY KEY,
    staged_at timestamptz NOT NULL,
    intent jsonb NOT NULL
);

CREATE TABLE confiture_webhooks.released (
    event_id text PRIMARY KEY,  -- released once: a second time changes nothing
    released_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX released_age ON confiture_webhooks.released (released_at);

CREATE TABLE confiture_webhooks.deliveries (
    seq bigint PRIMARY KEY,     -- its msg_id: the order of release
    id text NOT NULL UNIQUE,
    event_id text NOT NULL,
    event_type text NOT NULL,
    endpoint text NOT NULL,
    content_type text NOT NULL,
    traceparent text NOT NULL,
    tracestate text,
    correlation_id text NOT NULL,
    created_at timestamptz NOT NULL,
    migration_version text,
    migration_name text,
    environment text,
    body bytea NOT NULL,
    due_at timestamptz NOT NULL,         -- when its next attempt is, or was, to be made
    token text,                          -- of the claim that holds the lease: it is in flight
    attempts integer NOT NULL DEFAULT 0, -- over all schedules
    tries integer NOT NULL DEFAULT 0,    -- in the current schedule
    outcome text,                        -- how it ended; none: it is pending or in flight
    finished_at timestamptz
) WITH (fillfactor = 70);
CREATE INDEX deliveries_event ON confiture_webhooks.deliveries (event_id);
CREATE INDEX deliveries_undelivered ON confiture_webhooks.deliveries (endpoint, created_at)
    WHERE outcome IS NULL;
CREATE INDEX deliveries_ended ON confiture_webhooks.deliveries (outcome, finished_at, seq)
    WHERE outcome IS NOT NULL;
-- Counted from the index alone, in which equal rows are one entry.
CREATE INDEX deliveries_counted ON confiture_webhooks.deliveries (environment, outcome)
    WHERE outcome IS NOT NULL;

CREATE TABLE confiture_webhooks.attempts (
    seq bigint NOT NULL,
    number integer NOT NULL,
    started_at timestamptz NOT NULL,
    duration interval NOT NULL,
    status_code integer,
    error_type text,
    retry_after interval,
    PRIMARY KEY (seq, number)
);

CREATE TABLE confiture_webhooks.endpoints_off (
    endpoint text NOT NULL,
    environment text NOT NULL,  -- empty: none
    since timestamptz NOT NULL,
    PRIMARY KEY (endpoint, environment)
);

{_QUEUE_INDEXES}
"""

# One statement, so that a migration's transaction is held up by one round trip. It takes no
# lock that another run's release would wait for: pgmq's own NOTIFY trigger would, its throttle
# being one row, and it falls silent after a crash, that row's table being unlogged.
_RELEASE = """
CREATE FUNCTION confiture_webhooks.release(event text, deliveries jsonb) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    one jsonb;
    message bigint;
BEGIN
    DELETE FROM confiture_webhooks.intents WHERE event_id = event;
    INSERT INTO confiture_webhooks.released (event_id) VALUES (event) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    FOR one IN SELECT value FROM jsonb_array_elements(deliveries) LOOP
        SELECT * INTO STRICT message FROM pgmq.send(
            'confiture_webhooks',
            jsonb_build_object('delivery', one ->> 'id'),
            jsonb_build_object(
                'x-pgmq-group',
                jsonb_build_array(one ->> 'endpoint', one ->> 'environment')::text
            ),
            '-infinity'::timestamptz
        );
        INSERT INTO confiture_webhooks.deliveries (
            seq, id, event_id, event_type, endpoint, content_type, traceparent, tracestate,
            correlation_id, created_at, migration_version, migration_name, environment, body,
            due_at
        ) VALUES (
            message, one ->> 'id', event, one ->> 'event_type', one ->> 'endpoint',
            one ->> 'content_type', one ->> 'traceparent', one ->> 'tracestate',
            one ->> 'correlation_id', (one ->> 'created_at')::timestamptz,
            one ->> 'migration_version', one ->> 'migration_name', one ->> 'environment',
            decode(one ->> 'body', 'base64'), (one ->> 'created_at')::timestamptz
        );
    END LOOP;
    IF message IS NOT NULL THEN
        PERFORM pg_notify('pgmq.q_confiture_webhooks.INSERT', '');
    END IF;
    RETURN true;
END
$$
"""

# A queue that was dropped with pgmq takes no delivery with it: those that are not over get their
# messages again, under the numbers they had. Leases are lost: what is under way is due as before.
_QUEUE_AGAIN = f"""
{_QUEUE_INDEXES}
INSERT INTO pgmq.q_confiture_webhooks (msg_id, vt, message, headers) OVERRIDING SYSTEM VALUE
SELECT seq, due_at, jsonb_build_object('delivery', id),
       jsonb_build_object('x-pgmq-group', jsonb_build_array(endpoint, environment)::text)
FROM confiture_webhooks.deliveries WHERE outcome IS NULL;
SELECT setval(pg_get_serial_sequence('pgmq.q_confiture_webhooks', 'msg_id'), max(seq))
FROM confiture_webhooks.deliveries;
"""

MIGRATIONS: tuple[str, ...] = (f"{_TABLES};{_RELEASE};",)

GRANTS = (
    "USAGE ON SCHEMA pgmq, confiture_webhooks",
    "SELECT, INSERT, UPDATE, DELETE ON pgmq.q_confiture_webhooks, confiture_webhooks.deliveries",
    "SELECT, INSERT, DELETE ON pgmq.a_confiture_webhooks, confiture_webhooks.attempts",
    "SELECT, INSERT, DELETE ON confiture_webhooks.intents, confiture_webhooks.released",
    "SELECT, INSERT, DELETE ON confiture_webhooks.endpoints_off",
    "SELECT ON confiture_webhooks.schema_version",
)
"""What a role that may create nothing needs to use the outbox, and no more."""

_VERSION = "SELECT version AS found FROM confiture_webhooks.schema_version"
# The catalogue tells also those who may not use the schema.
_HAS_TABLE = """
    SELECT EXISTS (
        SELECT 1 FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON relnamespace =
        pg_namespace.oid WHERE nspname = %s AND relname = %s
    ) AS found
"""


def grants(role: str) -> list[str]:
    """The statements that let *role* use an outbox it may not create."""
    name = pgsql.Identifier(role).as_string(None)
    return [f"GRANT {rights} TO {name};" for rights in GRANTS]


def version(connection: Connection) -> int:
    """How many migrations the database has had; 0: it has no outbox."""
    if not _found(connection, _HAS_TABLE, (SCHEMA, "schema_version")):
        return 0
    return int(_found(connection, _VERSION) or 0)


def _has_queue(connection: Connection) -> bool:
    """Whether it is there: who drops pgmq drops it, and leaves our tables."""
    return bool(_found(connection, _HAS_TABLE, ("pgmq", f"q_{QUEUE}")))


def _found(connection: Connection, query: str, values: tuple[str, ...] = ()) -> Any:
    row = connection.execute(query, values).fetchone()
    return row["found"] if row else None


def migrate(connection: Connection, where: str) -> bool:
    """Bring the database to the newest schema, in one transaction; whether anything was made.

    Raises OutboxError for a database that a newer version has been at, or when pgmq is needed
    and not installed here; psycopg.Error when the server refuses.
    """
    if _known(version(connection), where) == len(MIGRATIONS) and _has_queue(connection):
        return False
    with connection.transaction():
        connection.execute(f"SET LOCAL statement_timeout = '{SETUP_TIMEOUT_S}s'")
        connection.execute(f"SET LOCAL lock_timeout = '{SETUP_TIMEOUT_S}s'")
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        # Again, now that nobody else is at it: another run may have just done it.
        had = _known(version(connection), where)
        has_queue = had > 0 and _has_queue(connection)
        if not has_queue:
            _make_queue(connection, where)
        for statements in MIGRATIONS[had:]:
            connection.execute(statements)
        if had > 0 and not has_queue:
            connection.execute(_QUEUE_AGAIN)
        connection.execute(
            "UPDATE confiture_webhooks.schema_version SET version = %s", (len(MIGRATIONS),)
        )
    return True


def _known(found: int, where: str) -> int:
    """The version *found*, if it is not from the future."""
    if found > len(MIGRATIONS):
        raise OutboxError(
            f"outbox {where}: made by a newer confiture-webhooks (schema {found}; this one knows "
            f"{len(MIGRATIONS)})",
            "Upgrade confiture-webhooks, or name another database: "
            "CONFITURE_WEBHOOK_OUTBOX=postgres:<dsn>",
        )
    return found


def _make_queue(connection: Connection, where: str) -> None:
    """Install pgmq, unless the database has it, and make the queue."""
    if not _found(connection, _HAS_TABLE, ("pgmq", "meta")):
        try:
            from pgmq import get_embedded_install_sql  # noqa: PLC0415
        except ImportError as error:
            raise OutboxError(
                f"outbox {where}: setting it up needs the `postgres` extra",
                "pip install 'confiture-webhooks[postgres]'",
            ) from error
        # As its `install_pgmq_sql` does, whose error would hide the server's.
        connection.execute(get_embedded_install_sql())
    connection.execute("SELECT pgmq.create(%s)", (QUEUE,))
