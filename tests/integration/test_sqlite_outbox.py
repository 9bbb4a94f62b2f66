"""The SQLite outbox shared: by processes, by threads, by a fork, and with SIGKILL."""

from __future__ import annotations

import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from confiture_webhooks.delivery import State
from confiture_webhooks.outbox.sqlite import SqliteOutbox, statement
from contract.made import DEAD, DELIVERED, LEASE, NOW, attempt, delivery, event_id

TESTS = Path(__file__).parents[1]
A_HANG = 50
"""Seconds that only a hang takes."""

CLAIMANT = """
import sys
from pathlib import Path
from contract.made import DELIVERED, LEASE, NOW, attempt
from confiture_webhooks.outbox.sqlite import SqliteOutbox
from confiture_webhooks.outbox.sqlite import statement

outbox = SqliteOutbox(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
while claims := outbox.claim("a", environment="production", now=NOW, lease=LEASE, limit=3):
    for claim in claims:
        print(claim.delivery.id, outbox.record(claim, attempt(), DELIVERED) is not None)
outbox.close()
"""

MAKER = """
import sys
from pathlib import Path
from contract.made import delivery
from confiture_webhooks.outbox.sqlite import SqliteOutbox
from confiture_webhooks.outbox.sqlite import statement

sys.stdin.readline()
outbox = SqliteOutbox(Path(sys.argv[1]))
outbox.release(f"evt_{sys.argv[2]}", [delivery(int(sys.argv[2]))])
outbox.close()
"""

REPORTER = """
import sys
from itertools import count
from pathlib import Path
from contract.made import DELIVERED, LEASE, NOW, attempt, delivery, event_id, intent
from confiture_webhooks.outbox.sqlite import SqliteOutbox
from confiture_webhooks.outbox.sqlite import statement

outbox = SqliteOutbox(Path(sys.argv[1]))
for number in count(int(sys.argv[2])):
    outbox.stage(intent(number))
    print("staged", number, flush=True)
    outbox.release(event_id(number), [delivery(number, "a"), delivery(number, "b")])
    print("released", number, flush=True)
    # None while the lease of a killed one holds: events of a run keep their order.
    for claim in outbox.claim("a", environment="production", now=NOW, lease=LEASE):
        assert outbox.record(claim, attempt(claim.attempts + 1), DELIVERED)
        print("recorded", claim.delivery.id, flush=True)
"""

FORKER = """
import os, sys
from pathlib import Path
from contract.made import delivery, event_id
from confiture_webhooks.outbox.sqlite import SqliteOutbox
from confiture_webhooks.outbox.sqlite import statement

outbox = SqliteOutbox(Path(sys.argv[1]))
outbox.release(event_id(1), [delivery(1)])
child = os.fork()
for number in (2, 3) if child == 0 else (4, 5):
    outbox.release(event_id(number), [delivery(number)])
if child == 0:
    outbox.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
outbox.release(event_id(6), [delivery(6)])
print(len(outbox.deliveries()))
outbox.close()
"""


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python process that runs *script*."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where an outbox can be made."""
    return tmp_path / "outbox" / "webhooks.db"


@pytest.mark.survived("Workers that claim at the same time", "true")
def test_processes_never_claim_one_delivery_twice(path: Path) -> None:
    """Four processes that claim at once share the deliveries: each goes to exactly one."""
    outbox = SqliteOutbox(path)
    for number in range(120):
        outbox.release(event_id(number), [delivery(number)])
    claimants = [start(CLAIMANT, path) for _ in range(4)]
    for claimant in claimants:
        assert claimant.stdout is not None
        assert claimant.stdout.readline() == "ready\n"
    lines = []
    for claimant in claimants:
        assert claimant.stdin is not None
        claimant.stdin.write("\n")
        claimant.stdin.flush()
    for claimant in claimants:
        lines += claimant.communicate(timeout=A_HANG)[0].splitlines()
        assert claimant.returncode == 0
    assert sorted(lines) == sorted(f"dlv_a_{number} True" for number in range(120))
    assert outbox.summary("production").counts == {State.DELIVERED: 120}
    outbox.close()


def test_processes_that_make_the_file_at_once_all_use_it(path: Path) -> None:
    """Eight processes that find no file make one between them, and none is refused."""
    makers = [start(MAKER, path, number) for number in range(8)]
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write("\n")
        maker.stdin.flush()
    for maker in makers:
        maker.communicate(timeout=A_HANG)
        assert maker.returncode == 0
    outbox = SqliteOutbox(path)
    assert len(outbox.deliveries()) == 8
    outbox.close()


