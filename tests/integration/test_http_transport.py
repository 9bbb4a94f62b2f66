"""HttpTransport on real sockets: answers, connections, and every reason for no answer."""

from __future__ import annotations

import errno
import os
import socket
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

import pytest

from confiture_webhooks.adapters import http_answer, http_connection
from confiture_webhooks.adapters.http import HttpTransport
from confiture_webhooks.delivery import ERROR_TYPES
from confiture_webhooks.doctor.endpoints import try_connection
from confiture_webhooks.errors import TransportError
from confiture_webhooks.networks import Networks
from confiture_webhooks.transport import Request, Response
from peer import OK, Peer, Talk, answers, says, starts_with

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PATIENCE = timedelta(seconds=20)


def request(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    endpoint: str = "analytics",
    body: bytes = b"{}",
) -> Request:
    """A request to *url*."""
    return Request(url=url, headers=headers or {}, body=body, endpoint=endpoint)


def error_type(transport: HttpTransport, sent: Request, timeout: timedelta = PATIENCE) -> str:
    """Why *sent* has no answer."""
    with pytest.raises(TransportError) as caught:
        transport.send(sent, timeout=timeout)
    assert caught.value.error_type in ERROR_TYPES
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return caught.value.error_type


def test_exactly_the_given_request_is_sent(transport: HttpTransport) -> None:
    """The receiver reads the given path, headers and body, and nothing of requests' own."""
    given = {"webhook-id": "evt_1", "User-Agent": "Confiture/1", "traceparent": "00-1-2-01"}
    with Peer(answers(OK)) as peer:
        sent = request(f"{peer.url}/hook?a=1&b=%20", headers=given, body=b'{"\xc3\xa9": 1}')
        assert transport.send(sent, timeout=PATIENCE) == Response(status_code=200)
        head, _, body = peer.requests[0].partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    assert first == "POST /hook?a=1&b=%20 HTTP/1.1"
    assert body == b'{"\xc3\xa9": 1}'
    assert dict(line.split(": ") for line in lines) == given | {
        "Host": f"127.0.0.1:{peer.port}",
        "Accept-Encoding": "identity",
        "Content-Length": str(len(body)),
    }


def test_a_request_without_a_body_has_no_length(transport: HttpTransport) -> None:
    """The HEAD of ``doctor`` is what a browser or curl would send."""
    with Peer(answers(OK.removesuffix(b"ok"))) as peer:
        transport.send(replace(request(peer.url, body=b""), method="HEAD"), timeout=PATIENCE)
        (read,) = peer.requests
    assert b"content-length" not in read.lower()


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 500 No\r\nContent-Length: 4096\r\n\r\n" + b"x" * 4096,
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK,
        b"HTTP/1.1 103 Early Hints\r\n" + b"Link: </a>\r\n" * 200 + b"\r\n" + OK,
        b"HTTP/1.1 104 New\r\nX: y\r\n\r\nHTTP/1.1 199 Newer\r\n\r\n" + OK.replace(b"200", b"503"),
        b"HTTP/1.1 302 Found\r\nLocation: http://[\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_a_connection_is_used_again(transport: HttpTransport, answer: bytes) -> None:
    """After an answer with a short body, the next delivery takes the same connection."""
    status = int(answer.rpartition(b"HTTP/1.1 ")[2][:3])
    with Peer(answers(answer)) as peer:
        for _ in range(3):
            response = transport.send(request(peer.url), timeout=PATIENCE)
            assert response.status_code == status
        assert len(peer.talks) == 1
        assert len(peer.requests) == 3


