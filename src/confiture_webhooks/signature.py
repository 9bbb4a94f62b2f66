"""Signatures: how a sender makes them; and ``verify``, from a signed request to its event.

There are two: the guide's HMAC over the body, and Standard Webhooks over id, time and body.
Source: Standard Webhooks 1.0.0, https://github.com/standard-webhooks/standard-webhooks
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

from standardwebhooks import Webhook

from .errors import ConfigError, Fault, SignatureError
from .event import Database, Direction, ErrorInfo, EventType, MigrationRef

SECRET_PREFIX = "whsec_"  # noqa: S105  the standard's prefix of a secret
DEFAULT_TOLERANCE = timedelta(minutes=5)
DEFAULT_MAX_BODY = 1024 * 1024
REFUSAL = "the request is not authentic, too old, or cannot be read"
_MAX_HEADER = 16 * 1024
_MAX_TIMESTAMP_DIGITS = 11
SIGNED_HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature", "x-confiture-signature")
_OTHER_HEADERS = {"x-correlation-id", "traceparent", "tracestate"}

E = TypeVar("E", bound=StrEnum)


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


# The receiver's side


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """An authentic event. A field that its payload lacks, or has in another shape, is ``None``."""

    id: str | None
    """The ``webhook-id``, the same on every attempt: deduplicate by it."""
    type: EventType | str | None
    """A text where this version does not know the event."""
    sent_at: datetime | None
    """When this attempt was signed; ``None`` with ``X-Confiture-Signature`` alone."""
    correlation_id: str | None
    """The run's trace id: the payload's, else the ``X-Correlation-ID`` header's."""
    traceparent: str | None
    """From its header, which no signature covers."""
    tracestate: str | None = None
    payload: dict[str, Any] = field(repr=False)
    """The whole signed body, decoded."""

    @property
    def occurred_at(self) -> datetime | None:
        """When it happened."""
        try:
            found = datetime.fromisoformat(_text(_event_of(self.payload), "timestamp") or "")
        except ValueError:
            return None
        return found if found.tzinfo else None

    @property
    def environment(self) -> str | None:
        """Where it happened."""
        document = _event_of(self.payload)
        return _text(part(document, "migration") or document, "environment")

    @property
    def direction(self) -> Direction | None:
        """Which way the migration ran."""
        return _member(Direction, _text(_event_of(self.payload), "direction"))

    @property
    def migration(self) -> MigrationRef | None:
        """The migration it is about."""
        document = part(_event_of(self.payload), "migration")
        version, name = _text(document, "version"), _text(document, "name")
        if version is None or name is None:
            return None
        return MigrationRef(version=version, slug=name.removeprefix(f"{version}_"))

    @property
    def database(self) -> Database:
        """The migrated database."""
        document = part(_event_of(self.payload), "database")
        host, name, schema = (_text(document, key) for key in ("host", "name", "schema"))
        return Database(host=host, name=name, schema=schema)

    @property
    def duration_s(self) -> float | None:
        """How long it took."""
        found = part(_event_of(self.payload), "execution").get("duration_seconds")
        if isinstance(found, bool) or not isinstance(found, int | float):
            return None
        return float(found) if abs(found) < timedelta.max.total_seconds() else None

    @property
    def rows_affected(self) -> int | None:
        """How many rows the migration's own statements touched."""
        found = part(_event_of(self.payload), "execution").get("rows_affected")
        return found if isinstance(found, int) and not isinstance(found, bool) else None

    @property
    def error(self) -> ErrorInfo | None:
        """Why it failed."""
        document = part(_event_of(self.payload), "error")
        kind, text = _text(document, "type"), _text(document, "message")
        if kind is None or text is None:
            return None
        more = {name: _text(document, name) for name in ("sqlstate", "detail")}
        return ErrorInfo(type=kind, message=text, **more)

    @property
    def migrations(self) -> tuple[Mapping[str, Any], ...]:
        """For ``run_*`` events: one row per migration, oldest first."""
        rows = _event_of(self.payload).get("migrations")
        return tuple(row for row in rows if isinstance(row, dict)) if isinstance(rows, list) else ()


