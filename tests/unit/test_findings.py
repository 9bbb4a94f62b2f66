"""What an outbox holds that waits for an operator."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from confiture_webhooks.config import Settings
from confiture_webhooks.delivery import Decision, Outcome
from confiture_webhooks.doctor.findings import Health, examine, needs
from confiture_webhooks.errors import OutboxError
from confiture_webhooks.outbox import LeftBehind
from confiture_webhooks.testing import InMemoryOutbox
from samples import attempt, delivery, endpoint

NOW = datetime(2026, 1, 9, 14, 0, tzinfo=UTC)
SETTINGS = Settings(endpoints=(endpoint(name="a"),), environment="production")


@pytest.fixture
def outbox() -> InMemoryOutbox:
    """An empty outbox."""
    return InMemoryOutbox()


def put(outbox: InMemoryOutbox, *, environment: str | None, at: datetime, name: str = "a") -> None:
    """A delivery that was made, and is due, at *at*."""
    number = len(outbox.deliveries())
    one = delivery(
        id=f"dlv_{number}",
        event_id=f"evt_{number}",
        endpoint=name,
        environment=environment,
        created_at=at,
    )
    outbox.release(one.event_id, [one])
    (claim,) = outbox.claim(name, environment=environment, now=NOW, lease=timedelta(seconds=1))
    decision = Decision(outcome=Outcome.RETRY, next_attempt_at=at)
    outbox.record(claim, attempt(status_code=503), decision)


def test_an_empty_outbox_is_well(outbox: InMemoryOutbox) -> None:
    """Nothing waits for an operator."""
    assert examine(outbox, SETTINGS, NOW).is_well


def test_deliveries_on_their_way_are_well(outbox: InMemoryOutbox) -> None:
    """What is due soon, here or elsewhere, has its worker."""
    for environment in ("production", "staging", None):
        put(outbox, environment=environment, at=NOW + timedelta(minutes=5))
    found = examine(outbox, SETTINGS, NOW)
    assert found.is_well
    assert found.others == {"staging": 1, None: 1}


def test_an_environment_without_a_worker_is_named(outbox: InMemoryOutbox) -> None:
    """A delivery that is due for longer than fifteen minutes elsewhere has no worker."""
    due_at = NOW - timedelta(minutes=16)
    put(outbox, environment=None, at=due_at)
    put(outbox, environment="staging", at=NOW - timedelta(minutes=14))
    found = examine(outbox, SETTINGS, NOW)
    assert not found.is_well
    assert found.unserved == {None: (1, due_at)}


def test_an_endpoint_that_is_off_elsewhere_is_not_without_a_worker(outbox: InMemoryOutbox) -> None:
    """Its deliveries wait for its operator, not for a worker."""
    put(outbox, environment="staging", at=NOW - timedelta(hours=1))
    outbox.disable("a", "staging", NOW)
    assert examine(outbox, SETTINGS, NOW).is_well


def test_deliveries_of_the_future_are_named(outbox: InMemoryOutbox) -> None:
    """A delivery that was made tomorrow was made by a clock that was wrong."""
    put(outbox, environment="production", at=NOW + timedelta(days=1))
    put(outbox, environment="production", at=NOW)
    put(outbox, environment="staging", at=NOW + timedelta(days=1))
    assert examine(outbox, SETTINGS, NOW).future == ["dlv_0"]


def test_no_two_rows_have_one_name(outbox: InMemoryOutbox) -> None:
    """Deliveries, killed runs and those of other environments that cannot be read are told apart."""
    killed = {"production": ["evt_1"], None: ["evt_2"]}
    found = examine(outbox, SETTINGS, NOW)
    found = replace(found, unreadable=["dlv_1"], unreadable_runs=killed)
    names = [row.check for row in needs(found)]
    assert len(set(names)) == len(names) == 3


@pytest.mark.parametrize(
    ("found", "is_well"),
    [
        ({"unreadable": ["dlv_1"]}, False),
        ({"unreadable_runs": {"production": ["evt_1"]}}, False),
        ({"unreadable_runs": {"staging": ["evt_1"]}}, False),
        ({"old_intents": {"production": 1}}, False),
        ({"old_intents": {"staging": 1}}, False),
        ({"left_in_file": OutboxError("it is damaged")}, False),
        ({"left_in_file": {"production": LeftBehind(1, 0, 0, 0, 0)}}, False),
        ({"left_in_file": {"production": LeftBehind(0, 0, 0, 1, 0)}}, False),
        ({"left_in_file": {"production": LeftBehind(0, 0, 0, 0, 1)}}, True),
        ({"left_in_file": {"staging": LeftBehind(1, 1, 1, 1, 1)}}, True),
        ({"left_in_database": {"production": LeftBehind(1, 1, 1, 1, 1)}}, True),
    ],
)
def test_a_row_that_is_a_problem_is_not_well(
    outbox: InMemoryOutbox, found: dict[str, Any], is_well: bool
) -> None:
    """A run that may be under way, and what others may send from an outbox of theirs, are not."""
    findings = replace(examine(outbox, SETTINGS, NOW), **found)
    assert findings.is_well is is_well
    statuses = {row.status for row in needs(findings)}
    assert statuses == {Health.WARNING if is_well else Health.PROBLEM}


def test_the_command_for_what_was_left_in_a_file_can_be_pasted(outbox: InMemoryOutbox) -> None:
    """The file's path may have a blank."""
    left = {"production": LeftBehind(1, 0, 0, 0, 0)}
    found = examine(outbox, SETTINGS, NOW)
    (row,) = needs(replace(found, left_in_file=left, left_file="sqlite:/my files/webhooks.db"))
    shown = "CONFITURE_WEBHOOK_OUTBOX='sqlite:/my files/webhooks.db' confiture webhooks redeliver"
    assert shown in (row.remedy or "")


