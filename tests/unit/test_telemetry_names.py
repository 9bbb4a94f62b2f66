"""The names of telemetry agree with each other and with what they name."""

from __future__ import annotations

import pytest

from confiture_webhooks.delivery import Outcome, State
from confiture_webhooks.telemetry import names


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
    metrics = {metric.name for metric in names.METRICS} - {names.REQUEST_DURATION.name}
    ours = [
        *metrics,
        names.RETRY_SCHEDULED,
        names.DEAD_LETTERED,
        names.MIGRATION_DONE,
    ]
    assert all(name.startswith("confiture.") for name in ours)
