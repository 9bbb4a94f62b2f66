"""The local receiver on a real socket: what it answers, how it misbehaves, how it ends."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import pytest
import requests
import trustme

from confiture_webhooks.errors import ConfigError, WebhooksError
from confiture_webhooks.receiver import LocalReceiver, Received, server
from confiture_webhooks.receiver.server import Answer
from confiture_webhooks.signature import body_signature, webhook_signature

BODY = b'{"event_type": "ping"}'


def post(receiver: LocalReceiver, path: str = "/", **more: Any) -> requests.Response:
    """One POST on a connection of its own."""
    return requests.post(receiver.url + path, data=BODY, timeout=5, **more)


def connect(receiver: LocalReceiver) -> socket.socket:
    """A connection with a request already sent on it."""
    connection = socket.create_connection(("127.0.0.1", receiver.port), timeout=5)
    head = f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {len(BODY)}\r\n\r\n"
    connection.sendall(head.encode() + BODY)
    return connection


def test_request_is_kept() -> None:
    """A request is kept with method, path, headers, exact body, payload and time."""
    before = datetime.now(UTC)
    with LocalReceiver() as receiver:
        assert post(receiver, "/a?b=c", headers={"X-Correlation-ID": "1"}).status_code == 200
        (request,) = receiver.requests
    assert (request.method, request.path, request.body) == ("POST", "/a?b=c", BODY)
    assert request.headers["x-correlation-id"] == "1"
    assert request.payload == {"event_type": "ping"}
    assert before <= request.received_at <= datetime.now(UTC)
    assert (request.verified, request.answer) == (None, Answer())


def test_script() -> None:
    """Answers follow the script, then are 200; headers and body go out with the status."""
    with LocalReceiver(answers=[503, (429, {"Retry-After": "7"}, b"later"), 204]) as receiver:
        answers = [post(receiver) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [503, 429, 204, 200]
    assert (answers[1].headers["Retry-After"], answers[1].content) == ("7", b"later")


def test_script_of_a_path() -> None:
    """A path has a script of its own, before the common one."""
    with LocalReceiver(answers=[500]) as receiver:
        receiver.script("/a", [503, 410])
        statuses = [post(receiver, path).status_code for path in ("/a?x", "/b", "/a", "/a", "/b")]
    assert statuses == [503, 500, 410, 200, 200]


def test_connections_are_kept() -> None:
    """Requests of one session share a connection, also after an error status."""
    with LocalReceiver(answers=[503]) as receiver, requests.Session() as session:
        for _ in range(3):
            session.post(receiver.url, data=BODY, timeout=5)
        assert receiver.connections == 1


@pytest.mark.parametrize(
    ("secret", "verdict"), [("right", True), (["new", "right"], True), ("wrong", False)]
)
def test_verdict(secret: str | list[str], verdict: bool) -> None:
    """With a secret every request is verified, by either signature."""
    now = datetime.now(UTC)
    timed = {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": webhook_signature(["right"], "evt_1", now, BODY),
    }
    plain = {"X-Confiture-Signature": body_signature("right", BODY)}
    with LocalReceiver(secret=secret) as receiver:
        post(receiver, headers=timed)
        post(receiver, headers=plain)
        assert [request.verified for request in receiver.requests] == [verdict, verdict]


def test_unusable_secret() -> None:
    """A secret that cannot verify is refused before anything is served."""
    with pytest.raises(ConfigError):
        LocalReceiver(secret="whsec_?")


@pytest.mark.parametrize("fault", ["reset", "close", "rubbish"])
def test_no_answer(fault: str) -> None:
    """A fault instead of an answer is an error for the sender; the next request is served."""
    with LocalReceiver(answers=[fault]) as receiver:
        with pytest.raises(requests.ConnectionError):
            post(receiver)
        assert post(receiver).status_code == 200
        assert [request.answer.fault for request in receiver.requests] == [fault, None]


def test_reset_is_a_reset() -> None:
    """``reset`` sends RST, not an orderly end."""
    with LocalReceiver(answers=["reset"]) as receiver, connect(receiver) as connection:
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


@pytest.mark.parametrize("fault", ["hang", "drip", "drip_body", "endless", "slow"])
def test_close_ends_every_fault(fault: str) -> None:
    """Closing ends what would never end, and leaves no thread."""
    before = {*threading.enumerate()}
    answers = [fault if fault != "slow" else Answer(delay_s=600)]
    with ExitStack() as ends:
        with LocalReceiver(answers=answers) as receiver:
            ends.enter_context(connect(receiver))
            receiver.wait_for(1)
        assert {*threading.enumerate()} <= before


def test_drip() -> None:
    """``drip`` sends a byte at a time and never ends its header."""
    with LocalReceiver(answers=["drip"]) as receiver, connect(receiver) as connection:
        text = b""
        while text.count(b".") < 3:
            text += connection.recv(100)
    assert b"\r\n\r\n" not in text


def test_endless() -> None:
    """``endless`` answers 200 with a body that goes on."""
    with LocalReceiver(answers=["endless"]) as receiver:
        with post(receiver, stream=True) as answer:
            assert answer.status_code == 200
            assert len(answer.raw.read(10_000_000)) == 10_000_000


def test_slow() -> None:
    """A delayed answer arrives in the end."""
    with LocalReceiver(answers=[Answer(status=202, delay_s=0.05)]) as receiver:
        assert post(receiver).status_code == 202


def test_idle_connections_do_not_hold_the_end() -> None:
    """Closing does not wait for connections that are kept open."""
    with LocalReceiver() as receiver, requests.Session() as session:
        session.post(receiver.url, data=BODY, timeout=5)
        receiver.close()
        receiver.close()
        with pytest.raises(requests.ConnectionError):
            session.post(receiver.url, data=BODY, timeout=5)


def test_wait_for() -> None:
    """``wait_for`` returns the requests once there are enough, and says how many there are."""
    with LocalReceiver() as receiver:
        senders = [threading.Thread(target=post, args=(receiver,)) for _ in range(5)]
        for sender in senders:
            sender.start()
        assert len(receiver.wait_for(5)) == 5
        for sender in senders:
            sender.join()
        with pytest.raises(TimeoutError, match="5 of 6"):
            receiver.wait_for(6, timeout=0.01)


def test_on_request() -> None:
    """``on_request`` sees each request before its answer is sent."""
    seen: list[Received] = []
    with LocalReceiver(on_request=seen.append) as receiver:
        post(receiver)
        assert seen == list(receiver.requests)


def test_on_request_may_close_the_receiver() -> None:
    """As one does who waits for one webhook alone: its handler does not wait for itself."""
    closed = threading.Event()

    def close(_: Received) -> None:
        receiver.close()
        closed.set()

    with LocalReceiver(on_request=close) as receiver:
        with pytest.raises(requests.ConnectionError):
            post(receiver)
        assert closed.wait(20)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE"])
def test_any_method(method: str) -> None:
    """Other methods are answered 200 and kept, and use up no answer that is for a webhook."""
    with LocalReceiver(answers=[503]) as receiver:
        assert requests.request(method, receiver.url, timeout=5).status_code == 200
        assert receiver.requests[0].method == method
        assert requests.post(receiver.url, timeout=5).status_code == 503


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Content-Length: -1", 400),
        ("Content-Length: many", 400),
        ("Content-Length: " + "9" * 30, 413),
        ("Transfer-Encoding: chunked", 411),
    ],
)
def test_unreadable_length(header: str, status: int) -> None:
    """A body whose length cannot be trusted is refused without reading it."""
    with LocalReceiver() as receiver:
        address = ("127.0.0.1", receiver.port)
        with socket.create_connection(address, timeout=5) as connection:
            connection.sendall(f"POST / HTTP/1.1\r\nHost: a\r\n{header}\r\n\r\n".encode())
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert answer.status == status
            answer.close()
        assert receiver.requests == ()


def test_half_a_request() -> None:
    """A sender that leaves in the middle of its body is forgotten."""
    with LocalReceiver() as receiver:
        address = ("127.0.0.1", receiver.port)
        with socket.create_connection(address, timeout=5) as connection:
            connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf")
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1) == b""
        assert receiver.requests == ()


def test_port_in_use() -> None:
    """A port that is taken is one clear error."""
    with LocalReceiver() as receiver:
        with pytest.raises(WebhooksError, match=f"cannot listen on 127.0.0.1:{receiver.port}"):
            LocalReceiver(receiver.port)


def test_tls() -> None:
    """With a certificate it serves https; a sender without the authority gets nowhere."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with LocalReceiver(tls=context) as receiver, authority.cert_pem.tempfile() as bundle:
        with pytest.raises(requests.exceptions.SSLError):
            post(receiver)
        assert post(receiver, verify=bundle).status_code == 200
        assert len(receiver.requests) == 1


