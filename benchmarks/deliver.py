"""How fast a full outbox is emptied, every signal exported, against requests alone.

Thousands of deliveries of hundreds of runs wait for one endpoint. ``confiture webhooks deliver``
sends them, with traces, metrics and logs going to a collector in a process of its own. The
alternatives send the same bodies and headers from a process of their own: a loop over one
``requests.Session`` as one writes it, the same with the OpenTelemetry SDK's spans, metrics and logs
to the same collector, and the guide's ``requests.post`` for each event. All
meet the same receiver, which reports the time from the first to the last request.

A ``requests.Session`` looks for proxies, certificates and a netrc before each request. One that is
set not to (``trust_env``) is faster, so it is measured, too; deliver looks once a second.

Twice: a receiver on loopback that answers at once, where all that counts is how much Python
runs for a delivery; and one as they are met, over TLS and five milliseconds away: a round trip
through the relay of ``distance.py``, which a new connection pays three times (TCP, TLS, request).
The latter once more from the PostgreSQL outbox, against a worker that is one table, psycopg and one
``requests.Session`` alone: claim a batch with ``SKIP LOCKED``, send each, mark it.

And a backlog of 20 runs of 10 deliveries for a receiver 50 ms away, which lanes send side by side:
against ``deliver`` with one lane, which sends one after the other, and against a loop.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count as counting
from pathlib import Path

import psycopg
import requests
import trustme
import yaml
from harness import CONFITURE, Comparison, bench, environment
from opentelemetry._logs import SeverityNumber
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from peers import Peer, peer

from confiture_webhooks.delivery import Delivery, TraceContext
from confiture_webhooks.endpoint import Endpoint
from confiture_webhooks.event import EventType
from confiture_webhooks.outbox.postgres import PostgresOutbox
from confiture_webhooks.outbox.sqlite import SqliteOutbox
from confiture_webhooks.transport import prepare

COUNT = int(os.environ.get("DELIVERIES", "3000"))
FAR_COUNT = int(os.environ.get("FAR_DELIVERIES", "1000"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
FAR_MS = 5.0
METRICS = {
    "confiture.webhook.deliveries",
    "confiture.webhook.delivery.duration",
    "confiture.webhook.delivery.lag",
    "confiture.webhook.outbox.size",
    "http.client.request.duration",
}
BLIND = "requests.Session that does not look at its environment"
SIGNALLING = "requests.Session with the same signals"
BATCH = 64
FIRST = counting(0, max(COUNT, FAR_COUNT))
"""No delivery is stored twice."""
SECRET = "a secret of the benchmark"
BODY = (
    b'{"database": {"host": "db.internal", "name": "shop", "schema": "public"}, "direction": "up", '
    b'"event_id": "evt_%08d", "event_type": "migration_success", "execution": {"duration_seconds": '
    b'2.123, "end_time": "2026-01-09T14:23:45.123Z", "rows_affected": 50000, "start_time": '
    b'"2026-01-09T14:23:43.000Z"}, "migration": {"environment": "production", "name": '
    b'"005_add_payment_table", "version": "005"}, "webhook_target": "default"}'
)


def deliveries(
    count: int, *, endpoint: str = "default", first: int = 0, runs: int = 1
) -> list[Delivery]:
    """What *runs* runs of *count* migrations together would have left behind."""
    each, now = count // runs, datetime.now(UTC) - timedelta(minutes=5)
    return [
        Delivery(
            id=f"dlv_{number:032x}",
            event_id=f"evt_{number:08d}",
            event_type=EventType.MIGRATION_SUCCESS,
            endpoint=endpoint,
            body=BODY % number,
            content_type="application/json",
            trace=TraceContext(traceparent=f"00-{number + 1:032x}-{number + 1:016x}-01"),
            correlation_id=f"{first + (number - first) // each + 1:032x}",
            created_at=now,
            migration_version="005",
            migration_name="005_add_payment_table",
            environment="production",
        )
        for number in range(first, first + count)
    ]


def fill(store: Path | str, waiting: list[Delivery]) -> None:
    """An outbox, a file or at a DSN, that holds *waiting*."""
    outbox = SqliteOutbox(store) if isinstance(store, Path) else PostgresOutbox(store)
    for one in waiting:
        outbox.release(one.event_id, [one])
    outbox.close()


@dataclass(frozen=True, slots=True)
class Way:
    """A receiver, how to reach it, and how much is sent to it."""

    name: str
    count: int
    receiver: Peer
    env: Mapping[str, str]
    against: Mapping[str, str]
    """By alternative, what ours should be."""
    dsn: str = ""
    """Of the PostgreSQL outbox; else it is a file."""
    runs: int = 1


REQUESTS = {
    "requests.Session": "ratio at least 0.9",
    BLIND: "none",
    "requests.post": "ratio at least 2",
}
AT_ONCE = dict.fromkeys((*REQUESTS, SIGNALLING), "none")
AT_ONCE["requests.Session"] = "ratio at least 0.7"
TABLE = {"a table and requests.Session": "ratio at least 0.9"}
ONE_LANE = "deliver with `concurrency: 1`"
SIDE_BY_SIDE = {ONE_LANE: "ratio at least 4", "requests.Session": "ratio at least 4"}
"""One after the other."""


@contextmanager
def at_once() -> Iterator[Way]:
    """A receiver on loopback that answers at once."""
    with peer("receiver") as receiver:
        yield Way("that answers at once", COUNT, receiver, {}, AT_ONCE, runs=COUNT // 10)


@contextmanager
def far_away() -> Iterator[Way]:
    """A receiver over TLS, a round trip of FAR_MS away."""
    authority = trustme.CA()
    with tempfile.TemporaryDirectory() as directory:
        identity, bundle = Path(directory) / "identity.pem", Path(directory) / "authority.pem"
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(identity)
        authority.cert_pem.write_to_path(bundle)
        with peer("receiver", away_ms=FAR_MS, identity=identity, authority=bundle) as receiver:
            name = f"over TLS, {FAR_MS:g} ms away"
            env = {"REQUESTS_CA_BUNDLE": str(bundle)}
            yield Way(name, FAR_COUNT, receiver, env, REQUESTS, runs=FAR_COUNT // 10)


@contextmanager
def from_postgres() -> Iterator[Way]:
    """The same receiver, and the outbox in a database."""
    with far_away() as way, bench() as project:
        name = f"{way.name}, from PostgreSQL"
        yield replace(way, name=name, dsn=project.fresh_database(), against=TABLE)


@contextmanager
def many_runs() -> Iterator[Way]:
    """A backlog of 20 runs for a receiver that is far away."""
    with peer("receiver", away_ms=50.0) as receiver:
        yield Way("20 runs of 10, 50 ms away", 200, receiver, {}, SIDE_BY_SIDE, runs=20)


def ours(way: Way, collector: Peer, lanes: int = 4) -> tuple[float, float]:
    """Deliveries a second as the receiver saw them, and seconds of the whole process."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / ".confiture" / "webhooks.db"
        waiting = deliveries(way.count, first=next(FIRST), runs=way.runs)
        fill(way.dsn or file, waiting)
        environments = Path(directory) / "db" / "environments"
        environments.mkdir(parents=True)
        endpoint = {"name": "default", "url": way.receiver.url, "secret": SECRET}
        block = {"webhooks": {"endpoints": [{**endpoint, "concurrency": lanes}]}}
        config = environments / "production.yaml"  # the deliveries' environment
        config.write_text(yaml.safe_dump(block))
        env = {
            **way.env,
            "CONFITURE_WEBHOOK_LOG": "off" if os.environ.get("NO_LINES") else "json",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "CONFITURE_WEBHOOK_OUTBOX": f"postgres:{way.dsn}" if way.dsn else "sqlite",
        }
        started = time.perf_counter()
        done = subprocess.run(
            [str(CONFITURE), "webhooks", "deliver", "--config", str(config)],
            cwd=directory,
            env=environment(env),
            capture_output=True,
            text=True,
            check=False,
        )
        took = time.perf_counter() - started
    reported, exported = way.receiver.reported(), collector.reported()
    is_in_order = reported["is_in_order"] or way.runs > 1
    is_whole = reported["count"] == reported["distinct"] == way.count and is_in_order
    if done.returncode or not is_whole or not is_exported(way.count, exported):
        raise RuntimeError(f"{reported}, {exported}, exit {done.returncode}: {done.stderr[-2000:]}")
    return way.count / reported["seconds"], took


