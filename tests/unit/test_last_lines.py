"""The line a run ends with when it leaves deliveries behind."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import pytest

from confiture_webhooks import remedy
from confiture_webhooks.delivery import Outcome, State
from confiture_webhooks.errors import CUT, UNRECORDED
from confiture_webhooks.outbox import Summary
from confiture_webhooks.outbox.summary import summaries
from confiture_webhooks.outlook import Wait, Why
from confiture_webhooks.run.sending import given_up_line, leftover_line, loss_line

AT = datetime(2026, 1, 9, 14, 0, tzinfo=UTC)


def test_nothing_left_is_no_line() -> None:
    """When everything was reported there is nothing to read."""
    assert leftover_line({None: Summary()}, None, {}) is None


def test_the_line_reports_how_many_where_why_and_what_to_do() -> None:
    """One line holds the number, each endpoint with its reason, and the remedy."""
    left = Summary(undelivered={"ops": 1, "analytics": 3, "chat": 2})
    line = leftover_line({None: left}, None, {"analytics": "503", "chat": "timeout"})
    assert line == (
        "confiture-webhooks: 6 deliveries not sent (analytics: 3, last answer 503; "
        "chat: 2, last attempt failed: timeout; ops: 1, waiting for the next attempt). Each is kept, "
        "and sent by the next run when it is due. "
        "Send those due now: `confiture webhooks deliver`."
    )


def test_an_attempt_that_the_run_ended_is_not_put_down_to_a_setting() -> None:
    """The run may have waited its whole time, or somebody has ended the wait: both are true of it."""
    line = leftover_line({None: Summary(undelivered={"ops": 1})}, None, {"ops": CUT})
    assert line is not None
    assert "(ops: 1, no answer before the run stopped waiting)" in line


def test_what_is_in_memory_is_said_to_be_lost() -> None:
    """Without a durable outbox the line says so, and names the setting that keeps them."""
    line = leftover_line({None: Summary(undelivered={"ops": 1})}, None, {}, loss=loss_line())
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
        loss=loss_line(why),
    )
    assert line is not None
    assert line.endswith(f"lost with this process, which could not use its {why}.")
    lost = {"ops": Counter({Outcome.DEAD_LETTER: 1})}
    given_up = given_up_line(lost, {}, loss=loss_line(why))
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
        "sends them: `CONFITURE_ENVIRONMENT=b confiture webhooks deliver`, with the variables that its migrations run with. The job of (none) sends them: `CONFITURE_ENVIRONMENT='' confiture"
        in line
    )
    assert leftover_line(left, "c", {}) is None


def test_the_line_says_when_the_next_is_due() -> None:
    """What is not due yet is not promised now: its time is reported, and what makes it due."""
    left = {None: Summary(undelivered={"ops": 2})}
    line = leftover_line(left, None, {}, next_at=AT)
    assert line is not None
    assert "when it is due, the first at 2026-01-09T14:00:00.000Z. Send all now: " in line
    assert "`confiture webhooks deliver`" not in line


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
    assert f"Send those due now: `confiture webhooks {named}. Other" in line
    theirs = "`CONFITURE_ENVIRONMENT=b confiture webhooks deliver`, with the variables that its migrations run with"
    assert f"The job of b sends them: {theirs}." in line
    assert "deliver --config b.yaml" not in line


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
        "configured; ops: 1, switched off since 2026-01-09T14:00:00.000Z). Each is kept. "
        "former: Configure it again, or discard its deliveries: `confiture webhooks discard --endpoint former "
        "--config x.yaml`. ops: Switch it on: `confiture webhooks enable ops --config x.yaml`."
    )


def test_the_next_run_is_promised_to_those_that_it_sends() -> None:
    """Beside an endpoint that is off, the others' deliveries go out."""
    left = {None: Summary(undelivered={"chat": 2, "ops": 1})}
    off = Wait(endpoint="ops", count=1, why=Why.OFF, at=AT)
    line = leftover_line(left, None, {"chat": "503"}, waits=[off], next_at=AT)
    assert line is not None
    assert (
        "Each is kept. The next run sends those to chat, the first at 2026-01-09T14:00:00.000Z. "
        "ops: Switch it on: "
    ) in line


