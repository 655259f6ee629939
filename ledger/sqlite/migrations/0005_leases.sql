-- A lease of a job that was never in trouble is a row of its own, so that neither
-- the lease nor its end writes to the job, whose row still says that it is ready.
ALTER TABLE job RENAME TO job_row;

-- What one call took: leases between two rows, perhaps with those of others among them.
CREATE TABLE lease_block (
    block     INTEGER PRIMARY KEY,
    session   BLOB    NOT NULL,
    call      INTEGER,
    leased_at INTEGER NOT NULL,
    first_rid INTEGER NOT NULL,
    last_rid  INTEGER NOT NULL
) STRICT;

CREATE TABLE lease (
    rid   INTEGER PRIMARY KEY, -- of job_row
    block INTEGER NOT NULL
) STRICT;

-- Live jobs as they are: one with a lease has been through an attempt, a token and a
-- version more than its row says.
CREATE VIEW job AS
SELECT r.rid, r.id, r.queue, r.kind, CASE WHEN b.block IS NULL THEN r.state ELSE 3 END AS state, r.priority, r.lane,
       r.seq, r.run_at, r.created_at, r.expires_at, coalesce(b.leased_at, r.leased_at) AS leased_at, r.done_at,
       r.attempt + (b.block IS NOT NULL) AS attempt, r.max_attempts, r.crashes, r.redrives, r.timeout_us,
       r.token + (b.block IS NOT NULL) AS token, r.version + (b.block IS NOT NULL) AS version,
       coalesce(b.session, r.session) AS session, CASE WHEN b.block IS NULL THEN r.call ELSE b.call END AS call, r.settled_token, r.settled_as,
       r.cancel_requested, r.reason, r.unique_key, r.unique_mode, r.unique_for_us, r.digest, r.content_type, r.tags,
       r.trace, r.payload, r.result, r.progress, r.errors, r.last_error
FROM job_row AS r LEFT JOIN lease AS l ON l.rid = r.rid LEFT JOIN lease_block AS b ON b.block = l.block;

-- Those that run and those that do not, for whoever asks for a state: the indexes
-- of job_row are by state. What was asked to be cancelled is never leased apart. The
-- casts give both halves of job_held the same affinity, without which no condition
-- would reach an index.
CREATE VIEW job_idle AS
SELECT * FROM job_row WHERE NOT EXISTS (SELECT 1 FROM lease WHERE lease.rid = job_row.rid);

CREATE VIEW job_held AS
SELECT rid, id, queue, kind, state, priority, lane, seq, run_at, created_at, expires_at, leased_at, done_at, attempt,
       max_attempts, crashes, redrives, timeout_us, token, version, session, call, settled_token, settled_as,
       cancel_requested, reason, unique_key, unique_mode, unique_for_us, digest, content_type, tags, trace, payload,
       result, progress, errors, last_error
FROM job_row WHERE state = 3
UNION ALL
SELECT r.rid, r.id, r.queue, r.kind, CAST(3 AS INTEGER), r.priority, r.lane, r.seq, r.run_at, r.created_at,
       r.expires_at, b.leased_at, r.done_at, CAST(r.attempt + 1 AS INTEGER), r.max_attempts, r.crashes, r.redrives,
       r.timeout_us, CAST(r.token + 1 AS INTEGER), CAST(r.version + 1 AS INTEGER), b.session, b.call, r.settled_token,
       r.settled_as, CAST(0 AS INTEGER), r.reason, r.unique_key, r.unique_mode, r.unique_for_us, r.digest,
       r.content_type, r.tags, r.trace, r.payload, r.result, r.progress, r.errors, r.last_error
FROM lease_block AS b CROSS JOIN lease AS l ON l.rid BETWEEN b.first_rid AND b.last_rid AND l.block = b.block
CROSS JOIN job_row AS r ON r.rid = l.rid;
