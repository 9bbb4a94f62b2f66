"""What ``verify`` accepts and refuses, and what a request looks like on paper."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.message import Message
from typing import Any

import pytest

from confiture_webhooks.cli.tables import print_facts
from confiture_webhooks.errors import ConfigError, SignatureError, WebhooksError
from confiture_webhooks.event import body as body_of
from confiture_webhooks.receiver import Received, verify
from confiture_webhooks.receiver.local import (
    HIDDEN,
    as_document,
    describe,
    payload_of,
    read_capture,
)
from confiture_webhooks.receiver.server import Answer, Headers, answer_of
from confiture_webhooks.signature import body_signature, webhook_signature

NOW = datetime(2026, 1, 9, 14, 23, 45, tzinfo=UTC)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "another secret"
PAYLOAD = {"event_id": "evt_1", "event_type": "migration_success", "trace_id": "4bf9" * 8}
BODY = body_of(PAYLOAD)


def signed(*secrets: str, body: bytes = BODY, at: datetime = NOW) -> dict[str, str]:
    """The headers of a request that *secrets* sign at *at*."""
    return {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": webhook_signature(secrets or (SECRET,), "evt_1", at, body),
        "traceparent": "00-" + "4bf9" * 8 + "-00f067aa0ba902b7-01",
    }


def shown(document: dict[str, Any]) -> str:
    """How ``listen`` describes a request, a fact on each line."""
    title, facts = describe(document)
    return "\n".join([title, *(f"{name}: {value}" for name, value in facts.items())])


def test_event() -> None:
    """A signed request becomes the event, with everything a receiver acts on."""
    event = verify(signed(), BODY, SECRET, now=NOW)
    assert (event.id, event.type, event.sent_at) == ("evt_1", "migration_success", NOW)
    assert (event.correlation_id, event.payload) == ("4bf9" * 8, PAYLOAD)
    assert event.traceparent == "00-" + "4bf9" * 8 + "-00f067aa0ba902b7-01"


def test_header_names_in_any_case() -> None:
    """Header names are matched whatever their case."""
    shouted = {name.upper(): value for name, value in signed().items()}
    assert verify(shouted, BODY, SECRET, now=NOW).id == "evt_1"


def test_headers_as_asgi_has_them() -> None:
    """Pairs of bytes are headers as well, and one that is there twice is refused all the same."""
    raw: Any = [(name.encode(), value.encode()) for name, value in signed().items()]
    assert verify(raw, BODY, SECRET, now=NOW).id == "evt_1"
    with pytest.raises(SignatureError):
        verify([*raw, ("webhook-id", "evt_1")], BODY, SECRET, now=NOW)


def test_repeated_header_of_no_concern() -> None:
    """A header that a proxy repeated does not matter, as frameworks hand it over."""
    message = Message()
    for name, value in [*signed().items(), ("Via", "1.1 a"), ("Via", "1.1 b")]:
        message[name] = value
    assert verify(message, BODY, SECRET, now=NOW).id == "evt_1"  # type: ignore[arg-type]


@pytest.mark.parametrize("receiver_has", [[OTHER], [SECRET], [SECRET, OTHER], ["third", OTHER]])
def test_rotation(receiver_has: list[str]) -> None:
    """During a rotation any secret of the receiver that any signature is made with will do."""
    assert verify(signed(SECRET, OTHER), BODY, receiver_has, now=NOW).id == "evt_1"


@pytest.mark.parametrize("seconds", [-300, 300])
def test_within_tolerance(seconds: int) -> None:
    """A request is accepted up to five minutes early or late."""
    at = NOW + timedelta(seconds=seconds)
    assert verify(signed(at=at), BODY, SECRET, now=NOW).sent_at == at


@pytest.mark.parametrize("seconds", [-301, 301])
def test_beyond_tolerance(seconds: int) -> None:
    """Beyond five minutes it is refused, unless any time is accepted."""
    headers = signed(at=NOW + timedelta(seconds=seconds))
    with pytest.raises(SignatureError):
        verify(headers, BODY, SECRET, now=NOW)
    assert verify(headers, BODY, SECRET, now=NOW, tolerance=None).id == "evt_1"


def _refusals() -> dict[str, tuple[dict[str, Any], bytes]]:
    array = b"[1]"
    deep = b"[" * 100_000
    not_text = b"\xff"
    right = signed()
    return {
        "no headers": ({}, BODY),
        "headers are not a mapping": (None, BODY),  # type: ignore[dict-item]
        "body changed": (right, BODY + b" "),
        "other secret": (signed(OTHER), BODY),
        "other id": ({**right, "webhook-id": "evt_2"}, BODY),
        "empty id": ({**right, "webhook-id": ""}, BODY),
        "other time": ({**right, "webhook-timestamp": str(int(NOW.timestamp()) + 1)}, BODY),
        "time is a word": ({**right, "webhook-timestamp": "now"}, BODY),
        "time in other digits": (
            {**right, "webhook-timestamp": "\N{ARABIC-INDIC DIGIT ONE}"},
            BODY,
        ),
        "time without end": ({**right, "webhook-timestamp": "9" * 10_000}, BODY),
        "signature of another version": (
            {**right, "webhook-signature": right["webhook-signature"].replace("v1,", "v2,")},
            BODY,
        ),
        "signature without a version": (
            {**right, "webhook-signature": right["webhook-signature"].removeprefix("v1,")},
            BODY,
        ),
        "not ASCII": ({**right, "webhook-signature": "v1,é"}, BODY),
        "huge header": ({**right, "webhook-signature": "v1,a " * 100_000}, BODY),
        "lone surrogate": ({**right, "webhook-id": "\ud800"}, BODY),
        "header is a list": ({**right, "webhook-signature": ["v1,a"]}, BODY),
        "the same header twice": ({**right, "Webhook-Id": "evt_1"}, BODY),
        "the same header twice, joined": (
            {**right, "webhook-signature": f"v1,x, {right['webhook-signature']}"},
            BODY,
        ),
        "only the body's signature": (
            {"X-Confiture-Signature": body_signature(SECRET, BODY)},
            BODY,
        ),
        "signed, not an object": (signed(body=array), array),
        "signed, nested without end": (signed(body=deep), deep),
        "not text": ({**right}, not_text),
        "too big": (signed(body=b" " * (1024 * 1024) + BODY), b" " * (1024 * 1024) + BODY),
    }


REFUSALS = _refusals()


@pytest.mark.parametrize("case", REFUSALS)
def test_one_answer(case: str) -> None:
    """Whatever is wrong, the answer is the same words, and shows nothing of the cause."""
    headers, body = REFUSALS[case]
    with pytest.raises(SignatureError) as refusal:
        verify(headers, body, SECRET, now=NOW)
    with pytest.raises(SignatureError) as plain:
        verify({}, b"", SECRET, now=NOW)
    assert str(refusal.value) == str(plain.value)
    assert refusal.value.__cause__ is None
    assert refusal.value.__suppress_context__


@pytest.mark.parametrize("body", [BODY.decode(), None, PAYLOAD])
def test_a_body_that_is_not_bytes_is_the_callers_mistake(body: Any) -> None:
    """A framework's text or parsed body is no attack: the call itself is wrong, and says how."""
    with pytest.raises(TypeError, match=f"bytes as received, not {type(body).__name__}"):
        verify(signed(), body, SECRET, now=NOW)