def test_deliveries_that_another_worker_sends_are_not_asked_for() -> None:
    """If that worker was killed, its lease has an end."""
    left = {None: Summary(undelivered={"ops": 1}, counts={State.IN_FLIGHT: 1})}
    line = leftover_line(left, None, {}, next_at=AT)
    assert line == (
        "confiture-webhooks: 1 delivery not sent (ops: 1, under way). Another worker is sending it. "
        "If that was killed, send it from 2026-01-09T14:00:00.000Z on: `confiture webhooks deliver`."
    )


def test_deliveries_behind_another_workers_are_not_made_due() -> None:
    """Nothing failed here, and they are due: if that worker was killed, `deliver` sends them."""
    left = {None: Summary(undelivered={"ops": 3}, counts={State.IN_FLIGHT: 1, State.PENDING: 2})}
    line = leftover_line(left, None, {}, next_at=AT)
    assert line is not None
    assert line.endswith("Unless a worker runs, send them then: `confiture webhooks deliver`.")
    failed = leftover_line(left, None, {"ops": "503"}, next_at=AT)
    assert failed is not None
    assert "Send all now: `confiture webhooks redeliver --pending" in failed


def test_no_other_worker_is_blamed_for_what_could_not_be_recorded() -> None:
    """The lease is this run's: the answer came, and the outbox did not take it."""
    left = {None: Summary(undelivered={"ops": 2}, counts={State.IN_FLIGHT: 2})}
    line = leftover_line(left, None, {"ops": UNRECORDED}, next_at=AT)
    assert line == (
        "confiture-webhooks: 2 deliveries not recorded as sent (ops: 2, the outbox could not record "
        "the outcome). Each may have arrived. Send them again from 2026-01-09T14:00:00.000Z on: "
        "`confiture webhooks deliver`."
    )


def test_an_endpoint_that_rests_is_named_with_the_end_of_its_rest() -> None:
    """Deliveries to it are not advised before: no command sends them."""
    left = {None: Summary(undelivered={"ops": 2})}
    rests = Wait(endpoint="ops", count=2, why=Why.RESTS, at=AT)
    line = leftover_line(left, None, {"ops": "429"}, waits=[rests], next_at=AT)
    assert line == (
        "confiture-webhooks: 2 deliveries not sent (ops: 2, rests until 2026-01-09T14:00:00.000Z, "
        "as its receiver or its rate asks). Each is kept, and sent by the next run when it is due, "
        "the first at 2026-01-09T14:00:00.000Z. ops: Send them then: `confiture webhooks deliver`."
    )


def test_given_up_deliveries_are_reported_with_the_remedy() -> None:
    """Dead letters and a 410 have a line of their own."""
    lost = {
        "analytics": Counter({Outcome.DEAD_LETTER: 2}),
        "ops": Counter({Outcome.GONE: 1}),
    }
    assert given_up_line(lost, {"analytics": "503", "ops": "410"}) == (
        "confiture-webhooks: analytics: 2 dead letters, last answer 503. Send dead letters again: "
        "`confiture webhooks redeliver --dead --endpoint analytics --yes`. "
        "ops: answered 410 and is switched off. Once it works again: `confiture webhooks enable ops`. "
        "Deliveries answered with 410 are not retried. Send them again: "
        "`confiture webhooks redeliver --gone --endpoint ops --yes`."
    )


def test_the_oldest_is_of_whatever_is_undelivered() -> None:
    """An endpoint's deliveries are counted by state; the oldest of all of them counts."""
    instants = (1_000_000, 2_000_000)
    for of_states in (instants, instants[::-1]):
        rows = [
            {"environment": "", "endpoint": "a", "state": state, "count": 2, "oldest_at": at}
            for state, at in zip((State.PENDING, State.IN_FLIGHT), of_states, strict=True)
        ]
        summary = summaries(rows, [])[None]
        assert (summary.waiting, summary.total) == (4, 4)
        assert summary.oldest_at == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
