"""How the migrations of this run and of killed runs ended: asks the database, decides, reports."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ..bounded import TimedOut, bounded, contained
from ..delivery import Delivery, TraceContext
from ..endpoint import Endpoint
from ..errors import OutboxError
from ..event import Direction, Event, MigrationRef
from ..formats import deliveries_of
from ..outbox import NO_ROW, Committed, Facts, Intent, Outbox
from ..settlement import Ending, Known, Verdict, judge, killed_run_event, settled_event
from .migration import Backend, Migration, new_event_id

if TYPE_CHECKING:
    from ..telemetry import Telemetry
    from .recorder import Recorder

LONGEST_QUESTION_S = 6.0

Ask = Callable[[Sequence[Intent]], Mapping[str, Known]]
"""The answers about each intent, by event id; none when the database does not answer."""
R = TypeVar("R")
Traced = tuple[Event, TraceContext]
"""An event, with the trace that its deliveries continue."""
Record = Callable[[Traced, *tuple[Traced, ...]], bool]
"""Keeps events in one step. ``False``: another process has kept the first of them before."""
Judged = list[tuple[Intent, Verdict]]


def answered(question: Callable[[], R], seconds: float) -> R | None:
    """The answer to *question*, if it comes in time: a server may accept and then fall silent."""
    try:
        return bounded(question, max(0.1, min(seconds, LONGEST_QUESTION_S)))
    except TimedOut:
        return None


def examine(intents: Sequence[Intent], ask: Ask | None, seconds: float | None) -> Judged:
    """How each of *intents* ended, as far as *ask* knows; ``None``: no database is known.

    Without *seconds* it is asked in this thread, and waited for as long as it takes.
    """
    if not intents:
        return []
    known = None
    if ask is not None:
        known = ask(intents) if seconds is None else answered(partial(ask, intents), seconds)
    now = datetime.now(UTC)
    return [(intent, judge(intent, (known or {}).get(intent.event_id), now)) for intent in intents]


def settle(
    intents: Sequence[Intent],
    ask: Ask | None,
    look_again: Callable[[], Sequence[Intent]],
    record: Record,
    telemetry: Telemetry,
    *,
    seconds: float | None,
) -> Judged:
    """Report how those of *intents* ended that can be settled; returns the others.

    Each is reported under the id and in the trace it was staged with: of two processes that settle
    one at once, the second changes nothing. *look_again* reads the intents anew: a run that has
    released its own and ended since was not killed.
    """
    judged = examine(intents, ask, seconds)
    if any(verdict.is_settled for _, verdict in judged):
        there = {intent.event_id for intent in look_again()}
        judged = [one for one in judged if one[0].event_id in there]
    conclude([one for one in judged if one[1].is_settled], record, telemetry)
    return [one for one in judged if not one[1].is_settled]


def conclude(judged: Judged, record: Record, telemetry: Telemetry) -> None:
    """Record how the migrations of killed runs ended, and that these runs failed.

    A run is recorded with the last of its migrations: a process that is killed before that leaves
    it to the next one. If two processes record a run, the first counts it.
    """
    now = datetime.now(UTC)
    runs: defaultdict[str, list[Traced]] = defaultdict(list)
    for intent, verdict in judged:
        with _alone(telemetry):
            one = (settled_event(intent, verdict, now), intent.trace)
            if verdict.may_go_on:
                record(one)
            else:
                runs[intent.holder or intent.correlation_id].append(one)
    for run, ended in runs.items():
        last = ended[-1]
        whole = (killed_run_event(run, [event for event, _ in ended]), last[1])
        for one in ended:
            with _alone(telemetry):
                if record(one, *([whole] if one is last else [])):
                    telemetry.settled(*one, run)


@contextmanager
def _alone(telemetry: Telemetry) -> Iterator[None]:
    """A fault in the block is reported, and costs nothing else. Raises OutboxError."""
    try:
        yield
    except OutboxError:
        raise
    except Exception as error:  # noqa: BLE001  a database that answers oddly, a bug of ours
        telemetry.failed("settle", error)


def release_as(
    release: Callable[..., bool],
    deliveries: Callable[[Event, TraceContext], Sequence[Delivery]],
    *events: Traced,
) -> bool:
    """*release* events as these *deliveries*, in one step."""
    first, *then = ((event.id, deliveries(event, trace)) for event, trace in events)
    return release(*first, *then)


def settle_outbox(
    outbox: Outbox,
    endpoints: Sequence[Endpoint],
    ask: Ask | None,
    telemetry: Telemetry,
    *,
    environment: str | None,
) -> Judged:
    """Settle what *outbox* holds of *environment*, outside of any run; returns what stays.

    A fault in it is reported, and stops no delivery. Raises OutboxError.
    """
    deliveries = partial(deliveries_of, endpoints=endpoints, report=telemetry.failed)
    record = partial(release_as, outbox.release, deliveries)
    with _alone(telemetry):
        mine = [intent for intent in outbox.intents() if intent.environment == environment]
        return settle(mine, ask, outbox.intents, record, telemetry, seconds=LONGEST_QUESTION_S)
    return []


PARTING_S = 1.0
PARTING_STEP_S = 0.02
"""A server process lets go of the migration lock some milliseconds before it is seen gone."""


@dataclass(eq=False, repr=False)
class Settling:
    """The intents of a run: those that it stages, and those of killed runs that it settles."""

    telemetry: Telemetry
    recorder: Recorder
    environment: str | None
    """Killed runs of another one are left to it: their endpoints are configured there."""
    report: Callable[[str, Exception], None]
    begun: str | None = None
    """The event id of the last migration that began."""
    _own: set[str] = field(default_factory=set)
    _staged: Intent | None = None
    """The last one that this run staged."""
    _expected: tuple[MigrationRef, Direction, str] | None = None
    """The migration that is staged and has not begun, with its event id."""
    _earlier: list[Intent] = field(default_factory=list)
    """The intents of killed runs, of the version that runs now, that could not be settled."""
    _committed: list[Migration] = field(default_factory=list)

    def _record(self, *events: Traced) -> bool:
        return release_as(self.recorder.release, self.recorder.deliveries, *events)

    def expect(
        self, ref: MigrationRef, direction: Direction, backend: Backend, ask: Ask | None
    ) -> None:
        """Prepare what is to begin next: its connection is idle, which it may not be then."""
        self.take_expected()
        self._expected = (ref, direction, self.prepare(ref, direction, backend, ask))

    def take_expected(self, *begun: MigrationRef | Direction) -> str | None:
        """The event id under which the *begun* migration was prepared; ``None``: another one was.

        The other one does not begin any more.
        """
        expected, self._expected = self._expected, None
        if expected is None:
            return None
        *staged, event_id = expected
        if staged == [*begun]:
            return event_id
        self.recorder.release(event_id, [])
        return None

    def forget_unbegun(self) -> None:
        """The run is over: what it staged last is not to be settled if that has not begun.

        It was expected, or Ctrl-C came just before it began.
        """
        if self._staged is not None and self._staged.event_id != self.begun:
            self.recorder.release(self._staged.event_id, [])

    def prepare(
        self, ref: MigrationRef, direction: Direction, backend: Backend, ask: Ask | None
    ) -> str:
        """Stage a migration before it begins, and report its killed runs; the id of its event.

        The outbox keeps the facts that settle it if this process is killed, too.
        """
        event_id, trace = new_event_id(), self.telemetry.trace_of_run()
        self._own.add(event_id)
        intent = Intent(
            event_id=event_id,
            direction=direction,
            migration=ref,
            environment=self.environment,
            database_host=backend.database.host,
            database_port=backend.database.port,
            database_name=backend.database.name,
            database_schema=backend.database.schema,
            **{one.name: getattr(backend, one.name) for one in fields(Facts)},
            traceparent=trace.traceparent,
            tracestate=trace.tracestate,
            correlation_id=self.telemetry.correlation_id,
            staged_at=datetime.now(UTC),
        )
        self._staged = intent  # known before it is written: Ctrl-C may come in between
        # Looked for each time: a block of Python, or --no-lock, lets others migrate in between.
        self._staged, others = self.recorder.stage(intent)
        earlier = [one for one in others if one.event_id not in self._own]
        same = [one for one in earlier if one.migration.version == ref.version]
        self._record_earlier(same, ask, backend)
        return event_id

    def stage_committed(self, connection: Any, migration: Migration, success: Committed) -> bool:
        """Whether *migration*, about to commit on *connection*, takes its *success* along."""
        staged, trace = self._staged, migration.span.trace
        if staged is None or staged.event_id != migration.event_id:
            return False
        committed = replace(
            staged, committed=success, traceparent=trace.traceparent, tracestate=trace.tracestate
        )
        return self.recorder.stage_committed(connection, committed)

    @contained
    def record_killed(self, ask: Ask | None, deadline: float) -> None:
        """Report how the migrations of killed runs ended, as *ask* knows before *deadline*."""
        if killed := self._killed(self.recorder.intents()):
            left = self._without_outlived(killed, self._record)
            left_s = deadline - time.monotonic()  # the outbox may have taken long
            self._settle(left, ask, left_s)
        outbox = self.recorder.outbox
        if self._committed and outbox.refusal is not None:
            outbox.beside(self._record_outlived_in)

    @contained
    def _record_earlier(self, left: list[Intent], ask: Ask | None, backend: Backend) -> None:
        """Report how *left* ended before their version runs again, here on *backend*.

        Of runs of another environment, it is noted. Later it may be wrong: the row that is about
        to be written looks like theirs. So *ask* is over the connection that will write it, which
        is there in any case. It has no limit of its own: if the ledger is locked, the host waits
        for it next.
        """
        if (here := backend.backend_started_at) is not None:
            # Another watch over this very session staged these, and they are not over.
            left = [one for one in left if one.backend_started_at != here]
        until = time.monotonic() + PARTING_S
        while left and ask is not None:
            mine = self._killed(left)
            others = [one for one in left if one.environment != self.environment]
            judged = [*self._settle(mine, ask, None), *self._note(others, ask)]
            left = [intent for intent, _ in judged]
            # With the lock in our hands, whoever held it is about to be gone.
            is_parting = (backend.has_lock and backend.is_idle) and any(
                intent.has_lock and verdict.ending is Ending.OPEN for intent, verdict in judged
            )
            if not is_parting or time.monotonic() >= until:
                break
            time.sleep(PARTING_STEP_S)
        self._earlier = self._killed(left)

    def _note(self, intents: Sequence[Intent], ask: Ask) -> Judged:
        """Note how *intents*, of other environments, ended; returns those of which it is not known.

        Their environments report them, maybe after this run has changed the ledger.
        """
        judged = examine(intents, ask, None)
        for intent, verdict in judged:
            if verdict.is_settled and intent.committed is None:  # else it says so itself
                has_committed = verdict.ending is Ending.COMMITTED
                self.recorder.note(replace(intent, has_committed=has_committed))
        return [one for one in judged if not one[1].is_settled]

    def _settle(self, intents: Sequence[Intent], ask: Ask | None, seconds: float | None) -> Judged:
        look = self.recorder.intents
        return settle(intents, ask, look, self._record, self.telemetry, seconds=seconds)

    def record_outlived(self, migration: Migration) -> None:
        """*migration* committed: what killed runs of it left open did not commit, then."""
        self._committed.append(migration)
        if self._earlier:
            self._without_outlived(self._earlier, self._record)
            self._earlier = []

    def _record_outlived_in(self, outbox: Outbox) -> None:
        """The same of those in *outbox*, which was silent when their versions ran again."""
        record = partial(release_as, outbox.release, self.recorder.deliveries)
        self._without_outlived(self._killed(outbox.intents()), record)

    def _without_outlived(self, intents: Sequence[Intent], record: Record) -> list[Intent]:
        """Report that those of *intents* did not commit whose work this run has done; the others.

        Judged by the ledger they may seem committed: it has the row of this run.
        """
        verdict = Verdict(ending=Ending.NOT_COMMITTED, reason="a later run did it")
        done = self._committed
        outlived = [(one, verdict) for one in intents if any(_is_outlived(one, m) for m in done)]
        conclude(outlived, record, self.telemetry)
        return [intent for intent in intents if (intent, verdict) not in outlived]

    def _killed(self, intents: Sequence[Intent]) -> list[Intent]:
        """Those of *intents* that killed runs of this environment staged."""
        mine = (one for one in intents if one.environment == self.environment)
        return [one for one in mine if one.event_id not in self._own]


def _is_outlived(intent: Intent, migration: Migration) -> bool:
    """Whether *migration* did the work of *intent*, and before it the ledger was the same.

    A forced re-application leaves no trace in the ledger, so that of it nothing is known.
    """
    if intent.committed is not None:
        return False
    is_known = (intent.ledger_before == NO_ROW) is (intent.direction is Direction.UP)
    is_same = all(getattr(intent, name) == getattr(migration.backend, name) for name in _SAME)
    meant = (intent.migration.version, intent.direction)
    return is_known and is_same and meant == (migration.ref.version, migration.direction)


_SAME = ("database_identity", "timeline", "ledger_oid", "ledger_table", "ledger_before")
