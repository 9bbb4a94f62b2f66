"""The SQL of the PostgreSQL outbox by name, and its rows as values.

A claim is what ``pgmq.read`` does, for one group, by the caller's clock and to the microsecond:
``pgmq.read`` takes the server's and whole seconds, and its grouped kin aggregate the whole queue.
A message is locked before its delivery, everywhere, so that two workers cannot wait in a circle.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, get_type_hints

from ..delivery import Attempt, Delivery, State, TraceContext
from ..event import Direction, EventType, MigrationRef
from ..outbox import Claim, Intent, Row

_RELAXED = "(SELECT set_config('synchronous_commit', 'off', true)) AS relaxed"
"""In a statement's FROM: its commit waits for no disk."""
GROUP = "headers ->> 'x-pgmq-group'"

STAGE = """
    INSERT INTO confiture_webhooks.intents (event_id, staged_at, intent)
    SELECT %(event_id)s, %(staged_at)s, %(intent)s::jsonb
    WHERE NOT EXISTS (
        SELECT 1 FROM confiture_webhooks.released WHERE event_id = %(event_id)s
    )
    ON CONFLICT DO NOTHING
"""
INTENTS = "SELECT intent FROM confiture_webhooks.intents ORDER BY staged_at, event_id"
RELEASE = "SELECT confiture_webhooks.release(%s, %s::jsonb)"
RELEASE_WITHIN = f"""
    SAVEPOINT confiture_webhooks;
    {RELEASE};
    RELEASE SAVEPOINT confiture_webhooks
"""
UNDO_RELEASE = """
    ROLLBACK TO SAVEPOINT confiture_webhooks;
    RELEASE SAVEPOINT confiture_webhooks
"""

LOOK = f"""
    SELECT
        EXISTS (SELECT 1 FROM confiture_webhooks.endpoints_off WHERE endpoint = %(endpoint)s)
            AS is_off,
        (SELECT msg_id FROM pgmq.q_confiture_webhooks
         WHERE {GROUP} = %(endpoint)s AND vt = '-infinity' ORDER BY msg_id LIMIT 1) AS ready,
        (SELECT vt FROM pgmq.q_confiture_webhooks
         WHERE {GROUP} = %(endpoint)s AND vt > '-infinity' ORDER BY vt LIMIT 1) AS wakes_at
"""
MAKE_READY = f"""
    WITH woken AS (
        SELECT msg_id FROM pgmq.q_confiture_webhooks
        WHERE {GROUP} = %(endpoint)s AND vt > '-infinity' AND vt <= %(now)s
        ORDER BY vt LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    )
    UPDATE pgmq.q_confiture_webhooks AS queue SET vt = '-infinity'
    FROM woken WHERE queue.msg_id = woken.msg_id
"""
LEASE = f"""
    WITH picked AS (
        SELECT msg_id FROM pgmq.q_confiture_webhooks
        WHERE {GROUP} = %(endpoint)s AND vt = '-infinity'
        ORDER BY msg_id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    ), leased AS (
        UPDATE pgmq.q_confiture_webhooks AS queue
        SET vt = %(lease_until)s, read_ct = read_ct + 1, last_read_at = clock_timestamp()
        FROM picked WHERE queue.msg_id = picked.msg_id
        RETURNING queue.msg_id
    ), taken AS (
        UPDATE confiture_webhooks.deliveries SET token = gen_random_uuid()::text
        FROM leased WHERE seq = leased.msg_id
        RETURNING deliveries.*
    )
    SELECT taken.* FROM taken, {_RELAXED} ORDER BY seq
"""
"""A claim: the first that are ready, with a token each."""