def test_body_signature_when_asked() -> None:
    """The signature without a time is accepted only from those who ask for it."""
    headers = {"X-Confiture-Signature": body_signature(SECRET, BODY)}
    event = verify(headers, BODY, SECRET, require_timestamp=False)
    assert (event.id, event.sent_at) == ("evt_1", None)


def test_no_downgrade() -> None:
    """A wrong signature with a time is not saved by a right one without."""
    headers = {**signed(OTHER), "X-Confiture-Signature": body_signature(SECRET, BODY)}
    with pytest.raises(SignatureError):
        verify(headers, BODY, SECRET, now=NOW, require_timestamp=False)


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        "whsec_not base64!",
        "whsec_é",
        "canary\udc80",
        [],
        ["good", ""],
        None,
        b"bytes",
        [None],
        5,
    ],
)
def test_unusable_secret(secret: Any) -> None:
    """A secret that cannot sign is the receiver's own fault, and is said to be without showing it."""
    with pytest.raises(ConfigError, match="secret") as refused:
        verify(signed(), BODY, secret, now=NOW)
    assert not any(part in str(refused.value) for part in ("canary", "udc80", "é"))


def test_a_view_is_measured_in_bytes() -> None:
    """A memoryview of wide items is as large as its bytes."""
    content = BODY + b" " * (-len(BODY) % 8)
    view = memoryview(content).cast("Q")
    assert verify(signed(body=content), view, SECRET, now=NOW, max_body=len(content)).id == "evt_1"
    with pytest.raises(SignatureError):
        verify(signed(body=content), view, SECRET, now=NOW, max_body=len(content) - 1)


