"""What the real command sends is valid by the published schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from confiture_webhooks.event import SUBSCRIBABLE, EventType
from providers import FORMATS

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "event.schema.json").read_text())


CI = {
    "GITHUB_ACTIONS": "true",
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_REPOSITORY": "a/b",
    "GITHUB_RUN_ID": "1",
}


@pytest.mark.timeout(180)
def test_every_event_is_valid_by_the_schema(project: Any, receiver: Any) -> None:
    """A run that succeeds, one that fails, both ways down, and pings: each event, each kind."""
    endpoint = {
        "name": "a",
        "url": receiver.url,
        "events": sorted(event.value for event in SUBSCRIBABLE),
        "include_sql": True,
    }
    project.environment_file(webhooks={"endpoints": [endpoint]})
    project.migration("001", "users", up="CREATE TABLE users (id int)", down="DROP TABLE users")
    project.migration("002", "stuck", up="SELECT 1", down="DROP TABLE nosuch")
    project.migration("003", "broken", up="SELECT * FROM nosuch", down="SELECT 1")
    assert project.confiture("migrate", "up").returncode != 0
    assert project.confiture("migrate", "down").returncode != 0
    project.migration("002", "stuck", up="SELECT 1", down="SELECT 1")
    assert project.confiture("migrate", "down").returncode == 0
    (project.migrations / "003_broken.up.sql").unlink()
    (project.migrations / "003_broken.down.sql").unlink()
    assert project.confiture("migrate", "up").returncode == 0
    for words in ([], ["--event", "migration_error"], ["--event", "run_success"]):
        for env in ({}, CI):  # they name the run of the CI
            assert project.confiture("webhooks", "test", *words, env=env).returncode == 0
    validator = Draft202012Validator(SCHEMA, format_checker=FORMATS)
    for request in receiver.requests:
        validator.validate(request.payload)
    assert {request.payload["event_type"] for request in receiver.requests} == set(EventType) - {
        EventType.CUSTOM
    }