_HELD = """
    WITH held AS (
        SELECT msg_id FROM pgmq.q_confiture_webhooks
        WHERE msg_id = (SELECT seq FROM confiture_webhooks.deliveries WHERE id = %(id)s)
        FOR UPDATE
    )
"""
_RECORD = f"""
    {_HELD}, moved AS (
        UPDATE confiture_webhooks.deliveries
        SET token = NULL, attempts = attempts + 1, tries = tries + 1,
            due_at = coalesce(%(next_attempt_at)s::timestamptz, due_at),
            outcome = %(outcome)s, finished_at = %(finished_at)s
        FROM held WHERE seq = held.msg_id AND token = %(token)s
        RETURNING seq, endpoint
    ), kept AS (
        INSERT INTO confiture_webhooks.attempts
        SELECT seq, %(number)s, %(started_at)s, %(duration)s, %(status_code)s, %(error_type)s,
               %(retry_after)s
        FROM moved
    ), switched AS (
        INSERT INTO confiture_webhooks.endpoints_off
        SELECT endpoint, %(off_at)s FROM moved WHERE %(off_at)s::timestamptz IS NOT NULL
        ON CONFLICT DO NOTHING
    )
"""
RECORD_RETRY = f"""
    {_RECORD} SELECT again.msg_id FROM {_RELAXED}, moved, LATERAL pgmq.set_vt(
        'confiture_webhooks', moved.seq, %(next_attempt_at)s::timestamptz
    ) AS again
"""
RECORD_END = f"""
    {_RECORD} SELECT pgmq.archive('confiture_webhooks', moved.seq) FROM moved, {_RELAXED}
"""
GIVE_BACK = f"""
    {_HELD}, moved AS (
        UPDATE confiture_webhooks.deliveries SET token = NULL
        FROM held WHERE seq = held.msg_id AND token = %(token)s
        RETURNING seq
    )
    SELECT again.msg_id FROM {_RELAXED}, moved, LATERAL pgmq.set_vt(
        'confiture_webhooks', moved.seq, '-infinity'::timestamptz
    ) AS again
"""
REDELIVER = """
    WITH one AS (
        UPDATE confiture_webhooks.deliveries
        SET outcome = NULL, finished_at = NULL, tries = 0, due_at = %(now)s
        WHERE id = %(id)s AND outcome IS NOT NULL
        RETURNING seq, id, endpoint
    ), history AS (
        DELETE FROM pgmq.a_confiture_webhooks USING one WHERE msg_id = one.seq
    )
    -- With its old msg_id, which is its place in the order. Made anew: an operator may have
    -- emptied pgmq's archive.
    INSERT INTO pgmq.q_confiture_webhooks (msg_id, vt, message, headers) OVERRIDING SYSTEM VALUE
    SELECT seq, '-infinity', jsonb_build_object('delivery', id),
           jsonb_build_object('x-pgmq-group', endpoint)
    FROM one
    RETURNING pg_notify('pgmq.q_confiture_webhooks.INSERT', '')
"""

DUE_AT = "SELECT due_at FROM confiture_webhooks.deliveries WHERE seq = %s"
DISABLE = """
    INSERT INTO confiture_webhooks.endpoints_off VALUES (%s, %s) ON CONFLICT DO NOTHING
"""
ENABLE = "DELETE FROM confiture_webhooks.endpoints_off WHERE endpoint = %s"
DISABLED = "SELECT endpoint, since FROM confiture_webhooks.endpoints_off ORDER BY endpoint"

NEWEST_SURPLUS = """
    SELECT finished_at, seq FROM confiture_webhooks.deliveries WHERE outcome = 'delivered'
    ORDER BY finished_at DESC, seq DESC LIMIT 1 OFFSET %s
"""
PRUNE = """
    WITH doomed AS (
        SELECT seq FROM confiture_webhooks.deliveries
        WHERE outcome = 'delivered' AND (finished_at, seq) <= (%(at)s, %(seq)s)
        ORDER BY finished_at, seq LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM confiture_webhooks.deliveries USING doomed
        WHERE deliveries.seq = doomed.seq AND outcome = 'delivered'
        RETURNING deliveries.seq
    ), tried AS (
        DELETE FROM confiture_webhooks.attempts USING gone WHERE attempts.seq = gone.seq
    )
    DELETE FROM pgmq.a_confiture_webhooks USING gone WHERE msg_id = gone.seq
"""
FORGET_RELEASED = """
    DELETE FROM confiture_webhooks.released WHERE event_id IN (
        SELECT event_id FROM confiture_webhooks.released
        WHERE released_at < %(at)s AND NOT EXISTS (
            SELECT 1 FROM confiture_webhooks.deliveries WHERE event_id = released.event_id
        )
        LIMIT %(limit)s
    )
"""

