"""Connections to the PostgreSQL outbox, never waited for without end; ``Listener``; its address.

Each query is one message in the simple protocol, which the server runs as one transaction.
Nothing outlives it: no prepared statement, no lock, no setting. So a pooler may give the session
to others, and no setting of a role or database changes the query or its answer.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import conninfo
from psycopg.adapt import AdaptersMap
from psycopg.rows import dict_row
from psycopg.types.string import TextLoader

from ..errors import OutboxError

ADDRESS = "`database_url` or CONFITURE_DATABASE_URL"
"""In a remedy, where the address is set; a command that knows which of them puts that here."""
Connection = psycopg.Connection[Any]
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
    "row_security": "on",
    "exit_on_error": "off",
}
"""Not as role or database may have them; a plan made for an empty table must suit a full one."""
ADAPTERS = AdaptersMap(psycopg.adapters)
"""How values are written and read on sessions of ours, as psycopg has it when a run begins.

What a migration or a hook registers in ``psycopg.adapters`` is for every connection made later.
"""
ECHO = "echo "
"""How a NOTIFY begins that says nothing but that it came."""
ECHO_S = 5.0
"""So long such a one may take."""
CHECK_EVERY_S = 30.0
FIRST_REST_S = 1.0
LONGEST_REST_S = 60.0
_NO_LIMIT = """CASE WHEN pg_catalog.current_setting('transaction_timeout', true) IS NOT NULL
THEN pg_catalog.set_config('transaction_timeout', '0', true) END"""
"""Since PostgreSQL 17: it would end the session, which may be the migration's."""


def settings(**more: str) -> str:
    """The statement that has our settings, and *more*, until the transaction ends."""
    calls = ", ".join(
        f"pg_catalog.set_config('{name}', '{value}', true)"
        for name, value in {**_SETTINGS, **more}.items()
    )
    begin = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE"
    return f"{begin}; SELECT {calls}, {_NO_LIMIT}"


class _Bounded(psycopg.Connection[Any]):
    """Is closed when an answer does not come in time."""

    patience_s = PATIENCE_S

    def wait(self, gen: Any, *_: Any, **__: Any) -> Any:
        """The answer that *gen* waits for; psycopg names it as ``selectors`` does."""
        deadline = time.monotonic() + self.patience_s
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


def connect(dsn: str) -> _Bounded:
    """A connection in autocommit with rows by name, which is closed when it is not answered."""
    connection = _Bounded.connect(dsn, autocommit=True, row_factory=dict_row, context=ADAPTERS)
    connection.adapters.register_loader("text", _LenientLoader)
    return connection


def ask(connection: Connection, *messages: str) -> list[Any]:
    """The answer of each of *messages* in one transaction: its rows, or how many it changed."""
    cursor = psycopg.ClientCursor(connection, row_factory=dict_row)
    cursor.execute(";\n".join(messages))
    answers: list[Any] = []
    while True:
        answers.append(cursor.fetchall() if cursor.description else cursor.rowcount)
        if not cursor.nextset():
            return answers


def identifier(*names: str) -> str:
    """*names*, quoted, as one of SQL. Before 3.2 psycopg needs a connection for that."""
    return ".".join('"{}"'.format(name.replace('"', '""')) for name in names)


def is_at(dsn: str, info: Any) -> bool:
    """Whether *info* is of a connection to the database of *dsn*, by the names of both."""
    ours = parameters_of(dsn)
    hosts = f"{ours.get('host', '')},{ours.get('hostaddr', '')}".split(",")
    ports = ours.get("port", "5432").split(",")
    loopback = {"localhost", "127.0.0.1", "::1"}
    is_host = info.host in hosts or (info.host in loopback and not loopback.isdisjoint(hosts))
    return is_host and str(info.port) in ports and info.dbname == database_of(ours)


def database_of(parameters: Mapping[str, Any]) -> str:
    """The database that *parameters* lead to, unless a service names it: libpq takes the user's."""
    return str(parameters.get("dbname") or parameters.get("user") or "")


def parameters_of(dsn: str) -> dict[str, str]:
    """Those of *dsn*; for the rest libpq takes PGDATABASE, PGSERVICE, the system's user, …"""
    found = {}
    with suppress(Exception):  # a user without an entry or a home directory
        options = [(one.keyword, one.val) for one in psycopg.pq.Conninfo.get_defaults() if one.val]
        found = {name.decode(): value.decode(errors="replace") for name, value in options}
    named = conninfo.conninfo_to_dict(dsn)
    return found | {key: str(value) for key, value in named.items() if value}


