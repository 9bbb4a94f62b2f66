"""The PostgreSQL outbox: cost against what is stored, workers, a long transaction, the COMMIT.

``python postgres_outbox.py [ROWS]``: how many deliveries "many" is, 1,000,000 unless given; a
tenth of that is delivered while a transaction stays open. ``python postgres_outbox.py 0`` leaves
out what needs many.
"""

from __future__ import annotations

import itertools
import multiprocessing
import statistics
import sys
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from harness import Comparison, bench, paired

from confiture_webhooks.delivery import Attempt, Decision, Delivery, Outcome, TraceContext
from confiture_webhooks.event import Direction, EventType, MigrationRef
from confiture_webhooks.outbox import Committed, Intent
from confiture_webhooks.outbox.postgres import PostgresOutbox

FEW = 10
MANY = 1_000_000
LEASE = timedelta(seconds=40)
RUN = 10
"""So many deliveries has a run."""
DELIVERED = Decision(outcome=Outcome.DELIVERED)
BODY = b'{"event_type": "migration_success"}' * 20
TRACEPARENT = f"00-{'a' * 32}-{'b' * 16}-01"
FILL = """
    INSERT INTO confiture_webhooks.deliveries (
        id, event_id, event_type, endpoint, environment, content_type, traceparent,
        correlation_id, created_at, state, due_at, is_ready, wakes_at, finished_at
    )
    SELECT 'dlv_' || %(kind)s || n, 'evt_' || %(kind)s || n, 'migration_success', 'one', '',
           'application/json', %(traceparent)s, md5((n / 10)::text || %(kind)s), %(now)s,
           %(state)s, %(now)s, %(is_ready)s, %(wakes_at)s,
           CASE WHEN %(state)s <> 'pending' THEN %(now)s + n END
    FROM generate_series(1, %(count)s) AS n
"""
BODIES = """
    INSERT INTO confiture_webhooks.bodies
    SELECT seq, %s FROM confiture_webhooks.deliveries ON CONFLICT DO NOTHING
"""


def delivery(number: int, run: int, kind: str = "one") -> Delivery:
    """One to deliver."""
    return Delivery(
        id=f"dlv_{kind}_{number}_{time.monotonic_ns()}",
        event_id=f"evt_{kind}_{number}_{time.monotonic_ns()}",
        event_type=EventType.MIGRATION_SUCCESS,
        endpoint="one",
        body=BODY,
        content_type="application/json",
        trace=TraceContext(traceparent=TRACEPARENT),
        correlation_id=f"{run:032x}",
        created_at=datetime.now(UTC),
    )


def staged(number: int) -> Intent:
    """A migration that is about to commit, with its end."""
    now = datetime.now(UTC)
    success = Committed(started_at=now, ended_at=now, duration_s=1.5, rows_affected=None)
    return Intent(
        event_id=f"evt_{number}_{time.monotonic_ns()}",
        direction=Direction.UP,
        migration=MigrationRef(version=f"{number:03}", slug="add_table"),
        environment="production",
        ledger_table="public.tb_confiture",
        database_host="localhost",
        database_name="shop",
        traceparent=TRACEPARENT,
        tracestate=None,
        correlation_id="a" * 32,
        staged_at=now,
        committed=success,
    )


def attempt() -> Attempt:
    """One that was accepted."""
    return Attempt(number=1, started_at=datetime.now(UTC), duration=timedelta(), status_code=200)


def fill(dsn: str, shares: dict[str, int]) -> None:
    """Store so many deliveries of each kind: delivered, dead_letter, waiting, ready."""
    now = int(time.time() * 1e6)
    with psycopg.connect(dsn, autocommit=True) as connection:
        for kind, count in shares.items():
            values = {
                "kind": kind,
                "count": count,
                "now": now,
                "traceparent": TRACEPARENT,
                "state": kind if kind in ("delivered", "dead_letter") else "pending",
                "is_ready": int(kind == "ready"),
                "wakes_at": now + 86_400_000_000 if kind == "waiting" else None,
            }
            connection.execute(FILL, values)
        connection.execute(BODIES, (BODY,))
        connection.execute("VACUUM ANALYZE")


def against_stored(few: str, many: str, count: int) -> Comparison:
    """Claim and record one delivery, with many stored and with few."""

    def cost(outbox: PostgresOutbox) -> float:
        times = []
        for number in range(60):
            one = delivery(number, number)
            outbox.release(one.event_id, [one])
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


def work(dsn: str, send_s: float, start: Any, ends: Any = None) -> None:
    """Deliver everything, each attempt taking *send_s*; when each claim was over."""
    with closing(PostgresOutbox(dsn)) as outbox:
        start.wait()
        times: list[tuple[float, int]] = []
        while True:
            claims = outbox.claim(
                "one", environment=None, now=datetime.now(UTC), lease=LEASE, limit=RUN
            )
            for claim in claims:
                time.sleep(send_s)
                outbox.record(claim, attempt(), DELIVERED)
            times.append((time.monotonic(), len(claims)))
            due_at = None if claims else outbox.next_due_at("one", None)
            if not claims and (due_at is None or due_at > datetime.now(UTC)):
                break
        if ends is not None:
            ends.put(times)


