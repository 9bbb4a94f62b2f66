"""An outbox that breaks costs the migration nothing, and the receiver gets every event all the same."""

from __future__ import annotations

import re
import secrets
import sqlite3
import time
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from functools import partial
from resource import RLIMIT_FSIZE, setrlimit
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

import forked
from confiture_webhooks.outbox.sqlite import SqliteOutbox
from contract.made import filled
from crashing import outbox_of
from project import Project

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(120)

MIGRATIONS = 8
NOWHERE = "/proc/nowhere"
"""Where nothing can be made, not even by root."""
A_WAL_OF = 64 * 512
"""The bytes that the log of the outbox may have: it is full after a few migrations."""


def garbage(path: Path, _: ExitStack) -> None:
    """What is no database."""
    path.parent.mkdir(mode=0o700)
    path.write_bytes(b"not a database" * 1000)


def locked(path: Path, stack: ExitStack) -> None:
    """A file that another process keeps locked."""
    filled(path, count=0)
    other = stack.enter_context(closing(sqlite3.connect(path, isolation_level=None)))
    other.execute("BEGIN EXCLUSIVE")


def newer(path: Path, _: ExitStack) -> None:
    """A file that a later version wrote."""
    filled(path, count=0)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


def triggered(path: Path, _: ExitStack) -> None:
    """A file with a trigger of somebody's, which keeps deliveries out without an error."""
    filled(path, count=0)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "CREATE TRIGGER mine BEFORE INSERT ON deliveries BEGIN SELECT RAISE(IGNORE); END"
        )


def renamed(path: Path, _: ExitStack) -> None:
    """A file with a column that somebody has renamed."""
    filled(path, count=0)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE deliveries RENAME COLUMN is_ready TO other")


def no_directory(path: Path, _: ExitStack) -> None:
    """A project that takes no directory; nor does the user's state."""
    path.parent.touch()


def full(path: Path, _: ExitStack) -> None:
    """A sound file; what it may grow by is limited where the command is started."""
    filled(path, count=0)


KEEP_OUT = """
CREATE FUNCTION {0}.keep_out() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER mine BEFORE UPDATE ON {0}.deliveries
FOR EACH ROW EXECUTE FUNCTION {0}.keep_out()"""
"""A trigger of somebody's, which drops each change of a delivery without an error."""


def run(project: Any, *, limit: int | None = None, **env: str) -> tuple[int, str, str]:
    """Exit code, stdout without times, and stderr of ``migrate up``; no file exceeds *limit* bytes."""
    limits = (limit, limit)
    limited = {"preexec_fn": partial(setrlimit, RLIMIT_FSIZE, limits)} if limit else {}
    options = {"cwd": project.path, "env": project.environ(env), **limited}
    done = forked.run(["migrate", "up"], timeout=110, **options)
    stdout = re.sub(r"\d+(\.\d+)? ?m?s\b", "T", done.stdout)
    return done.returncode, stdout, done.stderr


def with_migrations(project: Project) -> Project:
    """*project* with several migrations."""
    for number in range(MIGRATIONS):
        project.migration(
            f"{number:03}",
            "a",
            up=f"CREATE TABLE a_{number} (id int)",
            down=f"DROP TABLE a_{number}",
        )
    return project


@pytest.fixture
def many(project: Project) -> Project:
    """A project with several migrations."""
    return with_migrations(project)


