-- What is remembered of jobs after they have gone: sums by the hour (hours since 1970).

-- How often what happened to jobs of a queue and kind. outcome: see
-- ledger.Outcome; sum_us and sketch: how long the waits or runs took.
CREATE TABLE tally (
    hour    INTEGER NOT NULL,
    queue   TEXT    NOT NULL,
    kind    TEXT    NOT NULL,
    outcome INTEGER NOT NULL,
    n       INTEGER NOT NULL,
    sum_us  INTEGER NOT NULL,
    sketch  BLOB,
    PRIMARY KEY (hour, queue, kind, outcome)
) STRICT, WITHOUT ROWID;

-- How often attempts failed alike.
CREATE TABLE fault (
    hour     INTEGER NOT NULL,
    queue    TEXT    NOT NULL,
    kind     TEXT    NOT NULL,
    message  TEXT    NOT NULL,
    n        INTEGER NOT NULL,
    first_at INTEGER NOT NULL,
    last_at  INTEGER NOT NULL,
    PRIMARY KEY (hour, queue, kind, message)
) STRICT, WITHOUT ROWID;
