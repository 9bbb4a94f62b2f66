"""The other side of a benchmark, in a process of its own: a receiver, or an OTLP collector.

``python peers.py receiver`` and ``python peers.py collector`` print their address and serve
until their standard input ends. ``GET /`` reports what has arrived, and forgets it. A second
argument is how many milliseconds a round trip to them takes, a third a file with key and
certificate.
"""

from __future__ import annotations

import gzip
import json
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distance import Distance

from confiture_webhooks.receiver import collector as otlp
from confiture_webhooks.receiver.server import Answer, Incoming, LoopbackServer

NAMES: dict[str, Callable[[bytes], list[str]]] = {
    "/v1/traces": lambda content: [span.name for span in otlp.spans(content)],
    "/v1/logs": lambda content: [record.event_name for record in otlp.log_records(content)],
    "/v1/metrics": lambda content: [point.name for point in otlp.metric_points(content)],
}
"""What an OTLP request at a path holds."""


class Counter:
    """Counts requests, and notes when the first and the last came and whether ids repeat."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._times: list[float] = []
        self._ids: list[str] = []

    def answer(self, request: Incoming) -> Answer:
        """200 to everything."""
        with self._lock:
            if request.method != "GET":
                self._times.append(time.monotonic())
                self._ids.append(request.headers.get("X-Confiture-Delivery", ""))
                return Answer()
            took = self._times[-1] - self._times[0] if self._times else 0.0
            reported = {
                "count": len(self._times),
                "seconds": took,
                "distinct": len(set(self._ids)),
                "is_in_order": self._ids == sorted(self._ids),
            }
            self._forget()
        return Answer(body=json.dumps(reported).encode())


class Collector:
    """Keeps what OTLP requests hold as they came; decodes it when asked, not while they come."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: list[Incoming] = []

    def answer(self, request: Incoming) -> Answer:
        """An empty success to everything."""
        with self._lock:
            if request.method != "GET":
                self._kept.append(request)
                return Answer(headers={"Content-Type": "application/x-protobuf"})
            kept, self._kept = self._kept, []
        names: dict[str, Tally[str]] = {path: Tally() for path in NAMES}
        for one in kept:
            zipped = one.headers.get("Content-Encoding") == "gzip"
            content = gzip.decompress(one.body) if zipped else one.body
            names[one.path].update(NAMES[one.path](content))
        return Answer(body=json.dumps(names).encode())


class Peer:
    """A peer's address, and what it reports."""

    def __init__(self, url: str, authority: Path | None = None) -> None:
        self.url = url
        self._tls = ssl.create_default_context(cafile=authority) if authority else None

    def reported(self) -> dict[str, Any]:
        """What has arrived since the last time."""
        with urllib.request.urlopen(self.url, timeout=60, context=self._tls) as answer:
            return dict(json.load(answer))


@contextmanager
def peer(
    kind: str, *, away_ms: float = 0, identity: Path | None = None, authority: Path | None = None
) -> Iterator[Peer]:
    """A receiver or a collector in a process of its own; over TLS with an *identity*.

    A round trip to it takes *away_ms* more than on loopback, and what the relay itself takes.
    """
    identities = [str(identity)] if identity else []
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve()), kind, str(away_ms), *identities],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield Peer(process.stdout.readline().strip(), authority)
    finally:
        process.communicate(timeout=10)


if __name__ == "__main__":
    kind, away_ms, *identity = sys.argv[1:]
    handler = {"receiver": Counter, "collector": Collector}[kind]()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) if identity else None
    if tls:
        tls.load_cert_chain(identity[0])
    server = LoopbackServer(handler.answer, tls=tls)
    url, port = server.url, server.port
    if float(away_ms):
        url = url.replace(f":{port}", f":{Distance(port, float(away_ms) / 1000).port}")
    print(url, flush=True)
    sys.stdin.read()
    server.close()
