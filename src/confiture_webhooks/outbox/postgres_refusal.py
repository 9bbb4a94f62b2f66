"""Why the PostgreSQL outbox is refused, and the command that helps, maybe an administrator's."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import quote

import psycopg
from psycopg import errors

from ..config.variables import OUTBOX, outbox_setting
from ..errors import OutboxError
from ..remedy import quoted, shown
from .postgres_session import ADDRESS, database_of, is_plain, parameters_of

NAMED = ". For an outbox elsewhere, set CONFITURE_WEBHOOK_OUTBOX=postgres:<dsn>"
ADMIN = "ADMIN"
"""In a command, the role that may create the outbox."""


def placed(remedy: str, setting: str) -> str:
    """*remedy* with *setting*, which holds the address; without ``NAMED`` if it is elsewhere."""
    is_elsewhere = setting in {OUTBOX, outbox_setting({})}
    return (remedy.removesuffix(NAMED) if is_elsewhere else remedy).replace(ADDRESS, setting)


def init(dsn: str = "", environment: str | None = None, *, is_for_admin: bool = False) -> str:
    """The command that creates the outbox and prints the GRANTs of the role of *dsn*, if known.

    They are for the rows of *environment*, if that is known. *is_for_admin*: ADMIN runs it.
    """
    role = parameters_of(dsn).get("user") if dsn else None
    given = {"--role": role, "--environment": environment}
    words = [word for option, value in given.items() if value for word in (option, value)]
    variable = as_role(ADMIN, dsn) if is_for_admin else dsn and _variable()
    return shown("outbox", "init", *words, variable=variable)


def as_role(role: str, dsn: str) -> str:
    """The variable that has a command connect to the database of *dsn*, if known, as *role*."""
    parameters = parameters_of(dsn)
    host, port, service = (parameters.get(key, "") for key in ("host", "port", "service"))
    host, name = host or parameters.get("hostaddr", ""), database_of(parameters)
    address = "DSN"
    if dsn and is_plain(parameters) and not service and not {",", ":"} & {*host}:
        who, where, what = (quote(part, safe="") for part in (role, host, name))
        address = f"postgresql://{who}@{where}{f':{port}' if port else ''}/{what}"
    return f"{OUTBOX}={quoted(f'postgres:{address}')}"


def _variable() -> str:
    """The variable that names the outbox, without its DSN, for a command; empty: it is not set."""
    kind, has_dsn, _ = os.environ.get(OUTBOX, "").strip().partition(":")
    return f"{OUTBOX}={kind}{':DSN' if has_dsn else ''}" if kind else ""


def by_admin(create: Callable[..., str]) -> str:
    """The remedy that an administrator runs the command that *create* makes, an ``init``."""
    command = create(is_for_admin=True)
    named = f"Run this once as an administrator (put its name for {ADMIN}): {command}"
    return f"{named}. Then run the GRANTs that it prints"


@contextmanager
def translated(
    where: str, create: Callable[..., str] = init, setting: str = ADDRESS
) -> Iterator[None]:
    """Turn psycopg's errors into OutboxError. Their texts may hold values: they are left out.

    *create* makes the command for a role without the rights; *setting*: what holds the address.
    """
    try:
        yield
    except psycopg.Error as error:
        reason, remedy = reason_of(error, create)
        raise OutboxError(f"outbox {where}: {reason}", placed(remedy, setting)) from error
    except UnicodeError as error:  # of the migration's connection: ours is UTF-8
        problem = "a value that the connection's client_encoding cannot hold"
        raise OutboxError(f"outbox {where}: {problem}") from error


CHANGED = (
    "Undo that. Or put its schema aside, and the next run makes a new one; what waits in it is "
    "not sent then: ALTER SCHEMA confiture_webhooks RENAME TO confiture_webhooks_old"
)
_DSN = f"Check its address in {ADDRESS}{NAMED}"
_REFUSALS = (
    # libpq gives no SQLSTATE of a refused connection: its text, or the server's, has the words.
    (
        "SQLSTATE 28P01|password authentication failed|no password supplied",
        "the password is wrong",
        _DSN,
    ),
    (
        'invalid (\\w+ value: |port number: |integer value )"|could not match \\d+ port',
        "an option of its DSN has a wrong value",
        _DSN,
    ),
    ("certificate", "the TLS certificates do not fit", "Check sslmode, sslrootcert and sslcert"),
    (
        "no pg_hba.conf entry|pg_hba.conf rejects",
        "pg_hba.conf does not let this role in from here",
        "Add an entry for it to pg_hba.conf; if the server wants TLS, add sslmode=require",
    ),
    ("server does not support SSL", "the server does not speak TLS", "Check sslmode in the DSN"),
    ("SSL required|requires SSL|sslmode", "the server wants TLS", "Add sslmode=require to the DSN"),
    (
        "SQLSTATE 53300|too many (clients|connections)|remaining connection slots|no more conn",
        "the server, role or database has no connection left",
        "Raise max_connections or the role's CONNECTION LIMIT, or end idle sessions",
    ),
    ("role .* does not exist", "the role does not exist", _DSN),
    ("SQLSTATE 3D000|database .* does not exist", "the database does not exist", _DSN),
    (
        "SQLSTATE 55P03|lock timeout",
        "another session keeps its tables locked",
        "Try again when they are free",
    ),
    (
        "SQLSTATE 25006|read-only|is in hot standby",
        "the server is a standby",
        "Name its primary in the DSN",
    ),
    (
        "SQLSTATE 0A000",  # a standby refuses READ WRITE with it
        "the server is a standby, or cannot do what the outbox needs",
        "Name a primary server of PostgreSQL in the DSN",
    ),
    (
        "not currently accepting connections|not permitted to log in|denied for database",
        "the role may not log in to the database",
        "Let it: ALTER ROLE … LOGIN, GRANT CONNECT, ALTER DATABASE … ALLOW_CONNECTIONS true",
    ),
    (
        "SQLSTATE 22P05",
        "its database's encoding cannot hold a name or text of an event",
        "Keep the outbox in a UTF8 database: CONFITURE_WEBHOOK_OUTBOX=postgres:<dsn>",
    ),
    (
        "SQLSTATE (23...|2200[13]|428..|42703|42P10|P000[14])",
        "somebody has changed its tables, or put a trigger, rule or constraint on them",
        CHANGED,
    ),
    (
        "channel binding|authentication method",
        "the server has another way to log in than its DSN asks for",
        "Check channel_binding and require_auth in the DSN",
    ),
    ("could not translate host name|resolve host", "the server's host name does not resolve", _DSN),
)


class LackingError(errors.InsufficientPrivilege):
    """The role lacks rights on the outbox: its text names them, and nothing else."""


def lacks_right(error: OutboxError) -> bool:
    """Whether PostgreSQL refused because the role has no right to it."""
    return isinstance(error.__cause__, errors.InsufficientPrivilege)


MISSING = (errors.UndefinedTable, errors.UndefinedFunction, errors.InvalidSchemaName)


def reason_of(error: psycopg.Error, create: Callable[..., str] = init) -> tuple[str, str]:
    """Why *error*, and what to do, without the server's words."""
    name = type(error).__name__
    if isinstance(error, LackingError):
        return f"this role has no right to {error}", by_admin(create)
    if isinstance(error, errors.InsufficientPrivilege):
        return "the role may not use or create it", by_admin(create)
    if isinstance(error, MISSING):
        return f"its tables are not there ({name})", f"Create them: {create()}"
    text = f"SQLSTATE {error.sqlstate}" if error.sqlstate else str(error)
    for pattern, reason, remedy in _REFUSALS:
        if re.search(pattern, text, re.DOTALL):
            return reason, remedy
    if error.sqlstate is None and isinstance(error, psycopg.OperationalError):
        silent = "the server does not answer or has closed the connection"
        return silent, f"Check that it runs, and its address in {ADDRESS}{NAMED}"
    state = f", {error.sqlstate}" if error.sqlstate else ""
    return f"the server refuses ({name}{state})", f"See its log{NAMED}"
