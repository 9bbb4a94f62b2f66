"""The names in the code and in ``docs/telemetry.md`` are the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from confiture_webhooks.delivery import Outcome, State
from confiture_webhooks.telemetry import names

DOCS = Path(__file__).parents[2] / "docs" / "telemetry.md"
CODE = re.compile(r"`([^`]+)`")


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
    ours = [metric.name for metric in names.METRICS] + [
        names.RETRY_SCHEDULED,
        names.DEAD_LETTERED,
        names.MIGRATION_DONE,
    ]
    assert all(name.startswith("confiture.") for name in ours)
