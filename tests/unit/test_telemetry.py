"""What a run looks like in traces, metrics and logs, seen through in-memory exporters."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry import context as otel_context
from opentelemetry.metrics import Meter, NoOpMeterProvider
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from span_table import SPAN_EVENTS, SPANS

from confiture_webhooks.delivery import Attempt, Delivery, State, TraceContext
from confiture_webhooks.errors import CUT, Fault, TransportError
from confiture_webhooks.event import (
    Database,
    Direction,
    ErrorInfo,
    Event,
    EventType,
    MigrationRef,
)
from confiture_webhooks.outbox import Summary
from confiture_webhooks.telemetry import Telemetry, attempts, deliveries, names
from confiture_webhooks.telemetry.context import from_stored
from confiture_webhooks.telemetry.logs import records, sentence
from confiture_webhooks.telemetry.metrics import Metrics
from confiture_webhooks.telemetry.plan import Export
from confiture_webhooks.telemetry.providers import Providers, Tally, for_command
from confiture_webhooks.transport import Request, Response
from contract.made import intent

NOW = datetime(2026, 1, 9, 14, 23, 45, 123000, tzinfo=UTC)
REF = MigrationRef(version="005", slug="add_payment_table")
UNDEFINED_TABLE = ErrorInfo(type="UndefinedTable", message="CANARY", sqlstate="42P01")
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@dataclass
class Bench:
    """Telemetry whose signals stay in memory."""

    telemetry: Telemetry
    exporter: InMemorySpanExporter
    reader: InMemoryMetricReader
    log: InMemoryLogRecordExporter

    def span(self, name: str) -> ReadableSpan:
        (found,) = [span for span in self.spans() if span.name == name]
        return found

    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    def points(self, name: str) -> dict[tuple[tuple[str, Any], ...], Any]:
        """The data points of metric *name* by their sorted attributes."""
        data = self.reader.get_metrics_data()
        assert data is not None
        return {
            tuple(sorted((point.attributes or {}).items())): point
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        }


def make(environ: Mapping[str, str] | None = None, **options: Any) -> Bench:
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    log = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    loggers = LoggerProvider(shutdown_on_exit=False)
    loggers.add_log_record_processor(SimpleLogRecordProcessor(log))
    providers = Providers(
        tracer_provider=tracers,
        meter_provider=MeterProvider([reader], shutdown_on_exit=False),
        records=records(loggers, "1"),
        inherited=for_command(environ or {}, None).inherited,
        migration_spans=options.pop("migration_spans", 200),
    )
    telemetry = Telemetry(providers, endpoints=["analytics"], environment="production", **options)
    return Bench(telemetry, exporter, reader, log)


@pytest.fixture
def bench() -> Bench:
    """Telemetry with its run started."""
    made = make(log="json", now=lambda: NOW)
    database = Database(host="db.internal", port=5432, name="shop", schema="public")
    made.telemetry.start_run("confiture migrate up", database)
    return made


def a_delivery(trace_context: TraceContext, **changes: Any) -> Delivery:
    made = Delivery(
        id="dlv_1",
        event_id="evt_1",
        event_type=EventType.MIGRATION_SUCCESS,
        endpoint="analytics",
        body=b"CANARY",
        content_type="application/json",
        trace=trace_context,
        correlation_id="c" * 32,
        created_at=NOW - timedelta(seconds=3),
        migration_version="005",
        migration_name=REF.name,
        environment="production",
    )
    return replace(made, **changes)


def a_request() -> Request:
    address = "https://user:CANARY@a.test/CANARY?CANARY"
    return Request(
        url=address, headers={"X": "CANARY"}, body=b"CANARY", endpoint="analytics", resend_count=1
    )


def an_attempt(number: int = 1, **outcome: Any) -> Attempt:
    return Attempt(number=number, started_at=NOW, duration=timedelta(milliseconds=250), **outcome)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


class TestRun:
    def test_span(self, bench: Bench) -> None:
        """The run's span is named after the command and knows database and result."""
        bench.telemetry.end_run(applied=2, failed=1, error_type="42P01")
        span = bench.span("confiture migrate up")
        assert span.kind is SpanKind.INTERNAL
        assert span.parent is None
        assert dict(span.attributes or {}) == {
            "db.system.name": "postgresql",
            "db.namespace": "shop|public",
            "server.address": "db.internal",
            "server.port": 5432,
            "confiture.run.applied": 2,
            "confiture.run.failed": 1,
            "error.type": "42P01",
        }
        assert span.status.status_code is StatusCode.ERROR

    def test_scope(self, bench: Bench) -> None:
        """Spans have this package's scope and a schema URL."""
        bench.telemetry.end_run(applied=0, failed=0, error_type=None)
        scope = bench.span("confiture migrate up").instrumentation_scope
        assert scope is not None
        assert (scope.name, scope.schema_url) == ("confiture_webhooks", names.SCHEMA_URL)

    def test_starts_when_the_command_did(self) -> None:
        """The span begins when the command did, not when there was something to report."""
        made = make()
        made.telemetry.start_run("confiture migrate up", Database(), started_at=NOW)
        made.telemetry.end_run(applied=0, failed=0, error_type=None)
        assert made.span("confiture migrate up").start_time == int(NOW.timestamp() * 1000) * 10**6

    def test_joins_the_trace_of_the_environment(self) -> None:
        """A valid TRACEPARENT is the run's parent."""
        made = make({"TRACEPARENT": PARENT, "TRACESTATE": "vendor=1"})
        made.telemetry.start_run("confiture migrate up", Database())
        assert made.telemetry.correlation_id == PARENT[3:35]
        assert made.telemetry.trace_of_run().tracestate == "vendor=1"

    def test_a_wrong_tracestate_is_left_out(self, caplog: pytest.LogCaptureFixture) -> None:
        """The trace is joined all the same, and nothing quotes the environment."""
        made = make({"TRACEPARENT": PARENT, "TRACESTATE": '{"a": 1}\x1b[31m'})
        made.telemetry.start_run("confiture migrate up", Database())
        assert made.telemetry.correlation_id == PARENT[3:35]
        assert made.telemetry.trace_of_run().tracestate is None
        assert caplog.records == []
        made.telemetry.end_run(applied=0, failed=0, error_type=None)
        parent = made.span("confiture migrate up").parent
        assert parent is not None
        assert (parent.span_id, parent.is_remote) == (int(PARENT[36:52], 16), True)

    @pytest.mark.parametrize(
        "environ",
        [
            {"traceparent": PARENT},
            {"TRACEPARENT": ""},
            {"TRACEPARENT": "rubbish"},
            {"TRACEPARENT": f"00-{'0' * 32}-00f067aa0ba902b7-01"},
            {"TRACEPARENT": f"ff{PARENT[2:]}"},
            {"TRACEPARENT": PARENT.upper()},
        ],
    )
    def test_ignores_what_is_no_trace_context(self, environ: dict[str, str]) -> None:
        """An invalid TRACEPARENT, or one in lower case, makes a root."""
        assert for_command(environ, None).inherited is None

    def test_an_unsampled_parent_keeps_its_id(self) -> None:
        """Nothing is recorded under an unsampled parent, and the id is still its."""
        made = make({"TRACEPARENT": f"{PARENT[:-1]}0"})
        made.telemetry.start_run("confiture migrate up", Database())
        span = made.telemetry.migration(REF, Direction.UP)
        span.finish(duration_s=1, rows_affected=None, error=None)
        made.telemetry.end_run(applied=1, failed=0, error_type=None)
        assert made.telemetry.correlation_id == PARENT[3:35]
        assert span.trace.traceparent[3:35] == PARENT[3:35]
        assert made.spans() == ()

    def test_is_under_the_current_span(self) -> None:
        """In somebody's process the run is under the span that is current there."""
        made = make({"TRACEPARENT": PARENT})
        outer = TracerProvider(shutdown_on_exit=False).get_tracer("theirs").start_span("request")
        with trace.use_span(outer):
            made.telemetry.start_run("confiture migrate", Database())
        assert made.telemetry.correlation_id == f"{outer.get_span_context().trace_id:032x}"

    def test_shutdown_ends_an_open_run(self, bench: Bench) -> None:
        """A run that was never ended is exported all the same."""
        bench.telemetry.shutdown(timedelta(seconds=1))
        assert bench.span("confiture migrate up").end_time is not None


