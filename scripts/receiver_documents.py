"""Writes what receivers in any language can be tested against, from the code itself.

``docs/event.schema.json``: the JSON Schema of every event, read off the payloads that the code
makes of events with every fact and with the fewest. ``docs/test-vectors.json``: requests, signed
by the code, with what a receiver must make of them. With ``--check`` nothing is written; the
exit code says whether the files are current.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from confiture_webhooks.delivery import Delivery, TraceContext
from confiture_webhooks.endpoint import Endpoint
from confiture_webhooks.event import (
    Database,
    Direction,
    ErrorInfo,
    Event,
    EventType,
    MigrationRef,
    migration_row,
    payload,
)
from confiture_webhooks.formats import render
from confiture_webhooks.signature import DEFAULT_TOLERANCE
from confiture_webhooks.transport import prepare

DOCS = Path(__file__).resolve().parent.parent / "docs"
AT = datetime(2026, 1, 9, 14, 23, 45, 123000, tzinfo=UTC)
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"
REF = MigrationRef(version="005", slug="add_payment_table")
ERROR = ErrorInfo(
    type="UndefinedTable",
    message='relation "nosuch" does not exist',
    sqlstate="42P01",
    detail="the whole text",
)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OLD_SECRET = "a plain secret, à l'ancienne"
USER_AGENT = "Confiture/1.29.0 confiture-webhooks/0.1.0"

KINDS = [kind for kind in EventType if kind is not EventType.CUSTOM]
"""All but what users' hooks send: its payload is their own."""

KNOWN: Mapping[str, Mapping[str, Any]] = {
    "direction": {"enum": [member.value for member in Direction]},
    "event_id": {"minLength": 1, "description": "The same on every attempt, and the webhook-id."},
    "trace_id": {"pattern": "^[0-9a-f]{32}$", "description": "Of the run; the X-Correlation-ID."},
    "timestamp": {"format": "date-time"},
    "start_time": {"format": "date-time"},
    "end_time": {"format": "date-time"},
    "duration_seconds": {"minimum": 0},
    "rows_affected": {"minimum": 0, "description": "null when unknown."},
    "sqlstate": {"pattern": "^[0-9A-Z]{5}$"},
    "status": {"enum": ["error", "success"]},
    "webhook_target": {"description": "The name of the endpoint this was sent to."},
    "detail": {"description": "The whole error text, only with include_sql."},
}
"""What a payload's values cannot show of a key."""


def full(kind: EventType) -> Event:
    """An event of *kind* with every fact it can have."""
    made = Event(
        id="evt_8c5c9e5be0a94b0e9a1f3f1b5a3b1d7c",
        type=kind,
        occurred_at=AT,
        trace_id=TRACE_ID,
        environment="production",
        database=Database(host="db.production.internal", port=5432, name="shop", schema="public"),
        command="confiture migrate up",
        run_url="https://ci.example.com/shop/runs/4711",
        trace_url=f"https://jaeger.example.com/trace/{TRACE_ID}",
    )
    if kind is EventType.PING:
        return replace(made, database=Database())
    made = replace(made, started_at=AT - timedelta(seconds=2.123))
    if kind is not EventType.MIGRATION_STARTED:
        made = replace(made, ended_at=AT, duration_s=2.123, rows_affected=50000)
    if kind.value.endswith("error"):
        made = replace(made, error=ERROR, rows_affected=None)
    if kind.value.startswith("run_"):
        return replace(made, migrations=rows(), rows_affected=None)
    is_down = kind.value.startswith("migration_rollback")
    return replace(made, migration=REF, direction=Direction.DOWN if is_down else Direction.UP)


def sparse(kind: EventType) -> Event:
    """An event of *kind* with no more than every one has."""
    made = replace(full(kind), environment=None, database=Database(), rows_affected=None)
    made = replace(made, duration_s=None, ended_at=None, run_url=None, trace_url=None)
    made = replace(made, command=None)
    if made.error is not None:
        made = replace(made, error=replace(ERROR, sqlstate=None, detail=None))
    return replace(made, migrations=[] if made.migrations is not None else None)


def rows() -> list[Mapping[str, Any]]:
    """The list of migrations in a run's event; of a killed run the duration is not known."""
    return [
        migration_row(REF, Direction.UP, 2.123, is_success=True),
        migration_row(REF, Direction.UP, None, is_success=False),
    ]


# The schema