def is_exported(count: int, exported: Mapping[str, Mapping[str, int]]) -> bool:
    """Whether every signal of *count* deliveries arrived, and nothing that is none of theirs."""
    spans = dict(exported["/v1/traces"])
    passes = spans.pop("drain webhook outbox", 0)  # one a minute
    return (
        passes > 0
        and spans == {"deliver webhook default": count, "POST": count}
        and exported["/v1/logs"] == {"webhook.delivered": count}
        and exported["/v1/metrics"].keys() >= METRICS
    )


def alone(way: Way, collector: Peer, kind: str) -> tuple[float, float]:
    """The same for the loop *kind*, in a process of its own."""
    started = time.perf_counter()
    command = [sys.executable, __file__, kind, way.receiver.url, str(way.count), way.dsn]
    env = environment({**way.env, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url})
    subprocess.run(command, env=env, check=True)
    took = time.perf_counter() - started
    collector.reported()
    reported = way.receiver.reported()
    assert reported["count"] == way.count
    return way.count / reported["seconds"], took


def loop(kind: str, url: str, count: int, dsn: str) -> None:
    """The alternatives: the same requests, sent with requests alone."""
    endpoint = Endpoint(name="default", url=url, secrets=(SECRET,))
    with requests.Session() as session:
        post = requests.post if kind == "requests.post" else session.post
        if kind == BLIND:
            session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or True
            session.trust_env = False

        def send(one: Delivery) -> None:
            made = prepare(endpoint, one, attempt=1, at=datetime.now(UTC))
            post(url, data=made.body, headers=dict(made.headers), timeout=10).raise_for_status()

        if dsn:
            work(dsn, send, deliveries(count))
            return
        with signalling(send) if kind == SIGNALLING else nullcontext(send) as deliver:
            for one in deliveries(count):
                deliver(one)


