"""The spans of a worker's passes over the outbox, that its deliveries are linked to."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..telemetry import Telemetry, WorkerPassSpan

LONGEST_PASS_SPAN = timedelta(minutes=1)
"""A worker that is never idle begins a new pass so often: a span that never ends is never seen."""


class Passes:
    """One pass after the other: each begins with a claim and ends when nothing is left to do."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._lock = threading.Lock()
        self._span: WorkerPassSpan | None = None
        self._ends_at = 0.0

    def begin(self) -> WorkerPassSpan:
        """The pass under way, which is begun if there is none."""
        with self._lock:
            if self._span is not None and time.monotonic() >= self._ends_at:
                self._span.finish()
                self._span = None
            if self._span is None:
                self._span = self._telemetry.worker_pass()
                self._ends_at = time.monotonic() + LONGEST_PASS_SPAN.total_seconds()
            return self._span

    def end(self) -> None:
        """Nothing is left to do for now."""
        with self._lock:
            span, self._span = self._span, None
            if span is not None:
                span.finish()
