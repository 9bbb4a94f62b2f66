"""Records the events of one run: over the migration's connection, if the outbox lies there."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ..bounded import TimedOut
from ..config import Settings
from ..delivery import Delivery, TraceContext
from ..endpoint import Endpoint
from ..errors import OutboxError
from ..event import Event
from ..formats import deliveries_of
from ..outbox import Intent, Outbox, Release
from .migration import is_idle
from .run_outbox import Kept, RunOutbox

if TYPE_CHECKING:
    from ..telemetry import Telemetry
    from .sending import Sending

SLOW_S = 0.15
"""A refusal that takes longer (somebody keeps the tables locked) is not asked for again at once."""
AGAIN_S = 10.0
"""But so much later, outside a transaction: what only memory has is lost if the run is killed."""
WAITED_AT_MOST_S = 1.2
"""Not once this run has waited for so long in all."""

E = TypeVar("E", "Event", "Intent")
R = TypeVar("R")


@dataclass(eq=False, repr=False)
class Recorder:
    """Records the events of one run, and has them sent.

    If the outbox is in the migrated database, it is written over the migration's own connection,
    whenever that is idle outside a transaction. While the run has that connection, no other
    session is opened and nothing is sent.
    """

    _settings: Settings
    _telemetry: Telemetry
    _command: str
    outbox: RunOutbox
    sending: Sending
    _connection: Any = None
    """The connection that migrates the database in which the outbox lies, while it does."""
    _over: Outbox | None = None
    """The outbox by way of it."""
    _thread: int = 0
    _again_at: float = 0.0
    """Not 0: a refusal there took long. When to try again, outside a transaction (monotonic)."""
    _kept: list[Kept] = field(default_factory=list)
    """The records that wait until that connection is idle, or given back."""
    _written: list[Release] = field(default_factory=list)
    """The releases written over it: a later migration may drop the outbox with all it holds."""
    _has_kept: threading.Lock = field(default_factory=threading.Lock)
    """Held to look at or change these, never while anything is waited for."""

    def write_over(self, connection: Any) -> None:
        """From now on write over *connection*, where the outbox lies in its database."""
        over = self.outbox.opened().over(connection) if self._settings.recorded else None
        if over is not None and self._is_done(over.intents):
            self._connection, self._over, self._thread = connection, over, threading.get_ident()
            self.outbox.is_over_connection = True

    def give_back(self) -> None:
        """The run needs its connection no more: write what is left, over another if need be."""
        if self._connection is not None:
            self._write_kept()
        with self._has_kept:
            self._connection, self._over, self.outbox.is_over_connection = None, None, False
        # Both stay for the next try until this is known.
        is_lost = bool(self._written) and self.outbox.ask(lambda outbox: outbox.is_made_anew())
        with self._has_kept:
            left, self._kept = self._kept, []
            written, self._written = self._written, []
        self._write([Kept(released=written), *left] if is_lost else left)

    def _write(self, left: Sequence[Kept]) -> None:
        """Write *left*, in order, over a connection of the outbox's own, and begin to send it."""
        for number, kept in enumerate(left):
            try:
                self.outbox.ask(kept.into)
            except BaseException as error:  # kept for the next try: written again changes nothing
                with self._has_kept:
                    self._kept[:0] = left[number:]
                if isinstance(error, TimedOut):  # hurried: it goes on
                    return
                raise
            self.outbox.note(kept)
        released = [deliveries for kept in left for _, deliveries in kept.released]
        if runs := {one.correlation_id for deliveries in released for one in deliveries}:
            self.sending.wake(*runs)

    def _keep(self, kept: Kept) -> bool:
        """Have *kept* wait for the connection that migrates; ``False``: there is none."""
        with self._has_kept:
            if self._connection is None:
                return False
            self._kept.append(kept)
        self._write_kept()
        return True

    def _write_kept(self) -> None:
        """Write what waits, if this is the run's thread and its connection is idle."""
        if threading.get_ident() != self._thread or not is_idle(self._connection):
            return
        while self._kept and self._over and self._is_done(partial(self._kept[0].into, self._over)):
            with self._has_kept:
                kept = self._kept.pop(0)
                self._written += kept.released
            self.outbox.note(kept)

    def _is_done(self, call: Callable[[], object], *, is_idle: bool = True) -> bool:
        """Whether *call* was done over the connection that migrates; *is_idle*: in no transaction.

        After a slow refusal it is tried again only then, and not soon.
        """
        started = time.monotonic()
        if self._again_at and not (is_idle and started >= self._again_at):
            return False
        try:
            call()
        except Exception as error:  # noqa: BLE001  a fault there costs no event: it is kept
            if not isinstance(error, OutboxError):
                self._telemetry.failed("outbox", error)
            took_s = time.monotonic() - started
            if took_s > SLOW_S:
                self.outbox.waited_s += took_s
                is_last = self.outbox.waited_s > WAITED_AT_MOST_S
                self._again_at = math.inf if is_last else started + took_s + AGAIN_S
            return False
        self._again_at = 0.0
        return True

    def stage(self, intent: Intent) -> tuple[Intent, Sequence[Intent]]:
        """Remember an event whose outcome is not known yet.

        Returns what is stored, and what ``intents`` were before.
        """
        intent = self._of_this_run(intent, intent.correlation_id)
        kept = Kept(intent=intent)
        if self._settings.recorded and not self._keep(kept):
            with suppress(TimedOut):  # hurried: it goes on
                self.outbox.ask(kept.into)
            self.outbox.note(kept)
        return intent, self.intents() if kept.others is None else kept.others

    def record(
        self, event: Event, trace: TraceContext, wanting: Sequence[Endpoint] | None = None
    ) -> None:
        """Release *event*: one delivery for each endpoint that wants it, on its way at once.

        *wanting*: of these endpoints, instead of all.
        """
        event = self._of_this_run(event, event.trace_id)
        self.release(event.id, self.deliveries(event, trace, wanting))

    def release(self, event_id: str, deliveries: Sequence[Delivery], *then: Release) -> bool:
        """Keep *deliveries* in place of the intent *event_id*, and begin to send them.

        *then*: what is kept in the same step. ``False``: another process had released the event.
        """
        if not self._settings.recorded:
            return True
        kept = Kept(released=[(event_id, deliveries), *then])
        if not self._keep(kept):
            with self._has_kept:
                late, self._kept = self._kept, []
            self._write([*late, kept])
        return kept.is_first

    def stage_committed(self, connection: Any, intent: Intent) -> bool:
        """Whether *intent* could be staged as committed in the transaction of *connection*.

        It is one small row, however many endpoints there are. ``record`` releases the event after
        the COMMIT; if the process is killed before that, whoever finds the row does. What waits
        for its release goes first, and is released once more afterwards: that changes nothing.
        """
        if self._over is None or self._connection is not connection:
            return False
        with self._has_kept:
            waiting = [one for kept in self._kept for one in kept.released]
        staging = partial(self._over.stage_committed, intent, *waiting)
        if is_done := self._is_done(staging, is_idle=False):
            self.outbox.note(Kept(intent=intent))
        return is_done

    def deliveries(
        self, event: Event, trace: TraceContext, wanting: Sequence[Endpoint] | None = None
    ) -> Sequence[Delivery]:
        """One of *event* for each endpoint that wants it, of *wanting* if they are given."""
        endpoints = self._settings.recorded if wanting is None else wanting
        return deliveries_of(event, trace, endpoints, report=self._telemetry.failed)

    def _of_this_run(self, one: E, trace_id: str) -> E:
        """*one* with this run's command, and the links to it. A killed run's has its own."""
        link, run_url = self._settings.trace_link(trace_id), self._settings.run_url
        return replace(one, trace_url=link, command=self._command, run_url=run_url)

    def intents(self) -> Sequence[Intent]:
        """Those that are staged and not released, of earlier runs too, oldest first."""
        return self._asked(lambda outbox: outbox.intents()) or []

    def note(self, intent: Intent) -> None:
        """Keep what is known of the end of *intent*, another environment's."""

        def noted(outbox: Outbox) -> None:
            with suppress(OutboxError):  # a right that is missing for it costs this run nothing
                outbox.stage_committed(intent)

        self._asked(noted)

    def _asked(self, call: Callable[[Outbox], R]) -> R | None:
        """The outbox's answer to *call*; ``None`` also if it gives none, or nothing is recorded."""
        if not self._settings.recorded:
            return None
        with suppress(OutboxError, TimedOut):  # hurried: the run settles them when it ends
            return call(self._over) if self._over is not None else self.outbox.ask(call)
        return None
