-- The foundation. Ids are 16-byte blobs, times are microseconds since 1970
-- (UTC), NULL for "not set"; states, modes and events are the numbers of
-- package job. The archive's slices and the view over them are made on demand.

-- Live jobs only: scheduled (1), ready (2), running (3).
CREATE TABLE job (
    rid              INTEGER PRIMARY KEY,
    id               BLOB    NOT NULL UNIQUE,
    queue            TEXT    NOT NULL,
    kind             TEXT    NOT NULL,
    state            INTEGER NOT NULL,
    priority         INTEGER NOT NULL,
    lane             INTEGER NOT NULL,
    seq              INTEGER NOT NULL,
    run_at           INTEGER NOT NULL,
    created_at       INTEGER NOT NULL,
    expires_at       INTEGER,
    leased_at        INTEGER,
    done_at          INTEGER,
    attempt          INTEGER NOT NULL DEFAULT 0,
    max_attempts     INTEGER NOT NULL,
    crashes          INTEGER NOT NULL DEFAULT 0,
    redrives         INTEGER NOT NULL DEFAULT 0,
    timeout_us       INTEGER,
    token            INTEGER NOT NULL DEFAULT 0,
    version          INTEGER NOT NULL DEFAULT 1,
    session          BLOB,
    call             INTEGER,
    settled_token    INTEGER,
    settled_as       INTEGER,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    reason           TEXT,
    unique_key       TEXT,
    unique_mode      INTEGER,
    unique_for_us    INTEGER,
    digest           INTEGER NOT NULL,
    content_type     TEXT,     -- NULL: application/json
    tags             TEXT,     -- JSON array of strings
    trace            TEXT,
    payload          BLOB,
    result           BLOB,
    progress         BLOB,
    errors           TEXT,     -- JSON array of job.Failure
    last_error       TEXT      -- message of the newest
) STRICT;

-- The order of claims. expires_at is there so that a claim passes over expired
-- jobs without reading their rows.
CREATE INDEX job_ready ON job (queue, kind, lane, seq, expires_at) WHERE state = 2;
CREATE INDEX job_scheduled ON job (run_at) WHERE state = 1;
CREATE INDEX job_running ON job (session) WHERE state = 3;
CREATE INDEX job_expires ON job (expires_at) WHERE expires_at IS NOT NULL;

-- Dead letters: the columns of job.
CREATE TABLE dead (
    rid              INTEGER PRIMARY KEY,
    id               BLOB    NOT NULL UNIQUE,
    queue            TEXT    NOT NULL,
    kind             TEXT    NOT NULL,
    state            INTEGER NOT NULL,
    priority         INTEGER NOT NULL,
    lane             INTEGER NOT NULL,
    seq              INTEGER NOT NULL,
    run_at           INTEGER NOT NULL,
    created_at       INTEGER NOT NULL,
    expires_at       INTEGER,
    leased_at        INTEGER,
    done_at          INTEGER NOT NULL,
    attempt          INTEGER NOT NULL,
    max_attempts     INTEGER NOT NULL,
    crashes          INTEGER NOT NULL,
    redrives         INTEGER NOT NULL,
    timeout_us       INTEGER,
    token            INTEGER NOT NULL,
    version          INTEGER NOT NULL,
    session          BLOB,
    call             INTEGER,
    settled_token    INTEGER,
    settled_as       INTEGER,
    cancel_requested INTEGER NOT NULL,
    reason           TEXT,
    unique_key       TEXT,
    unique_mode      INTEGER,
    unique_for_us    INTEGER,
    digest           INTEGER NOT NULL,
    content_type     TEXT,
    tags             TEXT,
    trace            TEXT,
    payload          BLOB,
    result           BLOB,
    progress         BLOB,
    errors           TEXT,
    last_error       TEXT
) STRICT;

CREATE INDEX dead_done ON dead (done_at);

-- Succeeded and cancelled jobs lie in tables archive_<n> of the columns of job,
-- one for each span of done_at. A slice is dropped whole.
CREATE TABLE archive_slice (
    n       INTEGER PRIMARY KEY AUTOINCREMENT, -- never used twice
    from_us INTEGER NOT NULL,
    to_us   INTEGER NOT NULL -- exclusive
) STRICT;

-- How many jobs there are. lane tells the lanes of ready jobs apart, so that a
-- claim knows where to look; slice is 0 but for archived jobs.
CREATE TABLE counter (
    queue TEXT    NOT NULL,
    kind  TEXT    NOT NULL,
    state INTEGER NOT NULL,
    slice INTEGER NOT NULL,
    lane  INTEGER NOT NULL,
    n     INTEGER NOT NULL,
    PRIMARY KEY (queue, kind, state, slice, lane)
) STRICT, WITHOUT ROWID;

CREATE TABLE unique_key (
    scope TEXT NOT NULL, -- the kind
    key   TEXT NOT NULL,
    job   BLOB NOT NULL,
    until INTEGER,       -- NULL: until the job gives it back
    PRIMARY KEY (scope, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX unique_key_until ON unique_key (until) WHERE until IS NOT NULL;

CREATE TABLE idempotency_key (
    caller  TEXT    NOT NULL,
    key     TEXT    NOT NULL,
    job     BLOB    NOT NULL,
    digest  INTEGER NOT NULL,
    used_at INTEGER NOT NULL,
    PRIMARY KEY (caller, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_key_used ON idempotency_key (used_at);

CREATE TABLE session (
    id          BLOB    NOT NULL PRIMARY KEY,
    worker      TEXT    NOT NULL,
    version     TEXT    NOT NULL,
    queues      TEXT,    -- JSON array of strings
    kinds       TEXT,    -- JSON array of strings
    concurrency INTEGER NOT NULL,
    ttl_us      INTEGER NOT NULL,
    state       INTEGER NOT NULL,
    beat        INTEGER NOT NULL,
    opened_at   INTEGER NOT NULL,
    beat_at     INTEGER NOT NULL,
    ended_at    INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE queue (
    name       TEXT    NOT NULL PRIMARY KEY,
    paused     INTEGER NOT NULL,
    changed_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Numbers that outlive the process: seq, up to which sequence numbers may have
-- been given out; slice_us, the span of a new archive slice.
CREATE TABLE setting (
    name  TEXT    NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Made anew with each slice; without one it is empty.
CREATE VIEW archive AS SELECT *, 0 AS slice FROM dead WHERE false;