def worked(dsn: str, workers: int, send_s: float, ends: Any = None) -> float:
    """How long so many worker processes take for what there is."""
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(workers + 1)
    processes = [
        context.Process(target=work, args=(dsn, send_s, start, ends)) for _ in range(workers)
    ]
    for process in processes:
        process.start()
    start.wait()
    started = time.perf_counter()
    if ends is None:
        for process in processes:
            process.join()
    return time.perf_counter() - started


def two_workers(dsn: str, count: int = 300, send_s: float = 0.01) -> Comparison:
    """Deliveries a second of two worker processes, against one; a send takes 10 ms."""

    def rate(workers: int) -> float:
        with closing(PostgresOutbox(dsn)) as outbox:
            for number in range(count):
                one = delivery(number, number // RUN)
                outbox.release(one.event_id, [one])
        return count / worked(dsn, workers, send_s)

    return paired(
        "deliveries a second, two workers against one",
        lambda: rate(2),
        lambda: rate(1),
        rounds=5,
        unit="1/s",
        target="at least 1.8 x",
    )


def under_a_long_transaction(dsn: str, count: int) -> None:
    """Two workers deliver *count* while a transaction keeps every dead row alive."""
    fill(dsn, {"ready": count})
    size = "SELECT pg_total_relation_size('confiture_webhooks.deliveries') / 1e6"
    ends = multiprocessing.get_context("spawn").Queue()
    with psycopg.connect(dsn) as held, psycopg.connect(dsn, autocommit=True) as admin:
        held.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        held.execute("SELECT count(*) FROM confiture_webhooks.outbox_version")
        before = admin.execute(size).fetchone()
        worked(dsn, 2, 0.0, ends)
        times = sorted(one for _ in range(2) for one in ends.get(timeout=3600))
        during = admin.execute(size).fetchone()
        held.rollback()
        with closing(PostgresOutbox(dsn)) as outbox:
            outbox.prune(before=datetime.now(UTC) + timedelta(days=1), keep=0)
        admin.execute("VACUUM confiture_webhooks.deliveries")
        fill(dsn, {"again": count})
        after = admin.execute(size).fetchone()
    done, marks = 0, [times[0][0]]
    for at, number in times:
        done += number
        if done >= count * len(marks) / 10:
            marks.append(at)
    rates = [count / 10 / (b - a) for a, b in itertools.pairwise(marks)]
    assert before
    assert during
    assert after
    print(
        f"{count:,} deliveries by two workers while a transaction is open: the last tenth "
        f"{rates[-1]:.0f}/s, the first {rates[0]:.0f}/s, ratio {rates[-1] / rates[0]:.2f}; "
        f"target: at least 0.7. Table and indexes: {before[0]:.0f} MB before, {during[0]:.0f} MB "
        f"at the end, {after[0]:.0f} MB when pruned, vacuumed and filled with as many again"
    )


def in_the_transaction(dsn: str) -> Comparison:
    """From the last statement to the COMMIT: what recording the success adds."""
    with closing(PostgresOutbox(dsn)) as outbox, psycopg.connect(dsn) as connection:
        lent = outbox.over(connection)
        assert lent is not None

        def ended(*, is_recorded: bool) -> float:
            times = []
            for number in range(50):
                intent = staged(number)
                lent.stage(intent)
                connection.execute("SELECT 1")
                started = time.perf_counter()
                if is_recorded:
                    lent.stage_committed(intent)
                times.append((time.perf_counter() - started) * 1000)
                connection.commit()
                lent.release(intent.event_id, [delivery(number, number)])
            return statistics.median(times)

        return paired(
            "added before the COMMIT by the event of the success, for any number of endpoints",
            lambda: ended(is_recorded=True),
            lambda: max(ended(is_recorded=False), 1e-4),
            rounds=10,
            unit="ms",
            target="difference at most 1 ms",
        )


def main() -> None:
    """All of it."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else MANY
    with bench() as project:
        few = project.fresh_database()
        PostgresOutbox(few).close()
        print(in_the_transaction(few).line(), flush=True)
        print(two_workers(few).line(), flush=True)
        if not count:
            return
        many, long = project.fresh_database(), project.fresh_database()
        shares = {"delivered": count // 2, "dead_letter": count // 4, "waiting": count // 4}
        for dsn in (many, long):
            PostgresOutbox(dsn).close()
        fill(few, {"delivered": FEW})
        fill(many, shares)
        with psycopg.connect(few) as connection:
            connection.execute("DELETE FROM confiture_webhooks.deliveries WHERE state = 'pending'")
        print(against_stored(few, many, count).line(), flush=True)
        with closing(PostgresOutbox(many)) as outbox:
            started = time.perf_counter()
            outbox.summary("production")
            print(f"summary of {count:,} stored: {time.perf_counter() - started:.2f} s")
        under_a_long_transaction(long, count // 10)


if __name__ == "__main__":
    main()
