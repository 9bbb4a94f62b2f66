"""The SDK's own complaints: none reaches standard error, those about settings become faults."""

from __future__ import annotations

import logging
import re

from ..errors import Fault

_SETTING = re.compile(r"OTEL_[A-Z_]+[A-Z]")
_HINTS = (
    ("ompression", "OTEL_EXPORTER_OTLP_COMPRESSION"),
    ("eader", "OTEL_EXPORTER_OTLP_HEADERS"),
    ("export interval", "OTEL_METRIC_EXPORT_INTERVAL"),
    ("export timeout", "OTEL_METRIC_EXPORT_TIMEOUT"),
    ("sampler", "OTEL_TRACES_SAMPLER"),
    ("resource attribute", "OTEL_RESOURCE_ATTRIBUTES"),
)


class Complaints(logging.Handler):
    """Collects what ``opentelemetry`` logs about settings, and keeps it off standard error.

    It is kept off for the rest of the process: exporters print tracebacks about a dead
    collector, and the tally of exports says that better.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._settings: dict[str, None] = {}
        self._logger = logging.getLogger("opentelemetry")

    def begin(self) -> None:
        """Begin to collect."""
        self._logger.propagate = False
        if not any(isinstance(handler, logging.NullHandler) for handler in self._logger.handlers):
            self._logger.addHandler(logging.NullHandler())
        self._logger.addHandler(self)

    def end(self) -> None:
        """Stop collecting."""
        self._logger.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the setting *record* is about, never its text: that quotes values."""
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001  a message that cannot be formatted names nothing
            return
        found = _SETTING.search(message)
        hints = (setting for hint, setting in _HINTS if hint in str(record.msg))
        setting = found.group() if found else next(hints, None)
        if setting is not None:
            self._settings[setting] = None

    def faults(self) -> list[Fault]:
        """One fault for each setting that was complained about."""
        problem = "has a value OpenTelemetry does not accept, so its default is used"
        return [Fault(setting, problem, "Correct or unset it") for setting in self._settings]
