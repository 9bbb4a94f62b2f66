"""How fast a full outbox is emptied, every signal exported, against requests alone.

Ten thousand deliveries wait for one endpoint. ``confiture webhooks deliver`` makes them, with
traces, metrics and logs going to a collector in a process of its own. The alternatives send the
same bodies and headers from a process of their own: a loop over one ``requests.Session``, and
the guide's ``requests.post`` for each event. All three meet the same receiver, which tells the
time from the first to the last request.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import requests
from harness import CONFITURE, Comparison, environment
from peers import Peer, peer

from confiture_webhooks.adapters.sqlite import SqliteOutbox
from confiture_webhooks.delivery import Delivery, TraceContext
from confiture_webhooks.endpoint import Endpoint
from confiture_webhooks.event import EventType
from confiture_webhooks.transport import prepare

COUNT = int(os.environ.get("DELIVERIES", "10000"))
ROUNDS = int(os.environ.get("ROUNDS", "5"))
SECRET = "a secret of the benchmark"
BODY = (
    b'{"database": {"host": "db.internal", "name": "shop", "schema": "public"}, "direction": "up", '
    b'"event_id": "evt_%08d", "event_type": "migration_success", "execution": {"duration_seconds": '
    b'2.123, "end_time": "2026-01-09T14:23:45.123Z", "rows_affected": 50000, "start_time": '
    b'"2026-01-09T14:23:43.000Z"}, "migration": {"environment": "production", "name": '
    b'"005_add_payment_table", "version": "005"}, "webhook_target": "default"}'
)


def deliveries(count: int, *, endpoint: str = "default", first: int = 0) -> list[Delivery]:
    """What a run of *count* migrations would have left behind."""
    now = datetime.now(UTC) - timedelta(minutes=5)
    return [
        Delivery(
            id=f"dlv_{number:032x}",
            event_id=f"evt_{number:08d}",
            event_type=EventType.MIGRATION_SUCCESS,
            endpoint=endpoint,
            body=BODY % number,
            content_type="application/json",
            trace=TraceContext(traceparent=f"00-{number + 1:032x}-{number + 1:016x}-01"),
            correlation_id=f"{number + 1:032x}",
            created_at=now,
            migration_version="005",
            migration_name="005_add_payment_table",
            environment="production",
        )
        for number in range(first, first + count)
    ]


def fill(path: Path, waiting: list[Delivery]) -> None:
    """An outbox at *path* that holds *waiting*, released as one."""
    outbox = SqliteOutbox(path)
    outbox.release("evt_all", waiting)
    outbox.close()


def ours(receiver: Peer, collector: Peer) -> tuple[float, float]:
    """Deliveries a second as the receiver saw them, and seconds of the whole process."""
    with tempfile.TemporaryDirectory() as directory:
        fill(Path(directory) / ".confiture" / "webhooks.db", deliveries(COUNT))
        env = {
            "CONFITURE_WEBHOOK_URL": receiver.url,
            "CONFITURE_WEBHOOK_SECRET": SECRET,
            "CONFITURE_ENVIRONMENT": "production",  # the deliveries'
            "CONFITURE_WEBHOOK_LOG": "off" if os.environ.get("NO_LINES") else "json",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        }
        started = time.perf_counter()
        done = subprocess.run(
            [str(CONFITURE), "webhooks", "deliver"],
            cwd=directory,
            env=environment(env),
            capture_output=True,
            text=True,
            check=False,
        )
        took = time.perf_counter() - started
    told, exported = receiver.told(), collector.told()
    if done.returncode or told["count"] != COUNT or not told["is_in_order"]:
        raise RuntimeError(f"{told}, exit {done.returncode}: {done.stderr[-2000:]}")
    # A delivery's span, its attempt's, and the pass; a log record for each delivery.
    wanted = {"/v1/traces": 2 * COUNT + 1, "/v1/logs": COUNT}
    missing = {path: n - exported[path] for path, n in wanted.items() if n != exported[path]}
    if missing:
        print(f"not exported: {missing}", file=sys.stderr)
    return COUNT / told["seconds"], took


def alone(receiver: Peer, kind: str) -> tuple[float, float]:
    """The same for the loop *kind*, in a process of its own."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, __file__, kind, receiver.url, str(COUNT)], env=environment(), check=True
    )
    took = time.perf_counter() - started
    told = receiver.told()
    assert told["count"] == COUNT
    return COUNT / told["seconds"], took


def loop(kind: str, url: str, count: int) -> None:
    """The alternatives: the same requests, sent with requests alone."""
    endpoint = Endpoint(name="default", url=url, secrets=(SECRET,))
    with requests.Session() as session:
        post = session.post if kind == "session" else requests.post
        for one in deliveries(count):
            made = prepare(endpoint, one, attempt=1, at=datetime.now(UTC), user_agent="bench")
            post(url, data=made.body, headers=dict(made.headers), timeout=10).raise_for_status()


def main() -> None:
    """Print both comparisons, and what whole processes take."""
    with peer("receiver") as receiver, peer("collector") as collector:
        rows = []
        for number in range(ROUNDS + 1):
            measured = {
                "ours": lambda: ours(receiver, collector),
                "session": lambda: alone(receiver, "session"),
                "post": lambda: alone(receiver, "post"),
            }
            names = list(measured)
            shift = number % len(names)
            row = {name: measured[name]() for name in names[shift:] + names[:shift]}
            if number:  # the first is a warm-up
                rows.append(row)
    for name, target in (("session", "ratio at least 0.9"), ("post", "ratio at least 2")):
        line = Comparison(
            f"deliver {COUNT} to one endpoint, every signal exported, against requests.{name}",
            "/s",
            [row["ours"][0] for row in rows],
            [row[name][0] for row in rows],
            target,
        ).line()
        whole = Comparison(
            f"  the whole process, against requests.{name}",
            "s",
            [row["ours"][1] for row in rows],
            [row[name][1] for row in rows],
            "none",
        ).line()
        print(f"{line}\n{whole}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        loop(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    else:
        main()