def test_verified_shows_no_payload() -> None:
    """The repr of an event leaves the payload out."""
    assert "payload" not in repr(verify(signed(), BODY, SECRET, now=NOW))


@pytest.mark.parametrize(
    ("entry", "answer"),
    [
        (503, Answer(status=503)),
        ("429", Answer(status=429)),
        ("429:20", Answer(status=429, headers={"Retry-After": "20"})),
        ((503, {"Retry-After": "1"}), Answer(status=503, headers={"Retry-After": "1"})),
        ((200, {}, b"hello"), Answer(body=b"hello")),
        ("hang", Answer(fault="hang")),
        ("slow", Answer(delay_s=1.0)),
        (Answer(delay_s=0.25), Answer(delay_s=0.25)),
    ],
)
def test_answers(entry: Any, answer: Answer) -> None:
    """A script's entry is a status, a status with more, a fault or an answer."""
    assert answer_of(entry) == answer


@pytest.mark.parametrize(
    "entry",
    ["sulk", "", 99, 600, "429:", "429:x", ":20", "slow:1", "\N{ARABIC-INDIC DIGIT FIVE}00", None],
)
def test_no_such_answer(entry: Any) -> None:
    """Anything else is refused with what is possible."""
    with pytest.raises(ValueError, match="one of slow, close, drip"):
        answer_of(entry)


def test_repeated_headers() -> None:
    """A header that is there twice is joined, under the name it first had."""
    headers = Headers([("X-A", "1"), ("x-a", "2")])
    assert (headers["X-a"], list(headers)) == ("1, 2", ["X-A"])


def received(**more: Any) -> Received:
    """A request as the local receiver keeps it."""
    return Received(
        **{
            "method": "POST",
            "path": "/hook",
            "headers": Headers({**signed(), "X-Correlation-ID": "4bf9" * 8}),
            "body": BODY,
            "payload": PAYLOAD,
            "received_at": NOW,
            "verified": True,
            "answer": Answer(),
            **more,
        }
    )


@pytest.mark.parametrize("body", [BODY, "é".encode(), b"\xff\xfe", b""])
def test_document_keeps_the_bytes(body: bytes) -> None:
    """What ``listen`` prints is read back with the same headers and bytes."""
    document = as_document(received(body=body, payload=payload_of(body)))
    capture = read_capture(json.dumps(document).encode())
    assert capture.body == body
    assert capture.headers["Webhook-Id"] == "evt_1"


def test_document_hides_credentials() -> None:
    """Credentials in headers are not printed."""
    names = ["Authorization", "cookie", "X-Confiture-Secret", "Proxy-Authorization"]
    document = as_document(received(headers=Headers(dict.fromkeys(names, "canary"))))
    assert document["headers"] == dict.fromkeys(names, HIDDEN)
    assert "canary" not in json.dumps(document)


@pytest.mark.parametrize("line_break", ["\r\n", "\n"])
@pytest.mark.parametrize("request_line", ["POST /hook HTTP/1.1", None])
def test_raw_request(line_break: str, request_line: str | None) -> None:
    """A raw request is read with either line break, with or without its first line."""
    lines = [f"{name}: {value}" for name, value in signed().items()]
    head = line_break.join([request_line, *lines] if request_line else lines)
    capture = read_capture((head + line_break * 2).encode() + BODY)
    assert verify(capture.headers, capture.body, SECRET, now=NOW).id == "evt_1"


