"""Sends the deliveries of a run's outbox: the worker, the wait at the end, and its last lines."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ..bounded import TimedOut, bounded
from ..config import Settings
from ..delivery import Outcome, State
from ..errors import CUT, UNRECORDED, OutboxError
from ..event import rfc3339
from ..outbox import Outbox, Summary, waiting_elsewhere
from ..outlook import Wait, again_lines, correct_first, outlook
from ..remedy import shown
from ..terminal import counted, is_terminal, progress, say
from ..transport import Transport
from ..worker import Worker
from . import Parts
from .other_environment import elsewhere_line
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
    _said_at: float = 0.0
    """With less seconds left, a wait without a terminal is said; then no more."""
    _making: threading.Lock = field(default_factory=threading.Lock)

    def wake(self, *runs: str) -> Worker:
        """Begin to send what is in the outbox, which is open; *runs*: those of what is new."""
        with self._making:
            if (worker := self._worker) is None:
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
        if (worker := self._worker) is None:
            if not self._settings.recorded or self._outbox.current is None:
                return
            worker = self.wake()
        left_s = max(0.0, deadline - time.monotonic())
        self._said_at = left_s - SILENT_S
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
        kept = "Deliveries recorded before that are kept in it"
        then = f"Once it answers, the next run sends them. Or send them then: {shown('deliver')}"
        return f"confiture-webhooks: {why}. {kept}. {then}."

    def _rest(self, worker: Worker, until: float) -> list[str]:
        """The rest, in lines to read, until *until*. Raises OutboxError or TimedOut."""
        assert self._outbox.current is not None
        is_kept, left_s = self._outbox.current.is_durable, until - time.monotonic()
        is_restored = not is_kept and self._outbox.restored(left_s)
        outbox = self._outbox.current
        refusal, is_project = self._outbox.refusal, self._parts.is_project
        loss = None if outbox.is_durable else loss_line(refusal, is_project=is_project)
        lines, paces = [], {pace.endpoint.name: pace for pace in worker.snapshot()}
        ends = {Outcome.DEAD_LETTER, Outcome.GONE}
        given_up = {name: one.outcomes for name, one in paces.items() if one.outcomes.keys() & ends}
        if given_up and not is_restored:
            failures = {name: one.failed for name, one in paces.items() if one.failed}
            lines.append(given_up_line(given_up, failures, loss))
        left_s = max(IMPATIENCE_S, until - time.monotonic())
        left = bounded(lambda: self._left(worker, outbox, loss), left_s, is_patient=True)
        return [*lines, left] if left else lines

    def _left(self, worker: Worker, outbox: Outbox, loss: str | None) -> str | None:
        environment, summaries = self._settings.environment, outbox.summaries()
        summary = summaries.get(environment, Summary())
        if not summary.undelivered:
            return None
        now = datetime.now(UTC)
        recorded, statuses = self._settings.recorded, outbox.statuses(environment)
        left, oldest = summary.undelivered, summary.oldest
        waits = outlook(left, configured=recorded, statuses=statuses, oldest=oldest, now=now)
        due = outbox.due(self._settings.endpoints, environment, now=now)
        next_at = min(due.values(), default=now)
        failures = {
            one.endpoint.name: failure
            for one in worker.snapshot()
            if (failure := UNRECORDED if one.unrecorded else one.last_failure)
        }
        at = next_at if next_at > now else None
        return leftover_line(summaries, environment, failures, waits=waits, next_at=at, loss=loss)

    def close(self) -> None:
        """Close connections and files."""
        with ExitStack() as last:
            for part in (self._outbox.current, self._transport):
                if part is not None:
                    last.callback(part.close)


def loss_line(refusal: str | None = None, *, is_project: bool = True) -> str:
    """That what is in memory is lost, why, and how to avoid it.

    *refusal*: why memory stands in for the configured outbox.
    """
    if refusal:
        why = f", which could not use its {refusal}."
    elif is_project:
        why = ". To keep deliveries for a later run, set CONFITURE_WEBHOOK_OUTBOX=sqlite."
    else:
        why = ": this directory is no Confiture project, so no outbox was created. "
        why += "Run the command in the project's directory."
    return f"Each is lost with this process{why}"


def leftover_line(
    summaries: Mapping[str | None, Summary],
    environment: str | None,
    failures: Mapping[str, str],
    *,
    waits: Sequence[Wait] = (),
    next_at: datetime | None = None,
    loss: str | None = None,
) -> str | None:
    """How many deliveries are left, to which endpoints, why, and what to do; ``None``: none are.

    *failures*: by endpoint, why its latest attempt failed. *waits*: who rests, or waits in vain.
    *next_at*: when the next is due, ``None``: now, or never. *loss*: as ``loss_line`` has it, if
    no outbox keeps them.
    """
    summary = summaries.get(environment, Summary())
    left = summary.undelivered
    if not left:
        return None
    by_name = {wait.endpoint: wait for wait in waits}
    is_claimed = loss is None and summary.counts.get(State.IN_FLIGHT) == summary.waiting
    is_anothers = is_claimed and UNRECORDED not in failures.values()
    where = "; ".join(
        f"{name}: {count}, "
        + ("under way" if is_anothers else _reason(failures.get(name), by_name.get(name)))
        for name, count in sorted(left.items())
    )
    if loss is not None:
        remedies = [loss]
    elif is_claimed:
        at = f"from {rfc3339(next_at)} on" if next_at else "now"
        them = "it" if summary.waiting == 1 else "them"
        whose = f"Another worker is sending {them}. If that was killed, send {them}"
        whose = whose if is_anothers else f"Each may have arrived. Send {them} again"
        remedies = [f"{whose} {at}: {shown('deliver')}."]
    else:
        is_shared = bool(summary.counts.get(State.IN_FLIGHT)) and not failures
        remedies = _kept(left, waits, next_at, is_shared=is_shared)
    if others := waiting_elsewhere(summaries, environment):
        remedies.append(f"{elsewhere_line(others)}.")
    total = counted(summary.waiting, "delivery", "deliveries")
    sent = "not recorded as sent" if is_claimed and not is_anothers else "not sent"
    return f"confiture-webhooks: {total} {sent} ({where}). {' '.join(remedies)}"


def _kept(
    left: Mapping[str, int], waits: Sequence[Wait], next_at: datetime | None, *, is_shared: bool
) -> list[str]:
    """How the outbox's deliveries go out: by the next run, or once somebody has acted.

    *is_shared*: another worker has claimed some, and no attempt failed here.
    """
    going = sorted(left.keys() - {wait.endpoint for wait in waits if wait.is_in_vain})
    due = f", the first at {rfc3339(next_at)}" if next_at else ""
    kept = [f"Each is kept, and sent by the next run when it is due{due}."]
    if len(going) < len(left):
        kept = ["Each is kept."]
        kept += [f"The next run sends those to {', '.join(going)}{due}."] if going else []
    kept += [f"{wait.endpoint}: {wait.remedy}." for wait in waits]
    if left.keys() - {wait.endpoint for wait in waits}:
        all_now, due_now = shown("redeliver", "--pending"), shown("deliver")
        now = f"Send all now: {all_now}." if next_at else f"Send those due now: {due_now}."
        then = f"Unless a worker runs, send them then: {due_now}."
        kept.append(then if next_at and is_shared else now)
    return kept


def given_up_line(
    given_up: Mapping[str, Counter[Outcome]], failures: Mapping[str, str], loss: str | None = None
) -> str:
    """Which deliveries the run will not send again, *given_up* by endpoint, and what to do."""
    parts = []
    for name, counts in sorted(given_up.items()):
        dead, gone = counts[Outcome.DEAD_LETTER], counts[Outcome.GONE]
        if dead:
            letters = counted(dead, "dead letter", "dead letters")
            parts.append(f"{name}: {letters}, {_reason(failures.get(name))}.")
        if gone:
            parts.append(f"{name}: answered 410 and is switched off.")
        if loss is None:
            on = [f"Once it works again: {shown('enable', name)}"] if gone else []
            parts += [f"{one}." for one in [*on, *again_lines(dead, gone, "--endpoint", name)]]
    if loss is not None:
        parts.append(loss)
    return f"confiture-webhooks: {' '.join(parts)}"


def _reason(failure: str | None, wait: Wait | None = None) -> str:
    if wait is not None:
        return wait.reason
    if failure is None:
        return "waiting for the next attempt"
    if failure == CUT:
        return "no answer before the run stopped waiting"
    if failure == UNRECORDED:
        return failure
    if failure.isdigit():
        return f"last answer {failure}{correct_first(failure)}"
    return f"last attempt failed: {failure}"
