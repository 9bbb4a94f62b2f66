"""The outbox of one run: opened on first use, waited for only so long, then replaced by memory."""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from ..bounded import TimedOut, bounded
from ..config import Settings
from ..delivery import Delivery, State
from ..errors import OutboxError
from ..outbox import Intent, Outbox, Release, Row, Summary
from ..remedy import shown
from . import Parts

if TYPE_CHECKING:
    from ..telemetry import Telemetry

R = TypeVar("R")

PATIENCE_S = 3.0
"""How long the outbox may take to answer, as connecting may; then memory takes its place."""
BEYOND_FLUSH_S = 0.6
"""By how much that may exceed the time-out of the flush, from which it is taken off."""
IMPATIENCE_S = 0.25
"""The same while the host's transaction is open, or no time is left: what takes longer goes on."""
BACK_WITHIN_S = 1.5
"""How long an outbox that broke is asked again at the end: a server that restarts is soon back."""
ASK_EVERY_S = 0.1
ALL = 1_000_000


@dataclass(slots=True)
class Kept:
    """An intent, or events with their deliveries, that could not be written yet."""

    intent: Intent | None = None
    released: Sequence[Release] = ()
    """In one step."""
    others: Sequence[Intent] | None = None
    """The intents that were there before this one; ``None``: it is not written yet."""
    is_first: bool = True
    """Whether this process released the first of them before any other, as far as is known."""

    def into(self, outbox: Outbox) -> None:
        """Write it. Raises OutboxError."""
        if self.intent is not None:
            self.others = outbox.stage(self.intent)
        else:
            (event_id, deliveries), *then = self.released
            self.is_first = outbox.release(event_id, deliveries, *then)


