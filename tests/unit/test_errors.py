"""The errors: one root, every fault of a configuration at once, no cause reported twice."""

from __future__ import annotations

import pytest

from confiture_webhooks.errors import (
    ConfigError,
    Fault,
    OutboxError,
    SignatureError,
    TransportError,
    WebhooksError,
)

FAULTS = [
    Fault("webhooks.endpoints[0].url", "is missing", "Give it a URL"),
    Fault("CONFITURE_WEBHOOK_OUTBOX", "names no outbox", "Use sqlite"),
]


@pytest.mark.parametrize("kind", [ConfigError, OutboxError, SignatureError, TransportError])
def test_every_error_has_the_one_root(kind: type[Exception]) -> None:
    """``except WebhooksError`` catches every error this package raises on purpose."""
    assert issubclass(kind, WebhooksError)


def test_a_fault_reads_as_setting_problem_and_remedy() -> None:
    """A fault's text names the setting, what is wrong and what to do, in that order."""
    assert str(FAULTS[0]) == "webhooks.endpoints[0].url: is missing. Give it a URL"


def test_a_config_error_reports_every_fault_on_a_line_of_its_own() -> None:
    """A ConfigError holds and reports every fault, never only the first."""
    error = ConfigError(FAULTS)
    assert error.faults == tuple(FAULTS)
    assert str(error).splitlines() == [str(fault) for fault in FAULTS]


def test_a_transport_error_is_its_error_type_and_nothing_else() -> None:
    """A TransportError says why there was no answer, without any address."""
    error = TransportError("dns")
    assert (error.error_type, str(error), error.args) == ("dns", "dns", ("dns",))
