"""``verify`` over all inputs, and against the guide's own sender and receiver."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confiture_webhooks.capture import read_capture
from confiture_webhooks.errors import SignatureError, WebhooksError
from confiture_webhooks.event import body as body_of
from confiture_webhooks.receiver import verify
from confiture_webhooks.signature import body_signature, webhook_signature

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


@given(
    st.dictionaries(st.sampled_from(NAMES) | HASHABLE, ANYTHING),
    st.binary() | PAYLOADS.map(body_of),
    st.booleans(),
)
def test_only_signature_error(headers: dict[Any, Any], content: bytes, has_time: bool) -> None:
    """Whatever arrives, the answer is ``SignatureError``."""
    with pytest.raises(SignatureError):
        verify(headers, content, "secret", require_timestamp=has_time)


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