@contextmanager
def signalling(send: Callable[[Delivery], None]) -> Iterator[Callable[[Delivery], None]]:
    """*send* with a span, three metrics and a log line for each delivery, by the SDK alone."""
    resource = Resource.create({"service.name": "loop"})
    tracers = TracerProvider(resource=resource)
    tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    meters = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())], resource)
    loggers = LoggerProvider(resource)
    loggers.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
    RequestsInstrumentor().instrument(tracer_provider=tracers, meter_provider=meters)
    tracer, meter = tracers.get_tracer("loop"), meters.get_meter("loop")
    logger = loggers.get_logger("loop")
    durations = meter.create_histogram("duration", "s")
    lags = meter.create_histogram("lag", "s")
    sent = meter.create_counter("deliveries", "{delivery}")

    def deliver(one: Delivery) -> None:
        owner = {"endpoint": one.endpoint, "environment": "production", "type": one.event_type}
        about = {**owner, "id": one.id, "event": one.event_id, "migration": one.migration_name}
        started = time.time()
        with tracer.start_as_current_span("deliver webhook default", attributes=about):
            send(one)
            outcome = {**owner, "outcome": "delivered"}
            durations.record(time.time() - started, outcome)
            lags.record(time.time() - one.created_at.timestamp(), outcome)
            sent.add(1, outcome)
            logger.emit(
                event_name="webhook.delivered",
                severity_number=SeverityNumber.INFO,
                body=f"default: {one.event_type} delivered",
                attributes={**about, **outcome, "status": 200},
            )

    yield deliver
    for provider in (tracers, meters, loggers):
        provider.shutdown()


def work(dsn: str, send: Callable[[Delivery], None], waiting: list[Delivery]) -> None:
    """A worker as one writes it: it knows a delivery by its number."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS plain")
        connection.execute(
            "CREATE TABLE plain (n bigint PRIMARY KEY, body bytea, leased timestamptz, "
            "is_done boolean NOT NULL DEFAULT false)"
        )
        with connection.cursor() as cursor:
            rows = [(n, one.body) for n, one in enumerate(waiting)]
            cursor.executemany("INSERT INTO plain (n, body) VALUES (%s, %s)", rows)
        while batch := connection.execute(CLAIM, (BATCH,)).fetchall():
            for (number,) in sorted(batch):
                send(waiting[number])
                connection.execute("UPDATE plain SET is_done = true WHERE n = %s", (number,))


CLAIM = """
    UPDATE plain SET leased = now() WHERE n IN (
        SELECT n FROM plain WHERE NOT is_done AND leased IS NULL ORDER BY n LIMIT %s
        FOR UPDATE SKIP LOCKED
    ) RETURNING n
"""


def compare(way: Way, collector: Peer) -> None:
    """Print both comparisons, and what whole processes take."""
    rows = []
    measured = {
        "ours": lambda: ours(way, collector),
        **{kind: partial(alone, way, collector, kind) for kind in way.against},
    }
    if ONE_LANE in measured:
        measured[ONE_LANE] = lambda: ours(way, collector, lanes=1)
    for number in range(ROUNDS + 1):
        names = list(measured)
        shift = number % len(names)
        row = {name: measured[name]() for name in names[shift:] + names[:shift]}
        if number:  # the first is a warm-up
            rows.append(row)
    for name, target in way.against.items():
        line = Comparison(
            f"deliver {way.count} to one endpoint {way.name}, every signal exported, "
            f"against {name}",
            "/s",
            [row["ours"][0] for row in rows],
            [row[name][0] for row in rows],
            target,
        ).line()
        whole = Comparison(
            f"  the whole process, against {name}",
            "s",
            [row["ours"][1] for row in rows],
            [row[name][1] for row in rows],
            "none",
        ).line()
        print(f"{line}\n{whole}", flush=True)


def main() -> None:
    """Print what is measured of either receiver."""
    with peer("collector") as collector:
        for place in (at_once, far_away, from_postgres, many_runs):
            with place() as way:
                compare(way, collector)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        loop(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
    else:
        main()
