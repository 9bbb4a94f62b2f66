"""What follows an attempt: every answer is one of four outcomes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from confiture_webhooks.delivery import ERROR_TYPES, Decision, Outcome, State, decide
from confiture_webhooks.retry import RetryPolicy
from samples import AT, attempt

POLICY = RetryPolicy(schedule=(timedelta(seconds=2), timedelta(seconds=4)), jitter=0)


def decided(*, tries: int = 1, **facts: Any) -> Decision:
    """What follows an attempt with these facts."""
    return decide(POLICY, attempt(**facts), tries=tries, now=AT, spread=0.5)


def expected(status: int, *, is_last: bool) -> Outcome:
    """The outcome the contract names for *status*."""
    if 200 <= status <= 299:
        return Outcome.DELIVERED
    if status == 410:
        return Outcome.GONE
    return Outcome.DEAD_LETTER if is_last else Outcome.RETRY


@pytest.mark.parametrize("is_last", [False, True])
def test_every_status_is_classified(is_last: bool) -> None:
    """2xx is delivered, 410 is gone, every other status is tried again until none is left."""
    for status in range(100, 600):
        outcome = decided(status_code=status, tries=3 if is_last else 1).outcome
        assert outcome is expected(status, is_last=is_last), status


@pytest.mark.parametrize("error_type", sorted(ERROR_TYPES))
def test_every_network_error_is_tried_again(error_type: str) -> None:
    """No network error is final before the schedule is used up."""
    assert decided(error_type=error_type).outcome is Outcome.RETRY
    assert decided(error_type=error_type, tries=3).outcome is Outcome.DEAD_LETTER


def test_every_outcome_is_reached() -> None:
    """No outcome exists that no attempt leads to."""
    reached = {decided(status_code=status).outcome for status in (200, 410, 500)}
    reached.add(decided(status_code=500, tries=3).outcome)
    assert reached == set(Outcome)


def test_a_retry_is_at_the_end_of_its_wait() -> None:
    """The next attempt is due when the wait of the schedule is over, counted from now."""
    assert decided(status_code=500).next_attempt_at == AT + timedelta(seconds=2)
    assert decided(status_code=500, tries=2).next_attempt_at == AT + timedelta(seconds=4)


@pytest.mark.parametrize("facts", [{"status_code": 200}, {"status_code": 410}])
def test_a_final_outcome_has_no_next_attempt(facts: dict[str, int]) -> None:
    """Nothing is due after a delivered or gone delivery."""
    assert decided(**facts).next_attempt_at is None
    assert decided(status_code=500, tries=3).next_attempt_at is None


def test_retry_after_moves_the_next_attempt() -> None:
    """A receiver's hint beyond the schedule is when the next attempt is due."""
    hint = timedelta(minutes=5)
    assert decided(status_code=429, retry_after=hint).next_attempt_at == AT + hint


def test_a_redelivery_starts_the_schedule_over() -> None:
    """The schedule counts tries, not the attempt's number, which goes on."""
    again = decide(POLICY, attempt(9, status_code=500), tries=1, now=AT, spread=0.5)
    assert again.next_attempt_at == AT + timedelta(seconds=2)


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Outcome.DELIVERED, State.DELIVERED),
        (Outcome.RETRY, State.PENDING),
        (Outcome.DEAD_LETTER, State.DEAD_LETTER),
        (Outcome.GONE, State.GONE),
    ],
)
def test_an_outcome_leaves_the_delivery_in_its_state(outcome: Outcome, state: State) -> None:
    """After a retry the delivery is pending; after every other outcome it stays as it is called."""
    assert outcome.state is state


@pytest.mark.parametrize(
    ("facts", "failure"),
    [
        ({"status_code": 204}, None),
        ({"status_code": 302}, "302"),
        ({"status_code": 503}, "503"),
        ({"error_type": "dns"}, "dns"),
    ],
)
def test_a_failure_is_the_status_or_why_there_was_none(
    facts: dict[str, Any], failure: str | None
) -> None:
    """A failed attempt's ``error.type`` is its status code, or the reason it had no answer."""
    assert attempt(**facts).failure == failure
    assert attempt(**facts).is_success is (failure is None)


@pytest.mark.parametrize("status_code", [429, 503])
def test_a_limit_uses_up_no_try(status_code: int) -> None:
    """A 429 or 503 with a Retry-After rests the endpoint, even after the schedule's last try."""
    policy = RetryPolicy(schedule=(timedelta(seconds=2),), jitter=0)
    limited = attempt(status_code=status_code, retry_after=timedelta(seconds=20))
    for tries in (1, 2, 9):
        decision = decide(policy, limited, tries=tries, now=AT, spread=0.5)
        until = AT + timedelta(seconds=20)
        assert decision == Decision(outcome=Outcome.RETRY, next_attempt_at=until, rests_until=until)


@pytest.mark.parametrize(
    ("status_code", "wait"), [(429, None), (503, timedelta()), (500, timedelta(seconds=20))]
)
def test_other_failures_use_up_a_try(status_code: int, wait: timedelta | None) -> None:
    """Without a wait that the receiver asks for, or with another status, it is a try as any."""
    failed = attempt(status_code=status_code, retry_after=wait)
    policy = RetryPolicy(schedule=(timedelta(seconds=2),), jitter=0)
    assert decide(policy, failed, tries=1, now=AT, spread=0.5).rests_until is None
    assert decide(policy, failed, tries=2, now=AT, spread=0.5).outcome is Outcome.DEAD_LETTER