class TestWithoutProviders:
    def test_ids_are_real(self) -> None:
        """Without any provider there is one valid trace id, everywhere."""
        telemetry = Telemetry()
        before = telemetry.correlation_id
        telemetry.start_run("confiture migrate up", Database())
        span = telemetry.migration(REF, Direction.UP)
        stored = from_stored(span.trace, is_remote=False)
        assert stored is not None
        assert telemetry.correlation_id == before == f"{stored.trace_id:032x}"
        assert stored.trace_flags.sampled

    def test_two_runs_differ(self) -> None:
        """Every run has an id of its own."""
        assert Telemetry().correlation_id != Telemetry().correlation_id

    def test_passes_the_parent_on(self) -> None:
        """Where nothing is recorded, receivers get the caller's span as their parent."""
        telemetry = Telemetry(for_command({"TRACEPARENT": PARENT}, None))
        telemetry.start_run("confiture migrate up", Database())
        assert telemetry.migration(REF, Direction.UP).trace.traceparent == PARENT

    def test_a_stored_delivery_keeps_its_trace(self) -> None:
        """However old it is: nobody records the new trace a link would point from."""
        telemetry = Telemetry(now=lambda: NOW)
        old = a_delivery(TraceContext(traceparent=PARENT), created_at=NOW - timedelta(days=9))
        span = telemetry.delivery(old, telemetry.passes().begin())
        assert f"{span.span.get_span_context().trace_id:032x}" == PARENT[3:35]

    def test_a_disabled_sdk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With OTEL_SDK_DISABLED a provider makes no ids, so we do."""
        monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
        telemetry = Telemetry(Providers(tracer_provider=TracerProvider(shutdown_on_exit=False)))
        telemetry.start_run("confiture migrate up", Database())
        assert int(telemetry.correlation_id, 16) != 0


class TestMigration:
    def test_success(self, bench: Bench) -> None:
        """A migration's span is under the run's and says which, which way and how many rows."""
        migration = bench.telemetry.migration(REF, Direction.UP)
        migration.finish(duration_s=2.5, rows_affected=7, error=None)
        span = bench.span("apply migration")
        assert span.parent is not None
        assert f"{span.parent.span_id:016x}" == bench.telemetry.trace_of_run().traceparent[36:52]
        assert dict(span.attributes or {}) == {
            "confiture.migration.version": "005",
            "confiture.migration.name": "005_add_payment_table",
            "confiture.migration.direction": "up",
            "confiture.migration.rows_affected": 7,
        }
        assert span.status.status_code is StatusCode.UNSET
        assert (span.end_time or 0) - (span.start_time or 0) == 2_500_000_000

    def test_failure(self, bench: Bench) -> None:
        """A failed one has the SQLSTATE and no text of the error."""
        migration = bench.telemetry.migration(REF, Direction.DOWN)
        migration.finish(duration_s=1, rows_affected=None, error=UNDEFINED_TABLE)
        span = bench.span("roll back migration")
        attributes = dict(span.attributes or {})
        assert span.status.status_code is StatusCode.ERROR
        assert (attributes["error.type"], attributes["db.response.status_code"]) == (
            "42P01",
            "42P01",
        )
        assert "CANARY" not in span.to_json()

    def test_error_type_without_sqlstate(self, bench: Bench) -> None:
        """Without a SQLSTATE the error's class is its type."""
        migration = bench.telemetry.migration(REF, Direction.UP)
        error = ErrorInfo(type="PreconditionError", message="")
        migration.finish(duration_s=1, rows_affected=None, error=error)
        attributes = dict(bench.span("apply migration").attributes or {})
        assert attributes["error.type"] == "PreconditionError"
        assert "db.response.status_code" not in attributes

    def test_ends_once(self, bench: Bench) -> None:
        """A second end changes nothing."""
        migration = bench.telemetry.migration(REF, Direction.UP)
        migration.finish(duration_s=1, rows_affected=None, error=None)
        migration.finish(duration_s=1, rows_affected=None, error=UNDEFINED_TABLE)
        assert bench.span("apply migration").status.status_code is StatusCode.UNSET
        (point,) = bench.points("confiture.migration.duration").values()
        assert point.count == 1

    def test_duration(self, bench: Bench) -> None:
        """Its duration is a histogram with the contract's buckets, an exemplar and few attributes."""
        migration = bench.telemetry.migration(REF, Direction.UP)
        migration.finish(duration_s=2.5, rows_affected=None, error=UNDEFINED_TABLE)
        ((attributes, point),) = bench.points("confiture.migration.duration").items()
        assert dict(attributes) == {"confiture.migration.direction": "up", "error.type": "42P01"}
        assert (point.sum, point.explicit_bounds) == (2.5, names.MIGRATION_DURATION.buckets)
        (exemplar,) = point.exemplars
        context = bench.span("apply migration").context
        assert context is not None
        assert exemplar.span_id == context.span_id

    def test_beyond_the_cap(self) -> None:
        """Beyond the cap a success is an event on the run, and a failure still has a span."""
        made = make(migration_spans=1)
        made.telemetry.start_run("confiture migrate up", Database())
        for error in (None, None, UNDEFINED_TABLE):
            span = made.telemetry.migration(REF, Direction.UP)
            assert from_stored(span.trace, is_remote=False) is not None
            span.finish(duration_s=0.5, rows_affected=3, error=error)
        made.telemetry.end_run(applied=2, failed=1, error_type="42P01")
        migrations = [one for one in made.spans() if one.name == "apply migration"]
        (event,) = made.span("confiture migrate up").events
        assert [one.status.status_code for one in migrations] == [
            StatusCode.UNSET,
            StatusCode.ERROR,
        ]
        assert event.name == "confiture.migration.done"
        assert set(event.attributes or {}) == set(SPAN_EVENTS[event.name])

    def test_deliveries_beyond_the_cap_are_under_the_run(self) -> None:
        """Without a span of its own, a migration's deliveries continue the run's."""
        made = make(migration_spans=0)
        made.telemetry.start_run("confiture migrate up", Database())
        span = made.telemetry.migration(REF, Direction.UP)
        assert span.trace == made.telemetry.trace_of_run()


