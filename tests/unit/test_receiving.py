"""The receiver's span: whose child it is, and what an error leaves on it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, format_trace_id

from confiture_webhooks.signature import Verified
from confiture_webhooks.telemetry.deliveries import handling
from samples import TRACE, TRACE_ID

EVENT = Verified(
    id="evt_1",
    type="migration_success",
    sent_at=datetime.now(UTC),
    correlation_id=TRACE_ID,
    traceparent=TRACE.traceparent,
    payload={},
)


class Watched:
    """The global provider of a test, and what it exported."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        """The ended spans by name."""
        return {span.name: span for span in self.exporter.get_finished_spans()}


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    """A provider that is the global one while the test runs."""
    found = Watched()
    monkeypatch.setattr(trace, "get_tracer", found.provider.get_tracer)
    yield found
    found.provider.shutdown()


def test_it_continues_the_senders_trace(watched: Watched) -> None:
    """Without a span around it, the parent is the attempt that sent the request."""
    with handling(EVENT):
        assert trace.get_current_span().get_span_context().trace_id == int(TRACE_ID, 16)
    span = watched.spans["handle webhook"]
    assert span.kind is SpanKind.CONSUMER
    assert format_trace_id(span.context.trace_id) == TRACE_ID
    assert span.parent is not None and span.parent.is_remote
    assert span.attributes == {
        "confiture.webhook.event_type": "migration_success",
        "confiture.webhook.event_id": "evt_1",
        "confiture.webhook.correlation_id": TRACE_ID,
    }


def test_a_frameworks_span_stays_its_parent(watched: Watched) -> None:
    """Under a span in another trace it is that one's child, linked to the sender."""
    tracer = watched.provider.get_tracer("framework")
    with tracer.start_as_current_span("POST /webhooks"), handling(EVENT):
        pass
    span, outer = watched.spans["handle webhook"], watched.spans["POST /webhooks"]
    assert span.parent is not None and span.parent.span_id == outer.context.span_id
    assert [format_trace_id(link.context.trace_id) for link in span.links] == [TRACE_ID]


def test_an_error_leaves_its_class_and_no_text(watched: Watched) -> None:
    """What a handler raises may hold anything: its class is enough."""
    with pytest.raises(LookupError), handling(EVENT):
        raise LookupError("canary")
    span = watched.spans["handle webhook"]
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "LookupError"
    assert "canary" not in span.to_json()


@pytest.mark.parametrize("traceparent", [None, "", "00-rubbish"])
def test_without_a_context_it_begins_a_trace(watched: Watched, traceparent: str | None) -> None:
    """A request without a readable ``traceparent`` is handled all the same."""
    event = Verified(
        id="evt_1",
        type=None,
        sent_at=None,
        correlation_id=None,
        traceparent=traceparent,
        payload={},
    )
    with handling(event):
        pass
    assert watched.spans["handle webhook"].parent is None
