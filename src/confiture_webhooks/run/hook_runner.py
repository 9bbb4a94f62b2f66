"""Runs users' hooks: in order, one at a time, each bounded, on threads of their own.

Nothing here waits for a hook but ``drain``, when the migrations are over; it is bounded.
"""

from __future__ import annotations

import os
import queue
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ..errors import HookError
from ..hooks import Hook, HookContext
from ..terminal import counted
from .hook_thread import HookThread, OutputGuard, end_left_behind

if TYPE_CHECKING:
    from ..delivery import TraceContext
    from ..telemetry import Telemetry

CORRELATION_ID = "CORRELATION_ID"
"""The variable hook files read the run's id from."""
TIMEOUT = "timeout"

Send = Callable[[Mapping[str, Any], "str | None", HookContext, "TraceContext"], str]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class HookSource:
    """A module with hooks, and how to import it: ``load`` raises LoadFault, or anything."""

    module: str
    load: Callable[[], Sequence[Hook]]


@dataclass(frozen=True, slots=True)
class _Call:
    context: HookContext
    parent: TraceContext


class HookRunner:
    """The hooks of one run. No method raises; what hooks raise is a log line."""

    def __init__(
        self,
        sources: Sequence[HookSource],
        telemetry: Telemetry,
        send: Send,
        *,
        timeout: timedelta,
        say: Callable[[str], None],
        is_logged: bool = True,
    ) -> None:
        self._sources = sources
        self._telemetry = telemetry
        self._send = send
        self._timeout = timeout
        self._say = say
        self._is_logged = is_logged
        """Whether log lines are written, which tell why a hook failed."""
        self._hooks: list[Hook] = []
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._waiting = 0
        """Calls that are not made yet; written by the run's thread and by ours, under a lock."""
        self._guard = threading.Lock()
        self._is_over = threading.Event()
        self._output = OutputGuard()
        self._set_variable = False
        self._thread = threading.Thread(target=self._work, name="webhooks-hooks", daemon=True)

    def start(self) -> None:
        """Begin to import, with the run's id in the environment."""
        if not os.environ.get(CORRELATION_ID):
            os.environ[CORRELATION_ID] = self._telemetry.correlation_id
            self._set_variable = True
        self._output.modules |= {source.module for source in self._sources}
        self._output.start()
        self._thread.start()

    def tell(self, context: HookContext, parent: TraceContext) -> None:
        """Have every hook of ``context.event`` called, under *parent*. Returns at once."""
        with self._guard:
            self._waiting += 1
        self._calls.put(_Call(context, parent))

    def drain(self, deadline: float) -> None:
        """Wait for the calls until *deadline* (monotonic)."""
        self._calls.put(None)
        self._thread.join(max(0.0, deadline - time.monotonic()))

    def stop(self) -> None:
        """Make no more calls, say how many were left, and let go of what was taken."""
        self._is_over.set()
        self._calls.put(None)
        self._thread.join(0.5)
        left = self._waiting
        if left:
            events = counted(left, "event was", "events were")
            self._say(
                f"confiture-webhooks: hooks had no time left: {events} not told to them "
                "in full. Make the hooks faster, or raise `flush_timeout`."
            )
        end_left_behind()
        self._output.stop()
        if self._set_variable:
            os.environ.pop(CORRELATION_ID, None)

    def _work(self) -> None:
        try:
            for source in self._sources:
                self._load(source)
        except Exception as error:  # noqa: BLE001  a bug of ours costs hooks, not the run
            self._telemetry.failed("loading hooks", error)
        while (call := self._calls.get()) is not None and not self._is_over.is_set():
            try:
                self._call_all(call)
            except Exception as error:  # noqa: BLE001  a bug of ours costs hooks, not the run
                self._telemetry.failed("running hooks", error)
            if not self._is_over.is_set():
                with self._guard:
                    self._waiting -= 1

    def _load(self, source: HookSource) -> None:
        loaded: list[Hook] = []
        thread = HookThread(lambda: loaded.extend(source.load()))
        if not thread.ends_within(self._timeout, self._is_over):
            is_cut = self._is_over.is_set()
            longer = f"takes longer than {self._timeout.total_seconds():g} s to import"
            problem = "was still being imported when the run ended" if is_cut else longer
            fault = LoadFault(problem, file=source.module, line=None, error_type=TIMEOUT)
        elif isinstance(thread.error, LoadFault):
            fault = thread.error
        elif thread.error is not None:
            raise RuntimeError("importing a hook file") from thread.error
        else:
            # A file may have imported another: its hooks are there already.
            self._hooks += [hook for hook in loaded if hook not in self._hooks]
            self._output.modules |= {hook.module for hook in loaded}
            return
        if not self._is_logged:
            self._say(f"confiture-webhooks: {fault}; its hooks do not run, the migration goes on")
        self._telemetry.hook_failed(
            source.module,
            file=fault.file,
            line=fault.line,
            error_type=fault.error_type,
            reason=f"{fault.args[0]}; its hooks do not run",
        )

    def _call_all(self, call: _Call) -> None:
        for hook in self._hooks:
            if hook.event == call.context.event and not self._is_over.is_set():
                self._call(hook, call)

    def _call(self, hook: Hook, call: _Call) -> None:
        span = self._telemetry.hook(hook.label, hook.event, call.parent)

        refusals: list[HookError] = []

        def send(payload: Mapping[str, Any], endpoint: str | None) -> str:
            if self._is_over.is_set():
                raise HookError("the run is over; nothing more can be sent")
            try:
                return self._send(payload, endpoint, call.context, span.trace)
            except HookError as refusal:
                refusals.append(refusal)
                raise

        context = replace(call.context, sender=send)

        def run() -> None:
            with span.current():
                hook.function(context)

        thread = HookThread(run)
        is_ended = thread.ends_within(self._timeout, self._is_over)
        error = thread.error
        if is_ended and error is None:
            span.finish()
            return
        error_type = type(error).__name__ if error is not None else TIMEOUT
        line = _line_in(hook, error) if error is not None else hook.line
        span.finish(error_type)
        # Only our own words: what else a hook raises may hold what nobody is to read here.
        is_ours = any(error is refusal for refusal in refusals)
        reason = f"{error}; it is not sent" if is_ours else None
        if reason is not None and not self._is_logged:
            self._say(f"confiture-webhooks: {hook.label}, line {line}: {reason}")
        self._telemetry.hook_failed(
            hook.label,
            file=hook.file,
            line=line,
            error_type=error_type,
            reason=reason,
            span=span,
        )


def _line_in(hook: Hook, error: BaseException) -> int:
    """The line of the hook's file that *error* came through last, else where the hook begins."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame.lineno for frame in frames if frame.filename == hook.file]
    return next((line for line in reversed(own) if line is not None), hook.line)
