"""A way to a PostgreSQL that passes on what a test wants of what comes along."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import psycopg

if TYPE_CHECKING:
    from collections.abc import Callable


class Passage:
    """Forwards to the server of *dsn*: questions as *rewritten*, and nothing once it is deaf.

    With *pools* it gives the pid of a server process as a pooler does: not that of the process.
    """

    def __init__(
        self, dsn: str, rewritten: Callable[[bytes], bytes] = bytes, *, pools: bool = False
    ) -> None:
        parameters = psycopg.conninfo.conninfo_to_dict(dsn)
        self._to = (str(parameters["host"]), int(str(parameters["port"])))
        self._rewritten = rewritten
        self._answered = _with_another_pid if pools else bytes
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listening]
        self.is_deaf = False
        port = self._listening.getsockname()[1]
        way = {"host": "127.0.0.1", "port": port, "sslmode": "disable", "gssencmode": "disable"}
        self.dsn = psycopg.conninfo.make_conninfo(**parameters | way)

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                host = self._to[0]
                if host.startswith("/"):
                    server = socket.socket(socket.AF_UNIX)
                    server.connect(f"{host}/.s.PGSQL.{self._to[1]}")
                else:
                    server = socket.create_connection(self._to)
                self._sockets += [client, server]
                for ends in ((client, server, self._rewritten), (server, client, self._answered)):
                    self._threads.append(threading.Thread(target=self._pass_on, args=ends))
                    self._threads[-1].start()

    def _pass_on(
        self, source: socket.socket, sink: socket.socket, rewritten: Callable[[bytes], bytes]
    ) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if not self.is_deaf:
                    sink.sendall(rewritten(data))
            sink.shutdown(socket.SHUT_WR)


def _with_another_pid(answer: bytes) -> bytes:
    """*answer* with another pid in its BackendKeyData, if it has one."""
    before, key, pid_and_secret = answer.partition(b"K\x00\x00\x00\x0c")
    return before + key + b"\x00\x00\x00\x01" + pid_and_secret[4:] if key else answer
