"""A connection to the PostgreSQL outbox: never waited for without end; why it is refused.

Each query is one message in the simple protocol, which the server runs as one transaction.
Nothing outlives it: no prepared statement, no lock, no setting. So a pooler may give the session
to others, and no setting of a role or database changes the query or its answer.
"""

from __future__ import annotations

import os
import re
import selectors
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg import conninfo, errors
from psycopg.adapt import AdaptersMap
from psycopg.rows import dict_row
from psycopg.types.string import TextLoader

from ..config.variables import OUTBOX
from ..errors import OutboxError
from ..remedy import quoted, shown

CONNECT_TIMEOUT_S = 3
PATIENCE_S = 8.0
"""After so long without an answer the connection is cut: a server may accept and fall silent."""
_SETTINGS = {
    "statement_timeout": "5s",
    "lock_timeout": "2s",
    "search_path": "pg_catalog",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "jit": "off",
}
"""Not as role or database may have them; a plan made for an empty table must suit a full one."""
ADAPTERS = AdaptersMap(psycopg.adapters)
"""How values are written and read on sessions of ours, as psycopg has it when a run begins.

What a migration or a hook registers in ``psycopg.adapters`` is for every connection made later.
"""
_BEGINNING = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE;"
ADDRESS = "`database_url` or CONFITURE_DATABASE_URL"
"""In a remedy, where the address is set; a command that knows which of them puts that here."""
NAMED = ". For an outbox elsewhere, set CONFITURE_WEBHOOK_OUTBOX=postgres:<dsn>"


def placed(remedy: str, setting: str) -> str:
    """*remedy* with *setting*, which holds the address.

    How to have the outbox elsewhere is left out where it is elsewhere already.
    """
    is_elsewhere = setting in {OUTBOX, "`outbox`"}
    return (remedy.removesuffix(NAMED) if is_elsewhere else remedy).replace(ADDRESS, setting)


def settings(**more: str) -> str:
    """The statement that has our settings, and *more*, until the transaction ends."""
    calls = ", ".join(
        f"pg_catalog.set_config('{name}', '{value}', true)"
        for name, value in {**_SETTINGS, **more}.items()
    )
    return f"{_BEGINNING} SELECT {calls}"


class _Connection(psycopg.Connection[Any]):
    """Is closed when an answer does not come in time."""

    def wait(self, gen: Any, *_: Any, **__: Any) -> Any:
        """The answer that *gen* waits for; psycopg names it as ``selectors`` does."""
        deadline = time.monotonic() + PATIENCE_S
        try:
            with selectors.DefaultSelector() as selector:
                wanted = next(gen)
                while True:
                    selector.register(self.pgconn.socket, wanted)
                    found = selector.select(max(0.0, deadline - time.monotonic()))
                    selector.unregister(self.pgconn.socket)
                    if not found:
                        raise LateError("no answer in time")  # noqa: TRY301
                    wanted = gen.send(found[0][1])
        except StopIteration as answer:
            return answer.value
        except (LateError, KeyboardInterrupt):
            self.pgconn.finish()
            raise


class LateError(psycopg.OperationalError):
    """The server did not answer in time."""


class _LenientLoader(TextLoader):
    """Text whatever its bytes are: a database may have no encoding."""

    def load(self, data: Any) -> str:
        return bytes(data).decode("utf-8", "surrogateescape")


def connect(dsn: str) -> psycopg.Connection[Any]:
    """A connection in autocommit with rows by name, which is closed when it is not answered."""
    connection = _Connection.connect(dsn, autocommit=True, row_factory=dict_row, context=ADAPTERS)
    connection.adapters.register_loader("text", _LenientLoader)
    return connection


def ask(connection: psycopg.Connection[Any], *messages: str) -> list[Any]:
    """The answer of each of *messages* in one transaction: its rows, or how many it changed."""
    cursor = psycopg.ClientCursor(connection, row_factory=dict_row)
    cursor.execute(";\n".join(messages))
    answers: list[Any] = []
    while True:
        answers.append(cursor.fetchall() if cursor.description else cursor.rowcount)
        if not cursor.nextset():
            return answers


def is_at(dsn: str, info: Any) -> bool:
    """Whether *info* is of a connection to the database of *dsn*, by the names of both."""
    ours = _parameters(dsn)
    hosts = f"{ours.get('host', '')},{ours.get('hostaddr', '')}".split(",")
    ports = ours.get("port", "5432").split(",")
    loopback = {"localhost", "127.0.0.1", "::1"}
    is_host = info.host in hosts or (info.host in loopback and not loopback.isdisjoint(hosts))
    name = ours.get("dbname") or ours.get("user")
    return is_host and str(info.port) in ports and info.dbname == name


def _parameters(dsn: str) -> dict[str, str]:
    """Those of *dsn*, and what libpq takes for the rest."""
    defaults = {
        option.keyword.decode(): option.val.decode()
        for option in psycopg.pq.Conninfo.get_defaults()
        if option.val is not None
    }
    return defaults | {key: str(value) for key, value in conninfo.conninfo_to_dict(dsn).items()}


def init(dsn: str, environment: str | None, *, admin: str = "") -> str:
    """The command that creates the outbox and prints the GRANTs of the role of *dsn*.

    They are for the rows of *environment*, if that is known. *admin*: the role that runs it.
    """
    given = {"--role": _parameters(dsn).get("user"), "--environment": environment}
    words = [word for option, value in given.items() if value for word in (option, value)]
    variable = as_role(admin, dsn) if admin else _variable()
    return shown("outbox", "init", *words, variable=variable)


