"""What an attempt leaves in traces, metrics, logs and errors: never a part of the address."""

from __future__ import annotations

import http.client
import logging
import pickle
import ssl
import traceback
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from opentelemetry.instrumentation.utils import is_http_instrumentation_enabled
from opentelemetry.sdk.trace import ReadableSpan
from urllib3 import HTTPConnectionPool

from confiture_webhooks.adapters.http import HttpTransport
from confiture_webhooks.errors import TransportError
from confiture_webhooks.transport import Request
from observed import Observed
from peer import OK, Peer, Talk, answers, hello_then, says, starts_with

if TYPE_CHECKING:
    from collections.abc import Callable

CANARY = "canary"
SECRET_HEADERS = {
    "Authorization": "Bearer header-canary",
    "X-Confiture-Secret": "secret-canary",
    "X-Api-Key": "key-canary",
}
ANSWER = (
    b"HTTP/1.1 %d Reason-canary\r\nServer: canary\r\nSet-Cookie: canary=canary\r\n"
    b"Location: http://canary.test/canary\r\nX-Canary: canary\r\nContent-Length: 6\r\n\r\ncanary"
)
TIMEOUTS: dict[str | int, timedelta] = {
    "timeout": timedelta(milliseconds=150),
    "too_slow": timedelta(milliseconds=500),
    500: timedelta(milliseconds=500),
}
"""Short where an answer does not end, and shorter where none comes."""
PATIENCE = timedelta(seconds=20)


def request(url: str, *, resend_count: int = 0) -> Request:
    """A request to *url*, with a canary everywhere."""
    address = url.replace("//", "//user-canary:word-canary@") + "/path-canary?query=canary#canary"
    return Request(
        url=address,
        headers=SECRET_HEADERS,
        body=b'{"body": "canary"}',
        endpoint="analytics",
        resend_count=resend_count,
    )


def untrusted() -> ssl.SSLContext:
    """TLS with a certificate nobody trusts."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context


BEHAVIOURS: dict[str, tuple[Callable[[Talk], object], str | int]] = {
    "success": (answers(ANSWER % 200), 200),
    "500": (answers(ANSWER % 500), 500),
    "redirect": (answers(ANSWER % 302), 302),
    "malformed header": (answers(b"HTTP/1.1 200 OK\r\ncanary canary\r\n\r\n" + OK), 200),
    "bad cookie": (says(b"HTTP/1.1 200 OK\r\nSet-Cookie: canary; expires=canary\r\n\r\n"), 200),
    "timeout": (Talk.hang, "timeout"),
    "too slow": (starts_with(b"HTTP/1.1 200 canary", Talk.hang), "too_slow"),
    "no end of headers": (starts_with(b"HTTP/1.1 500 canary\r\n", Talk.hang), 500),
    "reset": (starts_with(b"", Talk.reset), "connection_reset"),
    "rubbish": (says(b"canary canary\r\n\r\n"), "protocol"),
    "long header": (says(b"HTTP/1.1 200 OK\r\n" + b"canary" * 20_000), 200),
    "drips TLS": (hello_then(Talk.hang), "timeout"),
}


@pytest.mark.survived("Secrets in addresses, headers, SQL and answers", "private")
@pytest.mark.usefixtures("leaves_bodies_soon")
@pytest.mark.parametrize("case", [*BEHAVIOURS, "untrusted", "refused", "dns", "scheme", "host"])
def test_no_part_of_an_attempt_leaks(
    transport: HttpTransport,
    observed: Observed,
    case: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A canary in address, headers, body and answer is in nothing exported, logged or raised."""
    caplog.set_level(logging.DEBUG)
    behave, expected = BEHAVIOURS.get(case, (answers(OK), case))
    with Peer(behave, tls=untrusted() if case == "untrusted" else None) as peer:
        url = {
            "refused": "http://127.0.0.1:9",
            "dns": "http://nosuch.invalid",
            "scheme": "gopher://127.0.0.1",
            "host": "http://[canary",
            "drips TLS": peer.url.replace("http", "https"),
        }.get(case, peer.url)
        expected = {
            "untrusted": "tls",
            "refused": "connection_refused",
            "scheme": "other",
            "host": "other",
        }.get(case, expected)
        raised = ""
        got: int | str
        try:
            timeout = TIMEOUTS.get(expected, PATIENCE)
            got = observed.send(transport, request(url, resend_count=1), timeout).status_code
        except TransportError as error:
            got = error.error_type
            raised = reported(error)
    assert got == expected
    if case != "host":
        (span,) = observed.attempts
        assert is_described(span)
    written = "".join(capfd.readouterr())
    records = "".join(f"{record.getMessage()} {record.exc_text}" for record in caplog.records)
    for text in (observed.everything(), raised, written, records, caplog.text):
        assert CANARY not in text.lower()


def reported(error: BaseException) -> str:
    """Everything that *error* shows, with the local variables of its traceback."""
    assert error.__context__ is None
    report = traceback.TracebackException.from_exception(error, capture_locals=True)
    ours = [frame for frame in report.stack if frame.filename != __file__]
    locals_ = "".join(str(frame.locals) for frame in ours)
    return f"{error!s}{error!r}{pickle.dumps(error)!r}{locals_}{''.join(report.stack.format()[1:])}"


def is_described(span: ReadableSpan) -> bool:
    """Whether a span names host, port and resends."""
    keys = set(span.attributes or {})
    return {"server.address", "server.port", "http.request.resend_count"} <= keys


def test_deeper_instrumentation_is_kept_out(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instrumentation of urllib3, which would show the whole address, makes no span."""
    seen: list[bool] = []
    urlopen = HTTPConnectionPool.urlopen

    def instrumented(self: HTTPConnectionPool, *args: Any, **kwargs: Any) -> Any:
        seen.append(is_http_instrumentation_enabled())
        return urlopen(self, *args, **kwargs)

    monkeypatch.setattr(HTTPConnectionPool, "urlopen", instrumented)
    with Peer(answers(OK)) as peer:
        transport.send(request(peer.url), timeout=PATIENCE)
    assert seen == [False]


def test_nothing_is_printed(
    transport: HttpTransport, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not even where http.client is set to print what it sends and reads."""
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    with Peer(answers(OK)) as peer:
        transport.send(request(peer.url), timeout=PATIENCE)
    assert "".join(capfd.readouterr()) == ""


def test_others_logs_of_urllib3_stay(
    transport: HttpTransport, caplog: pytest.LogCaptureFixture
) -> None:
    """Only records about webhooks are dropped from urllib3's loggers."""
    caplog.set_level(logging.DEBUG)
    with Peer(answers(OK)) as peer:
        transport.send(request(peer.url), timeout=PATIENCE)
        assert [record for record in caplog.records if record.name.startswith("urllib3")] == []
        logging.getLogger("urllib3.connectionpool").debug("somebody else's")
    assert "somebody else's" in caplog.text
