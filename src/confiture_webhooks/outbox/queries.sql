-- The statements of both stores by name. `main` is the schema: SQLite's own name for it, and
-- `confiture_webhooks` in PostgreSQL. SQLite has one writer, so it needs no FOR UPDATE.
-- A probe for one row is a SELECT with LIMIT 1: an EXISTS may be planned as a look at all of them.
-- Instants and durations are whole microseconds (since 1970, UTC): no session setting changes
-- how they read. An environment without a name is the empty text.

-- stage, mark_released, unstage, add_delivery, add_body, end_leases and stage_committed are also in
-- PostgreSQL's functions, so a change of them is a new version of the schema.

-- name: stage
INSERT INTO main.intents (event_id, environment, staged_at, intent)
SELECT :event_id, :environment, :staged_at, :intent
WHERE NOT EXISTS (SELECT 1 FROM main.released WHERE event_id = :event_id)
ON CONFLICT DO NOTHING

-- In a migration's transaction: the intent has its end if that commits. It is appended to the JSON
-- document. Of a key that is in it twice, the last one counts.
-- name: stage_committed
UPDATE main.intents
SET intent = substr(intent, 1, length(intent) - 1) || ', ' || substr(:changes, 2)
WHERE event_id = :event_id

-- name: intents
SELECT event_id, environment, intent FROM main.intents ORDER BY staged_at, event_id

-- name: mark_released
INSERT INTO main.released (event_id, environment, released_at, token)
SELECT :event_id,
       coalesce((SELECT environment FROM main.intents WHERE event_id = :event_id), :environment),
       :released_at, :token
WHERE 1 = 1
ON CONFLICT DO NOTHING

-- name: unstage
DELETE FROM main.intents WHERE event_id IN (
    SELECT event_id FROM main.intents WHERE event_id = :event_id FOR UPDATE SKIP LOCKED
)

-- Of an id that is none: SQLite may hold bytes, NULL, and text that is no UTF-8.
-- name: forget_intent
DELETE FROM main.intents
WHERE event_id = :key OR event_id = CAST(:key AS text) OR (event_id IS NULL AND :key IS NULL)

-- Asked twice where the first answer was lost.
-- name: add_delivery
INSERT INTO main.deliveries (
    id, event_id, event_type, endpoint, environment, content_type, traceparent, tracestate,
    correlation_id, created_at, migration_version, migration_name, due_at
)
SELECT :id, :event_id, :event_type, :endpoint, :environment, :content_type, :traceparent,
       :tracestate, :correlation_id, :created_at, :migration_version, :migration_name, :created_at
WHERE EXISTS (SELECT 1 FROM main.released WHERE event_id = :event_id AND token = :token)
  AND NOT EXISTS (SELECT 1 FROM main.deliveries WHERE id = :id AND event_id = :event_id)

-- name: add_body
INSERT INTO main.bodies (seq, body)
SELECT seq, :body FROM main.deliveries WHERE id = :id AND event_id = :event_id
ON CONFLICT DO NOTHING

-- name: end_leases
UPDATE main.deliveries SET state = 'pending', is_ready = 1, wakes_at = NULL, token = NULL
WHERE endpoint = :endpoint AND environment = :environment AND correlation_id = :correlation_id
  AND state = 'in_flight' AND is_ready = 0
  AND substr(token, 1, length(:holder)) = :holder

-- Part of leased and list: by name, so that the store refuses if somebody has dropped one.
-- name: row
deliveries.seq, deliveries.id, deliveries.event_id, deliveries.event_type, deliveries.endpoint,
       deliveries.environment, deliveries.content_type, deliveries.traceparent,
       deliveries.tracestate, deliveries.correlation_id, deliveries.created_at,
       deliveries.migration_version, deliveries.migration_name, deliveries.state,
       deliveries.due_at, deliveries.is_ready, deliveries.wakes_at, deliveries.attempts,
       deliveries.tries, bodies.body

