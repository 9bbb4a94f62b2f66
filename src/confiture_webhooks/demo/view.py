"""The demo's output, and its missing parts, from the data that its receiver and collector got."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from ..telemetry import names
from ..terminal import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ..receiver import Received
    from ..receiver.collector import LogRecord, MetricPoint, Span

BAR = 24
RESEND_COUNT = "http.request.resend_count"
_DETAILS = (
    names.MIGRATION_NAME,
    names.WEBHOOK_EVENT_TYPE,
    names.WEBHOOK_OUTCOME,
    names.HTTP_STATUS_CODE,
    names.ERROR_TYPE,
)
_SHOWN_FIELDS = (
    "migration_name",
    "event_type",
    "status_code",
    "error_type",
    "attempts",
    "retry_in_s",
    "duration_ms",
    "rows_affected",
)
_STYLES = {"ERROR": "red", "WARN": "yellow", "WARNING": "yellow"}


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


def trace_table(seen: Seen, trace_id: str, *, is_wide: bool = True) -> Table:
    """One trace as a tree, each span with its duration and, when wide, its place in time."""
    spans = [span for span in seen.spans if span.trace_id == trace_id]
    titles = ("span", "what", "duration", "time") if is_wide else ("span", "what", "duration")
    table = Table(*titles, box=None, pad_edge=False, header_style="dim")
    table.columns[0].no_wrap = True
    table.columns[2].justify = "right"
    begin = min((span.start_ns for span in spans), default=0)
    end = max((span.end_ns for span in spans), default=0)
    for prefix, span in _walk(spans):
        style = "red" if span.status == "ERROR" else ""
        cells: list[str | Text] = [
            Text(prefix, style="dim") + Text(span.name, style=style),
            Text(_what(span), style=style),
            seconds(span.duration_s),
            Text(_bar(span, begin, end), style=style or "cyan"),
        ]
        table.add_row(*cells[: len(titles)])
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
    details = [str(span.attributes[key]) for key in _DETAILS if key in span.attributes]
    if names.RUN_APPLIED in span.attributes:
        applied, failed = (span.attributes.get(k) for k in (names.RUN_APPLIED, names.RUN_FAILED))
        details.insert(0, f"{applied} done, {failed} failed")
    details += [f"retry in {delay:.1f} s" for delay in _retry_delays(span)]
    return ", ".join(dict.fromkeys(details))


def _retry_delays(span: Span) -> list[float]:
    return [
        float(event.attributes[names.DELAY_S])
        for event in span.events
        if event.name == names.RETRY_SCHEDULED
    ]


def _bar(span: Span, begin: int, end: int) -> str:
    scale = BAR / max(1, end - begin)
    left = min(BAR - 1, int((span.start_ns - begin) * scale))
    right = max(left + 1, min(BAR, round((span.end_ns - begin) * scale)))
    return "·" * left + "━" * (right - left) + "·" * (BAR - right)


def deliveries_table(seen: Seen) -> Table:
    """Every delivery, attempt by attempt, from its spans."""
    table = Table("event", "migration", "#", "answer", "took", "then", box=None, pad_edge=False)
    table.columns[2].justify = table.columns[4].justify = "right"
    by_id = {span.span_id: span for span in seen.spans}
    for delivery in seen.deliveries:
        parent = by_id.get(delivery.parent_id or "")
        migration = parent.attributes.get(names.MIGRATION_NAME) if parent else "of the killed run"
        attempts, delays = seen.attempts(delivery), _retry_delays(delivery)
        for index, attempt in enumerate(attempts):
            is_last = index == len(attempts) - 1
            delay = f"again in {delays[index]:.1f} s" if index < len(delays) else "-"
            outcome = delivery.attributes.get(names.WEBHOOK_OUTCOME, "-")
            table.add_row(
                str(delivery.attributes.get(names.WEBHOOK_EVENT_TYPE, "-")) if not index else "",
                str(migration or "-") if not index else "",
                str(attempt.attributes.get(RESEND_COUNT, 0) + 1),
                _answer(attempt),
                seconds(attempt.duration_s),
                Text(str(outcome), style="green") if is_last else Text(delay, style="yellow"),
            )
    return table


def _answer(attempt: Span) -> str:
    status = attempt.attributes.get(names.HTTP_STATUS_CODE)
    return str(status or attempt.attributes.get(names.ERROR_TYPE, "-"))


def metrics_table(points: Sequence[MetricPoint]) -> Table:
    """Every exported series, the runs' deltas added up."""
    table = Table("metric", "attributes", "value", box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    table.columns[1].overflow = "fold"
    table.columns[2].justify = "right"
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
    table = Table("time", "level", "event", "fields", box=None, pad_edge=False)
    table.columns[2].no_wrap = True
    for record in sorted(logs, key=lambda record: record.time_ns):
        at = datetime.fromtimestamp(record.time_ns / 1e9, UTC)
        style = _STYLES.get(record.severity.upper(), "")
        found = [f"{k}={record.attributes[k]}" for k in _SHOWN_FIELDS if k in record.attributes]
        found.append(f"correlation_id={str(record.attributes.get('correlation_id', '-'))[:8]}…")
        table.add_row(
            f"{at:%H:%M:%S.%f}"[:-3],
            Text(record.severity.lower(), style=style),
            Text(record.event_name, style=style),
            Text(" ".join(found), style="dim", overflow="fold"),
        )
    return table


def ties(seen: Seen) -> Text:
    """For each run the one id, and how much of what was received carries it."""
    text = Text()
    for name, trace_id in seen.runs:
        own = [r for r in seen.requests if r.headers.get("X-Correlation-ID") == trace_id]
        logs = [r for r in seen.logs if r.attributes.get("correlation_id") == trace_id]
        verdicts = Counter(request.verified for request in own)
        carrying = sum(span.trace_id == trace_id for span in seen.spans)
        spans = counted(carrying, "span", "spans")
        webhooks = counted(len(own), "webhook", "webhooks")
        signatures = counted(verdicts[True], "signature", "signatures")
        lines = counted(len(logs), "log line", "log lines")
        text.append(f"{name}  ").append(trace_id, style="bold")
        text.append(f"\n  trace id of {spans}, X-Correlation-ID of {webhooks}")
        text.append(f" ({signatures} valid),\n")
        text.append(f"  correlation_id of {lines}\n")
    text.rstrip()
    return text


EXPECTED = {
    "trace of confiture migrate up": 1,
    "trace of confiture migrate down": 1,
    "migration_success by webhook": 2,
    "migration_error by webhook": 2,
    "migration_rollback by webhook": 1,
    "webhook answered 503 and sent again with the same webhook-id": 1,
    "webhook of the killed run, Interrupted": 1,
    "delivery answered 200": 4,
    "delivery answered 503, 200": 1,
    f"log record {names.LOG_APPLIED.event}": 2,
    f"log record {names.LOG_MIGRATION_FAILED.event}": 2,
    f"log record {names.LOG_ROLLED_BACK.event}": 1,
    f"log record {names.LOG_ATTEMPT_FAILED.event}": 1,
    f"log record {names.LOG_DELIVERED.event}": 5,
    f"metric {names.DELIVERIES.name}": 1,
    f"metric {names.DELIVERY_DURATION.name}": 1,
    f"metric {names.DELIVERY_LAG.name}": 1,
    f"metric {names.RETRIES.name}": 1,
    f"metric {names.FAILURES.name}": 1,
    f"metric {names.MIGRATION_DURATION.name}": 1,
    "metric http.client.request.duration": 1,
}
"""The signals that the five migrations lead to, and how often."""


def missing(seen: Seen) -> list[str]:
    """Everything the five migrations should have led to and that was not received."""
    found = _found(seen)
    wrong = {thing: count for thing, count in EXPECTED.items() if found[thing] != count}
    lacking = [f"{count} x {thing} (received {found[thing]})" for thing, count in wrong.items()]
    return [*lacking, *_loose_ends(seen)]


def _found(seen: Seen) -> Counter[str]:
    """The received signals, as ``EXPECTED`` names them."""
    accepted = [request for request in seen.requests if request.answer.is_success]
    refused = [request for request in seen.requests if not request.answer.is_success]
    again = {_event_id(request) for request in accepted} & {_event_id(one) for one in refused}
    found = Counter(f"trace of {name}" for name, _ in seen.runs)
    found.update(f"{request.payload['event_type']} by webhook" for request in accepted)
    found["webhook answered 503 and sent again with the same webhook-id"] = len(again)
    found.update(
        f"webhook of the killed run, {request.payload.get('error', {}).get('type')}"
        for request in seen.requests
        if request.payload.get("trace_id") == seen.killed
    )
    for delivery in seen.deliveries:
        answers = ", ".join(map(_answer, seen.attempts(delivery)))
        found[f"delivery answered {answers}"] += 1
    found.update(f"log record {record.event_name}" for record in seen.logs)
    found.update({f"metric {point.name}" for point in seen.points})
    return found


def _event_id(request: Received) -> str:
    return request.headers["webhook-id"]


def _loose_ends(seen: Seen) -> Iterator[str]:
    """The signals without a valid signature, or without the id of a run."""
    ids = {trace_id for _, trace_id in seen.runs}
    for request in seen.requests:
        if request.verified is not True:
            yield f"a valid signature of {_event_id(request)}"
        found = {request.headers.get("X-Correlation-ID"), request.payload.get("trace_id")}
        if len(found) != 1 or not found <= ids:
            yield f"the trace id of a run on {_event_id(request)}"
    for record in seen.logs:
        found = {record.attributes.get("correlation_id"), record.trace_id}
        if len(found) != 1 or not found <= ids:
            yield f"the trace id of a run on the log record {record.event_name}"
