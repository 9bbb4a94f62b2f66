"""A real HTTP server on loopback that answers as scripted, badly if so scripted.

Standard library only. It closes at once whatever its connections are doing: a
handler never waits for anything but its own socket or the server's end.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import socketserver
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, cast

from ..errors import WebhooksError

LOOPBACK = "127.0.0.1"
DEFAULT_MAX_BODY = 16 * 1024 * 1024
MAX_HEADERS = 16 * 1024
MOST_CONNECTIONS = 256
"""More are closed at once: each costs a thread."""
SILENT_S = 60.0
"""A connection on which nothing comes for so long is closed."""
SLOW_S = 1.0
DRIP_S = 0.1
CLOSE_S = 2.0
_NO_BODY = frozenset({204, 304})

FAULTS: Mapping[str, tuple[bytes, bytes, float]] = {
    "close": (b"", b"", 0),
    "drip": (b"HTTP/1.1 200 OK\r\nX-Drip: ", b".", DRIP_S),
    "drip_body": (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n", b".", DRIP_S),
    "endless": (b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n", b"." * 65536, 0),
    "hang": (b"", b"", 0),
    "reset": (b"", b"", 0),
    "rubbish": (b"\x16\x03\x00 this is \xff not HTTP\r\n\r\n", b"", 0),
}
"""By the name that a script uses: what is sent first, what then again and again, every how long."""


def _misbehave(fault: str, connection: socket.socket, stopping: threading.Event) -> None:
    """Do *fault* instead of answering, until the peer is gone or the server ends."""
    if fault == "hang":
        while connection.recv(4096):
            pass
    elif fault == "reset":
        # Closing with a linger of zero sends RST, but only if nothing sent FIN before.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(connection.detach())
    else:
        opening, again, every_s = FAULTS[fault]
        connection.sendall(opening)
        while again and not stopping.wait(every_s):
            connection.sendall(again)


class Headers(Mapping[str, str]):
    """Header fields as they arrived; looked up whatever their case, repeated ones joined."""

    def __init__(self, fields: Mapping[str, str] | list[tuple[str, str]]) -> None:
        pairs = fields.items() if isinstance(fields, Mapping) else fields
        self._fields: dict[str, tuple[str, str]] = {}
        for name, value in pairs:
            known = self._fields.get(name.lower())
            joined = f"{known[1]}, {value}" if known else value
            self._fields[name.lower()] = (known[0] if known else name, joined)

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower()][1]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._fields.values())

    def __len__(self) -> int:
        return len(self._fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """One request, read to its end."""

    method: str = ""
    path: str = ""
    """With its query, as in the request line; empty: of a captured one it is not known."""
    headers: Headers
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer to one request: a status, or a fault instead of one."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    delay_s: float = 0.0
    fault: str | None = None
    """A key of ``FAULTS``; then status, headers and body are not used."""

    @property
    def is_success(self) -> bool:
        return self.fault is None and 200 <= self.status < 300  # noqa: PLR2004


Scripted = int | str | tuple[int, Mapping[str, str]] | tuple[int, Mapping[str, str], bytes] | Answer


def answer_of(entry: Scripted) -> Answer:
    """The answer a script's *entry* stands for.

    An entry is a status (``503``), or one with headers (``(503, {"Retry-After": "1"})``) and a
    body. It may also be ``"429:20"`` (a status and its Retry-After), ``"slow"`` (200 after a
    second), a fault by its name, or an ``Answer``. Raises ValueError for anything else.
    """
    if isinstance(entry, Answer):
        return entry
    if isinstance(entry, tuple):
        return Answer(status=entry[0], headers=entry[1], body=b"".join(entry[2:]))
    if entry == "slow":
        return Answer(delay_s=SLOW_S)
    if isinstance(entry, str) and entry in FAULTS:
        return Answer(fault=entry)
    status, colon, after = str(entry).partition(":")
    is_status = re.fullmatch("[2-5][0-9]{2}", status) is not None
    if is_status and re.fullmatch("[0-9]{1,9}" if colon else "", after):
        return Answer(status=int(status), headers={"Retry-After": after} if colon else {})
    words = ", ".join(["slow", *sorted(FAULTS)])
    raise ValueError(f"{entry!r} is not an answer: a status from 200 to 599, or one of {words}")


class LoopbackServer(socketserver.TCPServer):
    """Serves *handle* on 127.0.0.1 from construction to ``close``, a thread per connection."""

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(
        self,
        handle: Callable[[Incoming], Answer],
        *,
        port: int = 0,
        max_body: int = DEFAULT_MAX_BODY,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.handle = handle
        self.max_body = max_body
        self.stopping = threading.Event()
        self.connections = 0
        """How many were ever accepted."""
        self._tls = tls
        self._open: dict[Any, threading.Thread] = {}
        self._lock = threading.Lock()
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise WebhooksError(f"cannot listen on {LOOPBACK}:{port}: {reason}") from error
        self.port: int = self.server_address[1]
        self.url = f"{'https' if tls else 'http'}://{LOOPBACK}:{self.port}"
        self._thread = threading.Thread(
            target=self.serve_forever, args=(0.01,), name="loopback", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening and end every connection. Closing twice is allowed."""
        if self.stopping.is_set():
            return
        self.shutdown()
        self.stopping.set()
        with self._lock:
            ending = dict(self._open)
        for request in ending:  # its handler wakes
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)
        deadline = time.monotonic() + CLOSE_S
        for thread in ending.values():
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
        self.server_close()
        self._thread.join(CLOSE_S)

    def __exit__(self, *_: object) -> None:
        self.close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection on a thread of its own."""
        thread = threading.Thread(
            target=self._serve, args=(request, client_address), name="connection", daemon=True
        )
        with self._lock:
            is_full = len(self._open) >= MOST_CONNECTIONS
            if not is_full:
                self.connections += 1
                self._open[request] = thread
        if is_full:
            self.close_request(request)
        else:
            request.settimeout(SILENT_S)
            thread.start()

    def _serve(self, plain: Any, client_address: Any) -> None:
        request = plain
        try:
            if self._tls is not None:
                request = self._tls.wrap_socket(plain, server_side=True)
                with self._lock:
                    self._open[request] = self._open.pop(plain)
            self.finish_request(request, client_address)
        except OSError:
            pass
        except Exception:  # noqa: BLE001 - one connection's end is not the server's
            self.handle_error(request, client_address)
        finally:
            with self._lock:
                self._open.pop(request, None)
            self.shutdown_request(request)


class _Handler(BaseHTTPRequestHandler):
    timeout = SILENT_S
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        server = cast("LoopbackServer", self.server)
        body = self._read_body(server.max_body)
        if body is None:
            return
        headers = Headers(list(self.headers.items()))
        request = Incoming(method=self.command, path=self.path, headers=headers, body=body)
        answer = server.handle(request)
        if answer.delay_s and server.stopping.wait(answer.delay_s):
            self.close_connection = True
        elif answer.fault is not None:
            self.close_connection = True
            _misbehave(answer.fault, self.connection, server.stopping)
        else:
            self._respond(answer)

    do_GET = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_POST

    def _read_body(self, limit: int) -> bytes | None:
        """The body by its Content-Length; ``None``: refused, and answered."""
        length = self.headers.get("Content-Length", "0")
        status = None
        if sum(len(name) + len(value) for name, value in self.headers.items()) > MAX_HEADERS:
            status = 431
        elif "Transfer-Encoding" in self.headers:
            status = 411
        elif not (length.isascii() and length.isdigit()):
            status = 400
        elif len(length) > len(str(limit)) or int(length) > limit:
            status = 413
        if status is not None:
            self.close_connection = True
            self._respond(Answer(status=status, headers={"Connection": "close"}))
            return None
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self.close_connection = True
            return None
        return body

    def _respond(self, answer: Answer) -> None:
        has_body = answer.status not in _NO_BODY and self.command != "HEAD"
        self.send_response(answer.status)
        if answer.status not in _NO_BODY:
            self.send_header("Content-Length", str(len(answer.body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if has_body:
            self.wfile.write(answer.body)

    def log_message(self, *_: object) -> None:
        """Say nothing: the owner of the server reports requests."""
