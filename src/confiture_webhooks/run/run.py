"""One run of migrations: events go in, deliveries go out, and the run ends in time.

Nothing here may cost the migration anything: a fault of ours is one log line and a ``None``, never
an exception.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from .. import terminal
from ..bounded import TimedOut, bounded, contained, containing
from ..config import Settings
from ..endpoint import Endpoint
from ..event import Database, Direction, ErrorInfo, Event, EventType, MigrationRef
from ..settlement import INTERRUPTED, run_event_id
from . import TELEMETRY_BUDGET, Parts
from .migration import UNKNOWN, Backend, Migration, new_event_id
from .recorder import Recorder
from .run_outbox import IMPATIENCE_S, PATIENCE_S, RunOutbox
from .sending import Sending
from .settling import LONGEST_QUESTION_S, Ask, Settling, answered

if TYPE_CHECKING:
    from ..telemetry import Telemetry
    from .hook_runner import HookRunner

SUMMARY_S = 0.5
"""How long the outbox may take to say what is left, after the flush took its whole time."""
MOMENT_S = 0.4
"""Receivers have this long at least, also after a silent outbox."""
REST_S = 1.0
"""The part of the time after that which telemetry leaves to receivers."""
LAST_S = 0.1
"""The same for exporting, and for closing."""


class Run:
    """The events of one run, sent to every endpoint that wants them.

    Its parts are made on first use: a run in which nothing happens opens none.
    """

    def __init__(
        self, settings: Settings, parts: Parts, say: Callable[[str], None] = terminal.say
    ) -> None:
        self._settings = settings
        self._parts = parts
        self._say = say
        self._telemetry: Telemetry | None = None
        self._settling: Settling | None = None
        """With all that is in use once something happens, or an earlier run left something."""
        self._hooks: HookRunner | None = None
        self.has_hooks = parts.hooks is not None
        """Whether users' hooks may be called."""
        self._has_span = self._has_reported = self._is_finished = False
        self._process = os.getpid()
        self.database = Database()
        """As far as it is known: of the command's address, its connection, its first migration."""
        self.connection: Any = None
        """The one that migrates: an outbox in its database is written over it."""
        self.dsn: str | None = None
        """Of the database that it migrates, once that is known."""
        self.ask: Ask | None = None
        """Asks the database of this run how the migrations of killed runs ended."""
        self.ask_here: Ask | None = None
        """The same over the connection that migrates."""
        self.deadline: float | None = None
        """Until when receivers and hooks are waited for (monotonic); ``None``: the run migrates."""
        self._end = 0.0  # until when telemetry is
        self.unsettled: list[Migration] = []
        """Those of this run whose end was not seen."""
        self._has_unknown = False
        self._ended: list[Migration] = []
        self._owed: dict[str, tuple[Migration, int | None, ErrorInfo | None]] = {}
        self.begin("confiture migrate")

    def begin(self, command: str) -> None:
        """A command that migrates has started; costs nothing until something happens."""
        self._command = command
        self._started_at = datetime.now(UTC)
        self._started = time.monotonic()

    @property
    def _is_over(self) -> bool:
        """Whether it is finished, is that of the process that forked this one, or Python ends."""
        return self._is_finished or self._is_forked or sys.is_finalizing()

    @property
    def _is_forked(self) -> bool:
        return self._process != os.getpid()

    @contained
    def expect(self, ref: MigrationRef, direction: Direction, backend: Backend) -> None:
        """A migration is to begin next, and its connection is idle outside a transaction.

        The slow work is done now: the outbox is opened, and the migration is staged.
        """
        if not self._is_over:
            self._begun(backend.database).expect(ref, direction, backend, self.ask_here)

    @contained
    def migration(
        self, ref: MigrationRef, direction: Direction, backend: Backend
    ) -> Migration | None:
        """A migration is about to run. Call it before its transaction holds anything.

        ``None``: the run is over, or a fault of ours was reported.
        """
        if self._is_over:
            return None
        settling = self._begun(backend.database)
        telemetry, recorder = settling.telemetry, settling.recorder
        with recorder.outbox.hurried(when=not backend.is_idle):
            for earlier in [m for m in self.unsettled if m.ref.version == ref.version]:
                # Asked later, its ledger row could be the one this attempt is about to write.
                self.unsettled.remove(earlier)
                self._settle(earlier, LONGEST_QUESTION_S if backend.is_idle else IMPATIENCE_S)
            staged = settling.take_expected(ref, direction)
            if staged is None and not backend.is_gone:  # else it fails: nothing is to be settled
                staged = settling.prepare(ref, direction, backend, self.ask_here)
            migration = Migration(
                ref=ref,
                direction=direction,
                backend=backend,
                span=telemetry.migration(ref, direction),
                environment=self._settings.environment,
                trace_id=telemetry.correlation_id,
                event_id=staged or new_event_id(),
            )
            with containing("announcing a migration", self.report):
                if self._hooks is not None:
                    self._hooks.call(migration)
                wanted = {kind for one in self._settings.recorded for kind in one.events}
                if direction is Direction.UP and EventType.MIGRATION_STARTED in wanted:
                    recorder.record(migration.started_event(), migration.span.trace)
            settling.begun = migration.event_id
            return migration

    @contained
    def committing(self, migration: Migration, rows_affected: int | None, connection: Any) -> None:
        """A migration is about to commit on *connection*: its success may go with it.

        Nothing is certain before ``conclude``, which releases the same event.
        """
        used = self._settling
        if used is not None and used.recorder.outbox.is_over_connection and not self._is_forked:
            success = migration.success(rows_affected)
            if used.stage_committed(connection, migration, success):
                migration.recorded = success

    def conclude(
        self,
        migration: Migration,
        rows_affected: int | None,
        error: ErrorInfo | None,
        *,
        is_idle: bool = True,
    ) -> None:
        """A migration ended: close its span and release its event. No *error*: it committed.

        Unless *is_idle*, the host's transaction is open still: a slow outbox is not waited for.
        When Ctrl-C comes in between, ``finish`` does it again: the event id is the same.
        """
        if self._is_forked:
            return
        if error is None and migration.recorded is not None:
            rows_affected = migration.recorded.rows_affected
        self._owed[migration.event_id] = (migration, rows_affected, error)
        with containing("conclude", self.report):
            migration.stop_clock()
            migration.error = error
            if migration not in self._ended:
                self._ended.append(migration)
            migration.span.finish(
                duration_s=migration.duration_s, rows_affected=rows_affected, error=error
            )
            settling = self._begun()
            recorder = settling.recorder
            with recorder.outbox.hurried(when=not is_idle):
                recorder.record(migration.ended_event(rows_affected, error), migration.span.trace)
                if error is None:
                    settling.record_outlived(migration)
            if self._hooks is not None:
                self._hooks.call(migration, rows_affected)
        del self._owed[migration.event_id]

    def settle_later(self, migration: Migration, ask_ledger: Callable[[], bool | None]) -> None:
        """The end of *migration* was not seen: ``finish`` asks whether the ledger has it.

        The answer ``None``: it cannot say.
        """
        migration.ask_ledger = ask_ledger
        self.unsettled.append(migration)

    @contained
    def finish(self, error: ErrorInfo | None = None, at_most: timedelta = timedelta.max) -> bool:
        """The migrations are over: send the rest within the flush budget. Later calls do nothing.

        *error*: why the run failed, ``None`` when it did not. Returns whether Ctrl-C cut it short:
        it is not raised, for the command has its result already.
        """
        if self._is_over:
            return False
        deadline = self.end_within(min(self._settings.flush_timeout, at_most))
        is_interrupted = True
        try:
            try:
                self._is_finished = True
                deadline = _hurried(partial(self._record_end, error), deadline)
            except KeyboardInterrupt:  # the database is not asked again; what is done stays
                try:
                    self._hand_over()
                finally:
                    self._conclude_run(error)
                raise
            deadline = _hurried(self._flush, deadline)
            is_interrupted = False
        except KeyboardInterrupt:
            self._say("confiture-webhooks: interrupted; what is not sent stays as it is")
        try:
            self._stop(deadline)
        except KeyboardInterrupt:  # asked twice: end at once, with the migration's answer
            is_interrupted = True
        return is_interrupted

    def _record_end(self, error: ErrorInfo | None, deadline: float) -> None:
        self._hand_over()
        for migration in self.unsettled:
            self._settle(migration, deadline - time.monotonic())
        self._conclude_run(error)

    def _hand_over(self) -> None:
        """Write what is still to be written of migrations that ended, without their connection."""
        for owed in list(self._owed.values()):
            self.conclude(*owed)
        with containing("give_back", self.report):
            if self._settling is not None:
                self._settling.forget_unbegun()
                self._settling.recorder.give_back()
            self.connection = None

    def end_within(self, flush_timeout: timedelta) -> float:
        """The run is over: returns the deadline that there is from now on.

        The run's wait for a silent outbox shortens it, but leaves a moment.
        """
        now, flush_s = time.monotonic(), flush_timeout.total_seconds()
        outbox = self._settling.recorder.outbox if self._settling is not None else None
        waited_s = outbox.waited_s if outbox is not None else 0.0
        left_s = min(flush_s, flush_s - waited_s + REST_S)
        self.deadline = now + max(left_s, min(flush_s, MOMENT_S))
        self._end = now + flush_s - waited_s + TELEMETRY_BUDGET.total_seconds()
        if outbox is not None:
            outbox.deadline = self.deadline - MOMENT_S
        return self.deadline

    def report(self, where: str, error: BaseException) -> None:
        """One line for the first fault of our own, log or no log; the run goes on."""
        if self._has_reported:
            return
        self._has_reported = True
        if self._telemetry is not None:
            with suppress(Exception):
                self._telemetry.failed(where, error)
                if self._settings.is_logged:
                    return
        self._say(
            f"confiture-webhooks: {where} failed ({type(error).__name__}); "
            "webhooks of this run may be missing, the migration goes on"
        )

    def _traced(self) -> Telemetry:
        """Telemetry, with the run's span open."""
        if self._telemetry is None:
            self._telemetry = self._parts.telemetry()
        if not self._has_span:
            self._telemetry.start_run(self._command, self.database, started_at=self._started_at)
            self._has_span = True
            if self._settings.faults:
                self._telemetry.config_invalid(self._settings.faults, is_said=True)
        return self._telemetry

    def _begun(self, database: Database | None = None) -> Settling:
        """The parts in use, with the run's span open and the hooks being imported.

        *database*: the one that the run is about to migrate.
        """
        if self._settling is not None:
            return self._settling
        self.database = database or self.database
        self._traced()
        used = self._opened()
        with containing("reaching the outbox", self.report):
            if self.connection is not None and self._settings.place.kind == "postgres":
                used.recorder.write_over(self.connection)
        if self.has_hooks:
            from .hook_runner import HookRunner  # noqa: PLC0415  not for a run without hooks

            release = used.recorder.release
            self._hooks = HookRunner(self._settings, self._parts, used.telemetry, release)
        return used

    def _opened(self) -> Settling:
        telemetry = self._telemetry = self._telemetry or self._parts.telemetry()
        telemetry.connected(self.database)  # a run with nothing to do may settle another
        outbox = RunOutbox(self._settings, self._parts, telemetry)
        sending = Sending(self._settings, self._parts, telemetry, outbox)
        outbox.abandon = sending.abandon
        if self.deadline is not None:
            outbox.deadline = self.deadline - MOMENT_S
        recorder = Recorder(self._settings, telemetry, self._command, outbox, sending)
        environment = self._settings.environment
        self._settling = Settling(telemetry, recorder, environment, self.report)
        return self._settling

    @contained
    def _settle(self, migration: Migration, seconds: float) -> None:
        """Conclude *migration*, one of this run's, by what the ledger says, within *seconds*."""
        is_recorded = answered(migration.ask_ledger, seconds)
        if is_recorded is None:
            self._has_unknown = True
            self._say(
                f"confiture-webhooks: the database does not say how {migration.ref.name} ended. "
                "The next run reports it, once the database answers"
            )
            migration.stop_clock()
            migration.span.leave(duration_s=migration.duration_s)
        elif is_recorded is (migration.direction is Direction.UP):
            self.conclude(migration, None, None)
        else:
            self.conclude(migration, None, migration.error or INTERRUPTED)

    @contained
    def _conclude_run(self, error: ErrorInfo | None) -> None:
        """Close the run's span, count it, and release its event; Ctrl-C leaves it counted."""
        if self._settings.faults:
            self._traced()  # which logs them
        failed = [migration for migration in self._ended if migration.error is not None]
        if failed:
            error = failed[-1].error
        elif error is None and self._has_unknown:
            error = UNKNOWN
        error_type = None if error is None else error.sqlstate or error.type
        endpoints: Sequence[Endpoint] = self._settings.recorded
        kind = EventType.RUN_SUCCESS if error is None else EventType.RUN_ERROR
        if kind is EventType.RUN_ERROR and not (failed or self._has_unknown):
            endpoints = [endpoint.for_silent_run() for endpoint in endpoints]
        wanting = [endpoint for endpoint in endpoints if kind in endpoint.events]
        try:
            if wanting and (self._ended or error):
                self._record_run(kind, wanting, error)
        finally:
            if error is not None or self._has_span or self._parts.exports():
                self._traced().end_run(
                    applied=len(self._ended) - len(failed),
                    failed=len(failed),
                    error_type=error_type,
                    is_known=not self._has_unknown,
                )

    @contained
    def _record_run(
        self, kind: EventType, wanting: Sequence[Endpoint], error: ErrorInfo | None
    ) -> None:
        used = self._begun()
        now = datetime.now(UTC)
        event = Event(
            # Whoever settles a migration of this run reports the run, too.
            id=run_event_id(used.recorder.outbox.holder),
            type=kind,
            occurred_at=now,
            trace_id=used.telemetry.correlation_id,
            environment=self._settings.environment,
            database=self.database,
            started_at=self._started_at,
            ended_at=now,
            duration_s=round(time.monotonic() - self._started, 6),
            error=error,
            migrations=[migration.row() for migration in self._ended],
        )
        used.recorder.record(event, used.telemetry.trace_of_run(), wanting)

    @contained
    def _flush(self, deadline: float) -> None:
        """Settle killed runs, and wait for users' hooks and what is due, of earlier runs too."""
        used, seconds = self._settling, max(0.1, deadline - time.monotonic())
        with suppress(TimedOut):
            if used is None and bounded(self._parts.has_leftovers, seconds):
                used = self._opened()
        if used is not None and not self._has_unknown:
            used.record_killed(self.ask, deadline)
        if self._hooks is not None:
            self._hooks.drain(deadline)
        if used is not None:
            used.recorder.sending.flush(deadline)

    def _stop(self, deadline: float) -> None:
        """End hooks and worker, say what is left, and close all while there is time."""
        recorder = self._settling.recorder if self._settling is not None else None
        with containing("stop", self.report):
            if self._hooks is not None:
                self._hooks.stop()
            if recorder is not None:
                left_s = deadline - time.monotonic()
                least_s = IMPATIENCE_S if recorder.outbox.waited_s else SUMMARY_S
                seconds = min(PATIENCE_S, max(least_s, left_s))
                for line in recorder.sending.stop(is_late=left_s <= 0, seconds=seconds):
                    self._say(line)
        with containing("close", self.report):
            if self._telemetry is not None:
                left = timedelta(seconds=max(LAST_S, self._end - time.monotonic()))
                self._telemetry.shutdown(min(TELEMETRY_BUDGET, left))
            if recorder is not None:
                with suppress(TimedOut):  # the process ends
                    bounded(recorder.sending.close, max(LAST_S, self._end - time.monotonic()))


def _hurried(step: Callable[[float], object], deadline: float) -> float:
    """Do *step* until *deadline*; after a signal to end again, with less time. Returns its end.

    Ctrl-C is raised: somebody does not want to wait.
    """
    try:
        step(deadline)
    except KeyboardInterrupt as came:
        left: timedelta | None = getattr(came, "flush", None)
        if left is None:
            raise
        deadline = min(deadline, time.monotonic() + left.total_seconds())
        step(deadline)
    return deadline
