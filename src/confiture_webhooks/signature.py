"""Signing: the guide's HMAC over the body, and Standard Webhooks over id, time and body.

Source: Standard Webhooks 1.0.0, https://github.com/standard-webhooks/standard-webhooks
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook

SECRET_PREFIX = "whsec_"  # noqa: S105  the standard's prefix of a secret


def signing_key(secret: str) -> bytes:
    """The Standard Webhooks key of *secret*: base64 after ``whsec_``, else its UTF-8 bytes.

    Raises ValueError when a ``whsec_`` secret is not base64, another is not UTF-8, or one is
    empty. Nothing of the secret is in its text.
    """
    is_encoded = secret.startswith(SECRET_PREFIX)
    try:
        if is_encoded:
            key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
        else:
            key = secret.encode()
    except ValueError:
        problem = "not base64 after 'whsec_'" if is_encoded else "not UTF-8"
        raise ValueError(problem) from None
    if not key:
        raise ValueError("empty secret")
    return key


def body_signature(secret: str, body: bytes) -> str:
    """``sha256=<hex>``: HMAC-SHA256 of *body* keyed with the literal text of *secret*."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def webhook_signature(secrets: Sequence[str], event_id: str, at: datetime, body: bytes) -> str:
    """The ``webhook-signature`` header: one ``v1,<base64>`` per secret, current first.

    *at* is aware, whatever its zone; its whole seconds are signed.
    """
    text = body.decode()
    instant = at.astimezone(UTC)
    return " ".join(
        Webhook(signing_key(secret)).sign(event_id, instant, text) for secret in secrets
    )
