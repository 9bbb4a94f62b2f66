"""Log events as OTLP log records: the only file that touches ``opentelemetry._logs``.

That API is still marked as developing; a rename there costs this file.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from opentelemetry.trace import SpanContext

from . import names
from .context import around

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider


class Records(Protocol):
    """Takes log events, their fields cleaned, as records."""

    def __call__(
        self, event: str, level: str, fields: Mapping[str, object], context: SpanContext
    ) -> None:
        """Emit one record that belongs to the span *context* names."""


def records(provider: LoggerProvider | None, version: str) -> Records:
    """Records on *provider*, or on the global one."""
    from opentelemetry._logs import SeverityNumber, get_logger  # noqa: PLC0415

    severities = {
        "debug": SeverityNumber.DEBUG,
        "info": SeverityNumber.INFO,
        "warning": SeverityNumber.WARN,
        "error": SeverityNumber.ERROR,
    }
    logger = get_logger(names.SCOPE, version, provider, names.SCHEMA_URL)

    def emit(event: str, level: str, fields: Mapping[str, object], context: SpanContext) -> None:
        severity = severities[level]
        attributes: Any = {name: value for name, value in fields.items() if value is not None}
        logger.emit(
            timestamp=time.time_ns(),
            context=around(context),
            severity_number=severity,
            severity_text=severity.name,
            body=event,
            event_name=event,
            attributes=attributes,
        )

    return emit
