"""Runs users' hooks: in order, one at a time, each bounded, on threads of their own."""

from __future__ import annotations

import os
import queue
import re
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ..bounded import contained
from ..config import Settings
from ..delivery import Delivery, TraceContext
from ..endpoint import Endpoint
from ..errors import HookError
from ..event import Direction, ErrorInfo, EventType, body
from ..formats import JSON
from ..hooks import Hook, HookContext, MigrationFailed
from ..terminal import counted, say
from . import Loads, Parts
from .hook_thread import HookThread, LibraryGuard, OutputGuard, end_running
from .migration import Migration, new_event_id

if TYPE_CHECKING:
    from ..telemetry import Telemetry

CORRELATION_ID = "CORRELATION_ID"
TIMEOUT = "timeout"
_ENDED = {Direction.UP: "post_execute", Direction.DOWN: "post_rollback"}
SHOWN = 3
LARGEST = 1024 * 1024
"""Bytes of a payload, at most."""
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
Call = tuple[HookContext, TraceContext]


class LoadFault(HookError):  # noqa: N818  a fault with a place, as in the settings
    """A hook file that cannot be used: why, and where in it."""

    def __init__(self, problem: str, *, file: str, line: int | None, error_type: str) -> None:
        self.file = file
        self.line = line
        self.error_type = error_type
        super().__init__(problem)

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.args[0]}"


@dataclass(eq=False, repr=False)
class HookRunner:
    """The hooks of one run. No method raises; an error of a hook is a log line."""

    _settings: Settings
    _parts: Parts
    _telemetry: Telemetry
    _release: Callable[[str, Sequence[Delivery]], object]
    """Keeps and sends a delivery of a hook's own."""
    _hooks: list[Hook] = field(default_factory=list)
    _calls: queue.SimpleQueue[Call | None] = field(default_factory=queue.SimpleQueue)
    _given: set[tuple[str, str]] = field(default_factory=set)
    """By the run's thread: a migration's id, and the hooks' event."""
    _made: int = 0
    """Calls that hooks wanted and got."""
    _is_over: threading.Event = field(default_factory=threading.Event)
    _output: OutputGuard = field(default_factory=OutputGuard)
    _set_variable: bool = False
    _sources: Loads = field(default_factory=dict)

    def __post_init__(self) -> None:
        # A replacement by a migration looks the same, and has to stay.
        self._library = LibraryGuard(is_active=not self._parts.has_python)
        self._thread = threading.Thread(target=self._work, name="webhooks-hooks", daemon=True)
        self._start()

    @contained
    def _start(self) -> None:
        """Begin to import, with the run's id in the environment."""
        self._sources = self._parts.hooks() if self._parts.hooks is not None else {}
        if not os.environ.get(CORRELATION_ID):
            os.environ[CORRELATION_ID] = self._telemetry.correlation_id
            self._set_variable = True
        self._output.modules.update(self._sources)
        self._output.start()
        self._thread.start()

    def report(self, where: str, error: Exception) -> None:
        """A bug of ours costs hooks, not the migration."""
        self._telemetry.failed(f"hooks: {where}", error)

    @contained
    def call(self, migration: Migration, rows_affected: int | None = None) -> None:
        """Have hooks called, once: *migration* is about to run, or has ended. Returns at once."""
        context = _context(migration, rows_affected)
        if (given := (migration.event_id, context.event)) not in self._given:
            self._given.add(given)
            self._calls.put((context, migration.span.trace))

    @contained
    def drain(self, deadline: float) -> None:
        """Wait for the calls until *deadline* (monotonic)."""
        self._calls.put(None)
        if self._thread.ident is not None:
            self._thread.join(max(0.0, deadline - time.monotonic()))

    @contained
    def stop(self) -> None:
        """Make no more calls, say how many were left, and give back what was taken."""
        self._is_over.set()
        self.drain(time.monotonic() + 0.5)
        wanted = {hook.event for hook in self._hooks}
        if left := sum(event in wanted for _, event in self._given) - self._made:
            events = counted(left, "event", "events")
            limit = f"flush_timeout {self._settings.flush_timeout.total_seconds():g} s"
            late = f"hooks ran out of time ({limit}): {events} did not reach every hook"
            say(f"confiture-webhooks: {late}. Make the hooks faster, or raise `flush_timeout`.")
        end_running()
        self._output.stop()
        if self._set_variable:
            os.environ.pop(CORRELATION_ID, None)

    def _work(self) -> None:
        for module, load in self._sources.items():
            self._load(module, load)
        while (call := self._calls.get()) is not None and not self._is_over.is_set():
            hooks = [hook for hook in self._hooks if hook.event == call[0].event]
            for hook in hooks:
                if not self._is_over.is_set():
                    self._call(hook, *call)
            if hooks and not self._is_over.is_set():
                self._made += 1

    @contained
    def _load(self, module: str, load: Callable[[], Sequence[Hook]]) -> None:
        loaded: list[Hook] = []
        timeout = self._settings.hook_timeout
        thread = HookThread(lambda: loaded.extend(load()), self._library.restore)
        if not self._ends(thread, module):
            longer = f"takes longer than {timeout.total_seconds():g} s to import"
            is_cut = self._is_over.is_set()
            problem = "was still being imported when the run ended" if is_cut else longer
            fault = LoadFault(problem, file=module, line=None, error_type=TIMEOUT)
        elif isinstance(thread.error, LoadFault):
            fault = thread.error
        elif thread.error is not None:
            raise RuntimeError("importing a hook file") from thread.error
        else:
            # A file may have imported another: its hooks are there already.
            self._hooks += [hook for hook in loaded if hook not in self._hooks]
            self._output.modules |= {hook.module for hook in loaded}
            return
        if not self._settings.is_logged:
            say(f"confiture-webhooks: {fault}; its hooks do not run, the migration goes on")
        reason = f"{fault.args[0]}; its hooks do not run"
        self._telemetry.hook_failed(
            module, file=fault.file, line=fault.line, error_type=fault.error_type, reason=reason
        )

    def _ends(self, thread: HookThread, label: str) -> bool:
        """Whether *thread*, which runs *label*, ends in time; what it replaced is put back."""
        is_ended = thread.ends_within(self._settings.hook_timeout, self._is_over)
        self._library.restore()  # it may run on
        replaced, self._library.replaced = self._library.replaced, []
        if replaced:
            names = f"{', '.join(replaced[:SHOWN])}{' …' if replaced[SHOWN:] else ''}"
            why = "It was put back: migrations and webhooks need it"
            only = "Replace it in the hook, and for its call only"
            say(f"confiture-webhooks: {label} replaced {names}. {why}. {only}")
        return is_ended

    @contained
    def _call(self, hook: Hook, context: HookContext, parent: TraceContext) -> None:
        span = self._telemetry.hook(hook.label, hook.event, parent)
        refusals: list[HookError] = []

        def send(payload: Mapping[str, Any], name: str | None) -> str:
            if self._is_over.is_set():
                raise HookError("the run is over; nothing more can be sent")
            try:
                endpoint = _chosen(self._settings.recorded, name)
                delivery = _custom(payload, endpoint, context, span.trace)
                self._release(delivery.event_id, [delivery])
            except HookError as refusal:
                refusals.append(refusal)
                raise
            return delivery.event_id

        def run() -> None:
            with span.current():
                hook.function(replace(context, sender=send))

        thread = HookThread(run, self._library.restore)
        is_ended = self._ends(thread, hook.label)
        error = thread.error
        if is_ended and error is None:
            span.finish()
            return
        error_type = type(error).__name__ if error is not None else TIMEOUT
        line = _line_in(hook, error) if error is not None else hook.line
        span.finish(error_type)
        # Only our own words: what else a hook raises may hold what is not to be read here.
        is_ours = any(error is refusal for refusal in refusals)
        reason = f"{error}; the payload is not sent" if is_ours else None
        if reason is not None and not self._settings.is_logged:
            say(f"confiture-webhooks: {hook.label}, line {line}: {reason}")
        self._telemetry.hook_failed(
            hook.label, file=hook.file, line=line, error_type=error_type, reason=reason, span=span
        )


