"""One run of migrations: what happened goes in, deliveries go out, and the run ends in time.

Nothing here may cost the migration anything: every public method is contained, so a fault of
ours is one log line and a ``None``, never an exception.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from .. import terminal
from ..contained import contained
from ..event import (
    Database,
    Direction,
    ErrorInfo,
    EventType,
    MigrationRef,
)
from ..settlement import killed_run_id
from .in_use import InUse
from .migration import UNKNOWN, Backend, Migration, new_event_id, run_event
from .parts import Parts
from .run_outbox import IMPATIENCE_S
from .settling import Settling

if TYPE_CHECKING:
    from ..config import Settings
    from ..endpoint import Endpoint
    from ..telemetry import Telemetry
    from .outgoing import Outgoing
    from .settling import Ask


class Run:
    """The events of one run, sent to every endpoint that wants them."""

    def __init__(
        self, settings: Settings, parts: Parts, say: Callable[[str], None] = terminal.say
    ) -> None:
        self._settings = settings
        self._in_use = InUse(settings, parts, say)
        self._started = time.monotonic()
        self._is_finished = False
        self._ended: list[tuple[Migration, bool]] = []
        self._owed: dict[str, tuple[Migration, int | None, ErrorInfo | None]] = {}
        self._settling = Settling(self.conclude, self._in_use, settings.environment)

    @contained
    def begin(self, command: str) -> None:
        """A command that migrates has started; costs nothing until something happens."""
        self._in_use.command = command
        self._in_use.started_at = datetime.now(UTC)
        self._started = time.monotonic()

    @contained
    def aim(self, database: Database) -> None:
        """The run was to migrate *database*, and has no connection that would say so."""
        self._in_use.database = database

    @contained
    def consult(
        self, ask: Ask, ask_here: Ask | None = None, database: Database | None = None
    ) -> None:
        """*ask* the *database* of this run how the migrations of killed runs ended.

        *ask_here* does so over the connection that migrates.
        """
        self._in_use.database = database or self._in_use.database
        self._settling.ask, self._settling.ask_here = ask, ask_here

    @property
    def unsettled(self) -> list[Migration]:
        """The migrations of this run whose end was not seen."""
        return self._settling.unsettled

    @contained
    def write_over(self, connection: Any) -> None:
        """*connection* is the one that migrates: an outbox in its database is written over it."""
        self._in_use.connection = connection

    @contained
    def expect(self, ref: MigrationRef, direction: Direction, backend: Backend) -> None:
        """A migration is to begin next, and its connection is idle outside a transaction.

        What takes time is done now: the outbox is opened, and it is staged.
        """
        if self._is_finished:
            return
        self._in_use.begun_at(backend.database)
        self._record_earlier(ref.version, has_lock=backend.has_lock)
        self._settling.expect(ref, direction, backend)

    def hurried(self, *, when: bool) -> AbstractContextManager[None]:
        """*when*: the host's transaction is open, so a slow outbox is not waited for in here."""
        outgoing = self._in_use.outgoing
        return outgoing.outbox.hurried(when=when) if outgoing is not None else nullcontext()

    @contained
    def migration(
        self, ref: MigrationRef, direction: Direction, backend: Backend
    ) -> Migration | None:
        """A migration is about to run. Call it before its transaction holds anything.

        ``None``: the run is over, or a fault of ours was reported.
        """
        if self._is_finished:
            return None
        telemetry, outgoing = self._in_use.begun_at(backend.database)
        with self.hurried(when=not backend.is_idle):
            return self._begin(ref, direction, backend, telemetry, outgoing)

    def _begin(
        self,
        ref: MigrationRef,
        direction: Direction,
        backend: Backend,
        telemetry: Telemetry,
        outgoing: Outgoing,
    ) -> Migration:
        for earlier in [m for m in self.unsettled if m.ref.version == ref.version]:
            # Asked later, its ledger row could be the one this attempt is about to write.
            self.unsettled.remove(earlier)
            self._settle_one(earlier, None if backend.is_idle else IMPATIENCE_S)
        event_id = self._settling.take_expected(ref, direction)
        if event_id is None:
            has_lock = backend.has_lock and backend.is_idle
            self._record_earlier(ref.version, has_lock=has_lock)
        span = telemetry.migration(ref, direction)
        migration = Migration(
            ref,
            direction,
            backend,
            span,
            conclude=self.conclude,
            settle_later=self.unsettled.append,
            event_id=event_id,
        )
        if event_id is None and not backend.is_gone:  # else it fails: there is nothing to settle
            self._settling.stage(migration.event_id, ref, direction, backend, span.trace)
        if self._in_use.hooks is not None:
            self._in_use.hooks.started(migration)
        if direction is Direction.UP and self._is_wanted(EventType.MIGRATION_STARTED):
            outgoing.record(migration.started_event(*self._where()), span.trace)
        return migration

    @contained
    def committing(self, migration: Migration, rows_affected: int | None, connection: Any) -> None:
        """A migration is about to commit on *connection*: its success may go with it.

        Nothing is certain before ``conclude``, which records the same event once more.
        """
        outgoing = self._in_use.outgoing
        if outgoing is None:
            return
        event = migration.ended_event(*self._where(), rows_affected=rows_affected)
        outgoing.record_on(connection, event, migration.span.trace)

    @contained
    def conclude(
        self, migration: Migration, rows_affected: int | None, error: ErrorInfo | None
    ) -> None:
        """A migration ended: close its span and release its event.

        When Ctrl-C comes in between, ``finish`` does it again: the event id is the same.
        """
        self._owed[migration.event_id] = (migration, rows_affected, error)
        try:
            self._record_end(migration, rows_affected, error)
        except Exception:
            del self._owed[migration.event_id]
            raise
        del self._owed[migration.event_id]

    def _record_end(
        self, migration: Migration, rows_affected: int | None, error: ErrorInfo | None
    ) -> None:
        migration.stop_clock()
        migration.error = error
        if all(migration is not ended for ended, _ in self._ended):
            self._ended.append((migration, error is None))
        migration.span.finish(
            duration_s=migration.duration_s, rows_affected=rows_affected, error=error
        )
        event = migration.ended_event(*self._where(), rows_affected=rows_affected, error=error)
        _, outgoing = self._in_use.begun()
        outgoing.record(event, migration.span.trace)
        if error is None:
            self._settling.record_outlived(migration)
        if self._in_use.hooks is not None:
            self._in_use.hooks.ended(migration, rows_affected)

    @contained
    def finish(self, error_type: str | None = None, error: ErrorInfo | None = None) -> bool:
        """The migrations are over: send the rest within the flush budget. Later calls do nothing.

        *error_type*: why the run failed, ``None`` when it did not; *error*: more of it. Returns
        whether Ctrl-C cut it short: it is not raised, for the command has its result already.
        """
        if self._is_finished:
            return False
        self._is_finished = True
        self._in_use.end_within(self._settings.flush_timeout)
        is_interrupted = True
        try:
            for owed in list(self._owed.values()):
                self.conclude(*owed)
            self._give_back()
            self._settle()
            self._conclude_run(error_type, error)
            self._record_killed()
            self._in_use.flush()
            is_interrupted = False
        except KeyboardInterrupt:
            self._in_use.say("confiture-webhooks: interrupted; what is not sent stays as it is")
        try:
            self._in_use.stop()
            self._in_use.close()
        except KeyboardInterrupt:  # asked twice: end at once, with the migration's answer
            is_interrupted = True
        return is_interrupted

    def report(self, where: str, error: BaseException) -> None:
        """One log line for the first fault of our own; the run goes on."""
        self._in_use.report(where, error)

    def _is_wanted(self, kind: EventType) -> bool:
        return any(kind in endpoint.events for endpoint in self._settings.recorded)

    def _where(self) -> tuple[str | None, str]:
        """The environment, and the id of the run's trace."""
        telemetry = self._in_use.telemetry
        assert telemetry is not None
        return self._settings.environment, telemetry.correlation_id

    @contained
    def _give_back(self) -> None:
        """The host's connection is free, or gone: nothing is expected on it any more."""
        if self._in_use.outgoing is not None:
            self._settling.give_up_expected()
            self._in_use.outgoing.give_back()
        self._in_use.connection = None

    @contained
    def _settle(self) -> None:
        """Ask the ledger how the migrations ended whose end was not seen."""
        while self.unsettled:
            self._settle_one(self.unsettled[0])
            self.unsettled.pop(0)

    @contained
    def _settle_one(self, migration: Migration, seconds: float | None = None) -> None:
        self._settling.end(migration, seconds)

    @contained
    def _conclude_run(self, error_type: str | None, error: ErrorInfo | None) -> None:
        """Close the run's span, count it, and release its event."""
        if self._settings.faults:
            self._in_use.traced()  # which logs them
        failed = [migration for migration, is_success in self._ended if not is_success]
        is_known = not self._settling.has_unknown
        if failed and failed[-1].error is not None:
            error = failed[-1].error
        if error is not None:
            error_type = error.sqlstate or error.type
        if not is_known:
            error_type = error_type or UNKNOWN.type
        kind = EventType.RUN_SUCCESS if error_type is None else EventType.RUN_ERROR
        endpoints: Sequence[Endpoint] = self._settings.recorded
        if is_known and not failed:
            endpoints = [endpoint.for_silent_run() for endpoint in endpoints]
        wanting = [endpoint for endpoint in endpoints if kind in endpoint.events]
        if wanting and (self._ended or error_type):
            telemetry, outgoing = self._in_use.begun()
            outbox = outgoing.outbox.current
            # Whoever settles what is not known reports this run, too.
            event_id = killed_run_id(outbox.holder) if outbox and not is_known else new_event_id()
            event = run_event(
                event_id,
                kind,
                self._ended,
                *self._where(),
                database=self._in_use.database,
                started_at=self._in_use.started_at,
                duration_s=time.monotonic() - self._started,
                error=error
                or (ErrorInfo(type=error_type, message="the run failed") if error_type else None),
            )
            outgoing.record(event, telemetry.trace_of_run(), wanting)
        if error_type is not None or self._in_use.is_traced():
            self._in_use.traced().end_run(
                applied=len(self._ended) - len(failed),
                failed=len(failed),
                error_type=error_type,
                is_known=is_known,
            )

    @contained
    def _record_earlier(self, version: str, *, has_lock: bool) -> None:
        """Report how *version* ended in killed runs, before it runs again."""
        self._settling.record_earlier(version, has_lock=has_lock)

    @contained
    def _record_killed(self) -> None:
        """Report how the migrations of killed runs ended."""
        self._settling.record_killed()
