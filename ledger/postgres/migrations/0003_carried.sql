-- What the relay needs, for queues whose jobs a broker carries.

-- By which carrier the jobs of a queue go; NULL: none was chosen.
ALTER TABLE errand.queue ADD COLUMN route text;

-- Who leads the relay, and until when; one row. The epoch grows with each
-- change of holder.
CREATE TABLE errand.relay (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    holder   uuid,
    epoch    bigint  NOT NULL,
    until_us bigint  NOT NULL
) WITH (fillfactor = 50);
INSERT INTO errand.relay (epoch, until_us) VALUES (0, 0);

-- The name of this ledger, which keeps its topics apart from those of others
-- on the same broker; one row, never changed.
CREATE TABLE errand.identity (
    one  boolean PRIMARY KEY DEFAULT true CHECK (one),
    name text    NOT NULL
);
INSERT INTO errand.identity (name) VALUES (left(encode(sha256(gen_random_uuid()::text::bytea), 'hex'), 16));
