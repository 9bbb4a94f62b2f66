"""An endpoint's pace: how many to claim at once, and when to leave an endpoint alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from confiture_webhooks.delivery import Decision, Outcome
from confiture_webhooks.worker.pace import (
    FAILING_AFTER,
    FIRST_REST,
    LARGEST_BATCH,
    LONGEST_REST,
    NEVER,
    Pace,
    doubled,
)
from samples import attempt, endpoint

NOW = datetime(2026, 1, 9, tzinfo=UTC)


def test_batches_shrink_at_once() -> None:
    """One failure makes the next batch one delivery again."""
    pace = Pace(endpoint(), batch=LARGEST_BATCH)
    pace.note(attempt(status_code=503), Decision(outcome=Outcome.RETRY), NOW)
    assert pace.batch == 1


def test_rests_grow_to_a_bound() -> None:
    """Each further failure doubles the rest, never beyond the longest; success ends it."""
    rests = [doubled(FIRST_REST, more) for more in range(100)]
    assert rests[:4] == [timedelta(seconds=s) for s in (2, 4, 8, 16)]
    assert set(rests[4:]) == {LONGEST_REST}
    pace = Pace(endpoint())
    for number in range(FAILING_AFTER):
        assert not pace.is_resting(NOW)
        pace.note(attempt(number + 1, status_code=500), Decision(outcome=Outcome.RETRY), NOW)
    assert pace.is_resting(NOW + timedelta(seconds=1))
    assert not pace.is_resting(NOW + timedelta(seconds=2))
    pace.note(attempt(status_code=200), Decision(outcome=Outcome.DELIVERED), NOW)
    assert pace.failures == 0


def test_gone_needs_no_rest() -> None:
    """An endpoint that is off is not claimed for: its pace does not wait for a rest to end."""
    pace = Pace(endpoint(), failures=FAILING_AFTER)
    pace.note(attempt(status_code=410), Decision(outcome=Outcome.GONE), NOW)
    assert pace.off
    assert not pace.is_resting(NOW)


def test_an_endpoint_that_is_off_stays_off_until_a_later_look_claims() -> None:
    """Neither another lane's answer that was under way ends it, nor what was claimed before it."""
    pace = Pace(endpoint())
    before = pace.begin_look()
    pace.note(attempt(status_code=410), Decision(outcome=Outcome.GONE), NOW)
    pace.note(attempt(status_code=500), Decision(outcome=Outcome.RETRY), NOW)
    pace.end_look(before, "a run", NEVER, 0.0)
    assert pace.off
    pace.end_look(pace.begin_look(), None, NEVER, 0.0)
    assert pace.off
    pace.end_look(pace.begin_look(), "a run", NEVER, 0.0)
    assert not pace.off


def test_a_look_that_something_came_after_sets_nothing() -> None:
    """What is new, or a later look has seen, is not forgotten for what an earlier one saw."""
    pace = Pace(endpoint())
    first = pace.begin_look()
    pace.news()
    assert not pace.end_look(first, None, NEVER, 1.0)
    assert pace.due_in(NOW, 1.0) == 0
    earlier, later = pace.begin_look(), pace.begin_look()
    pace.end_look(later, None, 9.0, 1.0)
    pace.end_look(earlier, None, NEVER, 1.0)
    assert pace.due_in(NOW, 1.0) == 8


@pytest.mark.parametrize(
    ("run", "due", "is_needed"),
    [
        ("a", 1.0, True),
        ("a", 4.0, True),
        ("a", 5.0, False),
        ("a", NEVER, False),
        (None, 1.0, False),
    ],
)
def test_another_lane_is_needed_for_what_is_due_beside_a_claim(
    run: str | None, due: float, *, is_needed: bool
) -> None:
    """Now, or sooner than it was expected; a lane that claimed nothing looks itself."""
    pace = Pace(endpoint(), due=5.0)
    assert pace.end_look(pace.begin_look(), run, due, 1.0) is is_needed
    pace = Pace(endpoint(), due=0.5)
    assert pace.end_look(pace.begin_look(), "a", 1.0, 1.0)


def test_a_clock_that_is_set_back_ends_a_rest() -> None:
    """A rest of before the clock went back an hour does not last an hour."""
    pace = Pace(endpoint(), failures=FAILING_AFTER)
    pace.note(attempt(status_code=500), Decision(outcome=Outcome.RETRY), NOW)
    assert pace.is_resting(NOW)
    assert not pace.is_resting(NOW - timedelta(hours=1))