def _line_in(hook: Hook, error: BaseException) -> int:
    """The line of the hook's file that *error* came through last, else where the hook begins."""
    frames = reversed(traceback.extract_tb(error.__traceback__))
    own = (one.lineno for one in frames if one.lineno and one.filename == hook.file)
    return next(own, hook.line)


def _context(migration: Migration, rows_affected: int | None) -> HookContext:
    """The context of *migration* for hooks: how it ended, if it has."""
    is_over, error = migration.ended_at is not None, migration.error
    event = _ENDED[migration.direction] if error is None else "on_error"
    return HookContext(
        event=event if is_over else "pre_execute",
        migration_name=migration.ref.name,
        migration_version=migration.ref.version,
        environment=migration.environment,
        start_time=migration.started_at,
        end_time=migration.ended_at,
        duration=timedelta(seconds=migration.duration_s) if is_over else None,
        rows_affected=rows_affected,
        database_url=migration.backend.database_url,
        schema_name=migration.backend.database.schema,
        error=_raised(error) if error is not None else None,
        trace_id=migration.trace_id,
    )


def _raised(info: ErrorInfo) -> MigrationFailed:
    """*info* as an exception of its root cause's name."""
    failed: MigrationFailed = type(info.type, (MigrationFailed,), {})(info.message)
    failed.sqlstate, failed.detail = info.sqlstate, info.detail
    return failed


def _chosen(endpoints: Sequence[Endpoint], name: str | None) -> Endpoint:
    """The endpoint called *name*, or the only one there is. Raises HookError."""
    meant = [endpoint for endpoint in endpoints if name in (None, endpoint.name)]
    if len(meant) == 1:
        return meant[0]
    if not endpoints:
        raise HookError("no endpoint is configured, so context.send has none to send to")
    known = ", ".join(endpoint.name for endpoint in endpoints)
    if name is None:
        raise HookError(f"context.send needs endpoint=…, one of: {known}")
    # An address that was given in its place may hold a secret.
    given = repr(name) if isinstance(name, str) and _NAME.fullmatch(name) else "that"
    raise HookError(f"no endpoint is called {given}; there are: {known}")


def _custom(
    payload: Mapping[str, Any], endpoint: Endpoint, context: HookContext, trace: TraceContext
) -> Delivery:
    """*payload* for *endpoint*, about *context*'s migration. Raises HookError if it is not JSON."""
    if not isinstance(payload, Mapping):
        raise HookError(f"a payload is a JSON object, not {type(payload).__name__}")
    try:
        encoded = body(payload)
    except (TypeError, ValueError, RecursionError) as error:
        # Its text may quote the payload.
        raise HookError(f"the payload is not JSON ({type(error).__name__})") from None
    if len(encoded) > LARGEST:
        raise HookError(f"the payload is larger than {LARGEST} bytes")
    return Delivery(
        id=f"dlv_{uuid.uuid4().hex}",
        event_id=new_event_id(),
        event_type=EventType.CUSTOM,
        endpoint=endpoint.name,
        body=encoded,
        content_type=JSON,
        trace=trace,
        correlation_id=context.correlation_id,
        created_at=datetime.now(UTC),
        migration_version=context.migration_version,
        migration_name=context.migration_name,
        environment=context.environment,
    )
