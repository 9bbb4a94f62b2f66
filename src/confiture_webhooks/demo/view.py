"""The demo's output, and its missing parts, from the data that its receiver and collector got."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.table import Table
from rich.text import Text

from ..receiver import Received
from ..receiver.collector import LogRecord, MetricPoint, Span
from ..telemetry import names
from ..terminal import counted

_OF_SPANS = (names.MIGRATION_NAME, names.WEBHOOK_EVENT_TYPE, names.WEBHOOK_OUTCOME)
_OF_ANSWERS = (names.HTTP_STATUS_CODE, names.ERROR_TYPE)
_OF_LOGS = ("migration_name", "event_type", "status_code", "error_type", "attempts", "retry_in_s")


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything that was received."""

    spans: Sequence[Span]
    points: Sequence[MetricPoint]
    logs: Sequence[LogRecord]
    requests: Sequence[Received]
    killed: str
    """The trace id that the killed run was given."""

    @property
    def runs(self) -> list[tuple[str, str]]:
        """Name and trace id of each run, oldest first; the killed one has no span of its own."""
        spans = _oldest_first(one for one in self.spans if one.name.startswith("confiture "))
        return [*((run.name, run.trace_id) for run in spans), ("the killed run", self.killed)]

    @property
    def deliveries(self) -> list[Span]:
        """The delivery spans, oldest first."""
        return _oldest_first(one for one in self.spans if one.name.startswith(names.DELIVER))

    def attempts(self, delivery: Span) -> list[Span]:
        """The attempts of *delivery*, oldest first."""
        clients = (one for one in self.spans if one.kind == "CLIENT")
        return _oldest_first(one for one in clients if one.parent_id == delivery.span_id)


def _oldest_first(spans: Iterable[Span]) -> list[Span]:
    return sorted(spans, key=lambda span: span.start_ns)


def seconds(duration_s: float) -> str:
    """A duration for eyes: ``1.23 s`` or ``4.5 ms``."""
    return f"{duration_s:.2f} s" if duration_s >= 1 else f"{duration_s * 1000:.1f} ms"


def _table(*titles: str) -> Table:
    table = Table(*titles, box=None, pad_edge=False, header_style="dim")
    table.columns[0].no_wrap = True
    return table


def trace_table(seen: Seen, trace_id: str) -> Table:
    """One trace as a tree, each span with what it was about and its duration."""
    table = _table("span", "what", "duration")
    for prefix, span in _walk([span for span in seen.spans if span.trace_id == trace_id]):
        style = "red" if span.status == "ERROR" else ""
        name = Text(prefix, style="dim") + Text(span.name, style=style)
        table.add_row(name, Text(_what(span), style=style), seconds(span.duration_s))
    return table


def _walk(spans: Sequence[Span]) -> Iterator[tuple[str, Span]]:
    """Every span under its parent, oldest first, with the lines of the tree before it."""
    known = {span.span_id for span in spans}
    children: dict[str | None, list[Span]] = {}
    for span in _oldest_first(spans):
        parent = span.parent_id if span.parent_id in known else None
        children.setdefault(parent, []).append(span)

    def below(parent: str, lines: str) -> Iterator[tuple[str, Span]]:
        family = children.get(parent, [])
        for span in family:
            is_last = span is family[-1]
            yield lines + ("└─ " if is_last else "├─ "), span
            yield from below(span.span_id, lines + ("   " if is_last else "│  "))

    for root in children.get(None, []):
        yield "", root
        yield from below(root.span_id, "")


def _what(span: Span) -> str:
    about = span.attributes
    details = [str(about[key]) for key in (*_OF_SPANS, *_OF_ANSWERS) if key in about]
    if names.RUN_APPLIED in about:
        details.insert(0, f"{about[names.RUN_APPLIED]} done, {about[names.RUN_FAILED]} failed")
    details += [f"retry in {delay:.1f} s" for delay in _retry_delays(span)]
    return ", ".join(dict.fromkeys(details))


def _retry_delays(span: Span) -> list[float]:
    retries = (event for event in span.events if event.name == names.RETRY_SCHEDULED)
    return [float(event.attributes[names.DELAY_S]) for event in retries]


def deliveries_table(seen: Seen) -> Table:
    """Every delivery, attempt by attempt, from its spans."""
    table = _table("event", "migration", "#", "answer", "took", "then")
    by_id = {span.span_id: span for span in seen.spans}
    for delivery in seen.deliveries:
        parent = by_id.get(delivery.parent_id or "")
        event_type = str(delivery.attributes.get(names.WEBHOOK_EVENT_TYPE, "-"))
        migration = parent.attributes.get(names.MIGRATION_NAME) if parent else "of the killed run"
        outcome = str(delivery.attributes.get(names.WEBHOOK_OUTCOME, "-"))
        then = [f"again in {delay:.1f} s" for delay in _retry_delays(delivery)]
        for number, attempt in enumerate(seen.attempts(delivery), start=1):
            answer, took = _answer(attempt), seconds(attempt.duration_s)
            end = then[number - 1] if number <= len(then) else outcome
            table.add_row(event_type, str(migration or "-"), str(number), answer, took, end)
    return table


def _answer(attempt: Span) -> str:
    return str(next((attempt.attributes[k] for k in _OF_ANSWERS if k in attempt.attributes), "-"))


