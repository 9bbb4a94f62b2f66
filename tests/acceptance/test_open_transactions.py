"""Sessions as users set them up: short idle time-outs, other date styles, servers that go away."""

from __future__ import annotations

import time
from typing import Any

import psycopg
import pytest

from passage import Passage

pytestmark = pytest.mark.timeout(120)


def setting(dsn: str, *settings: str) -> None:
    """Make *settings* the database's."""
    with psycopg.connect(dsn, autocommit=True) as admin:
        for one in settings:
            admin.execute(f"ALTER DATABASE {admin.info.dbname} SET {one}")


def configure(project: Any, receiver: Any, outbox: str) -> None:
    endpoint = {"name": "a", "url": receiver.url}
    project.environment_file(webhooks={"outbox": outbox, "endpoints": [endpoint]})


def sent(receiver: Any) -> list[tuple[str, str, str | None]]:
    """Type, version and error of every event."""
    payloads = [request.payload for request in receiver.requests]
    return [
        (one["event_type"], one["migration"]["version"], (one.get("error") or {}).get("type"))
        for one in payloads
    ]


def migrations(project: Any, *versions: str) -> list[tuple[str, str, None]]:
    """Write them; what is sent when they commit."""
    for version in versions:
        project.migration(version, "t", f"CREATE TABLE tb_{version} (a int)", "SELECT 1")
    return [("migration_success", version, None) for version in versions]


@pytest.mark.survived(
    "A time-out of idle transactions, and an outbox or hook files that are slow", "unharmed"
)
@pytest.mark.survived(
    "A transaction may idle for half a second, and the outbox or a hook file is slow",
    "unharmed",
    "kept",
)
def test_a_silent_outbox_costs_no_idle_transaction(project: Any, receiver: Any) -> None:
    """With a short time-out the migrations commit, and memory sends their events."""
    expected = migrations(project, "001", "002", "003")
    setting(project.database_url, "idle_in_transaction_session_timeout = '1500ms'")
    with Passage(project.database_url) as silent:
        silent.is_deaf = True
        configure(project, receiver, f"postgres:{silent.dsn}")
        done = project.confiture("migrate", "up")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sent(receiver) == expected


@pytest.mark.survived(
    "A time-out of idle transactions, and an outbox or hook files that are slow", "unharmed"
)
@pytest.mark.survived(
    "A transaction may idle for half a second, and the outbox or a hook file is slow",
    "unharmed",
    "kept",
)
@pytest.mark.parametrize("outbox", ["sqlite", "postgres"])
def test_slow_hook_files_cost_no_idle_transaction(project: Any, receiver: Any, outbox: str) -> None:
    """A hook file that takes longer to import than a transaction may idle ends no migration."""
    expected = migrations(project, "001", "002")
    setting(project.database_url, "idle_in_transaction_session_timeout = '1500ms'")
    configure(project, receiver, outbox)
    hooks = project.path / "confiture_hooks"
    hooks.mkdir()
    (hooks / "slow.py").write_text(
        "import time\ntime.sleep(2)\nfrom confiture.hooks import register_hook\n"
        "@register_hook('post_execute')\ndef f(c): print('hooked', c.migration_name)\n"
    )
    done = project.confiture("migrate", "up")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sent(receiver) == expected
    assert "hooked 001_t" in done.stderr


def test_an_outbox_that_somebody_else_creates_is_not_waited_for(
    project: Any, receiver: Any
) -> None:
    """A lock that lasts costs the first migration a few seconds, and memory sends the events."""
    expected = migrations(project, "001", "002")
    configure(project, receiver, "postgres")
    with psycopg.connect(project.database_url) as other:
        other.execute("SELECT pg_advisory_xact_lock(%s)", (0x43465748,))
        started = time.monotonic()
        done = project.confiture("migrate", "up")
        assert time.monotonic() - started < 25  # the creation itself waits for 30 s
    assert done.returncode == 0, done.stdout + done.stderr
    assert sent(receiver) == expected


@pytest.mark.survived("Dates and strings are written in the user's way", "kept")
@pytest.mark.parametrize("outbox", ["sqlite", "postgres"])
def test_text_formats_are_the_users(project: Any, receiver: Any, outbox: str) -> None:
    """Whatever dates look like in a session, also from the middle of a run on, all is sent."""
    expected = migrations(project, "001", "002", "004", "005")
    project.migration("003", "style", "SET DateStyle = 'German, DMY'", "SELECT 1")
    expected.insert(2, ("migration_success", "003", None))
    setting(
        project.database_url,
        "DateStyle = 'SQL, DMY'",
        "IntervalStyle = 'sql_standard'",
        "standard_conforming_strings = off",
        "TimeZone = 'Asia/Kathmandu'",
    )
    configure(project, receiver, outbox)
    done = project.confiture("migrate", "up")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sent(receiver) == expected
    assert "failed" not in done.stderr


@pytest.mark.survived("A session that is ended in mid-statement", "true")
@pytest.mark.survived("A session is ended in mid-statement", "kept", "true")
@pytest.mark.parametrize("outbox", ["sqlite", "postgres"])
def test_a_session_that_is_ended_in_mid_statement_failed(
    project: Any, receiver: Any, outbox: str
) -> None:
    """No COMMIT was sent, so its failure is certain, and reported at once with its class."""
    project.migration("001", "t", "SELECT pg_sleep(30)", "SELECT 1")
    configure(project, receiver, outbox)
    process = project.spawn("migrate", "up")
    with psycopg.connect(project.database_url, autocommit=True) as admin:
        ended = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'active' AND "
            "query LIKE '%pg_sleep(30)%' AND pid <> pg_backend_pid() "
            "AND datname = current_database()"
        )
        while admin.execute(ended).fetchone() is None:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
    process.communicate(timeout=60)
    assert sent(receiver) == [("migration_error", "001", "AdminShutdown")]
