//! The tables, how a database is made, opened and brought to the current format.
//!
//! A submission costs one append at the end of one table: no index to update, no row per batch.
//! Measured with `cargo bench --bench schema`: an append costs the same at ten million rows as at
//! none, a unique index on the uuid makes it dearer as it grows, a row per batch at once. So a
//! *live* ingestion, which is in memory anyhow, can be found by its arrival only; it gets its
//! index when it has ended and moves to `ended`. Only batches that were started have a row.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::events::spent;
use super::fault::Fault;
use super::meta::{Meta, TABLES};
use crate::store::error::OpenError;

/// The database's file in the data directory.
pub(super) const DATABASE: &str = "tollgate.db";

/// Its write-ahead log.
pub(super) const LOG: &str = "tollgate.db-wal";

/// A database while it is being made.
const UNFINISHED: &str = "tollgate.db-new";

/// `PRAGMA application_id` of every store: "toll".
const APPLICATION: i64 = 0x746f_6c6c;

/// The size of a page in bytes.
pub(super) const PAGE: u64 = 8192;

/// How long a statement waits for a lock that another program holds on the database.
const PATIENCE: Duration = Duration::from_secs(2);

/// The format that this version writes: one more than the last migration's index.
pub(super) const FORMAT: usize = STEPS.len();

/// What leads from each format to the next, the first from nothing to format 1.
const STEPS: [Step; 6] = [
    Step {
        sql: FORMAT_1,
        tables: 4,
        fill: None,
    },
    Step {
        sql: FORMAT_2,
        tables: 5,
        fill: None,
    },
    Step {
        sql: FORMAT_3,
        tables: 10,
        fill: None,
    },
    Step {
        sql: FORMAT_4,
        tables: 10,
        fill: None,
    },
    Step {
        sql: FORMAT_5,
        tables: 11,
        fill: Some(spent::fill_spans),
    },
    Step {
        sql: FORMAT_6,
        tables: TABLES,
        fill: None,
    },
];

/// One migration.
struct Step {
    /// What it adds.
    sql: &'static str,
    /// How many tables are tallied afterwards.
    tables: usize,
    /// Writes what follows from rows that are there already.
    fill: Option<Fill>,
}

type Fill = fn(&Connection, &mut Meta) -> Result<(), Fault>;

const FORMAT_1: &str = "
CREATE TABLE meta (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    commits INTEGER NOT NULL,
    last_arrival INTEGER NOT NULL,
    tallies BLOB NOT NULL,
    digest INTEGER NOT NULL
);
CREATE TABLE queue (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    last_slot INTEGER,
    digest INTEGER NOT NULL
);
CREATE TABLE live (
    arrival INTEGER PRIMARY KEY,
    id BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    queue INTEGER NOT NULL,
    batch_size INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    metadata TEXT,
    callback_url TEXT,
    deadline INTEGER,
    digest INTEGER NOT NULL,
    ids BLOB NOT NULL
);
CREATE TABLE run (
    arrival INTEGER NOT NULL,
    batch INTEGER NOT NULL,
    status INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    triggered_at INTEGER NOT NULL,
    first_triggered_at INTEGER NOT NULL,
    completed_at INTEGER,
    retry_at INTEGER,
    failures BLOB,
    digest INTEGER NOT NULL,
    PRIMARY KEY (arrival, batch)
) WITHOUT ROWID;
CREATE TABLE ended (
    arrival INTEGER PRIMARY KEY,
    id BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    queue INTEGER NOT NULL,
    batch_size INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    metadata TEXT,
    callback_url TEXT,
    deadline INTEGER,
    digest INTEGER NOT NULL,
    ended_at INTEGER NOT NULL,
    runs BLOB NOT NULL,
    ids BLOB NOT NULL
);
CREATE INDEX ended_by_time ON ended (ended_at);
CREATE TABLE ended_id (
    id BLOB PRIMARY KEY,
    arrival INTEGER NOT NULL,
    content INTEGER NOT NULL,
    digest INTEGER NOT NULL
) WITHOUT ROWID;
";

