"""The rights on the PostgreSQL outbox: the GRANTs of a role, and what a role lacks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from psycopg import sql as pgsql

from ..event import stored_text
from .postgres_refusal import translated
from .postgres_session import Connection, ask, connect, conninfo_of, described, identifier, settings

SCHEMA = "confiture_webhooks"
TABLES = ("intents", "released", "deliveries", "bodies", "attempts", "endpoints")
RELEASE, COMMIT = (f"{SCHEMA}.release(json, text)", f"{SCHEMA}.stage_committed(text, text)")

_RELEASED = (
    "id, event_id, event_type, endpoint, environment, content_type, traceparent, tracestate, "
    "correlation_id, created_at, migration_version, migration_name, due_at"
)
_MOVED = "state, due_at, is_ready, wakes_at, token, attempts, tries, finished_at"
_ALL = {"SELECT": "", "INSERT": "", "UPDATE": "", "DELETE": ""}
_GRANTED = {
    "outbox_version": {"SELECT": ""},
    "endpoints": _ALL,
    "intents": _ALL,
    # No role chooses a seq, which is another's next.
    "deliveries": {"SELECT": "", "INSERT": _RELEASED, "UPDATE": _MOVED, "DELETE": ""},
    "released": {"SELECT": "", "INSERT": "", "DELETE": ""},
    "bodies": {"SELECT": "", "INSERT": ""},
    "attempts": {"SELECT": "", "INSERT": ""},
}
"""The rights of a role that uses the outbox, by table: of the named columns, or of all."""
NEEDED = {
    table: {right: of for right, of in rights.items() if right != "DELETE" or table == "intents"}
    for table, rights in _GRANTED.items()
}
"""Without the others a run delivers all the same, and nothing old is deleted."""


def grants(role: str, *environments: str) -> list[str]:
    """The statements that let *role* use an outbox it may not create.

    With *environments* it may read and write the rows of these only, whatever it might before.
    """
    name, policy = identifier(role), _policy(role)
    own = [pgsql.Literal(stored_text(one)).as_string(None) for one in environments]
    is_own = " OR ".join(f"environment = {one}" for one in own) or "true"
    is_of_own = f"EXISTS (SELECT 1 FROM {SCHEMA}.deliveries WHERE deliveries.seq = {{}}.seq)"
    rules = {
        table: is_of_own.format(table) if table in ("bodies", "attempts") else is_own
        for table in TABLES
    }
    # In one transaction: with a part of them, rows would be hidden from the role.
    begin = "BEGIN; SET LOCAL client_min_messages = warning;"  # at first no policy is there to drop
    statements = [begin, f"GRANT USAGE ON SCHEMA {SCHEMA} TO {name};"]
    for table, rights in _GRANTED.items():
        listed = ", ".join(f"{one} ({of})" if of else one for one, of in rights.items())
        statements.append(f"GRANT {listed} ON {SCHEMA}.{table} TO {name};")
    statements.append(f"GRANT EXECUTE ON FUNCTION {RELEASE}, {COMMIT} TO {name};")
    for table, rule in rules.items():
        place = f"ON {SCHEMA}.{table}"
        statements += [
            f"DROP POLICY IF EXISTS {policy} {place};",
            f"CREATE POLICY {policy} {place} TO {name} USING ({rule}) WITH CHECK ({rule});",
        ]
    return [*statements, "COMMIT;"]


def _policy(role: str) -> str:
    import hashlib  # noqa: PLC0415  loads OpenSSL, which no run needs here

    # Longer names lose their end, which may be all that two roles differ in.
    digest = hashlib.sha256(role.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return identifier(f"confiture_webhooks {digest}")


def added(dsn: str, role: str, environments: Sequence[str]) -> list[str]:
    """*environments* and those that earlier ``grants`` named for *role*; empty: all of them."""
    question = (
        "SELECT pg_get_expr(polqual, polrelid) AS rule FROM pg_policy "
        f"WHERE polrelid = ANY (ARRAY{[f'{SCHEMA}.{one}' for one in TABLES]}::regclass[]) "
        f"AND quote_ident(polname) = {pgsql.Literal(_policy(role)).as_string(None)} ORDER BY 1"
    )
    if not environments:
        return []
    with briefly(dsn) as connection:
        *_, found = ask(connection, settings(standard_conforming_strings="on"), question)
    rules = [row["rule"] for row in found]
    if "true" in rules:
        return []
    had = re.findall(r"environment = '((?:[^']|'')*)'::text", "; ".join(rules))
    return list(dict.fromkeys([*(one.replace("''", "'") for one in had), *environments]))


def missing_rights(
    connection: Connection, granted: Mapping[str, Mapping[str, str]] = _GRANTED
) -> list[str]:
    """The rights of ``grants`` that the role of *connection* lacks: ``INSERT on attempts``, …"""
    wanted = ", ".join(
        f"('{table}', '{right}', '{{{of}}}'::text[])"
        for table, rights in granted.items()
        for right, of in rights.items()
    )
    rows = ", ".join(f"('{table}')" for table in TABLES)
    question = f"""
SELECT privilege || ' on ' || string_agg(name, ', ' ORDER BY name) AS missing FROM (
  SELECT privilege, name FROM (VALUES {wanted}) AS one (name, privilege, columns)
  CROSS JOIN LATERAL to_regclass('{SCHEMA}.' || name) AS place
  WHERE NOT CASE privilege WHEN 'DELETE' THEN has_table_privilege(place, privilege) ELSE (
    SELECT bool_and(has_column_privilege(place, attnum, privilege)) FROM pg_attribute
    WHERE attrelid = place AND attnum > 0 AND NOT attisdropped
      AND (columns = '{{}}' OR attname = ANY (columns))
  ) END
  UNION ALL
  SELECT 'use rows', name FROM (VALUES {rows}) AS one (name)
  CROSS JOIN LATERAL to_regclass('{SCHEMA}.' || name) AS place
  WHERE row_security_active(place) AND NOT EXISTS (
    SELECT FROM pg_policy, unnest(polroles) AS role
    WHERE polrelid = place AND (role = 0 OR pg_has_role(role, 'USAGE'))
  )
  UNION ALL
  SELECT 'EXECUTE', proname FROM pg_proc
  WHERE oid IN (to_regprocedure('{RELEASE}'), to_regprocedure('{COMMIT}'))
    AND NOT has_function_privilege(oid, 'EXECUTE')
) AS lacking GROUP BY privilege ORDER BY privilege"""
    *_, found = ask(connection, settings(), question)
    return [row["missing"] for row in found]


def lacking(dsn: str) -> str:
    """The rights that the role of *dsn* lacks on the outbox there, in words; empty: it has all."""
    with briefly(dsn) as connection:
        return "; ".join(missing_rights(connection))


@contextmanager
def briefly(dsn: str) -> Iterator[Connection]:
    """A connection for a question. Raises OutboxError."""
    with translated(described(conninfo_of(dsn))), connect(conninfo_of(dsn)) as connection:
        yield connection
