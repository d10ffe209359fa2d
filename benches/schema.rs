//! What a group commit of 64 submissions costs, by the shape of the table they go to.
//!
//! `cargo bench --bench schema` measures at 0 and 1,000,000 rows; `BENCH_ROWS=10000000`
//! sets another size. The store's schema follows from this table: see `src/store/embedded/schema.rs`.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods
)]

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};
use uuid::Uuid;

/// Submissions in a commit.
const GROUP: u64 = 64;

/// Commits that are timed.
const COMMITS: usize = 2000;

/// Rows in a commit while a table is filled.
const FILL: u64 = 100_000;

/// A shape, by name, tables and what each submission of five ids inserts.
struct Shape {
    name: &'static str,
    tables: &'static str,
    /// Whether each batch of three ids gets a row.
    batches: bool,
}

const SHAPES: [Shape; 3] = [
    Shape {
        name: "append by arrival (the store's)",
        tables: "CREATE TABLE live (arrival INTEGER PRIMARY KEY, id BLOB, created_at INTEGER,
                 priority INTEGER, digest INTEGER, ids BLOB);",
        batches: false,
    },
    Shape {
        name: "and a unique index on the uuid",
        tables: "CREATE TABLE live (arrival INTEGER PRIMARY KEY, id BLOB UNIQUE,
                 created_at INTEGER, priority INTEGER, digest INTEGER, ids BLOB);",
        batches: false,
    },
    Shape {
        name: "append, and a row for each batch",
        tables: "CREATE TABLE live (arrival INTEGER PRIMARY KEY, id BLOB, created_at INTEGER,
                 priority INTEGER, digest INTEGER, ids BLOB);
                 CREATE TABLE batch (arrival INTEGER, batch INTEGER, status INTEGER,
                 PRIMARY KEY (arrival, batch)) WITHOUT ROWID;",
        batches: true,
    },
];

fn main() {
    let rows = std::env::var("BENCH_ROWS")
        .map_or(1_000_000, |rows| rows.parse().expect("a number of rows"));
    println!("{COMMITS} commits of {GROUP} submissions of 5 ids, each synced, microseconds");
    println!(
        "{:<34} {:>10} {:>8} {:>8} {:>8}",
        "table", "rows", "p50", "p99", "mean"
    );
    for shape in &SHAPES {
        for filled in [0, rows] {
            let dir = tempfile::tempdir().unwrap();
            let mut db = open(&dir.path().join("bench.db"), shape);
            fill(&mut db, shape, filled);
            let mut times = measure(&mut db, shape, filled);
            times.sort_unstable();
            let mean = times.iter().sum::<Duration>() / u32::try_from(COMMITS).unwrap();
            println!(
                "{:<34} {filled:>10} {:>8} {:>8} {:>8}",
                shape.name,
                times[COMMITS / 2].as_micros(),
                times[COMMITS * 99 / 100].as_micros(),
                mean.as_micros()
            );
        }
    }
}

fn open(path: &Path, shape: &Shape) -> Connection {
    let db = Connection::open(path).unwrap();
    db.execute_batch(
        "PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = -16384;",
    )
    .unwrap();
    db.execute_batch(shape.tables).unwrap();
    db
}

fn insert(db: &mut Connection, shape: &Shape, arrivals: std::ops::Range<u64>) {
    let tx = db.transaction().unwrap();
    {
        let mut live = tx
            .prepare_cached("INSERT INTO live VALUES (?1, ?2, ?3, ?4, ?5, ?6)")
            .unwrap();
        for arrival in arrivals {
            let id = Uuid::now_v7();
            let arrival = arrival.cast_signed();
            live.execute(params![
                arrival,
                id.as_bytes(),
                1_700_000_000_000_000_i64,
                1,
                arrival.wrapping_mul(0x1234_5678_9abc_def1),
                [7_u8; 21]
            ])
            .unwrap();
            for batch in 0..2 * u8::from(shape.batches) {
                tx.prepare_cached("INSERT INTO batch VALUES (?1, ?2, 0)")
                    .unwrap()
                    .execute(params![arrival, batch])
                    .unwrap();
            }
        }
    }
    tx.commit().unwrap();
}

fn checkpoint(db: &Connection) {
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
}

fn fill(db: &mut Connection, shape: &Shape, rows: u64) {
    for start in (0..rows).step_by(usize::try_from(FILL).unwrap()) {
        insert(db, shape, start..(start + FILL).min(rows));
        checkpoint(db);
    }
}

fn measure(db: &mut Connection, shape: &Shape, filled: u64) -> Vec<Duration> {
    let mut times = Vec::with_capacity(COMMITS);
    let mut next = filled;
    for number in 0..COMMITS {
        let start = Instant::now();
        insert(db, shape, next..next + GROUP);
        times.push(start.elapsed());
        next += GROUP;
        // Outside of the time: the store does it on a thread of its own.
        if number % 64 == 0 {
            checkpoint(db);
        }
    }
    times
}
