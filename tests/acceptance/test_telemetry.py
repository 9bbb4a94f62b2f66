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


def test_a_context_that_is_not_installed(project: Any, receiver: Any) -> None:
    """OpenTelemetry would report it with a traceback: one line names the variable."""
    project.migration("001", "a", up="SELECT 1", down="SELECT 1")
    done = migrated(project, CONFITURE_WEBHOOK_URL=receiver.url, OTEL_PYTHON_CONTEXT="CANARY")
    assert (done.returncode, len(receiver.requests)) == (0, 1)
    (line,) = [one for one in events(done) if one["event"] == "webhooks.config_invalid"]
    assert [fault.partition(":")[0] for fault in line["faults"]] == ["OTEL_PYTHON_CONTEXT"]
    assert "CANARY" not in done.stderr
    assert "Traceback" not in done.stderr


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


@pytest.mark.parametrize(
    ("setting", "value", "kept"),
    [
        ("OTEL_METRIC_EXPORT_INTERVAL", "0", "traces, logs"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "metrics, logs"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "CANARY", None),
        ("OTEL_TRACES_SAMPLER_ARG", "CANARY", "traces, metrics, logs"),
        ("OTEL_PROPAGATORS", "CANARY", "traces, metrics, logs"),
        ("OTEL_PYTHON_EXCLUDED_URLS", "(CANARY", "traces, metrics, logs"),
    ],
)
def test_check_and_doctor_find_what_a_run_finds(
    project: Any, receiver: Any, collector: Any, setting: str, value: str, kept: str | None
) -> None:
    """Each reports the same fault of a variable, and only the signals it costs are missing."""
    project.migration("001", "a", up="SELECT 1", down="SELECT 1")
    sampler = {"OTEL_TRACES_SAMPLER": "traceidratio"}  # it has an argument
    address = {"CONFITURE_WEBHOOK_URL": receiver.url, ENDPOINT: collector.url}
    env = {**sampler, **address, setting: value}
    checked = project.confiture("webhooks", "check", "-f", "json", env=env)
    assert checked.returncode == 5
    (fault,) = json.loads(checked.stdout)["faults"]
    assert fault["setting"] == setting
    found = project.confiture("webhooks", "doctor", "-f", "json", env=env)
    assert found.returncode == 1
    rows = [one for one in json.loads(found.stdout)["checks"] if "collector" in one["check"]]
    wrong = {"check": "collector", "status": "problem", "detail": f"{setting}: {fault['problem']}"}
    assert rows[0] == {**wrong, "remedy": fault["remedy"]}
    assert [one["check"] for one in rows[1:]] == ([f"collector: {kept}"] if kept else [])
    assert not (collector.spans or collector.metrics or collector.logs)
    done = migrated(project, **env)
    (line,) = [one for one in events(done) if one["event"] == "webhooks.config_invalid"]
    assert line["faults"] == [f"{setting}: {fault['problem']}. {fault['remedy']}"]
    signals = {"traces": collector.spans, "metrics": collector.metrics, "logs": collector.logs}
    assert ", ".join(name for name, items in signals.items() if items) == (kept or "")
    assert "CANARY" not in checked.stdout + found.stdout + done.stderr


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


OUTBOX_SIZE = "confiture.webhook.outbox.size"


def sizes(collector: Any) -> dict[tuple[str, str], float]:
    """What was last reported of outboxes, by database and state."""
    points = [one for one in collector.metrics if one.name == OUTBOX_SIZE]
    return {
        (one.attributes["db.namespace"], one.attributes["confiture.webhook.state"]): one.value
        for one in points
    }


def test_an_outbox_is_reported_for_its_own_environment(project: Any, receiver: Any) -> None:
    """Two environments share a project's outbox: staging reports no dead letter of production."""
    name = project.database_url.rpartition("/")[2]
    project.migration("001", "a", up="CREATE TABLE IF NOT EXISTS a (id int)", down="SELECT 1")
    receiver.script("/production", [503, 503])
    for environment in ("production", "staging"):
        webhook = {
            "name": "a",
            "url": f"{receiver.url}/{environment}",
            "retry": {"schedule": [0.1]},
        }
        project.environment_file(environment, webhooks={"endpoints": [webhook]})
    dead = {}
    for environment in ("production", "staging"):
        with LocalCollector() as collector:
            words = ("--config", f"db/environments/{environment}.yaml", "--force")
            done = project.confiture("migrate", "up", *words, env={ENDPOINT: collector.url})
            assert done.returncode == 0, done.stderr
            dead[environment] = sizes(collector)[name, "dead_letter"]
    assert dead == {"production": 1, "staging": 0}
    for environment in ("production", "staging"):
        with LocalCollector() as collector:
            words = ("--config", f"db/environments/{environment}.yaml")
            done = project.confiture("webhooks", "deliver", *words, env={ENDPOINT: collector.url})
            assert sizes(collector)[name, "dead_letter"] == dead[environment], done.stderr


def test_what_stands_in_for_an_outbox_is_not_reported_for_it(
    project: Any, receiver: Any, collector: Any
) -> None:
    """A run that cannot open the outbox does not say that no dead letter is left in it."""
    project.migration("001", "a", up="SELECT 1", down="SELECT 1")
    webhooks = {"outbox": "sqlite:/proc/none/webhooks.db"}
    webhooks["endpoints"] = [{"name": "a", "url": receiver.url}]
    project.environment_file(webhooks=webhooks)
    done = migrated(project, **{ENDPOINT: collector.url})
    assert (done.returncode, len(receiver.requests)) == (0, 1)
    assert "webhooks.outbox_failed" in {line["event"] for line in events(done)}
    assert not [one for one in collector.metrics if "outbox" in one.name]


def test_a_worker_without_an_outbox_reports_none(
    project: Any, receiver: Any, collector: Any
) -> None:
    """`webhooks deliver` in another directory does not say that nothing waits."""
    env = {"CONFITURE_WEBHOOK_URL": receiver.url, ENDPOINT: collector.url}
    assert project.confiture("webhooks", "deliver", env=env).returncode == 0
    assert collector.metrics
    assert not [one for one in collector.metrics if "outbox" in one.name]
