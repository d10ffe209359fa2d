-- Everything that was ever acknowledged. Written once, never changed: what comes later is a step of
-- its own.

-- The order of everything that happened to jobs, and who may schedule. Whoever appends to `change`
-- holds this row until its commit, so `change` has no gaps and its order is that of the commits.
CREATE TABLE head (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    -- The number of the last row of `change`.
    change bigint NOT NULL DEFAULT 0,
    -- The arrival of the last ingestion.
    arrival bigint NOT NULL DEFAULT 0,
    -- Grows with each node that becomes the leader. Writes of an earlier one are refused.
    epoch bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10);
INSERT INTO head DEFAULT VALUES;

-- Hands out numbers, or refuses a leader that was deposed.
CREATE FUNCTION advance(changes bigint, arrivals bigint, leader bigint)
RETURNS TABLE (change bigint, arrival bigint) LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY UPDATE head SET change = head.change + changes, arrival = head.arrival + arrivals
        WHERE leader IS NULL OR head.epoch = leader
        RETURNING head.change, head.arrival;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'another node leads' USING ERRCODE = 'TG001';
    END IF;
END $$;

CREATE TABLE queue (
    id smallint PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE,
    -- Until when its slots are booked: nothing starts within an interval of that.
    last_slot timestamptz
);

CREATE TABLE ingestion (
    arrival bigint PRIMARY KEY,
    id uuid NOT NULL UNIQUE,
    queue smallint NOT NULL,
    -- 0 LOW, 1 MEDIUM, 2 HIGH
    priority smallint NOT NULL,
    created_at timestamptz NOT NULL,
    batch_size integer NOT NULL,
    ids bigint[] NOT NULL,
    metadata text,
    callback_url text,
    deadline timestamptz,
    -- How and when the batches ended that never started: `expired` or `cancelled`.
    rest text,
    rest_at timestamptz,
    ended_at timestamptz
);
CREATE INDEX ingestion_live ON ingestion (arrival) WHERE ended_at IS NULL;
CREATE INDEX ingestion_ended ON ingestion (ended_at) WHERE ended_at IS NOT NULL;

-- The batches that were started.
CREATE TABLE run (
    arrival bigint NOT NULL,
    batch integer NOT NULL,
    status text NOT NULL,
    attempt bigint NOT NULL,
    first_triggered_at timestamptz NOT NULL,
    triggered_at timestamptz NOT NULL,
    completed_at timestamptz,
    retry_at timestamptz,
    -- [{"position": 0, "reason": "..."}]
    failures json,
    PRIMARY KEY (arrival, batch)
) WITH (fillfactor = 70);

-- What the nodes follow. The rows of the last hour remain: a node that was away for longer starts
-- from the tables above.
CREATE TABLE change (
    number bigint PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    body text NOT NULL
);
CREATE INDEX change_at ON change USING brin (at);

-- Answers that are kept under an Idempotency-Key (its hash, and that of the body).
CREATE TABLE kept_answer (
    key uuid PRIMARY KEY,
    body uuid NOT NULL,
    ingestion uuid NOT NULL,
    expires_at timestamptz NOT NULL
);

