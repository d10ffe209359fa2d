//! Moves the log's pages into the database, mostly beside the writer and not in its way.
//!
//! A thread of its own does the bulk; meanwhile the writer goes on and the log grows. When little
//! is left the writer does the rest itself, so that the log starts over with the next commit. A
//! log past its bound makes the writer do it all, at the price of one slow commit.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use rusqlite::Connection;

use super::fault::{Fault, classify};
use super::schema::{self, PAGE};
use super::shared::Shared;
use crate::store::error::StoreError;

/// When checkpoints happen, in bytes of log.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogLimits {
    /// A log below this is left alone.
    pub(super) start: u64,
    /// So little is finished by the writer itself.
    pub(super) finish: u64,
    /// Past this the writer stops to checkpoint.
    pub(super) bound: u64,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self {
            start: 4 * 1024 * 1024,
            finish: 512 * 1024,
            bound: 256 * 1024 * 1024,
        }
    }
}

/// What a checkpoint left behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Log {
    /// Bytes of pages in the log.
    pub(super) size: u64,
    /// How many of them are not in the database yet.
    pub(super) pending: u64,
}

/// How thorough a checkpoint is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Effort {
    /// Only looks.
    Noop,
    /// As far as possible without waiting for anyone.
    Passive,
    /// Waits for readers, and empties the log.
    Truncate,
}

/// Runs a checkpoint on `db`, which must be in no transaction.
pub(super) fn checkpoint(db: &Connection, effort: Effort) -> Result<Log, Fault> {
    let sql = match effort {
        Effort::Noop => "PRAGMA wal_checkpoint(NOOP)",
        Effort::Passive => "PRAGMA wal_checkpoint(PASSIVE)",
        Effort::Truncate => "PRAGMA wal_checkpoint(TRUNCATE)",
    };
    let (log, done): (i64, i64) = db
        .prepare_cached(sql)?
        .query_row([], |row| Ok((row.get(1)?, row.get(2)?)))?;
    let bytes = |pages: i64| u64::try_from(pages).unwrap_or(0) * PAGE;
    Ok(Log {
        size: bytes(log),
        pending: bytes(log).saturating_sub(bytes(done)),
    })
}

/// The writer's end of the thread.
pub(super) struct Checkpointer {
    limits: LogLimits,
    /// Held by the thread while it works.
    folding: Arc<Mutex<()>>,
    wake: SyncSender<()>,
    thread: JoinHandle<()>,
}

impl Checkpointer {
    /// Starts the thread.
    pub(super) fn start(
        path: PathBuf,
        limits: LogLimits,
        shared: Arc<Shared>,
    ) -> std::io::Result<Self> {
        let (wake, asked) = sync_channel(1);
        let folding = Arc::new(Mutex::new(()));
        let held = Arc::clone(&folding);
        let thread = std::thread::Builder::new()
            .name("store-checkpoint".to_owned())
            .spawn(move || run(&path, &asked, &held, &shared))?;
        Ok(Self {
            limits,
            folding,
            wake,
            thread,
        })
    }

    /// Called by the writer after each commit.
    pub(super) fn after_commit(&self, db: &Connection) -> Result<(), Fault> {
        let log = checkpoint(db, Effort::Noop)?;
        if log.size < self.limits.start || log.pending == 0 {
            return Ok(());
        }
        if log.size >= self.limits.bound {
            // While the thread is at it, a checkpoint here would do nothing: wait for it.
            let _folding = self.folding.lock();
            checkpoint(db, Effort::Passive)?;
        } else if log.pending <= self.limits.finish {
            checkpoint(db, Effort::Passive)?;
        } else {
            // Full: it was asked already.
            let _ = self.wake.try_send(());
        }
        Ok(())
    }

    /// Ends the thread and waits for it.
    pub(super) fn stop(self) {
        drop(self.wake);
        let _ = self.thread.join();
    }
}

fn run(path: &Path, asked: &Receiver<()>, folding: &Mutex<()>, shared: &Shared) {
    let mut connection = None;
    while asked.recv().is_ok() {
        if shared.has_failed() {
            continue;
        }
        let _folding = folding.lock();
        let done = match connection.take() {
            Some(db) => Ok(db),
            None => schema::open_writer(path),
        }
        .and_then(|db| checkpoint(&db, Effort::Passive).map(|_| db));
        match done {
            Ok(db) => {
                shared.set_put_off(false);
                connection = Some(db);
            }
            Err(fault) => report(fault, shared),
        }
    }
}

/// A checkpoint failed: the log stays whole, so a full disk or a lock only puts it off.
pub(super) fn report(fault: Fault, shared: &Shared) {
    let error = match fault {
        Fault::Sqlite(error) => classify(&error),
        Fault::Damaged(sentence) => StoreError::Damaged(sentence),
    };
    match error {
        StoreError::Full | StoreError::Busy => {
            if shared.set_put_off(true) {
                tracing::warn!(%error, "a checkpoint of the store was put off");
            }
        }
        other => shared.fail(&format!("a checkpoint failed: {other}")),
    }
}
