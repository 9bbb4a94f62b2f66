"""``confiture webhooks deliver``: a worker of its own, for one pass or until it is stopped."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import import_module
from typing import NamedTuple

from .adapters.http import HttpTransport
from .config import Settings
from .delivery import Outcome, State
from .errors import UNRECORDED, ConfigError, OutboxError
from .event import Database
from .outbox import Summary, waiting_elsewhere
from .outbox.postgres_refusal import lacks_right
from .outlook import Wait, outlook, shown_environment
from .run import TELEMETRY_BUDGET
from .run.settling import Ask, Judged, settle_outbox
from .terminal import counted, progress, say
from .trust import stamp
from .wiring import make_telemetry, operators_outbox, outbox_place
from .worker import FAILING_AFTER, Worker

LONGEST_PASS = timedelta(hours=1)
POLL = timedelta(seconds=1)
"""How often a watching worker looks for deliveries of other processes."""
POLL_WHEN_WOKEN = timedelta(minutes=1)
"""How often where the outbox wakes it."""
TEND_EVERY = timedelta(minutes=1)
CHANGE_WITHIN = timedelta(seconds=3)
"""So long may attempts under way keep a new configuration waiting; then they are cut."""
LOOK_EVERY_S = 1.0
"""How often a watching worker looks whether its files have changed."""


class Configuration(NamedTuple):
    """The values that a worker uses until its file changes."""

    settings: Settings
    ask: Ask | None = None
    """Asks the migrated database how the migrations of killed runs ended."""
    database: Database = Database()
    """The name of that database."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassResult:
    """The work of a worker."""

    delivered: int
    dead: int
    gone: int
    left: int | None
    """Deliveries still to make, if known: due later, or of endpoints that are off or missing."""
    next_at: datetime | None
    """When the next of them is due."""
    elsewhere: Mapping[str | None, int]
    """By environment that is not this worker's, deliveries still to make."""
    failures: Mapping[str, str]
    """By endpoint, why the latest attempt that failed did."""
    waits: Sequence[Wait]
    """The endpoints that rest, or wait and get nothing."""
    paused: Collection[str]
    """Endpoints that failed so often in a row that the pass went on without them."""
    open: Judged
    """Migrations whose end is not known yet, and why."""
    is_done: bool
    """Whether nothing due was left untried, and the outbox did not fail."""

    @property
    def is_clean(self) -> bool:
        """Whether every attempt made was accepted, and nothing waits that is due, or in vain."""
        return self.is_done and not (self.failures or any(one.is_in_vain for one in self.waits))


