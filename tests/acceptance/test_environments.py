"""Environments that share a project's outbox."""

from __future__ import annotations

import json
from typing import Any

import pytest

from confiture_webhooks.receiver import LocalReceiver


@pytest.mark.parametrize("outbox", ["sqlite", "postgres"])
def test_a_left_over_never_goes_to_another_environments_receiver(project: Any, outbox: str) -> None:
    """Its own environment's commands make it; another's name it, and say how it is made."""
    project.migration("001", "a", up="CREATE TABLE a (id int)", down="DROP TABLE a")
    files = {}
    with LocalReceiver(answers=[503]) as production, LocalReceiver(answers=[]) as staging:
        for name, receiver in (("production", production), ("staging", staging)):
            one = {"name": "ops", "url": receiver.url, "secret": name, "retry": {"schedule": [5]}}
            files[name] = project.environment_file(
                name, webhooks={"outbox": outbox, "flush_timeout": 0.5, "endpoints": [one]}
            )

        def run(environment: str, *words: str) -> Any:
            return project.confiture(*words, "--config", str(files[environment]))

        assert run("production", "migrate", "up").returncode == 0
        assert run("staging", "migrate", "down").returncode == 0
        assert run("staging", "webhooks", "deliver").returncode == 0
        environments = {r.headers["X-Environment"] for r in staging.requests}
        assert environments == {"staging"}
        status = json.loads(run("staging", "webhooks", "status", "--format", "json").stdout)
        assert (status["counts"]["pending"], status["elsewhere"]) == (0, {"production": 1})
        assert (
            "; waiting in other environments: production 1"
            in run("staging", "webhooks", "doctor").stdout
        )
        delivered = run("staging", "webhooks", "deliver")
        assert "Other environments have deliveries that wait: production 1" in delivered.stdout
        assert len(production.requests) == 1
