"""What HttpTransport decides without a network: reasons, Retry-After, time left."""

from __future__ import annotations

import errno
import http.client
import os
import socket
import ssl
from datetime import UTC, datetime, timedelta

import pytest
import requests
import urllib3.exceptions as urllib3_errors

from confiture_webhooks.adapters.http_exchange import LONGEST_RETRY_AFTER, Exchange, retry_after
from confiture_webhooks.adapters.http_failure import TYPES, error_type_of, why
from confiture_webhooks.delivery import ERROR_TYPES
from confiture_webhooks.errors import CUT, TransportError
from confiture_webhooks.transport import Request, Response

NOW = datetime(2026, 1, 9, 14, 23, 45, tzinfo=UTC)
LONG = timedelta(hours=1)
REQUEST = Request(url="http://a.test", headers={}, body=b"", endpoint="a")


@pytest.mark.survived("A Retry-After of any text", "kept")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("120", timedelta(seconds=120)),
        (" 0 ", timedelta(0)),
        ("Fri, 09 Jan 2026 14:24:45 GMT", timedelta(minutes=1)),
        ("Friday, 09-Jan-26 14:24:45 GMT", timedelta(minutes=1)),
        ("Fri Jan  9 14:24:45 2026", timedelta(minutes=1)),
        ("Fri, 09 Jan 2026 14:24:45 -0000", timedelta(minutes=1)),
        ("Fri, 09 Jan 2026 14:24:45 +0100", timedelta(0)),
        ("Thu, 01 Jan 1970 00:00:00 GMT", timedelta(0)),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_RETRY_AFTER),
        ("999999999", LONGEST_RETRY_AFTER),
        ("9" * 5000, LONGEST_RETRY_AFTER),
        ("-5", None),
        ("1.5", timedelta(seconds=1.5)),
        ("20.", timedelta(seconds=20)),
        (".5", None),
        ("1e3", None),
        ("1_0", None),
        ("9" * 5000 + ".5", LONGEST_RETRY_AFTER),
        ("soon", None),
        ("", None),
        (None, None),
        ("\u0663", None),
        ("120, 240", timedelta(seconds=240)),
        ("240,soon , 120", timedelta(seconds=240)),
        ("soon, later", None),
        ("soon, Fri, 09 Jan 2026 14:24:45 GMT", timedelta(minutes=1)),
        ("30, Friday, 09-Jan-26 14:24:45 GMT", timedelta(minutes=1)),
        ("Fri Jan  9 14:24:45 2026,90", timedelta(seconds=90)),
        ("Fri, 09 Jan 2026 14:23:55 GMT, Fri, 09 Jan 2026 14:24:45 GMT", timedelta(minutes=1)),
        ("Fri, 09 Jan 2026 14:24:60 GMT", timedelta(seconds=74)),
        ("Fri, 09 Jan 2026 14:60:60 GMT", None),
        ("Fri, 09 Jan 99999 14:24:45 GMT", None),
        ("Fri, 99 Jan 2026 14:24:45 GMT", None),
        ("Fri, 09 Jan 2026 14:24:45 +9999999999", None),
    ],
)
def test_retry_after(text: str | None, expected: timedelta | None) -> None:
    """Retry-After is seconds or a date, never negative, bounded, and ``None`` when unreadable."""
    assert retry_after(text, NOW) == expected


def wrapped(error: Exception) -> Exception:
    """*error* as urllib3 and requests wrap it."""
    reason = urllib3_errors.ProtocolError("Connection aborted.", error)
    most = urllib3_errors.MaxRetryError(None, "/path", reason)  # type: ignore[arg-type]
    return requests.ConnectionError(most)


ERRORS: list[tuple[Exception, str]] = [
    (TimeoutError(), "timeout"),
    (OSError(errno.ETIMEDOUT, ""), "timeout"),
    (urllib3_errors.ReadTimeoutError(None, "/", ""), "timeout"),  # type: ignore[arg-type]
    (socket.gaierror(), "dns"),
    (ConnectionRefusedError(), "connection_refused"),
    (ConnectionResetError(), "connection_reset"),
    (ConnectionAbortedError(), "connection_reset"),
    (BrokenPipeError(), "connection_reset"),
    (http.client.RemoteDisconnected("closed"), "connection_reset"),
    (ssl.SSLEOFError(), "connection_reset"),
    (ssl.SSLZeroReturnError(), "connection_reset"),
    (ssl.SSLError(), "tls"),
    (ssl.SSLCertVerificationError(), "tls"),
    (urllib3_errors.SSLError(), "tls"),
    (http.client.BadStatusLine("rubbish"), "protocol"),
    (http.client.LineTooLong("header line"), "protocol"),
    (http.client.HTTPException("got more than 100 headers"), "protocol"),
    (OSError(errno.EHOSTUNREACH, ""), "other"),
    (urllib3_errors.ProxyError("", OSError("Tunnel connection failed: 407")), "proxy"),
    (urllib3_errors.ProxyError("", ConnectionRefusedError()), "proxy"),
    (requests.exceptions.InvalidSchema("Missing dependencies for SOCKS support."), "proxy"),
    (ValueError(), "other"),
    (UnicodeEncodeError("latin-1", "x", 0, 1, ""), "other"),
]


