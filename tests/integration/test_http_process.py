"""What HttpTransport costs a process that starts, and one that ends."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.survived("A host name that does not resolve, or whose lookup hangs", "unharmed")
@pytest.mark.parametrize(
    "hang", ["socket.getaddrinfo = hang", "http_session.EndpointSession.exchange = hang"]
)
def test_a_hang_does_not_hold_up_the_end_of_the_process(hang: str) -> None:
    """A process may end while a lookup hangs, or what nothing can interrupt."""
    script = f"""
import socket, threading
from confiture_webhooks.adapters import http_session
from datetime import timedelta
from confiture_webhooks.adapters.http import HttpTransport
from confiture_webhooks.errors import TransportError
from confiture_webhooks.transport import Request
hang = lambda *_: threading.Event().wait()
{hang}
try:
    HttpTransport().send(
        Request(url="http://a.test", headers=dict(), body=b"", endpoint="a"),
        timeout=timedelta(milliseconds=50),
    )
except TransportError as error:
    print(error.error_type)
"""
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "timeout\n", "")


def test_importing_it_is_cheap() -> None:
    """Who sends nothing does not pay for requests."""
    script = "import confiture_webhooks.adapters.http, sys; print('requests' in sys.modules)"
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "False\n"