def test_a_limit_of_the_receivers_rests_all_its_lanes() -> None:
    """What Retry-After asks for is longer than our own rests, and within the policy believed."""
    pace, until = Pace(endpoint()), NOW + timedelta(minutes=30)
    decision = Decision(outcome=Outcome.RETRY, next_attempt_at=until, rests_until=until)
    pace.note(attempt(status_code=429), decision, NOW)
    assert pace.is_resting(until - timedelta(seconds=1))
    assert not pace.is_resting(until)
    assert not pace.is_resting(NOW - timedelta(days=3))


def test_the_later_rest_holds() -> None:
    """Another lane's shorter wish, or our own rest, does not end it; a wrong clock's does not last."""
    pace, until = Pace(endpoint()), NOW + timedelta(minutes=30)

    def limited(seconds: float, now: datetime = NOW) -> None:
        at = now + timedelta(seconds=seconds)
        decision = Decision(outcome=Outcome.RETRY, next_attempt_at=at, rests_until=at)
        pace.note(attempt(status_code=429), decision, now)

    limited(1800)
    limited(1, NOW + timedelta(seconds=1))
    for number in range(FAILING_AFTER):
        pace.note(attempt(number + 1, status_code=500), Decision(outcome=Outcome.RETRY), NOW)
    assert pace.rests_until == until
    limited(3600)
    assert pace.rests_until == NOW + timedelta(seconds=3600)
    before = NOW - timedelta(days=3)
    limited(5, before)
    assert pace.rests_until == before + LONGEST_REST


def test_one_lane_finds_out_whether_an_endpoint_works_again() -> None:
    """After a failure one lane is busy until an attempt is accepted."""
    pace = Pace(endpoint(concurrency=8))
    assert pace.width == 8
    pace.note(attempt(status_code=500), Decision(outcome=Outcome.RETRY), NOW)
    assert pace.width == 1
    pace.note(attempt(status_code=200), Decision(outcome=Outcome.DELIVERED), NOW)
    assert pace.width == 8


def test_a_rate_gives_turns() -> None:
    """Turns are one interval apart, none is saved up, and little is claimed ahead."""
    pace = Pace(endpoint(concurrency=8, rate=timedelta(seconds=2)), batch=64)
    assert [pace.turn(clock) for clock in (10.0, 10.0, 11.0, 100.0)] == [0.0, 2.0, 3.0, 0.0]
    assert (pace.width, pace.limit) == (5, 5)
    slow = Pace(endpoint(concurrency=8, rate=timedelta(minutes=1)), batch=64)
    assert (slow.width, slow.limit) == (1, 1)
    free = Pace(endpoint())
    assert [free.turn(5.0), free.turn(5.0)] == [0.0, 0.0]


def test_a_clock_that_is_set_during_an_attempt_makes_no_rest_longer() -> None:
    """The turn after an attempt that began hours ahead is one interval away, not hours."""
    pace = Pace(endpoint(rate=timedelta(minutes=1)))
    began_at = NOW + timedelta(hours=5)
    made = replace(attempt(status_code=200), started_at=began_at)
    until = pace.note(made, Decision(outcome=Outcome.DELIVERED), NOW)
    assert until == NOW + timedelta(minutes=1) - made.duration
    assert not pace.is_resting(until)


def test_a_record_that_cannot_be_sent_rests_no_endpoint() -> None:
    """However many there are in front of others, those are sent as if they were alone."""
    pace = Pace(endpoint(), batch=8)
    for _ in range(100):
        failed = attempt(error_type="other")
        pace.note(failed, Decision(outcome=Outcome.RETRY), NOW, is_ours=True)
    assert not pace.is_resting(NOW)
    assert (pace.width, pace.batch, pace.failures, pace.failed) == (4, 8, 0, "other")


def test_faults_are_counted_up_to_a_bound() -> None:
    """An outbox that is away for weeks is asked as seldom as one that is away for minutes."""
    pace = Pace(endpoint(), due=NEVER)
    for _ in range(5000):
        pace.due = NEVER
        pace.note_fault(10.0, is_ours=False)
    assert pace.due == 10.0 + LONGEST_REST.total_seconds()
