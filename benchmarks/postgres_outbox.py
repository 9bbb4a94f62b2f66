"""The PostgreSQL outbox: cost against what is stored, two workers against one, and in the COMMIT.

``python postgres_outbox.py [ROWS]``: how many deliveries "many" is, 1,000,000 unless told.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta

import psycopg
from harness import Comparison, bench, paired
from pgmq import PGMQueue

from confiture_webhooks.outbox.postgres import PostgresOutbox
from confiture_webhooks.delivery import Attempt, Decision, Delivery, Outcome, TraceContext
from confiture_webhooks.event import EventType

FEW = 10
MANY = 1_000_000
LEASE = timedelta(seconds=40)
ENDPOINTS = ("one", "two", "three", "four")
DELIVERED = Decision(outcome=Outcome.DELIVERED)
BODY = b'{"event_type": "migration_success"}' * 20
FILL = """
    WITH numbers AS (
        SELECT n, %(kind)s || n AS id FROM generate_series(1, %(count)s) AS n
    ), sent AS (
        INSERT INTO pgmq.{table} (msg_id, vt, message, headers) {overriding}
        SELECT %(base)s + n, %(vt)s, jsonb_build_object('delivery', id),
               jsonb_build_object('x-pgmq-group', jsonb_build_array('one', NULL)::text)
        FROM numbers
    )
    INSERT INTO confiture_webhooks.deliveries (
        seq, id, event_id, event_type, endpoint, content_type, traceparent, correlation_id,
        created_at, body, due_at, outcome, finished_at
    )
    SELECT %(base)s + n, id, id, 'migration_success', 'one', 'application/json', '', '', now(),
           %(body)s, %(vt)s, %(outcome)s, CASE WHEN %(outcome)s::text IS NOT NULL THEN now() END
    FROM numbers
"""


def delivery(number: int, endpoint: str = "one") -> Delivery:
    """One to make."""
    return Delivery(
        id=f"dlv_{endpoint}_{number}_{time.monotonic_ns()}",
        event_id=f"evt_{number}",
        event_type=EventType.MIGRATION_SUCCESS,
        endpoint=endpoint,
        body=BODY,
        content_type="application/json",
        trace=TraceContext(traceparent=f"00-{'a' * 32}-{'b' * 16}-01"),
        correlation_id="a" * 32,
        created_at=datetime.now(UTC),
    )


def attempt() -> Attempt:
    """One that was accepted."""
    return Attempt(number=1, started_at=datetime.now(UTC), duration=timedelta(), status_code=200)


def fill(dsn: str, count: int) -> None:
    """Store *count* deliveries: half delivered, a quarter dead, a quarter waiting for a retry."""
    later = datetime.now(UTC) + timedelta(days=1)
    shares = (
        ("delivered", "a", count // 2, 1_000_000_000),
        ("dead_letter", "a", count // 4, 2_000_000_000),
        (None, "q", count - count // 2 - count // 4, 3_000_000_000),
    )
    with psycopg.connect(dsn, autocommit=True) as connection:
        for outcome, table, share, base in shares:
            statement = FILL.format(
                table=f"{table}_confiture_webhooks",
                overriding="OVERRIDING SYSTEM VALUE" if table == "q" else "",
            )
            values = {
                "kind": outcome or "waiting",
                "count": share,
                "base": base,
                "vt": later,
                "body": BODY,
                "outcome": outcome,
            }
            connection.execute(statement, values)  # type: ignore[arg-type]
        connection.execute("VACUUM ANALYZE")


def against_stored(few: str, many: str, count: int) -> Comparison:
    """Claim and record one delivery, with many stored and with few."""

    def cost(outbox: PostgresOutbox) -> float:
        times = []
        for number in range(60):
            one = delivery(number)
            outbox.release(one.id, [one])
            started = time.perf_counter()
            [claim] = outbox.claim("one", environment=None, now=datetime.now(UTC), lease=LEASE)
            assert outbox.record(claim, attempt(), DELIVERED)
            times.append((time.perf_counter() - started) * 1000)
        return statistics.median(times)

    with closing(PostgresOutbox(few)) as small, closing(PostgresOutbox(many)) as large:
        return paired(
            f"claim and record with {count:,} stored, against {FEW}",
            lambda: cost(large),
            lambda: cost(small),
            rounds=10,
            unit="ms",
            target="at most 1.2 x",
        )


def work(dsn: str, endpoints: tuple[str, ...], send_s: float, start: object) -> None:
    """Deliver everything, each attempt taking *send_s*, as a worker's lane does."""
    with closing(PostgresOutbox(dsn)) as outbox:
        start.wait()  # type: ignore[attr-defined]
        left = set(endpoints)
        while left:
            for endpoint in sorted(left):
                claims = outbox.claim(
                    endpoint, environment=None, now=datetime.now(UTC), lease=LEASE, limit=5
                )
                due_at = None if claims else outbox.next_due_at(endpoint, None)
                if not claims and (due_at is None or due_at > datetime.now(UTC) + LEASE):
                    left.discard(endpoint)
                for claim in claims:
                    time.sleep(send_s)
                    outbox.record(claim, attempt(), DELIVERED)