@pytest.mark.usefixtures("leaves_bodies_soon")
@pytest.mark.parametrize(
    "then",
    [
        pytest.param(lambda talk: talk.drip(b"x"), id="drips"),
        pytest.param(Talk.hang, id="silent"),
        pytest.param(lambda talk: talk.drip(b"x" * 100, every_s=0), id="endless"),
        pytest.param(Talk.reset, id="reset"),
    ],
)
@pytest.mark.parametrize(
    "header", [b"Content-Length: 9999999", b"Transfer-Encoding: chunked\r\n", b"Connection: close"]
)
def test_the_header_is_the_answer(
    transport: HttpTransport, header: bytes, then: Callable[[Talk], object]
) -> None:
    """Whatever the body does, the status counts; the connection is then not used again."""
    answer = b"HTTP/1.1 200 OK\r\n%s\r\n\r\n" % header
    with Peer(starts_with(answer, then)) as peer:
        for _ in range(2):
            response = transport.send(request(peer.url), timeout=PATIENCE)
            assert response == Response(status_code=200)
        assert len(peer.talks) == 2


@pytest.mark.survived("Odd, broken or too many headers after a status line", "kept", "true")
@pytest.mark.survived("Headers or interim answers that do not end", "unharmed")
@pytest.mark.parametrize(
    "rest",
    [
        pytest.param(b"Cont", id="breaks off"),
        pytest.param(b"", id="breaks off early"),
        pytest.param(b"X: x\r\n" * 200 + b"\r\n", id="200 headers"),
        pytest.param(b"X: " + b"x" * 70_000 + b"\r\n\r\n", id="a header too long"),
        pytest.param(b"Content-Length: 0\r\nContent-Length: 2\r\n\r\nok", id="two lengths"),
        pytest.param(b"Content-Length: -1\r\n\r\n", id="negative length"),
        pytest.param(b"Content-Length: x\r\n\r\n", id="no length"),
        pytest.param(b"no header\r\n\r\n", id="no header"),
        pytest.param(b"\x00\xff: \xff\r\n\r\n", id="binary"),
        pytest.param(b"Transfer-Encoding: gzip, chunked\r\n\r\nzz", id="encoding"),
        pytest.param(b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok", id="compressed"),
        pytest.param(b"Set-Cookie: \xff=\r\nContent-Type: ;;;\r\n\r\n", id="odd values"),
    ],
)
@pytest.mark.parametrize("status_code", [200, 410, 503])
@pytest.mark.parametrize("then", [lambda _: None, Talk.reset], ids=["closes", "resets"])
def test_a_status_line_is_the_answer(
    transport: HttpTransport, rest: bytes, status_code: int, then: Callable[[Talk], object]
) -> None:
    """Whatever follows a status line, its status counts, and nothing is sent twice.

    Nor is its version kept as it was written: it becomes an attribute of a metric.
    """
    with Peer(starts_with(b"HTTP/1.1word %d Word\r\n%s" % (status_code, rest), then)) as peer:
        response = transport.send(request(peer.url), timeout=PATIENCE)
        assert response.status_code == status_code
        assert response.version in (None, "1.1")
        assert len(peer.talks) == 1


@pytest.mark.survived("A connection that a gateway forgot", "kept")
@pytest.mark.parametrize("is_old", [True, False])
def test_a_connection_that_was_idle_for_long_is_not_used(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch, *, is_old: bool
) -> None:
    """After a minute of silence a new connection is opened: a gateway may have forgotten the old."""
    assert http_connection.IDLE_AT_MOST_S == 60
    with Peer(answers(OK)) as peer:
        transport.send(request(peer.url), timeout=PATIENCE)
        if is_old:
            monkeypatch.setattr(http_connection, "IDLE_AT_MOST_S", 0)
        transport.send(request(peer.url), timeout=PATIENCE)
        assert len(peer.talks) == 1 + is_old


@pytest.mark.parametrize("is_scarce", [False, True])
def test_a_connection_is_not_kept_where_descriptors_are_scarce(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch, *, is_scarce: bool
) -> None:
    """Another endpoint has its turn; of the last ones none is taken, which the attempt says."""
    left = 2 * http_answer.KEPT_FREE + (not is_scarce)
    monkeypatch.setattr(http_answer, "descriptors_left", lambda _: left)
    with Peer(answers(OK)) as peer:
        for _ in range(2):
            assert transport.send(request(peer.url), timeout=PATIENCE).status_code == 200
        assert len(peer.talks) == 1 + is_scarce
        transport.close()
        monkeypatch.setattr(http_connection, "descriptors_left", lambda _: http_answer.KEPT_FREE)
        with pytest.raises(TransportError) as caught:
            transport.send(request(peer.url), timeout=PATIENCE)
        words = os.strerror(errno.EMFILE).lower()
        assert (caught.value.error_type, caught.value.reason) == ("other", words)


def test_an_attempt_without_a_thread_says_so(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on processes, or the end of Python: the receiver was not asked."""

    def none(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as now:
        now.setattr(threading.Thread, "start", none)
        with pytest.raises(TransportError) as caught:
            transport.send(request("http://127.0.0.1:9"), timeout=PATIENCE)
    assert (caught.value.error_type, caught.value.reason) == ("other", "no thread is to be had")


def test_a_kept_connection_is_probed(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system finds out that the other end is gone while nothing is sent."""
    handles: list[http_connection.SocketHandle] = []
    made = http_connection.SocketHandle.__init__

    def keep(handle: http_connection.SocketHandle, sock: socket.socket) -> None:
        made(handle, sock)
        handles.append(handle)

    monkeypatch.setattr(http_connection.SocketHandle, "__init__", keep)
    with Peer(answers(OK)) as peer:
        transport.send(request(peer.url), timeout=PATIENCE)
        assert handles[0]._sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


@pytest.mark.survived("An address in a denied network, behind a name or a proxy", "private")
@pytest.mark.parametrize("rule", [{"denied": ("private",)}, {"allowed": ("10.0.0.0/8",)}])
def test_an_address_that_is_not_permitted_is_not_dialled(
    transport: HttpTransport, rule: dict[str, tuple[str, ...]]
) -> None:
    """The rule is asked of the resolved address, whatever name stands for it."""
    with Peer(answers(OK)) as peer:
        for host in ("127.0.0.1", "localhost", "127.1", "[::ffff:127.0.0.1]"):
            url = peer.url.replace("127.0.0.1", host)
            sent = Request(url=url, headers={}, body=b"{}", endpoint="a", networks=Networks(**rule))
            with pytest.raises(TransportError) as caught:
                transport.send(sent, timeout=PATIENCE)
            assert caught.value.error_type == "other"
            assert "_networks has" in str(caught.value.reason)
        assert peer.talks == []
        near = Networks(allowed=("127.0.0.0/8",))
        sent = Request(url=peer.url, headers={}, body=b"{}", endpoint="a", networks=near)
        assert transport.send(sent, timeout=PATIENCE).status_code == 200


@pytest.mark.parametrize(
    "host", ["localhost.", "a.localhost", "B\u00fccher.localhost", "LOCALHOST"]
)
def test_a_name_of_this_machine_is_not_asked_of_a_resolver(
    transport: HttpTransport, host: str
) -> None:
    """Plain http is sent to such a name because it is this machine, whatever a resolver says."""
    with Peer(answers(OK)) as peer:
        sent = request(peer.url.replace("127.0.0.1", host))
        assert transport.send(sent, timeout=PATIENCE).status_code == 200
        assert try_connection(sent.url, PATIENCE).step == "answers"


def test_a_zone_is_a_part_of_the_address(transport: HttpTransport) -> None:
    """It is percent-encoded in an address, and not where the system is asked."""
    with pytest.raises(TransportError) as caught:
        transport.send(request("http://[fe80::1%25lo]:9/"), timeout=PATIENCE)
    assert caught.value.error_type != "dns"


def test_another_protocol_is_no_answer(transport: HttpTransport) -> None:
    """A 101 answers a question that was not asked; its connection is not used again."""
    switches = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n"
    with Peer(answers(switches, OK)) as peer:
        assert error_type(transport, request(peer.url)) == "protocol"
        assert transport.send(request(peer.url), timeout=PATIENCE).status_code == 200
        assert len(peer.talks) == 2


def test_a_long_body_is_not_read(transport: HttpTransport) -> None:
    """For a body over a few KiB, a new connection costs less than reading it."""
    with Peer(answers(b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n" + b"x" * 50_000)) as peer:
        for _ in range(2):
            assert transport.send(request(peer.url), timeout=PATIENCE).status_code == 200
        assert len(peer.talks) == 2


def test_a_connection_closed_meanwhile_is_no_failure(transport: HttpTransport) -> None:
    """A receiver may close a kept connection between two deliveries."""
    with Peer(says(OK)) as peer:
        for _ in range(3):
            assert transport.send(request(peer.url), timeout=PATIENCE).status_code == 200
            assert peer.talks[-1].is_closed.wait(20)


@pytest.mark.survived("A connection that is closed under a request", "true")
def test_a_connection_closed_under_the_request_is_no_failure(transport: HttpTransport) -> None:
    """A kept connection that ends without a byte of an answer is replaced within the attempt."""

    def behave(talk: Talk) -> None:
        talk.read()
        talk.sock.sendall(OK)
        talk.read()

    with Peer(behave) as peer:
        for _ in range(2):
            assert transport.send(request(peer.url), timeout=PATIENCE).status_code == 200
        assert [len(talk.requests) for talk in peer.talks] == [2, 1]


@pytest.mark.survived("A redirect", "private")
def test_a_redirect_is_the_answer(transport: HttpTransport) -> None:
    """A 307 is not followed, neither its address looked at."""
    with Peer(answers(OK)) as elsewhere:
        moved = f"HTTP/1.1 307 Moved\r\nLocation: {elsewhere.url}\r\nContent-Length: 0\r\n\r\n"
        with Peer(answers(moved.encode())) as peer:
            assert transport.send(request(peer.url), timeout=PATIENCE).status_code == 307
        assert elsewhere.talks == []


def test_cookies_are_not_kept(transport: HttpTransport) -> None:
    """A receiver's cookie does not come back to it."""
    answer = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b; Path=/\r\nContent-Length: 0\r\n\r\n"
    with Peer(answers(answer)) as peer:
        for _ in range(2):
            transport.send(request(peer.url), timeout=PATIENCE)
        assert b"ookie" not in peer.requests[1]


def test_retry_after_is_read(transport: HttpTransport) -> None:
    """An answer's Retry-After comes with its status: of several the longest that can be read."""
    answer = b"HTTP/1.1 503 No\r\n%sContent-Length: 0\r\n\r\n" % b"".join(
        b"Retry-After: %s\r\n" % value for value in (b"5", b"120", b"soon")
    )
    with Peer(answers(answer)) as peer:
        response = transport.send(request(peer.url), timeout=PATIENCE)
    assert response == Response(status_code=503, retry_after=timedelta(seconds=120))


def test_a_date_that_is_past_by_the_receivers_clock_asks_for_no_wait(
    transport: HttpTransport,
) -> None:
    """Its clock may be ahead of ours: the answer's own Date says what is past."""
    ahead = datetime.now(UTC) + timedelta(hours=1)
    dates = format_datetime(ahead, usegmt=True), format_datetime(ahead - timedelta(minutes=1))
    answer = "HTTP/1.1 503 No\r\nDate: {}\r\nRetry-After: {}\r\n\r\n".format(*dates)
    with Peer(says(answer.encode())) as peer:
        response = transport.send(request(peer.url), timeout=PATIENCE)
    assert response.retry_after == timedelta(0)


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b"X: y\r\n" * 150 + b"Retry-After: 20\r\n\r\n", id="after 150 headers"),
        pytest.param(b"Retry-After: 20\r\n" + b"X: y\r\n" * 150 + b"\r\n", id="before them"),
        pytest.param(b"X: " + b"x" * 200_000 + b"\r\nretry-after:20\r\n\r\n", id="a long line"),
        pytest.param(b"no header\r\nRetry-After: 20\r\n\r\n", id="no header"),
        pytest.param(b"Retry-After: 20\r\nContent-Len", id="breaks off"),
        pytest.param(b"Retry-After:\r\n 20\r\n\r\n", id="folded"),
        pytest.param(
            b"Retry-After: 20\r\nContent-Length: 0\r\nContent-Length: 2\r\n\r\n", id="two lengths"
        ),
        pytest.param(
            b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
            b"Retry-After: Sunday, 06-Nov-94 08:49:57 GMT\r\n\r\n",
            id="by the receiver's clock",
        ),
    ],
)
def test_a_limit_is_read_in_any_header(transport: HttpTransport, header: bytes) -> None:
    """Whatever is odd about the header, the wait that it asks for counts with its status."""
    with Peer(says(b"HTTP/1.1 429 No\r\n" + header)) as peer:
        response = transport.send(request(peer.url), timeout=PATIENCE)
    assert (response.status_code, response.retry_after) == (429, timedelta(seconds=20))


@pytest.mark.parametrize(
    ("behave", "expected"),
    [
        pytest.param(Talk.reset, "connection_reset", id="reset"),
        pytest.param(lambda _: None, "connection_reset", id="closes"),
        pytest.param(says(b""), "connection_reset", id="reads and closes"),
        pytest.param(starts_with(b"", Talk.reset), "connection_reset", id="reads and resets"),
        pytest.param(says(b"HTTP/1.1 200 OK"), "connection_reset", id="breaks off"),
        pytest.param(
            starts_with(b"HTTP/1.1 200 OK", Talk.reset), "connection_reset", id="resets early"
        ),
        pytest.param(
            says(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 6 + OK), "protocol", id="interim answers"
        ),
        pytest.param(says(b"HTTP/1.1 100 Continue\r\n\r\n" * 6 + OK), "protocol", id="continues"),
        pytest.param(says(b"SSH-2.0-OpenSSH_9.2\r\n"), "protocol", id="another protocol"),
        pytest.param(says(b"rubbish"), "protocol", id="rubbish"),
        pytest.param(says(b"\x00\xff" * 99), "protocol", id="binary"),
        pytest.param(says(b"HTTP/1.1 abc OK\r\n\r\n"), "protocol", id="no status"),
        pytest.param(says(b"HTTP/1.1 20 OK\r\n\r\n"), "protocol", id="status too small"),
        pytest.param(says(b"HTTP/2.0 200 OK\r\n\r\n"), "protocol", id="version"),
        pytest.param(says(b"HTTP/1.1 " + b"2" * 70_000), "protocol", id="a status too long"),
    ],
)
def test_why_there_is_no_answer(
    transport: HttpTransport, behave: Callable[[Talk], object], expected: str
) -> None:
    """Whatever a peer does instead of answering has a word, and is not sent twice."""
    with Peer(behave) as peer:
        assert error_type(transport, request(peer.url)) == expected
        assert len(peer.talks) == 1


def test_no_one_listens(transport: HttpTransport) -> None:
    """A refused connection has its own reason."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert error_type(transport, request(f"http://127.0.0.1:{port}")) == "connection_refused"


def test_no_route(transport: HttpTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system says beyond that is other."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("255.255.255.255", 9))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found)
    assert error_type(transport, request("http://broadcast.test")) == "other"


@pytest.mark.parametrize("host", ["nosuch.invalid", "a" * 64 + ".test", "a..test"])
def test_no_such_name(transport: HttpTransport, host: str) -> None:
    """A name that cannot be resolved, or is none, is a fault of DNS."""
    assert error_type(transport, request(f"http://{host}/")) == "dns"


@pytest.mark.parametrize("url", ["ftp://a.test/", "http://", "http://[/", "http://a.test:99999/"])
def test_a_wrong_url(transport: HttpTransport, url: str) -> None:
    """What the configuration should have refused ends as an attempt without an answer."""
    assert error_type(transport, request(url)) == "other"


@pytest.mark.parametrize(
    "headers", [{"X": "a\r\nb"}, {"X": "\u20ac"}, {"X\r\nY": "a"}, {"\u20ac": "a"}, {"": "a"}]
)
def test_wrong_headers(transport: HttpTransport, headers: dict[str, str]) -> None:
    """Headers that no request can carry are never sent, and break nothing else."""
    with Peer(answers(OK)) as peer:
        assert error_type(transport, request(peer.url, headers=headers)) == "other"
        assert transport.send(request(peer.url), timeout=PATIENCE).status_code == 200
        assert len(peer.requests) == 1