const FORMAT_2: &str = "
CREATE TABLE idempotency (
    key BLOB PRIMARY KEY,
    body BLOB NOT NULL,
    ingestion BLOB NOT NULL,
    expires_at INTEGER NOT NULL,
    digest INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX idempotency_by_time ON idempotency (expires_at);
";

/// Events, see `events.rs`. A `block` row is small and its data lies elsewhere, so that looking for
/// blocks does not read them.
const FORMAT_3: &str = "
CREATE TABLE block (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    level INTEGER NOT NULL,
    first_time INTEGER NOT NULL,
    last_time INTEGER NOT NULL,
    first_sequence INTEGER NOT NULL,
    last_sequence INTEGER NOT NULL,
    first_tenant TEXT NOT NULL,
    last_tenant TEXT NOT NULL,
    events INTEGER NOT NULL,
    packed INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    digest INTEGER NOT NULL
);
CREATE INDEX block_by_time ON block (level, first_time);
CREATE INDEX block_by_sequence ON block (last_sequence);
CREATE TABLE block_data (
    id INTEGER PRIMARY KEY,
    data BLOB NOT NULL
);
CREATE TABLE spent (
    id INTEGER PRIMARY KEY,
    last_sequence INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    digest INTEGER NOT NULL,
    identities BLOB NOT NULL
);
CREATE TABLE event_count (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    accepted INTEGER NOT NULL,
    duplicates INTEGER NOT NULL,
    conflicting INTEGER NOT NULL,
    last_sequence INTEGER NOT NULL,
    last_letter INTEGER NOT NULL,
    key BLOB NOT NULL,
    digest INTEGER NOT NULL
);
CREATE TABLE topic (
    name TEXT PRIMARY KEY,
    digest INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE letter (
    id INTEGER PRIMARY KEY,
    refused_at INTEGER NOT NULL,
    errors TEXT NOT NULL,
    body TEXT NOT NULL,
    digest INTEGER NOT NULL
);
";

/// What the rollups need to know of erased events, see `events/spent.rs`. None of those that were
/// erased before.
const FORMAT_4: &str = "
ALTER TABLE spent ADD COLUMN facts BLOB;
";

/// What the rows of erased events span, see `events/spent/span.rs`.
const FORMAT_5: &str = "
CREATE TABLE spent_span (
    last_time INTEGER NOT NULL,
    id INTEGER NOT NULL,
    first_time INTEGER NOT NULL,
    first_tenant TEXT,
    last_tenant TEXT,
    events INTEGER NOT NULL,
    digest INTEGER NOT NULL,
    PRIMARY KEY (last_time, id)
) WITHOUT ROWID;
";

/// Which messages of the bus were committed, see `events/messages.rs`. Names come last, so that a look at
/// the digests does not read them.
const FORMAT_6: &str = "
CREATE TABLE message (
    id INTEGER PRIMARY KEY,
    stretch INTEGER NOT NULL,
    digest INTEGER NOT NULL,
    names BLOB NOT NULL
);
CREATE INDEX message_by_stretch ON message (stretch);
";

/// How many tables a format tallies.
pub(super) fn tables_of(format: usize) -> usize {
    STEPS
        .get(format.wrapping_sub(1))
        .map_or(TABLES, |step| step.tables)
}

/// Makes an empty database in `dir`, complete and synced before it gets its name.
pub(super) fn create(dir: &Path) -> Result<(), OpenError> {
    create_at(dir, FORMAT)
}

fn create_at(dir: &Path, format: usize) -> Result<(), OpenError> {
    let unfinished = dir.join(UNFINISHED);
    let failed = |error: &dyn std::fmt::Display| {
        OpenError(format!("can't make a store in {}: {error}", dir.display()))
    };
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let left_over = dir.join(format!("{UNFINISHED}{suffix}"));
        if left_over.exists() {
            fs::remove_file(left_over).map_err(|error| failed(&error))?;
        }
    }
    make(&unfinished, format).map_err(|fault| fault.into_open_error(&name_of(&unfinished)))?;
    fs::File::open(&unfinished)
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(&unfinished, dir.join(DATABASE)))
        .and_then(|()| sync_dir(dir))
        .map_err(|error| failed(&error))
}

