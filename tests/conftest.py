"""What every ring shares: a PostgreSQL, a database per test, a project, receivers on loopback."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg import sql

from confiture_webhooks import terminal
from confiture_webhooks.local_postgres import LocalPostgres
from often import often
from project import Project

if TYPE_CHECKING:
    from collections.abc import Iterator

    from confiture_webhooks.receiver import LocalReceiver
    from confiture_webhooks.receiver.collector import LocalCollector

TEST_DSN = "CONFITURE_WEBHOOKS_TEST_DSN"
"""Names a server to use, as a URL of a role that may create databases."""
TEST_PG_BIN = "CONFITURE_WEBHOOKS_TEST_PG_BIN"
"""Names a directory with initdb and postgres, to use instead of the wheel's."""

MEMORY = Path("/dev/shm")
ENOUGH_MEMORY = 4 << 30
"""Bytes that are free there: servers, databases and projects of a session are a quarter of that."""

_SCRUBBED_PREFIXES = ("CONFITURE_", "OTEL_", "PG", "XDG_", "CI_", "GITHUB_", "GITLAB_", "RUNNER_")
_SCRUBBED = {
    "BAGGAGE",
    "CI",
    "CORRELATION_ID",
    "CURL_CA_BUNDLE",
    "DATABASE_URL",
    "FORCE_COLOR",
    "NO_COLOR",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TRACEPARENT",
    "TRACESTATE",
}

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, in all that tests start


@pytest.fixture
def capsys(capsys: pytest.CaptureFixture[str]) -> pytest.CaptureFixture[str]:
    """pytest's own, which reads when the writer of standard error has written."""
    read = capsys.readouterr

    def settled() -> Any:
        terminal.settle()
        return read()

    capsys.readouterr = settled  # type: ignore[method-assign]
    return capsys


class Server(Protocol):
    """A PostgreSQL server that tests may create databases on."""

    def dsn(self, database: str = ...) -> str:
        """Return the URL of one of its databases."""


class ExistingServer:
    """The server that CONFITURE_WEBHOOKS_TEST_DSN names."""

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)

    def dsn(self, database: str = "") -> str:
        """Return the given URL with another database's name in it."""
        path = f"/{database}" if database else self._url.path
        return self._url._replace(path=path).geturl()


def _is_scrubbed(name: str) -> bool:
    if name in {TEST_DSN, TEST_PG_BIN}:
        return False
    return (
        name in _SCRUBBED or name.startswith(_SCRUBBED_PREFIXES) or name.lower().endswith("_proxy")
    )


def _use_memory() -> None:
    """Keep temporary files in memory where there is much: a new database is 300 of them.

    If it is mounted ``noexec``, as in many containers, it is not used: tests run programs there.
    """
    is_there = "TMPDIR" not in os.environ and os.access(MEMORY, os.W_OK | os.X_OK)
    is_there = is_there and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC
    if is_there and shutil.disk_usage(MEMORY).free > ENOUGH_MEMORY:
        os.environ["TMPDIR"], tempfile.tempdir = str(MEMORY), None


def pytest_configure() -> None:
    """Notice Ctrl-C also in the background of a shell, and try properties as often as asked."""
    _use_memory()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    settings.register_profile(
        "ours",
        max_examples=often(100),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],  # a busy machine is no fault
    )
    settings.load_profile("ours")


RINGS = ("kill", "docs", "acceptance", "integration", "properties", "contract", "unit")
"""The folders of tests, those with the longest ones first."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the sieges and end with unit tests: no worker is left with a long one at the end."""
    items.sort(key=_when)


def _when(item: pytest.Item) -> tuple[bool, int]:
    ring = item.path.parts[len(Path(__file__).parent.parts)]
    place = RINGS.index(ring) if ring in RINGS else len(RINGS)
    return item.get_closest_marker("slow") is None, place


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty home directory for the whole session."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Nothing of this machine's telemetry, proxies, databases or home reaches a test."""
    for name in filter(_is_scrubbed, list(os.environ)):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """One real PostgreSQL for the session."""
    if url := os.environ.get(TEST_DSN):
        yield ExistingServer(url)
        return
    bin_dir = os.environ.get(TEST_PG_BIN)
    with LocalPostgres(bin_dir=Path(bin_dir) if bin_dir else None) as server:
        hash_the_password_once(server)
        yield server


def hash_the_password_once(server: LocalPostgres) -> None:
    """Let a client log in with one round of SCRAM instead of 4,096, which take 2 ms a connection."""
    word = urlsplit(server.dsn()).password or ""
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        if admin.info.server_version >= 160000:
            admin.execute("SET scram_iterations = 1")
            admin.execute(sql.SQL("ALTER ROLE CURRENT_USER PASSWORD {}").format(word))


@contextmanager
def _a_database(server: Server) -> Iterator[str]:
    """The URL of an empty database, dropped afterwards. To copy its files is half the work."""
    name = f"test_{secrets.token_hex(6)}"
    create = sql.SQL("CREATE DATABASE {} TEMPLATE template0 STRATEGY file_copy")
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(create.format(sql.Identifier(name)))
        try:
            yield server.dsn(name)
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def database(postgres: Server) -> Iterator[str]:
    """The URL of an empty database of this test's own, dropped afterwards."""
    with _a_database(postgres) as url:
        yield url


@pytest.fixture(scope="session")
def outbox_database(postgres: Server) -> Iterator[str]:
    """The URL of a database for the outboxes of all tests: each empties it first."""
    with _a_database(postgres) as url:
        yield url


@pytest.fixture
def project(tmp_path: Path, database: str) -> Iterator[Project]:
    """An empty Confiture project on a database of its own."""
    project = Project(tmp_path / "project", database)
    yield project
    project.close()


@pytest.fixture
def one_migration(project: Project) -> Project:
    """A project with one migration, which makes the table ``a``."""
    project.migration("001", "a", up="CREATE TABLE a (id int)", down="DROP TABLE a")
    return project


@pytest.fixture
def receiver() -> Iterator[LocalReceiver]:
    """A webhook receiver on loopback that keeps every request it is sent."""
    from confiture_webhooks.receiver import LocalReceiver  # only the tests that need it pay

    with LocalReceiver() as receiver:
        yield receiver


@pytest.fixture
def collector() -> Iterator[LocalCollector]:
    """An OTLP/HTTP collector on loopback that decodes what it is sent."""
    from confiture_webhooks.receiver.collector import LocalCollector  # needs the otlp extra

    with LocalCollector() as collector:
        yield collector
