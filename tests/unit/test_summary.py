"""The line a run ends with when it leaves deliveries behind."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from confiture_webhooks import remedy
from confiture_webhooks.delivery import Outcome, State
from confiture_webhooks.outbox import Row, Summary
from confiture_webhooks.outlook import Wait, Why
from confiture_webhooks.run.summary import LOOKED_AT, Loss, given_up_line, is_all_due, leftover_line
from contract.made import delivery

AT = datetime(2026, 1, 9, 14, 0, tzinfo=UTC)


def test_nothing_left_is_no_line() -> None:
    """When everything was reported there is nothing to read."""
    assert leftover_line({None: Summary()}, None, {}) is None


def test_the_line_reports_how_many_where_why_and_what_to_do() -> None:
    """One line holds the number, each endpoint with its reason, and the remedy."""
    left = Summary(undelivered={"ops": 1, "analytics": 3, "chat": 2})
    line = leftover_line({None: left}, None, {"analytics": "503", "chat": "timeout"})
    assert line == (
        "confiture-webhooks: 6 deliveries not sent (analytics: 3, last answer 503, "
        "chat: 2, last attempt failed: timeout, ops: 1, waiting for the next attempt). They are kept, "
        "and the next run sends them. Send them now: `confiture webhooks deliver`."
    )


@pytest.mark.parametrize(
    ("loss", "next_at", "reported"),
    [
        (None, None, "It is kept, and the next run sends it. Send it now: "),
        (None, AT, "It is kept and due at 2026-01-09T14:00:00.000Z."),
        (None, AT, "Send it now: `confiture webhooks redeliver --pending --yes`."),
        (Loss(), None, "It is lost with this process. To keep it for a later run, set CONFITURE"),
    ],
)
def test_one_delivery_is_not_plural(
    loss: Loss | None, next_at: datetime | None, reported: str
) -> None:
    """A single delivery is reported as one, and so is what becomes of it."""
    left = {None: Summary(undelivered={"ops": 1})}
    line = leftover_line(left, None, {}, next_at=next_at, loss=loss)
    assert line is not None
    assert "1 delivery not sent" in line
    assert reported in line


@pytest.mark.parametrize(("count", "reported"), [(1, "It is lost with"), (2, "They are lost with")])
def test_one_dead_letter_is_not_plural(count: int, reported: str) -> None:
    """What memory gave up is lost, one or several."""
    dead = {"ops": Counter({Outcome.DEAD_LETTER: count})}
    line = given_up_line(dead, {}, loss=Loss())
    assert line is not None
    assert reported in line


def test_what_is_in_memory_is_said_to_be_lost() -> None:
    """Without a durable outbox the line says so, and names the setting that keeps them."""
    line = leftover_line({None: Summary(undelivered={"ops": 1})}, None, {}, loss=Loss())
    assert line is not None
    assert "lost with this process" in line
    assert "CONFITURE_WEBHOOK_OUTBOX=sqlite" in line
    assert "deliver`" not in line


def test_what_an_outbox_refused_is_not_put_down_to_the_setting() -> None:
    """Where memory stands in for an outbox, the line says why, not to set what is set."""
    why = "outbox /x/webhooks.db: the disk is full. Make room on it"
    line = leftover_line(
        {None: Summary(undelivered={"ops": 1})},
        None,
        {},
        loss=Loss(why),
    )
    assert line is not None
    assert line.endswith(f"lost with this process, which could not use its {why}.")
    lost = {"ops": Counter({Outcome.DEAD_LETTER: 1})}
    given_up = given_up_line(lost, {}, loss=Loss(why))
    assert given_up is not None
    assert given_up.endswith(f"which could not use its {why}.")


def test_it_is_one_line() -> None:
    """However many endpoints there are, the line has no line end."""
    line = leftover_line({None: Summary(undelivered={f"e{n}": n for n in range(1, 50)})}, None, {})
    assert line is not None
    assert "\n" not in line


def test_other_environments_are_named_with_the_remedy() -> None:
    """What waits for another environment is not counted as this one's, and how to make it is said."""
    left = {name: Summary(undelivered={"ops": n}) for n, name in enumerate(["a", "b", None], 1)}
    line = leftover_line(left, "a", {})
    assert line is not None
    assert "1 delivery not sent (ops: 1," in line
    assert (
        "Other environments have deliveries that wait: b 2, (none) 3. The job of b sends " in line
    )
    assert (
        "sends them: `CONFITURE_ENVIRONMENT=b confiture webhooks deliver`, with the variables that its migrations run with. To send those of (none), run "
        in line
    )
    assert leftover_line(left, "c", {}) is None


def test_the_line_says_when_the_next_is_due() -> None:
    """What is not due yet is not promised now: its time is reported, and what makes it due."""
    left = {None: Summary(undelivered={"ops": 2})}
    line = leftover_line(left, None, {}, next_at=AT)
    assert line is not None
    assert "the next is due at 2026-01-09T14:00:00.000Z" in line
    assert "Send them now: `confiture webhooks redeliver --pending --yes`." in line
    assert "`confiture webhooks deliver`" not in line


