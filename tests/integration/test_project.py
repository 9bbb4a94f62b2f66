"""The test project runs the real command against a real database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

if TYPE_CHECKING:
    from project import Project


def test_up_and_down(project: Project) -> None:
    """A written migration is applied by ``migrate up`` and undone by ``migrate down``."""
    project.migration("001", "create_users", up="CREATE TABLE u (id int)", down="DROP TABLE u")
    done = project.confiture("migrate", "up")
    assert done.returncode == 0, done.stderr
    with psycopg.connect(project.database_url) as connection:
        assert connection.execute("SELECT to_regclass('u')::text").fetchone() == ("u",)
    assert project.confiture("migrate", "down").returncode == 0
    with psycopg.connect(project.database_url) as connection:
        assert connection.execute("SELECT to_regclass('u')").fetchone() == (None,)


def test_nothing_is_inherited(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of this process do not reach a command."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "leak")
    monkeypatch.setenv("CONFITURE_WEBHOOK_URL", "https://leak.test")
    assert {"OTEL_SERVICE_NAME", "CONFITURE_WEBHOOK_URL"}.isdisjoint(project.environ())


def test_spawned_commands_can_be_waited_for(project: Project) -> None:
    """A spawned command is a process of its own with its output on pipes."""
    process = project.spawn("--version")
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "confiture" in stdout
