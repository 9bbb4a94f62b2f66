"""Makes rows of values, and values of rows; a row that cannot be read says why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from json import dumps, loads
from math import isfinite
from re import fullmatch
from typing import Any, TypeVar, cast, get_type_hints
from zlib import crc32

from ..delivery import Attempt, Delivery, State, TraceContext
from ..event import EventType, stored_text, utf8
from .schema import Stored
from .values import Claim, Intent, Row, Unreadable, UnreadableIntent

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MOST = 1_000_000_000
"""A higher number of attempts is damage; adding to it might not be possible."""
_FAR = datetime(9000, 1, 1, tzinfo=UTC)
"""From here on there is no room to reckon."""
_MICROSECOND = timedelta(microseconds=1)
_IDS = ("id", "event_id", "correlation_id")
_MOVES = (State.PENDING, State.IN_FLIGHT)
_FAULTS = (ValueError, TypeError, KeyError, OverflowError, AttributeError)
"""The errors of reading a value that another version wrote."""
R = TypeVar("R")


def instant(at: datetime) -> int:
    """*at* in microseconds since 1970."""
    return (at - EPOCH) // _MICROSECOND


def at_best(stored: object) -> datetime | None:
    """The instant *stored* is; ``None`` where it is none, or cannot be read."""
    return _at_best(_instant, stored, None)


def _at_best(read: Callable[[object], R], stored: object, otherwise: R) -> R:
    try:
        return read(stored)
    except _FAULTS:
        return otherwise


def delivery_values(delivery: Delivery) -> dict[str, Any]:
    """*delivery* as values of ``add_delivery`` and ``add_body``."""
    return {
        "id": stored_text(delivery.id),
        "event_id": stored_text(delivery.event_id),
        "event_type": delivery.event_type.value,
        "endpoint": stored_text(delivery.endpoint),
        "environment": stored_text(delivery.environment or ""),
        "content_type": stored_text(delivery.content_type),
        "traceparent": stored_text(delivery.trace.traceparent),
        "tracestate": delivery.trace.tracestate and stored_text(delivery.trace.tracestate),
        "correlation_id": stored_text(delivery.correlation_id),
        "created_at": instant(delivery.created_at),
        "migration_version": delivery.migration_version and stored_text(delivery.migration_version),
        "migration_name": delivery.migration_name and stored_text(delivery.migration_name),
        "body": delivery.body,
    }


def delivery(row: Stored) -> Delivery:
    """The delivery in *row*; an ``Unreadable`` when this version cannot read it."""
    try:
        body = row["body"]
        if not isinstance(body, bytes):
            raise TypeError("it has no body" if body is None else "its body is not bytes")
        if "json" in row["content_type"]:
            body.decode()  # JSON is UTF-8, and a signature is made of text
        if State(row["state"]) in _MOVES and row["wakes_at"] is None and row["is_ready"] != 1:
            raise ValueError("no worker takes it: it is neither due nor put off")
        _counter(row["attempts"])
        _counter(row["tries"])
        tracestate = row["tracestate"]
        return Delivery(
            **{name: _id(row[name]) for name in _IDS},
            content_type=_header(row["content_type"]),
            event_type=EventType(row["event_type"]),
            endpoint=_text(row["endpoint"]),
            body=body,
            trace=TraceContext(
                traceparent=_header(row["traceparent"]),
                tracestate=None if tracestate is None else _header(tracestate),
            ),
            created_at=_instant(row["created_at"]),
            migration_version=_text_or_none(row["migration_version"]),
            migration_name=_text_or_none(row["migration_name"]),
            environment=_text(row["environment"]) or None,
        )
    except _FAULTS as fault:
        return _unreadable(row, fault)


def named(delivery_id: str) -> dict[str, Any]:
    """The values of *delivery_id*: an id, or the place of a record without one that can be read."""
    place = fullmatch(r"row-([0-9]{1,18})", delivery_id)
    return {"id": stored_text(delivery_id), "seq": int(place[1]) if place else 0}


class _UnknownType(str):
    """An event type of another version, with the ``value`` that a known one has."""

    __slots__ = ()
    value = property(str)


def _unreadable(row: Stored, fault: Exception) -> Unreadable:
    event_type = shown(row["event_type"])
    is_known = event_type in set(EventType)
    return Unreadable(
        id=_at_best(_id, row["id"], f"row-{row['seq']}"),
        **{name: shown(row[name]) for name in (*_IDS[1:], "content_type", "endpoint")},
        event_type=EventType(event_type) if is_known else cast("Any", _UnknownType(event_type)),
        body=b"",
        trace=TraceContext(traceparent=shown(row["traceparent"])),
        created_at=at_best(row["created_at"]) or EPOCH,
        migration_version=shown(row["migration_version"]) or None,
        migration_name=shown(row["migration_name"]) or None,
        environment=shown(row["environment"]) or None,
        reason=stored_text(str(fault)),
    )


def claim(row: Stored, token: str) -> Claim:
    """The claim of the delivery in *row*."""
    return Claim(
        delivery=delivery(row),
        token=f"{row['seq']}.{token}",
        attempts=_at_best(_counter, row["attempts"], 0),
        tries=_at_best(_counter, row["tries"], 0),
    )


def row_of(row: Stored) -> Row:
    """The delivery in *row* and where it stands."""
    state = state_of(row)
    # A Row of SQLite iterates over its values.
    last = {key.removeprefix("last_"): row[key] for key in row.keys() if key[:5] == "last_"}  # noqa: SIM118
    return Row(
        delivery=delivery(row),
        state=state,
        attempts=_at_best(_counter, row["attempts"], 0),
        next_attempt_at=at_best(row["due_at"]) if state is State.PENDING else None,
        is_ready=row["is_ready"] == 1,
        last_attempt=attempt(last) if last.get("number") is not None else None,
    )


def state_of(row: Stored) -> State:
    """The state in *row*; one that another version made counts as pending."""
    return State(row["state"]) if row["state"] in set(State) else State.PENDING


def attempt_values(one: Attempt) -> dict[str, Any]:
    """*one* as values of ``add_attempt``."""
    return {
        "number": one.number,
        "started_at": instant(one.started_at),
        "duration": one.duration // _MICROSECOND,
        "status_code": one.status_code,
        "error_type": one.error_type,
        "retry_after": None if one.retry_after is None else one.retry_after // _MICROSECOND,
    }


def attempt(row: Stored) -> Attempt | None:
    """The attempt in *row*; ``None`` when this version cannot read it."""
    try:
        wished, status = row["retry_after"], row["status_code"]
        return Attempt(
            number=_number(row["number"]),
            started_at=_instant(row["started_at"]),
            duration=_number(row["duration"]) * _MICROSECOND,
            status_code=None if status is None else _number(status),
            error_type=_text_or_none(row["error_type"]),
            retry_after=None if wished is None else _number(wished) * _MICROSECOND,
        )
    except _FAULTS:
        return None


def intent_values(intent: Intent) -> dict[str, Any]:
    """*intent* as values of ``stage``: a document with every field it has, a nested one too."""
    return {
        "event_id": stored_text(intent.event_id),
        "environment": stored_text(intent.environment or ""),
        "staged_at": instant(intent.staged_at),
        "intent": _document(intent),
    }


def committed_values(intent: Intent) -> dict[str, str]:
    """The values of ``stage_committed``: it adds them to *intent*. An end that is known stays."""
    changes: dict[str, Any] = {one: getattr(intent, one) for one in ("traceparent", "tracestate")}
    ends = {one: getattr(intent, one) for one in ("committed", "has_committed")}
    changes |= {one: end for one, end in ends.items() if end is not None}
    return {"event_id": stored_text(intent.event_id), "changes": _document(changes)}


def _document(value: Intent | Mapping[str, Any]) -> str:
    document = dumps(value, default=_plain)
    if "\\u" in document:
        document = dumps(loads(document, object_hook=_escaped))
    return document


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    return {one.name: getattr(value, one.name) for one in fields(value)}


def _escaped(values: dict[str, Any]) -> dict[str, Any]:
    return {key: stored_text(one) if isinstance(one, str) else one for key, one in values.items()}


def intent(row: Stored) -> Intent | UnreadableIntent:
    """The intent in *row*, maybe of another version.

    A field that this version does not know is left out; one that the other did not know has its
    default, else ``None`` where that may be.
    """
    try:
        document = loads(_text(row["intent"]))
        for name, pattern in _PLAIN.items():
            if not fullmatch(pattern, document.get(name) or ""):
                document[name] = None
        found = cast("Intent", _made(Intent, document))
        if found.event_id != row["event_id"]:
            raise ValueError("its document is of another event")
        if (found.environment or "") != row["environment"]:
            # By that of the row a role is kept to its environment.
            raise ValueError("its document is of another environment")
    except (*_FAULTS, RecursionError) as fault:
        return UnreadableIntent(
            event_id=_at_best(_id, row["event_id"], f"intent-{_digest(row['event_id'])}"),
            key=row["event_id"],
            environment=shown(row["environment"]) or None,
            reason=stored_text(str(fault)),
        )
    return found


# Others may write rows, and these become a metric's label, and links in a chat.
_LINK = r"https?://[^\s/@]+(/\S*)?"
_PLAIN = {"command": r"confiture [a-z -]{1,60}", "run_url": _LINK, "trace_url": _LINK}


def _made(kind: Any, document: Mapping[str, Any]) -> Any:
    hints, values = get_type_hints(kind), {}
    for field in fields(kind):
        has_default = field.default is not MISSING
        if field.name in document or not has_default:
            values[field.name] = _typed(hints[field.name], document.get(field.name))
    return kind(**values)


def _typed(hint: Any, value: Any) -> Any:
    kinds = {hint, *getattr(hint, "__args__", ())}
    if value is None and type(None) in kinds:
        return None
    if datetime in kinds:
        found = datetime.fromisoformat(value)
        if found.tzinfo is None or not EPOCH <= found < _FAR:
            raise ValueError("an instant without a time zone, or of no clock")
        return found
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, Enum):
            return kind(value)
        if is_dataclass(kind):
            return _made(kind, value)
    if type(value) not in kinds:  # to Python a truth value is a number, too
        raise TypeError(f"{type(value).__name__} where {hint} belongs")
    if isinstance(value, float) and not isfinite(value):
        raise ValueError("a number that JSON does not have")
    return _text(value) if isinstance(value, str) else value


def _digest(value: object) -> str:
    """Eight characters for a stored value that is no id: the same each time."""
    raw = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
    return f"{crc32(raw):08x}"


def stored_key(value: object) -> object:
    """An id that a store gave, as it takes it back: SQLite's text may be no UTF-8."""
    is_odd = isinstance(value, str) and utf8(value) != value
    return value.encode("utf-8", "surrogateescape") if is_odd else value  # type: ignore[attr-defined]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where text belongs")
    value.encode()  # what was read with surrogates is not UTF-8
    return value


def _header(value: object) -> str:
    found = _text(value)
    if not (found.isascii() and found.isprintable() and found == found.strip()):
        raise ValueError("a header cannot carry it")
    return found


def _id(value: object) -> str:
    if not (found := _header(value))[:1].isalnum():  # a command line could not name it
        raise ValueError("it has no id")
    return found


def _text_or_none(value: object) -> str | None:
    return None if value is None else _text(value)


def _number(value: object) -> int:
    if type(value) is not int:
        raise TypeError(f"{type(value).__name__} where a number belongs")
    return value


def _instant(value: object) -> datetime:
    return EPOCH + _number(value) * _MICROSECOND


def _counter(value: object) -> int:
    if not 0 <= _number(value) <= MOST:
        raise ValueError(f"{value} where a small number belongs")
    return _number(value)


def shown(value: object) -> str:
    """Whatever a store gave, as text that every store and screen takes."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    return "" if value is None else stored_text(str(value))