def verify(
    headers: Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]],
    body: bytes,
    secret: str | Sequence[str],
    *,
    tolerance: timedelta | None = DEFAULT_TOLERANCE,
    now: datetime | None = None,
    max_body: int = DEFAULT_MAX_BODY,
    require_timestamp: bool = True,
) -> Verified:
    """The event in a request, or ``SignatureError``: one answer whatever the cause.

    *body* is the bytes as received; anything else is a ``TypeError``. Several secrets are
    all tried, as during a rotation.
    The Standard Webhooks signature is checked when its header is there;
    ``X-Confiture-Signature`` alone has no time, can be replayed for ever, and is accepted
    only with ``require_timestamp=False``. ``tolerance=None`` accepts any time. Raises
    ``ConfigError`` when a secret is missing, empty or not base64 after ``whsec_``.

    A second request with the same ``id`` is authentic too: senders repeat requests that were not
    answered. ``Inbox`` distinguishes the two.
    """
    if not isinstance(body, bytes | bytearray | memoryview):
        raise TypeError(f"body must be the bytes as received, not {type(body).__name__}")
    secrets = _as_secrets(secret)
    keys = signing_keys(secrets)
    moment = (now or datetime.now(UTC)).astimezone(UTC)
    try:
        fields = _fields(headers)
        if memoryview(body).nbytes > max_body:
            raise SignatureError(REFUSAL)
        content = bytes(body)
        sent_at = None
        if "webhook-signature" in fields or require_timestamp:
            sent_at = _check_webhook_signature(fields, content, keys)
            if tolerance is not None and abs(moment - sent_at) > tolerance:
                raise SignatureError(REFUSAL)
        else:
            expected = [body_signature(secret, content).encode() for secret in secrets]
            _check_any_equal(expected, [fields["x-confiture-signature"].strip().encode()])
        payload = json.loads(content)
        if not isinstance(payload, dict):
            raise SignatureError(REFUSAL)
        document = _event_of(payload)
        kind = _text(document, "event_type")
        return Verified(
            id=_text(document, "event_id") if sent_at is None else fields["webhook-id"],
            type=_member(EventType, kind) or kind,
            sent_at=sent_at,
            correlation_id=_text(document, "trace_id") or fields.get("x-correlation-id"),
            traceparent=fields.get("traceparent"),
            tracestate=fields.get("tracestate"),
            payload=payload,
        )
    except Exception:  # noqa: BLE001  frameworks' headers and strangers' bodies are anything
        raise SignatureError(REFUSAL) from None


def signing_keys(secret: str | Sequence[str]) -> list[bytes]:
    """The Standard Webhooks key of each secret. Raises ConfigError for one that cannot be a key."""
    keys, faults = [], []
    secrets = _as_secrets(secret)
    for one in secrets:
        try:
            keys.append(signing_key(one))
        except ValueError as error:
            faults.append(Fault("secret", str(error), "Use the secret the sender signs with."))
    if not secrets:
        faults.append(Fault("secret", "none given", "Use the secret the sender signs with."))
    if faults:
        raise ConfigError(faults)
    return keys


def _as_secrets(secret: Any) -> tuple[str, ...]:
    """One secret or several. Raises ConfigError for anything else, such as an unset variable."""
    if isinstance(secret, str) or secret is None:
        return () if secret is None else (secret,)
    if isinstance(secret, Iterable) and not isinstance(secret, bytes | bytearray | memoryview):
        secrets = tuple(secret)
        if all(isinstance(one, str) for one in secrets):
            return secrets
    raise ConfigError([Fault("secret", "is not text", "Give one as str, or a list of them.")])


def _fields(headers: Any) -> dict[str, str]:
    """The headers that matter, by lower-case name; one that decides is refused when repeated."""
    fields: dict[str, str] = {}
    pairs = headers.items() if hasattr(headers, "items") else headers
    for name, value in ((_as_text(name), _as_text(value)) for name, value in pairs):
        if not isinstance(name, str) or not isinstance(value, str) or len(value) > _MAX_HEADER:
            continue
        key = name.lower()
        if key in SIGNED_HEADERS and (key in fields or ", " in value):  # joined, as many servers do
            raise SignatureError(REFUSAL)
        if key in SIGNED_HEADERS or key in _OTHER_HEADERS:
            fields.setdefault(key, value)
    return fields


def _as_text(part: Any) -> Any:
    """A name or value of a header; ASGI's are bytes."""
    return part.decode("latin-1") if isinstance(part, bytes) else part


def _check_webhook_signature(
    fields: Mapping[str, str], body: bytes, keys: Sequence[bytes]
) -> datetime:
    """The time that one of *keys* signed with the id and *body*."""
    event_id, timestamp = fields["webhook-id"], fields["webhook-timestamp"]
    is_time = timestamp.isascii() and timestamp.isdigit()
    if not (is_time and event_id and len(timestamp) <= _MAX_TIMESTAMP_DIGITS):
        raise SignatureError(REFUSAL)
    signed = f"{event_id}.{timestamp}.".encode() + body
    expected = [b"v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)) for key in keys]
    candidates = [text.encode() for text in fields["webhook-signature"].split(" ")]
    _check_any_equal(expected, candidates)
    return datetime.fromtimestamp(int(timestamp), UTC)


def _check_any_equal(expected: Iterable[bytes], candidates: Sequence[bytes]) -> None:
    # Every pair is compared, so that the time taken does not show which one matched.
    matches = [hmac.compare_digest(one, other) for one in expected for other in candidates]
    if not any(matches):
        raise SignatureError(REFUSAL)


def _event_of(payload: dict[str, Any]) -> dict[str, Any]:
    """The event in *payload*: itself, or the data of a CloudEvent."""
    data = payload.get("data") if "specversion" in payload else None
    return data if isinstance(data, dict) else payload


def part(document: dict[str, Any], key: str) -> dict[str, Any]:
    """The mapping at *key* of a *document* that a stranger may have made; empty: it is none."""
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def _text(document: dict[str, Any], key: str) -> str | None:
    value = document.get(key)
    return value if isinstance(value, str) else None


def _member(kind: type[E], value: str | None) -> E | None:
    return kind(value) if value in [member.value for member in kind] else None