-- Keeps answers, or refuses all of them where one of the keys has an answer that has not expired: two
-- nodes may take up the same key at the same time.
CREATE FUNCTION keep_answers(keys uuid[], bodies uuid[], ingestions uuid[], expiries timestamptz[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    written bigint;
BEGIN
    INSERT INTO kept_answer (key, body, ingestion, expires_at)
        SELECT * FROM unnest(keys, bodies, ingestions, expiries)
        ON CONFLICT (key) DO UPDATE SET body = excluded.body, ingestion = excluded.ingestion,
            expires_at = excluded.expires_at
        WHERE kept_answer.expires_at <= clock_timestamp();
    GET DIAGNOSTICS written = ROW_COUNT;
    IF written < cardinality(keys) THEN
        RAISE EXCEPTION 'a key has an answer' USING ERRCODE = 'TG002';
    END IF;
END $$;
CREATE INDEX kept_answer_expiry ON kept_answer (expires_at);

-- The same as `head` for events. The two have rows of their own, so that neither waits for the other.
CREATE TABLE event_head (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    -- The arrival of the last event: as many were ever accepted.
    event bigint NOT NULL DEFAULT 0,
    duplicates bigint NOT NULL DEFAULT 0,
    conflicting bigint NOT NULL DEFAULT 0,
    -- Events that were erased.
    erased bigint NOT NULL DEFAULT 0,
    -- The number of the last dead letter.
    letter bigint NOT NULL DEFAULT 0,
    -- How many topics there are.
    topics bigint NOT NULL DEFAULT 0,
    -- What identities and users are hashed under.
    key bytea NOT NULL
) WITH (fillfactor = 10);

-- What makes an event the first of its identity, exactly and for ever: a table of its own, since a
-- partitioned one can't be unique by anything but its time.
CREATE TABLE identity (
    -- The keyed 128-bit hash of (tenant, topic, event_id).
    hash uuid PRIMARY KEY,
    -- The time of the first event, for finding it.
    time timestamptz NOT NULL,
    -- A hash of what the first one said beyond its identity.
    content integer NOT NULL
);

-- Text is escaped where it has U+0000 or U+0001: PostgreSQL has no place for the former, and the
-- latter is the escape.
CREATE TABLE event (
    -- The arrival, in the order of the commits and without gaps.
    sequence bigint NOT NULL,
    time timestamptz NOT NULL,
    -- Nanoseconds beyond the microseconds of `time`.
    nanos smallint NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    topic text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    source text COLLATE "C",
    type text COLLATE "C",
    user_id text COLLATE "C",
    -- JSON as it was sent.
    payload text NOT NULL,
    -- The other keys, as a JSON object; empty without any.
    extra text NOT NULL
) PARTITION BY RANGE (time);

-- The partitions of `event`: one for each month of this century (UTC) that has events, one for all
-- time before and one for all after. Reads go to them one after the other in the order of time, so
-- none of them holds locks on all.
CREATE TABLE part (
    name text COLLATE "C" PRIMARY KEY,
    -- Half open.
    low timestamptz NOT NULL,
    high timestamptz NOT NULL
);

-- What the rollups need of each event, by commit: what nodes follow and what remains when events
-- are erased. `facts` is versioned and compressed.
CREATE TABLE fact (
    -- The arrivals of the first and of the last event.
    first bigint NOT NULL,
    last bigint PRIMARY KEY,
    -- The times of the earliest and of the latest: those arrivals are in no other partitions.
    low timestamptz NOT NULL,
    high timestamptz NOT NULL,
    facts bytea NOT NULL
);
ALTER TABLE fact ALTER COLUMN facts SET STORAGE EXTERNAL;

-- What remains of erased events, for answers that must not pass over them.
CREATE TABLE erased (
    time timestamptz NOT NULL,
    nanos smallint NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    source text COLLATE "C",
    type text COLLATE "C",
    -- The keyed hash of the user.
    user_hash uuid
);
CREATE INDEX erased_time ON erased (time);

CREATE TABLE topic (
    number bigint PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE
);

CREATE TABLE letter (
    number bigint PRIMARY KEY,
    refused_at timestamptz NOT NULL,
    errors text NOT NULL,
    body text NOT NULL
);

-- Takes new topics while there are fewer than `most`; returns how many there are then. For whoever
-- holds the row of `event_head`.
CREATE FUNCTION add_topics(names text[], most bigint) RETURNS bigint LANGUAGE sql AS $$
    INSERT INTO topic (number, name)
        SELECT known.topics + row_number() OVER (), found.name
        FROM (SELECT name FROM unnest(names) AS it(name)
              WHERE NOT EXISTS (SELECT FROM topic WHERE topic.name = it.name)) AS found,
             (SELECT count(*) AS topics FROM topic) AS known
        LIMIT (SELECT greatest(most - count(*), 0) FROM topic);
    UPDATE event_head SET topics = (SELECT count(*) FROM topic) RETURNING topics;
$$;

-- An empty table is one that never had anything: it must not become one by accident.
CREATE FUNCTION refuse_truncate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'table % of tollgate is never truncated', TG_TABLE_NAME;
END $$;
CREATE TRIGGER kept BEFORE TRUNCATE ON event_head EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER kept BEFORE TRUNCATE ON identity EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER kept BEFORE TRUNCATE ON event EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER kept BEFORE TRUNCATE ON part EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER kept BEFORE TRUNCATE ON fact EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER kept BEFORE TRUNCATE ON topic EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER kept BEFORE TRUNCATE ON letter EXECUTE FUNCTION refuse_truncate();
