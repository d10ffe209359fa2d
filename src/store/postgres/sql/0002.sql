-- A data directory that is being moved into this database, or was. Until all of it is here, no node
-- starts.
CREATE TABLE migration (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    -- Which store it is, and a digest of what it had.
    store uuid NOT NULL,
    content bigint NOT NULL,
    -- How far it is: the step, and the place there.
    step smallint NOT NULL CHECK (step BETWEEN 0 AND 5),
    place bigint NOT NULL,
    -- The last arrivals of the last block of events, and of the last row of table `fact`; how many
    -- rows of erased events.
    block bigint NOT NULL,
    fact bigint NOT NULL,
    gone bigint NOT NULL,
    begun_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz
);
