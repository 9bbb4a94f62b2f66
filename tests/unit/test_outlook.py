"""Who waits in vain, and the command that changes it."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from confiture_webhooks import remedy
from confiture_webhooks.errors import Fault
from confiture_webhooks.outlook import (
    LATE,
    PATIENCE,
    EndpointStatus,
    Why,
    by_environment,
    elsewhere,
    once_possible,
    outlook,
)
from confiture_webhooks.remedy import command
from samples import endpoint

NOW = datetime(2026, 1, 9, 14, 0, tzinfo=UTC)
EARLIER = NOW - timedelta(hours=1)
A = endpoint(name="a")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"configured": [A], "statuses": {"a": EndpointStatus(EARLIER, None)}}, Why.OFF),
        ({"configured": []}, Why.UNKNOWN),
        ({"configured": [], "statuses": {"a": EndpointStatus(EARLIER, None)}}, Why.UNKNOWN),
        ({"configured": [replace(A, faults=(Fault("url", "is blank", "Add it"),))]}, Why.FAULTY),
        (
            {
                "configured": [A],
                "statuses": {"a": EndpointStatus(None, NOW + timedelta(minutes=1))},
            },
            Why.RESTS,
        ),
        ({"configured": [A], "due": {"a": EARLIER}}, Why.UNSERVED),
        (
            {
                "configured": [A],
                "statuses": {"a": EndpointStatus(None, NOW)},
                "oldest": {"a": NOW - 2 * PATIENCE},
            },
            Why.LIMITED,
        ),
    ],
)
def test_a_reason_for_each_kind_of_wait(
    given: dict[str, Any], why: Why, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each state an endpoint can be in has its own reason and its own command."""
    (wait,) = outlook({"a": 2}, now=NOW, **given)
    assert (wait.endpoint, wait.count, wait.why) == ("a", 2, why)
    monkeypatch.setattr(remedy, "_used", "x.yaml")
    assert wait.line.startswith("a: ") and "(2 waiting). " in wait.line
    assert "`confiture webhooks " in wait.remedy
    assert wait.remedy.endswith("--config x.yaml`")
    # What a remedy discards is not there to be sent, and one that only rests needs no remedy.
    begin = "If you keep them, then s" if " discard " in wait.remedy else "Then s"
    then = "Send it" if why is Why.RESTS else f"a: {wait.remedy}. {begin}end it"
    assert once_possible([wait], "Send it") == then


@pytest.mark.parametrize(
    "given",
    [
        {"statuses": {"a": EndpointStatus(None, NOW)}, "oldest": {"a": NOW - PATIENCE}},
        {
            "statuses": {"a": EndpointStatus(None, NOW - 2 * LATE)},
            "oldest": {"a": NOW - 2 * PATIENCE},
        },
        {"statuses": {"a": EndpointStatus(None, NOW + timedelta(days=3))}},
        {"due": {"a": NOW - timedelta(minutes=14)}},
        {"due": {"a": None}},
        {},
    ],
)
def test_deliveries_that_are_sent_when_due_have_no_reason(given: dict[str, Any]) -> None:
    """An endpoint that is on, configured and not late is not named."""
    assert outlook({"a": 2}, now=NOW, configured=[A], **given) == []


def test_an_endpoint_without_deliveries_is_not_named() -> None:
    """Nothing waits, so nothing waits in vain."""
    assert outlook({"a": 0}, now=NOW, configured=[]) == []


def test_the_environment_without_a_name_is_none_on_screens() -> None:
    """Inside it is empty or absent; shown it is (none)."""
    assert elsewhere({None: 1, "a": 2, "b": 0}, "a") == {None: 1}
    assert elsewhere({"": 1, "a": 2}, None) == {"a": 2}
    assert by_environment({None: 1}) == by_environment({"": 1}) == {"(none)": 1}


def test_plain_words_stay_plain() -> None:
    """What needs no quotes has none."""
    line = command("discard", "dlv_1", config="x.yaml")
    assert line == "confiture webhooks discard dlv_1 --config x.yaml"
    assert shlex.split(line)[-1] == "x.yaml"


@pytest.mark.parametrize(("is_terminal", "agreed"), [(True, ""), (False, " --yes")])
def test_a_command_that_asks_agrees_where_nobody_can(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool, agreed: str
) -> None:
    """On a terminal redeliver asks; in a job it could not, so --yes is shown, once."""
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: is_terminal))
    assert command("redeliver", "--pending") == f"confiture webhooks redeliver --pending{agreed}"
    given = command("redeliver", "--dead", "--yes")
    assert given == "confiture webhooks redeliver --dead --yes"
