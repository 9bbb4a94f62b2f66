"""A receiver that has an IPv6 address and no other."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(120)


class SixServer(ThreadingHTTPServer):
    """Listens on ``[::1]`` and keeps the headers of every POST."""

    address_family = socket.AF_INET6

    def __init__(self) -> None:
        super().__init__(("::1", 0), Answering)
        self.posts: list[Any] = []

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])


class Answering(BaseHTTPRequestHandler):
    """Answers everything with 200."""

    server: SixServer

    def do_POST(self) -> None:
        """Keep the headers."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posts.append(self.headers)
        self.do_HEAD()

    def do_HEAD(self) -> None:
        """Answer."""
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Write nothing."""


@pytest.fixture
def six() -> Iterator[SixServer]:
    """A receiver on ``[::1]``; skips where this machine has no IPv6."""
    server = None
    with suppress(OSError):
        server = SixServer()
    if server is None:
        pytest.skip("this machine has no IPv6 loopback address")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(10)


def test_an_ipv6_address_is_reached_and_shown(project: Any, six: SixServer, collector: Any) -> None:
    """Delivered, with the bare address on the span, and in brackets where an address is shown."""
    shown = f"http://[::1]:{six.port}"
    project.environment_file(
        webhooks={
            "endpoints": [
                {"name": "six", "url": f"http://user:word@[::1]:{six.port}/hidden?key=hidden"}
            ]
        }
    )
    project.migration("001", "t", up="CREATE TABLE t (id int)", down="DROP TABLE t")
    done = project.confiture("migrate", "up", env={"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url})
    assert done.returncode == 0, done.stderr
    (headers,) = six.posts
    assert headers["Host"] == f"[::1]:{six.port}"
    assert headers["Authorization"] == f"Basic {base64.b64encode(b'user:word').decode()}"
    (attempt,) = [span for span in collector.spans if span.kind == "CLIENT"]
    about = {name: attempt.attributes[name] for name in ("server.address", "server.port")}
    assert about == {"server.address": "::1", "server.port": six.port}
    assert attempt.attributes["url.full"] == shown
    assert not any(b"hidden" in body for _, body in collector.bodies)

    def webhooks(command: str) -> Any:
        answer = project.confiture("webhooks", command, "--format", "json")
        assert answer.returncode == 0, answer.stdout + answer.stderr
        assert "hidden" not in answer.stdout
        return json.loads(answer.stdout)

    (endpoint,) = webhooks("check")["endpoints"]
    assert endpoint["url"] == f"{shown}/…"
    (delivery,) = webhooks("list")["deliveries"]
    assert (delivery["endpoint"], delivery["state"]) == ("six", "delivered")
    steps = {row["check"]: row["status"] for row in webhooks("doctor")["checks"]}
    assert (steps["six: resolves"], steps["six: connects"]) == ("ok", "ok")
