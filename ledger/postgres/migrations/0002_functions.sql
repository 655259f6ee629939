-- Functions that any language may call in its own transaction, with the rights
-- of the caller. They notify nobody, draw no order numbers and lock nothing but
-- the row of a unique or idempotency key. The bounds are those of package job.

-- errand.refuse raises a refusal: the reason, for programs, is the error's detail.
CREATE FUNCTION errand.refuse(state text, reason text, message text) RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = state, MESSAGE = 'errand: ' || message, DETAIL = reason;
END $$;

-- errand.check_text holds a text against its bound in bytes; a name may not be
-- empty nor begin or end with white space.
CREATE FUNCTION errand.check_text(field text, value text, most integer, is_name boolean) RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF value IS NULL OR value = '' THEN
        IF is_name THEN
            PERFORM errand.refuse('22023', 'BAD_FIELD', field || ' is empty');
        END IF;
        RETURN;
    END IF;
    IF octet_length(convert_to(value, 'UTF8')) > most THEN
        PERFORM errand.refuse('22023', 'BAD_FIELD', format('%s has %s bytes; at most %s are allowed',
            field, octet_length(convert_to(value, 'UTF8')), most));
    END IF;
    IF value ~ '[\x01-\x1f\x7f]' THEN
        PERFORM errand.refuse('22023', 'BAD_FIELD', field || ' holds a control character');
    END IF;
    IF is_name AND value ~ '^\s|\s$' THEN
        PERFORM errand.refuse('22023', 'BAD_FIELD', field || ' begins or ends with white space');
    END IF;
END $$;

