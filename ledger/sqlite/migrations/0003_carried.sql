-- What the relay needs, for queues whose jobs a broker carries.

-- By which carrier the jobs of a queue go; NULL: none was chosen.
ALTER TABLE queue ADD COLUMN route TEXT;

-- Who leads the relay, and until when; one row. The epoch grows with each
-- change of holder.
CREATE TABLE relay (
    one      INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    holder   BLOB,
    epoch    INTEGER NOT NULL,
    until_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO relay (one, epoch, until_us) VALUES (1, 0, 0);

-- The name of this ledger, which keeps its topics apart from those of others
-- on the same broker; one row, never changed.
CREATE TABLE identity (
    one  INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    name TEXT    NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO identity (one, name) VALUES (1, lower(hex(randomblob(8))));
