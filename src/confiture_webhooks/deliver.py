"""``confiture webhooks deliver``: a worker of its own, for one pass or until it is stopped."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from .delivery import Outcome
from .errors import OutboxError
from .outbox import Summary
from .run.outgoing import KEPT_DELIVERED, KEPT_FOR, TELEMETRY_BUDGET
from .run.settler import settle_outbox
from .run.summary import barred, elsewhere
from .terminal import counted, progress
from .wiring import command_telemetry, make_transport, operators_outbox, user_agent
from .worker import Worker
from .worker.passes import Passes

if TYPE_CHECKING:
    from .config import Settings
    from .outbox import Outbox
    from .run.settler import Ask
    from .telemetry import Telemetry

LONGEST_PASS = timedelta(hours=1)
POLL = timedelta(seconds=1)
"""How often a watching worker looks for what other processes released."""
POLL_WHEN_TOLD = timedelta(minutes=1)
"""How often where the outbox tells of it."""
TEND_EVERY = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PassResult:
    """What a worker did."""

    delivered: int
    dead: int
    left: int
    """Deliveries still to make, due later or of endpoints that are off or not configured."""
    next_at: datetime | None
    """When the next of them is due."""
    elsewhere: Mapping[str | None, int]
    """By environment that is not this worker's, deliveries still to make."""
    failures: Mapping[str, str]
    """By endpoint, why the latest attempt that failed did."""
    barred: Mapping[str, str] = field(default_factory=dict)
    """By endpoint that waits and gets nothing, why: off, or unknown."""
    left_alone: Collection[str] = ()
    """Endpoints that failed so often in a row that the pass went on without them."""
    is_done: bool = True
    """Whether nothing due was left untried, and the outbox did not fail."""

    @property
    def is_clean(self) -> bool:
        """Whether every attempt made was accepted, and nothing waits that is due, or in vain."""
        return self.is_done and not (self.failures or self.barred)


@dataclass(slots=True, kw_only=True)
class _Bench:
    """A worker and what it works with."""

    settings: Settings
    ask: Ask | None
    outbox: Outbox
    telemetry: Telemetry
    worker: Worker

    @contextmanager
    def told(self) -> Iterator[None]:
        """Have the worker woken by an outbox that tells of news, which it else looks for."""

        def heard(is_heard: bool) -> None:  # noqa: FBT001  the port's callback
            self.worker.poll_every(POLL_WHEN_TOLD if is_heard else POLL)

        stop = self.outbox.listen(self.worker.wake, heard)
        try:
            yield
        finally:
            stop()

    def settle(self) -> None:
        """Tell how the migrations of killed runs ended."""
        try:
            settle_outbox(
                self.outbox,
                self.settings.endpoints,
                self.ask,
                self.telemetry,
                environment=self.settings.environment,
            )
        except OutboxError as error:
            self.telemetry.outbox_failed(str(error))

    def tend(self) -> None:
        """Forget what was delivered long ago."""
        try:
            self.outbox.prune(before=datetime.now(UTC) - KEPT_FOR, keep=KEPT_DELIVERED)
        except OutboxError as error:
            self.telemetry.outbox_failed(str(error))

    def show(self, _: float) -> None:
        """How far the pass is, on a terminal. The outbox has other things to do than to count."""
        outcomes = self.worker.outcomes()
        done = outcomes[Outcome.DELIVERED]
        failed = counted(outcomes.total() - done, "attempt", "attempts")
        progress(f"{done} delivered, {failed} failed … Ctrl-C ends it")

    def result(self, *, is_done: bool) -> PassResult:
        """What was done so far."""
        outcomes = self.worker.outcomes()
        try:
            summaries = self.outbox.summaries()
            off = self.outbox.disabled(self.settings.environment)
            due = [
                at
                for endpoint in self.settings.endpoints
                if (at := self.outbox.next_due_at(endpoint.name, self.settings.environment))
            ]
        except OutboxError as error:
            self.telemetry.outbox_failed(str(error))
            summaries, due, off, is_done = {}, [], {}, False
        mine = summaries.get(self.settings.environment, Summary())
        return PassResult(
            delivered=outcomes[Outcome.DELIVERED],
            dead=outcomes[Outcome.DEAD_LETTER] + outcomes[Outcome.GONE],
            left=sum(mine.undelivered.values()),
            next_at=min(due, default=None),
            elsewhere=elsewhere(summaries, self.settings.environment),
            failures=self.worker.failed(),
            barred=barred(mine, off, [endpoint.name for endpoint in self.settings.endpoints]),
            left_alone=self.worker.left_alone(),
            is_done=is_done and not self.worker.has_faults(),
        )


def deliver_due(
    settings: Settings, environ: Mapping[str, str], ask: Ask | None = None
) -> PassResult:
    """Make every delivery that is due now, once; what fails is put off on its schedule.

    First, *ask* the database how the migrations of killed runs ended.

    Raises OutboxError when the outbox cannot be opened.
    """
    with _bench(settings, environ, ask, hold=timedelta(), poll=None) as (bench, passes):
        passes.begin()  # a pass that finds nothing is seen, too
        bench.settle()
        bench.worker.start()
        bench.worker.wake()
        try:
            is_done = bench.worker.drain(LONGEST_PASS, horizon=timedelta(), tell=bench.show)
        finally:
            progress("")
        bench.worker.stop()
        bench.tend()
        return bench.result(is_done=is_done)


def deliver_until(
    stopped: threading.Event,
    settings: Settings,
    environ: Mapping[str, str],
    ask: Ask | None = None,
) -> PassResult:
    """Make every delivery when it is due, until *stopped* is set.

    Now and then, *ask* the database how the migrations of killed runs ended.

    Then the attempts under way come to their end, and what was claimed beyond them goes back.
    KeyboardInterrupt cuts that short. Raises OutboxError when the outbox cannot be opened.
    """
    with (
        _bench(settings, environ, ask, hold=settings.flush_timeout, poll=POLL) as (bench, _),
        bench.told(),
    ):
        bench.worker.start()
        try:
            while True:
                bench.settle()
                bench.tend()
                if stopped.wait(TEND_EVERY.total_seconds()):
                    break
            bench.worker.finish()
        except KeyboardInterrupt:
            bench.worker.stop()
        return bench.result(is_done=True)


@contextmanager
def _bench(
    settings: Settings,
    environ: Mapping[str, str],
    ask: Ask | None,
    *,
    hold: timedelta,
    poll: timedelta | None,
) -> Iterator[tuple[_Bench, Passes]]:
    outbox = operators_outbox(settings, environ, makes=True)
    telemetry = command_telemetry(settings, environ)
    telemetry.observe_outbox(outbox.summary)
    transport, passes = make_transport(), Passes(telemetry)
    worker = Worker(
        settings.endpoints,
        outbox,
        transport,
        telemetry,
        environment=settings.environment,
        user_agent=user_agent(),
        hold=hold,
        poll=poll,
        passes=passes,
    )
    try:
        yield (
            _Bench(settings=settings, ask=ask, outbox=outbox, telemetry=telemetry, worker=worker),
            passes,
        )
    finally:
        worker.stop()
        telemetry.shutdown(TELEMETRY_BUDGET)
        transport.close()
        outbox.close()
