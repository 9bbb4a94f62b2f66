"""The durable outbox in PostgreSQL, shared by any number of machines.

A release is on the server's disk when it returns, and the event of a success when the migration
has committed. A claim and a record do not wait for the disk. A crash of the server may
undo the latest of them; their deliveries are then sent again, with the same event id.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import Any

import psycopg
from psycopg.pq import PipelineStatus, TransactionStatus

from ..errors import OutboxError
from ..event import stored_text
from ..outlook import shown_environment
from . import rows
from .outbox import Outbox
from .postgres_refusal import by_admin, init, translated
from .postgres_rights import SCHEMA
from .postgres_schema import HURRY, MAKING_S, fitted, prepare
from .postgres_session import (
    ADDRESS,
    PATIENCE_S,
    Connection,
    LateError,
    Listener,
    ask,
    connect,
    conninfo_of,
    described,
    is_at,
    settings,
)
from .schema import Found, Step

_OWN = {
    "notify": f"SELECT pg_catalog.pg_notify('{SCHEMA}', %(payload)s)",
    "stage_committed": f"SELECT 1 WHERE {SCHEMA}.stage_committed(%(event_id)s, %(changes)s)",
    "role": "SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = CAST(%(role)s AS pg_catalog.name)",
    # Policies that an administrator wrote by hand are not judged.
    "shut_out": f"""
SELECT 1 WHERE row_security_active('{SCHEMA}.intents') AND NOT EXISTS (
  SELECT FROM pg_policy WHERE polrelid = '{SCHEMA}.intents'::regclass AND EXISTS (
    SELECT FROM unnest(polroles) AS role WHERE role = 0 OR pg_has_role(role, 'USAGE')
  ) AND (
    polname !~ '^confiture_webhooks ' OR pg_get_expr(polwithcheck, polrelid) = 'true'
    OR strpos(pg_get_expr(polwithcheck, polrelid), %(rule)s) > 0
  )
)""",
}
_CALL = f"SELECT 1 WHERE {SCHEMA}.release(%(given)s, %(wait)s)"
_CALLED = {"release": _CALL, "stage": _CALL}
"""The steps that the schema's function ``release`` does, whose lock timeout ends with it."""
_ON_DISK = "pg_catalog.replace(pg_catalog.current_setting('synchronous_commit'), 'off', 'local')"
"""A standby is waited for only where the session's own COMMITs wait for it: it may be away."""
_PATIENCE = "500ms"
"""The same over its connection while that is idle."""
_REHEARSAL: Step = ("release", {"event_id": None, "deliveries": [{}]})
_REHEARSALS = (_REHEARSAL, ("stage_committed", {"event_id": None, "changes": "{}"}))
"""They change nothing: the server has all that our functions do planned and at hand afterwards."""


def _bytea(body: bytes) -> str:
    """*body* as PostgreSQL reads a ``bytea``: ASCII as it is, which costs it less than hex."""
    if body.isascii() and b"\0" not in body:
        return body.decode().replace("\\", r"\\")
    return rf"\x{body.hex()}"


@cache
def statement(name: str) -> str:
    """The statement *name* with its values as psycopg wants them."""
    return (_CALLED | _OWN).get(name) or fitted(name, r"%(\1)s")


_LATER: dict[str, Sequence[Step]] = {
    "stage": [_REHEARSAL],
    "lease": [
        (name, dict.fromkeys(re.findall(r"%\((\w+)\)s", statement(name))))
        for name in ("add_attempt", "switch_off", "move")
    ],
}
"""Steps without values, which change nothing but need the rights that a role needs later.

Without these a run does not use the outbox at all. An intent that it may not release would stay,
and be settled falsely. A delivery whose attempt it may not record would be sent again and again.
"""


def _composed(connection: Connection, steps: Sequence[Step], wait: str = "2s") -> list[str]:
    """*steps* with their values, as *connection* writes them; our function may *wait* for locks."""
    cursor = psycopg.ClientCursor(connection)
    composed = []
    for name, values in steps:
        if name in _CALLED:
            given = json.dumps(values, ensure_ascii=False, default=_bytea)
            values = {"given": given, "wait": wait}  # noqa: PLW2901
        composed.append(cursor.mogrify(statement(name), dict(values)))
    return composed


