"""HttpTransport ends every attempt in time, at whatever it hangs, and leaves nothing behind."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import ExitStack, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import urllib3.connection

from confiture_webhooks.adapters.http import HttpTransport
from confiture_webhooks.adapters.http_session import EndpointSession
from confiture_webhooks.errors import CUT, TransportError
from confiture_webhooks.transport import Request
from peer import OK, Peer, Talk, answers, hello_then, starts_with

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BRIEF = timedelta(milliseconds=150)
"""For an attempt whose time is up before anything of an answer comes."""
SHORT = timedelta(milliseconds=500)
"""For an attempt that has to get the beginning of an answer, on a busy machine too."""
LONG = timedelta(seconds=50)
BOUND_S = 10.0
"""Far over the attempt's time, far below the test's: only a hang is longer."""

REAL_GETADDRINFO = socket.getaddrinfo


class Hang:
    """A place to hang at: where to send to, and what is said there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._stack = ExitStack()
        self._monkeypatch = monkeypatch
        self.is_released = threading.Event()
        self._stack.callback(self.is_released.set)
        self.peers: list[Peer] = []

    def close(self) -> None:
        """Let go."""
        self._stack.close()

    def peer(self, behave: Callable[[Talk], object], scheme: str = "http") -> str:
        """The URL of a peer that does *behave*."""
        self.peers.append(self._stack.enter_context(Peer(behave)))
        return self.peers[-1].url.replace("http", scheme)

    def name(self) -> str:
        """A URL whose host's addresses are looked up for ever."""
        port = int(self.peer(answers(OK)).rpartition(":")[2])

        def hang(host: str, *args: object) -> list[object]:
            if host == "hangs.test":
                self.is_released.wait()
                host = "127.0.0.1"
            return REAL_GETADDRINFO(host, *args)  # type: ignore[arg-type,return-value]

        self._monkeypatch.setattr(socket, "getaddrinfo", hang)
        return f"http://hangs.test:{port}/"

    def proxy(self, behave: Callable[[Talk], object]) -> str:
        """A URL that is reached through a proxy that does *behave*."""
        self._monkeypatch.setenv("https_proxy", self.peer(behave))
        return "https://receiver.test/"

    def connect(self) -> str:
        """A URL that no connection can be made to: its listener's queue is full."""
        listener = self._stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = self._stack.enter_context(socket.socket())
            filler.setblocking(False)
            with suppress(BlockingIOError):
                filler.connect(listener.getsockname())
        return f"http://127.0.0.1:{listener.getsockname()[1]}/"


NEVER_READS = "never reads"
TLS_RECORD = b"\x16\x03\x03\x40\x00" + b"\x02\x00\x3f\xfc" + b"\x03\x03" + bytes(300)
PLACES: dict[str, tuple[Callable[[Hang], str], str]] = {
    "name": (Hang.name, "timeout"),
    "connect": (Hang.connect, "timeout"),
    "tls": (lambda hang: hang.peer(Talk.hang, "https"), "timeout"),
    "tls drips": (
        lambda hang: hang.peer(hello_then(lambda talk: talk.drip(TLS_RECORD)), "https"),
        "timeout",
    ),
    NEVER_READS: (lambda hang: hang.peer(Talk.hang), "timeout"),
    "no answer": (lambda hang: hang.peer(starts_with(b"", Talk.hang)), "timeout"),
    "proxy drips": (
        lambda hang: hang.proxy(starts_with(b"HTTP/1.1 200 ", lambda talk: talk.drip(b"x"))),
        "too_slow",
    ),
    "tunnel": (
        lambda hang: hang.proxy(starts_with(b"HTTP/1.1 200 OK\r\n\r\n", Talk.hang)),
        "timeout",
    ),
    "half a status line": (
        lambda hang: hang.peer(starts_with(b"HTTP/1.1 200 O", Talk.hang)),
        "too_slow",
    ),
    "status line drips": (
        lambda hang: hang.peer(starts_with(b"HTTP/1.1 200 ", lambda talk: talk.drip(b"x"))),
        "too_slow",
    ),
    "continue": (
        lambda hang: hang.peer(
            starts_with(b"", lambda talk: talk.drip(b"HTTP/1.1 100 Continue\r\n\r\n", 0.005))
        ),
        "too_slow",
    ),
}
EVERYWHERE = pytest.mark.parametrize("place", PLACES)


