"""What one run has open: telemetry, outbox and hooks, made on first use and ended in time."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from ..bounded import TimedOut, bounded
from ..contained import contained, containing
from ..event import Database
from .hook_runner import HookRunner
from .outgoing import Outgoing
from .parts import TELEMETRY_BUDGET, Parts
from .run_outbox import PATIENCE_S

if TYPE_CHECKING:
    from ..config import Settings
    from ..telemetry import Telemetry

SUMMARY_S = 0.5
"""How long the outbox may take to say what is left, after the flush took its whole time."""
MOMENT_S = 0.5
"""Receivers have this long at least, also after a silent outbox."""
REST_S = 1.0
"""Of the time after that, what telemetry leaves to receivers then."""
LAST_S = 0.1
"""The same for exporting, and for closing."""


class InUse:
    """The parts of a run that are in use. A run in which nothing happens opens none."""

    def __init__(self, settings: Settings, parts: Parts, write: Callable[[str], None]) -> None:
        self._settings = settings
        self._ask_for_leftovers = parts.has_leftovers
        self._parts = replace(parts, has_leftovers=cache(self._has_leftovers))
        self._write = write
        self._has_reported = False
        self._has_span = False
        self.telemetry: Telemetry | None = None
        self.outgoing: Outgoing | None = None
        self.hooks: HookRunner | None = None
        self.database = Database()
        """As far as it is known: of the command's address, its connection, its first migration."""
        self.connection: Any = None
        """The connection that migrates."""
        self.command = "confiture migrate"
        self.started_at = datetime.now(UTC)
        self.deadline: float | None = None
        """Until when receivers and hooks are waited for (monotonic); ``None``: the run migrates."""
        self._end = 0.0
        """Until when telemetry is."""

    def end_within(self, flush_timeout: timedelta) -> None:
        """The run is over: from now on there is a deadline.

        What the run has waited for a silent outbox is taken off, but for a moment.
        """
        now, flush_s = time.monotonic(), flush_timeout.total_seconds()
        waited_s = self.outgoing.outbox.waited_s if self.outgoing is not None else 0.0
        left_s = min(flush_s, flush_s - waited_s + REST_S)
        self.deadline = now + max(left_s, min(flush_s, MOMENT_S))
        self._end = now + flush_s - waited_s + TELEMETRY_BUDGET.total_seconds()
        if self.outgoing is not None:
            self.outgoing.outbox.deadline = self.deadline - MOMENT_S

    def traced(self) -> Telemetry:
        """Telemetry, with the run's span open."""
        if self.telemetry is None:
            self.telemetry = self._parts.telemetry()
        if not self._has_span:
            self._has_span = True
            self.telemetry.start_run(self.command, self.database, started_at=self.started_at)
            if self._settings.faults:
                self.telemetry.config_invalid(self._settings.faults, is_said=True)
        return self.telemetry

    def is_traced(self) -> bool:
        """Whether anybody would see the span of a run in which nothing happened."""
        return self._has_span or self._parts.exports()

    def begun_at(self, database: Database) -> tuple[Telemetry, Outgoing]:
        """The same, as of a run that migrates *database*."""
        if self.outgoing is None:
            self.database = database
            if self.telemetry is not None:
                self.telemetry.connected(database)
        return self.begun()

    def begun(self) -> tuple[Telemetry, Outgoing]:
        """Telemetry and outbox, with the run's span open and the hooks being imported."""
        telemetry = self.traced()
        if self.outgoing is None:
            self.outgoing = self._made_outgoing(telemetry)
            if self.connection is not None:
                with containing("reaching the outbox", self.report):
                    self.outgoing.write_over(self.connection)
        if self.hooks is None and self._parts.hooks is not None:
            self.hooks = HookRunner(
                self._settings,
                self._parts.hooks,
                telemetry,
                self.outgoing.release,
                has_python=self._parts.has_python,
            )
        return telemetry, self.outgoing

    def reached(self) -> tuple[Telemetry, Outgoing] | None:
        """Telemetry and outbox, if this run or an earlier one has something in it."""
        if self.outgoing is None:
            if not self._parts.has_leftovers():
                return None
            self.telemetry = self.telemetry or self._parts.telemetry()
            self.outgoing = self._made_outgoing(self.telemetry)
        assert self.telemetry is not None
        return self.telemetry, self.outgoing

    def _made_outgoing(self, telemetry: Telemetry) -> Outgoing:
        outgoing = Outgoing(self._settings, self._parts, telemetry, self.command)
        if self.deadline is not None:
            outgoing.outbox.deadline = self.deadline - MOMENT_S
        return outgoing

    def _has_leftovers(self) -> bool:
        """Whether an earlier run may have left deliveries; asked once, and not for long."""
        deadline = self.deadline or time.monotonic() + PATIENCE_S
        with suppress(TimedOut):
            return bounded(self._ask_for_leftovers, max(0.1, deadline - time.monotonic()))
        return False

    def report(self, where: str, error: BaseException) -> None:
        """One line for the first fault of our own, log or no log; the run goes on."""
        if self._has_reported:
            return
        self._has_reported = True
        if self.telemetry is not None:
            with suppress(Exception):
                self.telemetry.failed(where, error)
                if self._settings.is_logged:
                    return
        self.say(
            f"confiture-webhooks: {where} failed ({type(error).__name__}); "
            "webhooks of this run may be missing, the migration goes on"
        )

    def say(self, text: str) -> None:
        """A line for people."""
        with suppress(Exception):  # standard error is closed
            for line in text.split("\n"):
                self._write(line)

    @contained
    def flush(self) -> None:
        """Wait for users' hooks and for what is due, of earlier runs too."""
        assert self.deadline is not None
        if self.hooks is not None:
            self.hooks.drain(self.deadline)
        if reached := self.reached():
            reached[1].sending.flush(self.deadline)

    @contained
    def stop(self) -> None:
        """End hooks and worker, and say what is left."""
        assert self.deadline is not None
        if self.hooks is not None:
            self.hooks.stop()
        left_s = self.deadline - time.monotonic()
        seconds = min(PATIENCE_S, max(SUMMARY_S, left_s))
        if self.outgoing is not None and (
            line := self.outgoing.sending.stop(is_late=left_s <= 0, seconds=seconds)
        ):
            self.say(line)

    @contained
    def close(self) -> None:
        """Export what is left, and close connections and files, while there is time."""
        if self.telemetry is not None:
            left = timedelta(seconds=max(LAST_S, self._end - time.monotonic()))
            self.telemetry.shutdown(min(TELEMETRY_BUDGET, left))
        if self.outgoing is not None:
            with suppress(TimedOut):  # the process ends
                bounded(self.outgoing.sending.close, max(LAST_S, self._end - time.monotonic()))