@pytest.mark.parametrize(("error", "expected"), ERRORS)
def test_every_error_has_a_type(error: Exception, expected: str) -> None:
    """An error has its type as it is, as urllib3 and requests wrap it, as cause and as context."""
    assert why(error)[0] == expected
    assert why(wrapped(error))[0] == expected
    caused = RuntimeError()
    caused.__cause__ = error
    assert why(caused)[0] == expected
    hidden = RuntimeError()
    hidden.__context__ = error
    assert why(wrapped(hidden))[0] == expected


@pytest.mark.parametrize(
    "number", [errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EMFILE, errno.EPERM]
)
def test_the_systems_reason_is_kept(number: int) -> None:
    """An attempt that the system refused is of the type ``other``, with the system's words."""
    error = wrapped(OSError(number, "CANARY"))
    assert why(error) == ("other", os.strerror(number).lower())


def test_only_the_closed_set_is_given() -> None:
    """The table has the words of the contract; all but two are in it."""
    given = {error_type for error_type, _ in TYPES}
    assert given == ERROR_TYPES - {"too_slow", "other"}


def test_a_chain_that_is_a_circle_ends() -> None:
    """Errors that point at each other are looked at once."""
    one, other = ValueError(), ValueError()
    one.__cause__, other.__cause__ = other, one
    assert why(one)[0] == "other"


def test_the_answer_is_what_came_first() -> None:
    """An answer stays the outcome when the attempt is cut or fails after it."""
    exchange = Exchange(REQUEST, LONG)
    exchange.answered(Response(status_code=200))
    exchange.cut(is_abort=True)
    exchange.finish("connection_reset")
    assert exchange.outcome() == Response(status_code=200)


def test_an_answer_after_the_cut_does_not_count() -> None:
    """Headers that end because the attempt was cut are not an answer."""
    exchange = Exchange(REQUEST, LONG)
    exchange.cut()
    with pytest.raises(TimeoutError):
        exchange.answered(Response(status_code=200))
    exchange.finish(exchange.verdict("protocol"))
    with pytest.raises(TransportError, match="timeout"):
        exchange.outcome()


@pytest.mark.parametrize(
    ("is_received", "is_abort", "expected"),
    [(False, False, "timeout"), (True, False, "too_slow"), (True, True, "timeout")],
)
def test_whether_bytes_came_separates_slow_from_silent(
    *, is_received: bool, is_abort: bool, expected: str
) -> None:
    """Out of time is too slow if a byte of the answer came, unless it was aborted: that is no fault of the receiver's."""
    exchange = Exchange(REQUEST, LONG)
    exchange.is_heard = is_received
    exchange.cut(is_abort=is_abort)
    assert exchange.verdict("connection_reset") == expected
    exchange.finish(exchange.verdict("connection_reset"))
    with pytest.raises(TransportError, match=f"^{CUT if is_abort else expected}$"):
        exchange.outcome()


def test_nothing_is_begun_after_the_cut() -> None:
    """What would be started after the cut is stopped before."""
    exchange = Exchange(REQUEST, LONG)
    exchange.cut()
    with pytest.raises(TimeoutError):
        exchange.stops_with(lambda: None)
    with pytest.raises(TimeoutError):
        exchange.left()


def test_a_cut_stops_what_is_going_on() -> None:
    """The latest thing that can be stopped is, once."""
    stopped: list[str] = []
    exchange = Exchange(REQUEST, LONG)
    exchange.stops_with(lambda: stopped.append("lookup"))
    exchange.stops_with(lambda: stopped.append("connection"))
    exchange.cut()
    exchange.cut()
    assert stopped == ["connection"]


def test_a_finished_attempt_is_not_cut() -> None:
    """A cut that comes too late neither stops anything nor changes the reason."""
    stopped: list[str] = []
    exchange = Exchange(REQUEST, LONG)
    exchange.stops_with(lambda: stopped.append("connection"))
    exchange.finish("tls")
    exchange.cut()
    assert stopped == []
    with pytest.raises(TransportError, match="tls"):
        exchange.outcome()


def test_what_a_cut_breaks_is_no_reason() -> None:
    """Time was up: what its end did to the connection says nothing of the way."""
    exchange = Exchange(REQUEST, LONG)
    broken = urllib3_errors.ProxyError("no tunnel", ConnectionResetError())
    exchange.cut()
    assert (error_type_of(exchange, broken), exchange.reason) == ("timeout", None)