@pytest.fixture(scope="module")
def alone(postgres: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str]]:
    """Exit code and stdout of Confiture alone on those migrations, in a fresh database."""
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        name = f"alone_{secrets.token_hex(6)}"
        admin.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        project = Project(tmp_path_factory.mktemp("alone") / "project", postgres.dsn(name))
        yield run(with_migrations(project), CONFITURE_WEBHOOKS="off")[:2]
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.survived(
    "A file that is locked, damaged, read-only or cannot be created", "unharmed", "kept", "said"
)
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (garbage, "the file is damaged"),
        (locked, "locked by another process"),
        (newer, "written by a newer confiture-webhooks"),
        (triggered, "somebody has put triggers in it: mine. Drop them, or name"),
        (renamed, "Undo what was changed in it, or name another file"),
        (no_directory, "it cannot be opened or made"),
        (full, "outbox"),
    ],
)
def test_a_broken_outbox_costs_the_migration_nothing(
    many: Any, receiver: Any, alone: Any, fault: Any, reason: str
) -> None:
    """Result, stdout and exit code are Confiture's own; every event arrives; the reason is said."""
    path = outbox_of(many)
    limit = A_WAL_OF if fault is full else None
    with ExitStack() as stack:
        fault(path, stack)
        before = path.read_bytes() if path.exists() else b""
        env = {"CONFITURE_WEBHOOK_URL": receiver.url, "XDG_STATE_HOME": NOWHERE}
        code, stdout, stderr = run(many, limit=limit, **env)
        assert (code, stdout) == alone
        assert reason in stderr
        assert "Traceback" not in stderr
        versions = {request.payload["migration"]["version"] for request in receiver.requests}
        kinds = {request.payload["event_type"] for request in receiver.requests}
        assert (len(versions), kinds) == (MIGRATIONS, {"migration_success"})
        if fault is newer:
            assert path.read_bytes() == before
    if fault is garbage:
        (aside,) = path.parent.glob("webhooks.db.corrupt-*")
        assert aside.read_bytes() == before
    if fault is full:
        with closing(SqliteOutbox(path)) as outbox:
            assert {row.state.value for row in outbox.deliveries()} <= {"delivered", "in_flight"}


@pytest.mark.survived(
    "A PostgreSQL outbox whose tables somebody has changed, or put a trigger on",
    "unharmed",
    "kept",
    "said",
)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("ALTER TABLE {0}.deliveries RENAME COLUMN is_ready TO other", "deliveries.is_ready. Undo"),
        ("ALTER TABLE {0}.intents RENAME COLUMN intent TO other", "intents.intent. Undo that"),
        (KEEP_OUT, "deliveries (trigger mine). Undo that"),
    ],
)
def test_a_changed_postgres_outbox_costs_the_migration_nothing(
    many: Any, receiver: Any, alone: Any, change: str, reason: str
) -> None:
    """Result, stdout and exit code are Confiture's own; every event arrives; the reason is said."""
    env = {"CONFITURE_WEBHOOK_URL": receiver.url, "CONFITURE_WEBHOOK_OUTBOX": "postgres"}
    assert many.confiture("webhooks", "outbox", "init", env=env).returncode == 0
    with psycopg.connect(many.database_url, autocommit=True) as admin:
        admin.execute(change.format("confiture_webhooks"))
    code, stdout, stderr = run(many, **env)
    assert (code, stdout) == alone
    assert reason in stderr
    assert "Traceback" not in stderr
    reported = [request.payload["migration"]["version"] for request in receiver.requests]
    assert (len(reported), len(set(reported))) == (MIGRATIONS, MIGRATIONS)


@pytest.mark.parametrize("log", ["off", "json", "console"])
def test_a_damaged_file_is_said_once_whatever_is_logged(
    project: Any, receiver: Any, log: str
) -> None:
    """Also without log lines: what the file held is not sent."""
    path = outbox_of(project)
    garbage(path, ExitStack())
    project.migration("001", "a", up="SELECT 1", down="SELECT 1")
    env = {"CONFITURE_WEBHOOK_URL": receiver.url, "CONFITURE_WEBHOOK_LOG": log}
    code, _, stderr = run(project, **env)
    (aside,) = path.parent.glob("webhooks.db.corrupt-*")
    assert code == 0
    assert stderr.count(f"It is kept as {aside.name}") == 1


