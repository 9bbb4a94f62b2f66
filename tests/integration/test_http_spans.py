"""The span of an attempt, its duration, and the trace that the receiver gets."""

from __future__ import annotations

import socket
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import requests
from opentelemetry import baggage, context, propagate
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import StatusCode

from confiture_webhooks.adapters.http import HttpTransport
from confiture_webhooks.delivery import ERROR_TYPES
from confiture_webhooks.errors import TransportError
from confiture_webhooks.telemetry import Telemetry
from confiture_webhooks.transport import Request
from observed import Observed
from peer import OK, Peer, Talk, answers, says, starts_with
from samples import delivery

if TYPE_CHECKING:
    from collections.abc import Callable

BRIEF = timedelta(milliseconds=150)
SHORT = timedelta(milliseconds=500)
REFUSAL = b"HTTP/1.0 503 Busy\r\nServer: some\r\nContent-Length: 6\r\n\r\nsecret"


class Theirs(TextMapPropagator):
    """Adds headers to a request, or raises."""

    def __init__(self, theirs: Any) -> None:
        self._theirs = theirs

    @property
    def fields(self) -> set[str]:
        return set()

    def extract(self, *_: Any, **__: Any) -> context.Context:
        return context.Context()

    def inject(self, carrier: Any, *_: Any, **__: Any) -> None:
        if isinstance(self._theirs, Exception):
            raise self._theirs
        carrier.update(self._theirs)


def request(url: str, *, resend_count: int = 0) -> Request:
    """A request to a path at *url*."""
    return Request(
        url=f"{url}/path?a=1",
        headers={"Authorization": "Bearer t", "X-Api-Key": "k", "traceparent": "the delivery's"},
        body=b'{"event": "ping"}\n',
        endpoint="analytics",
        resend_count=resend_count,
    )


def test_an_attempt_is_described(transport: HttpTransport, observed: Observed) -> None:
    """Its span has method, host, port, resends, answer, and an address without path; no headers."""
    with Peer(answers(OK)) as peer:
        observed.send(transport, request(peer.url, resend_count=2))
    (span,) = observed.attempts
    assert (span.name, span.status.status_code) == ("POST", StatusCode.UNSET)
    assert span.parent is not None
    assert span.parent.span_id == observed.delivery.span.get_span_context().span_id
    assert dict(span.attributes or {}) == {
        "http.request.method": "POST",
        "http.request.resend_count": 2,
        "http.response.status_code": 200,
        "network.protocol.version": "1.1",
        "server.address": "127.0.0.1",
        "server.port": peer.port,
        "url.full": peer.url,
    }


def test_a_refusal_is_an_error(transport: HttpTransport, observed: Observed) -> None:
    """From 400 on, span and duration have the status as ``error.type``; no text describes it."""
    with Peer(answers(REFUSAL)) as peer:
        observed.send(transport, request(peer.url))
    (span,) = observed.attempts
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, None)
    attributes = dict(span.attributes or {})
    assert "http.request.resend_count" not in attributes
    address = attributes.pop("url.full")
    assert attributes["error.type"] == "503"
    assert attributes["network.protocol.version"] == "1.0"
    assert address == peer.url
    ((scope, about, count),) = observed.durations()
    assert (scope, about, count) == ("opentelemetry.instrumentation.requests", attributes, 1)


def test_attempts_and_hooks_are_measured_as_one(
    transport: HttpTransport, observed: Observed
) -> None:
    """A hook's own request to the same receiver is in the same instrument of the same scope."""
    with Peer(answers(OK)) as peer:
        observed.send(transport, request(peer.url))
        requests.post(peer.url, data=b"{}", timeout=20)
    assert len(observed.attempts) == 2
    ((scope, _, count),) = observed.durations()
    assert (scope, count) == ("opentelemetry.instrumentation.requests", 2)
    assert observed.everything().count("Duration of HTTP client requests.") == 1


@pytest.mark.parametrize(
    ("address", "port"),
    [("https://a.test", 443), ("https://a.test:443", 443), ("http://a.test", 80)],
)
def test_the_default_port_is_recorded(
    transport: HttpTransport,
    observed: Observed,
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    port: int,
) -> None:
    """server.port is there whether or not the address names it."""

    def refuse(*_: object) -> None:
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(TransportError, match="dns"):
        observed.send(transport, request(address), SHORT)
    attributes = dict(observed.attempts[0].attributes or {})
    assert attributes["server.port"] == port
    assert attributes["url.full"] == address


