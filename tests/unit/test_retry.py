"""The schedule: when the next attempt is made, and when there is none."""

from __future__ import annotations

from datetime import timedelta

import pytest

from confiture_webhooks.retry import RETRY_AFTER_FLOOR, RetryPolicy

SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)
STEADY = RetryPolicy(schedule=(2 * SECOND, 4 * SECOND), jitter=0)


def test_the_schedule_gives_the_waits_in_order() -> None:
    """The wait after attempt n is the n-th of the schedule; after the last there is none."""
    assert [STEADY.backoff(n) for n in (1, 2, 3, 4)] == [2 * SECOND, 4 * SECOND, None, None]


def test_max_attempts_counts_the_first() -> None:
    """A schedule of n waits allows n + 1 attempts; an empty one allows one."""
    assert STEADY.max_attempts == 3
    assert RetryPolicy(schedule=()).max_attempts == 1
    assert RetryPolicy(schedule=()).backoff(1) is None


def test_the_default_schedule_lasts_most_of_a_day() -> None:
    """Without a choice: 2 s, 4 s, 5 min, 30 min, 2 h, 5 h, 10 h, spread by a fifth."""
    policy = RetryPolicy()
    assert [wait.total_seconds() for wait in policy.schedule] == [
        2, 4, 300, 1800, 7200, 18000, 36000,
    ]  # fmt: skip
    assert (policy.jitter, policy.max_attempts) == (0.2, 8)


@pytest.mark.parametrize(("spread", "wait"), [(0.0, 8), (0.5, 10), (1.0, 12)])
def test_jitter_spreads_the_wait_around_itself(spread: float, wait: float) -> None:
    """A jitter of a fifth puts a wait of 10 s between 8 s and 12 s."""
    policy = RetryPolicy(schedule=(10 * SECOND,), jitter=0.2)
    assert policy.backoff(1, spread=spread) == wait * SECOND


def test_retry_after_makes_a_wait_longer_and_never_shorter() -> None:
    """The later of the receiver's hint and the schedule counts."""
    assert STEADY.backoff(1, retry_after=60 * SECOND) == 60 * SECOND
    assert STEADY.backoff(1, retry_after=SECOND) == 2 * SECOND


def test_retry_after_is_capped_at_an_hour_when_the_schedule_is_shorter() -> None:
    """A receiver that asks for a week gets an hour."""
    assert STEADY.backoff(1, retry_after=168 * HOUR) == RETRY_AFTER_FLOOR == HOUR


def test_retry_after_is_capped_at_the_longest_wait_of_a_longer_schedule() -> None:
    """A receiver that asks for a week gets the schedule's longest wait."""
    policy = RetryPolicy(schedule=(SECOND, 10 * HOUR, 2 * SECOND), jitter=0)
    assert policy.backoff(1, retry_after=168 * HOUR) == 10 * HOUR


def test_retry_after_adds_no_attempt() -> None:
    """A hint after the last attempt changes nothing: there is no more."""
    assert STEADY.backoff(3, retry_after=SECOND) is None


@pytest.mark.parametrize("number", [0, -1])
def test_attempts_are_counted_from_one(number: int) -> None:
    """There is no attempt 0."""
    with pytest.raises(ValueError, match="from 1"):
        STEADY.backoff(number)


def test_every_wait_is_believed() -> None:
    """An instant that another worker wrote is no clock's fault while the clocks nearly agree."""
    for policy in (STEADY, RetryPolicy(), RetryPolicy(schedule=()), RetryPolicy(jitter=1)):
        longest = [policy.backoff(n + 1, spread=1) for n in range(len(policy.schedule))]
        longest += [policy.rest(168 * HOUR)]
        assert all(wait + 60 * SECOND < policy.longest_wait for wait in longest if wait)
    assert RetryPolicy().longest_wait < 24 * HOUR
