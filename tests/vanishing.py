"""A way to a PostgreSQL that breaks in the middle of a COMMIT, and stays broken."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from types import TracebackType


class Vanishing:
    """Forwards to the server of *dsn* until the first COMMIT after *marker* was sent.

    With *arrives* the server gets that COMMIT, and only its answer is lost.
    """

    def __init__(self, dsn: str, marker: bytes, *, arrives: bool) -> None:
        self._url = urlsplit(dsn)
        self._marker = marker
        self._arrives = arrives
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._is_armed = self._has_vanished = False
        self._sockets: list[socket.socket] = [self._listener]
        self._threads: list[threading.Thread] = []

    @property
    def dsn(self) -> str:
        """The same database over the way that breaks."""
        userinfo = self._url.netloc.rpartition("@")[0]
        place = f"{userinfo}@127.0.0.1:{self._listener.getsockname()[1]}"
        options = "sslmode=disable&gssencmode=disable"
        return self._url._replace(netloc=place, query=options).geturl()

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._vanish()
        for thread in self._threads:
            thread.join(10)

    def _start(self, target: object, *values: object) -> None:
        thread = threading.Thread(target=target, args=values, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection((self._url.hostname, self._url.port or 5432))
                self._sockets += [client, server]
                self._start(self._forward, client, server, True)
                self._start(self._forward, server, client, False)

    def _forward(self, source: socket.socket, target: socket.socket, is_question: bool) -> None:  # noqa: FBT001
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._is_armed = self._is_armed or (is_question and self._marker in data)
                if is_question and self._is_armed and b"COMMIT" in data:
                    self._has_vanished = True
                    if self._arrives:
                        target.sendall(data)
                        return  # the answer ends it
                if self._has_vanished:
                    break
                target.sendall(data)
        self._vanish()

    def _vanish(self) -> None:
        self._has_vanished = True
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