@pytest.mark.survived("A receiver of ours that is asked without end", "unharmed")
def test_a_receiver_keeps_the_last_requests() -> None:
    """One that runs for days forgets older requests, and large bodies sooner."""
    with LocalReceiver(keeps=3) as receiver:
        for number in range(5):
            requests.post(receiver.url, data=str(number), timeout=10)
        receiver.wait_for(5)
        assert [one.body for one in receiver.requests] == [b"2", b"3", b"4"]
    with LocalReceiver() as receiver:
        for _ in range(6):
            requests.post(receiver.url, data=bytes(15 * 1024 * 1024), timeout=30)
        assert len(receiver.requests) == 4


@pytest.mark.survived("A receiver of ours that is asked without end", "unharmed")
def test_headers_that_are_too_large_are_refused() -> None:
    """Over 16 KiB of headers are answered with 431, as the docs say."""
    with LocalReceiver() as receiver:
        fits = requests.post(receiver.url, headers={"X": "x" * 15_000}, timeout=10)
        large = requests.post(receiver.url, headers={"X": "x" * 16_400}, timeout=10)
        assert (fits.status_code, large.status_code) == (200, 431)
        assert len(receiver.requests) == 1


@pytest.mark.survived("A receiver of ours that is asked without end", "unharmed")
def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """More connections than a person needs are closed; a silent one ends after a while."""
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 3)
    monkeypatch.setattr(server, "SILENT_S", 0.3)
    monkeypatch.setattr(server._Handler, "timeout", 0.3)
    with LocalReceiver() as receiver, ExitStack() as stack:
        held = [
            stack.enter_context(socket.create_connection(("127.0.0.1", receiver.port), 10))
            for _ in range(4)
        ]
        assert held[3].recv(1) == b""
        assert held[0].recv(1) == b""  # silent for too long
        assert requests.post(receiver.url, data="x", timeout=10).status_code == 200