def test_what_a_locked_file_kept_out_is_in_it_in_the_end(project: Any, receiver: Any) -> None:
    """Locked when the migration began and free when the run ends: nothing is lost."""
    project.migration("000", "first", up="SELECT 1", down="SELECT 1")
    failing = {"name": "a", "url": "http://127.0.0.1:9/", "retry": {"schedule": [600]}}
    project.environment_file(webhooks={"endpoints": [failing], "flush_timeout": 0})
    assert project.confiture("migrate", "up").returncode == 0
    project.migration("001", "a", up="CREATE TABLE a (id int)", down="DROP TABLE a")
    project.migration("002", "waits", up="SELECT pg_advisory_xact_lock(7)", down="SELECT 1")
    project.environment_file(webhooks={"endpoints": [failing]})
    with closing(sqlite3.connect(outbox_of(project), isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with psycopg.connect(project.database_url, autocommit=True) as watch:
            watch.execute("SELECT pg_advisory_lock(7)")
            running = project.spawn("migrate", "up")
            while watch.execute("SELECT to_regclass('a')").fetchone() == (None,):
                assert running.poll() is None
                time.sleep(0.02)
            holder.execute("ROLLBACK")
    _, stderr = running.communicate(timeout=110)
    assert running.returncode == 0
    assert "locked by another process" in stderr
    assert "Each is kept" in stderr
    project.environment_file(webhooks={"endpoints": [{"name": "a", "url": receiver.url}]})
    assert project.confiture("webhooks", "redeliver", "--pending", "--yes").returncode == 0
    assert project.confiture("webhooks", "deliver").returncode == 0
    reported = [request.payload["migration"]["version"] for request in receiver.requests]
    assert sorted(reported) == ["000", "001", "002"]


@pytest.mark.survived("Two runs at the same time", "true")
def test_two_runs_at_once_report_each_migration_once(many: Any, receiver: Any) -> None:
    """Of two ``migrate up`` at the same time one migrates: every event once."""
    env = {"CONFITURE_WEBHOOK_URL": receiver.url}
    running = [many.spawn("migrate", "up", env=env) for _ in range(2)]
    for process in running:
        _, stderr = process.communicate(timeout=110)
        assert process.returncode == 0, stderr
    reported = [request.payload["migration"]["version"] for request in receiver.requests]
    assert sorted(reported) == [f"{number:03}" for number in range(MIGRATIONS)]
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == MIGRATIONS


_SHIFTED = """
import datetime

class Shifted(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(hours={hours})

from importlib import import_module

for name in ("run.sending", "run.run", "run.migration", "run.settling", "worker.worker", "worker.sender"):
    module = import_module(f"confiture_webhooks.{{name}}")
    assert module.datetime
    module.datetime = Shifted
"""


@pytest.mark.survived("A clock that jumps by an hour", "kept", "true")
@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_jumps_an_hour_loses_nothing(project: Any, receiver: Any, hours: int) -> None:
    """What a run left while the clock was an hour off goes out when it is right again."""
    planted = project.path.with_name("planted")
    planted.mkdir()
    (planted / "sitecustomize.py").write_text(_SHIFTED.format(hours=hours), encoding="utf-8")
    project.environment_file(
        webhooks={"flush_timeout": 0, "endpoints": [{"name": "a", "url": "http://127.0.0.1:9/"}]}
    )
    project.migration("001", "a", up="CREATE TABLE a (id int)", down="DROP TABLE a")
    done = project.confiture("migrate", "up", env={"PYTHONPATH": str(planted)})
    assert done.returncode == 0, done.stderr
    with closing(SqliteOutbox(outbox_of(project))) as outbox:
        (left,) = outbox.deliveries()
    off = left.delivery.created_at - datetime.now(UTC)
    assert abs(off - timedelta(hours=hours)) < timedelta(minutes=10)
    project.environment_file(webhooks={"endpoints": [{"name": "a", "url": receiver.url}]})
    deliver = project.confiture("webhooks", "deliver")
    if not receiver.requests:
        # An attempt was made an hour ahead, and its retry is due then: redeliver does not wait.
        assert hours == 1
        assert "1 left for later" in deliver.stdout
        with closing(SqliteOutbox(outbox_of(project))) as outbox:
            (row,) = outbox.deliveries()
        assert row.state.value in ("pending", "in_flight")
        env = {"PYTHONPATH": str(planted)}
        until = time.monotonic() + 120  # its retry is due then, or the run's lease is over
        while not receiver.requests:
            assert time.monotonic() < until
            project.confiture("webhooks", "deliver", env=env)
            time.sleep(1)
    assert [request.payload["event_type"] for request in receiver.requests] == ["migration_success"]