def conninfo_of(dsn: str) -> str:
    """*dsn* with our bounds on connecting and on a network that drops packets."""
    try:
        parameters = conninfo.conninfo_to_dict(dsn)
    except (psycopg.Error, UnicodeError):
        remedy = f"Write {ADDRESS} as `postgresql://user:password@host:5432/database`"
        # Its text quotes the DSN. One in the setting of the outbox was read with the settings.
        raise OutboxError("outbox postgres: its DSN cannot be read", remedy) from None
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
    host = str(parameters.get("host") or parameters.get("hostaddr") or "/")
    host = "(local)" if host.startswith("/") else host  # a socket's directory is no part of a path
    port = f":{parameters['port']}" if parameters.get("port") else ""
    return f"postgres {host}{port}/{database_of(parameters)}"


@dataclass(eq=False, repr=False)
class Listener:
    """Calls *wake* after every NOTIFY on *channel*, in a thread, until it is stopped.

    A pooler may take a LISTEN and pass on nothing. So it is tested at first, and now and then: the
    NOTIFY that *notify* sends over another connection has to come back. *on_change* is called with
    ``True`` when it first does, and with ``False`` when it no longer does. If a connection breaks,
    or nothing comes over it, it is closed, and made anew after a rest.
    """

    _dsn: str
    _channel: str
    _notify: Callable[[str], object]
    _wake: Callable[[], None]
    _on_change: Callable[[bool], None]
    _works: bool = False
    _stopped: threading.Event = field(default_factory=threading.Event)
    _connection: Connection | None = None

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run, name="webhooks-listen", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it. Nothing is called afterwards."""
        self._stopped.set()
        if (connection := self._connection) is not None:
            # The thread that waits on the socket gets an error at once.
            with suppress(Exception), socket.socket(fileno=os.dup(connection.fileno())) as cut:
                cut.shutdown(socket.SHUT_RDWR)
        self._thread.join(CONNECT_TIMEOUT_S)

    def _run(self) -> None:
        rest_s = FIRST_REST_S
        while not self._stopped.is_set():
            with (
                suppress(Exception),  # whatever it is, it does not work until it is tried again
                closing(connect(self._dsn)) as connection,
            ):
                self._connection = connection
                self._attend(connection)
            if self._works and not self._stopped.is_set():
                rest_s = FIRST_REST_S
                with suppress(Exception):
                    self._note(works=False)
            self._stopped.wait(rest_s)
            rest_s = min(2 * rest_s, LONGEST_REST_S)

    def _attend(self, connection: Connection) -> None:
        """Pass on what comes, until nothing would."""
        [[row]] = ask(connection, "SELECT pg_catalog.pg_backend_pid() AS pid")
        if row["pid"] != connection.pgconn.backend_pid:
            return  # a pooler's: a LISTEN would stay on a session that others are given
        connection.execute(f"LISTEN {identifier(self._channel)}")
        # Nothing more is asked of it: one that has fallen silent would never answer.
        while not self._stopped.is_set():
            echo = f"{ECHO}{uuid.uuid4().hex}"
            self._notify(echo)
            if not self._take(connection, ECHO_S, echo):
                return
            if not self._works:
                self._note(works=True)
            self._take(connection, CHECK_EVERY_S)

    def _take(self, connection: Connection, seconds: float, echo: str | None = None) -> bool:
        """Pass on what comes for so many *seconds*, or until *echo* does; whether it did."""
        until = time.monotonic() + seconds
        pgconn = connection.pgconn
        with selectors.DefaultSelector() as selector:
            selector.register(pgconn.socket, selectors.EVENT_READ)
            while (left := until - time.monotonic()) > 0 and not self._stopped.is_set():
                if selector.select(left):
                    pgconn.consume_input()
                payloads = []
                while one := pgconn.notifies():
                    payloads.append(one.extra.decode(errors="replace"))
                if any(not payload.startswith(ECHO) for payload in payloads):
                    self._wake()
                if echo in payloads:
                    return True
        return False

    def _note(self, *, works: bool) -> None:
        self._works = works
        self._on_change(works)
