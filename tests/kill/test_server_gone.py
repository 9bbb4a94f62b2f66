"""The server goes, by force or in the middle of a COMMIT: reported when it can be known, as it was."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from confiture_webhooks.local_postgres import LocalPostgres
from crashing import crash
from project import Project
from vanishing import Vanishing

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def server() -> Iterator[LocalPostgres]:
    """A server that waits for the disk, and that each test starts again after it was killed."""
    with tempfile.TemporaryDirectory() as above:
        Path(above).chmod(0o755)  # where tests run as root, the server does not
        with LocalPostgres(Path(above) / "server", durable=True) as server:
            yield server


def configure(project: Project, receiver: Any, dsn: str) -> None:
    """Have the project use the database at *dsn*, and send to the receiver."""
    project.database_url = dsn
    project.environment_file(webhooks={"endpoints": [{"name": "a", "url": receiver.url}]})


@pytest.fixture
def shop(tmp_path: Path, server: LocalPostgres, receiver: Any) -> Iterator[Project]:
    """A project on that server, in an empty database."""
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute("DROP DATABASE IF EXISTS shop WITH (FORCE)")
        admin.execute("CREATE DATABASE shop")
    project = Project(tmp_path / "project", server.dsn("shop"))
    configure(project, receiver, project.database_url)
    project.migration("001", "a", up="CREATE TABLE a (id int)", down="DROP TABLE a")
    yield project
    project.close()


def kill_and_restart(server: LocalPostgres) -> None:
    """What ``pg_ctl stop -m immediate`` sends, then a start on the same data."""
    os.kill(server.pid, signal.SIGQUIT)
    server.stop()
    server.start()


def kill_in_a_migration(shop: Project, server: LocalPostgres) -> None:
    """Kill the server while the second migration of ``migrate up`` is at work."""
    shop.migration("002", "slow", up="SELECT pg_sleep(30)", down="SELECT 1")
    running = shop.spawn("migrate", "up")
    with psycopg.connect(server.dsn(), autocommit=True) as watch:
        asleep = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        while watch.execute(asleep).fetchone() is None:
            assert running.poll() is None
            time.sleep(0.02)
    os.kill(server.pid, signal.SIGQUIT)
    _, stderr = running.communicate(timeout=60)
    assert running.returncode == 3
    assert "Traceback" not in stderr


def reported(receiver: Any) -> list[tuple[str, str, str | None]]:
    """Event type, version and error type of every webhook, in order."""
    payloads = [request.payload for request in receiver.requests]
    return [
        (p["event_type"], p["migration"]["version"], p.get("error", {}).get("type"))
        for p in payloads
    ]


@pytest.mark.survived("The server is killed in mid-migration", "true")
def test_a_server_killed_in_a_migration(shop: Any, server: Any, receiver: Any) -> None:
    """No COMMIT was sent, so the failure is certain: it is reported at once, and only once."""
    kill_in_a_migration(shop, server)
    expected = [("migration_success", "001", None), ("migration_error", "002", "OperationalError")]
    assert reported(receiver) == expected
    server.stop()
    server.start()
    configure(shop, receiver, server.dsn("shop"))
    assert shop.confiture("webhooks", "deliver").returncode == 0
    assert reported(receiver) == expected


@pytest.mark.survived("The server is killed in mid-migration", "true")
def test_a_server_killed_with_the_outbox_in_it(shop: Any, server: Any, receiver: Any) -> None:
    """The failures are reported at once, and again under the same ids when their outbox is back."""
    kinds = ["migration_success", "migration_error", "run_error"]
    endpoint = {"name": "a", "url": receiver.url, "events": kinds}
    shop.environment_file(webhooks={"outbox": "postgres", "endpoints": [endpoint]})
    kill_in_a_migration(shop, server)
    payloads = [request.payload for request in receiver.requests]
    assert [one["event_type"] for one in payloads] == ["migration_error", "run_error"]
    assert "Interrupted" not in {one["error"]["type"] for one in payloads}
    server.stop()
    server.start()
    for _ in range(2):
        assert shop.confiture("webhooks", "deliver").returncode == 0
    later = {request.headers["webhook-id"]: request.payload for request in receiver.requests}
    for one in payloads:
        later.pop(one["event_id"])
    assert [payload["event_type"] for payload in later.values()] == ["migration_success"]
    assert len(receiver.requests) <= 5


@pytest.mark.survived("The server and the run are killed right after a COMMIT", "kept")
def test_a_server_killed_after_a_commit_that_was_not_reported(
    shop: Any, server: Any, receiver: Any
) -> None:
    """Process and server both killed right after the COMMIT: it is reported as the success it was."""
    crash(shop, "after commit", "migrate", "up")
    kill_and_restart(server)
    configure(shop, receiver, server.dsn("shop"))
    assert shop.confiture("migrate", "up").returncode == 0
    assert reported(receiver) == [("migration_success", "001", None)]


@pytest.mark.survived("The server vanishes while a COMMIT is under way", "kept", "true")
@pytest.mark.parametrize(
    ("arrives", "event"),
    [
        (True, ("migration_success", "001", None)),
        (False, ("migration_error", "001", "Interrupted")),
    ],
)
def test_a_server_that_vanishes_in_mid_commit(
    project: Any,
    receiver: Any,
    arrives: bool,
    event: tuple[str, str, str | None],  # noqa: FBT001
) -> None:
    """Nothing is guessed while it is away; afterwards the ledger says whether the COMMIT arrived."""
    direct = project.database_url
    project.migration("001", "a", up="CREATE TABLE vanishing (id int)", down="SELECT 1")
    with Vanishing(direct, b"CREATE TABLE vanishing", arrives=arrives) as way:
        configure(project, receiver, way.dsn)
        done = project.confiture("migrate", "up")
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert "the database does not say how 001_a ended" in done.stderr
    assert not receiver.requests
    configure(project, receiver, direct)
    assert project.confiture("webhooks", "deliver").returncode == 0
    assert reported(receiver) == [event]


@pytest.mark.survived(
    "Another server of the DSN takes over in the middle of a COMMIT", "kept", "true"
)
@pytest.mark.parametrize("outbox", ["sqlite", "postgres"])
@pytest.mark.parametrize(
    ("arrives", "event"),
    [
        (True, ("migration_success", "001", None)),
        (False, ("migration_error", "001", "OperationalError")),
    ],
)
def test_another_server_that_takes_over_is_asked_at_once(
    project: Any,
    receiver: Any,
    outbox: str,
    arrives: bool,  # noqa: FBT001
    event: tuple[str, str, str | None],
) -> None:
    """If the DSN names several servers, the run asks another one how the migration ended."""
    direct = urlsplit(project.database_url)
    project.migration("001", "a", up="CREATE TABLE vanishing (id int)", down="SELECT 1")
    with Vanishing(project.database_url, b"CREATE TABLE vanishing", arrives=arrives) as way:
        several = way.dsn.replace("?", "?target_session_attrs=read-write&")
        several = several.replace("/" + direct.path[1:], f",127.0.0.1:{direct.port}{direct.path}")
        project.database_url = several
        kinds = ["migration_success", "migration_error"]
        endpoint = {"name": "a", "url": receiver.url, "events": kinds}
        project.environment_file(webhooks={"outbox": outbox, "endpoints": [endpoint]})
        done = project.confiture("migrate", "up")
    assert done.returncode == 3
    assert "webhooks.outbox_failed" not in done.stderr
    assert reported(receiver) == [event]
    assert project.confiture("webhooks", "deliver").returncode == 0
    assert reported(receiver) == [event]


@pytest.mark.survived(
    "A synchronous standby that is away, for a role that waits for none", "unharmed"
)
@pytest.mark.parametrize("commit", ["local", "off"])
def test_a_standby_is_waited_for_only_where_the_role_waits_for_it(
    shop: Any, server: Any, receiver: Any, commit: str
) -> None:
    """Such a role's migrations commit without the standby, and so does all that we write."""
    endpoint = {"name": "a", "url": receiver.url}
    shop.environment_file(webhooks={"outbox": "postgres", "endpoints": [endpoint]})
    with psycopg.connect(server.dsn("shop"), autocommit=True) as admin:
        admin.execute("SET synchronous_commit = local")
        admin.execute(f"ALTER DATABASE shop SET synchronous_commit = '{commit}'")
        admin.execute("ALTER SYSTEM SET synchronous_standby_names = 'away'")
        admin.execute("SELECT pg_reload_conf()")
        try:
            done = shop.confiture("migrate", "up", timeout=30)
        finally:
            admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
            admin.execute("SELECT pg_reload_conf()")
    assert done.returncode == 0
    assert "webhooks.outbox_failed" not in done.stderr
    assert reported(receiver) == [("migration_success", "001", None)]
