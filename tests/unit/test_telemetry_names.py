"""The names in the code and in ``docs/telemetry.md`` are the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from confiture_webhooks.delivery import Outcome, State
from confiture_webhooks.telemetry import names

DOCS = Path(__file__).parents[2] / "docs" / "telemetry.md"
CODE = re.compile(r"`([^`]+)`")


def table(heading: str) -> dict[str, list[str]]:
    """The rows of the table whose header starts with *heading*, by their first cell."""
    rows: dict[str, list[str]] = {}
    lines = iter(DOCS.read_text().splitlines())
    for line in lines:
        if line.startswith(f"| {heading} |"):
            next(lines)
            for row in lines:
                if not row.startswith("|"):
                    return rows
                cells = [cell.strip() for cell in row.strip("|").split("|")]
                rows[cells[0].strip("`")] = cells[1:]
    raise AssertionError(f"no table {heading!r}")


def test_spans() -> None:
    """Every span is in the docs with its name, kinds and attributes, and no other."""
    documented = {
        span: (", ".join(CODE.findall(cells[0])), cells[1], tuple(CODE.findall(cells[3])))
        for span, cells in table("span").items()
    }
    assert documented == {
        span: (spec.name, spec.kind, spec.attributes) for span, spec in names.SPANS.items()
    }


def test_span_events() -> None:
    """Every span event is in the docs with its attributes, and no other."""
    documented = {
        event: tuple(CODE.findall(cells[1])) for event, cells in table("span event").items()
    }
    assert documented == dict(names.SPAN_EVENTS)


def test_metrics() -> None:
    """Every metric is in the docs with instrument, unit, attributes and buckets, and no other."""
    documented = [
        names.MetricSpec(
            name,
            cells[0],
            cells[1],
            tuple(CODE.findall(cells[2])),
            tuple(float(bound) for bound in cells[3].split()),
        )
        for name, cells in table("metric").items()
    ]
    assert documented == list(names.METRICS)


def test_log_events() -> None:
    """Every log event is in the docs with its level and fields in order, and no other."""
    documented = [
        names.LogSpec(event, cells[0], tuple(CODE.findall(cells[1])))
        for event, cells in table("event").items()
    ]
    assert documented == list(names.LOG_EVENTS)


def test_common_fields() -> None:
    """The fields every line has are in the docs, in order."""
    sentence = re.search(r"Every JSON line has (.+?), in this order", DOCS.read_text())
    assert sentence is not None
    assert tuple(CODE.findall(sentence[1])) == names.COMMON_FIELDS


@pytest.mark.parametrize("outcome", [one.value for one in Outcome if one is not Outcome.RETRY])
def test_outcomes(outcome: str) -> None:
    """Every final outcome of a delivery has its place in metrics and logs."""
    assert outcome in names.OUTCOMES
    assert outcome in names.ENDINGS


def test_states() -> None:
    """The states in metrics are states of the outbox."""
    assert set(names.STATES) <= {state.value for state in State}


def test_nothing_extends_the_namespaces_of_others() -> None:
    """Names of our own are under ``confiture.``."""
    ours = [metric.name for metric in names.METRICS] + list(names.SPAN_EVENTS)
    assert all(name.startswith("confiture.") for name in ours)