-- A file without one of these is refused: nothing could be sent from it.
-- name: needed
SELECT {row} FROM main.deliveries LEFT JOIN main.bodies USING (seq) LIMIT 0

-- name: status
SELECT endpoint, off_since, rests_until FROM main.endpoints
WHERE environment = :environment AND (:endpoint = '' OR endpoint = :endpoint) ORDER BY endpoint

-- name: waiting
SELECT (
    SELECT wakes_at FROM main.deliveries
    WHERE endpoint = :endpoint AND environment = :environment AND wakes_at IS NOT NULL
    ORDER BY wakes_at LIMIT 1
) AS first_at, (
    SELECT wakes_at FROM main.deliveries
    WHERE endpoint = :endpoint AND environment = :environment AND wakes_at IS NOT NULL
    ORDER BY wakes_at DESC LIMIT 1
) AS last_at

-- name: make_ready
UPDATE main.deliveries SET is_ready = 1, wakes_at = NULL WHERE seq IN (
    SELECT seq FROM main.deliveries
    WHERE endpoint = :endpoint AND environment = :environment AND wakes_at <= :now
    ORDER BY wakes_at LIMIT :limit FOR UPDATE SKIP LOCKED
)

-- name: make_unbelievable_ready
UPDATE main.deliveries SET is_ready = 1, wakes_at = NULL WHERE seq IN (
    SELECT seq FROM main.deliveries
    WHERE endpoint = :endpoint AND environment = :environment AND wakes_at > :horizon
    ORDER BY wakes_at LIMIT :limit FOR UPDATE SKIP LOCKED
)

-- Part of the next two: of each run its first delivery that is ready, which is the run's lock, and
-- whether another lease holds the run.
-- name: heads
head.seq AS head, head.due_at,
       (
           SELECT 1 FROM main.deliveries AS held
           WHERE held.endpoint = :endpoint AND held.environment = :environment
             AND held.correlation_id = run AND held.state = 'in_flight' AND held.is_ready = 0
             AND held.wakes_at IS NOT NULL  -- a damaged lease, without an end, holds nothing
           LIMIT 1
       ) AS is_held
FROM runs JOIN main.deliveries AS head ON head.seq = (
    SELECT seq FROM main.deliveries
    WHERE endpoint = :endpoint AND environment = :environment AND is_ready + 0 = 1
      AND correlation_id = run
    ORDER BY seq LIMIT 1
)

-- The runs among the first deliveries that are ready, oldest first.
-- name: look
WITH front AS (
    SELECT seq, correlation_id FROM main.deliveries
    WHERE endpoint = :endpoint AND environment = :environment AND is_ready = 1 AND seq >= :floor
    ORDER BY seq LIMIT :window
), runs AS (
    SELECT correlation_id AS run, min(seq) AS first, count(*) AS ready FROM front
    GROUP BY correlation_id ORDER BY 2 LIMIT :runs
)
SELECT run, first, ready, {heads}
ORDER BY first

-- The same for runs in the order of their ids: a run with many deliveries hides none of them.
-- name: look_elsewhere
WITH RECURSIVE runs (run, place) AS (
    SELECT (
        SELECT correlation_id FROM main.deliveries
        WHERE endpoint = :endpoint AND environment = :environment AND is_ready + 0 = 1
        ORDER BY correlation_id LIMIT 1
    ), 1
    UNION ALL
    SELECT (
        SELECT correlation_id FROM main.deliveries
        WHERE endpoint = :endpoint AND environment = :environment AND is_ready + 0 = 1
          AND correlation_id > run
        ORDER BY correlation_id LIMIT 1
    ), place + 1
    FROM runs WHERE run IS NOT NULL AND place < :window
)
SELECT run, {heads}
ORDER BY head.seq

-- An endpoint whose rate is low rests from the claim on, for every worker: of those that wake at
-- once, one gets the turn.
-- name: take_turn
INSERT INTO main.endpoints (endpoint, environment, rests_until)
VALUES (:endpoint, :environment, :turn_ends)
ON CONFLICT (endpoint, environment) DO UPDATE SET rests_until = excluded.rests_until
WHERE main.endpoints.rests_until IS NULL OR main.endpoints.rests_until <= :now
   OR main.endpoints.rests_until > :horizon