class _Delivering:
    """A worker of the command, and its parts. Raises OutboxError."""

    def __init__(
        self, given: Configuration, *, is_pass: bool = False, before: Counter[Outcome] | None = None
    ) -> None:
        settings, self.ask, database = given
        self.settings = settings
        self.before = before or Counter()
        """Outcomes of the workers before this one, with an older configuration."""
        self.open: Judged = []
        """Migrations whose end was not known when the database was last asked."""
        self.outbox = operators_outbox(settings, creates=not is_pass, notice=say)
        self.telemetry = make_telemetry(settings)
        if self.outbox.is_durable:  # else there is none, and an empty one stands in
            self.telemetry.observe_outbox(partial(self.outbox.summary, settings.environment))
        self.telemetry.connected(database)
        self.transport, self.passes = HttpTransport(), self.telemetry.passes()
        self.worker = Worker(
            settings.endpoints,
            self.outbox,
            self.transport,
            self.telemetry,
            environment=settings.environment,
            hold=timedelta() if is_pass else settings.flush_timeout,
            poll=None if is_pass else POLL,
            passes=self.passes,
        )

    def close(self) -> None:
        self.worker.stop()
        self.telemetry.shutdown(TELEMETRY_BUDGET)
        self.transport.close()
        self.outbox.close()

    def listen(self) -> Callable[[], None]:
        """Have the outbox wake the worker where it can; the call that ends it."""

        def on_change(works: bool) -> None:  # noqa: FBT001  the port's callback
            self.worker.poll_every(POLL_WHEN_WOKEN if works else POLL)

        return self.outbox.listen(self.worker.wake, on_change)

    def tend(self) -> bool:
        """Report how the migrations of killed runs ended, and forget what was delivered long ago.

        A fault of the outbox is reported, and ends nothing. ``False``: killed runs were not seen.
        """
        one = self.settings
        try:
            self.outbox.check_role()
            self.open = settle_outbox(
                self.outbox, one.recorded, self.ask, self.telemetry, environment=one.environment
            )
        except OutboxError as error:
            self.telemetry.outbox_failed(str(error))
            return False
        try:
            self.outbox.prune()
        except OutboxError as error:
            if not lacks_right(error):  # the doctor names that
                self.telemetry.outbox_failed(str(error))
        return True

    def show(self, _: float) -> None:
        """How far the pass is, on a terminal. The outbox has other things to do than to count."""
        outcomes = self.outcomes()
        done = outcomes[Outcome.DELIVERED]
        failed = counted(outcomes.total() - done, "attempt", "attempts")
        progress(f"{done} delivered, {failed} failed … Ctrl-C ends it")

    def next_at(self) -> datetime | None:
        one, now = self.settings, datetime.now(UTC)
        return min(self.outbox.due(one.endpoints, one.environment, now=now).values(), default=None)

    def outcomes(self) -> Counter[Outcome]:
        """How many attempts led to which outcome, since the command began."""
        return sum((pace.outcomes for pace in self.worker.snapshot()), self.before)

    def result(self, *, is_done: bool) -> PassResult:
        outcomes, paces, now = self.outcomes(), self.worker.snapshot(), datetime.now(UTC)
        dead, gone, is_known = outcomes[Outcome.DEAD_LETTER], outcomes[Outcome.GONE], True
        try:
            summaries = self.outbox.summaries()
            statuses = self.outbox.statuses(self.settings.environment)
            next_at = self.next_at()
        except OutboxError as error:
            self.telemetry.outbox_failed(str(error))
            summaries, next_at, statuses, is_done, is_known = {}, None, {}, False, False
        mine = summaries.get(self.settings.environment, Summary())
        if summaries:  # one that was redelivered may have ended so twice
            dead = min(dead, mine.counts[State.DEAD_LETTER])
            gone = min(gone, mine.counts[State.GONE])
        off = [one.endpoint.name for one in paces if one.outcomes[Outcome.GONE]]
        waits = outlook(
            {**dict.fromkeys(off, 0), **mine.undelivered},
            configured=self.settings.recorded,
            statuses=statuses,
            oldest=mine.oldest,
            now=now,
        )
        return PassResult(
            delivered=outcomes[Outcome.DELIVERED],
            dead=dead,
            gone=gone,
            left=mine.waiting if is_known else None,
            next_at=next_at,
            elsewhere=waiting_elsewhere(summaries, self.settings.environment),
            failures={
                one.endpoint.name: failure
                for one in paces
                if (failure := UNRECORDED if one.unrecorded else one.failed)
            },
            waits=waits,
            open=self.open,
            paused=[one.endpoint.name for one in paces if one.failures >= FAILING_AFTER],
            is_done=is_done and not any(one.faults for one in paces),
        )


@dataclass(eq=False, repr=False)
class Source:
    """The source of the configuration, for a worker that follows its changes."""

    _files: Sequence[str | os.PathLike[str]]
    _read: Callable[[], Configuration]

    def __post_init__(self) -> None:
        self._known = self._seen = [stamp(path) for path in self._files]
        self._used = self._there()

    def news(self) -> Configuration | None:
        """The configuration to take over: it has changed, and is whole, unchanged since last asked.

        A wrong one is said in a line.
        """
        seen, self._seen = self._seen, [stamp(path) for path in self._files]
        if self._seen in (self._known, []) or seen != self._seen:
            return None
        self._known = self._seen
        try:
            found = self._read()
            faults = found.settings.faults
        except ConfigError as error:  # the file is gone
            faults = error.faults
        except Exception as error:  # noqa: BLE001  nothing in a file ends a worker
            refuse(type(error).__name__)
            return None
        if faults:
            others = counted(len(faults) - 1, "more fault", "more faults")
            refuse(f"{faults[0]}{f' (and {others})' if len(faults) > 1 else ''}")
            return None
        there = self._there()
        if gone := [str(path) for path in self._used if path not in there]:
            refuse(f"{', '.join(gone)} cannot be read")
            return None
        if not found.settings.endpoints:
            refuse("no endpoint is configured")
            return None
        self._used = there
        return found

    def _there(self) -> list[str | os.PathLike[str]]:
        return [path for path in self._files if os.path.isfile(path)]  # noqa: PTH113


