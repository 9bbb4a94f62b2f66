"""What runs show of themselves, and telemetry that is broken: on the real command."""

from __future__ import annotations

import json
from typing import Any

import pytest

from confiture_webhooks.receiver.collector import LocalCollector

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


def migrated(project: Any, **env: str) -> Any:
    return project.confiture("migrate", "up", env={"CONFITURE_WEBHOOK_LOG": "json", **env})


def events(done: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]


@pytest.mark.survived("A propagator that is not installed", "kept", "said")
@pytest.mark.parametrize("exports", [True, False])
def test_a_propagator_that_is_not_installed(project: Any, receiver: Any, exports: bool) -> None:
    """Webhooks are delivered, and one line names the variable."""
    project.migration("001", "a", up="SELECT 1", down="SELECT 1")
    env = {"CONFITURE_WEBHOOK_URL": receiver.url, "OTEL_PROPAGATORS": "tracecontext,baggage,nosuch"}
    with LocalCollector() as collector:
        done = migrated(project, **env, **({ENDPOINT: collector.url} if exports else {}))
        spans = {span.name for span in collector.spans}
    assert done.returncode == 0, done.stderr
    assert len(receiver.requests) == 1
    (line,) = [one for one in events(done) if one["event"] == "webhooks.config_invalid"]
    assert [fault.partition(":")[0] for fault in line["faults"]] == ["OTEL_PROPAGATORS"]
    assert ("POST" in spans) is exports


def test_a_limit_that_is_no_number(project: Any, receiver: Any, collector: Any) -> None:
    """The SDK cannot be imported then: one line names the variable, and the webhook is sent."""
    project.migration("001", "a", up="SELECT 1", down="SELECT 1")
    env = {"CONFITURE_WEBHOOK_URL": receiver.url, ENDPOINT: collector.url}
    done = migrated(project, **env, OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT="CANARY")
    assert (done.returncode, len(receiver.requests)) == (0, 1)
    (line,) = [one for one in events(done) if one["event"].startswith("webhooks.")]
    (fault,) = line["faults"]
    assert fault.startswith("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT: ")
    assert "CANARY" not in done.stderr


def test_runs_are_counted(project: Any, receiver: Any) -> None:
    """A run is a number with its command, outcome and database; a failed one is a line, too."""
    project.migration("001", "a", up="SELECT 1", down="SELECT 1")
    with LocalCollector() as collector:
        env = {"CONFITURE_WEBHOOK_URL": receiver.url, ENDPOINT: collector.url}
        assert migrated(project, **env).returncode == 0
        project.migration("002", "b", up="SELECT nosuch", down="SELECT 1")
        done = migrated(project, **env)
        counted = [one for one in collector.metrics if one.name == "confiture.runs"]
        times = {one.name for one in collector.metrics if "timestamp" in one.name}
    assert done.returncode != 0
    found = [one.attributes for one in counted]
    assert [one["confiture.run.outcome"] for one in found] == ["success", "failure"]
    assert {one["confiture.command"] for one in found} == {"migrate up"}
    assert found[1]["error.type"] == "42703"
    assert all(one["db.namespace"] for one in found)
    assert times >= {
        "confiture.run.last_success_timestamp",
        "confiture.run.last_failure_timestamp",
    }
    (line,) = [one for one in events(done) if one["event"] == "run.failed"]
    assert (line["command"], line["migrations_applied"]) == ("migrate up", 0)
    assert line["database"] == found[0]["db.namespace"]