class _Store:
    """The statements on PostgreSQL. Makes the schema where there is none, if the role may.

    It gives the connection to one thread at a time, and makes a new one when it has broken.
    Everything raises OutboxError. *environment*: that of the wanted rows, if known. *making_s*: how
    long making may take.
    """

    is_durable = True
    has_made = False

    def __init__(self, dsn: str, environment: str | None, setting: str, making_s: float) -> None:
        self.dsn = conninfo_of(dsn)
        self.where = described(self.dsn)
        self.create, self._setting = partial(init, self.dsn, environment), setting
        self._making_s = making_s
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._connection: Connection | None = None
        self._is_closed = False

    @contextmanager
    def lent(self) -> Iterator[Connection]:
        """The connection, for this thread alone."""
        if self._pid != os.getpid():  # the socket is the parent's
            self._lock, self._pid, self._connection = threading.Lock(), os.getpid(), None
        if not self._lock.acquire(timeout=PATIENCE_S):
            raise OutboxError(f"outbox {self.where}: busy with other threads' work")
        try:
            with translated(self.where, self.create, self._setting):
                yield self._open()
        finally:
            self._lock.release()

    def read(self, *steps: Step) -> list[Found]:
        return self._done(steps, settings())

    def write(self, *steps: Step, is_synced: bool = True) -> list[Any]:
        later = [step for name, _ in steps for step in _LATER.get(name, ())]
        return self._done((*steps, *later), _beginning(is_synced=is_synced))[: len(steps)]

    def _done(self, steps: Sequence[Step], beginning: str) -> list[Any]:
        """The answers of *steps*, in one transaction.

        A connection that was ended while it was idle is made anew, once. Asking again is safe:
        each thing that is asked may be done twice.
        """
        with self.lent() as connection:
            try:
                return ask(connection, beginning, *_composed(connection, steps))[2:]
            except psycopg.Error as error:
                if isinstance(error, LateError) or not connection.closed:
                    raise
            again = self._open()
            return ask(again, beginning, *_composed(again, steps))[2:]

    def _open(self) -> Connection:
        if self._is_closed:
            raise OutboxError(f"outbox {self.where}: closed")
        if self._connection is None or self._connection.closed:
            made = connect(self.dsn)
            try:
                made.patience_s += self._making_s
                self.has_made |= prepare(made, self.where, wait_s=self._making_s)
                made.patience_s -= self._making_s
            except BaseException:
                made.close()
                raise
            self._connection = made
        return self._connection

    def close(self) -> None:
        """Close the connection. Every later call raises OutboxError."""
        # A lane stuck on the server is freed by its deadline, or by the process's end.
        if not self._lock.acquire(timeout=0.5):
            return
        try:
            self._is_closed = True
            if self._connection is not None and self._pid == os.getpid():
                with suppress(psycopg.Error):
                    self._connection.close()
        finally:
            self._lock.release()


@dataclass(eq=False, repr=False)
class _LentStore:
    """The statements over another's connection, in its transaction if it has one open.

    It waits for no lock for long.
    """

    is_durable = True
    _connection: Connection
    where: str
    _is_prepared: bool = False

    def read(self, *steps: Step) -> list[Found]:
        return self._done(steps, is_question=True)

    def write(self, *steps: Step, is_synced: bool = True) -> list[Any]:
        return self._done(steps, is_question=False, is_synced=is_synced)

    def close(self) -> None:
        """The connection is another's."""

    def _done(
        self, steps: Sequence[Step], *, is_question: bool, is_synced: bool = True
    ) -> list[Any]:
        status = self._connection.info.transaction_status
        if self._connection.info.pipeline_status != PipelineStatus.OFF:  # a migration left it open
            raise OutboxError(f"outbox {self.where}: the connection is a pipeline")
        with translated(self.where):
            if status == TransactionStatus.IDLE:
                return self._committed(steps, is_synced=is_synced)
            # All else would go with the transaction.
            is_fit = is_question or steps[-1][0] == "stage_committed"
            if status == TransactionStatus.INTRANS and is_fit:
                return _within(self._connection, steps, is_question=is_question)
        raise OutboxError(f"outbox {self.where}: the connection is in a transaction")

    def _committed(self, steps: Sequence[Step], *, is_synced: bool) -> list[Any]:
        """The answers of *steps* in a transaction of their own: the connection is idle."""
        connection = self._connection
        was = connection.autocommit
        connection.autocommit = True
        try:
            if not self._is_prepared:
                prepare(connection, self.where)
                ask(connection, settings(), *_composed(connection, _REHEARSALS))
                self._is_prepared = True
            beginning = _beginning(is_synced=is_synced, lock_timeout=_PATIENCE)
            return ask(connection, beginning, *_composed(connection, steps, _PATIENCE))[2:]
        finally:
            if not connection.closed:
                connection.autocommit = was


