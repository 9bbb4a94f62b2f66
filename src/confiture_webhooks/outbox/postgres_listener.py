"""Waits for NOTIFY on a connection of its own, and knows whether any would come."""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg

from .postgres_session import CONNECT_TIMEOUT_S, ask, connect, identifier

ECHO = "echo "
"""How a NOTIFY begins that says nothing but that it came."""
ECHO_S = 5.0
"""So long such a one may take."""
CHECK_EVERY_S = 30.0
FIRST_REST_S = 1.0
LONGEST_REST_S = 60.0


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
    _connection: psycopg.Connection[Any] | None = None

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

    def _attend(self, connection: psycopg.Connection[Any]) -> None:
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

    def _take(
        self, connection: psycopg.Connection[Any], seconds: float, echo: str | None = None
    ) -> bool:
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