def test_a_header_of_any_bytes() -> None:
    """A byte that ends lines in other encodings ends none here."""
    capture = read_capture("X-Environment: Ålesund\r\nX-Other: 1\r\n\r\n{}".encode())
    assert set(capture.headers) == {"X-Environment", "X-Other"}


def test_a_length_without_end() -> None:
    """A length that no number holds is no length."""
    assert read_capture(b"Content-Length: " + b"9" * 5000 + b"\n\n{}").body == b"{}"


def test_line_break_after_the_body() -> None:
    """A line break that an editor added after the body is not part of it."""
    capture = read_capture(b"Content-Length: 2\n\n{}\n")
    assert capture.body == b"{}"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no blank line",
        b"no colon\n\nbody",
        b"{",
        b"{}",
        b'{"headers": {"a": 1}}',
        b'{"headers": {}}',
        b'{"headers": {}, "body_base64": "?"}',
        b"{" * 100_000,
    ],
)
def test_not_a_capture(content: bytes) -> None:
    """A file that is no request is refused with one clear error."""
    with pytest.raises(WebhooksError):
        read_capture(content)


def test_description() -> None:
    """A request for human eyes says event, migration, verdict, run, and how it was answered."""
    payload = {
        **PAYLOAD,
        "migration": {"name": "005_add_payment_table", "environment": "production"},
        "execution": {"duration_seconds": 2.123, "rows_affected": 50},
    }
    text = shown(as_document(received(payload=payload, answer=Answer(status=503))))
    for part in ("migration_success 005_add_payment_table", "POST /hook", "answered 503"):
        assert part in text
    for part in ("✅ valid", "4bf9" * 8, "evt_1", "production", "2.123", "50"):
        assert part in text


@pytest.mark.parametrize(("verdict", "words"), [(False, "not valid"), (None, "not checked")])
def test_description_of_the_verdict(verdict: bool | None, words: str) -> None:
    """A wrong signature and an unchecked one look different."""
    signature = Headers({"X-Confiture-Signature": "sha256=00"})
    assert words in shown(as_document(received(verified=verdict, headers=signature)))


def test_a_request_without_a_signature_is_not_called_wrong() -> None:
    """Who forgot the sender's secret reads that nothing is signed, not that a signature is wrong."""
    text = shown(as_document(received(verified=False, headers=Headers({}))))
    assert "- not signed" in text
    assert "not valid" not in text


@pytest.mark.survived("Control characters, line breaks and forged log lines in names", "private")
def test_description_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters from the network do not reach the terminal."""
    payload = {"event_type": "\x1b[2Jgone", "migration": {"name": "a\nb"}, "error": {"type": "\r"}}
    title, facts = describe(as_document(received(payload=payload, path="/\x1b]0;x\x07")))
    print_facts(facts.items(), title=title)
    text = capsys.readouterr().out
    assert not set(text) & {"\x1b", "\r", "\x07"}
    assert "a\nb" not in text


@pytest.mark.parametrize("payload", [None, [], "text", {"migration": "text", "error": 1}])
def test_description_of_anything(payload: Any) -> None:
    """A request that is not an event of ours is shown too."""
    text = shown(as_document(received(payload=payload, headers=Headers({}))))
    assert "not an event of ours" in text


def test_no_duration_is_shown_where_none_is_known() -> None:
    """A run that was killed has none: nothing is said of it, rather than "None"."""
    execution = {"duration_seconds": None, "rows_affected": 0}
    text = shown(as_document(received(payload={**PAYLOAD, "execution": execution})))
    assert "None" not in text
    assert "seconds" not in text
    assert "rows affected" in text


def test_a_run_is_shown_with_its_environment_and_command() -> None:
    """The body of a whole run has the environment at its top, and what was run."""
    payload = {
        "event_type": "run_error",
        "environment": "staging",
        "run": {"command": "confiture migrate up", "url": None},
    }
    text = shown(as_document(received(payload=payload)))
    assert "environment: staging" in text
    assert "command: confiture migrate up" in text
