"""Settles what killed runs left open: asks the database, decides by the rule, tells."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from ..bounded import TimedOut, bounded
from ..delivery import TraceContext
from ..errors import OutboxError
from ..event import Event
from ..outbox import Intent
from ..settlement import Known, Verdict, judge, settled_event
from .deliveries import deliveries_of

if TYPE_CHECKING:
    from ..endpoint import Endpoint
    from ..outbox import Outbox
    from ..telemetry import Telemetry

LONGEST_QUESTION_S = 6.0
"""How long a database may take to answer, at most."""

Ask = Callable[[Sequence[Intent]], Mapping[str, Known]]
"""What is known of each intent, by event id; of none when the database does not answer."""
R = TypeVar("R")
Record = Callable[[Event, TraceContext], None]
"""Keeps an event, with the trace that its deliveries continue."""
Judged = list[tuple[Intent, Verdict]]


def answered(question: Callable[[], R], seconds: float) -> R | None:
    """The answer to *question*, if it comes in time: a server may accept and then fall silent."""
    try:
        return bounded(question, max(0.1, min(seconds, LONGEST_QUESTION_S)))
    except TimedOut:
        return None


def examine(intents: Sequence[Intent], ask: Ask | None, seconds: float | None) -> Judged:
    """How each of *intents* ended, as far as *ask* can tell; ``None``: no database is known.

    Without *seconds* it is asked in this thread, and waited for as long as it takes.
    """
    if not intents:
        return []
    if ask is None or seconds is None:
        known = ask(intents) if ask is not None else None
    else:
        known = answered(lambda: ask(intents), seconds)
    now = datetime.now(UTC)
    return [(intent, judge(intent, (known or {}).get(intent.event_id), now)) for intent in intents]


def settle(
    intents: Sequence[Intent],
    ask: Ask | None,
    record: Record,
    telemetry: Telemetry,
    *,
    seconds: float | None,
) -> Judged:
    """Tell how those of *intents* ended that can be told; returns the others.

    Each is told under the id and in the trace it was staged with: of two processes that settle
    one at once, the second changes nothing.
    """
    left: Judged = []
    for intent, verdict in examine(intents, ask, seconds):
        if not verdict.is_settled:
            left.append((intent, verdict))
            continue
        tell(intent, verdict, record, telemetry)
    return left


def tell(intent: Intent, verdict: Verdict, record: Record, telemetry: Telemetry) -> None:
    """Record how the migration of *intent* ended, by *verdict*, in its run's trace."""
    event = settled_event(intent, verdict, datetime.now(UTC))
    trace = TraceContext(traceparent=intent.traceparent, tracestate=intent.tracestate)
    record(event, trace)
    telemetry.settled(event, trace)


def settle_outbox(
    outbox: Outbox,
    endpoints: Sequence[Endpoint],
    ask: Ask | None,
    telemetry: Telemetry,
    *,
    environment: str | None,
    seconds: float = LONGEST_QUESTION_S,
) -> Judged:
    """Settle what *outbox* holds of *environment*, outside of any run; returns what stays.

    A fault in it is told, and keeps nobody from delivering. Raises OutboxError.
    """

    def record(event: Event, trace: TraceContext) -> None:
        deliveries = deliveries_of(event, endpoints, trace, report=telemetry.failed)
        outbox.release(event.id, deliveries)

    try:
        mine = [intent for intent in outbox.intents() if intent.environment == environment]
        return settle(mine, ask, record, telemetry, seconds=seconds)
    except OutboxError:
        raise
    except Exception as error:  # noqa: BLE001  a database that answers oddly, a bug of ours
        telemetry.failed("settle", error)
        return []


def seconds_left(deadline: float | None) -> float:
    """The time until *deadline* (monotonic); the longest that is waited when there is none."""
    return LONGEST_QUESTION_S if deadline is None else deadline - time.monotonic()
