"""Waits for NOTIFY on a connection of its own, and knows whether any would come."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from contextlib import closing, suppress

import psycopg
from psycopg import sql as pgsql

from ..errors import OutboxError
from .pgmq_connection import CONNECT_TIMEOUT_S, Connection, connect, cut

ECHO = "echo "
"""How a NOTIFY begins that tells nothing but that it came."""
ECHO_S = 5.0
"""So long such a one may take."""
CHECK_EVERY_S = 30.0
FIRST_REST_S = 1.0
LONGEST_REST_S = 60.0


class Listener:
    """Calls *wake* after every NOTIFY on *channel*, in a thread, until it is stopped.

    A pooler may take a LISTEN and pass on nothing. So it is tried, and now and then again: what
    *tell* sends over another connection has to come back. *heard* is called with ``True`` when
    it first does, and with ``False`` when it no longer does. A connection that breaks, or over
    which nothing comes, is given up and made anew after a rest.
    """

    def __init__(
        self,
        dsn: str,
        channel: str,
        tell: Callable[[str], object],
        wake: Callable[[], None],
        heard: Callable[[bool], None],
    ) -> None:
        self._dsn = dsn
        self._channel = pgsql.Identifier(channel)
        self._tell = tell
        self._wake = wake
        self._heard = heard
        self._is_heard = False
        self._stopped = threading.Event()
        self._connection: Connection | None = None
        self._thread = threading.Thread(target=self._run, name="webhooks-listen", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it. Nothing is called afterwards."""
        self._stopped.set()
        if self._connection is not None:
            cut(self._connection)
        self._thread.join(CONNECT_TIMEOUT_S)

    def _run(self) -> None:
        rest_s = FIRST_REST_S
        while not self._stopped.is_set():
            with suppress(psycopg.Error, OutboxError), closing(connect(self._dsn)) as connection:
                self._connection = connection
                self._attend(connection)
            if self._is_heard and not self._stopped.is_set():
                rest_s = FIRST_REST_S
                self._note(is_heard=False)
            self._stopped.wait(rest_s)
            rest_s = min(2 * rest_s, LONGEST_REST_S)

    def _attend(self, connection: Connection) -> None:
        """Pass on what comes, until nothing would."""
        connection.execute(pgsql.SQL("LISTEN {}").format(self._channel))
        # Nothing more is asked of it: one that has fallen silent would never answer.
        while not self._stopped.is_set():
            echo = f"{ECHO}{uuid.uuid4().hex}"
            self._tell(echo)
            if not self._take(connection, ECHO_S, echo):
                return
            if not self._is_heard:
                self._note(is_heard=True)
            self._take(connection, CHECK_EVERY_S)

    def _take(self, connection: Connection, seconds: float, echo: str | None = None) -> bool:
        """Pass on what comes for so many *seconds*, or until *echo* does; whether it did."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._stopped.is_set():
            # The whole of what has come: a generator left early would drop the rest.
            told = [one.payload for one in connection.notifies(timeout=left, stop_after=1)]
            if any(not payload.startswith(ECHO) for payload in told):
                self._wake()
            if echo in told:
                return True
        return False

    def _note(self, *, is_heard: bool) -> None:
        self._is_heard = is_heard
        self._heard(is_heard)
