"""A lane: how many to claim at once, and when to leave an endpoint alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from confiture_webhooks.delivery import Outcome
from confiture_webhooks.worker.lane import FAILING_AFTER, LARGEST_BATCH, LONGEST_REST, Lane, rest
from samples import attempt, endpoint

NOW = datetime(2026, 1, 9, tzinfo=UTC)


def test_batches_grow_while_all_goes_well_and_shrink_at_once() -> None:
    """Whole batches double the next one up to a bound; one failure makes it one again."""
    lane = Lane(endpoint())
    for _ in range(20):
        lane.note_whole_batch()
    assert lane.batch == LARGEST_BATCH
    lane.note(attempt(status_code=503), Outcome.RETRY, NOW)
    assert lane.batch == 1


def test_rests_grow_to_a_bound() -> None:
    """Each further failure doubles the rest, never beyond the longest; success ends it."""
    rests = [rest(FAILING_AFTER + more) for more in range(100)]
    assert rests[:4] == [timedelta(seconds=s) for s in (2, 4, 8, 16)]
    assert set(rests[4:]) == {LONGEST_REST}
    lane = Lane(endpoint())
    for number in range(FAILING_AFTER):
        assert not lane.is_resting(NOW)
        lane.note(attempt(number + 1, status_code=500), Outcome.RETRY, NOW)
    assert lane.is_resting(NOW + timedelta(seconds=1))
    assert not lane.is_resting(NOW + timedelta(seconds=2))
    lane.note(attempt(status_code=200), Outcome.DELIVERED, NOW)
    assert lane.failures == 0


def test_gone_needs_no_rest() -> None:
    """An endpoint that is off is not claimed for: its lane does not wait for a rest to end."""
    lane = Lane(endpoint(), failures=FAILING_AFTER)
    lane.note(attempt(status_code=410), Outcome.GONE, NOW)
    assert lane.is_gone
    assert not lane.is_resting(NOW)


def test_a_clock_that_is_set_back_ends_a_rest() -> None:
    """A rest of before the clock went back an hour does not last an hour."""
    lane = Lane(endpoint(), failures=FAILING_AFTER)
    lane.note(attempt(status_code=500), Outcome.RETRY, NOW)
    assert lane.is_resting(NOW)
    assert not lane.is_resting(NOW - timedelta(hours=1))