-- Nothing where the endpoint rests since the look, unless that rest is this claim's own turn.
-- name: lease
WITH head AS (
    SELECT correlation_id FROM main.deliveries AS one
    WHERE endpoint = :endpoint AND environment = :environment AND is_ready = 1
      AND seq IN (:head0, :head1, :head2, :head3) AND (
        SELECT 1 FROM main.deliveries AS held
        WHERE held.endpoint = :endpoint AND held.environment = :environment
          AND held.correlation_id = one.correlation_id
          AND held.state = 'in_flight' AND held.is_ready = 0 AND held.wakes_at IS NOT NULL
        LIMIT 1
    ) IS NULL AND coalesce((
        SELECT rests_until FROM main.endpoints
        WHERE endpoint = :endpoint AND environment = :environment
          AND rests_until > :now AND rests_until <= :horizon
    ), :turn_ends) = :turn_ends
    ORDER BY seq LIMIT 1 FOR UPDATE SKIP LOCKED
), picked AS (  -- PostgreSQL may run a plain subquery again, and exceed the limit
    SELECT seq FROM main.deliveries
    WHERE endpoint = :endpoint AND environment = :environment AND is_ready + 0 = 1
      AND correlation_id = (SELECT correlation_id FROM head)
    ORDER BY seq LIMIT :limit FOR UPDATE SKIP LOCKED
)
UPDATE main.deliveries
SET state = 'in_flight', is_ready = 0, wakes_at = :lease_until, token = :token
WHERE seq IN (SELECT seq FROM picked)

-- name: leased
SELECT {row} FROM main.deliveries LEFT JOIN main.bodies USING (seq)
WHERE endpoint = :endpoint AND environment = :environment
  AND correlation_id IN (  -- not their values: a store may not take back a text that it gave
    (SELECT correlation_id FROM main.deliveries WHERE seq = :head0),
    (SELECT correlation_id FROM main.deliveries WHERE seq = :head1),
    (SELECT correlation_id FROM main.deliveries WHERE seq = :head2),
    (SELECT correlation_id FROM main.deliveries WHERE seq = :head3)
  )
  AND state = 'in_flight' AND is_ready = 0 AND token = :token
ORDER BY seq

-- name: hold
SELECT seq FROM main.deliveries WHERE seq = :seq AND token = :token FOR UPDATE

-- name: add_attempt
INSERT INTO main.attempts (
    seq, number, started_at, duration, status_code, error_type, retry_after
)
SELECT seq, :number, :started_at, :duration, :status_code, :error_type, :retry_after
FROM main.deliveries WHERE seq = :seq AND token = :token
ON CONFLICT DO NOTHING

-- name: recorded
SELECT number FROM main.attempts
WHERE seq = :seq AND number = :number AND started_at = :started_at AND duration = :duration

-- name: switch_off
INSERT INTO main.endpoints (endpoint, environment, off_since)
SELECT endpoint, environment, :finished_at FROM main.deliveries
WHERE seq = :seq AND token = :token
ON CONFLICT (endpoint, environment) DO UPDATE
SET off_since = coalesce(main.endpoints.off_since, excluded.off_since)

-- name: move
UPDATE main.deliveries
SET state = :state, is_ready = 0, wakes_at = :next_attempt_at, token = NULL,
    due_at = coalesce(:next_attempt_at, due_at), finished_at = :ended_at,
    attempts = CASE WHEN attempts BETWEEN 0 AND 1000000000 THEN attempts ELSE 0 END + 1,
    tries = CASE WHEN tries BETWEEN 0 AND 1000000000 THEN tries ELSE 0 END + :counts
WHERE seq = :seq AND token = :token

-- name: give_back
UPDATE main.deliveries SET state = 'pending', is_ready = 1, wakes_at = NULL, token = NULL
WHERE seq = :seq AND token = :token

