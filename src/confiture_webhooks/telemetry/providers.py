"""The providers a run uses: its own, which end in time, its process's, or none."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from opentelemetry import trace
from opentelemetry.metrics import MeterProvider, get_meter_provider
from opentelemetry.trace import SpanContext, TracerProvider

from ..bounded import containing
from ..config.variables import MIGRATION_SPANS as CAP_SETTING
from ..delivery import TraceContext
from ..errors import Fault
from ..transport import version
from . import names
from .context import from_stored, made_here
from .http_spans import PROPAGATORS, ensure_propagators
from .logs import Records, records
from .plan import SIGNALS, Export, Plan, complaints, plan, setting_in

MIGRATION_SPANS = 200
_CONTEXT = "OTEL_PYTHON_CONTEXT"
_NAMED = "OTEL_PYTHON_TRACER_PROVIDER"
_LOST = dict(zip(SIGNALS, names.LOST, strict=True))
_QUEUES = {"traces": "OTEL_BSP_MAX_QUEUE_SIZE", "logs": "OTEL_BLRP_MAX_QUEUE_SIZE"}


@dataclass(slots=True)
class Tally:
    """How many items of one export have not arrived so far, and why."""

    export: Export
    reason: str
    waiting: int = 0
    lost: int = 0
    """Since that was last reported."""
    is_silent: bool = False
    """Whether nothing is exported."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def made(self, count: int, *, lost: int = 0) -> None:
        """*count* more items wait for their export, fewer when it is negative; *lost* are lost."""
        with self._lock:
            self.waiting += count
            self.lost += lost

    def reported(self, *, is_over: bool) -> int:
        """How many were lost since this was last asked; *is_over*: those that wait are, too."""
        with self._lock:
            lost, self.lost = self.lost, 0
            return lost + (self.waiting if is_over else 0)