fn make(path: &Path, format: usize) -> Result<(), Fault> {
    let mut db = Connection::open(path)?;
    db.pragma_update(None, "page_size", PAGE.cast_signed())?;
    db.pragma_update(None, "synchronous", "FULL")?;
    let tx = db.transaction()?;
    tx.pragma_update(None, "application_id", APPLICATION)?;
    Meta::default_row(&tx, format)?;
    tx.commit()?;
    // Last, so that everything above is in the file itself and not in a log.
    db.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    Ok(())
}

impl Meta {
    /// Runs every step up to `format` and writes the row of an empty store.
    fn default_row(db: &Connection, format: usize) -> Result<(), Fault> {
        for step in STEPS.iter().take(format) {
            db.execute_batch(step.sql)?;
        }
        db.execute_batch(&format!("PRAGMA user_version = {format}"))?;
        Self::default().save(db, tables_of(format))
    }
}

/// A connection that can't write, and leaves the log alone when it is closed.
pub(super) fn open_reader(path: &Path) -> Result<Connection, Fault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    db.busy_timeout(PATIENCE)?;
    Ok(db)
}

/// A connection that writes, syncs at each commit, and leaves checkpoints to those who ask.
pub(super) fn open_writer(path: &Path) -> Result<Connection, Fault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    db.busy_timeout(PATIENCE)?;
    let mode: String = db.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        return Err(Fault::Damaged(format!(
            "its journal mode is {mode} and can't be made wal"
        )));
    }
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "foreign_keys", false)?;
    db.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))?;
    // In KiB: enough for the pages that a group of commits touches.
    db.pragma_update(None, "cache_size", -16_384)?;
    db.set_prepared_statement_cache_capacity(64);
    Ok(db)
}

/// Whose database this is and in which format, 1 to [`FORMAT`].
pub(super) fn examine(db: &Connection, path: &Path) -> Result<usize, OpenError> {
    let name = name_of(path);
    let pragma = |pragma: &str| -> Result<i64, OpenError> {
        db.pragma_query_value(None, pragma, |row| row.get(0))
            .map_err(|error| Fault::from(error).into_open_error(&name))
    };
    let application = pragma("application_id")?;
    if application != APPLICATION {
        return Err(OpenError(format!(
            "{name} is not a tollgate store: its application_id is {application}, \
             expected {APPLICATION}"
        )));
    }
    let found = pragma("user_version")?;
    match usize::try_from(found) {
        Ok(format @ 1..=FORMAT) => {
            check_tables(db, format).map_err(|fault| fault.into_open_error(&name))?;
            Ok(format)
        }
        Ok(format @ 1..) => Err(OpenError(format!(
            "{name} has format {format}, this version of tollgate knows formats up to {FORMAT}: \
             start a newer version"
        ))),
        _ => Err(OpenError(format!(
            "{name} is damaged: it has format {found}, expected 1 to {FORMAT}"
        ))),
    }
}

/// Compares the tables with those that the steps up to `format` make, word for word.
fn check_tables(db: &Connection, format: usize) -> Result<(), Fault> {
    let vacuum: i64 = db.pragma_query_value(None, "auto_vacuum", |row| row.get(0))?;
    let fresh = Connection::open_in_memory()?;
    for step in STEPS.iter().take(format) {
        fresh.execute_batch(step.sql)?;
    }
    if vacuum == 0 && table_texts(db)? == table_texts(&fresh)? {
        Ok(())
    } else {
        Err(Fault::Damaged(format!(
            "its tables are not those of format {format}"
        )))
    }
}