-- errand.micros_of reads a length of time: a number of seconds, or an interval
-- as PostgreSQL writes it. At most ten years of 365 days, at least 0.
CREATE FUNCTION errand.micros_of(field text, value jsonb) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    seconds numeric;
BEGIN
    IF value IS NULL OR value = 'null' THEN
        RETURN NULL;
    END IF;
    BEGIN
        seconds := CASE jsonb_typeof(value)
            WHEN 'number' THEN (value #>> '{}')::numeric
            ELSE extract(epoch FROM (value #>> '{}')::interval) END;
    EXCEPTION WHEN data_exception THEN
        PERFORM errand.refuse('22023', 'BAD_FIELD', format('%s %s is neither a number of seconds nor an interval', field, value));
    END;
    IF seconds < 0 OR seconds > 315360000 THEN
        PERFORM errand.refuse('22023', 'BAD_FIELD', format('%s of %s seconds is not between 0 and ten years', field, seconds));
    END IF;
    RETURN (seconds * 1000000)::bigint;
END $$;

-- errand.int_of reads a whole number within bounds.
CREATE FUNCTION errand.int_of(field text, value jsonb, lowest integer, highest integer, otherwise integer) RETURNS integer
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    n numeric;
BEGIN
    IF value IS NULL OR value = 'null' THEN
        RETURN otherwise;
    END IF;
    IF jsonb_typeof(value) <> 'number' THEN
        PERFORM errand.refuse('22023', 'BAD_FIELD', format('%s %s is not a number', field, value));
    END IF;
    n := (value #>> '{}')::numeric;
    IF n <> trunc(n) OR n < lowest OR n > highest THEN
        PERFORM errand.refuse('22023', 'BAD_FIELD', format('%s %s is not between %s and %s', field, n, lowest, highest));
    END IF;
    RETURN n::integer;
END $$;

-- errand.enqueue_v1 stores a job in the caller's transaction and returns the id
-- of the job that stands for it: the new one, or with duplicate = true the one that was there. The
-- job is found within the server's polling interval after the commit.
--
-- options: queue, priority, run_at (timestamp with time zone) or delay,
-- max_attempts, timeout, expires_at or expires_in, tags, unique_key, unique_mode
-- (while_queued, until_done, window), unique_for, on_conflict (skip, reject),
-- idempotency_key, caller, id, content_type, trace_parent. Lengths of time are seconds
-- or intervals. An unknown option is refused.
--
-- Errors: 22023 bad field (detail BAD_FIELD, TOO_LARGE or BAD_ID), 23505 with detail
-- ID_TAKEN, IDEMPOTENCY_REUSED or UNIQUE_KEY_HELD (hint: the holder's id).
CREATE FUNCTION errand.enqueue_v1(kind text, payload bytea, options jsonb DEFAULT '{}',
    OUT id uuid, OUT duplicate boolean)
LANGUAGE plpgsql SECURITY INVOKER AS $$
#variable_conflict use_variable
DECLARE
    o           jsonb := coalesce(options, '{}');
    now_us      bigint := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
    a_queue     text := coalesce(nullif(o ->> 'queue', ''), 'default');
    a_priority  integer := errand.int_of('priority', o -> 'priority', 0, 9, 5);
    a_attempts  integer := errand.int_of('max_attempts', o -> 'max_attempts', 1, 10000, 25);
    a_timeout   bigint := errand.micros_of('timeout', o -> 'timeout');
    a_delay     bigint := errand.micros_of('delay', o -> 'delay');
    a_expires   bigint := errand.micros_of('expires_in', o -> 'expires_in');
    a_window    bigint := errand.micros_of('unique_for', o -> 'unique_for');
    a_run_at    bigint;
    a_tags      text;
    a_key       text := nullif(o ->> 'unique_key', '');
    a_mode      smallint := 0;
    a_idem      text := nullif(o ->> 'idempotency_key', '');
    a_caller    text := coalesce(o ->> 'caller', '');
    a_digest    bigint;
    a_ms        bigint := now_us / 1000;
    bad         text;
    known       record;
BEGIN
    IF jsonb_typeof(o) <> 'object' THEN
        PERFORM errand.refuse('22023', 'BAD_FIELD', 'options is not an object');
    END IF;
    SELECT k INTO bad FROM jsonb_object_keys(o) AS k WHERE k NOT IN ('queue', 'priority', 'run_at', 'delay', 'max_attempts',
        'timeout', 'expires_at', 'expires_in', 'tags', 'unique_key', 'unique_mode', 'unique_for', 'on_conflict',
        'idempotency_key', 'caller', 'id', 'content_type', 'trace_parent') LIMIT 1;
    IF bad IS NOT NULL THEN
        PERFORM errand.refuse('22023', 'BAD_FIELD', format('option %s is unknown', bad));
    END IF;
    PERFORM errand.check_text('kind', kind, 128, true), errand.check_text('queue', a_queue, 128, true),
        errand.check_text('unique_key', a_key, 256, false), errand.check_text('idempotency_key', a_idem, 256, false),
        errand.check_text('caller', a_caller, 256, false), errand.check_text('content_type', o ->> 'content_type', 128, false),
        errand.check_text('trace_parent', o ->> 'trace_parent', 512, false);
    IF octet_length(payload) > 1048576 THEN
        PERFORM errand.refuse('22023', 'TOO_LARGE', format('payload has %s bytes; at most 1048576 are allowed', octet_length(payload)));
    END IF;

    -- When, and until when.
    BEGIN
        a_run_at := (extract(epoch FROM (o ->> 'run_at')::timestamptz) * 1000000)::bigint;
        IF o ? 'expires_at' THEN
            IF a_expires IS NOT NULL THEN
                PERFORM errand.refuse('22023', 'BAD_FIELD', 'give expires_at or expires_in, not both');
            END IF;
            a_expires := (extract(epoch FROM (o ->> 'expires_at')::timestamptz) * 1000000)::bigint - now_us;
        END IF;
    EXCEPTION WHEN invalid_datetime_format OR datetime_field_overflow OR numeric_value_out_of_range THEN
        PERFORM errand.refuse('22023', 'BAD_FIELD', 'run_at or expires_at is not a time');
    END;
    IF a_run_at IS NOT NULL AND a_delay IS NOT NULL THEN
        PERFORM errand.refuse('22023', 'BAD_FIELD', 'give run_at or delay, not both');
    END IF;
    a_run_at := greatest(coalesce(a_run_at, now_us + coalesce(a_delay, 0)), now_us);
    IF a_run_at - now_us > 315360000000000 OR a_expires > 315360000000000 THEN
        PERFORM errand.refuse('22023', 'BAD_FIELD', 'run_at or expires_at lies more than ten years ahead');
    END IF;
    IF a_expires <= 0 THEN
        PERFORM errand.refuse('22023', 'BAD_FIELD', 'the job would expire before it is stored');
    END IF;

    -- Tags.
    IF o ? 'tags' AND o -> 'tags' <> 'null' THEN
        IF jsonb_typeof(o -> 'tags') <> 'array' OR jsonb_path_exists(o, '$.tags[*] ? (@.type() != "string")') THEN
            PERFORM errand.refuse('22023', 'BAD_FIELD', 'tags is not an array of strings');
        END IF;
        IF jsonb_array_length(o -> 'tags') > 16 THEN
            PERFORM errand.refuse('22023', 'BAD_FIELD', format('%s tags; at most 16 are allowed', jsonb_array_length(o -> 'tags')));
        END IF;
        PERFORM errand.check_text('tag', t, 64, false) FROM jsonb_array_elements_text(o -> 'tags') AS t;
        a_tags := nullif((o -> 'tags')::text, '[]');
    END IF;

    -- Uniqueness.
    IF o ? 'unique_mode' OR a_key IS NOT NULL THEN
        a_mode := CASE o ->> 'unique_mode' WHEN 'while_queued' THEN 1 WHEN 'until_done' THEN 2 WHEN 'window' THEN 3 ELSE 0 END;
        IF a_mode = 0 OR a_key IS NULL THEN
            PERFORM errand.refuse('22023', 'BAD_FIELD', 'unique_key goes with unique_mode while_queued, until_done or window');
        END IF;
    END IF;
    IF (coalesce(a_window, 0) > 0) <> (a_mode = 3) THEN
        PERFORM errand.refuse('22023', 'BAD_FIELD', 'unique_for goes with unique_mode window, and with no other');
    END IF;
    IF coalesce(o ->> 'on_conflict', 'skip') NOT IN ('skip', 'reject') THEN
        PERFORM errand.refuse('22023', 'BAD_FIELD', 'on_conflict is neither skip nor reject');
    END IF;

    -- The id: the caller's, or a new UUIDv7.
    IF o ? 'id' AND nullif(o ->> 'id', '') IS NOT NULL THEN
        BEGIN
            id := (o ->> 'id')::uuid;
        EXCEPTION WHEN invalid_text_representation THEN
            PERFORM errand.refuse('22023', 'BAD_ID', format('id %s is not a UUID', o -> 'id'));
        END;
    ELSE
        id := (lpad(to_hex(a_ms >> 16), 8, '0') || '-' || lpad(to_hex(a_ms & 65535), 4, '0') || '-7'
            || substr(gen_random_uuid()::text, 16))::uuid;
    END IF;
    -- What was asked for, without the id and what is measured from now.
    a_digest := hashtextextended(kind || E'\n' || (o - 'id')::text || E'\n' || coalesce(encode(sha256(payload), 'hex'), ''), 0);

    SELECT * INTO known FROM (
        SELECT j.digest FROM errand.job j WHERE j.id = enqueue_v1.id
        UNION ALL SELECT j.digest FROM errand.dead j WHERE j.id = enqueue_v1.id) AS k;
    IF NOT FOUND AND o ? 'id' THEN -- only then: it locks the archive's slices until the caller's commit
        SELECT j.digest INTO known FROM errand.archive j WHERE j.id = enqueue_v1.id;
    END IF;
    IF FOUND THEN
        IF known.digest <> a_digest THEN
            PERFORM errand.refuse('23505', 'ID_TAKEN', format('job %s exists with other content', id));
        END IF;
        duplicate := true;
        RETURN;
    END IF;
    IF a_idem IS NOT NULL THEN
        INSERT INTO errand.idempotency (caller, key, job, digest, at) VALUES (a_caller, a_idem, id, a_digest, now_us) ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            SELECT i.job, i.digest INTO known FROM errand.idempotency i WHERE i.caller = a_caller AND i.key = a_idem;
            IF known.digest <> a_digest THEN
                PERFORM errand.refuse('23505', 'IDEMPOTENCY_REUSED', format('the idempotency key %s came with other content', a_idem));
            END IF;
            id := known.job;
            duplicate := true;
            RETURN;
        END IF;
    END IF;
    IF a_key IS NOT NULL THEN
        DELETE FROM errand.unique_key k WHERE k.scope = kind AND k.key = a_key AND k.until <= now_us;
        INSERT INTO errand.unique_key (scope, key, job, until)
            VALUES (kind, a_key, id, CASE WHEN a_mode = 3 THEN now_us + a_window END) ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            DELETE FROM errand.idempotency i WHERE i.caller = a_caller AND i.key = a_idem AND i.job = id;
            SELECT k.job INTO known FROM errand.unique_key k WHERE k.scope = kind AND k.key = a_key;
            IF o ->> 'on_conflict' = 'reject' THEN
                RAISE EXCEPTION USING ERRCODE = '23505', DETAIL = 'UNIQUE_KEY_HELD', HINT = known.job::text,
                    MESSAGE = format('errand: job %s holds the unique key %s', known.job, a_key);
            END IF;
            id := known.job;
            duplicate := true;
            RETURN;
        END IF;
    END IF;
    INSERT INTO errand.job (id, queue, kind, state, priority, lane, seq, run_at, created_at, expires_at, max_attempts, timeout_us,
            unique_key, unique_mode, unique_for_us, digest, content_type, tags, trace, payload)
        VALUES (id, a_queue, kind, 1, a_priority, a_priority, 0, a_run_at, now_us, now_us + a_expires, a_attempts, nullif(a_timeout, 0),
            a_key, nullif(a_mode, 0), nullif(a_window, 0), a_digest, nullif(nullif(o ->> 'content_type', ''), 'application/json'),
            a_tags, nullif(o ->> 'trace_parent', ''), payload);
    INSERT INTO errand.counter_delta (queue, kind, state, slice, n) VALUES (a_queue, kind, 1, 0, 1);
    duplicate := false;
END $$;

-- errand.complete_v1 makes a running job succeeded in the caller's transaction,
-- if token is that of its lease. Repeated with that token it changes nothing
-- and returns false; with another one it raises 55000, detail STALE_TOKEN.
CREATE FUNCTION errand.complete_v1(id uuid, token bigint, result bytea DEFAULT NULL) RETURNS boolean
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
    j.call := NULL;
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