def test_threads_share_one_outbox(path: Path) -> None:
    """Threads that claim and record through one outbox deliver everything exactly once."""
    outbox = SqliteOutbox(path)
    for number in range(100):
        outbox.release(event_id(number), [delivery(number)])
    claimed: list[str] = []

    def work() -> None:
        while claims := outbox.claim("a", environment="production", now=NOW, lease=LEASE, limit=2):
            claimed.extend(c.delivery.id for c in claims if outbox.record(c, attempt(), DELIVERED))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(A_HANG)
    assert sorted(claimed) == sorted(f"dlv_a_{number}" for number in range(100))
    outbox.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_and_its_parent_both_go_on(path: Path) -> None:
    """After a fork, child and parent release through the outbox opened before it."""
    output, _ = start(FORKER, path).communicate(timeout=A_HANG)
    assert output == "6\n"
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


@pytest.mark.survived("SIGKILL of a process that writes the outbox file, ten times", "kept")
def test_a_killed_process_loses_nothing_that_was_confirmed(path: Path) -> None:
    """Killed at random instants, ten times: all that a call returned for is in a sound file."""
    chance = random.Random()  # noqa: S311  instants, not secrets
    lines: list[str] = []
    for round_ in range(10):
        with start(REPORTER, path, round_ * 100_000) as reporter:
            assert reporter.stdout is not None
            lines.append(reporter.stdout.readline())
            time.sleep(chance.uniform(0, 0.1))
            reporter.send_signal(signal.SIGKILL)
            lines += reporter.stdout.readlines()  # communicate() would skip what is buffered
    said = [line.split() for line in lines if line.endswith("\n")]
    released = {f"dlv_{e}_{n}" for what, n in said if what == "released" for e in "ab"}
    staged = {event_id(int(n)) for what, n in said if what == "staged"}
    recorded = {name for what, name in said if what == "recorded"}
    assert len(staged) >= 10
    outbox = SqliteOutbox(path)
    rows = {row.delivery.id: row for row in outbox.deliveries(limit=10**6)}
    assert released <= rows.keys()
    assert staged <= {i.event_id for i in outbox.intents()} | {
        row.delivery.event_id for row in rows.values()
    }
    assert {rows[name].state for name in recorded} <= {State.DELIVERED}
    # Released whole or not at all, and counted right.
    assert len([name for name in rows if name.startswith("dlv_a")]) * 2 == len(rows)
    assert sum(outbox.summary("production").counts.values()) == len(rows)
    outbox.close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_what_must_not_be_lost_is_on_the_disk_when_it_returns(path: Path) -> None:
    """A release and a redelivery are synced at their commit; claims and records need not be.

    A power cut that undoes a record sends the event again, with the same id.
    """
    outbox = SqliteOutbox(path)
    connection = outbox._store._connection

    def level() -> int:
        return int(connection.execute("PRAGMA synchronous").fetchone()[0])

    full, normal = 2, 1
    outbox.release(event_id(1), [delivery(1)])
    assert level() == full
    [claim] = outbox.claim("a", environment="production", now=NOW, lease=LEASE)
    assert level() == normal
    outbox.record(claim, attempt(), DEAD)
    assert level() == normal
    assert outbox.redeliver(claim.delivery.id, now=NOW)
    assert level() == full
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    outbox.close()


HOT = (
    "waiting",
    "make_ready",
    "look",
    "look_elsewhere",
    "lease",
    "leased",
    "hold",
    "add_attempt",
    "move",
    "give_back",
    "redeliver",
    "discard",
    "attempts",
    "newest_surplus",
    "prune",
    "undelivered",
    "list id = :id",
)


@pytest.mark.parametrize("name", HOT)
def test_no_statement_looks_through_all_deliveries(path: Path, name: str) -> None:
    """Each statement that a worker repeats finds its rows by an index, or sorts a few."""
    outbox = SqliteOutbox(path)
    text = statement(name)
    values = dict.fromkeys(re.findall(r":(\w+)", text), 1)
    plan = outbox._store._connection.execute(f"EXPLAIN QUERY PLAN {text}", values)
    steps = [row["detail"] for row in plan]
    outbox.close()
    assert steps
    for step in steps:
        is_few = re.search(r"SCAN (runs|front|head|CONSTANT ROW)|SCAN \(subquery", step)
        assert "SCAN" not in step or "USING" in step or is_few, steps
        assert "TEMP B-TREE" not in step or name.startswith(("look", "lease")), steps
