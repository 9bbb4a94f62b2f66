"""Exporters and processors that keep count, because a finished flush proves nothing.

Importing this file imports the SDK.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from opentelemetry.sdk._logs import ReadWriteLogRecord
from opentelemetry.sdk._logs.export import (
    BatchLogRecordProcessor,
    LogRecordExporter,
    LogRecordExportResult,
)
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    MetricExporter,
    MetricExportResult,
    MetricsData,
)
from opentelemetry.sdk.metrics.view import Aggregation
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from .exporters import Late


class Tally:
    """How many items were made, and how many a collector has accepted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made = 0
        self._accepted = 0

    def made(self, count: int) -> None:
        """*count* more items want to be exported."""
        with self._lock:
            self._made += count

    def accepted(self, count: int) -> None:
        """*count* more items arrived."""
        with self._lock:
            self._accepted += count

    @property
    def lost(self) -> int:
        """How many did not arrive so far."""
        with self._lock:
            return self._made - self._accepted


class TalliedSpanExporter(SpanExporter):
    """Counts what *inner* got accepted; its exceptions are failures."""

    def __init__(self, inner: Late, tally: Tally) -> None:
        self._inner = inner
        self._tally = tally

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export *spans*."""
        try:
            result: SpanExportResult = self._inner.get().export(spans)
        except Exception:  # noqa: BLE001  told once, at the end, by the tally
            return SpanExportResult.FAILURE
        if result is SpanExportResult.SUCCESS:
            self._tally.accepted(len(spans))
        return result

    def shutdown(self) -> None:
        """Shut *inner* down."""
        if (inner := self._inner.get()) is not None:
            inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002
        """Nothing is kept here to flush."""
        return True


class TalliedSpanProcessor(BatchSpanProcessor):
    """Counts sampled spans as they end, also those a full queue then drops."""

    def __init__(self, exporter: Late) -> None:
        self._late = exporter
        self._tally = Tally()
        super().__init__(TalliedSpanExporter(exporter, self._tally))

    def on_end(self, span: ReadableSpan) -> None:
        """Queue *span*."""
        if span.context is not None and span.context.trace_flags.sampled:
            self._tally.made(1)
        super().on_end(span)

    @property
    def lost(self) -> int:
        """How many spans did not arrive."""
        return 0 if self._late.is_broken else self._tally.lost


class TalliedLogExporter(LogRecordExporter):
    """Counts what *inner* got accepted; its exceptions are failures."""

    def __init__(self, inner: Late, tally: Tally) -> None:
        self._inner = inner
        self._tally = tally

    def export(self, batch: Sequence[Any]) -> LogRecordExportResult:
        """Export *batch*."""
        try:
            result: LogRecordExportResult = self._inner.get().export(batch)
        except Exception:  # noqa: BLE001  told once, at the end, by the tally
            return LogRecordExportResult.FAILURE
        if result is LogRecordExportResult.SUCCESS:
            self._tally.accepted(len(batch))
        return result

    def shutdown(self) -> None:
        """Shut *inner* down."""
        if (inner := self._inner.get()) is not None:
            inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002
        """Nothing is kept here to flush."""
        return True


class TalliedLogProcessor(BatchLogRecordProcessor):
    """Counts log records as they are emitted."""

    def __init__(self, exporter: Late) -> None:
        self._late = exporter
        self._tally = Tally()
        super().__init__(TalliedLogExporter(exporter, self._tally))

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Queue *log_record*."""
        self._tally.made(1)
        super().on_emit(log_record)

    @property
    def lost(self) -> int:
        """How many log records did not arrive."""
        return 0 if self._late.is_broken else self._tally.lost


class TalliedMetricExporter(MetricExporter):
    """Counts data points on their way to *inner*."""

    def __init__(
        self,
        inner: Late,
        temporality: dict[type, AggregationTemporality],
        aggregation: dict[type, Aggregation],
    ) -> None:
        self._late = self._inner = inner
        self._tally = Tally()
        super().__init__(preferred_temporality=temporality, preferred_aggregation=aggregation)

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        """Export *metrics_data*."""
        points = count_points(metrics_data)
        self._tally.made(points)
        try:
            result: MetricExportResult = self._inner.get().export(
                metrics_data, timeout_millis=timeout_millis, **kwargs
            )
        except Exception:  # noqa: BLE001  told once, at the end, by the tally
            return MetricExportResult.FAILURE
        if result is MetricExportResult.SUCCESS:
            self._tally.accepted(points)
        return result

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Shut *inner* down."""
        if (inner := self._inner.get()) is not None:
            inner.shutdown(timeout_millis=timeout_millis, **kwargs)

    def force_flush(self, timeout_millis: float = 10_000) -> bool:  # noqa: ARG002
        """Nothing is kept here to flush."""
        return True

    @property
    def lost(self) -> int:
        """How many data points did not arrive."""
        return 0 if self._late.is_broken else self._tally.lost


def count_points(metrics_data: MetricsData) -> int:
    """How many data points *metrics_data* has."""
    return sum(
        len(metric.data.data_points)
        for resource in metrics_data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    )
