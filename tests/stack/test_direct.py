"""Without a collector: runs send what they did straight to a Prometheus that adds it up."""

from __future__ import annotations

import json
import subprocess
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from confiture_webhooks.receiver import LocalReceiver
from stack_scenario import CANARIES, Deliveries, Scenario, until

AT_ONCE = 8


@pytest.fixture(params=["--enable-feature=otlp-native-delta-ingestion"])
def prometheus(
    request: pytest.FixtureRequest, prometheus_program: Path, tmp_path: Path
) -> Iterator[str]:
    """A Prometheus that takes OTLP: deltas, too, with the flag that the docs name."""
    from stack import answers, free_ports  # of observability/native

    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    config = tmp_path / "prometheus.yml"
    config.write_text("otlp: {promote_resource_attributes: [deployment.environment.name]}\n")
    server = subprocess.Popen(
        [
            prometheus_program,
            f"--config.file={config}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--web.enable-otlp-receiver",
            *filter(None, [request.param]),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: answers(f"{url}/-/ready"), bool, 30, "ready")
        yield url
    finally:
        server.terminate()
        server.wait(20)


def asked(url: str, expr: str) -> list[Any]:
    """What Prometheus answers now."""
    query = urllib.parse.urlencode({"query": expr})
    with urllib.request.urlopen(f"{url}/api/v1/query?{query}", timeout=10) as answer:
        return list(json.load(answer)["data"]["result"])


def test_deltas_are_counted_exactly(
    prometheus: str, new_database: Callable[[], str], tmp_path: Path
) -> None:
    """Eight runs at once and two after them: the sum over time is what the receiver counted."""
    environment = {
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{prometheus}/api/v1/otlp/v1/metrics",
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
    }
    (tmp_path / "runs").mkdir()
    with LocalReceiver(secret=CANARIES["secret"]) as receiver:
        scenario = Scenario(tmp_path / "runs", new_database, receiver, environment)
        projects = [scenario.project("analytics", "flaky") for _ in range(AT_ONCE)]
        scenario.script("flaky", 503, 503, 503)
        scenario.run_at_once(projects)
        for project in projects[:2]:
            scenario.run(project)
        expected = Deliveries.to(receiver).outcomes()
    expr = (
        "sum by (confiture_webhook_endpoint, confiture_webhook_outcome, deployment_environment_name)"
        " (sum_over_time(confiture_webhook_deliveries_total[1h])) > 0"
    )

    def counted() -> Counter[tuple[str, str]]:
        return Counter(
            {
                (
                    series["metric"]["confiture_webhook_endpoint"],
                    series["metric"]["confiture_webhook_outcome"],
                ): int(series["value"][1])
                for series in asked(prometheus, expr)
            }
        )

    assert until(counted, lambda found: found == expected, 20, "the counts") == expected
    (runs,) = asked(prometheus, "sum(sum_over_time(confiture_runs_total[1h]))")
    assert int(runs["value"][1]) == scenario.runs


@pytest.mark.parametrize("prometheus", [""], ids=["without the flag"], indirect=True)
def test_a_server_that_refuses_deltas_costs_one_line(
    prometheus: str, project: Any, receiver: Any
) -> None:
    """The run succeeds and delivers, and one line says what was refused and what helps."""
    project.migration("001", "step", up="CREATE TABLE step (id int)", down="DROP TABLE step")
    env = {
        "CONFITURE_WEBHOOK_URL": receiver.url,
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{prometheus}/api/v1/otlp/v1/metrics",
    }
    done = project.confiture("migrate", "up", env=env)
    assert done.returncode == 0, done.stderr
    assert len(receiver.requests) == 1
    (line,) = [json.loads(one) for one in done.stderr.splitlines() if "flush_incomplete" in one]
    assert line["reason"].startswith("this collector refuses delta metrics. Set OTEL_EXPORTER_OTLP")
    assert line["lost_metric_points"] > 0
    assert "Traceback" not in done.stderr