@dataclass(eq=False, repr=False)
class RunOutbox:
    """The configured outbox while it works; once it breaks or is silent, one in memory.

    Hooks record from threads of their own: the outbox is asked one thing at a time.
    """

    _settings: Settings
    _parts: Parts
    _telemetry: Telemetry
    holder: str = field(default_factory=lambda: os.urandom(8).hex())
    """Of the first one that is used: in the intents it stages, it names the run."""
    current: Outbox | None = None
    """The outbox in use; ``None``: nothing was opened."""
    refusal: str | None = None
    """Why memory stands in for the configured one."""
    has_left: bool = False
    """Whether the configured one held something of this run when it broke."""
    is_over_connection: bool = False
    """Whether it is written over the connection that migrates."""
    waited_s: float = 0.0
    """How long this run has waited in vain."""
    deadline: float | None = None
    """Until when it is waited for (monotonic); ``None``: the run migrates."""
    abandon: Callable[[], Sequence[Callable[[], object]]] = tuple
    """Takes whatever uses a broken outbox out of use; what it returns ends that."""
    _is_holding: bool = False
    _has_staged: bool = False
    """Whether the configured one was given an intent of this run."""
    _in_memory: list[str] | None = None
    """Events that were released into memory instead; ``None``: the outbox works."""
    _hurry: threading.local = field(default_factory=threading.local)
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _swap: threading.Lock = field(default_factory=threading.Lock)
    """Held while the outbox is replaced, never while one is asked."""

    @contextmanager
    def hurried(self, *, when: bool) -> Iterator[None]:
        """*when*: the host's transaction is open, so a slow outbox is not waited for in here."""
        if not when:
            yield
            return
        self._hurry.seconds = IMPATIENCE_S
        try:
            yield
        finally:
            self._hurry.seconds = None

    def ask(self, call: Callable[[Outbox], R]) -> R:
        """The outbox's answer to *call*; memory's, if it breaks or takes longer.

        Hurried: raises TimedOut if it takes longer, and the call goes on.
        """
        guard, hurry_s = self._guard, getattr(self._hurry, "seconds", None)
        flush_s = self._settings.flush_timeout.total_seconds()
        left_s = min(PATIENCE_S, BEYOND_FLUSH_S + flush_s) - self.waited_s
        if self.deadline is not None:
            left_s = min(left_s, self.deadline - time.monotonic())
        seconds = max(IMPATIENCE_S, left_s) if hurry_s is None else hurry_s

        def asked() -> R:
            with guard:
                return call(self.opened())

        try:
            return bounded(asked, seconds, is_patient=hurry_s is None)
        except OutboxError as error:
            broken = error
        except TimedOut:
            self.waited_s += seconds
            if hurry_s is not None:
                self._hurry.seconds = 0.0  # it was waited for once
                raise
            broken = self.silence(seconds)
        return call(self._replaced(broken, guard))

    def silence(self, seconds: float) -> OutboxError:
        """The error that it did not answer."""
        where = self._settings.place.shown if self.current is None else self.current.where
        problem = f"outbox {where}: it did not answer within {seconds:.2g} s"
        return OutboxError(problem, f"See whether it answers now: {shown('doctor')}")

    def note(self, kept: Kept) -> None:
        """*kept* was written into whatever is used now."""
        if kept.intent is not None:
            self._has_staged |= self._in_memory is None
        elif self._in_memory is not None:
            self._in_memory += [event_id for event_id, _ in kept.released]
        else:
            self._is_holding = True

    def opened(self) -> Outbox:
        """The outbox in use, opened on first use. Raises OutboxError."""
        if self.current is None:
            made = self._parts.outbox(self._telemetry)
            if self.current is not None:  # it took too long, and memory has its place
                made.close()
                return self.current
            self.current, made.holder = made, self.holder
            self._in_memory = None if made.is_durable else []
            self._telemetry.observe_outbox(self._summary)
        return self.current

    def _summary(self) -> Summary:
        """For metrics: of its own environment. Raises OutboxError where no point is better."""
        if self.current is None or self.is_over_connection:
            raise OutboxError("the outbox is not read while the run migrates its database")
        is_meant = self._settings.place.kind == "memory" and self._parts.is_project
        if not (self.current.is_durable or is_meant):
            raise OutboxError("memory does not say what the outbox holds that it stands in for")
        return self.current.summary(self._settings.environment)

    def _replaced(self, error: OutboxError, guard: threading.Lock) -> Outbox:
        """Memory from now on: what the broken outbox holds stays there for a later run.

        *guard*: the one it was asked under; another one is there when it is replaced already.
        """
        from ..outbox.sqlite import InMemoryOutbox  # noqa: PLC0415

        with self._swap:
            if self._guard is not guard:
                assert self.current is not None
                return self.current
            broken, spare = self.current, InMemoryOutbox()
            self.current, self._in_memory = spare, []
            self.refusal = str(error)
            self.has_left |= self._is_holding
            self._is_holding = False
            self._guard = threading.Lock()
            ends = self.abandon()
        self._telemetry.outbox_failed(str(error))
        self._telemetry.observe_outbox(self._summary)

        def close() -> None:
            for end in ends:
                end()
            if broken is not None:
                broken.close()

        started = time.monotonic()
        with suppress(OutboxError, TimedOut):
            bounded(close, IMPATIENCE_S)
        self.waited_s += time.monotonic() - started
        return spare

    def restored(self, seconds: float) -> bool:
        """Whether the configured one works again, and knows what memory did and did not deliver.

        One that held something of this run may be back in a moment: without it, a later run would
        settle what memory has delivered. So it is asked again for a while.
        """
        memory, released, knows = self.current, self._in_memory, self._has_staged or self.has_left
        if memory is None or released is None:
            return False
        if not (undelivered(memory) or memory.intents() or (knows and released)):
            return False
        until = time.monotonic() + seconds
        last_try = min(until, time.monotonic() + BACK_WITHIN_S * knows)

        def restore() -> Outbox | None:
            return self._reopened(lambda outbox: hand_over(memory, outbox, released))

        back = None
        with suppress(TimedOut):
            while True:
                try:
                    back = bounded(restore, until - time.monotonic())
                    break
                except OutboxError:
                    if time.monotonic() >= last_try:
                        break
                    time.sleep(ASK_EVERY_S)
        if back is not None:
            self.current, self._in_memory, self.has_left = back, None, False
        return back is not None

    def _reopened(self, call: Callable[[Outbox], object]) -> Outbox | None:
        """The configured one, opened once more, after *call*; ``None``: it is in memory."""
        with ExitStack() as refused:
            outbox = self._parts.outbox(self._telemetry)
            refused.callback(outbox.close)
            if not outbox.is_durable:
                return None
            call(outbox)
            refused.pop_all()
            return outbox

    def beside(self, call: Callable[[Outbox], object]) -> None:
        """*call* with the configured one, for which memory stands in, where it works again."""

        def asked() -> None:
            if (outbox := self._reopened(call)) is not None:
                outbox.close()

        left_s = self.deadline - time.monotonic() if self.deadline is not None else PATIENCE_S
        with suppress(OutboxError, TimedOut):
            bounded(asked, max(ASK_EVERY_S, min(2 * IMPATIENCE_S, left_s)))


def undelivered(memory: Outbox) -> Sequence[Row]:
    """The deliveries that would be lost with *memory*, oldest first; given-up ones, too."""
    rows = memory.deliveries(limit=ALL)
    return [row for row in reversed(rows) if row.state is not State.DELIVERED]


def hand_over(memory: Outbox, outbox: Outbox, event_ids: Sequence[str]) -> None:
    """Put the undelivered rows of *memory* into *outbox*, to be begun anew there.

    *event_ids*: the events released into memory. If *outbox* staged some of them, these are no
    longer open, even if all was delivered. Raises OutboxError; a second call changes nothing.
    """
    left: defaultdict[str, list[Delivery]] = defaultdict(list)
    for row in undelivered(memory):
        left[row.delivery.event_id].append(row.delivery)
    for intent in memory.intents():
        outbox.stage(intent)
    for event_id in event_ids:
        outbox.release(event_id, left[event_id])
