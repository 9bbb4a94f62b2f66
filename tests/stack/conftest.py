"""The live stack: the real programs with the shipped files, one for the whole session."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from confiture_webhooks.receiver import LocalReceiver
from stack_scenario import CANARIES, Scenario, version_of_the_plugin
from stack_views import Views

ROOT = Path(__file__).resolve().parents[2]
NATIVE = ROOT / "observability" / "native"
WANTED = "CONFITURE_WEBHOOKS_TEST_STACK"
LAST = "test_alerts_clear"
"""What changes the counts of the others."""
sys.path.insert(0, str(NATIVE))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the live stack out unless this folder is named, or WANTED set; it takes minutes."""
    items.sort(key=lambda item: item.name.startswith(LAST))  # whatever their order otherwise
    here = Path(__file__).parent
    named = [
        Path(str(given).partition("::")[0]).resolve() for given in config.invocation_params.args
    ]
    is_wanted = os.environ.get(WANTED) or any(here in (path, *path.parents) for path in named)
    for item in items:
        if item.path.parent == here:
            item.add_marker(pytest.mark.timeout(900))
            if not is_wanted:
                reason = f"takes minutes and builds programs: `make test-stack` (or {WANTED}=1)"
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def programs() -> dict[str, Path]:
    """Every program of the stack, and every server that may keep its metrics; built now if need be."""
    import programs as native  # of observability/native

    return built((*native.PROGRAMS, *(one for some in native.BACKENDS.values() for one in some)))


@pytest.fixture(scope="session")
def prometheus_program() -> Path:
    """Prometheus alone; built now if need be."""
    import programs as native  # of observability/native

    return built([one for one in native.PROGRAMS if one.name == "prometheus"])["prometheus"]


@pytest.fixture(scope="session")
def compose() -> Path:
    """Docker Compose, which only the tests need; built now if need be."""
    import programs as native  # of observability/native

    return built(native.CHECKERS[-1:])["docker-compose"]


def built(wanted: Any) -> dict[str, Path]:
    """The programs; the test is skipped where this machine cannot build, and only there."""
    import programs as native  # of observability/native

    try:
        return dict(native.build(wanted))
    except native.UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def stack(programs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """All programs, running; three servers keep the metrics of one collector."""
    from stack import DIALECTS, Stack  # of observability/native

    folder = tmp_path_factory.mktemp("stack")
    with Stack(programs, folder, tuple(DIALECTS), is_quick=True) as stack:
        yield stack


@pytest.fixture(scope="module")
def other_stack(
    programs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """A second stack, for tests that would disturb the counts of the first."""
    from stack import Stack  # of observability/native

    with Stack(programs, tmp_path_factory.mktemp("other"), is_quick=True) as stack:
        yield stack


@pytest.fixture(scope="session")
def views(stack: Any) -> Views:
    """What a person sees of the stack: its dashboards, alerts, traces and log lines."""
    return Views(stack.addresses)


@contextmanager
def databases(postgres: Any) -> Iterator[Callable[[], str]]:
    """Makes databases; they are dropped at the end."""
    made: list[str] = []

    def new() -> str:
        made.append(f"stack_{secrets.token_hex(6)}")
        with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
            admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(made[-1])))
        return str(postgres.dsn(made[-1]))

    yield new
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        for name in made:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def new_database(postgres: Any) -> Iterator[Callable[[], str]]:
    """Makes databases for one test."""
    with databases(postgres) as new:
        yield new


@pytest.fixture(scope="session")
def scenario(
    stack: Any, views: Views, postgres: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scenario]:
    """Forty runs: some at once, with retries, dead letters, a 410, failures, a restart, an upgrade."""
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": stack.url("otlp_http")}
    folder = tmp_path_factory.mktemp("runs")
    with databases(postgres) as new, LocalReceiver(secret=CANARIES["secret"]) as receiver:
        scenario = Scenario(folder, new, receiver, environment)
        play(scenario, stack, views, tmp_path_factory.mktemp("upgrade"))
        views.settle()
        yield scenario


def play(scenario: Scenario, stack: Any, views: Views, upgrade: Path) -> None:
    """The forty runs of three projects, in an order that has each trap of counting in it."""
    plain = scenario.project("analytics")
    flaky = scenario.project("analytics", "flaky")
    dead = scenario.project("analytics", "dead")
    scenario.dead = dead
    for project in (plain, flaky, dead):
        scenario.run(project)
    scenario.run(plain)
    views.settle()
    scenario.early_series = views.series()
    for _ in range(4):
        scenario.script("flaky", 503, 503)
        scenario.run(flaky)
    scenario.script("dead", *[500] * 9)
    for _ in range(3):
        scenario.run(dead)
    scenario.run_at_once([scenario.project("analytics") for _ in range(10)])
    views.settle()  # what Prometheus has not read when the collector stops is lost
    stack.restart("otelcol")
    scenario.script("dead", *[500] * 6)
    for _ in range(2):
        scenario.run(dead)  # after three, born again at 1
    gone = scenario.project("gone")
    scenario.gone = gone
    scenario.script("gone", 410)
    scenario.run(gone)
    late = scenario.project("late", retry={"schedule": [3], "jitter": 0}, flush_timeout=1)
    scenario.script("late", 503)
    scenario.run(late)
    scenario.deferred += 1
    time.sleep(3)
    scenario.deliver(late)
    scenario.run(late)
    newer = version_of_the_plugin(upgrade, "99.0.0")
    scenario.run(plain, **newer)
    views.settle()  # VictoriaMetrics knows a counter that began again by its lower value
    for _ in range(9):
        scenario.run(plain, **newer)
    for _ in range(4):
        scenario.run(plain, "SELECT nosuch_column")
        max(plain.migrations.glob("*.up.sql")).unlink()
    scenario.plain = plain
