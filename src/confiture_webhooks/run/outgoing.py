"""The outbox, the worker and the transport of one run, made on first use."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..bounded import TimedOut, bounded
from ..delivery import Delivery, State, TraceContext
from ..errors import OutboxError
from ..event import Event, EventType
from ..outbox import Intent, Outbox, Summary
from ..outlook import NO_FILES, Files, outlook
from ..remedy import shown
from ..terminal import counted, is_terminal, progress
from ..worker import Worker
from .deliveries import deliveries_of
from .handover import hand_over, undelivered
from .summary import LOOKED_AT, given_up_line, is_all_due, leftover_line

if TYPE_CHECKING:
    from ..config import Settings
    from ..endpoint import Endpoint
    from ..telemetry import Telemetry
    from ..transport import Transport
    from .hook_runner import HookSource

R = TypeVar("R")

IDLE = 0
"""libpq's ``PQTRANS_IDLE``."""
TELEMETRY_BUDGET = timedelta(seconds=2)
PATIENCE_S = 3.0
"""How long the outbox may take to answer, as connecting may; then memory takes its place."""
IMPATIENCE_S = 0.25
"""The same while the host's transaction is open: what takes longer goes on beside it."""
KEPT_FOR = timedelta(days=30)
KEPT_DELIVERED = 10_000
"""Delivered deliveries are kept so long and so many, for operators to look at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a run is put together from; each is made on first use and at most once."""

    telemetry: Callable[[], Telemetry]
    outbox: Callable[[Telemetry], Outbox]
    spare_outbox: Callable[[], Outbox]
    """In memory, for when the configured one cannot be used."""
    transport: Callable[[], Transport]
    user_agent: str
    hooks: Callable[[], Sequence[HookSource]] | None = None
    """What finds users' hooks; ``None``: there are none."""
    shows_progress: bool = False
    """Whether a terminal may show what is waited for at the end."""
    exports: Callable[[], bool] = lambda: False
    """Whether telemetry leaves the process: then a run with nothing to do is counted, too."""
    is_in: Callable[[Any], bool] = lambda _: False
    """Whether the outbox lies in the database of a connection."""
    has_leftovers: Callable[[], bool] = lambda: False
    """Cheap: whether an earlier run may have left deliveries."""
    config: Path | None = None
    """The environment file that commands in messages name."""
    files_of: Callable[[Iterable[str | None]], Files] = lambda _: NO_FILES
    """The environment file of each of these environments that has one."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An intent, or the deliveries of an event, that could not be written yet."""

    event_id: str
    intent: Intent | None = None
    deliveries: Sequence[Delivery] = ()

    def into(self, outbox: Outbox) -> None:
        """Write it. Raises OutboxError."""
        if self.intent is not None:
            outbox.stage(self.intent)
        else:
            outbox.release(self.event_id, self.deliveries)

    def over(self, connection: Any, outbox: Outbox) -> bool:
        """Write it over *connection*, which is idle; ``False``: it is refused there."""
        if self.intent is not None:
            return outbox.stage_on(connection, self.intent)
        return outbox.release_on(connection, self.event_id, self.deliveries)


