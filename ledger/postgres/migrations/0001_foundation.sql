-- The foundation. Times are microseconds since 1970 (UTC), 0 or NULL for "not
-- set"; states, modes and events are the numbers of package job.

CREATE SEQUENCE errand.seq AS bigint CACHE 32;

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
);
