"""One event for one endpoint: a ``Delivery``, its ``Attempt``s, and the decision after each.

Everything here is a pure function of values: no clock, no randomness, no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from http import HTTPStatus

from .event import EventType
from .retry import RetryPolicy

ACCEPTED = range(HTTPStatus.OK, HTTPStatus.MULTIPLE_CHOICES)
LIMITS = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
"""With a ``Retry-After``, answers about the endpoint's limit (RFC 9110, 10.2.3; RFC 6585, 4)."""

ERROR_TYPES = frozenset(
    (
        *("timeout", "connection_refused", "connection_reset", "dns", "tls"),
        *("protocol", "proxy", "too_slow", "other"),
    )
)
"""Why an attempt had no answer. With an answer, the status code is the error type."""


class State(StrEnum):
    """Where a delivery stands in the outbox."""

    PENDING = "pending"
    IN_FLIGHT = "in_flight"
    DELIVERED = "delivered"
    DEAD_LETTER = "dead_letter"
    GONE = "gone"


class Outcome(StrEnum):
    """The result of an attempt. ``RETRY`` keeps the delivery pending; the others are final."""

    DELIVERED = "delivered"
    RETRY = "retry"
    DEAD_LETTER = "dead_letter"
    GONE = "gone"

    @property
    def state(self) -> State:
        """The state a delivery is in after it."""
        return State.PENDING if self is Outcome.RETRY else State(self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceContext:
    """The W3C trace context a delivery continues, as header values; never baggage."""

    traceparent: str
    tracestate: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One event for one endpoint, until delivered or dead. Holds no URL and no secret."""

    id: str
    event_id: str
    event_type: EventType
    endpoint: str
    body: bytes
    """Exactly the bytes to send, on every attempt."""
    content_type: str
    trace: TraceContext
    correlation_id: str
    created_at: datetime
    migration_version: str | None = None
    migration_name: str | None = None
    environment: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One HTTP try. Exactly one of ``status_code`` and ``error_type`` is set."""

    number: int
    """From 1; counts on over restarts and redeliveries."""
    started_at: datetime
    duration: timedelta
    status_code: int | None = None
    error_type: str | None = None
    retry_after: timedelta | None = None
    reason: str | None = field(default=None, compare=False)
    """Why it could not be made, for the log; not stored."""

    @property
    def is_success(self) -> bool:
        """Whether the receiver accepted: any 2xx."""
        return self.status_code in ACCEPTED

    @property
    def answer(self) -> str | None:
        """The status code as text, or why there was none."""
        return str(self.status_code) if self.status_code is not None else self.error_type

    @property
    def failure(self) -> str | None:
        """``error.type`` of a failed attempt: its answer; ``None``: it did not fail."""
        return None if self.is_success else self.answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """After an attempt; ``next_attempt_at`` is set exactly when ``outcome`` is RETRY."""

    outcome: Outcome
    next_attempt_at: datetime | None = None
    rests_until: datetime | None = None
    """The receiver limits all requests until then: the attempt is no try of the schedule."""


def decide(
    policy: RetryPolicy, attempt: Attempt, *, tries: int, now: datetime, spread: float
) -> Decision:
    """The decision after *attempt*, the *tries*-th (from 1) of the current schedule.

    2xx is delivered; 410 is final; every other status, redirects included, and every
    network error is tried again while the schedule lasts. *tries* starts over when an
    operator redelivers; ``attempt.number`` does not. 429 and 503 with a ``Retry-After``
    are a limit of the endpoint, not of this delivery, and use up no try.
    """
    if attempt.is_success:
        return Decision(outcome=Outcome.DELIVERED)
    if attempt.status_code == HTTPStatus.GONE:
        return Decision(outcome=Outcome.GONE)
    if attempt.status_code in LIMITS and attempt.retry_after:
        until = now + policy.rest(attempt.retry_after)
        return Decision(outcome=Outcome.RETRY, next_attempt_at=until, rests_until=until)
    wait = policy.backoff(tries, spread=spread, retry_after=attempt.retry_after)
    if wait is None:
        return Decision(outcome=Outcome.DEAD_LETTER)
    return Decision(outcome=Outcome.RETRY, next_attempt_at=now + wait)
