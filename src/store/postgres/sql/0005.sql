-- Refuses submissions for which a queue has no room: nodes decide at the same time, each on what it has
-- seen. For each queue: the last arrival that was seen, and how many batches fitted then. For whoever
-- has written the submissions and holds the row of `head`. Its plan may be made while the table is small,
-- and is kept while it grows: few rows are looked at, by their arrival, however many there are.
CREATE FUNCTION keep_within(queues smallint[], seen bigint[], room bigint[])
RETURNS void LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
    IF EXISTS (
        SELECT FROM unnest(queues, seen, room) AS it(of, after, batches)
        WHERE batches < (
            SELECT sum((cardinality(ids) + batch_size - 1) / batch_size) FROM ingestion
            WHERE arrival > after AND queue = of AND ended_at IS NULL AND rest IS NULL)
    ) THEN
        RAISE EXCEPTION 'the queue is full' USING ERRCODE = 'TG004';
    END IF;
END $$;
