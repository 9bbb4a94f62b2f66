"""What a claim and a record cost with ten stored deliveries, and with a million.

The million is as after years of use: nine in ten delivered, some dead, the rest waiting for
another endpoint or for a later attempt.
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from deliver import deliveries
from harness import Comparison

from confiture_webhooks.delivery import Attempt, Decision, Outcome
from confiture_webhooks.outbox.sqlite import SqliteOutbox

FEW, MANY = 10, int(os.environ.get("STORED", "1000000"))
ROUNDS, EACH = 15, 100
LEASE = timedelta(seconds=40)

FILL = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)
INSERT INTO deliveries (id, event_id, event_type, endpoint, environment, content_type,
                        traceparent, correlation_id, created_at, state, due_at, is_ready,
                        wakes_at, attempts, tries, finished_at)
SELECT 'old_' || i, 'old_' || i, 'migration_success', CASE i % 20 WHEN 1 THEN 'other' ELSE 'a' END,
       'production', 'application/json', '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01',
       printf('%032x', i / 10), :made,
       CASE WHEN i % 20 = 0 THEN 'dead_letter'
       WHEN i % 20 < 3 THEN 'pending' ELSE 'delivered' END, :made, i % 20 = 1,
       CASE WHEN i % 20 = 2 THEN :later END, 1, 1,
       CASE WHEN i % 20 NOT IN (1, 2) THEN :made END
FROM n
"""


def stored(path: Path, count: int) -> SqliteOutbox:
    """An outbox that holds *count* deliveries of former times."""
    outbox = SqliteOutbox(path)
    now = datetime.now(UTC)
    with closing(sqlite3.connect(path)) as connection, connection:
        at, a_day = int(now.timestamp() * 1e6), 86_400_000_000
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(FILL, {"count": count, "made": at - a_day, "later": at + a_day})
        connection.execute("INSERT INTO bodies SELECT seq, randomblob(400) FROM deliveries")
        connection.execute(
            "INSERT INTO attempts SELECT seq, 1, created_at, 1000, 200, NULL, NULL FROM deliveries"
        )
    return outbox


def one(outbox: SqliteOutbox) -> float:
    """Microseconds of one delivery's claim and record."""
    started = time.perf_counter()
    now = datetime.now(UTC)
    (claim,) = outbox.claim("a", environment="production", now=now, lease=LEASE)
    attempt = Attempt(number=1, started_at=now, duration=timedelta(), status_code=200)
    assert outbox.record(claim, attempt, Decision(outcome=Outcome.DELIVERED))
    return (time.perf_counter() - started) * 1e6


def main() -> Comparison:
    """A million against ten, one delivery of each in turn; a round reports its medians."""
    with tempfile.TemporaryDirectory() as directory:
        many = stored(Path(directory) / "many.db", MANY)
        few = stored(Path(directory) / "few.db", FEW)
        pairs = []
        for number in range(ROUNDS + 1):
            for outbox in (many, few):
                made = deliveries(EACH, endpoint="a", first=number * EACH)
                for delivery in made:
                    outbox.release(delivery.event_id, [delivery])
            each = [(one(many), one(few)) for _ in range(EACH)]
            if number:  # the first is a warm-up
                pairs.append(
                    (statistics.median(a for a, _ in each), statistics.median(b for _, b in each))
                )
        few.close()
        many.close()
    return Comparison(
        f"claim and record with {MANY} stored deliveries against {FEW}",
        "us",
        [a for a, _ in pairs],
        [b for _, b in pairs],
        "ratio at most 1.2",
    )


if __name__ == "__main__":
    print(main().line())
