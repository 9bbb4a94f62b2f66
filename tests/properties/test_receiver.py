"""``verify`` over all inputs, and against the guide's own sender and receiver."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from confiture_webhooks.errors import SignatureError, WebhooksError
from confiture_webhooks.event import body as body_of
from confiture_webhooks.receiver import verify
from confiture_webhooks.receiver.local import read_capture
from confiture_webhooks.signature import body_signature, webhook_signature
from often import often

NAMES = ["webhook-id", "webhook-timestamp", "webhook-signature", "X-Confiture-Signature"]
SECRETS = st.text(min_size=1, alphabet=st.characters(exclude_categories=["Cs"])).filter(
    lambda secret: not secret.startswith("whsec_")
)
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
).filter(lambda value: not _is_infinite(value))
PAYLOADS = st.dictionaries(st.text(), JSON_VALUES, max_size=5)
INSTANTS = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
HASHABLE = st.none() | st.integers() | st.text() | st.binary()
ANYTHING = HASHABLE | st.lists(st.text(), max_size=2)


def _is_infinite(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_is_infinite, value.values()))
    if isinstance(value, list):
        return any(map(_is_infinite, value))
    return isinstance(value, float) and value in (float("inf"), float("-inf"))


def guide_signature(secret: str, payload: Any) -> str:
    """The guide's ``create_signature``: re-serialises with sorted keys and signs that."""
    text = json.dumps(payload, sort_keys=True)
    return "sha256=" + hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


@given(SECRETS, PAYLOADS, INSTANTS)
def test_round_trip(secret: str, payload: dict[str, Any], at: datetime) -> None:
    """What we sign, we accept; with one byte more, or another secret, we do not."""
    content = body_of(payload)
    headers = {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": webhook_signature([secret], "evt_1", at, content),
    }
    assert verify(headers, content, secret, now=at).payload == json.loads(content)
    with pytest.raises(SignatureError):
        verify(headers, content + b" ", secret, now=at)
    with pytest.raises(SignatureError):
        verify(headers, content, secret + "x", now=at)


@given(SECRETS, PAYLOADS)
def test_guide_receiver(secret: str, payload: dict[str, Any]) -> None:
    """The guide's receiver, which parses and serialises again, gets our signature."""
    content = body_of(payload)
    received = json.loads(content)
    sent = body_signature(secret, content)
    expected = guide_signature(secret, received)
    assert hmac.compare_digest(sent.split("=")[1], expected.split("=")[1])


@given(SECRETS, PAYLOADS)
def test_guide_sender(secret: str, payload: dict[str, Any]) -> None:
    """What the guide's sender signs is accepted by those who ask for no time."""
    content = json.dumps(payload, sort_keys=True).encode()
    headers = {"X-Confiture-Signature": guide_signature(secret, payload)}
    event = verify(headers, content, secret, require_timestamp=False)
    assert event.payload == json.loads(content)


@pytest.mark.survived("Whatever may be signed, whatever arrives", "true")
@given(
    st.dictionaries(st.sampled_from(NAMES) | HASHABLE, ANYTHING),
    st.binary() | PAYLOADS.map(body_of),
    st.booleans(),
)
def test_only_signature_error(headers: dict[Any, Any], content: bytes, has_time: bool) -> None:
    """Whatever arrives, the answer is ``SignatureError``."""
    with pytest.raises(SignatureError):
        verify(headers, content, "secret", require_timestamp=has_time)


FACTS = (
    "occurred_at", "environment", "direction", "migration", "database",
    "duration_s", "rows_affected", "error", "migrations",
)  # fmt: skip
RIGHT_AT = datetime(2026, 1, 9, tzinfo=UTC)
RIGHT_BODY = body_of({"event_id": "evt_1", "event_type": "ping", "timestamp": "2026-01-09T00:00Z"})
RIGHT_HEADERS: dict[Any, Any] = {
    "webhook-id": "evt_1",
    "webhook-timestamp": str(int(RIGHT_AT.timestamp())),
    "webhook-signature": webhook_signature(["secret"], "evt_1", RIGHT_AT, RIGHT_BODY),
    "X-Confiture-Signature": body_signature("secret", RIGHT_BODY),
}
ODD: tuple[Any, ...] = (
    None, 0, b"", [], {}, "", " ", "v1,", "v1,é", "\ud800", "9" * 12, "-1", "1e9", "\x00", "a" * 20_000,
)  # fmt: skip


def damaged(chance: Random) -> tuple[Any, Any]:
    """An authentic request after one to three accidents."""
    headers, content = dict(RIGHT_HEADERS), RIGHT_BODY
    for _ in range(chance.randint(1, 3)):
        name = chance.choice(list(headers) or ["webhook-id"])
        value = headers.get(name)
        match chance.randrange(6):
            case 0:
                headers.pop(name, None)
            case 1:
                headers[name] = chance.choice(ODD)
            case 2 if isinstance(value, str):
                at = chance.randrange(len(value) + 1)
                headers[name] = value[:at] + chr(chance.randrange(0x110000)) + value[at + 1 :]
            case 3:
                headers[chance.choice([repr(chance.choice(ODD)), name.upper()])] = value
            case 4:
                at = chance.randrange(len(content) + 1)
                content = content[:at] + chance.randbytes(2) + content[at + 1 :]
            case _:
                headers[name], headers["webhook-id"] = headers.get("webhook-id"), value
    shaped: Any = [headers, headers, list(headers.items()), chance.choice(ODD)]
    return chance.choice(shaped), content if chance.random() < 0.9 else chance.choice(ODD)


@pytest.mark.survived("Ten thousand damaged requests", "true")
@settings(max_examples=often(200))
@given(st.integers(0, 2**64), st.booleans())
def test_ten_thousand_damaged_requests(seed: int, has_time: bool) -> None:
    """A damaged request is the event that was signed, or ``SignatureError``; 50 in each example."""
    chance = Random(seed)
    for _ in range(50):
        headers, content = damaged(chance)
        try:
            event = verify(headers, content, "secret", now=RIGHT_AT, require_timestamp=has_time)
        except SignatureError:
            continue
        except TypeError:
            assert not isinstance(content, bytes)
            continue
        assert content == RIGHT_BODY
        assert event.id == "evt_1"


@given(
    JSON_VALUES.map(lambda value: {"migration": value, "error": value, "execution": value})
    | PAYLOADS
)
def test_whatever_was_signed_can_be_read(payload: dict[str, Any]) -> None:
    """Every property of an authentic event has an answer, whatever the payload is."""
    content = body_of(payload)
    headers = {"X-Confiture-Signature": body_signature("secret", content)}
    event = verify(headers, content, "secret", require_timestamp=False)
    for fact in FACTS:
        getattr(event, fact)


@pytest.mark.survived("Whatever may be signed, whatever arrives", "true")
@given(st.binary(max_size=200))
def test_signed_by_the_right_one(content: bytes) -> None:
    """Bytes that are signed right become an event or ``SignatureError``, never anything else."""
    headers = {"X-Confiture-Signature": body_signature("secret", content)}
    try:
        event = verify(headers, content, "secret", require_timestamp=False)
    except SignatureError:
        return
    assert event.payload == json.loads(content)


@given(st.binary(max_size=300) | JSON_VALUES.map(lambda value: json.dumps(value).encode()))
def test_captures(content: bytes) -> None:
    """Any file is a captured request or one clear error."""
    try:
        capture = read_capture(content)
    except WebhooksError:
        return
    assert isinstance(capture.body, bytes)
