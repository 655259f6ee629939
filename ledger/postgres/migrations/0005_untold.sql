-- What a transaction of the worker's own completes is marked, so that the server
-- with which the worker settles afterwards counts it, once.

-- errand.complete_v1 makes a running job succeeded in the caller's transaction,
-- if token is that of its lease. Repeated with that token it changes nothing
-- and returns false; with another one it raises 55000, detail STALE_TOKEN.
CREATE OR REPLACE FUNCTION errand.complete_v1(id uuid, token bigint, result bytea DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql SECURITY INVOKER AS $$
#variable_conflict use_variable
DECLARE
    now_us bigint := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
    j      errand.job;
BEGIN
    IF octet_length(result) > 262144 THEN
        PERFORM errand.refuse('22023', 'TOO_LARGE', format('result has %s bytes; at most 262144 are allowed', octet_length(result)));
    END IF;
    DELETE FROM errand.job r WHERE r.id = complete_v1.id AND r.token = complete_v1.token AND r.state = 3 RETURNING r.* INTO j;
    IF NOT FOUND THEN
        IF EXISTS (SELECT FROM errand.archive a WHERE a.id = complete_v1.id AND a.settled_token = complete_v1.token AND a.settled_as = 3) THEN
            RETURN false;
        END IF;
        PERFORM errand.refuse('55000', 'STALE_TOKEN', format('the lease of job %s has gone: its token is stale', id));
    END IF;
    j.settled_token := j.token;
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