class Outgoing:
    """Records and sends the events of one run.

    An outbox that breaks, or is silent, is replaced by memory. One that lies in the migrated
    database is written over the migration's own connection while the run has that, whenever it
    is idle outside a transaction; no other session is opened, and nothing is sent until then.
    """

    def __init__(
        self,
        settings: Settings,
        parts: Parts,
        telemetry: Telemetry,
        command: str | None = None,
    ) -> None:
        self._settings = settings
        self._command = command
        self._parts = parts
        self._telemetry = telemetry
        self._outbox: Outbox | None = None
        self._transport: Transport | None = None
        self._worker: Worker | None = None
        self._spared: list[str] | None = None
        """Events that were released into memory instead; ``None``: the outbox works."""
        self._refusal: str | None = None
        """Why they were."""
        self._is_holding = False
        """Whether a durable outbox has something of this run."""
        self._has_left = False
        """Whether it had when it broke."""
        self._enlisted: dict[str, tuple[EventType, Sequence[Delivery]]] = {}
        """By event, what the open transaction records: recorded again, it has the same bytes."""
        self._guard = threading.Lock()
        """Hooks record from threads of their own; the outbox is asked one thing at a time."""
        self._lent: Any = None
        """The connection that migrates the database in which the outbox lies, while it does."""
        self._lent_to = 0
        self._kept: list[Kept] = []
        """What waits until that connection is idle, or given back."""
        self._has_kept = threading.Lock()
        """Held to look at or change ``_lent`` and ``_kept``, never while anything is waited for."""
        self._hurry = threading.local()
        """``seconds``: how long this thread waits while the host's transaction is open."""
        self._swap = threading.Lock()
        """Held while outbox, transport and worker are exchanged, never while one is asked."""

    def lend(self, connection: Any) -> None:
        """From now on write over *connection*, where the outbox lies in its database."""
        is_in = self._settings.recorded and self._parts.is_in(connection)
        if is_in and self._opened().intents_on(connection) is not None:
            self._lent, self._lent_to = connection, threading.get_ident()

    def give_back(self) -> None:
        """The run needs its connection no more: write what is left, over another if need be."""
        self._write_kept()
        with self._has_kept:
            self._lent = None
            left, self._kept = self._kept, []
        self._write(left)

    def _write(self, left: Sequence[Kept]) -> None:
        """Write *left*, in order, over a connection of the outbox's own, and begin to send it."""
        for number, kept in enumerate(left):
            try:
                self._ask(kept.into, PATIENCE_S)
            except TimedOut:  # hurried: it goes on; written again, it changes nothing
                with self._has_kept:
                    self._kept[:0] = left[number:]
                return
            self._note_spared(kept.event_id)
        if any(kept.deliveries for kept in left):
            self._working().wake()

    @contextmanager
    def hurried(self, *, when: bool) -> Iterator[None]:
        """*when*: the host's transaction is open, so a slow outbox is not waited for in here."""
        self._hurry.seconds = IMPATIENCE_S if when else None
        try:
            yield
        finally:
            self._hurry.seconds = None

    def _keep(self, kept: Kept) -> bool:
        """Have *kept* wait for the connection that migrates; ``False``: there is none."""
        with self._has_kept:
            if self._lent is None:
                return False
            self._kept.append(kept)
        self._write_kept()
        return True

    def _write_kept(self) -> None:
        """Write what waits, if this is the run's thread and its connection is idle."""
        if threading.get_ident() != self._lent_to or not _is_idle(self._lent):
            return
        assert self._outbox is not None
        while self._kept and self._kept[0].over(self._lent, self._outbox):
            self._is_holding = True
            with self._has_kept:
                self._kept.pop(0)

    def stage(self, intent: Intent, *, is_idle: bool = True) -> None:
        """Remember an event whose outcome is not known yet.

        Not *is_idle*: the host's transaction is open, so a slow outbox is not waited for.
        """
        if not self._settings.recorded:
            return
        if self._keep(Kept(intent.event_id, intent=intent)):
            return
        if is_idle:
            self._ask(lambda outbox: outbox.stage(intent), PATIENCE_S)
        else:
            with suppress(TimedOut):
                self._ask(lambda outbox: outbox.stage(intent), IMPATIENCE_S, replaces=False)

    def tell(
        self, event: Event, trace: TraceContext, wanting: Sequence[Endpoint] | None = None
    ) -> None:
        """Release *event*: one delivery for each endpoint that wants it, on its way at once.

        *wanting*: of these endpoints, instead of all.
        """
        type_, deliveries = self._enlisted.pop(event.id, (None, ()))
        if type_ is not event.type:
            deliveries = self._deliveries(event, trace, wanting)
        self.release(event.id, deliveries)

    def release(self, event_id: str, deliveries: Sequence[Delivery]) -> None:
        """Keep *deliveries* in place of the intent *event_id*, and begin to send them."""
        if not self._settings.recorded:
            return
        kept = Kept(event_id, deliveries=deliveries)
        if self._keep(kept):
            return
        with self._has_kept:
            late, self._kept = self._kept, []
        self._write([*late, kept])

    def _note_spared(self, event_id: str) -> None:
        if self._spared is not None:
            self._spared.append(event_id)
        else:
            self._is_holding = True

    def _ask(self, call: Callable[[Outbox], R], patience_s: float, *, replaces: bool = True) -> R:
        """The outbox's answer to *call*; memory's, if it breaks or takes longer.

        Not *replaces*, or hurried: raises TimedOut if it takes longer, and the call goes on.
        """
        guard, hurry_s = self._guard, getattr(self._hurry, "seconds", None)

        def asked() -> R:
            with guard:
                return call(self._opened())

        try:
            return bounded(asked, patience_s if hurry_s is None else min(hurry_s, patience_s))
        except OutboxError as error:
            return call(self._replace(error, guard))
        except TimedOut:
            if hurry_s is not None:
                self._hurry.seconds = 0.0  # it was waited for once
            if hurry_s is not None or not replaces:
                raise
            return call(self._replace(self._silence(patience_s), guard))

    def _silence(self, seconds: float) -> OutboxError:
        where = self._outbox.where if self._outbox is not None else self._settings.outbox
        kind = where.partition(":")[0]
        return OutboxError(f"outbox {kind}: it did not answer within {seconds:g} s")

    def _deliveries(
        self, event: Event, trace: TraceContext, wanting: Sequence[Endpoint] | None = None
    ) -> Sequence[Delivery]:
        endpoints = self._settings.recorded if wanting is None else wanting
        event = replace(event, trace_url=self._settings.trace_link(event.trace_id))
        if event.trace_id == self._telemetry.correlation_id:  # not of a killed run
            event = replace(event, command=self._command, run_url=self._settings.run_url)
        return deliveries_of(event, endpoints, trace, report=self._telemetry.failed)

    def intents(self) -> Sequence[Intent]:
        """Those that are staged and not released, of earlier runs too, oldest first."""
        if not self._settings.recorded:
            return []
        if self._lent is not None:
            assert self._outbox is not None
            return self._outbox.intents_on(self._lent) or []
        with suppress(TimedOut):  # hurried: a later run settles them
            return self._ask(lambda outbox: outbox.intents(), PATIENCE_S)
        return []

    def tell_on(self, connection: Any, event: Event, trace: TraceContext) -> None:
        """Release *event* in the transaction of *connection*, where the outbox can.

        It is recorded once more afterwards: that changes nothing, or repairs it.
        """
        if self._lent is None or self._lent is not connection:
            return
        assert self._outbox is not None
        deliveries = self._deliveries(event, trace)
        if self._outbox.release_on(connection, event.id, deliveries):
            self._enlisted[event.id] = event.type, deliveries

    def flush(self, budget: timedelta) -> None:
        """Wait for what is due within *budget*, left-overs of earlier runs included."""
        if self._worker is None:
            is_opened = self._outbox is not None
            if not self._settings.recorded or not (is_opened or self._parts.has_leftovers()):
                return
            self._working().wake()
        assert self._worker is not None
        if not (self._parts.shows_progress and is_terminal()):
            self._worker.drain(budget)
            return
        try:
            self._worker.drain(budget, show=self._show)
        finally:
            progress("")

    def _show(self, left_s: float) -> None:
        with suppress(OutboxError, TimedOut):
            summaries = bounded(lambda: self._opened().summaries(), IMPATIENCE_S)
            mine = summaries.get(self._settings.environment, Summary())
            waiting = sum(mine.undelivered.values())
            webhooks = counted(waiting, "webhook", "webhooks")
            progress(f"{webhooks} to deliver, {left_s:.0f} s at most … Ctrl-C skips")

    def stop(self, *, is_late: bool = False, seconds: float = PATIENCE_S) -> str | None:
        """End the worker; the lines to read when not everything was delivered, else ``None``.

        The outbox may take *seconds* to answer. What was delivered long ago is forgotten, unless
        *is_late*: no time is left for it.
        """
        lines = [self._broken_line(self._refusal)] if self._has_left else []
        if self._worker is not None and self._outbox is not None:
            self._worker.stop()
            until = time.monotonic() + seconds
            try:
                lines += self._rest(self._worker, self._outbox, until)
            except (OutboxError, TimedOut) as error:  # it is gone by now
                why = self._silence(seconds) if isinstance(error, TimedOut) else error
                self._telemetry.outbox_failed(str(why))
                lines.append(self._broken_line(why))
                return "\n".join(lines)
            left_s = until - time.monotonic()
            if not is_late and left_s > 0:
                self._prune(self._outbox, left_s)
        return "\n".join(lines) or None

    def _broken_line(self, why: object) -> str:
        return (
            f"confiture-webhooks: {why}. Deliveries recorded before that are kept in it. Once it "
            "answers, the next run sends them. Or send them then: "
            f"{shown('deliver', config=self._parts.config)}."
        )

    def _rest(self, worker: Worker, memory: Outbox, until: float) -> list[str]:
        """What is left, in lines to read, until *until*. Raises OutboxError or TimedOut."""
        back = None
        with suppress(OutboxError, TimedOut):
            back = bounded(lambda: self._handed_over(memory), until - time.monotonic())
        if back is not None:
            self._outbox, self._spared, self._has_left = back, None, False
        given_up = self._given_up(worker, memory) if back is None else []
        left_s = max(IMPATIENCE_S, until - time.monotonic())
        return given_up + bounded(lambda: self._left(worker, back or memory), left_s)

    def _handed_over(self, memory: Outbox) -> Outbox | None:
        """The configured outbox, if it works again, with what *memory* did not deliver."""
        if self._spared is None or not undelivered(memory):
            return None
        with ExitStack() as refused:
            outbox = self._parts.outbox(self._telemetry)
            refused.callback(outbox.close)
            if not outbox.is_durable:
                return None
            hand_over(memory, outbox, self._spared)
            refused.pop_all()
            return outbox

    def _prune(self, outbox: Outbox, seconds: float) -> None:
        before = datetime.now(UTC) - KEPT_FOR
        with suppress(OutboxError, TimedOut):  # a later run does it
            bounded(lambda: outbox.prune(before=before, keep=KEPT_DELIVERED), seconds)

    def _given_up(self, worker: Worker, outbox: Outbox) -> list[str]:
        line = given_up_line(
            worker.by_endpoint(),
            worker.failed(),
            is_durable=outbox.is_durable,
            refusal=self._refusal,
            config=self._parts.config,
        )
        return [line] if line else []

    def _left(self, worker: Worker, outbox: Outbox) -> list[str]:
        environment, summaries = self._settings.environment, outbox.summaries()
        summary = summaries.get(environment, Summary())
        if not summary.undelivered:
            return []
        names = {endpoint.name for endpoint in self._settings.endpoints}
        now = datetime.now(UTC)
        waits = outlook(
            summary.undelivered,
            configured=self._settings.endpoints,
            faulty=[endpoint.name for endpoint in self._settings.faulty],
            standing=outbox.standing(environment),
            oldest=summary.oldest,
            now=now,
        )
        sent = names - {wait.endpoint for wait in waits if wait.is_in_vain}
        next_at = min(
            outbox.due(self._settings.endpoints, environment, now=now).values(), default=now
        )
        pending = outbox.deliveries(state=State.PENDING, limit=LOOKED_AT)
        line = leftover_line(
            summaries,
            environment,
            worker.failures(),
            waits=waits,
            next_at=next_at if next_at > now else None,
            is_all_due=is_all_due(pending, environment, sent, now),
            is_durable=outbox.is_durable,
            refusal=self._refusal,
            config=self._parts.config,
            files=self._parts.files_of(summaries),
        )
        return [line] if line else []

    def close(self) -> None:
        """Close connections and files."""
        with ExitStack() as last:
            for part in (self._outbox, self._transport):
                if part is not None:
                    last.callback(part.close)

    def _opened(self) -> Outbox:
        """The outbox, made on first use. Raises OutboxError when it cannot be opened."""
        if self._outbox is None:
            made = self._parts.outbox(self._telemetry)
            if self._outbox is not None:  # it took too long, and memory has its place
                made.close()
                return self._outbox
            self._outbox = made
            self._spared = None if made.is_durable else []
            self._telemetry.observe_outbox(self._summary)
        return self._outbox

    def _summary(self) -> Summary:
        """For metrics. Raises OutboxError, also while asking would open a second session."""
        outbox = self._outbox
        if outbox is None or self._lent is not None:
            raise OutboxError("the outbox is not read while the run migrates its database")
        return outbox.summary()

    def _replace(self, error: OutboxError, guard: threading.Lock) -> Outbox:
        """Go on in memory: what the broken outbox holds stays there for a later run.

        *guard*: the one it was asked under; another one is there when it is replaced already.
        """
        with self._swap:
            if self._guard is not guard:
                assert self._outbox is not None
                return self._outbox
            spare = self._parts.spare_outbox()
            self._refusal = str(error)
            self._has_left |= self._is_holding
            self._is_holding = False
            worker, parts = self._worker, [one for one in (self._outbox, self._transport) if one]
            self._worker, self._transport = None, None
            self._outbox, self._spared = spare, []
            self._guard = threading.Lock()
        self._telemetry.outbox_failed(str(error))
        self._telemetry.observe_outbox(self._summary)

        def close() -> None:
            if worker is not None:
                worker.stop()
            for part in parts:
                with suppress(OutboxError):
                    part.close()

        with suppress(OutboxError, TimedOut):
            bounded(close, IMPATIENCE_S)
        return spare

    def _working(self) -> Worker:
        self._opened()
        with self._swap:
            if self._worker is None:
                assert self._outbox is not None
                self._transport = self._parts.transport()
                self._worker = Worker(
                    self._settings.endpoints,
                    self._outbox,
                    self._transport,
                    self._telemetry,
                    environment=self._settings.environment,
                    user_agent=self._parts.user_agent,
                    hold=self._settings.flush_timeout,
                )
                self._worker.start()
            return self._worker


def _is_idle(connection: Any) -> bool:
    """Whether *connection* is alive and outside a transaction."""
    is_alive = connection is not None and not (connection.closed or connection.broken)
    return is_alive and connection.info.transaction_status == IDLE