def refuse(why: str) -> None:
    """Say that a new configuration is not taken over."""
    say(f"The changed configuration is wrong, the one before it stays in force: {why}")


def deliver_due(given: Configuration) -> PassResult:
    """Send every delivery that is due now, once; one that fails is put off on its schedule.

    First, the database is asked how the migrations of killed runs ended.

    Raises OutboxError when the outbox cannot be opened.
    """
    with closing(_Delivering(given, is_pass=True)) as command:
        command.passes.begin(claims=0)  # a pass that finds nothing is seen, too
        is_tended = command.tend()
        is_due = False  # with nothing to send, nothing flashes on a terminal
        with suppress(OutboxError):
            is_due = (command.next_at() or datetime.max.replace(tzinfo=UTC)) <= datetime.now(UTC)
        command.worker.start()
        if is_due:  # imported while receivers answer, instead of for the first line about one
            import_module("structlog")
        try:
            is_done = command.worker.drain(
                LONGEST_PASS, horizon=timedelta(), show=command.show if is_due else None
            )
        finally:
            progress("")
        command.worker.stop()
        return command.result(is_done=is_done and is_tended)


def deliver_until(stopped: threading.Event, given: Configuration, *, source: Source) -> PassResult:
    """Send every delivery when it is due, until *stopped* is set.

    Now and then, the database is asked how the migrations of killed runs ended. When *source* has
    changed, attempts under way end or are cut, and a new worker has the new configuration.

    At the end attempts under way end, and other claims go back.
    KeyboardInterrupt cuts that short. Raises OutboxError when the outbox cannot be opened.
    """
    before = Counter[Outcome]()
    in_force = current = given
    while True:
        try:
            with ExitStack() as ending:
                command = _Delivering(current, before=before)
                ending.callback(command.close)
                ending.callback(command.listen())
                if current is not in_force:
                    now = _now(current.settings, in_force.settings)
                    say(f"The configuration has changed. {now}")
                news = _serve(command, stopped, source)
                result = command.result(is_done=True)
        except OutboxError as error:
            if current is in_force:
                raise
            refuse(str(error))
            current = in_force
            continue
        if news is None:
            return result
        before, in_force, current = command.outcomes(), current, news


def _now(settings: Settings, before: Settings) -> str:
    """The endpoints of *settings*, and whose deliveries are sent if that is not as *before*."""
    now = [f"Endpoints now: {', '.join(endpoint.name for endpoint in settings.endpoints)}"]
    if settings.environment != before.environment:
        now.append(f"environment now: {shown_environment(settings.environment)}")
    if settings.outbox != before.outbox:
        now.append(f"outbox now: {outbox_place(settings)}")
    return "; ".join(now)


def _serve(command: _Delivering, stopped: threading.Event, source: Source) -> Configuration | None:
    news = None
    command.worker.start()
    try:
        tends_at = 0.0
        while not stopped.is_set() and news is None:
            if time.monotonic() >= tends_at:
                command.tend()
                command.telemetry.report_losses()
                tends_at = time.monotonic() + TEND_EVERY.total_seconds()
            command.show(0)
            if not stopped.wait(LOOK_EVERY_S):
                news = source.news()
        command.worker.finish(*([CHANGE_WITHIN] if news else []))
    except KeyboardInterrupt:
        command.worker.stop()
        stopped.set()
        return None
    finally:
        progress("")
    return news
