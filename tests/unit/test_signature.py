"""Signatures: the guide's over the body, and Standard Webhooks over id, time and body."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from confiture_webhooks.event import body, payload
from confiture_webhooks.signature import body_signature, signing_key, webhook_signature
from samples import AT, event

KEY = b"0123456789abcdef01234567"
WHSEC = "whsec_" + base64.b64encode(KEY).decode()


def test_the_body_signature_is_a_plain_hmac() -> None:
    """``X-Confiture-Signature`` is HMAC-SHA256 of the body, keyed with the secret's text."""
    expected = hmac.new(b"s3cret", b"{}", hashlib.sha256).hexdigest()
    assert body_signature("s3cret", b"{}") == f"sha256={expected}"


def test_the_body_signature_keys_with_the_literal_text_of_a_whsec_secret() -> None:
    """The guide's signature never decodes a secret: the prefix and the base64 are the key."""
    expected = hmac.new(WHSEC.encode(), b"{}", hashlib.sha256).hexdigest()
    assert body_signature(WHSEC, b"{}") == f"sha256={expected}"


def test_the_guides_receiver_accepts_a_real_payload() -> None:
    """A receiver that parses and dumps with sorted keys computes the signature that was sent."""
    sent = body(payload(event(), "analytics"))
    signature = body_signature("your_secret_key", sent)
    payload_json = json.dumps(json.loads(sent), sort_keys=True)
    expected = hmac.new(b"your_secret_key", payload_json.encode(), hashlib.sha256).hexdigest()
    assert hmac.compare_digest(signature.split("=")[1], expected)


@pytest.mark.parametrize(
    ("secret", "key"), [(WHSEC, KEY), ("plain", b"plain"), ("clé", "clé".encode())]
)
def test_the_key_of_a_secret(secret: str, key: bytes) -> None:
    """A ``whsec_`` secret's key is its base64 decoded; any other's is its UTF-8 bytes."""
    assert signing_key(secret) == key


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_not base64", "whsec_abc", "whsec_é"])
def test_a_secret_without_a_key_is_refused(secret: str) -> None:
    """An empty secret and one that is not base64 after ``whsec_`` are a ValueError."""
    with pytest.raises(ValueError, match=r"empty|base64|ASCII"):
        signing_key(secret)


def test_a_refused_secret_is_not_quoted() -> None:
    """The refusal does not repeat the secret."""
    with pytest.raises(ValueError, match="base64") as caught:
        signing_key("whsec_canary!")
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("secret", [WHSEC, "plain"])
def test_the_standard_library_verifies(secret: str) -> None:
    """The Standard Webhooks library accepts what was signed, and only with that body."""
    at = datetime.now(UTC)
    headers = {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": webhook_signature([secret], "evt_1", at, b'{"a": 1}'),
    }
    receiver = Webhook(signing_key(secret))
    assert receiver.verify(b'{"a": 1}', headers) == {"a": 1}
    with pytest.raises(WebhookVerificationError):
        receiver.verify(b'{"a": 2}', headers)


@pytest.mark.parametrize("hours", [-11, 0, 9])
def test_every_zone_signs_the_same_instant(hours: int) -> None:
    """An aware instant is signed as what it is, whatever its zone."""
    local = AT.astimezone(timezone(timedelta(hours=hours)))
    expected = hmac.new(b"plain", b"evt_1.1767968625.{}", hashlib.sha256).digest()
    signature = webhook_signature(["plain"], "evt_1", local, b"{}")
    assert signature == f"v1,{base64.b64encode(expected).decode()}"


def test_rotation_signs_once_for_each_secret_current_first() -> None:
    """During a rotation there is one signature per secret, in order, separated by spaces."""
    each = [webhook_signature([secret], "evt_1", AT, b"{}") for secret in (WHSEC, "old", "older")]
    assert webhook_signature([WHSEC, "old", "older"], "evt_1", AT, b"{}") == " ".join(each)
    assert len(set(each)) == 3