@dataclass(slots=True, kw_only=True)
class Providers:
    """Where the signals of a run go. ``None`` makes a signal silent; ids are real all the same."""

    tracer_provider: TracerProvider | None = None
    meter_provider: MeterProvider | None = None
    records: Records | None = None
    made: list[Any] = field(default_factory=list)
    """Those of the SDK that were set up here, so they have to be shut down."""
    tallies: list[Tally] = field(default_factory=list)
    uninstrument: Callable[[], None] = lambda: None
    inherited: SpanContext | None = None
    """The trace the environment asks to join."""
    migration_spans: int = MIGRATION_SPANS
    faults: list[Fault] = field(default_factory=list)
    refused: list[Export] = field(default_factory=list)
    """The exports that a fault costs."""
    error: BaseException | None = None
    """A fault while finding out; the run then goes on with the providers found."""

    def keep(self, _: str, error: Exception) -> None:
        """Keep *error* until there is a log: a run without telemetry is still a run."""
        self.error = error

    def export_metrics(self) -> None:
        """Begin to export what is measured so far: a run that is killed exports nothing more."""
        if self.meter_provider in self.made:
            flush = self.meter_provider.force_flush  # type: ignore[union-attr]
            with suppress(RuntimeError):  # no thread is to be had: it is exported at the end
                threading.Thread(target=flush, daemon=True, name="webhooks-export").start()

    def shutdown(self, budget: timedelta) -> dict[str, object] | None:
        """Export what is left, all signals at once, and leave after *budget* whatever happens.

        How much of each kind did not arrive, and why; ``None`` when all is known to have arrived.
        The providers' own time-outs are not kept when a collector is dead, hence the threads.
        """
        made, self.made = self.made, []
        deadline = time.monotonic() + budget.total_seconds()

        def shut(provider: Any) -> None:
            with suppress(Exception):  # what did not arrive is counted
                provider.shutdown()

        threads = [
            threading.Thread(target=shut, args=(provider,), daemon=True, name="webhooks-flush")
            for provider in made
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self.uninstrument()
        is_cut = any(thread.is_alive() for thread in threads)
        return self.losses(is_over=True, is_cut=is_cut) if made else None

    def losses(self, *, is_over: bool, is_cut: bool = False) -> dict[str, object] | None:
        """How much of each kind was lost since this was last asked, and why; ``None``: nothing."""
        lost, reasons = dict.fromkeys(names.LOST, 0), dict[str, None]()
        for tally in self.tallies:
            # Of a queue that was exported to its end, those are missing for which it had no room.
            dropped = tally.waiting if is_over and not is_cut else 0
            if count := tally.reported(is_over=is_over):
                signal = tally.export.signal
                lost[_LOST[signal]] += count
                if count > dropped:
                    reasons[tally.reason] = None
                if dropped:
                    full = f"{dropped} dropped, because their queue was full"
                    reasons[f"{full}. Raise {_QUEUES[signal]}"] = None
        if not (is_cut or reasons):
            return None
        return {"lost": sum(lost.values()), **lost, "reason": "; ".join(reasons) or None}


def for_command(environ: Mapping[str, str], environment: str | None) -> Providers:
    """The owner's providers where there is one, else what ``OTEL_*`` ask for. Never raises.

    For the SDK, which reads them itself, empty ones are taken out of the process's environment.
    """
    found = Providers()
    with containing("finding providers", found.keep):
        if traceparent := environ.get("TRACEPARENT"):
            stored = TraceContext(traceparent=traceparent, tracestate=environ.get("TRACESTATE"))
            found.inherited = from_stored(stored, is_remote=True)
        _read_cap(environ, found)
        if has_owner(_global_provider()):
            _use_global(found)
            return found
        for name, value in list(os.environ.items()):
            if name.startswith("OTEL_") and not value.strip():
                del os.environ[name]
        if environ.get(PROPAGATORS):
            found.faults += filter(None, [ensure_propagators()])
        context = environ.get(_CONTEXT)
        if context and not entry_points(group="opentelemetry_context", name=context):
            problem = "names a context that is not installed, so the default is used"
            found.faults.append(Fault(_CONTEXT, problem, "Correct or unset it"))
        asked = plan(environ)
        found.faults += asked.faults
        if asked.exports:
            _set_up(found, asked, environ, environment)
    return found


def try_out(environ: Mapping[str, str]) -> Providers:
    """The providers of a run here, with their faults: set up, and ended with nothing exported."""
    found = for_command(environ, None)
    for tally in found.tallies:
        tally.is_silent = True
    found.shutdown(timedelta(seconds=2))  # nothing is exported, so it takes no time
    return found


def for_library(environ: Mapping[str, str]) -> Providers:
    """The global providers; nothing is set up. Never raises."""
    found = Providers()
    with containing("finding providers", found.keep):
        _read_cap(environ, found)
        _use_global(found)
    return found


def _global_provider() -> TracerProvider:
    """The one that is set. Asked for with this variable set, the API would set another one."""
    named = os.environ.pop(_NAMED, None)
    provider = trace.get_tracer_provider()
    if named is not None:
        os.environ[_NAMED] = named
    return provider


def has_owner(provider: TracerProvider) -> bool:
    """Whether *provider* was set by ``opentelemetry-instrument`` or by the user."""
    return not isinstance(provider, trace.ProxyTracerProvider) and provider not in made_here


def _use_global(found: Providers) -> None:
    found.tracer_provider = trace.get_tracer_provider()
    found.meter_provider = get_meter_provider()
    found.records = records(None, version())


def _set_up(
    found: Providers, asked: Plan, environ: Mapping[str, str], environment: str | None
) -> None:
    with complaints() as complained:  # the import complains, too
        try:
            # Unlike the statement, it tries anew where the import failed in another thread.
            set_up = import_module(".sdk", __package__).set_up  # a tenth of a second
        except ValueError as error:  # its text may quote the value
            problem = "has a value OpenTelemetry refuses, so there is no telemetry"
            setting = setting_in(str(error)) or "OTEL_*"
            found.faults.append(Fault(setting, problem, "Correct or unset it"))
            found.refused += asked.exports
            return
        set_up(found, asked, environ, environment)
    known = {fault.setting for fault in found.faults}
    complained = [one for one in complained if one.setting not in known]
    found.faults = list(dict.fromkeys([*found.faults, *complained]))


def _read_cap(environ: Mapping[str, str], found: Providers) -> None:
    given = environ.get(CAP_SETTING, "").strip()
    if given.isascii() and given.isdigit():
        found.migration_spans = int(given)
    elif given:
        problem = f"is not a whole number, so {MIGRATION_SPANS} is used"
        found.faults.append(Fault(CAP_SETTING, problem, "Correct or unset it"))