type TableText = (String, String, Option<String>);

fn table_texts(db: &Connection) -> Result<Vec<TableText>, Fault> {
    let mut statement =
        db.prepare("SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_stat%' ORDER BY name")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Brings a database of format `from` to [`FORMAT`], one transaction a step.
pub(super) fn migrate(path: &Path, from: usize) -> Result<(), Fault> {
    let mut db = open_writer(path)?;
    let mut tables = tables_of(from);
    for (format, step) in (1..).zip(&STEPS).skip(from) {
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut meta = Meta::load(&tx, tables)?;
        tx.execute_batch(step.sql)?;
        if let Some(fill) = step.fill {
            fill(&tx, &mut meta)?;
        }
        tables = step.tables;
        meta.save(&tx, tables)?;
        tx.pragma_update(None, "user_version", format)?;
        tx.commit()?;
        tracing::info!(format, "the store was brought to a newer format");
    }
    Ok(())
}

/// Makes the names in `dir` durable.
pub(super) fn sync_dir(dir: &Path) -> std::io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

/// A path as in messages.
pub(super) fn name_of(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Makes a store of an older format in `dir`.
    pub(in crate::store::embedded) fn create_format(dir: &Path, format: usize) {
        create_at(dir, format).unwrap();
    }

    #[test]
    fn a_fresh_database_is_in_the_current_format_and_needs_no_log() {
        let dir = tempfile::tempdir().unwrap();
        create(dir.path()).unwrap();
        let path = dir.path().join(DATABASE);
        assert!(!dir.path().join(LOG).exists());
        let db = open_reader(&path).unwrap();
        assert_eq!(examine(&db, &path).unwrap(), FORMAT);
        assert_eq!(Meta::load(&db, TABLES).unwrap(), Meta::default());
        let size: i64 = db
            .pragma_query_value(None, "page_size", |row| row.get(0))
            .unwrap();
        assert_eq!(size.cast_unsigned(), PAGE);
    }

    #[test]
    fn a_half_made_database_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(UNFINISHED), b"half").unwrap();
        create(dir.path()).unwrap();
        assert!(!dir.path().join(UNFINISHED).exists());
    }

    #[test]
    fn a_migrated_database_has_the_tables_of_a_fresh_one() {
        let dir = tempfile::tempdir().unwrap();
        create_format(dir.path(), 1);
        let path = dir.path().join(DATABASE);
        {
            let db = open_reader(&path).unwrap();
            assert_eq!(examine(&db, &path).unwrap(), 1);
        }
        migrate(&path, 1).unwrap();
        let db = open_reader(&path).unwrap();
        assert_eq!(examine(&db, &path).unwrap(), FORMAT);
        assert_eq!(Meta::load(&db, TABLES).unwrap(), Meta::default());
    }

    #[test]
    fn foreign_newer_and_changed_databases_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        create(dir.path()).unwrap();
        let path = dir.path().join(DATABASE);
        let refusal = |sql: &str| {
            let db = Connection::open(&path).unwrap();
            db.execute_batch(sql).unwrap();
            examine(&db, &path).unwrap_err().0
        };
        let newer = refusal("PRAGMA user_version = 7");
        assert!(
            newer.contains("has format 7") && newer.contains("up to 6"),
            "{newer}"
        );
        let older = refusal("PRAGMA user_version = 0");
        assert!(older.contains("format 0"), "{older}");
        let changed = refusal("PRAGMA user_version = 6; DROP INDEX ended_by_time");
        assert!(changed.contains("tables"), "{changed}");
        let foreign = refusal("PRAGMA application_id = 7");
        assert!(foreign.contains("not a tollgate store"), "{foreign}");
    }
}