class TestDelivery:
    def test_delivered(self, bench: Bench) -> None:
        """A delivery's span is under the migration's and ends unset."""
        migration = bench.telemetry.migration(REF, Direction.UP)
        migration.finish(duration_s=1, rows_affected=0, error=None)
        span = bench.telemetry.delivery(a_delivery(migration.trace))
        span.finish("delivered", last=an_attempt(status_code=204), attempts=1, at=NOW)
        found = bench.span("deliver webhook analytics")
        above = bench.span("apply migration").context
        assert found.parent is not None
        assert above is not None
        assert found.parent.span_id == above.span_id
        assert (found.kind, found.status.status_code) == (SpanKind.INTERNAL, StatusCode.UNSET)
        assert found.links == ()
        assert dict(found.attributes or {}) == {
            "confiture.webhook.endpoint": "analytics",
            "confiture.webhook.event_type": "migration_success",
            "confiture.webhook.event_id": "evt_1",
            "confiture.webhook.delivery_id": "dlv_1",
            "confiture.webhook.correlation_id": "c" * 32,
            "confiture.webhook.outcome": "delivered",
            "confiture.webhook.attempts": 1,
        }

    def test_an_attempt_without_a_span_leaves_the_deliverys(self, bench: Bench) -> None:
        """An attempt whose span cannot be made neither marks nor ends the one above it."""
        span = bench.telemetry.delivery(a_delivery(bench.telemetry.trace_of_run()))
        sent = replace(a_request(), url="https://a.test:port/")
        with span.attempt(sent) as attempt:
            attempt.response = Response(status_code=503)
        assert attempt.request is sent
        span.finish("delivered", last=an_attempt(2, status_code=200), attempts=2, at=NOW)
        found = bench.span("deliver webhook analytics")
        assert found.status.status_code is StatusCode.UNSET
        assert (found.attributes or {})["confiture.webhook.outcome"] == "delivered"

    @pytest.mark.parametrize(
        ("ending", "error_type"),
        [
            (Response(status_code=399), None),
            (Response(status_code=400), "400"),
            (TransportError("dns"), "dns"),
            (TransportError(CUT), "timeout"),
            (ValueError("CANARY"), "other"),
        ],
    )
    def test_how_an_attempt_ended(
        self,
        bench: Bench,
        monkeypatch: pytest.MonkeyPatch,
        ending: Response | Exception,
        error_type: str | None,
    ) -> None:
        """Span and duration have the word for it; the span is the duration's exemplar."""
        monkeypatch.setattr(attempts, "monotonic", iter([7.0, 7.25]).__next__)
        span = bench.telemetry.delivery(a_delivery(bench.telemetry.trace_of_run()))
        with suppress(TransportError, ValueError), span.attempt(a_request()) as attempt:
            if isinstance(ending, Exception):
                raise ending
            attempt.response = ending
        found = bench.span("POST")
        is_failed = error_type is not None
        assert found.status.status_code is (StatusCode.ERROR if is_failed else StatusCode.UNSET)
        (point,) = bench.points("http.client.request.duration").values()
        assert {(one.attributes or {}).get("error.type") for one in (found, point)} == {error_type}
        assert (point.sum, found.kind) == (0.25, SpanKind.CLIENT)
        assert [one.span_id for one in point.exemplars] == [found.get_span_context().span_id]

    def test_an_attempt_that_cannot_be_measured_has_an_end(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A meter that breaks costs neither the attempt nor its span."""

        def refuse(*_: object) -> None:
            raise ZeroDivisionError

        span = bench.telemetry.delivery(a_delivery(bench.telemetry.trace_of_run()))
        monkeypatch.setattr(Metrics, "record", refuse)
        with span.attempt(a_request()) as attempt:
            attempt.response = Response(status_code=200)
        assert bench.span("POST").status.status_code is StatusCode.UNSET

    def test_retry(self, bench: Bench) -> None:
        """A retry is an event on the span, and a delivery that succeeds in the end is no error."""
        span = bench.telemetry.delivery(a_delivery(bench.telemetry.trace_of_run()))
        span.attempt_failed(an_attempt(status_code=503), retry_in=timedelta(seconds=2))
        span.finish("delivered", last=an_attempt(2, status_code=200), attempts=2, at=NOW)
        found = bench.span("deliver webhook analytics")
        (event,) = found.events
        assert found.status.status_code is StatusCode.UNSET
        assert event.name == "confiture.webhook.retry_scheduled"
        assert dict(event.attributes or {}) == {
            "delay_s": 2.0,
            "error.type": "503",
            "http.response.status_code": 503,
        }

    @pytest.mark.parametrize("outcome", ["deferred", "dead_letter", "gone"])
    def test_not_delivered(self, bench: Bench, outcome: str) -> None:
        """Every other outcome is an error with the last attempt's type; burial is an event."""
        span = bench.telemetry.delivery(a_delivery(bench.telemetry.trace_of_run()))
        span.attempt_failed(an_attempt(error_type="timeout"), retry_in=None)
        span.finish(outcome, last=an_attempt(error_type="timeout"), attempts=1, at=NOW)
        found = bench.span("deliver webhook analytics")
        assert found.status.status_code is StatusCode.ERROR
        assert found.status.description is None
        assert dict(found.attributes or {})["error.type"] == "timeout"
        buried = ["confiture.webhook.dead_lettered"] if outcome == "dead_letter" else []
        assert [event.name for event in found.events] == buried

    def test_cut_before_an_attempt(self, bench: Bench) -> None:
        """A delivery put off before it was tried has no type of error."""
        span = bench.telemetry.delivery(a_delivery(bench.telemetry.trace_of_run()))
        span.finish("deferred", last=None, attempts=0, at=NOW)
        assert "error.type" not in (bench.span("deliver webhook analytics").attributes or {})

    def test_from_a_worker(self) -> None:
        """A worker's delivery continues the stored trace and links to the worker's pass."""
        made = make(now=lambda: NOW)
        passes = made.telemetry.passes()
        stored = a_delivery(TraceContext(traceparent=PARENT))
        span = made.telemetry.delivery(stored, passes.begin())
        span.finish("delivered", last=an_attempt(status_code=200), attempts=1, at=NOW)
        passes.begin(2)
        passes.end()
        found, drained = made.span("deliver webhook analytics"), made.span("drain webhook outbox")
        assert found.kind is SpanKind.CONSUMER
        assert found.parent is not None
        assert f"{found.parent.span_id:016x}" == PARENT[36:52]
        assert found.parent.is_remote
        assert [link.context for link in found.links] == [drained.context]
        assert dict(drained.attributes or {}) == {"confiture.webhook.claimed": 3}

    def test_a_worker_that_is_never_idle(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It begins a new pass after a minute, so that the one before is seen."""
        made, clock = make(now=lambda: NOW), [100.0]
        monkeypatch.setattr(deliveries, "monotonic", lambda: clock[0])
        passes = made.telemetry.passes()
        first = passes.begin()
        clock[0] += deliveries.LONGEST_PASS_S - 1
        assert passes.begin() == first
        clock[0] += 1
        assert passes.begin() != first
        ended = made.span("drain webhook outbox")
        assert dict(ended.attributes or {}) == {"confiture.webhook.claimed": 2}

    @pytest.mark.parametrize(
        ("traceparent", "age"), [(PARENT, timedelta(hours=25)), (f"{PARENT[:-1]}0", timedelta())]
    )
    def test_out_of_reach(self, traceparent: str, age: timedelta) -> None:
        """After a day, or when the stored trace was not sampled, there is only a link to it."""
        made = make(now=lambda: NOW)
        passes = made.telemetry.passes()
        stored = a_delivery(TraceContext(traceparent=traceparent), created_at=NOW - age)
        span = made.telemetry.delivery(stored, passes.begin())
        span.finish("delivered", last=an_attempt(status_code=200), attempts=1, at=NOW)
        passes.end()
        found, drained = made.span("deliver webhook analytics"), made.span("drain webhook outbox")
        assert found.parent == drained.context
        assert [f"{link.context.trace_id:032x}" for link in found.links] == [PARENT[3:35]]

    def test_left_behind_by_an_earlier_run(self, bench: Bench) -> None:
        """What an earlier run left behind stays in its trace and links to the run that sends it."""
        left = a_delivery(TraceContext(traceparent=PARENT))
        span = bench.telemetry.delivery(left)
        span.finish("delivered", last=an_attempt(status_code=200), attempts=2, at=NOW)
        found = bench.span("deliver webhook analytics")
        assert found.parent is not None
        assert (found.kind, f"{found.parent.trace_id:032x}") == (SpanKind.CONSUMER, PARENT[3:35])
        (link,) = found.links
        assert f"{link.context.trace_id:032x}" == bench.telemetry.correlation_id

    def test_current(self, bench: Bench) -> None:
        """The span is the current one inside the block, without baggage, and not after it."""
        span = bench.telemetry.hook("notify:send", "post_execute", bench.telemetry.trace_of_run())
        token = otel_context.attach(baggage.set_baggage("user", "alice"))
        try:
            with span.current():
                assert trace.get_current_span() is span.span
                assert baggage.get_all() == {}
            assert baggage.get_all() == {"user": "alice"}
        finally:
            otel_context.detach(token)

    def test_metrics(self, bench: Bench) -> None:
        """Attempts, retries, outcome, duration and lag are measured with the contract's names."""
        span = bench.telemetry.delivery(a_delivery(bench.telemetry.trace_of_run()))
        span.attempt_failed(an_attempt(status_code=503), retry_in=timedelta(seconds=2))
        span.attempt_failed(an_attempt(2, error_type="tls"), retry_in=None)
        span.finish("dead_letter", last=an_attempt(2, error_type="tls"), attempts=2, at=NOW)
        about = ("confiture.webhook.endpoint", "analytics")
        data = bench.reader.get_metrics_data()
        assert data is not None
        found: dict[tuple[Any, ...], Any] = {
            (metric.name, *sorted((point.attributes or {}).items())): point
            for scope in data.resource_metrics[0].scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
        }
        failures, retries = "confiture.webhook.failures", "confiture.webhook.retries"
        assert found[failures, about, ("error.type", "503")].value == 1
        assert found[failures, about, ("error.type", "tls")].value == 1
        assert found[retries, about, ("error.type", "503")].value == 1
        assert (retries, about, ("error.type", "tls")) not in found
        ended = ("confiture.webhook.outcome", "dead_letter")
        assert found["confiture.webhook.deliveries", about, ended].value == 1
        event_type = ("confiture.webhook.event_type", "migration_success")
        key = (names.DELIVERY_DURATION.name, about, event_type, ended, ("error.type", "tls"))
        assert found[key].explicit_bounds == names.DELIVERY_DURATION.buckets
        assert not [name for name, *_ in found if name == "confiture.webhook.delivery.lag"]

    def test_lag(self, bench: Bench) -> None:
        """The time from the event to its delivery is measured when it is delivered."""
        span = bench.telemetry.delivery(a_delivery(bench.telemetry.trace_of_run()))
        span.finish("delivered", last=an_attempt(status_code=200), attempts=1, at=NOW)
        ((attributes, point),) = bench.points("confiture.webhook.delivery.lag").items()
        assert dict(attributes) == {"confiture.webhook.endpoint": "analytics"}
        assert (point.sum, point.explicit_bounds) == (3.0, names.DELIVERY_LAG.buckets)


class TestMetricsOfTheRun:
    def test_counters_start_at_zero(self) -> None:
        """Every outcome of a configured endpoint is there, at 0, before anything happens."""
        points = make().points("confiture.webhook.deliveries")
        found = {
            dict(key)["confiture.webhook.outcome"]: point.value for key, point in points.items()
        }
        assert found == dict.fromkeys(names.OUTCOMES, 0)

    def test_outbox(self, bench: Bench) -> None:
        """Size counts what is in flight as pending; the oldest is a time."""
        counts = {State.PENDING: 2, State.IN_FLIGHT: 1, State.DEAD_LETTER: 4, State.DELIVERED: 9}
        summary = Summary(counts=counts, undelivered={"a": 2, "b": 1}, oldest={"a": NOW})
        bench.telemetry.observe_outbox(lambda: summary)
        sizes = bench.points("confiture.webhook.outbox.size")
        assert {dict(key)["confiture.webhook.state"]: one.value for key, one in sizes.items()} == {
            "pending": 3,
            "dead_letter": 4,
        }
        (oldest,) = bench.points("confiture.webhook.outbox.oldest_timestamp").values()
        assert oldest.value == NOW.timestamp()

    def test_an_empty_outbox(self, bench: Bench) -> None:
        """Nothing undelivered is the time 0."""
        bench.telemetry.observe_outbox(Summary)
        (oldest,) = bench.points("confiture.webhook.outbox.oldest_timestamp").values()
        assert oldest.value == 0

    def test_each_run_of_a_process_reports_its_outbox(self, bench: Bench) -> None:
        """A later run on its owner's provider is read too: the latest one of each database."""
        bench.telemetry.observe_outbox(Summary)
        later = []
        for name, dead in (("shop", 1), ("shop", 2), ("crm", 3)):
            run = Telemetry(bench.telemetry._providers)  # noqa: SLF001
            run.connected(Database(name=name))
            run.observe_outbox(partial(Summary, counts={State.DEAD_LETTER: dead}))
            later.append(run)
        assert {
            dict(key)["db.namespace"]: one.value
            for key, one in bench.points("confiture.webhook.outbox.size").items()
            if dict(key)["confiture.webhook.state"] == "dead_letter"
        } == {"shop": 2, "crm": 3}

    def test_a_later_run_makes_no_more_instruments(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The API without an SDK keeps all that it ever made: a process of many runs would grow."""
        kept: list[object] = []
        provider, get_meter = NoOpMeterProvider(), NoOpMeterProvider.get_meter

        def counted(*args: Any, **terms: Any) -> Meter:
            kept.append(args)
            return get_meter(*args, **terms)

        monkeypatch.setattr(NoOpMeterProvider, "get_meter", counted)
        for _ in range(3):
            Telemetry(Providers(meter_provider=provider))
        assert len(kept) == 2  # ours, and that of the instrumentation of requests

    def test_a_broken_outbox(self, bench: Bench) -> None:
        """An outbox that cannot be read costs its own points and no others."""

        def read() -> Summary:
            raise OSError

        bench.telemetry.observe_outbox(read)
        assert bench.points("confiture.webhook.outbox.size") == {}
        assert len(bench.points("confiture.webhook.deliveries")) == len(names.OUTCOMES)


class TestRuns:
    SHOP = Database(name="shop", schema="public")

    def keys(self, bench: Bench, name: str) -> list[dict[str, Any]]:
        return [dict(key) for key in bench.points(name)]

    def test_a_success(self, bench: Bench) -> None:
        """A run that ended well is counted once, with its command and database, and its time."""
        bench.telemetry.end_run(applied=0, failed=0, error_type=None)
        bench.telemetry.end_run(applied=0, failed=0, error_type="X")
        about = {"confiture.command": "migrate up", "db.namespace": "shop"}
        assert self.keys(bench, "confiture.runs") == [{**about, "confiture.run.outcome": "success"}]
        ((key, point),) = bench.points("confiture.run.last_success_timestamp").items()
        assert (dict(key), point.value) == (about, NOW.timestamp())
        assert bench.points("confiture.run.last_failure_timestamp") == {}

    def test_a_failure_before_the_connection(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A run that never had a database has a span, a count, a time and a line."""
        bench = make(log="json", now=lambda: NOW)
        bench.telemetry.start_run("confiture migrate up")
        bench.telemetry.end_run(applied=0, failed=0, error_type="OperationalError")
        assert self.keys(bench, "confiture.runs") == [
            {
                "confiture.command": "migrate up",
                "confiture.run.outcome": "failure",
                "error.type": "OperationalError",
            }
        ]
        assert bench.points("confiture.run.last_failure_timestamp")
        assert bench.span("confiture migrate up").status.status_code is StatusCode.ERROR
        (line,) = lines(capsys)
        assert line["event"] == "run.failed"
        assert (line["command"], line["environment"]) == ("migrate up", "production")
        assert (line["database"], line["migrations_applied"]) == (None, 0)

    def test_the_database_is_known_later(self, bench: Bench) -> None:
        """The span begins before the connection, which names its database."""
        bench = make()
        bench.telemetry.start_run("confiture migrate up")
        bench.telemetry.connected(self.SHOP)
        bench.telemetry.end_run(applied=1, failed=0, error_type=None)
        (span,) = bench.spans()
        assert span.attributes is not None
        assert span.attributes["db.namespace"] == "shop|public"
        assert self.keys(bench, "confiture.runs")[0]["db.namespace"] == "shop"

    def test_the_outbox_has_an_owner(self, bench: Bench) -> None:
        """Size and age of the outbox carry the database, too."""
        bench.telemetry.observe_outbox(Summary)
        for name in ("size", "oldest_timestamp"):
            for key in self.keys(bench, f"confiture.webhook.outbox.{name}"):
                assert key["db.namespace"] == "shop"

    def test_a_migrations_line_names_the_database(self, bench: Bench) -> None:
        """How a migration ended says where, as the run's numbers do."""
        migration = bench.telemetry.migration(REF, Direction.UP)
        migration.finish(duration_s=1, rows_affected=None, error=None)
        (one,) = bench.log.get_finished_logs()
        assert one.log_record.attributes is not None
        assert one.log_record.attributes["database"] == "shop"

    def test_the_label_can_be_left_off(self) -> None:
        """Without it no metric and no log event has a database, and the span still does."""
        bench = make(database_label=False)
        bench.telemetry.start_run("confiture migrate up", self.SHOP)
        migration = bench.telemetry.migration(REF, Direction.UP)
        migration.finish(duration_s=1, rows_affected=None, error=None)
        bench.telemetry.observe_outbox(Summary)
        bench.telemetry.end_run(applied=1, failed=0, error_type="42P01")
        for spec in names.METRICS:
            assert not any("db.namespace" in key for key in self.keys(bench, spec.name))
        records = [one.log_record for one in bench.log.get_finished_logs()]
        assert [one.event_name for one in records] == ["migration.applied", "run.failed"]
        assert not any("database" in (one.attributes or {}) for one in records)
        span = bench.span("confiture migrate up")
        assert span.attributes is not None
        assert span.attributes["db.namespace"] == "shop|public"

    def test_a_ping_is_no_run(self) -> None:
        """What is not counted has a span and neither number nor line."""
        bench = make()
        bench.telemetry.start_run("confiture webhooks test", test_for=timedelta(10))
        bench.telemetry.end_run(applied=0, failed=0, error_type="timeout")
        assert bench.points("confiture.runs") == {}
        assert bench.log.get_finished_logs() == ()

    def test_a_test_announces_no_attempt_after_its_end(self) -> None:
        """A retry that the flush timeout leaves no time for is neither logged nor counted."""
        bench = make()
        bench.telemetry.start_run("confiture webhooks test", test_for=timedelta(seconds=10))
        delivery = bench.telemetry.delivery(a_delivery(bench.telemetry.trace_of_run()))
        for seconds in (4, 11):
            attempt = an_attempt(status_code=503)
            delivery.attempt_failed(attempt, retry_in=timedelta(seconds=seconds))
        delivery.finish(names.DEFERRED, last=attempt, attempts=2, at=NOW)
        said = [one.log_record.attributes or {} for one in bench.log.get_finished_logs()]
        assert [one.get("retry_in_s") for one in said] == [4.0, None]
        counted = bench.points("confiture.webhook.deliveries").values()
        assert not any(one.value for one in counted)

    def test_losses_are_reported_once_an_hour(self) -> None:
        """A dead collector costs something with every export: a line an hour has the sum."""
        said: list[object] = []
        tally, clock = Tally(Export(signal="traces", protocol="grpc"), "why"), [NOW]
        given = Providers(records=lambda _, fields, __: said.append(fields["lost"]))
        given.tallies.append(tally)
        telemetry = Telemetry(given, now=lambda: clock[0])
        for minutes in (0, 30, 61):
            clock[0] = NOW + timedelta(minutes=minutes)
            tally.made(0, lost=1)
            telemetry.report_losses()
        assert said == [1, 2]

    def test_an_unknown_end_is_not_counted(self, bench: Bench) -> None:
        """Whoever settles the run counts it; until then it is neither success nor failure."""
        bench.telemetry.end_run(applied=0, failed=1, error_type="Interrupted", is_known=False)
        assert bench.span("confiture migrate up").status.status_code is StatusCode.ERROR
        assert bench.points("confiture.runs") == {}
        assert bench.log.get_finished_logs() == ()

    def test_a_killed_run_failed(self, bench: Bench) -> None:
        """However many of its migrations are settled, and however they ended, it counts once.

        Its line is in its own trace; how many migrations it had applied before is not known.
        """
        event = Event(
            id="evt_1",
            type=EventType.MIGRATION_SUCCESS,
            occurred_at=NOW - timedelta(hours=1),
            trace_id="a" * 32,
            environment="staging",
            direction=Direction.DOWN,
            migration=REF,
        )
        trace = TraceContext(traceparent=PARENT, tracestate=None)
        for run in ("one", "one", "another of the same trace"):
            bench.telemetry.settled(event, trace, run)
        ((key, point),) = bench.points("confiture.runs").items()
        assert (dict(key), point.value) == (
            {
                "confiture.command": "migrate down",
                "confiture.run.outcome": "failure",
                "db.namespace": "shop",
                "error.type": "Interrupted",
            },
            2,
        )
        failed = [
            one.log_record
            for one in bench.log.get_finished_logs()
            if one.log_record.event_name == "run.failed"
        ]
        assert len(failed) == 2
        assert f"{failed[0].trace_id:032x}" == PARENT.split("-")[1]
        assert failed[0].attributes == {
            "correlation_id": "a" * 32,
            "command": "migrate down",
            "environment": "staging",
            "database": "shop",
            "error_type": "Interrupted",
        }
        records = [one.log_record for one in bench.log.get_finished_logs()]
        ends = [one for one in records if one.event_name == "migration.rolled_back"]
        assert [one.attributes["environment"] for one in ends] == ["staging"] * 3

    def test_a_killed_run_is_not_the_last_because_it_is_settled_last(self, bench: Bench) -> None:
        """It failed when it was seen last; a failure since then stays the last one."""
        event = Event(
            id="evt_1",
            type=EventType.MIGRATION_ERROR,
            occurred_at=NOW,
            started_at=NOW - timedelta(days=1),
            trace_id="a" * 32,
            direction=Direction.UP,
            migration=REF,
        )
        trace = TraceContext(traceparent=PARENT, tracestate=None)
        bench.telemetry.settled(event, trace, "one")
        (point,) = bench.points("confiture.run.last_failure_timestamp").values()
        assert point.value == (NOW - timedelta(days=1)).timestamp()
        bench.telemetry.end_run(applied=0, failed=1, error_type="42P01")
        bench.telemetry.settled(event, trace, "another")
        (point,) = bench.points("confiture.run.last_failure_timestamp").values()
        assert point.value == NOW.timestamp()


class TestLibrary:
    def test_events_go_to_logging(
        self, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A library writes sentences to its owner's logging, with its fields, and no line."""
        caplog.set_level(logging.INFO, logger="confiture_webhooks")
        telemetry = Telemetry(is_library=True, log="json", log_level="critical")
        telemetry.outbox_failed("disk full")
        ((name, level, text),) = caplog.record_tuples
        assert (name, level, text) == (
            "confiture_webhooks",
            logging.ERROR,
            "outbox failed: disk full",
        )
        assert caplog.records[0].event == "webhooks.outbox_failed"  # type: ignore[attr-defined]
        assert capsys.readouterr() == ("", "")


def everything(telemetry: Telemetry) -> None:
    """Make every span, metric and log event of the contract once."""
    fault = Fault("webhooks.outbox", "is not known", "Use sqlite")
    for direction, error in (
        (Direction.UP, None),
        (Direction.DOWN, None),
        (Direction.UP, UNDEFINED_TABLE),
    ):
        migration = telemetry.migration(REF, direction)
        migration.finish(duration_s=0.25, rows_affected=None, error=error)
    for outcome in names.OUTCOMES:
        span = telemetry.delivery(a_delivery(telemetry.trace_of_run()))
        code = {"delivered": 200, "gone": 410}.get(outcome, 500)
        if code != 200:
            span.attempt_failed(an_attempt(status_code=code), retry_in=timedelta(seconds=1))
        with span.attempt(a_request()) as attempt:
            attempt.response = Response(status_code=code, version="1.1")
        last = an_attempt(status_code=code)
        span.finish(outcome, last=last, attempts=1, at=NOW, next_attempt_at=NOW)
    hook = telemetry.hook("notify:send", "post_execute", telemetry.trace_of_run())
    with hook.current():
        pass
    hook.finish("ValueError")
    telemetry.hook_failed("notify:send", file="notify.py", line=3, error_type="ValueError")
    telemetry.observe_outbox(Summary)
    telemetry.config_invalid([fault])
    telemetry.intent_discarded(intent(1), "its database does not answer")
    telemetry.outbox_failed("disk full")
    telemetry.failed("worker", ValueError("CANARY"))
    passes = telemetry.passes()
    passes.begin()
    passes.end()
    telemetry.end_run(applied=2, failed=1, error_type="42P01")


class TestLogs:
    def test_every_event_with_its_fields(
        self, bench: Bench, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Every line has the fields of the table, in its order, and nothing else."""
        everything(bench.telemetry)
        specs = {spec.event: spec for spec in names.LOG_EVENTS}
        seen = lines(capsys)
        for line in seen:
            spec = specs[line["event"]]
            assert tuple(line) == (*names.COMMON_FIELDS, *spec.fields)
            assert (line["level"], line["timestamp"]) == (spec.level, "2026-01-09T14:23:45.123Z")
        assert {line["event"] for line in seen} == set(specs) - {"telemetry.flush_incomplete"}

    def test_every_event_is_an_otlp_record(self, bench: Bench) -> None:
        """Every line is a log record with the event's name, its span and no repeated fields."""
        everything(bench.telemetry)
        found = bench.log.get_finished_logs()
        assert {one.log_record.event_name for one in found} == {
            spec.event for spec in names.LOG_EVENTS
        } - {"telemetry.flush_incomplete"}
        taken = {"timestamp", "level", "event", "trace_id", "span_id"}
        for one in found:
            record = one.log_record
            assert record.body == sentence(record.event_name, record.attributes or {})
            assert record.event_name not in str(record.body)
            assert record.severity_number is not None
            assert record.trace_id is not None
            assert not taken & set(record.attributes or {})
            assert one.instrumentation_scope is not None
            assert one.instrumentation_scope.name == "confiture_webhooks"

    def test_a_line_belongs_to_its_own_span(
        self, bench: Bench, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Ids are those of the span the line is about, whatever span is current."""
        span = bench.telemetry.delivery(a_delivery(bench.telemetry.trace_of_run()))
        other = bench.telemetry.hook("a:b", "post_execute")
        with other.current():
            span.finish("delivered", last=an_attempt(status_code=200), attempts=1, at=NOW)
        (line,) = lines(capsys)
        context = bench.span("deliver webhook analytics").context
        assert context is not None
        assert line["span_id"] == f"{context.span_id:016x}"
        assert line["trace_id"] == bench.telemetry.correlation_id
        (record,) = bench.log.get_finished_logs()
        assert record.log_record.span_id == context.span_id

    def test_delivered(self, bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
        """The line of a delivery reports which, of what, and how it went."""
        span = bench.telemetry.delivery(a_delivery(bench.telemetry.trace_of_run()))
        span.finish("delivered", last=an_attempt(2, status_code=201), attempts=2, at=NOW)
        (line,) = lines(capsys)
        assert line["correlation_id"] == "c" * 32
        assert (line["attempts"], line["status_code"], line["lag_ms"]) == (2, 201, 3000.0)
        assert line["migration_name"] == "005_add_payment_table"

    def test_failed_names_the_place_and_no_message(
        self, bench: Bench, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A fault of ours is reported once, with class and place, without its message."""

        def fail() -> None:
            raise ValueError("CANARY")

        for _ in range(3):
            try:
                fail()
            except ValueError as error:
                bench.telemetry.failed("worker", error)
        (line,) = lines(capsys)
        assert (line["where"], line["error_type"], line["file"]) == (
            "worker",
            "ValueError",
            __file__,
        )

    def test_level(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Events below the level are reported nowhere."""
        made = make(log="json", log_level="WARNING")
        everything(made.telemetry)
        assert {line["level"] for line in lines(capsys)} == {"warning", "error"}
        severities = {one.log_record.severity_text for one in made.log.get_finished_logs()}
        assert severities == {"WARN", "ERROR"}

    def test_off(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Off silences stderr and leaves the log records."""
        made = make(log="off")
        everything(made.telemetry)
        assert capsys.readouterr() == ("", "")
        assert made.log.get_finished_logs()

    def test_console(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The console form is for reading, and is on stderr too."""
        telemetry = Telemetry(log="console")
        telemetry.outbox_failed("disk full")
        out, err = capsys.readouterr()
        assert out == ""
        assert "webhooks.outbox_failed" in err
        assert not err.startswith("{")

    @pytest.mark.parametrize(
        ("form", "level", "shown"),
        [
            ("console", None, {"warning", "error"}),
            ("console", "info", {"info", "warning", "error"}),
            ("json", None, {"info", "warning", "error"}),
        ],
    )
    def test_what_went_well_is_not_reported_to_people_unless_asked_for(
        self,
        form: Any,
        level: str | None,
        shown: set[str],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """The console form begins at warning; JSON and the log records at info."""
        made = make(log=form, log_level=level)
        everything(made.telemetry)
        found = capsys.readouterr().err.splitlines()
        if form == "json":
            levels = {json.loads(line)["level"] for line in found}
        else:
            levels = {line.split()[1] for line in found}
        assert levels == shown
        severities = {one.log_record.severity_text for one in made.log.get_finished_logs()}
        assert severities == {"INFO", "WARN", "ERROR"}

    def test_a_terminal_gets_the_console_form(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Unless a form is chosen, a terminal gets the one for reading and all else JSON."""
        Telemetry(log=None).outbox_failed("a")
        assert json.loads(capsys.readouterr().err)["reason"] == "a"
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        Telemetry(log=None).outbox_failed("b")
        assert not capsys.readouterr().err.startswith("{")

    def test_what_is_no_utf8(self, bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
        """A file name that is not UTF-8 breaks neither line nor span nor record."""
        ref = MigrationRef(version="1", slug="caf\udce9")
        migration = bench.telemetry.migration(ref, Direction.UP)
        migration.finish(duration_s=1, rows_affected=None, error=None)
        (line,) = lines(capsys)
        (record,) = bench.log.get_finished_logs()
        assert line["migration_name"] == "1_caf\\udce9"
        for attributes in (bench.span("apply migration").attributes, record.log_record.attributes):
            assert "".join(map(str, attributes.values())).encode()

    def test_a_stderr_that_cannot_be_written(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A closed stderr, a full disk or a broken pipe costs the line and nothing else."""

        class Broken:
            def write(self, _: str) -> int:
                raise BrokenPipeError

            def isatty(self) -> bool:
                raise ValueError("I/O operation on closed file")

        monkeypatch.setattr(sys, "stderr", Broken())
        everything(bench.telemetry)
        assert len(bench.spans()) > 5

    def test_structlog_is_left_as_it_is(self, bench: Bench) -> None:
        """The host's structlog configuration is not touched."""
        import structlog  # noqa: PLC0415

        everything(bench.telemetry)
        assert not structlog.is_configured()


class TestTotality:
    def test_every_metric_is_measured(self, bench: Bench) -> None:
        """Every metric of the table comes out, with its unit and only its attributes."""
        everything(bench.telemetry)
        bench.telemetry.start_run("confiture migrate down", Database(name="shop"))
        bench.telemetry.end_run(applied=0, failed=0, error_type=None)
        data = bench.reader.get_metrics_data()
        assert data is not None
        scopes = data.resource_metrics[0].scope_metrics
        found = {one.name: one for scope in scopes for one in scope.metrics}
        assert set(found) == {spec.name for spec in names.METRICS}
        for spec in names.METRICS:
            keys = {
                key for point in found[spec.name].data.data_points for key in point.attributes or {}
            }
            assert keys == set(spec.attributes) or spec.name == "confiture.webhook.delivery.lag"
            assert found[spec.name].unit == spec.unit

    def test_every_span_is_made(self, bench: Bench) -> None:
        """Every span of the table that is ours comes out, with only its attributes."""
        everything(bench.telemetry)
        of = {
            "confiture migrate up": "run",
            "apply migration": "migration",
            "roll back migration": "migration",
            "deliver webhook analytics": "delivery",
            "POST": "attempt",
            "run hook notify:send": "user hook",
            "drain webhook outbox": "worker pass",
        }
        assert {span.name for span in bench.spans()} == set(of)
        for span in bench.spans():
            assert set(span.attributes or {}) <= set(SPANS[of[span.name]].attributes)
            for event in span.events:
                assert set(event.attributes or {}) <= set(SPAN_EVENTS[event.name])

    def test_nothing_secret_is_sent(self, bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
        """No body, error message or exception text is in any signal."""
        everything(bench.telemetry)
        data = bench.reader.get_metrics_data()
        assert data is not None
        reported = [span.to_json() for span in bench.spans()]
        reported += [one.to_json() for one in bench.log.get_finished_logs()]
        reported += [data.to_json(), capsys.readouterr().err]
        assert "CANARY" not in "".join(reported)


class Raising:
    """Any provider, tracer or meter, where whatever is called raises."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


class RaisingTracer:
    """A provider whose tracer cannot start a span."""

    def get_tracer(self, *_: object, **__: object) -> Any:
        return Raising()


class TestContainment:
    @pytest.mark.parametrize(
        "broken",
        [
            {"tracer_provider": Raising()},
            {"tracer_provider": RaisingTracer()},
            {"meter_provider": Raising()},
            {"records": lambda *_: Raising().emit},
        ],
    )
    def test_nothing_raises(
        self, broken: dict[str, Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Whatever breaks beneath, no method raises, and one line at most reports it."""
        telemetry = Telemetry(Providers(**broken), log="json", endpoints=["analytics"])
        telemetry.start_run("confiture migrate up", Database())
        everything(telemetry)
        telemetry.shutdown(timedelta(seconds=1))
        assert int(telemetry.correlation_id, 16) != 0
        reported = lines(capsys)
        assert "migration.applied" in {line["event"] for line in reported}
        ours = [line["where"] for line in reported if line["event"] == "webhooks.failed"]
        assert len([where for where in ours if where.startswith("telemetry.")]) == 1

    def test_a_failed_set_up_is_reported(self, capsys: pytest.CaptureFixture[str]) -> None:
        """What breaks during set-up is one line, and ids are still real."""
        telemetry = Telemetry(Providers(error=ValueError("CANARY")), log="json")
        (line,) = lines(capsys)
        assert (line["where"], line["error_type"]) == ("telemetry.set_up", "ValueError")
        assert line["correlation_id"] == telemetry.correlation_id
