"""A listener on loopback that answers as badly as a test wants."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Peer:
    """Does *behave* with every connection, each in a thread, until the test is over."""

    def __init__(
        self, behave: Callable[[Talk], object], *, tls: ssl.SSLContext | None = None
    ) -> None:
        self._behave = behave
        self._tls = tls
        self.talks: list[Talk] = []
        self.is_over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def requests(self) -> list[bytes]:
        """Every request it read, in order."""
        return [request for talk in list(self.talks) for request in talk.requests]

    def close(self) -> None:
        """End every connection."""
        self.is_over.set()
        for sock in (self._listener, *(talk.sock for talk in self.talks)):
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                threading.Thread(target=self._talk, args=(sock,), daemon=True).start()

    def _talk(self, sock: socket.socket) -> None:
        with suppress(OSError, ValueError), sock:
            if self._tls:
                sock = self._tls.wrap_socket(sock, server_side=True)
            with Talk(sock, self.is_over) as talk:
                self.talks.append(talk)
                self._behave(talk)


class Talk:
    """One connection of a peer."""

    def __init__(self, sock: socket.socket, is_over: threading.Event) -> None:
        self.sock = sock
        self.is_over = is_over
        self.requests: list[bytes] = []
        self.is_closed = threading.Event()
        self._incoming = sock.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._incoming.close()
            self.sock.close()
        self.is_closed.set()

    def read(self) -> bytes | None:
        """Read one request, header and body; ``None``: there are no more."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self._incoming.readline()
            if not line:
                return None
            head += line
        length = [
            line[15:] for line in head.lower().splitlines() if line[:15] == b"content-length:"
        ]
        request = head + self._incoming.read(int(length[0]) if length else 0)
        self.requests.append(request)
        return request

    def each(self) -> Iterator[bytes]:
        """Every request of the connection."""
        while (request := self.read()) is not None:
            yield request

    def drip(self, data: bytes, every_s: float = 0.02) -> None:
        """Send *data* byte by byte, again and again until the test is over."""
        while not self.is_over.is_set():
            for byte in data:
                self.sock.sendall(bytes([byte]))
                if self.is_over.wait(every_s):
                    return

    def hang(self) -> None:
        """Do nothing until the test is over."""
        self.is_over.wait()

    def reset(self) -> None:
        """Let the connection end with a RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def hello_then(then: Callable[[Talk], object]) -> Callable[[Talk], None]:
    """A behaviour: take what comes first, and go on with *then*."""

    def behave(talk: Talk) -> None:
        talk.sock.recv(9999)
        then(talk)

    return behave


def answers(*answers: bytes) -> Callable[[Talk], None]:
    """A behaviour: read a request, send an answer, the last of *answers* for all the rest."""
    left = list(answers)

    def behave(talk: Talk) -> None:
        for _ in talk.each():
            talk.sock.sendall(left.pop(0) if len(left) > 1 else left[0])

    return behave


def says(answer: bytes) -> Callable[[Talk], None]:
    """A behaviour: read a request, send *answer*, close."""

    def behave(talk: Talk) -> None:
        talk.read()
        talk.sock.sendall(answer)

    return behave


def starts_with(answer: bytes, then: Callable[[Talk], object]) -> Callable[[Talk], None]:
    """A behaviour: read a request, send *answer*, and go on with *then*."""

    def behave(talk: Talk) -> None:
        talk.read()
        talk.sock.sendall(answer)
        then(talk)

    return behave


def tunnel(talk: Talk) -> None:
    """Behave as a proxy that opens a tunnel to the port asked for, wherever that is."""
    asked = talk.read() or b""
    port = int(asked.split()[1].rpartition(b":")[2])
    with socket.create_connection(("127.0.0.1", port)) as onward:
        talk.sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        back = threading.Thread(target=pump, args=(onward, talk.sock), daemon=True)
        back.start()
        pump(talk.sock, onward)
        back.join()


def socks(talk: Talk) -> None:
    """Behave as a SOCKS proxy (4, 4a, 5) that connects to the port asked for, wherever that is."""
    read = talk._incoming.read
    if read(1) == b"\x05":
        read(read(1)[0])
        talk.sock.sendall(b"\x05\x00")
        _, _, _, kind = read(4)
        read({1: 4, 4: 16}.get(kind) or read(1)[0])
        port = int.from_bytes(read(2))
        granted = b"\x05\x00\x00\x01" + bytes(6)
    else:
        port = int.from_bytes(read(3)[1:])
        is_named = read(4)[:3] == bytes(3)
        for _ in range(1 + is_named):
            while read(1) != b"\x00":
                pass
        granted = b"\x00\x5a" + bytes(6)
    with socket.create_connection(("127.0.0.1", port)) as onward:
        talk.sock.sendall(granted)
        threading.Thread(target=pump, args=(onward, talk.sock), daemon=True).start()
        pump(talk.sock, onward)


def pump(source: socket.socket, target: socket.socket) -> None:
    """Pass on what comes until there is no more."""
    with suppress(OSError):
        while data := source.recv(9999):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
