-- What is remembered of jobs after they have gone: sums by the hour (hours
-- since 1970). The rows of the present hour are written every few seconds, so they
-- leave room on their pages and are vacuumed by number.

-- How often what happened to jobs of a queue and kind. outcome: see
-- ledger.Outcome; sum_us and sketch: how long the waits or runs took.
CREATE TABLE errand.tally (
    hour    bigint   NOT NULL,
    queue   text     NOT NULL,
    kind    text     NOT NULL,
    outcome smallint NOT NULL,
    n       bigint   NOT NULL,
    sum_us  bigint   NOT NULL,
    sketch  bytea,
    PRIMARY KEY (hour, queue, kind, outcome)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);

-- How often attempts failed alike.
CREATE TABLE errand.fault (
    hour     bigint NOT NULL,
    queue    text   NOT NULL,
    kind     text   NOT NULL,
    message  text   NOT NULL,
    n        bigint NOT NULL,
    first_at bigint NOT NULL,
    last_at  bigint NOT NULL,
    PRIMARY KEY (hour, queue, kind, message)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);
