"""``confiture webhooks deliver``: one pass over the outbox, outside of any run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from .delivery import State
from .outgoing import TELEMETRY_BUDGET
from .passes import Passes
from .session import command_telemetry, make_outbox, make_transport, user_agent
from .worker import Worker

if TYPE_CHECKING:
    from .config import Settings
    from .outbox import Outbox

LONGEST_PASS = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PassResult:
    """What one pass did, from the counts before and after it."""

    delivered: int
    dead: int
    left: int
    """Deliveries still to make, due later or of endpoints that are off or not configured."""
    failures: Mapping[str, str]
    """By endpoint, why its latest attempt failed."""

    @property
    def is_clean(self) -> bool:
        """Whether every attempt made was accepted."""
        return not self.failures and not self.dead


def deliver_due(settings: Settings, environ: Mapping[str, str]) -> PassResult:
    """Make every delivery that is due now, once; what fails is put off on its schedule.

    Raises OutboxError when the outbox cannot be opened.
    """
    telemetry = command_telemetry(settings, environ)
    outbox = make_outbox(settings, environ, telemetry.outbox_failed)
    transport = make_transport()
    telemetry.observe_outbox(outbox.summary)
    passes = Passes(telemetry)
    passes.begin()
    before = outbox.summary().counts
    worker = Worker(
        settings.endpoints,
        outbox,
        transport,
        telemetry,
        user_agent=user_agent(),
        hold=timedelta(),
        passes=passes,
    )
    try:
        worker.start()
        worker.wake()
        worker.drain(LONGEST_PASS, horizon=timedelta())
    finally:
        worker.stop()
        result = _result(outbox, before, worker.failures())
        telemetry.shutdown(TELEMETRY_BUDGET)
        transport.close()
        outbox.close()
    return result


def _result(outbox: Outbox, before: Mapping[State, int], failures: Mapping[str, str]) -> PassResult:
    summary = outbox.summary()

    def grown(state: State) -> int:
        return summary.counts.get(state, 0) - before.get(state, 0)

    return PassResult(
        delivered=grown(State.DELIVERED),
        dead=grown(State.DEAD_LETTER),
        left=sum(summary.undelivered.values()),
        failures=failures,
    )
