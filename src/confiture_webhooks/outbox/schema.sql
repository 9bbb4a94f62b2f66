-- The tables of both stores. {serial}, {bytes} and {ids} are the dialect's.

CREATE TABLE IF NOT EXISTS intents (
    event_id text {ids} PRIMARY KEY,
    environment text NOT NULL,
    staged_at bigint NOT NULL,
    intent text NOT NULL                  -- a JSON document
);

CREATE TABLE IF NOT EXISTS released (                   -- event ids released once: a second time changes nothing
    event_id text {ids} PRIMARY KEY,
    environment text NOT NULL,
    released_at bigint NOT NULL,
    token text NOT NULL                   -- of the release that was the first
);
CREATE INDEX IF NOT EXISTS released_age ON released (released_at);

CREATE TABLE IF NOT EXISTS deliveries (
    seq {serial},                         -- the order of release
    id text {ids} NOT NULL UNIQUE,
    event_id text {ids} NOT NULL,
    event_type text NOT NULL,
    endpoint text NOT NULL,
    environment text NOT NULL,
    content_type text NOT NULL,
    traceparent text NOT NULL,
    tracestate text,
    correlation_id text {ids} NOT NULL,   -- the run
    created_at bigint NOT NULL,
    migration_version text,
    migration_name text,
    state text NOT NULL DEFAULT 'pending',
    due_at bigint NOT NULL,               -- when its next attempt is, or was, to be made
    is_ready integer NOT NULL DEFAULT 1,  -- waits for nothing but a claim
    wakes_at bigint,                      -- when it becomes ready: due, or its lease has ended
    token text,                           -- of the claim that holds the lease
    attempts integer NOT NULL DEFAULT 0,  -- over all schedules
    tries integer NOT NULL DEFAULT 0,     -- in the current schedule
    finished_at bigint
);

-- Apart from the rest, so that moving a delivery does not rewrite its body.
CREATE TABLE IF NOT EXISTS bodies (
    seq bigint PRIMARY KEY REFERENCES deliveries ON DELETE CASCADE,
    body {bytes} NOT NULL
);

CREATE TABLE IF NOT EXISTS attempts (
    seq bigint NOT NULL REFERENCES deliveries ON DELETE CASCADE,
    number integer NOT NULL,
    started_at bigint NOT NULL,
    duration bigint NOT NULL,
    status_code integer,
    error_type text,
    retry_after bigint,
    PRIMARY KEY (seq, number)
);

CREATE TABLE IF NOT EXISTS endpoints (                  -- those that are off, or asked for a rest
    endpoint text NOT NULL,
    environment text NOT NULL,
    off_since bigint,
    rests_until bigint,
    PRIMARY KEY (endpoint, environment)
);

-- Each holds only the rows its question is about, so that a claim costs the same however many
-- deliveries are stored, waiting, delivered or dead.
CREATE INDEX IF NOT EXISTS deliveries_ready ON deliveries (endpoint, environment, seq) WHERE is_ready = 1;
-- Its condition is written otherwise than the first's, so that no planner takes one for the other.
CREATE INDEX IF NOT EXISTS deliveries_runs ON deliveries (endpoint, environment, correlation_id, seq)
    WHERE is_ready + 0 = 1;
CREATE INDEX IF NOT EXISTS deliveries_held ON deliveries (endpoint, environment, correlation_id)
    WHERE state = 'in_flight' AND is_ready = 0;
CREATE INDEX IF NOT EXISTS deliveries_waiting ON deliveries (endpoint, environment, wakes_at)
    WHERE wakes_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS deliveries_undelivered ON deliveries (environment, endpoint, state, created_at)
    WHERE finished_at IS NULL;
CREATE INDEX IF NOT EXISTS deliveries_ended ON deliveries (state, finished_at, seq)
    WHERE finished_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS deliveries_counted ON deliveries (environment, state)
    WHERE finished_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS deliveries_event ON deliveries (event_id);