@pytest.fixture
def hang(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hang]:
    """Places to hang at, released afterwards."""
    hang = Hang(monkeypatch)
    yield hang
    hang.close()


def request(url: str, endpoint: str = "analytics", *, body: bytes = b"{}") -> Request:
    """A request to *url*."""
    return Request(url=url, headers={}, body=body, endpoint=endpoint)


def body(place: str) -> bytes:
    """A short body, or one that no buffer holds where nobody reads it."""
    return b"x" * 20_000_000 if place == NEVER_READS else b"{}"


def own_threads() -> list[str]:
    """The names of the transport's threads, and of nothing else that may still be running."""
    names = [one.name for one in threading.enumerate()]
    return [name for name in names if name in {"webhooks-dns", "webhooks-bounded"}]


def assert_soon(is_true: Callable[[], bool]) -> None:
    """*is_true* becomes so before a hang would end."""
    deadline = time.monotonic() + BOUND_S
    while not is_true() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert is_true()


def in_background(transport: HttpTransport, url: str) -> threading.Thread:
    """Start a thread that sends to *url* and is not surprised when there is no answer."""

    def send() -> None:
        with suppress(TransportError):
            transport.send(request(url), timeout=LONG)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    return sender


@pytest.mark.survived("A receiver that hangs or drips at any point of an attempt", "unharmed")
@EVERYWHERE
def test_an_attempt_ends_in_time(transport: HttpTransport, hang: Hang, place: str) -> None:
    """Wherever a peer hangs or drips, the attempt ends, with its word, and so does its thread."""
    where, expected = PLACES[place]
    url = where(hang)
    timeout = BRIEF if expected == "timeout" else SHORT
    started = time.monotonic()
    with pytest.raises(TransportError) as caught:
        transport.send(request(url, body=body(place)), timeout=timeout)
    assert time.monotonic() - started < BOUND_S
    assert caught.value.error_type == expected
    transport.close()
    assert_soon(lambda: [name for name in own_threads() if name != "webhooks-dns"] == [])


