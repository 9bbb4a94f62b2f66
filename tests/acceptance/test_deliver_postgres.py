"""``confiture webhooks deliver --watch`` on the PostgreSQL outbox: it is notified, and need not look."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from confiture_webhooks.outbox.postgres import PostgresOutbox
from confiture_webhooks.watch import POLL, POLL_WHEN_WOKEN
from samples import delivery
from usage import ticks_of

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from project import Project

BOUND_S = 30
"""Only a hang would make anything here take this long."""
OURS = "application_name = 'confiture-webhooks' AND datname = current_database()"
RESTED = (
    f"SELECT count(*) = 2 AND bool_and(clock_timestamp() - query_start > '{2 * POLL}') "
    f"FROM pg_stat_activity WHERE {OURS}"
)
"""Whether a worker with two connections has stopped asking every second."""


@pytest.fixture
def admin(project: Project) -> Iterator[psycopg.Connection[Any]]:
    """A connection of the test's own."""
    with psycopg.connect(project.database_url, autocommit=True) as admin:
        yield admin


@pytest.fixture
def worker(project: Project, receiver: Any) -> subprocess.Popen[str]:
    """A worker that watches the outbox of the project's database, which has six endpoints."""
    endpoints = [{"name": name, "url": receiver.url} for name in "abcdef"]
    project.environment_file(webhooks={"outbox": "postgres", "endpoints": endpoints})
    PostgresOutbox(project.database_url).close()
    return project.spawn("webhooks", "deliver", "--watch")


def eventually(is_true: Callable[[], object]) -> None:
    """*is_true* becomes so before a hang would end."""
    deadline = time.monotonic() + BOUND_S
    while not is_true() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert is_true()


def is_so(admin: psycopg.Connection[Any], query: str) -> Callable[[], bool]:
    """Whether *query* is answered with yes."""
    return lambda: admin.execute(query).fetchone() == (True,)


def release(project: Project, number: int) -> None:
    """What a run of another process would leave in the outbox."""
    one = delivery(
        environment="local",
        correlation_id=f"{number:032x}",
        id=f"dlv_{number}",
        event_id=f"evt_{number}",
        endpoint="a",
        created_at=datetime.now(UTC),
    )
    with closing(PostgresOutbox(project.database_url)) as outbox:
        outbox.release(one.event_id, [one])


def test_a_worker_is_notified_of_what_others_release(
    project: Project, receiver: Any, worker: Any, admin: Any
) -> None:
    """It looks once a minute, and delivers at once; also after the server cut its connections."""
    assert POLL_WHEN_WOKEN.total_seconds() > BOUND_S
    eventually(is_so(admin, RESTED))
    for number in range(3):
        release(project, number)
        eventually(lambda number=number: len(receiver.requests) == number + 1)
    admin.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OURS}")
    release(project, 3)
    eventually(lambda: len(receiver.requests) == 4)
    eventually(is_so(admin, RESTED))
    release(project, 4)
    eventually(lambda: len(receiver.requests) == 5)
    worker.terminate()
    assert worker.wait(BOUND_S) == 0
    eventually(is_so(admin, f"SELECT count(*) = 0 FROM pg_stat_activity WHERE {OURS}"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_worker_that_is_notified_costs_next_to_nothing(worker: Any, admin: Any) -> None:
    """With nothing to do it asks the server nothing, and uses a few percent of a core at most."""
    eventually(is_so(admin, RESTED))
    eventually(lambda: ticks_of(worker, seconds=2) < 10)
    worker.terminate()
    assert worker.wait(BOUND_S) == 0


@pytest.mark.survived("A limit of the receiver: 429 or 503 with Retry-After", "kept")
def test_a_limit_rests_the_endpoint_for_every_worker(project: Project, receiver: Any) -> None:
    """What one process was answered, another heeds: it sends nothing until then."""
    receiver.script("/", ["429:300"] * 20)
    endpoint = {"name": "a", "url": f"{receiver.url}/"}
    project.environment_file(webhooks={"outbox": "postgres", "endpoints": [endpoint]})
    for number in range(20):
        release(project, number)
    watching = project.spawn("webhooks", "deliver", "--watch")
    eventually(lambda: receiver.requests)
    with closing(PostgresOutbox(project.database_url)) as outbox:
        eventually(lambda: outbox.statuses("local"))
    done = project.confiture("webhooks", "deliver")
    assert "a: rests until" in done.stdout
    assert len(receiver.requests) <= 4  # one for each lane of the first worker, at most
    watching.terminate()
    assert watching.wait(BOUND_S) == 0
