"""The real command sends chat and paging services what they take, and keeps none of their keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from confiture_webhooks import verify
from confiture_webhooks.formats import FORMATS
from providers import ROUTING_KEY, accept

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "a plain secret"
ALL = [
    "migration_success",
    "migration_error",
    "migration_rollback",
    "migration_rollback_error",
    "migration_started",
    "run_success",
    "run_error",
]
CHOSEN = [name for name in FORMATS if name != "confiture"]


def block(url: str) -> dict[str, Any]:
    """An endpoint for each format, sent everything."""
    own: dict[str, dict[str, Any]] = {
        "pagerduty": {"routing_key": "${PAGERDUTY_KEY}"},
        "opsgenie": {
            "url": f"{url}/v2/alerts",
            "headers": {"Authorization": "GenieKey ${OPSGENIE_KEY}"},
        },
    }
    return {
        "endpoints": [
            {
                "name": name,
                "url": f"{url}/{name}",
                "format": name,
                "secret": SECRET,
                "events": ALL,
                **own.get(name, {}),
            }
            for name in CHOSEN
        ]
    }


def format_of(path: str) -> str:
    """Which provider a request was sent to."""
    return "opsgenie" if path.startswith("/v2/alerts") else path.strip("/")


def everything_kept(directory: Path) -> bytes:
    """Every byte the command left in its project."""
    kept = [path for path in (directory / ".confiture").rglob("*") if path.is_file()]
    assert kept
    return b"".join(path.read_bytes() for path in kept)


@pytest.mark.timeout(180)
def test_providers_accept_a_failure_its_repair_and_a_ping(project: Any, receiver: Any) -> None:
    """A failed run, the run that repairs it and a ping: every request is valid, signed, keyless."""
    project.environment_file(webhooks=block(receiver.url))
    keys = {"PAGERDUTY_KEY": ROUTING_KEY, "OPSGENIE_KEY": "k3y"}
    project.migration("001", "users", up="SELECT * FROM nosuch", down="SELECT 1")
    failed = project.confiture("migrate", "up", env=keys)
    assert failed.returncode != 0
    project.migration("001", "users", up="CREATE TABLE users (id int)", down="DROP TABLE users")
    repaired = project.confiture("migrate", "up", env=keys)
    assert repaired.returncode == 0, repaired.stderr
    pinged = project.confiture("webhooks", "test", env=keys)
    assert pinged.returncode == 0, pinged.stderr
    done: dict[str, list[str]] = {name: [] for name in CHOSEN}
    for request in receiver.requests:
        chosen = format_of(request.path)
        done[chosen].append(accept(chosen, request.path, request.headers, request.body))
        verify(request.headers, request.body, SECRET)
    # Started, error, run error; started, success, run success; ping.
    assert {name: len(reported) for name, reported in done.items()} == dict.fromkeys(CHOSEN, 7)
    for name, opens, closes in (
        ("pagerduty", "trigger ", "resolve "),
        ("opsgenie", "create ", "close "),
    ):
        opened = {
            reported.removeprefix(opens) for reported in done[name] if reported.startswith(opens)
        }
        closed = {
            reported.removeprefix(closes) for reported in done[name] if reported.startswith(closes)
        }
        assert len(opened) == 2
        assert opened < closed
    kept = everything_kept(project.path)
    shown = failed.stderr + repaired.stderr + pinged.stderr + pinged.stdout
    for key in (ROUTING_KEY, "k3y"):
        assert key.encode() not in kept
        assert key not in shown