@pytest.mark.survived("An answer whose body does not end", "unharmed")
@pytest.mark.usefixtures("leaves_bodies_soon")
@pytest.mark.parametrize(
    "then",
    [
        pytest.param(Talk.hang, id="silent"),
        pytest.param(lambda talk: talk.drip(b"x"), id="drips"),
        pytest.param(lambda talk: talk.drip(b"1\r\nx\r\n"), id="drips chunks"),
    ],
)
def test_a_body_is_not_waited_for(
    transport: HttpTransport, hang: Hang, then: Callable[[Talk], object]
) -> None:
    """An answer whose body does not come is there long before the attempt's time is up."""
    url = hang.peer(starts_with(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", then))
    started = time.monotonic()
    assert transport.send(request(url), timeout=LONG).status_code == 200
    assert time.monotonic() - started < BOUND_S


HEADERS: dict[str, Callable[[Talk], object]] = {
    "silent": Talk.hang,
    "drip": lambda talk: talk.drip(b"X: y\r\n", 0.05),
    "one long header drips": lambda talk: talk.drip(b"x"),
}


@pytest.mark.survived("Headers or interim answers that do not end", "unharmed")
@pytest.mark.parametrize("then", HEADERS.values(), ids=HEADERS)
def test_a_status_line_is_the_answer(
    transport: HttpTransport, hang: Hang, then: Callable[[Talk], object]
) -> None:
    """Headers that do not end change nothing of an answer, and are waited for no longer than an attempt."""
    url = hang.peer(starts_with(b"HTTP/1.1 200 OK\r\n", then))
    started = time.monotonic()
    assert transport.send(request(url), timeout=SHORT).status_code == 200
    assert time.monotonic() - started < BOUND_S
    transport.close()
    assert_soon(lambda: own_threads() == [])


@EVERYWHERE
def test_abort_ends_an_attempt_now(transport: HttpTransport, hang: Hang, place: str) -> None:
    """Wherever an attempt hangs, abort ends it as cut, and all later ones."""
    url = PLACES[place][0](hang)
    ends: list[str] = []

    def send() -> None:
        try:
            transport.send(request(url, body=body(place)), timeout=LONG)
        except TransportError as error:
            ends.append(error.error_type)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    assert_soon(lambda: "webhooks-bounded" in own_threads())
    time.sleep(0.1)  # so that it is where it hangs
    transport.abort()
    sender.join(BOUND_S)
    assert ends == [CUT]
    with pytest.raises(TransportError, match=f"^{CUT}$"):
        transport.send(request(url), timeout=LONG)
    assert_soon(lambda: [name for name in own_threads() if name != "webhooks-dns"] == [])


def test_abort_ends_an_attempt_on_a_kept_connection(transport: HttpTransport, hang: Hang) -> None:
    """An attempt that hangs on a connection used before ends on abort, with its thread."""

    def behave(talk: Talk) -> None:
        talk.read()
        talk.sock.sendall(OK)
        talk.read()
        talk.hang()

    url = hang.peer(behave)
    transport.send(request(url), timeout=LONG)
    in_background(transport, url)
    assert_soon(lambda: [len(talk.requests) for talk in hang.peers[0].talks] == [2])
    transport.abort()
    assert_soon(lambda: own_threads() == [])


def test_where_an_answer_came_just_now_an_attempt_needs_no_thread(
    transport: HttpTransport, hang: Hang, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the first of several attempts at an address runs on a thread of its own."""
    started: list[str] = []
    start = threading.Thread.start

    def noted(thread: threading.Thread) -> None:
        started.append(thread.name)
        start(thread)

    url = hang.peer(answers(OK, OK, OK))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", noted)
        for _ in range(3):
            assert transport.send(request(url), timeout=LONG).status_code == 200
    assert started.count("webhooks-bounded") == 1


AFTER_AN_ANSWER: dict[str, tuple[Callable[[Talk], object], str]] = {
    "no answer": (Talk.hang, "timeout"),
    "half a status line": (starts_with(b"HTTP/1.1 200 O", Talk.hang), "too_slow"),
    "status line drips": (
        starts_with(b"HTTP/1.1 200 ", lambda talk: talk.drip(b"x")),
        "too_slow",
    ),
}


@pytest.mark.parametrize("place", AFTER_AN_ANSWER)
@pytest.mark.parametrize("is_aborted", [False, True], ids=["time is up", "aborted"])
def test_an_attempt_after_an_answer_ends_in_time(
    transport: HttpTransport, hang: Hang, place: str, *, is_aborted: bool
) -> None:
    """An attempt on the caller's own thread ends as one on another: in time, and on abort."""
    behave, error_type = AFTER_AN_ANSWER[place]

    def first_answer(talk: Talk) -> None:
        talk.read()
        talk.sock.sendall(OK)
        behave(talk)

    url = hang.peer(first_answer)
    transport.send(request(url), timeout=LONG)
    if is_aborted:
        threading.Timer(0.1, transport.abort).start()
    timeout = BRIEF if error_type == "timeout" else SHORT
    began = time.monotonic()
    with pytest.raises(TransportError, match=f"^{CUT if is_aborted else error_type}$"):
        transport.send(request(url), timeout=LONG if is_aborted else timeout)
    assert time.monotonic() - began < BOUND_S


def test_a_reset_before_the_handshake_leaves_no_socket(
    transport: HttpTransport, hang: Hang, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that is cut and reset before TLS begins is closed, though ``ssl`` forgets it."""
    wrap = urllib3.connection.ssl_wrap_socket
    url = hang.peer(lambda talk: (is_cut.wait(BOUND_S), talk.reset()), "https")
    is_cut = threading.Event()
    raised: list[Exception] = []

    def cut_first(sock: socket.socket, *args: Any, **kwargs: Any) -> Any:
        assert_soon(lambda: hang.peers[0].talks != [])
        sock.shutdown(socket.SHUT_RDWR)
        is_cut.set()
        hang.peers[0].talks[0].is_closed.wait(BOUND_S)
        try:
            return wrap(sock, *args, **kwargs)
        except OSError as error:
            raised.append(error)
            raise

    monkeypatch.setattr(urllib3.connection, "ssl_wrap_socket", cut_first)
    with pytest.raises(TransportError, match="connection_reset"):
        transport.send(request(url), timeout=LONG)
    assert [type(error) for error in raised] == [ConnectionResetError]
    step = raised[0].__traceback__
    made: list[ssl.SSLSocket] = []
    while step is not None:
        made += [v for v in step.tb_frame.f_locals.values() if isinstance(v, ssl.SSLSocket)]
        step = step.tb_next
    assert made
    assert {sock.fileno() for sock in made} == {-1}


@pytest.mark.survived("A host name that does not resolve, or whose lookup hangs", "unharmed")
def test_a_dead_name_costs_one_thread(transport: HttpTransport, hang: Hang) -> None:
    """However often it is tried, one lookup is under way; none of the requests is sent later."""
    url = hang.name()
    before = own_threads().count("webhooks-dns")
    for _ in range(10):
        with pytest.raises(TransportError, match="timeout"):
            transport.send(request(url), timeout=timedelta(milliseconds=20))
    assert own_threads().count("webhooks-dns") == before + 1
    hang.is_released.set()
    assert_soon(lambda: "webhooks-dns" not in own_threads())
    assert transport.send(request(url), timeout=LONG).status_code == 200
    assert len(hang.peers[0].talks) == 1


def test_what_cannot_be_interrupted_costs_three_threads(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt stuck where no deadline reaches is left behind; not more than three are."""
    is_released = threading.Event()
    stuck: list[object] = []

    def stick(*args: object) -> None:
        stuck.append(args)
        is_released.wait()

    monkeypatch.setattr(EndpointSession, "exchange", stick)
    for _ in range(5):
        with pytest.raises(TransportError, match="timeout"):
            transport.send(request("http://a.test"), timeout=timedelta(milliseconds=20))
    assert len(stuck) == 3
    is_released.set()
    transport.close()
    assert_soon(lambda: own_threads() == [])


def test_an_attempt_leaves_no_thread(transport: HttpTransport) -> None:
    """When an attempt is over, so is its thread."""
    with Peer(answers(OK)) as peer:
        for _ in range(3):
            transport.send(request(peer.url), timeout=LONG)
        assert_soon(lambda: own_threads() == [])


def test_a_hang_delays_no_other_endpoint(transport: HttpTransport, hang: Hang) -> None:
    """While one endpoint's attempt hangs, another's is made."""
    url = hang.peer(Talk.hang)
    sender = in_background(transport, url)
    assert_soon(lambda: "webhooks-bounded" in own_threads())
    with Peer(answers(OK)) as peer:
        assert transport.send(request(peer.url, "other"), timeout=LONG).status_code == 200
    assert sender.is_alive()


@pytest.mark.survived("A name whose first address hangs", "kept")
@pytest.mark.parametrize("timeout_s", [1.5, 60])
def test_an_address_that_hangs_leaves_time_for_the_next(
    transport: HttpTransport, hang: Hang, monkeypatch: pytest.MonkeyPatch, timeout_s: float
) -> None:
    """A host with a dead first address is soon reached at its second, whatever the time-out."""
    dead = int(hang.connect().rstrip("/").rpartition(":")[2])
    with Peer(answers(OK)) as peer:
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))
            for port in (dead, peer.port)
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found)
        began, timeout = time.monotonic(), timedelta(seconds=timeout_s)
        assert transport.send(request("http://two.test"), timeout=timeout).status_code == 200
        assert time.monotonic() - began < 10


def test_the_last_address_has_all_the_time_that_is_left(
    transport: HttpTransport, hang: Hang, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receiver that is slow to connect is waited for as long as its endpoint says."""
    monkeypatch.setattr("confiture_webhooks.adapters.http_connection.MOST_PER_ADDRESS_S", 0.1)
    began = time.monotonic()
    with pytest.raises(TransportError, match="timeout"):
        transport.send(request(hang.connect()), timeout=timedelta(seconds=1))
    assert time.monotonic() - began >= 0.9
