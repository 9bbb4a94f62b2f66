"""G3 on the real command, asked of the server: a receiver that hangs holds nothing."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import psycopg
import pytest

from confiture_webhooks.receiver import LocalReceiver

BOUND_S = 60
LOCKS = """
    SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
    WHERE locktype = 'advisory' AND datname = current_database()
"""
WANTS_DESCRIPTORS = """
import time
from confiture.models.migration import Migration

class Wanting(Migration):
    version, name = "{number:03}", "t{number}"

    def up(self):
        time.sleep(0.3)
        opened = [open("/dev/null") for _ in range(8)]
        self.execute("CREATE TABLE t{number} ()")
        for one in opened:
            one.close()

    def down(self):
        pass
"""


@pytest.mark.survived("A receiver that accepts and never answers", "unharmed")
def test_a_hanging_receiver_holds_neither_lock_nor_migration(project: Any) -> None:
    """While it keeps its first request, later migrations commit and the lock is let go."""
    for number in (1, 2, 3):
        project.migration(
            f"{number:03}",
            f"t{number}",
            up=f"CREATE TABLE t{number} ()",
            down=f"DROP TABLE t{number}",
        )
    with LocalReceiver(answers=["hang"] * 9) as receiver:
        env = {
            "CONFITURE_WEBHOOK_URL": receiver.url,
            "CONFITURE_WEBHOOK_FLUSH_TIMEOUT": str(BOUND_S),
        }
        process = project.spawn("migrate", "up", env=env)
        until = time.monotonic() + BOUND_S
        applied, locks = 0, 1
        with psycopg.connect(project.database_url, autocommit=True) as server:
            while (applied < 3 or locks) and time.monotonic() < until:
                time.sleep(0.05)
                (made,) = server.execute("SELECT to_regclass('tb_confiture')").fetchone() or (None,)
                if made is None:
                    continue
                (applied,) = server.execute("SELECT count(*) FROM tb_confiture").fetchone() or (0,)
                (locks,) = server.execute(LOCKS).fetchone() or (1,)
        assert (applied, locks) == (3, 0)
        assert process.poll() is None  # it waits for the receiver, with nothing in its hands


@pytest.mark.survived("A limit on processes: no thread can be started", "unharmed", "kept", "said")
@pytest.mark.parametrize("outbox", ["sqlite", "postgres"])
def test_without_threads_everything_is_kept_and_said(
    project: Any, receiver: Any, outbox: str
) -> None:
    """The run waits for no flush; a line says what is kept, and the next command sends it."""
    project.migration("001", "t", up="CREATE TABLE t ()", down="DROP TABLE t")
    limit = project.path / "limit"
    limit.mkdir()
    (limit / "sitecustomize.py").write_text(
        "import threading\n"
        'def start(self): raise RuntimeError("can\'t start new thread")\n'
        "threading.Thread.start = start\n"
    )
    env = {
        "CONFITURE_WEBHOOK_URL": receiver.url,
        "CONFITURE_WEBHOOK_OUTBOX": outbox,
        "CONFITURE_WEBHOOK_FLUSH_TIMEOUT": "300",
    }
    done = project.confiture("migrate", "up", env={**env, "PYTHONPATH": str(limit)})
    assert done.returncode == 0
    assert "Successfully applied" in done.stdout
    assert "1 delivery not sent" in done.stderr
    assert "confiture webhooks deliver" in done.stderr
    assert not receiver.requests
    project.confiture("webhooks", "deliver", env=env)
    assert [one.payload["event_type"] for one in receiver.requests] == ["migration_success"]


@pytest.mark.survived("A limit on open files that is nearly reached", "unharmed", "kept")
def test_endpoints_leave_descriptors_to_the_migration(project: Any, receiver: Any) -> None:
    """Two dozen endpoints, and few descriptors: the migrations that need some have them."""
    for number in range(1, 6):
        source = WANTS_DESCRIPTORS.format(number=number)
        project.python_migration(f"{number:03}", f"t{number}", source)
    limit = project.path / "limit"
    limit.mkdir()
    (limit / "sitecustomize.py").write_text(
        "import resource\n"
        "_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (40, hard))\n"
    )
    names = [f"e{number}" for number in range(24)]
    endpoints = [{"name": name, "url": receiver.url} for name in names]
    project.environment_file(webhooks={"endpoints": endpoints, "flush_timeout": 20})
    done = project.confiture("migrate", "up", env={"PYTHONPATH": str(limit)})
    assert done.returncode == 0, done.stderr
    assert "Successfully applied" in done.stdout
    project.confiture("webhooks", "redeliver", "--pending", "--yes")
    found = Counter(one.payload["webhook_target"] for one in receiver.requests)
    assert found == dict.fromkeys(names, 5)
