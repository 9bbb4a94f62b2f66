"""What happens to a run and to its telemetry while parts of the stack are away."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.error import HTTPError

import pytest

from stack_scenario import ENVIRONMENT, until
from stack_views import Views, asked

FLUSH_S = 10
TELEMETRY_S = 2
SLACK_S = 8
"""For the interpreter, the database and a busy machine; a hang is far longer."""


@pytest.fixture
def views(other_stack: Any) -> Views:
    """The second stack, as a person sees it."""
    return Views(other_stack.addresses)


@contextmanager
def away(stack: Any, *names: str) -> Iterator[None]:
    """The programs are stopped inside."""
    for name in names:
        stack.servers[name].stop()
    yield
    for name in names:
        stack.servers[name].start()
        stack.servers[name].wait_ready()


def migrate(project: Any, receiver: Any, stack: Any, **environment: str) -> tuple[str, str, float]:
    """Apply one migration; its trace id, what was said on stderr, and the seconds it took."""
    project.migration("001", "step", up="CREATE TABLE step (id int)", down="DROP TABLE step")
    env = {
        "CONFITURE_WEBHOOK_URL": receiver.url,
        "OTEL_EXPORTER_OTLP_ENDPOINT": stack.url("otlp_http"),
        **environment,
    }
    started = time.monotonic()
    done = project.confiture("migrate", "up", env=env)
    assert done.returncode == 0, done.stderr
    (request,) = receiver.requests
    return request.headers["X-Correlation-ID"], done.stderr, time.monotonic() - started


def has_trace(views: Views, trace_id: str) -> bool:
    """Whether Jaeger has the whole trace of a run with one delivery."""
    try:
        return len(views.trace(trace_id)) == 4
    except HTTPError:
        return False


def test_a_dead_collector_costs_one_line(project: Any, receiver: Any, other_stack: Any) -> None:
    """With the collector down the run succeeds, delivers, ends in time, and says what was lost."""
    with away(other_stack, "otelcol"):
        _, said, took_s = migrate(project, receiver, other_stack)
    assert took_s < FLUSH_S + TELEMETRY_S + SLACK_S
    lines = [line for line in said.splitlines() if "telemetry.flush_incomplete" in line]
    assert len(lines) == 1, said
    reported = json.loads(lines[0])
    assert (
        min(reported["lost_spans"], reported["lost_metric_points"], reported["lost_log_records"])
        > 0
    )
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "pigeon"),
        ("OTEL_TRACES_EXPORTER", "jaeger"),
        ("OTEL_BSP_SCHEDULE_DELAY", "often"),
    ],
)
def test_a_wrong_variable_costs_one_line(
    project: Any, receiver: Any, other_stack: Any, variable: str, value: str
) -> None:
    """A value OpenTelemetry does not take is reported in one line; the webhook goes out."""
    _, said, _ = migrate(project, receiver, other_stack, **{variable: value})
    (line,) = [line for line in said.splitlines() if "webhooks.config_invalid" in line]
    assert "OTEL_" in line
    assert value not in line
    assert "Traceback" not in said


@pytest.mark.parametrize(("kill", "away_s"), [(False, 8), (True, 2)], ids=["stopped", "killed"])
def test_queues_outlive_the_collector(
    project: Any, receiver: Any, other_stack: Any, views: Views, *, kill: bool, away_s: int
) -> None:
    """With Jaeger and the log store away and the collector restarted meanwhile, nothing is lost."""
    with away(other_stack, "jaeger", "victoria-logs"):
        trace_id, said, _ = migrate(project, receiver, other_stack)
        assert "flush_incomplete" not in said
        time.sleep(away_s)  # batched, tried, queued
        other_stack.restart("otelcol", kill=kill)
    until(lambda: has_trace(views, trace_id), bool, 60, "the trace")
    lines = until(
        lambda: views.logs(f'trace_id:="{trace_id}"'), lambda found: len(found) == 2, 60, "lines"
    )
    assert {line["event_name"] for line in lines} == {"migration.applied", "webhook.delivered"}


def test_what_waits_is_known_after_a_restart_of_the_collector(
    project: Any, receiver: Any, other_stack: Any, views: Views
) -> None:
    """The collector forgets the outbox's gauges; the panels and the alert have their last word."""
    (oldest,) = (query for query in asked() if query.panel == "Oldest undelivered")
    left = [query for query in asked() if query.panel == "In the outboxes"]
    receiver.script("/", [503] * 20)
    settings = {"CONFITURE_WEBHOOK_FLUSH_TIMEOUT": "0.1", "CONFITURE_ENVIRONMENT": ENVIRONMENT}
    project.migration("001", "step", up="CREATE TABLE step (id int)", down="DROP TABLE step")
    config = str(project.environment_file(ENVIRONMENT).relative_to(project.path))
    env = {
        "CONFITURE_WEBHOOK_URL": receiver.url,
        "OTEL_EXPORTER_OTLP_ENDPOINT": other_stack.url("otlp_http"),
        **settings,
    }
    assert project.confiture("migrate", "up", "--config", config, env=env).returncode == 0

    def waited() -> float:
        return float(views.metrics(oldest)[0]["value"][1])

    until(waited, lambda age_s: age_s > 0, 40, "the age of what waits")
    other_stack.restart("otelcol")
    # Of this test's project alone: the collector's queue may bring back what others sent.
    gauge = "confiture_webhook_outbox_oldest_timestamp_seconds"
    gauge += f'{{deployment_environment_name="{ENVIRONMENT}"}}'
    until(lambda: views.instant(gauge), lambda found: not found, 40, "the gauge is forgotten")
    before = until(waited, lambda age_s: age_s > 0, 1, "the age of what waits, still")
    until(waited, lambda age_s: age_s > before, 30, "it grows")
    states = [int(views.metrics(query)[0]["value"][1]) for query in left]
    assert states == [1, 0], "pending, dead letters"


def test_a_restart_of_the_stores_loses_nothing(
    project: Any, receiver: Any, other_stack: Any, views: Views
) -> None:
    """Traces and log lines are there again after Jaeger and VictoriaLogs were restarted."""
    trace_id, _, _ = migrate(project, receiver, other_stack)
    until(lambda: has_trace(views, trace_id), bool, 30, "the trace")
    for name in ("jaeger", "victoria-logs", "prometheus"):
        other_stack.restart(name)
    assert has_trace(views, trace_id)
    assert len(views.logs(f'trace_id:="{trace_id}"')) == 2
