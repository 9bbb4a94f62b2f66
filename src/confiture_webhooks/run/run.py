"""One run of migrations: what happened goes in, deliveries go out, and the run ends in time.

Nothing here may cost the migration anything: every public method is contained, so a fault of
ours is one log line and a ``None``, never an exception.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from .. import stderr
from ..event import (
    Database,
    Direction,
    ErrorInfo,
    Event,
    EventType,
    MigrationRef,
    outcome_event,
)
from .hook_events import HookFeed
from .migration import UNKNOWN, Backend, Migration, new_event_id
from .outgoing import TELEMETRY_BUDGET, Outgoing, Parts
from .settling import Settling

if TYPE_CHECKING:
    from ..config import Settings
    from ..telemetry import Telemetry
    from .settler import Ask

P = ParamSpec("P")
R = TypeVar("R")


def contained(
    method: Callable[Concatenate[Run, P], R],
) -> Callable[Concatenate[Run, P], R | None]:
    """Turn any fault of *method* into one log line and ``None``."""

    @functools.wraps(method)
    def wrapper(self: Run, /, *args: P.args, **kwargs: P.kwargs) -> R | None:
        try:
            return method(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001  a bug of ours must never reach a migration
            self.report(method.__name__.strip("_"), error)
            return None

    return wrapper


class Run:
    """The events of one run, told to every endpoint that wants them."""

    def __init__(
        self, settings: Settings, parts: Parts, say: Callable[[str], None] | None = None
    ) -> None:
        self._settings = settings
        self._parts = parts
        self._write = say or (lambda text: stderr.write(f"{text}\n"))
        self._telemetry: Telemetry | None = None
        self._outgoing: Outgoing | None = None
        self._hooks: HookFeed | None = None
        self._database = Database()
        self._command = "confiture migrate"
        self._started_at = datetime.now(UTC)
        self._started = time.monotonic()
        self._has_reported = False
        self._is_finished = False
        self._ended: list[tuple[Migration, bool]] = []
        self._owed: dict[str, tuple[Migration, int | None, ErrorInfo | None]] = {}
        self._settling = Settling(self.conclude, self._say, settings.environment)

    @contained
    def begin(self, command: str) -> None:
        """A command that migrates has started; costs nothing until there is something to tell."""
        self._command = command
        self._started_at = datetime.now(UTC)
        self._started = time.monotonic()

    @contained
    def consult(self, ask: Ask, ask_here: Ask | None = None) -> None:
        """*ask* the database of this run how the migrations of killed runs ended.

        *ask_here* does so over the connection that migrates.
        """
        self._settling.ask, self._settling.ask_here = ask, ask_here

    @property
    def unsettled(self) -> list[Migration]:
        """The migrations of this run that nobody saw end."""
        return self._settling.unsettled

    @contained
    def migration(
        self, ref: MigrationRef, direction: Direction, backend: Backend
    ) -> Migration | None:
        """A migration is about to run. Call it before its transaction holds anything.

        ``None``: the run is over, or a fault of ours was told, and nobody listens.
        """
        if self._is_finished:
            return None
        for earlier in [m for m in self.unsettled if m.ref.version == ref.version]:
            # Asked later, its ledger row could be the one this attempt is about to write.
            self.unsettled.remove(earlier)
            self._settle_one(earlier)
        telemetry, outgoing = self._begun(backend.database)
        self._settle_earlier(ref.version, has_lock=backend.has_lock)
        span = telemetry.migration(ref, direction)
        migration = Migration(
            ref,
            direction,
            backend,
            span,
            conclude=self.conclude,
            settle_later=self.unsettled.append,
        )
        if not backend.is_gone:  # it fails, and there is nothing to settle
            self._settling.stage(
                migration,
                outgoing,
                environment=self._settings.environment,
                run_id=telemetry.correlation_id,
            )
        if self._hooks is not None:
            self._hooks.started(migration)
        if direction is Direction.UP and self._is_wanted(EventType.MIGRATION_STARTED):
            started = self._event(
                EventType.MIGRATION_STARTED, migration, started_at=migration.started_at
            )
            outgoing.tell(started, span.trace)
        return migration

    @contained
    def committing(self, migration: Migration, rows_affected: int | None, connection: Any) -> None:
        """A migration is about to commit on *connection*: its success may go with it.

        Nothing is certain before ``conclude``, which tells the same event once more.
        """
        if self._outgoing is None:
            return
        ended_at, duration_s = migration.so_far()
        event = self._event(
            outcome_event(migration.direction, is_success=True),
            migration,
            event_id=migration.event_id,
            started_at=migration.started_at,
            ended_at=ended_at,
            duration_s=round(duration_s, 6),
            rows_affected=rows_affected,
        )
        self._outgoing.tell_on(connection, event, migration.span.trace)

    @contained
    def conclude(
        self, migration: Migration, rows_affected: int | None, error: ErrorInfo | None
    ) -> None:
        """A migration ended: close its span and release its event.

        When Ctrl-C comes in between, ``finish`` does it again: the event id is the same.
        """
        self._owed[migration.event_id] = (migration, rows_affected, error)
        try:
            self._tell_end(migration, rows_affected, error)
        except Exception:
            del self._owed[migration.event_id]
            raise
        del self._owed[migration.event_id]

    def _tell_end(
        self, migration: Migration, rows_affected: int | None, error: ErrorInfo | None
    ) -> None:
        migration.stop_clock()
        migration.error = error
        if all(migration is not ended for ended, _ in self._ended):
            self._ended.append((migration, error is None))
        migration.span.finish(
            duration_s=migration.duration_s, rows_affected=rows_affected, error=error
        )
        event = self._event(
            outcome_event(migration.direction, is_success=error is None),
            migration,
            event_id=migration.event_id,
            started_at=migration.started_at,
            ended_at=migration.ended_at,
            duration_s=round(migration.duration_s, 6),
            rows_affected=rows_affected,
            error=error,
        )
        self._begun(migration.backend.database)[1].tell(event, migration.span.trace)
        if self._hooks is not None:
            self._hooks.ended(migration, rows_affected)

    @contained
    def finish(self, error_type: str | None = None) -> bool:
        """The migrations are over: tell the rest within the flush budget. Later calls do nothing.

        *error_type*: why the run failed, ``None`` when it did not. Returns whether Ctrl-C cut
        it short: it is not raised, for the command has its result already.
        """
        if self._is_finished:
            return False
        self._is_finished = True
        deadline = time.monotonic() + self._settings.flush_timeout.total_seconds()
        self._settling.deadline = deadline
        is_interrupted = True
        try:
            for owed in list(self._owed.values()):
                self.conclude(*owed)
            self._settle()
            self._conclude_run(error_type)
            self._settle_killed()
            if self._hooks is not None:
                self._hooks.drain(deadline)
            self._flush(deadline)
            is_interrupted = False
        except KeyboardInterrupt:
            self._say("confiture-webhooks: interrupted; what is not sent stays as it is")
        try:
            self._stop()
            self._end_telemetry(deadline + TELEMETRY_BUDGET.total_seconds())
            self._let_go()
        except KeyboardInterrupt:  # asked twice: end at once, with the migration's answer
            is_interrupted = True
        return is_interrupted

    def report(self, where: str, error: BaseException) -> None:
        """One log line for the first fault of our own; the run goes on."""
        if self._has_reported:
            return
        self._has_reported = True
        if self._telemetry is not None:
            with suppress(Exception):
                self._telemetry.failed(where, error)
                return
        self._say(
            f"confiture-webhooks: {where} failed ({type(error).__name__}); "
            "webhooks of this run may be missing, the migration goes on"
        )

    def _say(self, text: str) -> None:
        with suppress(Exception):  # a closed stderr: nobody is left to tell
            self._write(text)

    def _begun(self, database: Database) -> tuple[Telemetry, Outgoing]:
        """Telemetry and outbox, with the run's span open."""
        if self._telemetry is None:
            self._telemetry = self._parts.telemetry()
        if self._outgoing is None:
            self._database = database
            self._telemetry.start_run(self._command, database, started_at=self._started_at)
            self._outgoing = Outgoing(self._settings, self._parts, self._telemetry)
            if self._parts.hooks is not None:
                self._hooks = HookFeed(
                    self._settings, self._parts.hooks, self._telemetry, self._outgoing
                )
        return self._telemetry, self._outgoing

    def _is_wanted(self, kind: EventType) -> bool:
        return any(kind in endpoint.events for endpoint in self._settings.endpoints)

    def _event(
        self,
        kind: EventType,
        migration: Migration | None = None,
        *,
        event_id: str | None = None,
        **facts: Any,
    ) -> Event:
        assert self._telemetry is not None
        return Event(
            id=event_id or new_event_id(),
            type=kind,
            occurred_at=datetime.now(UTC),
            trace_id=self._telemetry.correlation_id,
            environment=self._settings.environment,
            database=migration.backend.database if migration else self._database,
            direction=migration.direction if migration else None,
            migration=migration.ref if migration else None,
            **facts,
        )

    @contained
    def _settle(self) -> None:
        """Ask the ledger how the migrations ended that nobody saw end."""
        while self.unsettled:
            self._settle_one(self.unsettled[0])
            self.unsettled.pop(0)

    @contained
    def _settle_one(self, migration: Migration) -> None:
        self._settling.end(migration)

    @contained
    def _conclude_run(self, error_type: str | None) -> None:
        failed = [migration for migration, is_success in self._ended if not is_success]
        error = failed[-1].error if failed else None
        if error is not None:
            error_type = error.sqlstate or error.type
        if error_type is None and self._settling.has_unknown:
            error_type = UNKNOWN.type
        kind = EventType.RUN_SUCCESS if error_type is None else EventType.RUN_ERROR
        is_wanted = self._is_wanted(kind)
        if self._outgoing is None and error_type is None:
            return
        if self._outgoing is None and not is_wanted:
            self._trace_failed(error_type)
            return
        telemetry, outgoing = self._begun(self._database)
        ended_at = datetime.now(UTC)
        duration_s = round(time.monotonic() - self._started, 6)
        if is_wanted and (self._ended or error_type):
            event = self._event(
                kind,
                started_at=self._started_at,
                ended_at=ended_at,
                duration_s=duration_s,
                error=error
                or (ErrorInfo(type=error_type, message="the run failed") if error_type else None),
                migrations=[migration.row(is_success=ended) for migration, ended in self._ended],
            )
            outgoing.tell(event, telemetry.trace_of_run())
        telemetry.end_run(
            applied=len(self._ended) - len(failed), failed=len(failed), error_type=error_type
        )

    def _trace_failed(self, error_type: str | None) -> None:
        """The span of a run that failed before its first migration, which no endpoint hears of."""
        self._telemetry = self._telemetry or self._parts.telemetry()
        self._telemetry.start_run(self._command, self._database, started_at=self._started_at)
        self._telemetry.end_run(applied=0, failed=0, error_type=error_type)

    @contained
    def _settle_earlier(self, version: str, *, has_lock: bool) -> None:
        """Tell how *version* ended in killed runs, before it runs again."""
        if self._telemetry is not None and self._outgoing is not None:
            outgoing, telemetry = self._outgoing, self._telemetry
            self._settling.tell_earlier(version, outgoing, telemetry, has_lock=has_lock)

    @contained
    def _settle_killed(self) -> None:
        """Tell how the migrations of killed runs ended."""
        reached = self._reached()
        if reached is not None and not self._settling.has_unknown:
            telemetry, outgoing = reached
            self._settling.tell_killed(outgoing, telemetry)

    @contained
    def _flush(self, deadline: float) -> None:
        if reached := self._reached():
            left = timedelta(seconds=max(0.0, deadline - time.monotonic()))
            reached[1].flush(left)

    def _reached(self) -> tuple[Telemetry, Outgoing] | None:
        """Telemetry and outbox, if this run or an earlier one has something in it."""
        if self._outgoing is None:
            if not self._parts.has_leftovers():
                return None
            self._telemetry = self._telemetry or self._parts.telemetry()
            self._outgoing = Outgoing(self._settings, self._parts, self._telemetry)
        assert self._telemetry is not None
        return self._telemetry, self._outgoing

    @contained
    def _stop(self) -> None:
        if self._hooks is not None:
            self._hooks.stop()
        if self._outgoing is not None and (
            line := self._outgoing.stop(is_late=self._deadline_is_over())
        ):
            self._say(line)

    def _deadline_is_over(self) -> bool:
        deadline = self._settling.deadline
        return deadline is not None and time.monotonic() >= deadline

    @contained
    def _end_telemetry(self, deadline: float) -> None:
        if self._telemetry is not None:
            left = timedelta(seconds=max(0.1, deadline - time.monotonic()))
            self._telemetry.shutdown(min(TELEMETRY_BUDGET, left))

    @contained
    def _let_go(self) -> None:
        if self._outgoing is not None:
            self._outgoing.close()
