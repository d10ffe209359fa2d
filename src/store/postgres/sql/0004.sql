-- Which messages of the bus were committed, until they can't be delivered any more: a row for each commit
-- and each stretch of 256 places of the stream, by which what is known of a message is found.
CREATE TABLE message (
    stretch bigint NOT NULL,
    places bigint[] NOT NULL,
    -- When each got to its place, in nanoseconds since 1970: a stream may be made anew.
    published bigint[] NOT NULL
);
CREATE INDEX message_stretch ON message (stretch);

-- Those of some messages that were committed. The table has no rows when its plan is made, and grows.
CREATE FUNCTION known_messages(of_places bigint[], of_times bigint[])
RETURNS TABLE (place bigint, published bigint) LANGUAGE plpgsql SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    stretches bigint[] := ARRAY (SELECT DISTINCT it >> 8 FROM unnest(of_places) AS it);
BEGIN
    RETURN QUERY
        SELECT mine.place, mine.published
        FROM unnest(of_places, of_times) AS mine (place, published)
        WHERE (mine.place, mine.published) IN (
            SELECT known.place, known.published
            FROM message, unnest(message.places, message.published) AS known (place, published)
            WHERE message.stretch = ANY (stretches));
END $$;

-- Takes messages, or refuses all of them where one was taken before. For whoever holds the row of
-- `event_head`: of two nodes with the same message, the second sees what the first has committed.
CREATE FUNCTION take_messages(of_places bigint[], of_times bigint[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM known_messages(of_places, of_times)) THEN
        RAISE EXCEPTION 'a message was committed before' USING ERRCODE = 'TG003';
    END IF;
    INSERT INTO message (stretch, places, published)
        SELECT it.place >> 8, array_agg(it.place), array_agg(it.published)
        FROM unnest(of_places, of_times) AS it (place, published)
        GROUP BY it.place >> 8;
END $$;
