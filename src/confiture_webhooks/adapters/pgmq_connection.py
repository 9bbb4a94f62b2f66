"""The PostgreSQL outbox's own connection: one, for all threads, never waited for without end."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import psycopg
from psycopg import conninfo, errors
from psycopg.rows import DictRow, dict_row

from ..errors import OutboxError

CONNECT_TIMEOUT_S = 3
STATEMENT_TIMEOUT_S = 5
LOCK_TIMEOUT_S = 2
PATIENCE_S = 8.0
"""After so long without an answer the connection is cut: a server may accept and fall silent."""
SETUP_PATIENCE_S = 40.0
_SETTINGS = {
    "statement_timeout": f"'{STATEMENT_TIMEOUT_S}s'",
    "lock_timeout": f"'{LOCK_TIMEOUT_S}s'",
    "default_transaction_isolation": "'read committed'",
    "default_transaction_read_only": "off",
    "synchronous_commit": "on",
    "search_path": "pg_catalog",
    "TimeZone": "'UTC'",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
}
"""Not as role or database may have them; a plan made for an empty queue must suit a full one."""
_OF_SESSION = "; ".join(f"SET {name} = {value}" for name, value in _SETTINGS.items())
_OF_TRANSACTION = "; ".join(
    [
        "SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE",
        *(f"SET LOCAL {name} = {value}" for name, value in _SETTINGS.items()),
    ]
)

Connection = psycopg.Connection[DictRow]


class PgmqConnection:
    """Gives the connection to one thread at a time, and makes a new one when it has broken.

    Everything raises OutboxError. *prepare* is called with every new
    connection and with how to name the server; it says whether it made anything.
    """

    def __init__(self, dsn: str, prepare: Callable[[Connection, str], bool]) -> None:
        self.dsn = conninfo_of(dsn)
        self.where = described(self.dsn)
        self._prepare = prepare
        self.has_made = False
        """Whether anything had to be made in the database."""
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._address: tuple[str, int, str] | None = None
        self._is_pooled = False
        self._is_closed = False
        self._watchdog = _Watchdog()
        with self.working(SETUP_PATIENCE_S):
            pass

    def __repr__(self) -> str:
        return f"PgmqConnection({self.where!r})"

    @contextmanager
    def working(self, patience_s: float = PATIENCE_S) -> Iterator[Connection]:
        """The connection, in autocommit, for this thread alone."""
        if not self._lock.acquire(timeout=patience_s):
            raise OutboxError(f"outbox {self.where}: busy with other threads' work")
        try:
            with translated(self.where):
                yield from self._lent(patience_s)
        finally:
            self._lock.release()

    def _lent(self, patience_s: float) -> Iterator[Connection]:
        if self._is_closed:
            raise OutboxError(f"outbox {self.where}: closed")
        if self._connection is None or self._connection.closed or self._connection.broken:
            self._connection = None
            made = connect(self.dsn)
            try:
                with self._watchdog.over(made, SETUP_PATIENCE_S):
                    self._set_up(made)
            except BaseException:
                made.close()
                raise
            self._connection, self._address = made, _address(made.info)
        with self._watchdog.over(self._connection, patience_s), self._settled(self._connection):
            yield self._connection

    def _set_up(self, made: Connection) -> None:
        self._is_pooled = _is_pooled(made)
        if self._is_pooled:
            made.prepare_threshold = None
        else:
            made.execute(_OF_SESSION)
        with self._settled(made):
            self.has_made |= self._prepare(made, self.where)

    def _settled(self, connection: Connection) -> AbstractContextManager[object]:
        """Our settings for the block.

        A pooler gives the session to others afterwards, a migration among them: there they last
        for a transaction.
        """
        return _in_transaction(connection) if self._is_pooled else nullcontext()

    def is_at(self, info: Any) -> bool:
        """Whether *info* is of a connection to the same database."""
        ours = self._address
        return ours is not None and ours == _address(info)

    def close(self) -> None:
        """Close the connection. What is called afterwards raises OutboxError."""
        # A lane stuck on the server is freed by the watchdog, or by the process's end.
        if not self._lock.acquire(timeout=0.5):
            return
        try:
            self._is_closed = True
            self._watchdog.stop()
            if self._connection is not None:
                with suppress(psycopg.Error):
                    self._connection.close()
        finally:
            self._lock.release()


def _is_pooled(connection: Connection) -> bool:
    """Whether a pooler answers: it tells clients a pid of its own making."""
    row = connection.execute("SELECT pg_catalog.pg_backend_pid() AS pid").fetchone()
    return row is not None and row["pid"] != connection.info.backend_pid


@contextmanager
def _in_transaction(connection: Connection) -> Iterator[None]:
    with connection.transaction():
        connection.execute(_OF_TRANSACTION)
        yield


def _address(info: Any) -> tuple[str, int, str]:
    return info.hostaddr or info.host, info.port, info.dbname


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
        "keepalives_idle": 30,
        "tcp_user_timeout": int(PATIENCE_S * 1000),
    }
    return conninfo.make_conninfo(**parameters)  # type: ignore[arg-type]


def described(dsn: str) -> str:
    """*dsn* as it may be shown: host, port if it names one, and database."""
    parameters = conninfo.conninfo_to_dict(dsn)
    host = parameters.get("host") or parameters.get("hostaddr") or "the local server"
    port = f":{parameters['port']}" if parameters.get("port") else ""
    name = parameters.get("dbname") or parameters.get("user") or ""
    return f"postgres {host}{port}/{name}"


def connect(dsn: str) -> Connection:
    """A connection in autocommit with rows by name."""
    return psycopg.connect(dsn, autocommit=True, row_factory=dict_row)


@contextmanager
def briefly(dsn: str) -> Iterator[Connection]:
    """A connection for a question, cut when the answer does not come. Raises psycopg.Error, too."""
    watchdog = _Watchdog()
    try:
        with connect(conninfo_of(dsn)) as connection, watchdog.over(connection, PATIENCE_S):
            yield connection
    finally:
        watchdog.stop()


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn psycopg's errors into OutboxError. Their texts may hold values: they are left out."""
    try:
        yield
    except psycopg.Error as error:
        reason, remedy = _reason(error)
        raise OutboxError(f"outbox {where}: {reason}", remedy) from error


