"""The SQL of the PostgreSQL outbox by name.

A claim is what ``pgmq.read`` does, for one group, by the caller's clock and to the microsecond:
``pgmq.read`` takes the server's and whole seconds, and its grouped kin aggregate the whole queue.
A message is locked before its delivery, everywhere, so that two workers cannot wait in a circle.
"""

from __future__ import annotations

_RELAXED = "(SELECT set_config('synchronous_commit', 'off', true)) AS relaxed"
"""In a statement's FROM: its commit waits for no disk."""
GROUP = "headers ->> 'x-pgmq-group'"
_WANTED = "jsonb_build_array(%(endpoint)s::text, %(environment)s::text)::text"
"""The group of an endpoint in an environment."""
_IS_OFF = "endpoint = %(endpoint)s AND environment = coalesce(%(environment)s::text, '')"

_NEWS = "pg_notify('pgmq.q_confiture_webhooks.INSERT', '')"
"""In a SELECT or RETURNING: whoever listens looks again, once it is committed."""
TELL = "SELECT pg_notify('pgmq.q_confiture_webhooks.INSERT', %s)"

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
        EXISTS (SELECT 1 FROM confiture_webhooks.endpoints_off WHERE {_IS_OFF})
            AS is_off,
        (SELECT msg_id FROM pgmq.q_confiture_webhooks
         WHERE {GROUP} = {_WANTED} AND vt = '-infinity' ORDER BY msg_id LIMIT 1) AS ready,
        (SELECT vt FROM pgmq.q_confiture_webhooks
         WHERE {GROUP} = {_WANTED} AND vt > '-infinity' ORDER BY vt LIMIT 1) AS wakes_at
"""
MAKE_READY = f"""
    WITH woken AS (
        SELECT msg_id FROM pgmq.q_confiture_webhooks
        WHERE {GROUP} = {_WANTED} AND vt > '-infinity' AND vt <= %(now)s
        ORDER BY vt LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    )
    UPDATE pgmq.q_confiture_webhooks AS queue SET vt = '-infinity'
    FROM woken WHERE queue.msg_id = woken.msg_id
"""
LEASE = f"""
    WITH picked AS (
        SELECT msg_id FROM pgmq.q_confiture_webhooks
        WHERE {GROUP} = {_WANTED} AND vt = '-infinity'
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
        RETURNING seq, endpoint, environment
    ), kept AS (
        INSERT INTO confiture_webhooks.attempts
        SELECT seq, %(number)s, %(started_at)s, %(duration)s, %(status_code)s, %(error_type)s,
               %(retry_after)s
        FROM moved
    ), switched AS (
        INSERT INTO confiture_webhooks.endpoints_off
        SELECT endpoint, coalesce(environment, ''), %(off_at)s FROM moved
        WHERE %(off_at)s::timestamptz IS NOT NULL
        ON CONFLICT DO NOTHING
    )
"""
RECORD_RETRY = f"""
    {_RECORD} SELECT again.msg_id, {_NEWS} FROM {_RELAXED}, moved, LATERAL pgmq.set_vt(
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
    SELECT again.msg_id, {_NEWS} FROM {_RELAXED}, moved, LATERAL pgmq.set_vt(
        'confiture_webhooks', moved.seq, '-infinity'::timestamptz
    ) AS again
"""
REDELIVER = f"""
    {_HELD}, one AS (
        UPDATE confiture_webhooks.deliveries
        SET outcome = NULL, finished_at = NULL, tries = 0, due_at = %(now)s
        FROM (SELECT count(*) FROM held) AS locked
        WHERE id = %(id)s AND (outcome IS NOT NULL OR token IS NULL)
        RETURNING seq, id, endpoint, environment
    ), history AS (
        DELETE FROM pgmq.a_confiture_webhooks USING one WHERE msg_id = one.seq
    )
    -- With its old msg_id, which is its place in the order. Made anew: an operator may have
    -- emptied pgmq's archive.
    INSERT INTO pgmq.q_confiture_webhooks (msg_id, vt, message, headers) OVERRIDING SYSTEM VALUE
    SELECT seq, '-infinity', jsonb_build_object('delivery', id),
           jsonb_build_object('x-pgmq-group', jsonb_build_array(endpoint, environment)::text)
    FROM one
    ON CONFLICT (msg_id) DO UPDATE SET vt = '-infinity'
    RETURNING {_NEWS}
"""

DISCARD = f"""
    {_HELD}, one AS (
        DELETE FROM confiture_webhooks.deliveries USING (SELECT count(*) FROM held) AS locked
        WHERE id = %(id)s AND (token IS NULL OR NOT EXISTS (
            SELECT 1 FROM pgmq.q_confiture_webhooks WHERE msg_id = seq AND vt > %(now)s
        ))
        RETURNING seq
    ), tried AS (
        DELETE FROM confiture_webhooks.attempts USING one WHERE attempts.seq = one.seq
    ), queued AS (
        DELETE FROM pgmq.q_confiture_webhooks USING one WHERE msg_id = one.seq
    ), history AS (
        DELETE FROM pgmq.a_confiture_webhooks USING one WHERE msg_id = one.seq
    )
    SELECT seq FROM one
"""

DUE_AT = "SELECT due_at FROM confiture_webhooks.deliveries WHERE seq = %s"
DISABLE = """
    INSERT INTO confiture_webhooks.endpoints_off
    VALUES (%(endpoint)s, coalesce(%(environment)s::text, ''), %(at)s) ON CONFLICT DO NOTHING
"""
ENABLE = f"DELETE FROM confiture_webhooks.endpoints_off WHERE {_IS_OFF} RETURNING {_NEWS}"
DISABLED = """
    SELECT endpoint, since FROM confiture_webhooks.endpoints_off
    WHERE environment = coalesce(%(environment)s::text, '') ORDER BY endpoint
"""

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
UNDELIVERED = """
    SELECT environment, endpoint,
           CASE WHEN token IS NULL THEN 'pending' ELSE 'in_flight' END AS state,
           count(*) AS count, min(created_at) AS oldest_at
    FROM confiture_webhooks.deliveries WHERE outcome IS NULL
    GROUP BY environment, endpoint, token IS NULL
"""
ENDED = """
    SELECT environment, outcome AS state, count(*) AS count FROM confiture_webhooks.deliveries
    WHERE outcome IS NOT NULL GROUP BY 1, 2
"""
