"""The metrics: instruments made once, measurements with few attributes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import Span

from ..delivery import State
from . import names
from .context import around, storable

if TYPE_CHECKING:
    from datetime import datetime

    from opentelemetry.metrics import Meter

    from ..outbox import Summary
    from .names import MetricSpec

Read = Callable[[], "Summary"]


class Metrics:
    """Measures on *meter*; without one, measures nothing.

    Counters of *endpoints* start at 0, so that an outcome is on a dashboard before it happens.
    """

    def __init__(self, meter: Meter | None, endpoints: Sequence[str]) -> None:
        self._instruments: dict[str, Any] = {}
        self._ended: dict[tuple[str, str], float] = {}
        """When a run of a command last ended, by gauge."""
        self.database: str | None = None
        """The migrated one's name, for runs and outbox gauges; ``None``: unknown, or unwanted."""
        self.read: Read | None = None
        """Gives the state of the outbox at every collection."""
        if meter is not None:
            self._make_instruments(meter)
            self._start_at_zero(endpoints)

    def measure(
        self, spec: MetricSpec, seconds: float, attributes: Mapping[str, object], span: Span
    ) -> None:
        """Record a duration; *span* is its exemplar."""
        if histogram := self._instruments.get(spec.name):
            histogram.record(max(0.0, seconds), storable(attributes), context=around(span))

    def count(self, spec: MetricSpec, attributes: Mapping[str, object], span: Span) -> None:
        """Count one."""
        if counter := self._instruments.get(spec.name):
            counter.add(1, storable(attributes), context=around(span))

    def count_run(
        self, command: str, error_type: str | None, ended_at: datetime, span: Span
    ) -> None:
        """Count a run of *command*, which failed exactly when there is an *error_type*."""
        is_failed = error_type is not None
        about = {names.COMMAND: command, names.DB_NAMESPACE: self.database}
        outcome = names.FAILURE if is_failed else names.SUCCESS
        ended = {**about, names.RUN_OUTCOME: outcome, names.ERROR_TYPE: error_type}
        self.count(names.RUNS, ended, span)
        spec = names.LAST_FAILURE if is_failed else names.LAST_SUCCESS
        if gauge := self._instruments.get(spec.name):
            last = max(ended_at.timestamp(), self._ended.get((spec.name, command), 0.0))
            self._ended[spec.name, command] = last
            gauge.set(last, storable(about))

    def _make_instruments(self, meter: Meter) -> None:
        make = {"counter": meter.create_counter, "gauge": meter.create_gauge}
        for spec in names.METRICS:
            if spec.instrument == "histogram":
                self._instruments[spec.name] = meter.create_histogram(
                    spec.name, spec.unit, explicit_bucket_boundaries_advisory=list(spec.buckets)
                )
            elif spec.instrument in make:
                self._instruments[spec.name] = make[spec.instrument](spec.name, spec.unit)
        size, oldest = names.OUTBOX_SIZE, names.OUTBOX_OLDEST
        meter.create_observable_up_down_counter(size.name, [self._sizes], size.unit)
        meter.create_observable_gauge(oldest.name, [self._oldest], oldest.unit)

    def _start_at_zero(self, endpoints: Sequence[str]) -> None:
        for endpoint in endpoints:
            about = storable({names.WEBHOOK_ENDPOINT: endpoint})
            for outcome in names.OUTCOMES:
                counted = {**about, names.WEBHOOK_OUTCOME: outcome}
                self._instruments[names.DELIVERIES.name].add(0, counted)
            for spec in (names.RETRIES, names.FAILURES):
                self._instruments[spec.name].add(0, about)

    def _summary(self) -> Summary | None:
        try:
            return self.read() if self.read is not None else None
        except Exception:  # noqa: BLE001  the outbox reports its own faults; no point is better
            return None

    def _sizes(self, _: CallbackOptions) -> Iterator[Observation]:
        if summary := self._summary():
            counts = summary.counts
            pending = counts.get(State.PENDING, 0) + counts.get(State.IN_FLIGHT, 0)
            dead = counts.get(State.DEAD_LETTER, 0)
            for state, size in zip(names.STATES, (pending, dead), strict=True):
                about = {names.WEBHOOK_STATE: state, names.DB_NAMESPACE: self.database}
                yield Observation(size, storable(about))

    def _oldest(self, _: CallbackOptions) -> Iterator[Observation]:
        if summary := self._summary():
            oldest = summary.oldest_at.timestamp() if summary.oldest_at else 0
            yield Observation(oldest, storable({names.DB_NAMESPACE: self.database}))