def _beginning(*, is_synced: bool, **more: str) -> str:
    value = _ON_DISK if is_synced else "'off'"
    return f"{settings(**more)}, pg_catalog.set_config('synchronous_commit', {value}, true)"


class PostgresOutbox(Outbox):
    """Keeps what happened in the database at *dsn*.

    Makes its schema where there is none, if the role may. Raises OutboxError when it may not,
    when the server does not answer, or when a newer version has been at the database. A server
    that comes back is used again. Without *connects* the first use opens the connection.
    *environment*: the run's, if known; *setting*: what holds *dsn*, for remedies. *making_s*: how
    long making it may take.
    """

    _store: _Store

    def __init__(
        self,
        dsn: str,
        *,
        connects: bool = True,
        environment: str | None = None,
        setting: str = ADDRESS,
        making_s: float = MAKING_S,
    ) -> None:
        super().__init__(_Store(dsn, environment, setting, making_s))
        self.environment = environment
        if connects:
            with self._store.lent():
                pass

    def is_made_anew(self) -> bool:
        """Whether our own connection had to make it, say because a migration dropped it."""
        with self._store.lent():
            return self._store.has_made

    def has_role(self, name: str) -> bool:
        """Whether the server has a role called *name*."""
        return bool(self._store.read(("role", {"role": name}))[0])

    def check_role(self) -> None:
        """Raise OutboxError if the role's GRANTs are for other environments only."""
        name = stored_text(self.environment or "").replace("'", "''")
        rule = f"(environment = '{name}'::text)"  # as PostgreSQL writes that of ``grants``
        if self._store.read(("shut_out", {"rule": rule}))[0]:
            remedy = "Set CONFITURE_ENVIRONMENT, or name an environment's file with --config"
            remedy = by_admin(self._store.create) if self.environment else remedy
            shown = shown_environment(self.environment)
            problem = f"this role may not read or write rows of environment {shown}"
            raise OutboxError(f"outbox {self.where}: {problem}", remedy)

    def over(self, connection: Connection, /) -> Outbox | None:
        """This outbox over *connection*, if that is to its database."""
        if not is_at(self._store.dsn, connection.info):
            return None
        lent = Outbox(_LentStore(connection, self.where))
        lent.holder, lent.killed, lent.environment = self.holder, self.killed, self.environment
        return lent

    def _ahead(self) -> timedelta:
        [[server]] = self._store.read(("clock", {}))
        now = datetime.now(UTC)
        return max(now - (rows.at_best(server["now"]) or now), timedelta())

    def listen(
        self, wake: Callable[[], None], on_change: Callable[[bool], None]
    ) -> Callable[[], None]:
        """Listen, over one more connection."""

        def notify(payload: str) -> None:
            self._store.read(("notify", {"payload": payload}))

        return Listener(self._store.dsn, SCHEMA, notify, wake, on_change).stop


def _within(connection: Connection, steps: Sequence[Step], *, is_question: bool) -> list[Any]:
    """The answers of *steps* in a savepoint of the open transaction: one round trip.

    It waits for no lock for long. The transaction's own settings are back when it returns.
    """
    saved, released = f"SAVEPOINT {SCHEMA}", f"RELEASE SAVEPOINT {SCHEMA}"
    undone = f"ROLLBACK TO {saved}"
    composed = _composed(connection, steps, HURRY)
    try:
        if not is_question:
            return ask(connection, saved, *composed, released)[1:-1]
        hurry = f"SELECT pg_catalog.set_config('lock_timeout', '{HURRY}', true)"
        return ask(connection, saved, hurry, *composed, undone, released)[2:-2]
    except psycopg.Error:
        if connection.pgconn.transaction_status == TransactionStatus.INERROR:
            ask(connection, undone, released)
        raise
