"""What goes out of one run: its outbox, its worker and its transport, made on first use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ..delivery import Delivery, State, TraceContext
from ..errors import OutboxError
from ..event import Event, EventType
from ..outbox import Intent, Outbox, Summary
from ..terminal import counted, progress
from ..worker import Worker
from .deliveries import deliveries_of
from .handover import hand_over, undelivered
from .summary import LOOKED_AT, OFF, given_up_line, is_all_due, leftover_line

if TYPE_CHECKING:
    from ..config import Settings
    from ..endpoint import Endpoint
    from ..telemetry import Telemetry
    from ..transport import Transport
    from .hook_runner import HookRunner, Send

TELEMETRY_BUDGET = timedelta(seconds=2)
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
    hooks: Callable[[Telemetry, Send], HookRunner] | None = None
    """What runs users' hooks; ``None``: there are none."""
    shows_progress: bool = False
    """Whether a terminal may show what is waited for at the end."""
    exports: Callable[[], bool] = lambda: False
    """Whether telemetry leaves the process: then a run with nothing to do is counted, too."""
    has_leftovers: Callable[[], bool] = lambda: False
    """Cheap: whether an earlier run may have left deliveries to make."""


class Outgoing:
    """Keeps and sends what one run has to tell. An outbox that breaks is replaced by memory."""

    def __init__(self, settings: Settings, parts: Parts, telemetry: Telemetry) -> None:
        self._settings = settings
        self._parts = parts
        self._telemetry = telemetry
        self._outbox: Outbox | None = None
        self._transport: Transport | None = None
        self._worker: Worker | None = None
        self._spared: list[str] | None = None
        """Events that were released into memory instead; ``None``: the outbox works."""
        self._refusal: str | None = None
        """Why they were."""
        self._enlisted: dict[str, tuple[EventType, Sequence[Delivery]]] = {}
        """What goes with a transaction, by event: told elsewhere, it has the same bytes."""
        self._guard = threading.RLock()
        """Hooks send from threads of their own."""

    def stage(self, intent: Intent) -> None:
        """Remember an event whose outcome is not known yet."""
        if not self._settings.recorded:
            return
        with self._guard:
            try:
                self._opened().stage(intent)
            except OutboxError as error:
                self._replace(error)

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
        """Keep *deliveries* in place of the intent *event_id*, and begin to make them."""
        if not self._settings.recorded:
            return
        with self._guard:
            try:
                self._opened().release(event_id, deliveries)
            except OutboxError as error:
                self._replace(error).release(event_id, deliveries)
            if self._spared is not None:
                self._spared.append(event_id)
            if deliveries:
                self._working().wake()

    def _deliveries(
        self, event: Event, trace: TraceContext, wanting: Sequence[Endpoint] | None = None
    ) -> Sequence[Delivery]:
        endpoints = self._settings.recorded if wanting is None else wanting
        event = replace(
            event,
            run_url=self._settings.run_url,
            trace_url=self._settings.trace_link(event.trace_id),
        )
        return deliveries_of(event, endpoints, trace, report=self._telemetry.failed)

    def intents(self) -> Sequence[Intent]:
        """Those that are staged and not released, of earlier runs too, oldest first."""
        if not self._settings.recorded:
            return []
        with self._guard:
            try:
                return self._opened().intents()
            except OutboxError as error:
                return self._replace(error).intents()

    def tell_on(self, connection: Any, event: Event, trace: TraceContext) -> None:
        """Release *event* in the transaction of *connection*, where the outbox can.

        It is to be told once more afterwards: that changes nothing, or makes up for it.
        """
        outbox = self._outbox
        # Not under the guard: what a hook has on its way must not hold up a COMMIT.
        if outbox is not None:
            deliveries = self._deliveries(event, trace)
            if outbox.release_on(connection, event.id, deliveries):
                self._enlisted[event.id] = event.type, deliveries

    def flush(self, budget: timedelta) -> None:
        """Wait for what is due within *budget*, left-overs of earlier runs included."""
        if self._worker is None:
            if not self._settings.recorded or not self._parts.has_leftovers():
                return
            self._working().wake()
        assert self._worker is not None
        if not self._parts.shows_progress:
            self._worker.drain(budget)
            return
        try:
            self._worker.drain(budget, tell=self._show)
        finally:
            progress("")

    def _show(self, left_s: float) -> None:
        with suppress(OutboxError):
            mine = self._opened().summaries().get(self._settings.environment, Summary())
            waiting = sum(mine.undelivered.values())
            webhooks = counted(waiting, "webhook", "webhooks")
            progress(f"{webhooks} to deliver, {left_s:.0f} s at most … Ctrl-C skips")

    def stop(self, *, is_late: bool = False) -> str | None:
        """End the worker; the lines to read when not everything was delivered, else ``None``.

        What was delivered long ago is forgotten, unless *is_late*: no time is left for it.
        """
        if self._worker is None or self._outbox is None:
            return None
        self._worker.stop()
        is_back = self._go_back(self._outbox)
        lines = [
            *([] if is_back else self._given_up(self._worker, self._outbox)),
            *self._left(self._worker, self._outbox),
        ]
        if not is_late:
            with suppress(OutboxError):  # a later run does it
                self._outbox.prune(before=datetime.now(UTC) - KEPT_FOR, keep=KEPT_DELIVERED)
        return "\n".join(lines) or None

    def _go_back(self, memory: Outbox) -> bool:
        """Keep what *memory* did not deliver in the configured outbox, if that works again."""
        if self._spared is None or not undelivered(memory):
            return False
        with suppress(OutboxError), ExitStack() as refused:
            outbox = self._parts.outbox(self._telemetry)
            refused.callback(outbox.close)
            if not outbox.is_durable:
                return False
            hand_over(memory, outbox, self._spared)
            refused.pop_all()
            self._outbox, self._spared = outbox, None
            self._telemetry.observe_outbox(outbox.summary)
            return True
        return False

    def _given_up(self, worker: Worker, outbox: Outbox) -> list[str]:
        line = given_up_line(
            worker.by_endpoint(),
            worker.failed(),
            is_durable=outbox.is_durable,
            refusal=self._refusal,
        )
        return [line] if line else []

    def _left(self, worker: Worker, outbox: Outbox) -> list[str]:
        environment, summaries = self._settings.environment, outbox.summaries()
        if not summaries.get(environment, Summary()).undelivered:
            return []
        names = {endpoint.name for endpoint in self._settings.endpoints}
        off, now = outbox.disabled(environment), datetime.now(UTC)
        due = [at for name in names if (at := outbox.next_due_at(name, environment)) is not None]
        pending = outbox.deliveries(state=State.PENDING, limit=LOOKED_AT)
        line = leftover_line(
            summaries,
            environment,
            {**worker.failures(), **dict.fromkeys(off, OFF)},
            configured=names,
            next_at=min(due) if due and min(due) > now else None,
            is_all_due=is_all_due(pending, environment, names - off.keys(), now),
            is_durable=outbox.is_durable,
            refusal=self._refusal,
        )
        return [line] if line else []

    def close(self) -> None:
        """Let go of connections and files."""
        with ExitStack() as last:
            for part in (self._outbox, self._transport):
                if part is not None:
                    last.callback(part.close)

    def _opened(self) -> Outbox:
        if self._outbox is None:
            try:
                self._outbox = self._parts.outbox(self._telemetry)
            except OutboxError as error:
                return self._replace(error)
            self._spared = None if self._outbox.is_durable else []
            self._telemetry.observe_outbox(self._outbox.summary)
        return self._outbox

    def _replace(self, error: OutboxError) -> Outbox:
        """Go on in memory: what the broken outbox holds stays there for a later run."""
        self._refusal = str(error)
        self._telemetry.outbox_failed(self._refusal)
        worker, transport, outbox = self._worker, self._transport, self._outbox
        self._worker, self._transport = None, None
        self._outbox, self._spared = self._parts.spare_outbox(), []
        with suppress(OutboxError), ExitStack() as last:
            for part in (outbox, transport):
                if part is not None:
                    last.callback(part.close)
            if worker is not None:
                worker.stop()
        self._telemetry.observe_outbox(self._outbox.summary)
        return self._outbox

    def _working(self) -> Worker:
        if self._worker is None:
            outbox = self._opened()
            self._transport = self._parts.transport()
            self._worker = Worker(
                self._settings.endpoints,
                outbox,
                self._transport,
                self._telemetry,
                environment=self._settings.environment,
                user_agent=self._parts.user_agent,
                hold=self._settings.flush_timeout,
            )
            self._worker.start()
        return self._worker