def test_the_remedy_for_what_ended_is_about_its_own_endpoints(outbox: InMemoryOutbox) -> None:
    """An endpoint that is off keeps its 410 from being sent again, and no one's dead letter."""
    ends = {"a": Outcome.DEAD_LETTER, "b": Outcome.GONE}
    for name, outcome in ends.items():
        put(outbox, environment="production", at=NOW, name=name)
        (claim,) = outbox.claim(name, environment="production", now=NOW, lease=timedelta(seconds=1))
        outbox.record(claim, attempt(2, status_code=410), Decision(outcome=outcome))
    both = Settings(endpoints=tuple(endpoint(name=name) for name in ends), environment="production")
    dead, gone = needs(examine(outbox, both, NOW))
    assert (dead.check, gone.check) == ("dead letters", "answered with 410")
    assert str(dead.remedy).startswith("Send them again: ")
    assert str(gone.remedy).startswith("b: Switch it on")


def test_old_killed_runs_are_looked_at_here_and_reported_elsewhere(outbox: InMemoryOutbox) -> None:
    """`status` names each of this environment; another's are settled by its own `deliver`."""
    killed = {"production": 1, "staging": 2}
    here, there = needs(replace(examine(outbox, SETTINGS, NOW), old_intents=killed))
    assert (here.check, there.check) == ("unsettled", "unsettled of staging")
    assert "webhooks status" in here.remedy
    assert "webhooks deliver" in there.remedy


def test_an_endpoint_that_is_off_is_not_late(outbox: InMemoryOutbox) -> None:
    """Off comes before late: switching it on comes first."""
    put(outbox, environment="production", at=NOW - timedelta(hours=1))
    assert [wait.why for wait in examine(outbox, SETTINGS, NOW).waits] == ["unserved"]
    outbox.disable("a", "production", NOW)
    assert [wait.why for wait in examine(outbox, SETTINGS, NOW).waits] == ["off"]
