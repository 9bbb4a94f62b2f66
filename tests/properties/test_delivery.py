"""For every attempt: a decision that is consistent with itself."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from confiture_webhooks.delivery import ERROR_TYPES, LIMITS, Attempt, Outcome, decide
from confiture_webhooks.retry import RetryPolicy
from samples import AT, attempt

waits = st.timedeltas(min_value=timedelta(), max_value=timedelta(days=7))
policies = st.builds(
    RetryPolicy, schedule=st.lists(waits, max_size=10).map(tuple), jitter=st.floats(0, 1)
)
answers = st.builds(
    attempt, number=st.integers(1, 100), status_code=st.integers(100, 599),
    retry_after=st.none() | waits,
)  # fmt: skip
silences = st.builds(
    attempt, number=st.integers(1, 100), error_type=st.sampled_from(sorted(ERROR_TYPES))
)


@given(policies, answers | silences, st.integers(1, 20), st.floats(0, 1))
def test_a_decision_is_consistent(
    policy: RetryPolicy, made: Attempt, tries: int, spread: float
) -> None:
    """Exactly a retry has a next attempt, never in the past; success and 410 never retry."""
    decision = decide(policy, made, tries=tries, now=AT, spread=spread)
    is_retry = decision.outcome is Outcome.RETRY
    assert (decision.next_attempt_at is not None) is is_retry
    assert decision.next_attempt_at is None or decision.next_attempt_at >= AT
    assert (decision.outcome is Outcome.DELIVERED) is made.is_success
    assert (decision.outcome is Outcome.GONE) is (made.status_code == 410)
    if not made.is_success and made.status_code != 410:
        is_limit = made.status_code in LIMITS and bool(made.retry_after)
        assert (decision.rests_until is not None) is is_limit
        assert is_retry is (is_limit or tries < policy.max_attempts)


@given(policies, silences, st.floats(0, 1))
def test_a_delivery_that_always_fails_ends(
    policy: RetryPolicy, made: Attempt, spread: float
) -> None:
    """After ``max_attempts`` failures, and not before, the delivery is a dead letter."""
    outcomes = [
        decide(policy, made, tries=tries, now=AT, spread=spread).outcome
        for tries in range(1, policy.max_attempts + 1)
    ]
    assert outcomes[-1] is Outcome.DEAD_LETTER
    assert set(outcomes[:-1]) <= {Outcome.RETRY}