def metrics_table(points: Sequence[MetricPoint]) -> Table:
    """Every exported series, the runs' deltas added up."""
    table = _table("metric", "attributes", "value")
    series: dict[tuple[str, str, str], list[MetricPoint]] = {}
    for point in sorted(points, key=lambda point: point.time_ns):
        attributes = ", ".join(f"{_tail(k)}={v}" for k, v in sorted(point.attributes.items()))
        series.setdefault((point.name, attributes, point.unit), []).append(point)
    for (name, attributes, unit), found in sorted(series.items()):
        table.add_row(name, attributes, _measured(found, unit))
    return table


def _tail(key: str) -> str:
    """The last part of an attribute's name, which is enough beside its metric."""
    return key if key.startswith(("http.", "error.")) else key.rpartition(".")[2]


def _measured(points: Sequence[MetricPoint], unit: str) -> str:
    added = points if points[-1].temporality == "delta" else points[-1:]
    if points[-1].kind.endswith("histogram"):
        count = sum(point.count or 0 for point in added)
        mean = sum(point.sum or 0.0 for point in added) / count if count else 0.0
        return f"{count} x {seconds(mean)}" if unit == "s" else f"{count} x {mean:g}"
    total = sum(point.value or 0 for point in added)
    return f"{total:g}" if unit.startswith("{") else f"{total:g} {unit}"


def logs_table(logs: Sequence[LogRecord]) -> Table:
    """Every exported log record, oldest first."""
    table = _table("time", "level", "event", "fields")
    for record in sorted(logs, key=lambda record: record.time_ns):
        at = datetime.fromtimestamp(record.time_ns / 1e9, UTC)
        fields = [f"{k}={record.attributes[k]}" for k in _OF_LOGS if k in record.attributes]
        fields.append(f"correlation_id={str(record.attributes.get('correlation_id', '-'))[:8]}…")
        cells = (f"{at:%H:%M:%S.%f}"[:-3], record.severity.lower(), record.event_name)
        table.add_row(*cells, Text(" ".join(fields), style="dim", overflow="fold"))
    return table


def ties(seen: Seen) -> Text:
    """For each run the one id, and how much of what was received carries it."""
    text = Text()
    for name, trace_id in seen.runs:
        own = [r for r in seen.requests if r.headers.get("X-Correlation-ID") == trace_id]
        logs = [r for r in seen.logs if r.attributes.get("correlation_id") == trace_id]
        spans = counted(sum(span.trace_id == trace_id for span in seen.spans), "span", "spans")
        webhooks = counted(len(own), "webhook", "webhooks")
        valid = counted(sum(one.verified is True for one in own), "signature", "signatures")
        text.append(f"{name}  ").append(trace_id, style="bold")
        text.append(f"\n  trace id of {spans}, X-Correlation-ID of {webhooks} ({valid} valid),\n")
        text.append(f"  correlation_id of {counted(len(logs), 'log line', 'log lines')}\n")
    text.rstrip()
    return text


EXPECTED = {
    "trace of confiture migrate up": 1,
    "trace of confiture migrate down": 1,
    "migration_success by webhook": 2,
    "migration_error by webhook": 2,
    "migration_rollback by webhook": 1,
    "webhook answered 503": 1,
    "webhook of the killed run, Interrupted": 1,
    "webhook without a valid signature": 0,
    "webhook without the trace id of a run": 0,
    "delivery answered 200": 4,
    "delivery answered 503, 200": 1,
    f"log record {names.LOG_APPLIED.event}": 2,
    f"log record {names.LOG_MIGRATION_FAILED.event}": 2,
    f"log record {names.LOG_ROLLED_BACK.event}": 1,
    f"log record {names.LOG_ATTEMPT_FAILED.event}": 1,
    f"log record {names.LOG_DELIVERED.event}": 5,
    "log record without the trace id of a run": 0,
    f"metric {names.DELIVERIES.name}": 1,
    f"metric {names.RETRIES.name}": 1,
    f"metric {names.MIGRATION_DURATION.name}": 1,
}
"""The signals that the five migrations lead to, and how often."""


def missing(seen: Seen) -> list[str]:
    """Everything the five migrations should have led to and that was not received."""
    found = _found(seen)
    wrong = {thing: count for thing, count in EXPECTED.items() if found[thing] != count}
    return [f"{count} x {thing} (received {found[thing]})" for thing, count in wrong.items()]


def _found(seen: Seen) -> Counter[str]:
    ids = {trace_id for _, trace_id in seen.runs}
    found = Counter(f"trace of {name}" for name, _ in seen.runs)
    for request in seen.requests:
        payload, correlation_id = request.payload, request.headers.get("X-Correlation-ID")
        found[f"{payload['event_type']} by webhook"] += request.answer.is_success
        found["webhook answered 503"] += not request.answer.is_success
        found["webhook without a valid signature"] += request.verified is not True
        is_stray = correlation_id not in ids or payload.get("trace_id") != correlation_id
        found["webhook without the trace id of a run"] += is_stray
        if correlation_id == seen.killed:
            found[f"webhook of the killed run, {payload.get('error', {}).get('type')}"] += 1
    for delivery in seen.deliveries:
        answers = ", ".join(map(_answer, seen.attempts(delivery)))
        found[f"delivery answered {answers}"] += 1
    for record in seen.logs:
        found[f"log record {record.event_name}"] += 1
        is_stray = record.trace_id not in ids
        is_stray |= record.attributes.get("correlation_id") != record.trace_id
        found["log record without the trace id of a run"] += is_stray
    found.update({f"metric {point.name}" for point in seen.points})
    return found
