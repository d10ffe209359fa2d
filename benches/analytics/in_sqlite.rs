//! SQLite with the indexes that these questions want.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;

use rusqlite::{Connection, params};

use super::figures::Row;
use super::others::{self, PATIENCE};
use super::stream::{Event, total};

pub(crate) fn run(rows: &mut Vec<Row>) {
    let home = tempfile::tempdir().unwrap();
    let mut db = Connection::open(home.path().join("events.db")).unwrap();
    db.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; PRAGMA cache_size = -1000000;
         PRAGMA temp_store = MEMORY;
         CREATE TABLE events (id BLOB, at INTEGER, tenant INTEGER, type TEXT, usr INTEGER, payload TEXT);",
    )
    .unwrap();
    let total = total();
    let tx = db.transaction().unwrap();
    {
        let mut insert = tx
            .prepare("INSERT INTO events VALUES (?1, ?2, ?3, ?4, ?5, ?6)")
            .unwrap();
        for number in 0..total {
            let event = Event::new(number, total);
            let at = (event.millis / 1_000).cast_signed();
            let (tenant, user) = (event.tenant.cast_signed(), event.user.cast_signed());
            let id = event.id.to_be_bytes();
            insert
                .execute(params![id, at, tenant, event.kind, user, event.payload()])
                .unwrap();
        }
    }
    tx.commit().unwrap();
    db.execute_batch(
        "CREATE INDEX by_tenant ON events (tenant, at, usr);
         CREATE INDEX by_time ON events (at, usr);
         CREATE INDEX by_user ON events (usr, at);
         CREATE INDEX by_type ON events (type, usr);
         ANALYZE;",
    )
    .unwrap();
    let country = "json_extract(payload, '$.country')";
    others::compare("SQLite", country, rows, |sql| {
        let (interrupt, (answered, waits)) = (db.get_interrupt_handle(), mpsc::channel::<()>());
        let watch = thread::spawn(move || {
            if waits.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                interrupt.interrupt();
            }
        });
        let answer = db.query_row(sql, [], |row| row.get::<_, i64>(1));
        drop(answered);
        watch.join().unwrap();
        // Interrupted: it took too long.
        answer.ok().map(i64::cast_unsigned)
    });
}