def as_role(role: str, dsn: str) -> str:
    """The variable that has a command connect to the database of *dsn* as *role*."""
    parameters = _parameters(dsn)
    host, port, name = (parameters.get(key, "") for key in ("host", "port", "dbname"))
    host = host or parameters.get("hostaddr", "")
    address = "DSN"
    if is_plain(parameters) and not {",", ":"} & {*host}:
        who, where, what = (quote(part, safe="") for part in (role, host, name))
        address = f"postgresql://{who}@{where}{f':{port}' if port else ''}/{what}"
    return f"{OUTBOX}={quoted(f'postgres:{address}')}"


def _variable() -> str:
    """The variable that names the outbox, without its DSN, for a command; empty: it is not set."""
    kind, has_dsn, _ = os.environ.get(OUTBOX, "").strip().partition(":")
    return f"{OUTBOX}={kind}{':DSN' if has_dsn else ''}" if kind else ""


def conninfo_of(dsn: str) -> str:
    """*dsn* with our bounds on connecting and on a network that drops packets."""
    try:
        parameters = conninfo.conninfo_to_dict(dsn)
    except psycopg.Error:
        # Its text quotes the DSN.
        raise OutboxError(
            "outbox postgres: its DSN cannot be read",
            "Write it as `postgres:postgresql://user:password@host:5432/database`",
        ) from None
    parameters |= {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "application_name": "confiture-webhooks",
        "client_encoding": "utf8",
        "keepalives_idle": 30,
        "tcp_user_timeout": int(PATIENCE_S * 1000),
    }
    return conninfo.make_conninfo(**parameters)  # type: ignore[arg-type]


def is_plain(parameters: Mapping[str, Any]) -> bool:
    """Whether host, port and database are no part of a password with a bare ``@`` or ``/``."""
    place = f"{parameters.get('host')}{parameters.get('dbname')}"
    return "@" not in place and str(parameters.get("port") or "0").replace(",", "").isdecimal()


def described(dsn: str) -> str:
    """*dsn* as it may be shown: host, port if it names one, and database; nothing if in doubt."""
    parameters = conninfo.conninfo_to_dict(dsn)
    if not is_plain(parameters):
        return "postgres …"
    host = parameters.get("host") or parameters.get("hostaddr") or "the local server"
    port = f":{parameters['port']}" if parameters.get("port") else ""
    name = parameters.get("dbname") or parameters.get("user") or ""
    return f"postgres {host}{port}/{name}"


@contextmanager
def translated(
    where: str, init: Callable[..., str] | None = None, setting: str = ADDRESS
) -> Iterator[None]:
    """Turn psycopg's errors into OutboxError. Their texts may hold values: they are left out.

    *init* makes the command for a role that has not the rights; *setting*: what holds the address.
    """
    try:
        yield
    except psycopg.Error as error:
        reason, remedy = reason_of(error, init)
        remedy = placed(remedy, setting)
        raise OutboxError(f"outbox {where}: {reason}", remedy) from error
    except UnicodeError as error:  # of the migration's connection: ours is UTF-8
        problem = "a value that the connection's client_encoding cannot hold"
        raise OutboxError(f"outbox {where}: {problem}") from error


_DSN = f"Check its address in {ADDRESS}{NAMED}"
_REFUSALS = (
    # libpq gives no SQLSTATE of a refused connection: its text, or the server's, has the words.
    (
        "SQLSTATE 28P01|password authentication failed|no password supplied",
        "the password is wrong",
        _DSN,
    ),
    ("certificate", "the TLS certificates do not fit", "Check sslmode, sslrootcert and sslcert"),
    (
        "no pg_hba.conf entry|pg_hba.conf rejects",
        "pg_hba.conf does not let this role in from here",
        "Add an entry for it to pg_hba.conf; if the server wants TLS, add sslmode=require",
    ),
    ("server does not support SSL", "the server does not speak TLS", "Check sslmode in the DSN"),
    (
        "SSL required|requires SSL|sslmode",
        "the server wants TLS",
        "Add sslmode=require to the DSN",
    ),
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
    ("SQLSTATE 25006|read-only", "the server is a standby", "Name its primary in the DSN"),
    (
        "could not translate host name|resolve host",
        "the server's host name does not resolve",
        _DSN,
    ),
)
ADMIN = "ADMIN"
"""In a command, the role that may create the outbox."""


def by_admin(command: str) -> str:
    """The remedy that an administrator runs *command*, which names ADMIN."""
    named = f"Run this once as an administrator (put its name for {ADMIN}): {command}"
    return f"{named}. Then run the GRANTs that it prints"


def _init(*, admin: str = "") -> str:
    return shown("outbox", "init", variable=f"{OUTBOX}=postgres:DSN" if admin else "")


MISSING = (errors.UndefinedTable, errors.UndefinedFunction, errors.InvalidSchemaName)


def reason_of(error: psycopg.Error, init: Callable[..., str] | None = None) -> tuple[str, str]:
    """Why *error*, and what to do, without the server's words."""
    name, init = type(error).__name__, init or _init
    if isinstance(error, errors.InsufficientPrivilege):
        return (
            "the role may not use or create it",
            by_admin(init(admin=ADMIN)),
        )
    if isinstance(error, MISSING):
        return f"its tables are not there ({name})", f"Create them: {init()}"
    text = f"SQLSTATE {error.sqlstate}" if error.sqlstate else str(error)
    for pattern, reason, remedy in _REFUSALS:
        if re.search(pattern, text, re.DOTALL):
            return reason, remedy
    if error.sqlstate is None and isinstance(error, psycopg.OperationalError):
        return (
            "the server does not answer or has closed the connection",
            f"Check that it runs, and its address in {ADDRESS}{NAMED}",
        )
    return (
        f"the server refuses ({name}{f', {error.sqlstate}' if error.sqlstate else ''})",
        f"See its log{NAMED}",
    )
