-- Leases in blocks: many jobs of one lane are leased by one row of lease_block, and
-- nothing is written to theirs. The row of such a job says still that it is ready (state
-- 2), with the token, the attempt and the version from before its lease; it is
-- running as long as its number is in a block of its lane. Whatever becomes of the job
-- is written to its row, or removes it, so a block never needs to be changed; it is removed
-- when none of its jobs is left.
--
-- Servers of earlier versions would take such jobs for free, so they are shut out: the
-- table has another name, and what has the old one can be read, but not written.
ALTER TABLE errand.job RENAME TO job_row;

CREATE TABLE errand.lease_block (
    id        bigint   PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    queue     text     NOT NULL,
    kind      text     NOT NULL,
    lane      smallint NOT NULL, -- 0 and above: jobs return to the lanes before with the numbers they had
    first_seq bigint   NOT NULL,
    last_seq  bigint   NOT NULL,
    session   uuid     NOT NULL,
    call      bigint,
    leased_at bigint   NOT NULL,
    seqs      bigint[] NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);
-- To compress the numbers takes longer than all else in a claim but reading the jobs.
ALTER TABLE errand.lease_block ALTER COLUMN seqs SET STORAGE EXTERNAL;
-- Nor has anybody use for statistics of them, which take a second to gather.
ALTER TABLE errand.lease_block ALTER COLUMN seqs SET STATISTICS 0;
CREATE INDEX lease_block_lane    ON errand.lease_block (queue, kind, lane, last_seq);
CREATE INDEX lease_block_session ON errand.lease_block (session);

-- Live jobs as they are.
CREATE VIEW errand.job AS
SELECT r.id, r.queue, r.kind, CASE WHEN b.id IS NULL THEN r.state ELSE 3::smallint END AS state, r.priority, r.lane, r.seq,
       r.run_at, r.created_at, r.expires_at, coalesce(b.leased_at, r.leased_at) AS leased_at, r.done_at,
       r.attempt + (b.id IS NOT NULL)::integer AS attempt, r.max_attempts, r.crashes, r.redrives, r.timeout_us,
       r.token + (b.id IS NOT NULL)::integer AS token, r.version + (b.id IS NOT NULL)::integer AS version,
       coalesce(b.session, r.session) AS session, CASE WHEN b.id IS NULL THEN r.call ELSE b.call END AS call,
       r.settled_token, r.settled_as, r.cancel_requested, r.reason, r.unique_key, r.unique_mode, r.unique_for_us,
       r.digest, r.content_type, r.tags, r.trace, r.payload, r.result, r.progress, r.errors, r.last_error
FROM errand.job_row r LEFT JOIN LATERAL (
    SELECT * FROM errand.lease_block b
    WHERE r.state = 2 AND b.queue = r.queue AND b.kind = r.kind AND b.lane = r.lane
        AND b.last_seq >= r.seq AND b.first_seq <= r.seq AND r.seq = ANY (b.seqs) LIMIT 1) b ON true;

-- Those that run and those that do not, for whoever asks for a state: the indexes of
-- job_row are by state. Numbers are unique but in the lanes before 0.
CREATE VIEW errand.job_idle AS
SELECT * FROM errand.job_row
WHERE state < 3 AND (state = 1 OR lane < 0 OR seq NOT IN (SELECT unnest(b.seqs) FROM errand.lease_block b));

CREATE VIEW errand.job_held AS
SELECT id, queue, kind, state, priority, lane, seq, run_at, created_at, expires_at, leased_at, done_at, attempt,
       max_attempts, crashes, redrives, timeout_us, token, version, session, call, settled_token, settled_as,
       cancel_requested, reason, unique_key, unique_mode, unique_for_us, digest, content_type, tags, trace, payload,
       result, progress, errors, last_error
FROM errand.job_row WHERE state = 3
UNION ALL
SELECT r.id, r.queue, r.kind, 3::smallint, r.priority, r.lane, r.seq, r.run_at, r.created_at, r.expires_at, b.leased_at, r.done_at,
       r.attempt + 1, r.max_attempts, r.crashes, r.redrives, r.timeout_us, r.token + 1, r.version + 1, b.session, b.call,
       r.settled_token, r.settled_as, false, r.reason, r.unique_key, r.unique_mode, r.unique_for_us, r.digest,
       r.content_type, r.tags, r.trace, r.payload, r.result, r.progress, r.errors, r.last_error
