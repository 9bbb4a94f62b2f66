"""For every policy: waits stay within their jitter, hints within their cap."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from confiture_webhooks.retry import RETRY_AFTER_FLOOR, RetryPolicy

waits = st.timedeltas(min_value=timedelta(), max_value=timedelta(days=7))
shares = st.floats(0, 1)
policies = st.builds(RetryPolicy, schedule=st.lists(waits, max_size=12).map(tuple), jitter=shares)
ROUNDING = timedelta(milliseconds=1)


@given(policies, st.integers(1, 40), shares, st.none() | waits)
def test_there_is_a_wait_exactly_while_attempts_are_left(
    policy: RetryPolicy, number: int, spread: float, hint: timedelta | None
) -> None:
    """Every attempt but the last has a wait after it, whatever chance and receiver say."""
    wait = policy.backoff(number, spread=spread, retry_after=hint)
    assert (wait is not None) is (number < policy.max_attempts)


@given(policies, shares)
def test_a_wait_stays_within_its_jitter(policy: RetryPolicy, spread: float) -> None:
    """Without a hint, a wait is at most the jitter's share away from the schedule's."""
    for number, planned in enumerate(policy.schedule, 1):
        wait = policy.backoff(number, spread=spread)
        assert wait is not None
        assert abs(wait - planned) <= planned * policy.jitter + ROUNDING
        assert wait >= timedelta()


@given(policies, shares, st.timedeltas(min_value=timedelta(), max_value=timedelta(days=9999)))
def test_a_hint_makes_a_wait_longer_within_its_cap(
    policy: RetryPolicy, spread: float, hint: timedelta
) -> None:
    """With a hint, a wait is no shorter than planned, and no longer than plan and cap allow."""
    cap = max(*policy.schedule, RETRY_AFTER_FLOOR, timedelta())
    for number in range(1, policy.max_attempts):
        planned = policy.backoff(number, spread=spread)
        wait = policy.backoff(number, spread=spread, retry_after=hint)
        assert planned is not None
        assert wait is not None
        assert planned <= wait <= max(planned, cap)
        assert wait >= min(hint, cap)