def schema() -> dict[str, Any]:
    """The JSON Schema of every event in the default format."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "An event of confiture-webhooks, in the default format",
        "description": "Keys may be added in later versions; none is renamed or removed.",
        "oneOf": [{"$ref": f"#/$defs/{kind.value}"} for kind in KINDS],
        "$defs": {kind.value: _schema_of_kind(kind) for kind in KINDS},
    }


def _schema_of_kind(kind: EventType) -> dict[str, Any]:
    by_hand, sample = replace(full(kind), run_url=None), replace(full(kind), command=None)
    few = (full(kind), by_hand, sample, sparse(kind))
    made = ((full(kind), True), *((event, False) for event in few))
    samples = [payload(event, "analytics", include_sql=is_whole) for event, is_whole in made]
    found = _schema_of(samples, "")
    found["properties"]["event_type"] = {"const": kind.value}
    return found


def _schema_of(values: Sequence[Any], key: str) -> dict[str, Any]:
    """What all *values* of *key* are examples of."""
    types = sorted({_type_of(value) for value in values})
    found: dict[str, Any] = {"type": types[0] if len(types) == 1 else types}
    if objects := [value for value in values if isinstance(value, dict)]:
        names = sorted({name for value in objects for name in value})
        found["required"] = [name for name in names if all(name in value for value in objects)]
        found["properties"] = {
            name: _schema_of([value[name] for value in objects if name in value], name)
            for name in names
        }
    if items := [item for value in values if isinstance(value, list) for item in value]:
        found["items"] = _schema_of(items, "")
    return found | (KNOWN.get(key, {}) if types != ["null"] else {})


def _type_of(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", float: "number", int: "integer"}
    return "null" if value is None else names[type(value)]


# The test vectors


def vectors() -> dict[str, Any]:
    """Requests and what becomes of them at a given time, with a given set of secrets."""
    event = full(EventType.MIGRATION_SUCCESS)
    odd = replace(event, migration=MigrationRef(version="006", slug="\u00e9tat_\U0001f600"))
    failure = full(EventType.MIGRATION_ERROR)
    right, rotating = request(event, SECRET), request(event, SECRET, OLD_SECRET)
    limit = int(DEFAULT_TOLERANCE.total_seconds())
    cases = [
        case("a whsec_ secret", right, [SECRET]),
        case("any other secret", request(event, OLD_SECRET), [OLD_SECRET]),
        case("rotation: the receiver has the new secret", rotating, [SECRET]),
        case("rotation: the receiver has the old secret", rotating, [OLD_SECRET]),
        case("rotation: the sender has the old", request(event, OLD_SECRET), [SECRET, OLD_SECRET]),
        case("text beyond ASCII", request(odd, SECRET), [SECRET]),
        case("a failure", request(failure, SECRET), [SECRET]),
        case("a CloudEvent", request(event, SECRET, chosen="cloudevents"), [SECRET]),
        case("the oldest that is accepted", right, [SECRET], after=limit),
        case("the earliest that is accepted", right, [SECRET], after=-limit),
        case("too old", right, [SECRET], after=limit + 1, is_valid=False),
        case("too early", right, [SECRET], after=-limit - 1, is_valid=False),
        case("another secret", right, [OLD_SECRET], is_valid=False),
    ]
    cases += [case(name, sent, [SECRET], is_valid=False) for name, sent in changed(right).items()]
    return {
        "description": (
            "Requests as confiture-webhooks sends them, and whether a receiver that has `secrets` "
            "and whose clock says `now` (seconds since 1970) accepts them, with the usual "
            "tolerance. `body` is the text whose UTF-8 bytes are sent. Where valid, "
            "X-Confiture-Signature is right too for the first secret of the sender."
        ),
        "tolerance_seconds": int(DEFAULT_TOLERANCE.total_seconds()),
        "cases": cases,
    }


def changed(right: Mapping[str, Any]) -> dict[str, Any]:
    """What was signed as *right*, after somebody changed it."""
    signature = right["headers"]["webhook-signature"]
    later = str(int(right["headers"]["webhook-timestamp"]) + 1)
    return {
        "the body was changed": {**right, "body": right["body"].replace("50000", "50001")},
        "the id was changed": with_header(right, "webhook-id", "evt_other"),
        "the time was changed": with_header(right, "webhook-timestamp", later),
        "another version of the signature": with_header(
            right, "webhook-signature", signature.replace("v1,", "v2,")
        ),
        "no signature": with_header(right, "webhook-signature", None),
    }


def request(event: Event, *secrets: str, chosen: str = "confiture") -> dict[str, Any]:
    """The first attempt to send *event*, signed with *secrets*."""
    endpoint = Endpoint(
        name="analytics", url="https://hooks.example.com/", secrets=secrets, format=chosen
    )
    body, content_type = render(event, endpoint)
    delivery = Delivery(
        id="dlv_5a3f3a0e5d1f4f0c8f8a2f6d7c1b0a9e",
        event_id=event.id,
        event_type=event.type,
        endpoint=endpoint.name,
        body=body,
        content_type=content_type,
        trace=TraceContext(traceparent=TRACEPARENT),
        correlation_id=event.trace_id,
        created_at=AT,
        migration_version=event.migration.version if event.migration else None,
        environment=event.environment,
    )
    sent = prepare(endpoint, delivery, attempt=1, at=AT)
    return {"headers": {**sent.headers, "User-Agent": USER_AGENT}, "body": sent.body.decode()}


def with_header(sent: Mapping[str, Any], name: str, value: str | None) -> dict[str, Any]:
    """*sent* with one header replaced, or left out."""
    headers = {**sent["headers"], name: value}
    return {**sent, "headers": {name: value for name, value in headers.items() if value}}


def case(
    name: str,
    sent: Mapping[str, Any],
    secrets: Sequence[str],
    *,
    after: int = 0,
    is_valid: bool = True,
) -> dict[str, Any]:
    """*sent*, received *after* so many seconds by one who has *secrets*."""
    now = int(AT.timestamp()) + after
    return {"name": name, "valid": is_valid, "secrets": list(secrets), "now": now, **sent}


DOCUMENTS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "event.schema.json": schema,
    "test-vectors.json": vectors,
}


def text(name: str) -> str:
    """The document called *name*, as it is to stand in its file."""
    return json.dumps(DOCUMENTS[name](), indent=2, ensure_ascii=True) + "\n"


def stale() -> list[str]:
    """The documents whose files are not what the code makes of them now."""
    return [
        name
        for name in DOCUMENTS
        if not (DOCS / name).is_file() or (DOCS / name).read_text(encoding="utf-8") != text(name)
    ]


def main(arguments: Sequence[str]) -> int:
    """Write the documents, or say which are stale; the exit code."""
    if "--check" in arguments:
        print("\n".join(f"docs/{name} is not current" for name in stale()) or "All are current.")
        return 1 if stale() else 0
    for name in DOCUMENTS:
        (DOCS / name).write_text(text(name), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
