"""The main path: the stock command, one variable set, and what its receiver and user see."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from standardwebhooks import Webhook

from confiture_webhooks import verify

pytestmark = pytest.mark.lowest
SECRET = "a plain secret"
UP = "CREATE TABLE users (id int); INSERT INTO users VALUES (1), (2);"


def test_a_success_is_reported_signed_and_with_every_header(project: Any, receiver: Any) -> None:
    """One variable set: the migration's success arrives, exactly as documented."""
    project.migration("005", "add_payment_table", up=UP, down="DROP TABLE users")
    done = project.confiture(
        "migrate",
        "up",
        env={"CONFITURE_WEBHOOK_URL": receiver.url, "CONFITURE_WEBHOOK_SECRET": SECRET},
    )
    assert done.returncode == 0, done.stderr
    (request,) = receiver.requests
    payload = request.payload
    assert set(payload) == {
        "database",
        "direction",
        "event_id",
        "event_type",
        "execution",
        "migration",
        "run",
        "timestamp",
        "trace_id",
        "webhook_target",
    }
    assert payload["migration"] == {
        "environment": "local",
        "name": "005_add_payment_table",
        "version": "005",
    }
    assert payload["execution"]["rows_affected"] == 2
    assert payload["database"]["schema"] == "public"
    assert payload["webhook_target"] == "default"
    headers = request.headers
    assert headers["X-Correlation-ID"] == payload["trace_id"]
    assert re.fullmatch(r"[0-9a-f]{32}", payload["trace_id"])
    assert headers["traceparent"].split("-")[1] == payload["trace_id"]
    assert headers["webhook-id"] == payload["event_id"]
    assert re.fullmatch(r"Confiture/[\d.]+ confiture-webhooks/[\d.]+\S*", headers["User-Agent"])
    assert headers["X-Confiture-Event"] == "migration_success"
    assert headers["X-Confiture-Attempt"] == "1"
    assert headers["X-Migration-Version"] == "005"
    assert headers["X-Environment"] == "local"
    assert "baggage" not in headers
    verify(headers, request.body, SECRET)
    Webhook(SECRET.encode()).verify(request.body, dict(headers))


def test_standard_output_and_exit_code_are_confitures_own(project: Any, receiver: Any) -> None:
    """With and without webhooks, up, a failing up and down print the same and exit the same."""
    steps = ("up", "up", "down", "up --format json")
    seen = []
    project.migration("001", "a", up="CREATE TABLE a (id int)", down="DROP TABLE a")
    project.migration("002", "b", up="SELECT nosuch", down="SELECT 1")
    # The first run also installs the host's helpers, and says so.
    project.confiture("migrate", "up")
    for env in ({}, {"CONFITURE_WEBHOOK_URL": receiver.url}):
        project.confiture("migrate", "down")
        outputs = []
        for step in steps:
            done = project.confiture("migrate", *step.split(), env=env)
            times = re.compile(r"\d+(\.\d+)? ?m?s\b|_ms\": \d+")
            outputs.append((done.returncode, times.sub("T", done.stdout)))
        seen.append(outputs)
    assert seen[0] == seen[1]
    assert receiver.requests


@pytest.mark.survived("A receiver that is not there", "unharmed", "kept", "said")
def test_a_dead_receiver_costs_a_line_and_not_the_migration(project: Any) -> None:
    """With nobody listening the migration succeeds, and one line says what is left."""
    project.migration("001", "a", up="CREATE TABLE a (id int)", down="DROP TABLE a")
    endpoint = {"name": "a", "url": "http://127.0.0.1:9/hook", "retry": {"schedule": [600]}}
    project.environment_file(webhooks={"endpoints": [endpoint]})
    done = project.confiture("migrate", "up")
    assert done.returncode == 0
    assert "1 delivery not sent (a: 1, last attempt failed: connection_refused)" in done.stderr


