"""Which deliveries the words on a command line name."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from confiture_webhooks.cli import selection
from confiture_webhooks.delivery import Decision, Outcome, State
from confiture_webhooks.endpoint import Endpoint
from confiture_webhooks.outbox.sqlite import InMemoryOutbox
from samples import attempt, delivery


@pytest.mark.parametrize(("most", "taken"), [(2, 2), (3, 3), (9, 4)])
def test_so_many_are_taken_at_once_whatever_their_states(
    most: int, taken: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two dead letters and two that wait: the limit is for all of them, and the line says it."""
    monkeypatch.setattr(selection, "EVERY", most)
    outbox = InMemoryOutbox()
    for number in range(4):
        one = delivery(id=f"dlv_{number}", event_id=f"evt_{number}")
        outbox.release(one.event_id, [one])
        if number < 2:
            now, lease = datetime.now(UTC), timedelta(minutes=1)
            [claim] = outbox.claim("analytics", environment="production", now=now, lease=lease)
            outbox.record(claim, attempt(), Decision(outcome=Outcome.DEAD_LETTER))
    context: Any = SimpleNamespace(
        outbox=outbox,
        environment="production",
        settings=SimpleNamespace(recorded=[Endpoint(name="analytics", url="https://a.invalid/")]),
    )
    states = [State.PENDING, State.DEAD_LETTER]
    rows, *_ = selection.chosen(context, "discard", [], states, "analytics", False)
    assert len(rows) == taken
    assert (f"At most {most} are taken at once" in capsys.readouterr().err) == (most < 4)


@pytest.mark.parametrize("given", ["evt_4bf92f35aa", "EVT_4BF92F35AA", " evt_4bf92f35\n", "Odd_Id"])
def test_an_id_may_be_in_capitals_and_among_blanks(given: str) -> None:
    """As a log viewer or a mail shows it; one that has capitals itself is found as it is."""
    outbox = InMemoryOutbox()
    for number, event_id in enumerate(("evt_4bf92f35aa", "Odd_Id")):
        outbox.release(event_id, [delivery(id=f"dlv_{number}", event_id=event_id)])
    [row], [whole] = selection.find(outbox, given)
    assert row.delivery.event_id == whole
    assert whole.lower().startswith(given.strip().lower())


@pytest.mark.parametrize(("given", "short"), [("EVT_4BF92F3", True), ("evt_4bf92f35", False)])
def test_a_prefix_makes_no_beginning_longer(given: str, short: bool) -> None:
    """In capitals neither."""
    assert selection.is_short(given) is short
