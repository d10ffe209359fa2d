-- Which event each row was, so that it can be told whether every arrival is there once and every
-- identity is spent. Rows that were written before say neither.
ALTER TABLE erased ADD COLUMN sequence bigint, ADD COLUMN identity uuid;

CREATE TRIGGER kept BEFORE TRUNCATE ON erased EXECUTE FUNCTION refuse_truncate();
