"""Sends the deliveries of a run's outbox: the worker, the wait at the end, and its last lines."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ..bounded import TimedOut, bounded
from ..config import Settings
from ..errors import UNRECORDED, OutboxError
from ..outbox import Outbox, Summary
from ..outlook import outlook
from ..remedy import shown
from ..terminal import counted, is_terminal, progress, say
from ..transport import Transport
from ..worker import Worker
from . import Parts
from .last_lines import GIVEN_UP, Loss, given_up_line, leftover_line
from .run_outbox import IMPATIENCE_S, PATIENCE_S, RunOutbox

if TYPE_CHECKING:
    from ..telemetry import Telemetry

SILENT_S = 2.0
"""A wait that is longer is said also without a terminal."""


@dataclass(eq=False, repr=False)
class Sending:
    """The worker and the transport of one run, made on first use."""

    _settings: Settings
    _parts: Parts
    _telemetry: Telemetry
    _outbox: RunOutbox
    _transport: Transport | None = None
    _worker: Worker | None = None
    _said_at: float = math.inf
    """With less seconds left, a wait without a terminal is said; then no more."""
    _making: threading.Lock = field(default_factory=threading.Lock)

    def wake(self, *runs: str) -> Worker:
        """Begin to send what is in the outbox, which is open; *runs*: those of what is new."""
        with self._making:
            worker = self._worker
            if worker is None:
                assert self._outbox.current is not None
                self._transport = self._parts.transport()
                worker = self._worker = Worker(
                    self._settings.endpoints,
                    self._outbox.current,
                    self._transport,
                    self._telemetry,
                    environment=self._settings.environment,
                    hold=self._settings.flush_timeout,
                )
                worker.start()
                return worker
        worker.wake(*runs)
        return worker

    def abandon(self) -> Sequence[Callable[[], object]]:
        """Take worker and transport out of use; the calls that end them."""
        with self._making:
            worker, transport = self._worker, self._transport
            self._worker = self._transport = None
        return (worker.stop, transport.close) if worker and transport else ()

    def flush(self, deadline: float) -> None:
        """Wait until *deadline* (monotonic) for what is due, of earlier runs, too."""
        worker = self._worker
        if worker is None:
            if not self._settings.recorded or self._outbox.current is None:
                return
            worker = self.wake()
        left_s = max(0.0, deadline - time.monotonic())
        self._said_at = min(self._said_at, left_s - SILENT_S)
        show = self._show if self._parts.shows_progress else None
        try:
            worker.drain(timedelta(seconds=left_s), show=show)
        finally:
            if show is not None:
                progress("")

    def _show(self, left_s: float) -> None:
        """On a terminal, show what is left as it changes; elsewhere say it once."""
        outbox, is_shown = self._outbox.current, is_terminal()
        if outbox is None or not (is_shown or left_s < self._said_at):
            return
        with suppress(OutboxError, TimedOut):
            mine = bounded(lambda: outbox.summary(self._settings.environment), IMPATIENCE_S)
            if left := mine.waiting:
                text = f"{counted(left, 'webhook', 'webhooks')} to deliver, {left_s:.0f} s at most"
                if is_shown:
                    progress(f"{text} … Ctrl-C skips")
                else:
                    self._said_at = 0.0
                    say(f"confiture-webhooks: {text}")

    def stop(self, *, is_late: bool = False, seconds: float = PATIENCE_S) -> list[str]:
        """End the worker; the lines to read when not everything was delivered.

        The outbox may take *seconds* to answer. Old delivered rows are deleted, unless *is_late*:
        then no time is left for it.
        """
        lines: list[str] = []
        if self._worker is not None:
            self._worker.stop()
            until = time.monotonic() + seconds
            try:
                lines = self._rest(self._worker, until)
            except (OutboxError, TimedOut) as error:  # it is gone by now
                why = self._outbox.silence(seconds) if isinstance(error, TimedOut) else error
                self._telemetry.outbox_failed(str(why))
                return [self._broken_line(why)]
            left_s, outbox = until - time.monotonic(), self._outbox.current
            if outbox is not None and left_s > 0 and not is_late:
                with suppress(OutboxError, TimedOut):  # a later run does it
                    bounded(outbox.prune, left_s)
        if self._outbox.has_left:
            return [self._broken_line(self._outbox.refusal), *lines]
        return lines

    def _broken_line(self, why: object) -> str:
        return (
            f"confiture-webhooks: {why}. Deliveries recorded before that are kept in it. Once it "
            f"answers, the next run sends them. Or send them then: {shown('deliver')}."
        )

    def _rest(self, worker: Worker, until: float) -> list[str]:
        """The rest, in lines to read, until *until*. Raises OutboxError or TimedOut."""
        assert self._outbox.current is not None
        is_restored = not self._outbox.current.is_durable and self._outbox.restored(
            until - time.monotonic()
        )
        outbox = self._outbox.current
        is_kept = outbox.is_durable
        loss = None if is_kept else Loss(self._outbox.refusal, self._parts.is_project)
        lines, paces = [], {pace.endpoint.name: pace for pace in worker.snapshot()}
        given_up = {
            name: one.outcomes for name, one in paces.items() if one.outcomes.keys() & GIVEN_UP
        }
        if given_up and not is_restored:
            failures = {name: one.failed for name, one in paces.items() if one.failed}
            lines.append(given_up_line(given_up, failures, loss))
        left_s = max(IMPATIENCE_S, until - time.monotonic())
        left = bounded(lambda: self._left(worker, outbox, loss), left_s, is_patient=True)
        return [*lines, left] if left else lines

    def _left(self, worker: Worker, outbox: Outbox, loss: Loss | None) -> str | None:
        environment, summaries = self._settings.environment, outbox.summaries()
        summary = summaries.get(environment, Summary())
        if not summary.undelivered:
            return None
        now = datetime.now(UTC)
        waits = outlook(
            summary.undelivered,
            configured=self._settings.recorded,
            statuses=outbox.statuses(environment),
            oldest=summary.oldest,
            now=now,
        )
        next_at = min(
            outbox.due(self._settings.endpoints, environment, now=now).values(), default=now
        )
        return leftover_line(
            summaries,
            environment,
            {
                one.endpoint.name: failure
                for one in worker.snapshot()
                if (failure := UNRECORDED if one.unrecorded else one.last_failure)
            },
            waits=waits,
            next_at=next_at if next_at > now else None,
            loss=loss,
        )

    def close(self) -> None:
        """Close connections and files."""
        with ExitStack() as last:
            for part in (self._outbox.current, self._transport):
                if part is not None:
                    last.callback(part.close)
