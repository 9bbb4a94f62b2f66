"""A changed configuration: noticed through links, once it is whole, and refused when it is wrong."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from confiture_webhooks import terminal, watch
from confiture_webhooks.cli.context import Context
from confiture_webhooks.config import Settings, read
from confiture_webhooks.endpoint import Endpoint
from confiture_webhooks.telemetry import Telemetry
from confiture_webhooks.watch import Configuration, Source, _now

if TYPE_CHECKING:
    from collections.abc import Callable

GOOD = "webhooks: {endpoints: [{name: %s, url: 'https://a.example/'}]}\n"


def changes_of(path: Path) -> Source:
    """Of the configuration in *path*."""
    return Source((path,), lambda: Configuration(read({}, path)))


def names(news: Any) -> list[str] | None:
    """The endpoints of *news*."""
    return news and [endpoint.name for endpoint in news[0].endpoints]


def test_a_file_is_taken_over_once_it_is_whole(tmp_path: Path) -> None:
    """A change counts when the file is the same for two looks, and counts once."""
    path = tmp_path / "local.yaml"
    path.write_text(GOOD % "first")
    changes = changes_of(path)
    assert changes.news() is None
    path.write_text(GOOD % "second")
    assert changes.news() is None
    assert names(changes.news()) == ["second"]
    assert changes.news() is None


def test_a_link_that_moves_on_is_a_change(tmp_path: Path) -> None:
    """Kubernetes swaps a symbolic link to a directory: the path and its text may be the same."""
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "local.yaml").write_text(GOOD % version)
    (tmp_path / "data").symlink_to("v1")
    (tmp_path / "local.yaml").symlink_to("data/local.yaml")
    changes = changes_of(tmp_path / "local.yaml")
    (tmp_path / "new").symlink_to("v2")
    (tmp_path / "new").replace(tmp_path / "data")
    changes.news()
    assert names(changes.news()) == ["v2"]


def test_a_file_that_becomes_readable_is_a_change(tmp_path: Path) -> None:
    """Its text was the same when it could not be read, and is taken over now."""
    path = tmp_path / "local.yaml"
    path.write_text(GOOD % "first")
    may_read = False

    def reading() -> Any:
        if not may_read:
            raise PermissionError
        return Configuration(read({}, path))

    changes = Source((path,), reading)
    path.write_text(GOOD % "second")
    path.chmod(0)
    assert [changes.news(), changes.news()] == [None, None]
    may_read = True
    path.chmod(0o600)
    changes.news()
    assert names(changes.news()) == ["second"]


def test_a_wrong_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file with a fault, without an endpoint, or that is gone leaves the old one in force."""
    path = tmp_path / "local.yaml"
    path.write_text(GOOD % "first")
    changes = changes_of(path)
    for text in ("webhooks: {endpoints: [{name: a, url: ftp://a}]}", "webhooks: [", "{}"):
        path.write_text(text)
        assert [changes.news() for _ in range(4)] == [None] * 4
        terminal.settle()
        assert capsys.readouterr().err.count("stays in force") == 1
    path.unlink()
    assert [changes.news() for _ in range(4)] == [None] * 4
    path.write_text(GOOD % "again")
    changes.news()
    assert names(changes.news()) == ["again"]


def test_a_changed_file_may_name_another_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker's telemetry is about the database of the file as it is now."""
    monkeypatch.delenv("CONFITURE_DATABASE_URL", raising=False)
    path = tmp_path / "local.yaml"
    text = GOOD % "a" + "database_url: postgresql://db.example/%s\n"
    path.write_text(text % "first")
    source = Context(config=path).source()
    path.write_text(text % "second")
    source.news()
    news = source.news()
    assert news is not None
    assert news.database.name == "second"


def test_a_file_that_is_gone_is_said_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line of a worker whose ``--config`` was moved away has the remedy, too."""
    monkeypatch.chdir(tmp_path)
    path = Path("there.yaml")
    path.write_text(GOOD % "first")
    source = Context(config=path).source()
    path.unlink()
    assert [source.news() for _ in range(3)] == [None] * 3
    assert capsys.readouterr().err == (
        "The changed configuration is wrong, the one before it stays in force: "
        "--config: there.yaml is no file. Check the path\n"
    )


@pytest.mark.parametrize("instead", [None, Path.mkdir, os.mkfifo])
def test_the_projects_own_file_that_is_gone_is_said_by_name(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    instead: Callable[[Path], None] | None,
) -> None:
    """A variable does not take its place: the worker would leave its environment alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONFITURE_WEBHOOK_URL", "https://b.example/")
    path = Path("db/environments/local.yaml")
    path.parent.mkdir(parents=True)
    path.write_text(GOOD % "first")
    source = Context(config=None).source()
    path.unlink()
    if instead:
        instead(path)
    assert [source.news() for _ in range(3)] == [None] * 3
    terminal.settle()
    assert capsys.readouterr().err == (
        "The changed configuration is wrong, the one before it stays in force: "
        "db/environments/local.yaml cannot be read\n"
    )


def test_a_worker_reports_lost_telemetry_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever it asks how killed runs ended, also when nothing was killed."""
    asked: list[str] = []
    stopped = threading.Event()

    def tend(_: object) -> bool:
        asked.append("tend")
        if len(asked) > 2:
            stopped.set()
        return True

    monkeypatch.setattr(watch._Delivering, "tend", tend)
    monkeypatch.setattr(Telemetry, "report_losses", lambda _: asked.append("report"))
    monkeypatch.setattr(watch, "TEND_EVERY", timedelta())
    monkeypatch.setattr(watch, "LOOK_EVERY_S", 0.0)
    given = Configuration(Settings(outbox=f"sqlite:{tmp_path / 'webhooks.db'}", log="off"))
    watch.deliver_until(stopped, given, source=changes_of(tmp_path / "none.yaml"))
    assert asked == ["tend", "report", "tend", "report"]


def test_a_changed_file_says_whose_deliveries_are_sent_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another environment or outbox is named: what waits in the one before is left there."""
    monkeypatch.chdir(tmp_path)
    one = Settings(endpoints=(Endpoint(name="a", url="https://a.test"),), environment="local")
    assert _now(one, one) == "Endpoints now: a"
    other = replace(one, environment=None, outbox="sqlite:b.db")
    assert _now(other, one) == (
        f"Endpoints now: a; environment now: (none); outbox now: sqlite:{tmp_path / 'b.db'}"
    )