def test_the_line_does_not_promise_now_what_has_to_wait() -> None:
    """Where only some are due, 'now' is said of those, and what makes the others due."""
    left = {None: Summary(undelivered={"ops": 3})}
    line = leftover_line(left, None, {}, is_all_due=False)
    assert line is not None
    assert line.endswith(
        "They are kept, and some are due. Send those now: `confiture webhooks deliver`. "
        "Send all now: `confiture webhooks redeliver --pending --yes`."
    )


def test_what_another_worker_has_in_hand_is_not_asked_for() -> None:
    """What is under way elsewhere is somebody's; a claim of one that was killed has an end."""
    left = {None: Summary(undelivered={"ops": 1}, counts={State.IN_FLIGHT: 1})}
    line = leftover_line(left, None, {}, next_at=AT)
    assert line is not None
    assert line == (
        "confiture-webhooks: 1 delivery not sent (ops: 1, under way). Another worker is sending it. "
        "If it was killed, send it from 2026-01-09T14:00:00.000Z on: `confiture webhooks deliver`."
    )


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (None, "deliver`"),
        ("db/environments/ci.yaml", "deliver --config db/environments/ci.yaml`"),
        ("my files/ci.yaml", "deliver --config 'my files/ci.yaml'`"),
    ],
)
def test_a_command_that_is_advised_names_the_environment_file(
    config: str | None, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pasted as it stands, it finds the outbox and the endpoints that the run had."""
    left = {None: Summary(undelivered={"ops": 1}), "b": Summary(undelivered={"ops": 1})}
    monkeypatch.setattr(remedy, "_used", config)
    line = leftover_line(left, None, {})
    assert line is not None
    assert f"Send it now: `confiture webhooks {named}. Other environments" in line
    theirs = "`CONFITURE_ENVIRONMENT=b confiture webhooks deliver`, with the variables that its migrations run with"
    assert f"The job of b sends them: {'run `deliver` there' if config else theirs}." in line
    assert "deliver --config b.yaml" not in line


def test_all_is_due_when_nothing_of_this_environment_waits() -> None:
    """What waits of other environments, or of endpoints that get nothing, is no matter."""

    def waiting(at: datetime, name: str = "ops", environment: str | None = None) -> Row:
        made = delivery(1, endpoint=name, environment=environment)
        return Row(delivery=made, state=State.PENDING, attempts=1, next_attempt_at=at)

    due, later = AT - timedelta(seconds=1), AT + timedelta(seconds=1)
    assert is_all_due([waiting(due)], None, ["ops"], AT)
    assert not is_all_due([waiting(due), waiting(later)], None, ["ops"], AT)
    assert is_all_due([waiting(later, "off"), waiting(later, "ops", "x")], None, ["ops"], AT)
    assert not is_all_due([waiting(due)] * LOOKED_AT, None, ["ops"], AT)


def test_deliveries_that_wait_in_vain_are_not_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that is not configured, or is off, has its own remedy, and no next run's."""
    left = {None: Summary(undelivered={"former": 2, "ops": 1})}
    waits = [
        Wait(endpoint="former", count=2, why=Why.UNKNOWN),
        Wait(endpoint="ops", count=1, why=Why.OFF, at=AT),
    ]
    monkeypatch.setattr(remedy, "_used", "x.yaml")
    line = leftover_line(left, None, {}, waits=waits)
    assert line == (
        "confiture-webhooks: 3 deliveries not sent (former: 2, no endpoint of that name is "
        "configured, ops: 1, switched off since 2026-01-09T14:00:00.000Z). They are kept. former: "
        "Configure it again, or discard its deliveries: `confiture webhooks discard --endpoint former "
        "--config x.yaml`. ops: Switch it on: `confiture webhooks enable ops --config x.yaml`."
    )


def test_an_endpoint_that_rests_is_named_with_the_end_of_its_rest() -> None:
    """Deliveries to it are not advised before: no command sends them."""
    left = {None: Summary(undelivered={"ops": 2})}
    rests = Wait(endpoint="ops", count=2, why=Why.RESTS, at=AT)
    line = leftover_line(left, None, {"ops": "429"}, waits=[rests], next_at=AT)
    assert line == (
        "confiture-webhooks: 2 deliveries not sent (ops: 2, last answer 429, rests until "
        "2026-01-09T14:00:00.000Z, as its receiver or its rate asks). They are kept; the next is due at 2026-01-09T14:00:00.000Z. "
        "The next run after that sends them. Send them then: `confiture webhooks deliver`."
    )


def test_given_up_deliveries_are_reported_with_the_remedy() -> None:
    """Dead letters and a 410 have a line of their own; delivered ones have none."""
    done = {"ops": Counter({Outcome.DELIVERED: 3, Outcome.RETRY: 1})}
    assert given_up_line(done, {}) is None
    lost = {
        "analytics": Counter({Outcome.DEAD_LETTER: 2}),
        "ops": Counter({Outcome.GONE: 1}),
    }
    assert given_up_line(lost, {"analytics": "503", "ops": "410"}) == (
        "confiture-webhooks: analytics: 2 dead letters, last answer 503. Once it works again: "
        "`confiture webhooks redeliver --dead --endpoint analytics --yes`. "
        "ops: answered 410 and is switched off. Once it works again: "
        "`confiture webhooks enable ops` and "
        "`confiture webhooks redeliver --gone --endpoint ops --yes`."
    )