STATE = """
    coalesce(outcome, CASE WHEN token IS NULL THEN 'pending' ELSE 'in_flight' END)
"""
LIST = f"""
    SELECT *, {STATE} AS state FROM confiture_webhooks.deliveries
    WHERE (%(state)s::text IS NULL OR {STATE} = %(state)s)
      AND (%(endpoint)s::text IS NULL OR endpoint = %(endpoint)s)
      AND (%(event_type)s::text IS NULL OR event_type = %(event_type)s)
      AND (%(since)s::timestamptz IS NULL OR created_at >= %(since)s)
    ORDER BY seq DESC LIMIT %(limit)s
"""
FIND = f"SELECT *, {STATE} AS state FROM confiture_webhooks.deliveries WHERE id = %s"
ATTEMPTS = """
    SELECT attempts.* FROM confiture_webhooks.attempts
    JOIN confiture_webhooks.deliveries USING (seq) WHERE id = %s ORDER BY number
"""
# Counted, not kept in a row that every release and record would have to wait for.
UNDELIVERED = f"""
    SELECT endpoint, {STATE} AS state, count(*) AS count, min(created_at) AS oldest_at
    FROM confiture_webhooks.deliveries WHERE outcome IS NULL GROUP BY 1, 2
"""
ENDED = """
    SELECT outcome AS state, count(*) AS count FROM confiture_webhooks.deliveries
    WHERE outcome IS NOT NULL GROUP BY 1
"""


def text(value: str) -> str:
    """*value* with what no text of PostgreSQL's can hold escaped: NUL, and halves of pairs."""
    return value.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def intent_document(intent: Intent) -> str:
    """*intent* as JSON: every field it has, whatever they are."""
    return json.dumps(_plain(intent))


def intent(document: Mapping[str, Any]) -> Intent:
    """The intent that was stored as *document*, maybe by another version.

    What this version does not know is left out; what that one did not know is its default,
    else ``None``.
    """
    hints = get_type_hints(Intent)
    values: dict[str, Any] = {}
    for field in fields(Intent):
        if field.name in document:
            values[field.name] = _typed(hints[field.name], document[field.name])
        elif field.default is field.default_factory:  # both are missing: there is none
            values[field.name] = None
    return Intent(**values)


def _plain(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    return text(value) if isinstance(value, str) else value


def _typed(hint: Any, value: Any) -> Any:
    """*value* out of JSON as what *hint* says it was."""
    if value is None:
        return None
    kinds = {hint, *getattr(hint, "__args__", ())}
    if datetime in kinds:
        return datetime.fromisoformat(value)
    if Direction in kinds:
        return Direction(value)
    return MigrationRef(**value) if MigrationRef in kinds else value


def delivery_documents(deliveries: Sequence[Delivery]) -> str:
    """*deliveries* as the JSON array that ``confiture_webhooks.release`` takes."""
    return json.dumps([_document(one) for one in deliveries])


def _document(delivery: Delivery) -> dict[str, Any]:
    return {
        **{
            field.name: _plain(getattr(delivery, field.name))
            for field in fields(delivery)
            if field.name not in ("body", "trace", "event_id")
        },
        **_plain(delivery.trace),
        "body": base64.b64encode(delivery.body).decode(),
    }


def delivery(row: Mapping[str, Any]) -> Delivery:
    """The delivery in *row*."""
    return Delivery(
        id=row["id"],
        event_id=row["event_id"],
        event_type=EventType(row["event_type"]),
        endpoint=row["endpoint"],
        body=bytes(row["body"]),
        content_type=row["content_type"],
        trace=TraceContext(traceparent=row["traceparent"], tracestate=row["tracestate"]),
        correlation_id=row["correlation_id"],
        created_at=row["created_at"],
        migration_version=row["migration_version"],
        migration_name=row["migration_name"],
        environment=row["environment"],
    )


def claim(row: Mapping[str, Any]) -> Claim:
    """The claim of the delivery in *row*."""
    return Claim(
        delivery=delivery(row),
        token=row["token"],
        attempts=row["attempts"],
        tries=row["tries"],
    )


def standing(row: Mapping[str, Any]) -> Row:
    """The delivery in *row* and where it stands."""
    state = State(row["state"])
    return Row(
        delivery=delivery(row),
        state=state,
        attempts=row["attempts"],
        next_attempt_at=row["due_at"] if state is State.PENDING else None,
    )


def attempt_values(attempt: Attempt) -> dict[str, Any]:
    """*attempt* as named values of ``RECORD_…``."""
    return {field.name: getattr(attempt, field.name) for field in fields(attempt)}


def attempt(row: Mapping[str, Any]) -> Attempt:
    """The attempt in *row*."""
    duration: timedelta = row["duration"]
    return Attempt(
        number=row["number"],
        started_at=row["started_at"],
        duration=duration,
        status_code=row["status_code"],
        error_type=row["error_type"],
        retry_after=row["retry_after"],
    )
