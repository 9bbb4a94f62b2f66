"""Every OpenTelemetry and structlog touch of the package, behind one facade that never raises.

The SDK, its exporters and structlog are imported only when they are needed: a run without an
exporter pays for the API alone, a run without log lines not for structlog.
"""

from .delivery_span import DeliverySpan
from .facade import Telemetry
from .providers import for_command, for_library
from .spans import HookSpan, MigrationSpan, WorkerPassSpan

__all__ = [
    "DeliverySpan",
    "HookSpan",
    "MigrationSpan",
    "Telemetry",
    "WorkerPassSpan",
    "for_command",
    "for_library",
]