def test_a_wrong_configuration_is_reported_whole_and_the_migration_goes_on(project: Any) -> None:
    """Every fault is on stderr with its setting; the migration still runs."""
    project.environment_file(
        webhooks={"endpoints": [{"name": "a", "url": "ftp://x", "timeout": -1}], "flush": 3}
    )
    project.migration("001", "a", up="CREATE TABLE a (id int)", down="DROP TABLE a")
    done = project.confiture("migrate", "up")
    assert done.returncode == 0
    for part in ("url", "timeout", "flush_timeout"):
        assert part in done.stderr
    checked = project.confiture("webhooks", "check", "--format", "json")
    assert checked.returncode == 5
    assert len(json.loads(checked.stdout)["faults"]) == 3


def test_off_switches_everything_off(project: Any, receiver: Any) -> None:
    """``CONFITURE_WEBHOOKS=off`` sends nothing and says nothing."""
    project.migration("001", "a", up="CREATE TABLE a (id int)", down="DROP TABLE a")
    env = {"CONFITURE_WEBHOOK_URL": receiver.url, "CONFITURE_WEBHOOKS": "off"}
    done = project.confiture("migrate", "up", env=env)
    assert done.returncode == 0
    assert done.stderr == project.confiture("migrate", "up").stderr == ""
    assert receiver.requests == ()


def test_the_trace_of_the_caller_is_joined(project: Any, receiver: Any) -> None:
    """TRACEPARENT from CI is the run's trace, also when it is not sampled."""
    project.migration("001", "a", up="CREATE TABLE a (id int)", down="DROP TABLE a")
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    for flags in ("01", "00"):
        parent = f"00-{trace_id}-00f067aa0ba902b7-{flags}"
        env = {"CONFITURE_WEBHOOK_URL": receiver.url, "TRACEPARENT": parent}
        assert project.confiture("migrate", "up", "--force", env=env).returncode == 0
        project.confiture("migrate", "down")
    assert {request.headers["X-Correlation-ID"] for request in receiver.requests} == {trace_id}


def test_one_trace_holds_run_migrations_deliveries_and_attempts(
    project: Any, receiver: Any, collector: Any
) -> None:
    """POST is a child of deliver, deliver of apply migration, and that of the run."""
    project.migration("001", "a", up="CREATE TABLE a (id int)", down="DROP TABLE a")
    receiver.script("/hook", [503])
    env = {
        "CONFITURE_WEBHOOK_URL": receiver.url.rstrip("/") + "/hook",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
    }
    assert project.confiture("migrate", "up", env=env).returncode == 0
    spans = {span.span_id: span for span in collector.spans}
    names = sorted(span.name for span in spans.values())
    assert names == [
        "POST",
        "POST",
        "apply migration",
        "confiture migrate up",
        "deliver webhook default",
    ]
    for span in spans.values():
        chain = []
        current = span
        while current is not None:
            chain.append(current.name)
            current = spans.get(current.parent_id or "")
        assert chain[-1] == "confiture migrate up"
    assert len({span.trace_id for span in spans.values()}) == 1
    assert {r.headers["X-Correlation-ID"] for r in receiver.requests} == {
        span.trace_id for span in spans.values()
    }


def test_an_outbox_of_no_known_kind_is_a_fault(project: Any, receiver: Any) -> None:
    """What is no outbox is a fault that names the setting; the run sends from memory."""
    project.migration("001", "a", up="CREATE TABLE a (id int)", down="DROP TABLE a")
    env = {"CONFITURE_WEBHOOK_URL": receiver.url, "CONFITURE_WEBHOOK_OUTBOX": "redis://db/0"}
    done = project.confiture("migrate", "up", env=env)
    assert done.returncode == 0
    assert "CONFITURE_WEBHOOK_OUTBOX" in done.stderr
    assert len(receiver.requests) == 1
    assert project.confiture("webhooks", "check", env=env).returncode == 5