def _reason(error: psycopg.Error) -> tuple[str, str]:
    """What went wrong and what to do, without the server's words."""
    name = type(error).__name__
    if isinstance(error, errors.InsufficientPrivilege):
        return (
            "the role may not use or create it",
            "Have somebody who may run `confiture webhooks outbox init` once, then its GRANTs",
        )
    if isinstance(
        error, (errors.UndefinedTable, errors.UndefinedFunction, errors.InvalidSchemaName)
    ):
        return f"its tables are not there ({name})", "`confiture webhooks outbox init` makes them"
    if isinstance(error, errors.LockNotAvailable):
        return "somebody keeps its tables locked", "Try again when they are free"
    if error.sqlstate is None and isinstance(error, psycopg.OperationalError):
        return (
            "the server does not answer or has closed the connection",
            "Check that it runs, and `database_url`, or CONFITURE_WEBHOOK_OUTBOX=postgres:<dsn>",
        )
    return (
        f"the server refuses ({name}{f', {error.sqlstate}' if error.sqlstate else ''})",
        "See its log, or name another database: CONFITURE_WEBHOOK_OUTBOX=postgres:<dsn>",
    )


class _Watchdog:
    """Cuts a connection that has not answered in time; sleeps while nothing is asked."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._asked: tuple[Connection, float] | None = None
        self._thread: threading.Thread | None = None
        self._is_stopped = False

    @contextmanager
    def over(self, connection: Connection, patience_s: float) -> Iterator[None]:
        """Watch over what is asked of *connection* in the block."""
        with self._changed:
            self._asked = (connection, time.monotonic() + patience_s)
            if self._thread is None and not self._is_stopped:
                self._thread = threading.Thread(
                    target=self._watch, name="webhooks-outbox-watch", daemon=True
                )
                self._thread.start()
        try:
            yield
        finally:
            self._asked = None

    def stop(self) -> None:
        """End the thread."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    def _watch(self) -> None:
        """Cut what is overdue; with nothing asked for a while, end: the next question begins anew.

        It is not woken by questions, of which there are thousands: it looks now and then.
        """
        with self._changed:
            is_wanted = True
            while is_wanted and not self._is_stopped:
                before = self._asked
                left = PATIENCE_S if before is None else before[1] - time.monotonic()
                if before is not None and left <= 0:
                    cut(before[0])
                    self._asked = None
                else:
                    self._changed.wait(min(left, PATIENCE_S))
                is_wanted = before is not None or self._asked is not None
            self._thread = None


def cut(connection: Connection) -> None:
    """Shut the socket: whoever waits on it gets an error at once."""
    with suppress(Exception), socket.socket(fileno=os.dup(connection.fileno())) as cut:
        cut.shutdown(socket.SHUT_RDWR)
