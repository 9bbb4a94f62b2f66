"""What a collector is sent of an endpoint before anything happened to it."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.timeout(120)

ENDPOINT = "confiture.webhook.endpoint"
OUTCOME = "confiture.webhook.outcome"
OUTCOMES = ("delivered", "deferred", "dead_letter", "gone")


def test_every_counter_of_every_endpoint_begins_at_zero(
    project: Any, receiver: Any, collector: Any
) -> None:
    """One is sent an event, one is not, one cannot be: each has every counter, at 0 but for what was sent."""
    quiet = {"name": "quiet", "url": receiver.url, "events": ["migration_rollback"]}
    wrong = {"name": "wrong", "url": "${NOT_SET}"}
    project.environment_file(
        webhooks={"endpoints": [{"name": "sent", "url": receiver.url}, quiet, wrong]},
    )
    project.migration("001", "t", up="CREATE TABLE t (id int)", down="DROP TABLE t")
    done = project.confiture("migrate", "up", env={"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url})
    assert done.returncode == 0, done.stderr
    counted = {
        (point.name, *sorted(point.attributes.items())): point.value
        for point in collector.metrics
        if point.kind == "sum" and ENDPOINT in point.attributes
    }
    names = ("sent", "quiet", "wrong")
    expected: dict[tuple[Any, ...], float] = {
        ("confiture.webhook.deliveries", (ENDPOINT, name), (OUTCOME, outcome)): 0
        for name in names
        for outcome in OUTCOMES
    }
    for metric in ("confiture.webhook.retries", "confiture.webhook.failures"):
        expected |= {(metric, (ENDPOINT, name)): 0 for name in names}
    expected["confiture.webhook.deliveries", (ENDPOINT, "sent"), (OUTCOME, "delivered")] = 1
    assert counted == expected
