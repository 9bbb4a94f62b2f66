"""How a receiver misbehaves: faults of a connection instead of an answer.

Each fault gets the connection, its request read, and an event that is set when the
server ends; it returns when the peer is gone or the server ends.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Mapping

DRIP_S = 0.1
_RESET = struct.pack("ii", 1, 0)


def has_reset(connection: socket.socket) -> bool:
    """Whether ``reset`` was done to *connection*: it must be closed without a farewell."""
    try:
        linger = connection.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(_RESET))
    except OSError:
        return False
    return linger == _RESET


def _hang(connection: socket.socket, _: threading.Event) -> None:
    while connection.recv(4096):
        pass


def _reset(connection: socket.socket, _: threading.Event) -> None:
    # Closing with a linger of zero sends RST, but only if nothing sent FIN before.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def _close(_: socket.socket, __: threading.Event) -> None:
    """Nothing: the connection ends without an answer."""


def _drip(connection: socket.socket, stopping: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Drip: ")
    while not stopping.wait(DRIP_S):
        connection.sendall(b".")


def _drip_body(connection: socket.socket, stopping: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
    while not stopping.wait(DRIP_S):
        connection.sendall(b".")


def _rubbish(connection: socket.socket, _: threading.Event) -> None:
    connection.sendall(b"\x16\x03\x00 this is \xff not HTTP\r\n\r\n")


def _endless(connection: socket.socket, stopping: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
    block = b"." * 65536
    while not stopping.is_set():
        connection.sendall(block)


FAULTS: Mapping[str, Callable[[socket.socket, threading.Event], None]] = {
    "close": _close,
    "drip": _drip,
    "drip_body": _drip_body,
    "endless": _endless,
    "hang": _hang,
    "reset": _reset,
    "rubbish": _rubbish,
}
"""By the name a script uses."""
