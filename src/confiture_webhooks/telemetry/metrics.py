"""The metrics: instruments made once, measurements with few attributes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.trace import INVALID_SPAN, Span

from ..delivery import State
from ..outbox import Summary
from ..transport import version
from . import names
from .context import around, storable

Read = Callable[[], Summary]


@dataclass(slots=True, eq=False, weakref_slot=True)
class Metrics:
    """Measures nothing until it has made its instruments."""

    database: str | None = None
    """The migrated one's name, for runs and outbox gauges; ``None``: unknown, or unwanted."""
    read: Read | None = None
    """Gives the state of the outbox at every collection."""
    _record: dict[str, Any] = field(default_factory=dict)
    """The functions that record an amount, by the name of its metric."""
    _ended: dict[tuple[str, str], float] = field(default_factory=dict)
    """When a run of a command last ended, by gauge."""

    def measure(self, provider: MeterProvider, endpoints: Sequence[str]) -> None:
        """Measure on a meter of *provider* from now on.

        Counters of *endpoints* start at 0, so that an outcome is on a dashboard before it happens.
        """
        self._record, peers = _made.setdefault(provider, ({}, Peers()))
        peers[id(self)] = self
        if not self._record:
            self._record.update(_instruments(provider, peers))
        for endpoint in endpoints:
            about = {names.WEBHOOK_ENDPOINT: endpoint}
            for outcome in names.OUTCOMES:
                self.record(names.DELIVERIES, 0, {**about, names.WEBHOOK_OUTCOME: outcome})
            self.record(names.RETRIES, 0, about)
            self.record(names.FAILURES, 0, about)

    def record(
        self,
        spec: names.MetricSpec,
        amount: float,
        attributes: Mapping[str, object],
        span: Span = INVALID_SPAN,
    ) -> None:
        """Record *amount* in seconds, or of what is counted; *span* is its exemplar."""
        if record := self._record.get(spec.name):
            record(max(0, amount), storable(attributes), context=around(span))

    def count_run(
        self, command: str, error_type: str | None, ended_at: datetime, span: Span
    ) -> None:
        """Count a run of *command*, which failed exactly when there is an *error_type*."""
        is_failed = error_type is not None
        about = {names.COMMAND: command, names.DB_NAMESPACE: self.database}
        outcome = names.FAILURE if is_failed else names.SUCCESS
        ended = {**about, names.RUN_OUTCOME: outcome, names.ERROR_TYPE: error_type}
        self.record(names.RUNS, 1, ended, span)
        gauge = names.LAST_FAILURE if is_failed else names.LAST_SUCCESS
        last = max(ended_at.timestamp(), self._ended.get((gauge.name, command), 0.0))
        self._ended[gauge.name, command] = last
        self.record(gauge, last, about)


Peers = WeakValueDictionary[int, Metrics]
_made: WeakKeyDictionary[MeterProvider, tuple[dict[str, Any], Peers]] = WeakKeyDictionary()
"""By provider: made once, for an SDK calls the first callbacks only, and the bare API keeps all."""


def _instruments(provider: MeterProvider, peers: Peers) -> dict[str, Any]:
    meter = provider.get_meter(names.SCOPE, version(), schema_url=names.SCHEMA_URL)
    requests = provider.get_meter(
        names.REQUESTS, version(names.REQUESTS.replace(".", "-")), names.REQUESTS_SCHEMA_URL
    )
    # The instrumentation of requests has this instrument, too: one, if all of it is equal.
    theirs = {names.REQUEST_DURATION: (requests, "Duration of HTTP client requests.")}
    record: dict[str, Any] = {}
    for spec in names.METRICS:
        if spec.instrument == "histogram":
            maker, text = theirs.get(spec, (meter, ""))
            record[spec.name] = maker.create_histogram(
                spec.name, spec.unit, text, explicit_bucket_boundaries_advisory=spec.buckets
            ).record
        elif spec.instrument == "counter":
            record[spec.name] = meter.create_counter(spec.name, spec.unit).add
        elif spec.instrument == "gauge":
            record[spec.name] = meter.create_gauge(spec.name, spec.unit).set
    size, oldest = names.OUTBOX_SIZE, names.OUTBOX_OLDEST
    meter.create_observable_up_down_counter(size.name, [partial(_sizes, peers)], size.unit)
    meter.create_observable_gauge(oldest.name, [partial(_oldest, peers)], oldest.unit)
    return record


def _outboxes(peers: Peers) -> Iterator[tuple[str | None, Summary]]:
    """The outbox of each database: that of the latest run, if it can be read."""
    latest = {one.database: one.read for ref in peers.valuerefs() if (one := ref()) and one.read}
    for database, read in latest.items():
        with suppress(Exception):  # it reports its own faults; no point is better
            yield database, read()


def _sizes(peers: Peers, _: CallbackOptions) -> Iterator[Observation]:
    for database, summary in _outboxes(peers):
        sizes = summary.waiting, summary.counts.get(State.DEAD_LETTER, 0)
        for state, size in zip(names.STATES, sizes, strict=True):
            about = {names.WEBHOOK_STATE: state, names.DB_NAMESPACE: database}
            yield Observation(size, storable(about))


def _oldest(peers: Peers, _: CallbackOptions) -> Iterator[Observation]:
    for database, summary in _outboxes(peers):
        oldest = summary.oldest_at.timestamp() if summary.oldest_at else 0
        yield Observation(oldest, storable({names.DB_NAMESPACE: database}))
