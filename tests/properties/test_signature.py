"""For every payload and secret: both signatures are what their receivers compute."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from confiture_webhooks.event import body
from confiture_webhooks.signature import body_signature, signing_key, webhook_signature

texts = st.text(alphabet=st.characters(exclude_categories=()))
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda children: st.lists(children) | st.dictionaries(texts, children),
    max_leaves=10,
)
documents = st.dictionaries(texts, values)
plain = st.text(min_size=1).filter(lambda secret: not secret.startswith("whsec_"))
whsec = st.binary(min_size=1).map(lambda key: "whsec_" + base64.b64encode(key).decode())
secrets = plain | whsec
ids = st.text(alphabet="abcdef0123456789_", min_size=1)


def flask_receiver(secret: str, data: bytes) -> str:
    """What the receiver of the user's guide computes from a request's JSON."""
    payload_json = json.dumps(json.loads(data), sort_keys=True)
    return hmac.new(secret.encode(), payload_json.encode(), hashlib.sha256).hexdigest()


@given(secrets, documents)
def test_the_guides_receiver_computes_the_same(secret: str, document: dict[str, object]) -> None:
    """For any payload, raw-bytes receivers and the guide's agree with what is sent."""
    sent = body(document)
    signature = body_signature(secret, sent)
    assert signature == "sha256=" + hmac.new(secret.encode(), sent, hashlib.sha256).hexdigest()
    assert signature.split("=")[1] == flask_receiver(secret, sent)


@given(
    st.lists(secrets, min_size=1, max_size=3),
    ids,
    documents,
    st.integers(-14, 14),
    st.integers(-240, 240),
)
def test_the_standard_library_accepts_each_secret_of_a_rotation(
    current_first: list[str], event_id: str, document: dict[str, object], hours: int, skew: int
) -> None:
    """A receiver with any one of the secrets verifies, whatever the sender's zone."""
    sent = body(document)
    at = datetime.now(UTC) + timedelta(seconds=skew)
    zoned = at.astimezone(timezone(timedelta(hours=hours)))
    headers = {
        "webhook-id": event_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": webhook_signature(current_first, event_id, zoned, sent),
    }
    assert len(headers["webhook-signature"].split(" ")) == len(current_first)
    for secret in current_first:
        assert Webhook(signing_key(secret)).verify(sent, headers) == json.loads(sent)
