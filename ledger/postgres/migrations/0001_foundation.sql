-- The foundation. Times are microseconds since 1970 (UTC), 0 or NULL for "not
-- set"; states, modes and events are the numbers of package job.

-- One value of the sequence is a block of 1024 order numbers, which the
-- transaction that drew it hands out: so one draw serves a batch. CACHE 1
-- keeps the blocks of different connections in the order in which they were drawn.
CREATE SEQUENCE errand.seq AS bigint INCREMENT BY 1024 MINVALUE 1024 START WITH 1024 CACHE 1;

-- Live jobs only: scheduled (1), ready (2), running (3).
CREATE TABLE errand.job (
    id               uuid     PRIMARY KEY,
    queue            text     NOT NULL,
    kind             text     NOT NULL,
    state            smallint NOT NULL,
    priority         smallint NOT NULL,
    lane             smallint NOT NULL,
    seq              bigint   NOT NULL,
    run_at           bigint   NOT NULL,
    created_at       bigint   NOT NULL,
    expires_at       bigint,
    leased_at        bigint,
    done_at          bigint,
    attempt          integer  NOT NULL DEFAULT 0,
    max_attempts     integer  NOT NULL,
    crashes          integer  NOT NULL DEFAULT 0,
    redrives         integer  NOT NULL DEFAULT 0,
    timeout_us       bigint,
    token            bigint   NOT NULL DEFAULT 0,
    version          bigint   NOT NULL DEFAULT 1,
    session          uuid,
    call             bigint,
    settled_token    bigint,
    settled_as       smallint,
    cancel_requested boolean  NOT NULL DEFAULT false,
    reason           text,
    unique_key       text,
    unique_mode      smallint,
    unique_for_us    bigint,
    digest           bigint   NOT NULL,
    content_type     text,     -- NULL: application/json
    tags             text,     -- JSON array of strings
    trace            text,
    payload          bytea,
    result           bytea,
    progress         bytea,
    errors           text,     -- JSON array of job.Failure
    last_error       text      -- message of the newest
) WITH (
    -- Every job is written three times and leaves: dead rows are most of what
    -- passes through, so vacuum comes by number of rows, early and unthrottled.
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 20000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_vacuum_insert_scale_factor = 0.2,
    autovacuum_analyze_scale_factor = 0.1,
    autovacuum_analyze_threshold = 20000
);

-- No index but the primary key holds the id: a partial index that ends with it
-- may be chosen for "id = ANY (…) AND state = …" while there are no statistics,
-- and is then read whole for each id.
CREATE INDEX job_ready   ON errand.job (queue, kind, lane, seq) WHERE state = 2;
CREATE INDEX job_suspect ON errand.job (queue, seq)   WHERE state = 2 AND lane = -2;
CREATE INDEX job_due     ON errand.job (run_at)       WHERE state = 1;
CREATE INDEX job_expires ON errand.job (expires_at)   WHERE state < 3 AND expires_at IS NOT NULL;
CREATE INDEX job_running ON errand.job (session)      WHERE state = 3;
CREATE INDEX job_cancel  ON errand.job (session)      WHERE state = 3 AND cancel_requested;

-- Dead letters, until a person or a retention rule removes them.
CREATE TABLE errand.dead (LIKE errand.job INCLUDING DEFAULTS);
ALTER TABLE errand.dead ADD PRIMARY KEY (id), ALTER COLUMN done_at SET NOT NULL;
CREATE INDEX dead_done ON errand.dead (done_at);

-- Succeeded and cancelled jobs, in slices of an hour that are made ahead and
-- dropped whole. There is no default partition: it would have to be scanned
-- whenever a slice is attached.
CREATE TABLE errand.archive (LIKE errand.job INCLUDING DEFAULTS) PARTITION BY RANGE (done_at);
ALTER TABLE errand.archive ALTER COLUMN done_at SET NOT NULL;
CREATE INDEX archive_id ON errand.archive (id);

-- Numbers of jobs: writers only insert deltas, one keeper at a time folds them.
CREATE TABLE errand.counter_total (
    queue text     NOT NULL,
    kind  text     NOT NULL,
    state smallint NOT NULL,
    slice bigint   NOT NULL, -- 0: live and dead jobs; else hours since 1970, of the archive
    n     bigint   NOT NULL,
    PRIMARY KEY (queue, kind, state, slice)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);
CREATE TABLE errand.counter_delta (
    queue text     NOT NULL,
    kind  text     NOT NULL,
    state smallint NOT NULL,
    slice bigint   NOT NULL,
    n     bigint   NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
CREATE VIEW errand.counter AS
    SELECT queue, kind, state, slice, n FROM errand.counter_total
    UNION ALL
    SELECT queue, kind, state, slice, n FROM errand.counter_delta;

-- Who holds a unique key. The scope is the kind.
CREATE TABLE errand.unique_key (
    scope text   NOT NULL,
    key   text   NOT NULL,
    job   uuid   NOT NULL,
    until bigint, -- NULL: until the job gives it back
    PRIMARY KEY (scope, key)
);
CREATE INDEX unique_key_until ON errand.unique_key (until) WHERE until IS NOT NULL;

-- Which job an enqueue made; may outlive the job.
CREATE TABLE errand.idempotency (
    caller text   NOT NULL,
    key    text   NOT NULL,
    job    uuid   NOT NULL,
    digest bigint NOT NULL,
    at     bigint NOT NULL,
    PRIMARY KEY (caller, key)
);
CREATE INDEX idempotency_at ON errand.idempotency (at);

CREATE TABLE errand.session (
    id          uuid     PRIMARY KEY,
    worker      text     NOT NULL,
    version     text     NOT NULL,
    queues      text,     -- JSON array of strings
    kinds       text,     -- JSON array of strings; NULL: every kind
    concurrency integer  NOT NULL,
    ttl_us      bigint   NOT NULL,
    state       smallint NOT NULL,
    beat        bigint   NOT NULL,
    opened_at   bigint   NOT NULL,
    beat_at     bigint   NOT NULL,
    ended_at    bigint
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Sessions whose row was removed: a job they left behind is found by them.
CREATE TABLE errand.session_gone (
    id uuid   PRIMARY KEY,
    at bigint NOT NULL
);

-- Settings; a queue needs no row until it is paused.
CREATE TABLE errand.queue (
    name       text    PRIMARY KEY,
    paused     boolean NOT NULL,
    changed_at bigint  NOT NULL
);
