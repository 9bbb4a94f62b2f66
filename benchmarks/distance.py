"""A network's distance on one machine: a relay that holds every byte back for a while."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from queue import SimpleQueue

CHUNK = 65536


class Distance:
    """A listening address that is *round_trip_s* away from the server at *port*.

    Half of it passes between a byte's arrival and its leaving, in either direction; the end of a
    connection travels as its bytes do. What a connection's own round trip takes (SYN and SYN-ACK)
    is held back before its first byte: ``connect`` itself returns at once, so what a client does
    between it and its first byte is done meanwhile. The relay's own work, some tenths of a
    millisecond, comes on top.
    """

    def __init__(self, port: int, round_trip_s: float) -> None:
        self._server = ("127.0.0.1", port)
        self._one_way_s = round_trip_s / 2
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            near, _ = self._listening.accept()
            threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        """Carry one connection, both ways, until both have ended."""
        with near, socket.create_connection(self._server) as far:
            connected_at = time.monotonic() + 2 * self._one_way_s
            threads: list[threading.Thread] = []
            for source, sink in ((near, far), (far, near)):
                sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threads += self._carry(source, sink, connected_at)
            for thread in threads:
                thread.join()

    def _carry(
        self, source: socket.socket, sink: socket.socket, connected_at: float
    ) -> list[threading.Thread]:
        """Carry what *source* has to *sink*, later; a byte takes as long whatever came before."""
        travelling: SimpleQueue[tuple[float, bytes]] = SimpleQueue()

        def take() -> None:
            content = b"."
            while content:
                try:
                    content = source.recv(CHUNK)
                except OSError:
                    content = b""
                left_at = max(time.monotonic(), connected_at)
                travelling.put((left_at + self._one_way_s, content))

        def give() -> None:
            content = b"."
            while content:
                arrives_at, content = travelling.get()
                time.sleep(max(0.0, arrives_at - time.monotonic()))
                with suppress(OSError):
                    sink.sendall(content) if content else sink.shutdown(socket.SHUT_WR)

        threads = [threading.Thread(target=work, daemon=True) for work in (take, give)]
        for thread in threads:
            thread.start()
        return threads
