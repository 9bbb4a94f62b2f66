"""What the demo shows is made of what was received, and what was not received is said."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from confiture_webhooks.demo.view import (
    EXPECTED,
    Seen,
    deliveries_table,
    logs_table,
    metrics_table,
    missing,
    ties,
    trace_table,
)
from confiture_webhooks.receiver import Received
from confiture_webhooks.receiver.collector import LogRecord, MetricPoint, Span, SpanEvent
from confiture_webhooks.receiver.server import Answer, Headers
from confiture_webhooks.telemetry import names

UP, DOWN, KILLED = "a" * 32, "b" * 32, "e" * 32
MS = 1_000_000


def shown(content: Any) -> str:
    """*content* as a wide terminal without colours shows it."""
    out = io.StringIO()
    Console(file=out, width=160).print(content)
    return out.getvalue()


def row(text: str, word: str) -> str:
    """The first line of *text* with *word* in it."""
    return next(line for line in text.splitlines() if word in line)


def span(name: str, ident: str, parent: str | None, at: tuple[int, int], **more: Any) -> Span:
    """A span from and to so many milliseconds."""
    return Span(
        **{
            "name": name,
            "kind": "CLIENT" if name == "POST" else "INTERNAL",
            "trace_id": UP,
            "span_id": ident,
            "parent_id": parent,
            "start_ns": at[0] * MS,
            "end_ns": at[1] * MS,
            "status": "UNSET",
            **more,
        }
    )


def delivery(
    number: int, parent: str, event_type: str, statuses: list[int], **more: Any
) -> list[Span]:
    """A delivery span and one span for each of its attempts."""
    start = 100 * number
    retries = tuple(
        SpanEvent(name=names.RETRY_SCHEDULED, attributes={names.DELAY_S: 2.25})
        for _ in statuses[1:]
    )
    attributes = {names.WEBHOOK_EVENT_TYPE: event_type, names.WEBHOOK_OUTCOME: "delivered"}
    head = span(
        "deliver webhook default",
        f"d{number}",
        parent,
        (start, start + 90),
        attributes=attributes,
        events=retries,
        **more,
    )
    attempts = [
        span(
            "POST",
            f"d{number}a{index}",
            f"d{number}",
            (start + 10 * index, start + 10 * index + 5),
            attributes={
                names.HTTP_STATUS_CODE: status,
                **({"http.request.resend_count": index} if index else {}),
            },
            status="UNSET" if status == 200 else "ERROR",
            **more,
        )
        for index, status in enumerate(statuses)
    ]
    return [head, *attempts]


def expected(kind: str) -> list[tuple[str, int]]:
    """What of this kind the demo expects, and how often."""
    found = EXPECTED.items()
    return [(name.removeprefix(kind), count) for name, count in found if name.startswith(kind)]


def whole() -> Seen:
    """What a demo receives in which everything went as it should."""
    about = {names.MIGRATION_NAME: "001_create_customers"}
    up = [
        span(
            "confiture migrate up",
            "run",
            "not ours",
            (0, 400),
            attributes={names.RUN_APPLIED: 2, names.RUN_FAILED: 1},
            status="ERROR",
        ),
        span("apply migration", "m1", "run", (50, 100), attributes=about),
        *delivery(1, "m1", "migration_success", [200]),
        *delivery(2, "m1", "migration_success", [503, 200]),
        *delivery(3, "m1", "migration_error", [200]),
    ]
    down = [
        span("confiture migrate down", "run2", None, (500, 600), trace_id=DOWN),
        *delivery(5, "run2", "migration_rollback", [200], trace_id=DOWN),
    ]
    killed = delivery(6, "died with its run", "migration_error", [200], trace_id=KILLED)
    return Seen(
        spans=(*reversed(up), *down, *killed),
        points=tuple(point(name, 1) for name, _ in expected("metric ")),
        logs=tuple(record(event) for event, n in expected("log record ") for _ in range(n)),
        requests=(
            request("migration_success"),
            request("migration_success"),
            request("migration_error"),
            request("migration_rollback"),
            request("migration_success", answer=Answer(status=503)),
            settled(),
        ),
        killed=KILLED,
    )


def point(name: str, value: float | None, **more: Any) -> MetricPoint:
    """A delta of a counter."""
    return MetricPoint(
        **{
            "name": name,
            "unit": "{delivery}",
            "kind": "sum",
            "attributes": {},
            "time_ns": 0,
            "value": value,
            "temporality": "delta",
            **more,
        }
    )


def record(event: str, **more: Any) -> LogRecord:
    """A log record of the run."""
    return LogRecord(
        **{
            "event_name": event,
            "severity": "INFO",
            "attributes": {"correlation_id": UP, "migration_name": "001_create_customers"},
            "trace_id": UP,
            "time_ns": 0,
            **more,
        }
    )


def request(event_type: str, **more: Any) -> Received:
    """A request of the run."""
    payload = {"event_type": event_type, "trace_id": UP}
    headers = {"X-Correlation-ID": UP, "webhook-id": f"evt_{event_type}"}
    return Received(
        **{
            "method": "POST",
            "path": "/",
            "headers": Headers(headers),
            "body": json.dumps(payload).encode(),
            "payload": payload,
            "received_at": datetime.now(UTC),
            "verified": True,
            "answer": Answer(),
            **more,
        }
    )


def settled(error_type: str = "Interrupted") -> Received:
    """The request about the killed run."""
    return request(
        "migration_error",
        headers=Headers({"X-Correlation-ID": KILLED, "webhook-id": "evt_killed"}),
        payload={
            "event_type": "migration_error",
            "trace_id": KILLED,
            "error": {"type": error_type},
        },
    )


def test_nothing_missing() -> None:
    """When everything arrived, nothing is missing."""
    assert missing(whole()) == []


def test_everything_missing() -> None:
    """When nothing arrived, every event, trace, delivery, log record and metric is named."""
    said = missing(Seen(spans=(), points=(), logs=(), requests=(), killed=KILLED))
    expected_here = {thing: count for thing, count in EXPECTED.items() if count}
    assert said == [f"{count} x {thing} (received 0)" for thing, count in expected_here.items()]


def _without(seen: Seen) -> dict[str, tuple[Seen, str]]:
    first = seen.requests[0]
    other = Headers({**first.headers, "X-Correlation-ID": "c" * 32})
    forged = replace(first, verified=False)
    stray = replace(first, headers=other)
    lost = replace(first, payload={"event_type": "migration_success"})
    late = replace(seen.logs[0], trace_id="c" * 32)
    rest = seen.requests[1:]
    no_503 = tuple(r for r in seen.requests if r.answer.is_success)
    return {
        "a signature": (replace(seen, requests=(forged, *rest)), "valid signature"),
        "the header's id": (
            replace(seen, requests=(stray, *rest)),
            "webhook without the trace id of a run",
        ),
        "the payload's id": (
            replace(seen, requests=(lost, *rest)),
            "webhook without the trace id of a run",
        ),
        "the retry": (replace(seen, requests=no_503), "answered 503"),
        "a log's id": (
            replace(seen, logs=(late, *seen.logs[1:])),
            "log record without the trace id of a run",
        ),
        "one metric": (replace(seen, points=seen.points[1:]), seen.points[0].name),
        "an attempt": (
            replace(seen, spans=[s for s in seen.spans if s.span_id != "d2a0"]),
            "delivery answered",
        ),
        "the settlement": (
            replace(seen, requests=(*seen.requests[:-1], settled("Other"))),
            "of the killed run, Interrupted",
        ),
        "a run": (replace(seen, spans=[s for s in seen.spans if s.span_id != "run2"]), "trace of"),
    }


WITHOUT = _without(whole())


@pytest.mark.parametrize("what", WITHOUT)
def test_one_thing_missing(what: str) -> None:
    """Each thing that is not there, and nothing else, is said."""
    seen, words = WITHOUT[what]
    said = missing(seen)
    assert said
    assert all(words in line for line in said)


def test_trace_is_a_tree() -> None:
    """Spans stand under their parents, oldest first, whatever order they arrived in."""
    lines = shown(trace_table(whole(), UP)).splitlines()[1:]
    names_shown = [re.split(r"(?<=\w)  ", line)[0] for line in lines]
    assert names_shown[:5] == [
        "confiture migrate up",
        "└─ apply migration",
        "   ├─ deliver webhook default",
        "   │  └─ POST",
        "   ├─ deliver webhook default",
    ]
    assert len(lines) == 9


def test_trace_says_what_and_how_long() -> None:
    """Each span says what it was about, and its duration."""
    text = shown(trace_table(whole(), UP))
    assert "2 done, 1 failed" in row(text, "confiture migrate up")
    assert "001_create_customers" in row(text, "apply migration")
    assert "50.0 ms" in row(text, "apply migration")
    assert "migration_success, delivered, retry in 2.2 s" in text


def test_trace_of_one_run_only() -> None:
    """Another run's spans are not in this run's trace."""
    assert "rollback" not in shown(trace_table(whole(), UP))
    assert "migration_rollback" in shown(trace_table(whole(), DOWN))


def test_trace_without_its_root() -> None:
    """Spans whose parent never arrived are shown, not lost."""
    seen = whole()
    orphans = replace(seen, spans=[s for s in seen.spans if s.name != "apply migration"])
    assert shown(trace_table(orphans, UP)).count("deliver webhook") == 3


def test_no_trace() -> None:
    """A trace of which nothing arrived is an empty table."""
    assert shown(trace_table(whole(), "f" * 32)).count("\n") == 1


def test_deliveries_attempt_by_attempt() -> None:
    """A delivery has a line for each attempt, with its answer and what followed."""
    lines = shown(deliveries_table(whole())).splitlines()[1:]
    assert len(lines) == 6
    assert lines[1].split()[:4] == ["migration_success", "001_create_customers", "1", "503"]
    assert "again in 2.2 s" in lines[1]
    assert lines[2].split()[-5:] == ["2", "200", "5.0", "ms", "delivered"]


def test_attempt_without_an_answer() -> None:
    """An attempt that had no answer says why."""
    failed = span("POST", "p", "d9", (0, 1), attributes={names.ERROR_TYPE: "timeout"})
    seen = replace(whole(), spans=(*delivery(9, "m1", "migration_success", []), failed))
    assert "timeout" in row(shown(deliveries_table(seen)), "migration_success")


def test_metrics_add_up_deltas() -> None:
    """Deltas of several runs are added; of anything else the last value counts."""
    endpoint = {names.WEBHOOK_ENDPOINT: "default"}
    text = shown(
        metrics_table(
            [
                point("deliveries", 3, attributes=endpoint),
                point("deliveries", 1, attributes=endpoint),
                point("size", 7, temporality="cumulative", time_ns=1),
                point("size", 5, temporality="cumulative", time_ns=2),
                point("took", None, kind="histogram", unit="s", count=1, sum=0.5),
                point("took", None, kind="histogram", unit="s", count=3, sum=3.5),
                point("since", 12, kind="gauge", unit="s", temporality=None),
            ]
        )
    )
    assert row(text, "deliveries").split() == ["deliveries", "endpoint=default", "4"]
    assert row(text, "size").split() == ["size", "5"]
    assert row(text, "took").split() == ["took", "4", "x", "1.00", "s"]
    assert row(text, "since").split() == ["since", "12", "s"]


def test_series_stay_apart() -> None:
    """Points of other attributes are another line."""
    points = [point("failures", 1, attributes={names.ERROR_TYPE: e}) for e in ("503", "timeout")]
    assert shown(metrics_table(points)).count("failures") == 2


def test_log_lines_in_order() -> None:
    """Log records are shown oldest first, with level, event, fields and id."""
    late = record("webhook.delivered", time_ns=5 * MS)
    early = record("migration.applied", time_ns=3 * MS, severity="WARN")
    lines = shown(logs_table([late, early])).splitlines()[1:]
    assert lines[0].split()[:3] == ["00:00:00.003", "warn", "migration.applied"]
    assert "migration_name=001_create_customers" in lines[0]
    assert lines[1].split()[-1] == "correlation_id=aaaaaaaa…"


def test_ties() -> None:
    """Each run has its whole id, and how many webhooks and log lines carry it."""
    text = shown(ties(whole()))
    up, down = text.split("confiture migrate down")
    assert UP in up
    for words in ("of 9 spans", "of 5 webhooks (5 signatures valid)", "of 11 log lines"):
        assert words in up
    assert DOWN in down
    for words in ("of 3 spans", "of 0 webhooks (0 signatures valid)", "of 0 log lines"):
        assert words in down
    assert "of 1 webhook (1 signature valid)" in down.split(KILLED)[1]