def two_workers(dsn: str, count: int = 300, send_s: float = 0.01) -> Comparison:
    """Deliveries a second of two worker processes, against one; a send takes 10 ms."""

    def rate(workers: int) -> float:
        with closing(PostgresOutbox(dsn)) as outbox:
            for number in range(count):
                one = delivery(number, ENDPOINTS[number % len(ENDPOINTS)])
                outbox.release(one.id, [one])
        context = multiprocessing.get_context("spawn")
        start = context.Barrier(workers + 1)
        processes = [
            context.Process(target=work, args=(dsn, ENDPOINTS, send_s, start))
            for _ in range(workers)
        ]
        for process in processes:
            process.start()
        start.wait()
        started = time.perf_counter()
        for process in processes:
            process.join()
        return count / (time.perf_counter() - started)

    return paired(
        "deliveries a second, two workers against one",
        lambda: rate(2),
        lambda: rate(1),
        rounds=7,
        unit="1/s",
        target="at least 1.8 x",
    )


def in_the_transaction(dsn: str) -> Comparison:
    """From the last statement to the COMMIT: what the release adds."""
    with closing(PostgresOutbox(dsn)) as outbox, psycopg.connect(dsn) as connection:

        def ended(*, is_told: bool) -> float:
            times = []
            for number in range(50):
                connection.execute("SELECT 1")
                one = delivery(number)
                started = time.perf_counter()
                if is_told:
                    assert outbox.release_on(connection, one.id, [one])
                times.append((time.perf_counter() - started) * 1000)
                connection.commit()
            return statistics.median(times)

        return paired(
            "added before the COMMIT by a release for one endpoint",
            lambda: ended(is_told=True),
            lambda: max(ended(is_told=False), 1e-4),
            rounds=10,
            unit="ms",
            target="difference at most 1 ms",
        )


def against_pgmq(dsn: str) -> Comparison:
    """Claim and record, against the same of pgmq's client alone: read and archive."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT pgmq.create('plain')")
    client = PGMQueue(conn_string=dsn, init_extension=False, pool_size=1)
    with closing(PostgresOutbox(dsn)) as outbox:

        def ours() -> float:
            for number in range(100):
                one = delivery(number)
                outbox.release(one.id, [one])
            started = time.perf_counter()
            for _ in range(100):
                [claim] = outbox.claim("one", environment=None, now=datetime.now(UTC), lease=LEASE)
                outbox.record(claim, attempt(), DELIVERED)
            return (time.perf_counter() - started) * 10

        def alone() -> float:
            client.send_batch("plain", [{"body": BODY.decode()}] * 100)
            started = time.perf_counter()
            for _ in range(100):
                message = client.read("plain", vt=40)
                client.archive("plain", message.msg_id)
            return (time.perf_counter() - started) * 10

        try:
            return paired(
                "claim and record, against pgmq's client alone (read and archive)",
                ours,
                alone,
                rounds=10,
                unit="ms",
                target="at most 3 x: order, tokens, attempts and endpoints come on top",
            )
        finally:
            client.close()


def main() -> None:
    """All of it."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else MANY
    with bench() as project:
        few, many = project.fresh_database(), project.fresh_database()
        for dsn, rows in ((few, FEW), (many, count)):
            PostgresOutbox(dsn).close()
            fill(dsn, rows)
        print(against_stored(few, many, count).line())
        with closing(PostgresOutbox(many)) as outbox:
            started = time.perf_counter()
            outbox.summary()
            print(f"summary of {count:,} stored: {time.perf_counter() - started:.2f} s")
        print(two_workers(few).line())
        print(in_the_transaction(few).line())
        print(against_pgmq(few).line())


if __name__ == "__main__":
    main()
