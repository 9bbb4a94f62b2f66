"""An endpoint's pace: how many to claim at once, and when to leave an endpoint alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from confiture_webhooks.delivery import Decision, Outcome
from confiture_webhooks.worker.pace import FAILING_AFTER, LARGEST_BATCH, LONGEST_REST, Pace, rest
from samples import attempt, endpoint

NOW = datetime(2026, 1, 9, tzinfo=UTC)


def test_batches_shrink_at_once() -> None:
    """One failure makes the next batch one delivery again."""
    pace = Pace(endpoint(), batch=LARGEST_BATCH)
    pace.note(attempt(status_code=503), Decision(outcome=Outcome.RETRY), NOW)
    assert pace.batch == 1


def test_rests_grow_to_a_bound() -> None:
    """Each further failure doubles the rest, never beyond the longest; success ends it."""
    rests = [rest(FAILING_AFTER + more) for more in range(100)]
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
    assert pace.is_off
    assert not pace.is_resting(NOW)


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
    pace = Pace(endpoint())
    for _ in range(5000):
        pace.note_fault()
    assert timedelta(seconds=1) * 2**pace.faults > LONGEST_REST
