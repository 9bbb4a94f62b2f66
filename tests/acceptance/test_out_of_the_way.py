"""G3 on the real command, asked of the server: a receiver that hangs holds nothing."""

from __future__ import annotations

import time
from typing import Any

import psycopg
import pytest

from confiture_webhooks.receiver import LocalReceiver

BOUND_S = 60
LOCKS = """
    SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
    WHERE locktype = 'advisory' AND datname = current_database()
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
