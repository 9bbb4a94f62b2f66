"""The span of an attempt: made by whoever instruments requests, completed by our adapter."""

from __future__ import annotations

import socket
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import baggage, context
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import StatusCode

from confiture_webhooks.adapters.http import HttpTransport
from confiture_webhooks.delivery import ERROR_TYPES
from confiture_webhooks.errors import TransportError
from confiture_webhooks.transport import Request, Response
from observed import Observed
from peer import OK, Peer, Talk, answers, says, starts_with

if TYPE_CHECKING:
    from collections.abc import Callable

BRIEF = timedelta(milliseconds=150)
SHORT = timedelta(milliseconds=500)
ANSWER = b"HTTP/1.1 200 OK\r\nServer: some\r\nContent-Length: 6\r\n\r\nsecret"


def request(url: str, *, resend_count: int = 0) -> Request:
    """A request to a path at *url*."""
    return Request(
        url=f"{url}/path?a=1",
        headers={"Authorization": "Bearer t", "X-Api-Key": "k"},
        body=b'{"event": "ping"}\n',
        endpoint="analytics",
        resend_count=resend_count,
    )


def test_the_attempt_is_described(
    transport: HttpTransport, observed: Observed, conventions: str
) -> None:
    """Its span has host, port, resends and an address without path, under every convention."""
    with Peer(answers(OK)) as peer, observed.tracer.start_as_current_span("delivery") as parent:
        transport.send(request(peer.url, resend_count=2), timeout=timedelta(seconds=20))
        url, port = peer.url, peer.port
    (span,) = observed.attempts
    attributes = dict(span.attributes or {})
    assert (span.name, span.status.status_code) == ("POST", StatusCode.UNSET)
    assert span.parent is not None
    assert span.parent.span_id == parent.get_span_context().span_id
    assert attributes["server.address"] == "127.0.0.1"
    assert attributes["server.port"] == port
    assert attributes["http.request.resend_count"] == 2
    addresses = {name: attributes.get(name) for name in ("url.full", "http.url")}
    is_new, is_old = conventions != "", conventions != "http"
    assert addresses == {"url.full": url if is_new else None, "http.url": url if is_old else None}


@pytest.mark.parametrize("conventions", ["http"], indirect=True)
def test_the_first_attempt_resends_nothing(transport: HttpTransport, observed: Observed) -> None:
    """A first attempt has no resend count, and only plain headers where headers are asked for."""
    with Peer(answers(ANSWER)) as peer:
        transport.send(request(peer.url), timeout=timedelta(seconds=20))
    attributes = dict(observed.attempts[0].attributes or {})
    assert "http.request.resend_count" not in attributes
    headers: dict[str, Any] = {
        name: value for name, value in attributes.items() if ".header." in name
    }
    assert headers.pop("http.response.header.content_length") == ("6",)
    assert headers.pop("http.request.header.content_length") == ("18",)
    assert headers == {
        "http.request.header.authorization": "REDACTED",
        "http.request.header.x_api_key": "REDACTED",
    }


@pytest.mark.parametrize("conventions", ["http"], indirect=True)
@pytest.mark.parametrize("port", ["", ":443"])
def test_the_default_port_is_recorded(
    transport: HttpTransport, observed: Observed, monkeypatch: pytest.MonkeyPatch, port: str
) -> None:
    """server.port is there whether or not the address names it."""

    def refuse(*_: object) -> None:
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(TransportError, match="dns"):
        transport.send(request(f"https://a.test{port}"), timeout=SHORT)
    attributes = dict(observed.attempts[0].attributes or {})
    assert attributes["server.port"] == 443
    assert attributes["url.full"] == f"https://a.test{port}"


@pytest.mark.parametrize("conventions", ["http"], indirect=True)
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
    """Span and metric of a failed attempt have the closed set's error.type; the span is ended."""
    with Peer(behave) as peer, pytest.raises(TransportError):
        transport.send(request(peer.url), timeout=BRIEF if expected == "timeout" else SHORT)
    (span,) = observed.attempts
    assert (span.attributes or {})["error.type"] == expected
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == f"{expected}: {expected}"
    assert f'"error.type": "{expected}"' in observed.everything()
    assert expected in ERROR_TYPES


@pytest.mark.parametrize("conventions", ["http"], indirect=True)
def test_the_span_of_a_hanging_lookup_ends(
    transport: HttpTransport, observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt whose name lookup hangs has an ended span when its caller goes on."""
    is_released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: is_released.wait() and [])
    with pytest.raises(TransportError, match="timeout"):
        transport.send(request("http://hangs.test"), timeout=BRIEF)
    assert [span.status.description for span in observed.attempts] == ["timeout: timeout"]
    is_released.set()


@pytest.mark.parametrize("conventions", ["http"], indirect=True)
def test_the_trace_goes_on_and_baggage_does_not(
    transport: HttpTransport, observed: Observed
) -> None:
    """The receiver gets the attempt's traceparent, and never baggage."""
    token = context.attach(baggage.set_baggage("customer", "canary"))
    try:
        with Peer(answers(OK)) as peer, observed.tracer.start_as_current_span("delivery"):
            transport.send(request(peer.url), timeout=timedelta(seconds=20))
            (read,) = peer.requests
    finally:
        context.detach(token)
    ids = observed.attempts[0].context
    assert ids is not None
    assert f"traceparent: 00-{ids.trace_id:032x}-{ids.span_id:016x}-".encode() in read
    assert b"baggage" not in read.lower()


@pytest.mark.parametrize("conventions", ["http"], indirect=True)
def test_hooks_of_the_instrumentation_cannot_break_it(
    transport: HttpTransport, observed: Observed
) -> None:
    """A hook that reads the body finds none; one that raises does not undo the answer."""
    bodies: list[bytes] = []

    def hook(_: object, __: object, answer: Any) -> None:
        bodies.append(answer.content)
        raise RuntimeError("canary")

    observed.close()
    RequestsInstrumentor().instrument(tracer_provider=observed.tracing, response_hook=hook)
    with Peer(answers(ANSWER)) as peer:
        response = transport.send(request(peer.url), timeout=timedelta(seconds=20))
    assert response == Response(status_code=200)
    assert bodies == [b""]


def test_without_instrumentation_the_callers_span_is_left_alone(transport: HttpTransport) -> None:
    """Nobody instruments requests: the current span is somebody else's and stays as it is."""
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    with Peer(answers(OK)) as peer, tracer.start_as_current_span("delivery") as span:
        transport.send(request(peer.url), timeout=timedelta(seconds=20))
    assert dict(span.attributes or {}) == {}  # type: ignore[attr-defined]
