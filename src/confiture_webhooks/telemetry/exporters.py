"""Exporters made on a thread of their own, while the migration already runs.

Their imports take as long as the SDK's. What they are put behind can be used at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import Fault
from ..terminal import Stderr
from .plan import CONSOLE, GRPC, INSTALL, Export
from .quiet import Complaints

if TYPE_CHECKING:
    from datetime import timedelta

_OTLP = {
    "traces": ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "OTLPSpanExporter"),
    "metrics": ("opentelemetry.exporter.otlp.proto.http.metric_exporter", "OTLPMetricExporter"),
    "logs": ("opentelemetry.exporter.otlp.proto.http._log_exporter", "OTLPLogExporter"),
}
_CONSOLE = {
    "traces": ("opentelemetry.sdk.trace.export", "ConsoleSpanExporter"),
    "metrics": ("opentelemetry.sdk.metrics.export", "ConsoleMetricExporter"),
    "logs": ("opentelemetry.sdk._logs.export", "ConsoleLogRecordExporter"),
}


@dataclass(slots=True, eq=False)
class Late:
    """An exporter that is still being made."""

    export: Export
    _is_done: threading.Event = field(default_factory=threading.Event)
    _made: Any = None

    def get(self) -> Any:
        """The exporter, waiting for it; ``None`` when it could not be made."""
        self._is_done.wait()
        return self._made

    @property
    def is_broken(self) -> bool:
        """Whether it could not be made, which a fault tells."""
        return self._is_done.is_set() and self._made is None

    def make(self) -> Fault | None:
        """Make it; what is wrong when that does not work."""
        try:
            self._made = _make(self.export)
        except ImportError:
            return _missing(self.export)
        except Exception as error:  # noqa: BLE001  its text may quote a header or a password
            problem = f"the exporter cannot be made ({type(error).__name__})"
            return Fault(self.export.setting, problem, "Check the OTEL_* variables")
        finally:
            self._is_done.set()
        return None


class Workshop:
    """Does *first* and then makes exporters, in the background; collects what is wrong."""

    def __init__(self, complaints: Complaints, first: Callable[[], Fault | None]) -> None:
        self.late: list[Late] = []
        self._complaints = complaints
        self._first = first
        self._is_first_done = threading.Event()
        self._faults: list[Fault | None] = []
        self._thread = threading.Thread(target=self._work, daemon=True, name="webhooks-telemetry")

    def order(self, export: Export) -> Late:
        """An exporter to be made once started."""
        self.late.append(Late(export))
        return self.late[-1]

    def start(self) -> None:
        """Start the work."""
        self._thread.start()

    def await_first(self) -> None:
        """Wait until *first* is done, a second at most."""
        self._is_first_done.wait(1.0)

    def finish(self, within: timedelta) -> list[Fault]:
        """Wait for the rest; every fault found, each once."""
        self._thread.join(within.total_seconds())
        found = [fault for fault in self._faults if fault is not None]
        return list(dict.fromkeys([*found, *self._complaints.faults()]))

    def _work(self) -> None:
        try:
            self._faults.append(self._first())
        finally:
            self._is_first_done.set()
        for late in self.late:
            self._faults.append(late.make())
        self._complaints.close_book()


def _make(export: Export) -> Any:
    if export.protocol == CONSOLE:
        module, name = _CONSOLE[export.signal]
        return getattr(import_module(module), name)(out=Stderr())
    module, name = _OTLP[export.signal]
    if export.protocol == GRPC:
        module = module.replace(".http.", ".grpc.")
    return getattr(import_module(module), name)(endpoint=export.endpoint, timeout=export.timeout_s)


def _missing(export: Export) -> Fault:
    if export.protocol == GRPC:
        remedy = "Run: pip install opentelemetry-exporter-otlp-proto-grpc"
        return Fault("OTEL_EXPORTER_OTLP_PROTOCOL", "needs a package that is missing", remedy)
    return Fault(export.setting, "needs the OTLP exporter, which is not installed", INSTALL)