FROM errand.lease_block b CROSS JOIN LATERAL unnest(b.seqs) AS s (seq) CROSS JOIN LATERAL (
    SELECT * FROM errand.job_row r
    WHERE r.queue = b.queue AND r.kind = b.kind AND r.lane = b.lane AND r.seq = s.seq AND r.state = 2 OFFSET 0) r;

-- Who could read the table can read the view, for errand.enqueue_v1 and errand.complete_v1 do, with the
-- rights of their caller.
DO $$
DECLARE
    g record;
BEGIN
    FOR g IN SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS role
        FROM pg_class c CROSS JOIN aclexplode(c.relacl) a
        WHERE c.oid = 'errand.job_row'::regclass AND a.privilege_type = 'SELECT' AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('GRANT SELECT ON errand.job TO %s', g.role);
    END LOOP;
END $$;

-- errand.enqueue_v1 as it was, into the table's new name.
DO $$
DECLARE
    was text := pg_get_functiondef('errand.enqueue_v1(text, bytea, jsonb)'::regprocedure);
    now text := replace(was, 'INSERT INTO errand.job (', 'INSERT INTO errand.job_row (');
BEGIN
    IF now = was THEN
        RAISE EXCEPTION 'errand.enqueue_v1 is another one than that of migration 2';
    END IF;
    EXECUTE now;
END $$;

-- errand.complete_v1 makes a running job succeeded in the caller's transaction,
-- if token is that of its lease. Repeated with that token it changes nothing
-- and returns false; with another one it raises 55000, detail STALE_TOKEN.
CREATE OR REPLACE FUNCTION errand.complete_v1(id uuid, token bigint, result bytea DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql SECURITY INVOKER AS $$
#variable_conflict use_variable
DECLARE
    now_us bigint := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
    held   errand.job;
    j      errand.job_row;
BEGIN
    IF octet_length(result) > 262144 THEN
        PERFORM errand.refuse('22023', 'TOO_LARGE', format('result has %s bytes; at most 262144 are allowed', octet_length(result)));
    END IF;
    SELECT r.* INTO held FROM errand.job r WHERE r.id = complete_v1.id AND r.token = complete_v1.token AND r.state = 3;
    -- Its row has the token of the lease, or, if the lease is in a block and the row was not
    -- written since, the one before.
    DELETE FROM errand.job_row r WHERE r.id = complete_v1.id
        AND (r.token = complete_v1.token AND r.state = 3 OR r.token = complete_v1.token - 1 AND r.state = 2 AND held.id IS NOT NULL)
        RETURNING r.* INTO j;
    IF NOT FOUND THEN
        IF EXISTS (SELECT FROM errand.archive a WHERE a.id = complete_v1.id AND a.settled_token = complete_v1.token AND a.settled_as = 3) THEN
            RETURN false;
        END IF;
        PERFORM errand.refuse('55000', 'STALE_TOKEN', format('the lease of job %s has gone: its token is stale', id));
    END IF;
    IF j.state = 2 THEN
        j.attempt := held.attempt;
        j.version := held.version;
        j.leased_at := held.leased_at;
    END IF;
    j.token := token;
    j.settled_token := token;
    j.settled_as := 3;
    j.state := 4;
    j.done_at := now_us;
    j.version := j.version + 1;
    j.session := NULL;
    j.call := -1; -- job.CallUntold
    j.cancel_requested := false;
    j.reason := NULL;
    j.result := result;
    INSERT INTO errand.archive SELECT j.*;
    IF j.unique_mode = 2 THEN
        DELETE FROM errand.unique_key k WHERE k.scope = j.kind AND k.key = j.unique_key AND k.job = j.id;
    END IF;
    INSERT INTO errand.counter_delta (queue, kind, state, slice, n)
        VALUES (j.queue, j.kind, 3, 0, -1), (j.queue, j.kind, 4, now_us / 3600000000, 1);
    RETURN true;
END $$;
