//! Going through all events of a time, for answers that nothing else has.
//!
//! ```text
//! caller's read ──blocks as of one commit──▶ helper: decode, show      (a channel of a few blocks)
//!       └── decode, show, whenever the channel is full
//! ```
//!
//! Only one of the two threads has a connection, so both see one commit. A scan keeps the log from
//! starting over while it reads: its work has a bound, and it ends with the next block once its
//! caller is gone or the store is closing. Scans have connections of their own, so that pages never
//! wait for them.
//!
//! What remains of erased events is shown, too; where that is too little, the scan says so before it
//! reads a block.

mod erased;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{Semaphore, TryAcquireError};
use tokio::time::timeout;

use super::super::Embedded;
use super::super::fault::Fault;
use super::super::readers::Readers;
use super::block;
use super::codec::{Garbage, ScanBody};
use super::page::rows_of;
use super::spent::span::Span;
use crate::model::event::{Scan, ScanQuery, ScannedEvent};
use crate::store::error::StoreError;

/// How many scans run at once.
const RUNNING: usize = 2;

/// How many scans run and wait.
const ADMITTED: usize = 16;

/// How long a scan waits for others.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many blocks wait for the helper.
const AHEAD: usize = 2;

/// What bounds the scans.
pub(in crate::store::embedded) struct Scans {
    readers: Arc<Readers>,
    admitted: Arc<Semaphore>,
    running: Arc<Semaphore>,
    closing: Arc<AtomicBool>,
}

impl Scans {
    pub(in crate::store::embedded) fn new(path: PathBuf) -> Self {
        Self {
            readers: Readers::new(path),
            admitted: Arc::new(Semaphore::new(ADMITTED)),
            running: Arc::new(Semaphore::new(RUNNING)),
            closing: Arc::default(),
        }
    }

    /// Refuses further scans and ends those that run.
    pub(in crate::store::embedded) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        self.admitted.close();
        self.running.close();
        self.readers.close();
    }
}

/// Sets its flag when the one who waits for the scan leaves.
struct Waiting(Arc<AtomicBool>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Embedded {
    pub(in crate::store) async fn scan(
        &self,
        query: ScanQuery,
        each: impl Fn(&[ScannedEvent<'_>]) -> ControlFlow<()> + Send + Sync + 'static,
    ) -> Result<Scan, StoreError> {
        let scans = &self.scans;
        let admitted = Arc::clone(&scans.admitted).try_acquire_owned();
        let admitted = admitted.map_err(|error| match error {
            TryAcquireError::NoPermits => StoreError::Busy,
            TryAcquireError::Closed => StoreError::Closed,
        })?;
        let running = timeout(PATIENCE, Arc::clone(&scans.running).acquire_owned()).await;
        let running = running.map_err(|_| StoreError::Busy)?;
        let running = running.map_err(|_| StoreError::Closed)?;
        let gone = Arc::<AtomicBool>::default();
        let _waiting = Waiting(Arc::clone(&gone));
        let closing = Arc::clone(&scans.closing);
        let found = scans.readers.read(move |db| {
            let _until_the_end = (admitted, running);
            let work = Work {
                query: &query,
                each: &each,
                stops: [&gone, &closing],
                end: Mutex::default(),
                ended: AtomicBool::new(false),
            };
            work.run(db)
        });
        found.await?.ok_or(StoreError::Closed)
    }
}

/// A block on its way to whoever decodes it.
struct Raw {
    id: i64,
    events: u32,
    data: Vec<u8>,
}

/// One scan, as both of its threads see it.
struct Work<'w, F> {
    query: &'w ScanQuery,
    each: &'w F,
    /// The caller is gone; the store is closing.
    stops: [&'w AtomicBool; 2],
    /// How it ended, if not at the end of the events.
    end: Mutex<Option<Result<Scan, Fault>>>,
    ended: AtomicBool,
}

impl<F: Fn(&[ScannedEvent<'_>]) -> ControlFlow<()> + Sync> Work<'_, F> {
    /// `None` if it was stopped.
    fn run(&self, db: &Connection) -> Result<Option<Scan>, Fault> {
        let db = db.unchecked_transaction()?;
        let erased = match self.erased(&db)? {
            Ok(erased) => erased,
            Err(end) => return Ok(Some(end)),
        };
        let cost: u64 = erased.iter().map(Span::cost).sum();
        let Some(rows) = rows_of(&db, self.query, self.query.limit - cost)? else {
            return Ok(Some(Scan::TooBroad));
        };
        thread::scope(|scope| {
            let (sender, receiver) = sync_channel::<Raw>(AHEAD);
            // Without a helper the channel is closed, and this thread does everything.
            let _ = thread::Builder::new()
                .name("scan".to_owned())
                .spawn_scoped(scope, move || {
                    for raw in receiver {
                        self.show(&raw);
                    }
                });
            for row in rows {
                if self.is_over() {
                    break;
                }
                let raw = Raw {
                    id: row.id,
                    events: row.events,
                    data: block::data(&db, &row)?,
                };
                if let Err(TrySendError::Full(raw) | TrySendError::Disconnected(raw)) =
                    sender.try_send(raw)
                {
                    self.show(&raw);
                }
            }
            for span in erased {
                if self.is_over() {
                    break;
                }
                self.show_erased(&db, &span)?;
            }
            Ok::<_, Fault>(())
        })?;
        if let Some(end) = self.end.lock().take() {
            return end.map(Some);
        }
        Ok((!self.is_over()).then_some(Scan::Whole))
    }

    fn is_over(&self) -> bool {
        let set = |flag: &&AtomicBool| flag.load(Ordering::Relaxed);
        self.ended.load(Ordering::Relaxed) || self.stops.iter().any(set)
    }

    /// Shows the events of a block that are meant.
    fn show(&self, raw: &Raw) {
        if self.is_over() {
            return;
        }
        match self.try_show(raw) {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => self.end_with(Ok(Scan::Left)),
            Err(Garbage) => self.end_with(Err(block::garbage(raw.id))),
        }
    }

    fn end_with(&self, end: Result<Scan, Fault>) {
        self.end.lock().get_or_insert(end);
        self.ended.store(true, Ordering::Relaxed);
    }

    fn try_show(&self, raw: &Raw) -> Result<ControlFlow<()>, Garbage> {
        let body = ScanBody::new(&raw.data)?;
        let events = body.events()?;
        if events.size_hint().1 != Some(raw.events as usize) {
            return Err(Garbage);
        }
        let mut meant = Vec::with_capacity(raw.events as usize);
        for event in events {
            let event = event?;
            if self.query.matches(&event) {
                meant.push(event);
            }
        }
        if meant.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        Ok((self.each)(&meant))
    }
}

#[cfg(test)]
mod tests;
