"""Reads a directory of Parquet files with DuckDB and with pandas (which uses PyArrow), as they are,
and prints what each found as JSON: a list of rows, in order of (timestamp, nanos, event_id)."""

import json
import sys

import duckdb
import pandas

COLUMNS = [
    "arrival", "tenant_id", "topic", "event_id", "source", "event_type", "user_id", "timestamp",
    "nanos", "payload", "extra",
]


def by_duckdb(directory):
    relation = duckdb.sql(f"SELECT * FROM '{directory}/*/*.parquet'")
    types = {name: str(kind) for name, kind in zip(relation.columns, relation.types)}
    assert relation.columns == [*COLUMNS, "day"], relation.columns
    assert types["day"] == "DATE", types
    assert types["timestamp"] == "TIMESTAMP WITH TIME ZONE", types
    assert types["arrival"] == "BIGINT" and types["payload"] == "VARCHAR", types
    columns = [f"epoch_us({name})" if name == "timestamp" else name for name in COLUMNS]
    query = f"SELECT {', '.join(columns)}, CAST(day AS VARCHAR) FROM relation"
    return [list(row) for row in duckdb.sql(query).fetchall()]


def by_pandas(directory):
    frame = pandas.read_parquet(directory)
    assert list(frame.columns) == [*COLUMNS, "day"], frame.columns
    assert str(frame["timestamp"].dtype) == "datetime64[us, UTC]", frame.dtypes
    frame["timestamp"] = frame["timestamp"].astype("int64")
    rows = []
    for row in frame.itertuples(index=False):
        values = [None if pandas.isna(value) else value for value in row]
        rows.append([value.item() if hasattr(value, "item") else value for value in values])
    return rows


def main(directory):
    for read in (by_duckdb, by_pandas):
        rows = read(directory)
        # (timestamp, nanos, event_id)
        rows.sort(key=lambda row: (row[7], row[8], row[3]))
        print(json.dumps(rows))


main(sys.argv[1])
