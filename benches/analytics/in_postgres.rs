//! PostgreSQL with the indexes that these questions want.

use std::fmt::Write as _;

use super::figures::Row;
use super::others::{self, PATIENCE};
use super::postgres::{Postgres, start};
use super::stream::{Event, total};

const TABLE: &str = "CREATE UNLOGGED TABLE events
    (id uuid, at bigint, tenant int, type text, usr bigint, payload jsonb)";

const INDEXES: &str = "CREATE INDEX by_tenant ON events (tenant, at) INCLUDE (usr);
    CREATE INDEX by_time ON events (at) INCLUDE (usr);
    CREATE INDEX by_user ON events (usr, at);
    CREATE INDEX by_type ON events (type) INCLUDE (usr)";

/// Rows in a piece of the `COPY`.
const PIECE: u64 = 1_000;

pub(crate) fn run(rows: &mut Vec<Row>) {
    let Some(server) = start(TABLE) else { return };
    let mut client = Postgres::open(server.address).unwrap();
    client.query("COPY events FROM STDIN").unwrap();
    let total = total();
    let mut piece = String::new();
    for first in (0..total).step_by(usize::try_from(PIECE).unwrap()) {
        piece.clear();
        for number in first..total.min(first + PIECE) {
            let event = Event::new(number, total);
            let Event {
                id,
                tenant,
                kind,
                user,
                ..
            } = event;
            let (at, payload) = (event.millis / 1_000, event.payload());
            writeln!(
                piece,
                "{id:032x}\t{at}\t{tenant}\t{kind}\t{user}\t{payload}"
            )
            .unwrap();
        }
        client.message(b'd', piece.as_bytes());
    }
    client.message(b'c', b"");
    client.sync().unwrap();
    for sql in INDEXES.split(';') {
        client.query(sql).unwrap();
    }
    client.query("VACUUM ANALYZE events").unwrap();
    // What anybody sets for such questions.
    client.query("SET work_mem = '512MB'").unwrap();
    let patience = PATIENCE.as_millis();
    client
        .query(&format!("SET statement_timeout = {patience}"))
        .unwrap();
    others::compare(
        "PostgreSQL",
        "payload ->> 'country'",
        rows,
        |sql| match client.ask(sql) {
            Ok(counted) => Some(counted.parse().unwrap()),
            Err(problem) => {
                assert!(problem.contains("statement timeout"), "{problem}");
                None
            }
        },
    );
}