-- name: rest
INSERT INTO main.endpoints (endpoint, environment, rests_until)
VALUES (:endpoint, :environment, :until)
ON CONFLICT (endpoint, environment) DO UPDATE
SET rests_until = CASE
    WHEN main.endpoints.rests_until > excluded.rests_until
     AND main.endpoints.rests_until <= :horizon THEN main.endpoints.rests_until
    ELSE excluded.rests_until
END

-- name: disable
INSERT INTO main.endpoints (endpoint, environment, off_since)
VALUES (:endpoint, :environment, :at)
ON CONFLICT (endpoint, environment) DO UPDATE
SET off_since = coalesce(main.endpoints.off_since, excluded.off_since)

-- name: enable
UPDATE main.endpoints SET off_since = NULL
WHERE endpoint = :endpoint AND environment = :environment AND off_since IS NOT NULL

-- name: forget_status
DELETE FROM main.endpoints
WHERE off_since IS NULL AND (rests_until IS NULL OR rests_until < :at)

-- Part of the next two: no lease holds, and it was not delivered since it was chosen.
-- name: free
(state <> 'in_flight' OR is_ready = 1 OR wakes_at IS NULL OR wakes_at <= :now
 OR wakes_at > :horizon) AND (state <> 'delivered' OR :was_delivered = 1)

-- Part of the next three: by its id, else by its place. With OR, no index might be used.
-- name: named
seq = coalesce((SELECT seq FROM main.deliveries WHERE id = :id), :seq)

-- name: redeliver
UPDATE main.deliveries
SET state = 'pending', is_ready = 1, wakes_at = NULL, due_at = :now, tries = 0,
    finished_at = NULL, token = NULL
WHERE {named} AND {free}

-- name: discard
DELETE FROM main.deliveries
WHERE {named} AND {free}

-- PostgreSQL's own: SQLite has no clock but this machine's.
-- name: clock
SELECT CAST(extract(epoch FROM statement_timestamp()) * 1000000 AS bigint) AS now

-- name: newest_surplus
SELECT finished_at, seq FROM main.deliveries
WHERE state = 'delivered' AND finished_at IS NOT NULL
ORDER BY finished_at DESC, seq DESC LIMIT 1 OFFSET :keep

-- name: prune
DELETE FROM main.deliveries WHERE seq IN (
    SELECT seq FROM main.deliveries
    WHERE state = 'delivered' AND finished_at IS NOT NULL AND (finished_at, seq) <= (:at, :last)
    ORDER BY finished_at, seq LIMIT :limit FOR UPDATE SKIP LOCKED
)

-- name: forget_released
DELETE FROM main.released WHERE event_id IN (
    SELECT event_id FROM main.released
    WHERE released_at < :at AND NOT EXISTS (
        SELECT 1 FROM main.deliveries WHERE deliveries.event_id = released.event_id
    )
    LIMIT :limit
)

-- name: list
SELECT {row},
       attempts.number AS last_number, attempts.started_at AS last_started_at,
       attempts.duration AS last_duration, attempts.status_code AS last_status_code,
       attempts.error_type AS last_error_type, attempts.retry_after AS last_retry_after
FROM main.deliveries
LEFT JOIN main.bodies ON bodies.seq = deliveries.seq
LEFT JOIN main.attempts ON attempts.seq = deliveries.seq
                       AND attempts.number = deliveries.attempts
WHERE {filters}
ORDER BY deliveries.seq DESC LIMIT :limit

-- name: attempts
SELECT number, started_at, duration, status_code, error_type, retry_after
FROM main.attempts WHERE {named} ORDER BY number

-- name: undelivered
SELECT environment, endpoint, state, count(*) AS count, min(created_at) AS oldest_at
FROM main.deliveries WHERE finished_at IS NULL GROUP BY environment, endpoint, state

-- name: ended
SELECT environment, state, count(*) AS count FROM main.deliveries
WHERE finished_at IS NOT NULL GROUP BY environment, state