@pytest.mark.parametrize(
    ("behave", "expected"),
    [
        (Talk.hang, "timeout"),
        (starts_with(b"HTTP/1.1 200 O", Talk.hang), "too_slow"),
        (starts_with(b"", Talk.reset), "connection_reset"),
        (says(b"rubbish\r\n\r\n"), "protocol"),
    ],
)
def test_an_attempt_without_an_answer_has_its_word(
    transport: HttpTransport,
    observed: Observed,
    behave: Callable[[Talk], object],
    expected: str,
) -> None:
    """Span and duration of a failed attempt have the closed set's error.type; the span is ended."""
    with Peer(behave) as peer, pytest.raises(TransportError):
        observed.send(transport, request(peer.url), BRIEF if expected == "timeout" else SHORT)
    (span,) = observed.attempts
    assert (span.attributes or {})["error.type"] == expected
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, None)
    ((_, about, _),) = observed.durations()
    assert about["error.type"] == expected
    assert expected in ERROR_TYPES


def test_the_span_of_a_hanging_lookup_ends(
    transport: HttpTransport, observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt whose name lookup hangs has an ended span when its caller goes on."""
    is_released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: is_released.wait() and [])
    with pytest.raises(TransportError, match="timeout"):
        observed.send(transport, request("http://hangs.test"), BRIEF)
    assert [(span.attributes or {})["error.type"] for span in observed.attempts] == ["timeout"]
    is_released.set()


def test_an_attempt_that_was_cut_has_an_end(transport: HttpTransport, observed: Observed) -> None:
    """A worker that stops cuts its attempts: their spans end as ``timeout``."""
    threading.Timer(0.2, transport.abort).start()
    with Peer(Talk.hang) as peer, pytest.raises(TransportError):
        observed.send(transport, request(peer.url))
    assert [(span.attributes or {})["error.type"] for span in observed.attempts] == ["timeout"]


def test_the_trace_goes_on_and_baggage_does_not(
    transport: HttpTransport, observed: Observed
) -> None:
    """The receiver gets the attempt's traceparent, one of it, and never baggage."""
    token = context.attach(baggage.set_baggage("customer", "canary"))
    try:
        with Peer(answers(OK)) as peer:
            observed.send(transport, request(peer.url))
            (read,) = peer.requests
    finally:
        context.detach(token)
    ids = observed.attempts[0].context
    assert ids is not None
    assert f"traceparent: 00-{ids.trace_id:032x}-{ids.span_id:016x}-".encode() in read
    assert read.lower().count(b"traceparent") == 1
    assert b"baggage" not in read.lower()


@pytest.mark.parametrize(
    ("theirs", "sent"),
    [
        ({}, b""),
        ({"b3": "1-2-1"}, b"b3: 1-2-1\r\n"),
        ({"Traceparent": "theirs"}, b""),
        ({"Baggage": "theirs", "Host": "theirs", "content-length": "1"}, b"/path?a=1"),
        ({"x-api-key": "theirs"}, b"X-Api-Key: k\r\n"),
        ({"x-a": "one\r\n\u2603"}, b"x-a: one\\x0d\\x0a\\u2603\r\n"),
        ({"x-a": None}, b""),
        ({"x a": "theirs", "x-b": "1"}, b"x-b: 1\r\n"),
        ({"X-Confiture-Secret": "theirs", "x-b": "1"}, b"x-b: 1\r\n"),
        (RuntimeError("theirs"), b""),
    ],
)
def test_propagators_may_only_add_headers(
    transport: HttpTransport, observed: Observed, theirs: Any, sent: bytes
) -> None:
    """Whatever they add or raise, the receiver gets the attempt's traceparent and our headers."""
    given = propagate.get_global_textmap()
    propagate.set_global_textmap(Theirs(theirs))
    try:
        with Peer(answers(OK)) as peer:
            observed.send(transport, request(peer.url))
            (read,) = peer.requests
    finally:
        propagate.set_global_textmap(given)
    ids = observed.attempts[0].context
    assert ids is not None
    assert f"traceparent: 00-{ids.trace_id:032x}-{ids.span_id:016x}-01\r\n".encode() in read
    assert sent in read
    assert b"theirs" not in read
    assert read.lower().count(b"traceparent") == read.lower().count(b"x-api-key") == 1


def test_without_a_tracer_the_deliverys_trace_is_sent(transport: HttpTransport) -> None:
    """Nothing is exported: the request goes out as it was made."""
    with Peer(answers(OK)) as peer:
        with Telemetry().delivery(delivery()).attempt(request(peer.url)) as attempt:
            attempt.response = transport.send(attempt.request, timeout=timedelta(seconds=20))
        (read,) = peer.requests
    assert b"traceparent: the delivery's\r\n" in read
