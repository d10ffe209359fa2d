//! Durable storage: what was acknowledged is here, whatever happens to the process.

mod embedded;
pub mod error;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use self::embedded::Embedded;
pub use self::embedded::events::{NewLetter, Prepared};
use crate::model::change::Change;
use crate::model::event::{
    DeadLetter, Event, EventCounts, EventFilter, EventPage, PageQuery, Receipt, Scan, ScanQuery,
    ScannedEvent, Sequence, StoredEvent,
};
use crate::model::id::IngestionId;
use crate::model::ingestion::Ingestion;
use crate::model::time::Timestamp;
use crate::rollups::{Rollups, TenantComparison, UserKey};
pub use error::{OpenError, StoreError};

/// What was found by reading everything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verified {
    /// Numbers that must be equal.
    pub checks: Vec<Check>,
    /// What the rollups have of each tenant, and what follows from the events.
    pub tenants: Vec<TenantComparison>,
}

/// Two numbers that must be equal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Check {
    /// What they count.
    pub what: &'static str,
    /// What it should be.
    pub expected: u64,
    /// What it is.
    pub found: u64,
}

/// Where and how the embedded store is opened.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// The data directory; made if it isn't there.
    pub dir: PathBuf,
    /// Start although the store is behind its witness: the operator accepts the loss.
    pub accept_loss: bool,
}

/// Whether the store takes writes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreState {
    /// It does.
    Ok,
    /// The disk was full at the last write; the next write is tried all the same.
    Full,
    /// A sync or a write failed for good; the sentence says how. Needs a restart.
    Failed(String),
}

/// An answer kept under an `Idempotency-Key`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeptAnswer {
    /// The hash of the body it answered.
    pub body: u128,
    /// What was answered.
    pub ingestion: IngestionId,
}

/// The embedded store. Cheap to clone; all clones write through one thread. When the last one is
/// dropped, what waits is committed and the directory is let go of; a drop waits ten seconds for
/// that at most.
#[derive(Clone)]
pub struct Store(Arc<Embedded>);

impl Store {
    /// Opens the directory (made, locked, checked, migrated as needed), replays everything that has
    /// not ended through `apply`, then starts the writer thread, which calls `apply` with every
    /// group of changes right after its sync, in commit order.
    ///
    /// Replayed: each queue (`QueueConfigured` with its last slot), each live ingestion in order of
    /// arrival (`Submitted`), and after each its runs (`BatchMoved`, the latest of each batch) and
    /// `RestEnded`.
    pub fn open(
        settings: &StoreSettings,
        apply: impl FnMut(Vec<Change>) + Send + 'static,
    ) -> Result<Self, OpenError> {
        Embedded::open(settings, apply).map(|store| Self(Arc::new(store)))
    }

    /// Writes `changes` in one transaction with whatever else waits, syncs once, applies them, and
    /// returns. `Submitted` ingestions get their arrival here. The order of the calls' first polls
    /// is the order of the commits; a caller that leaves takes nothing back.
    pub async fn commit(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        self.0.commit(changes).await
    }

    /// An ingestion that has ended, from disk.
    pub async fn ended(&self, id: IngestionId) -> Result<Option<Ingestion>, StoreError> {
        self.0.ended(id).await
    }

    /// What was answered under a key that has not expired by `now`.
    pub async fn kept_answer(
        &self,
        key: u128,
        now: Timestamp,
    ) -> Result<Option<KeptAnswer>, StoreError> {
        self.0.kept_answer(key, now).await
    }

    /// Removes ingestions that ended before `ended_before` and keys that expired by `now`, a bounded
    /// number at a time; returns how many of both went. Call again until it returns 0.
    pub async fn prune(&self, ended_before: Timestamp, now: Timestamp) -> Result<u64, StoreError> {
        self.0.prune(ended_before, now).await
    }

    /// Makes events ready to be written: finds duplicates, reserves the identities of the others,
    /// encodes and compresses. Takes the time of its caller's thread (some microseconds an event,
    /// and a read where an identity may be old), so many events belong on a thread for blocking
    /// work. Dropping what it returns gives the identities back.
    ///
    /// `letters` are the refused events of the same request; they are written with the others.
    pub fn prepare(
        &self,
        events: &[Event<'_>],
        letters: Vec<NewLetter>,
    ) -> Result<Prepared, StoreError> {
        self.0.prepare(events, letters)
    }

    /// Writes them in one transaction with whatever else waits, and syncs once. Returns what became
    /// of each, in the order in which they were prepared.
    pub async fn append(&self, prepared: Prepared) -> Result<Vec<Receipt>, StoreError> {
        self.0.append(prepared).await
    }

    /// A page of events in order of (time, arrival).
    pub async fn page(&self, query: PageQuery) -> Result<EventPage, StoreError> {
        self.0.page(query).await
    }

    /// The event of an identity, unless it was erased.
    pub async fn event(
        &self,
        tenant: &str,
        topic: &str,
        id: &str,
    ) -> Result<Option<StoredEvent>, StoreError> {
        self.0.event(tenant, topic, id).await
    }

    /// The next events behind `after` in order of arrival that `filter` means, at most `limit`, and
    /// the arrival up to which was looked.
    pub async fn events_since(
        &self,
        after: Sequence,
        filter: EventFilter,
        limit: usize,
    ) -> Result<(Vec<StoredEvent>, Sequence), StoreError> {
        self.0.events_since(after, filter, limit).await
    }

    /// The arrival of the last event that can be read; changes with every commit that has any.
    #[must_use]
    pub fn last_event(&self) -> watch::Receiver<Sequence> {
        self.0.last_event()
    }

    /// What `answer` makes of rollups that cover every event that was acknowledged before this was
    /// called. Computed on a thread for blocking work; refused as [`StoreError::Behind`] if events
    /// are still being counted after ten seconds.
    pub async fn rollups<T: Send + 'static>(
        &self,
        answer: impl Fn(&Rollups) -> T + Send + Sync + 'static,
    ) -> Result<T, StoreError> {
        self.0.rollups(answer).await
    }

    /// Calls `each` with the events that `query` means, those of one block at a time and in no
    /// particular order, as of one commit, until it breaks; also what remains of erased ones, unless
    /// payloads are needed. It is called on two threads at once. Ends
    /// early when the caller is gone; refused as [`StoreError::Busy`] if too many scans wait, and as
    /// [`StoreError::Closed`] once the store is closing.
    pub async fn scan(
        &self,
        query: ScanQuery,
        each: impl Fn(&[ScannedEvent<'_>]) -> ControlFlow<()> + Send + Sync + 'static,
    ) -> Result<Scan, StoreError> {
        self.0.scan(query, each).await
    }

    /// The key under which the users of erased events are hashed.
    #[must_use]
    pub fn user_key(&self) -> UserKey {
        self.0.user_key()
    }

    /// A number that grows whenever events were erased.
    #[must_use]
    pub fn erasures(&self) -> u64 {
        self.0.erasures()
    }

    /// Reads every event and compares what is derived from them with what follows from them: counts,
    /// identities, rollups. Minutes for ten million events; refused as [`StoreError::Busy`] if something
    /// is written meanwhile.
    pub async fn verify(&self) -> Result<Verified, StoreError> {
        self.0.verify().await
    }

    /// What was ever received.
    #[must_use]
    pub fn event_counts(&self) -> EventCounts {
        self.0.event_counts()
    }

    /// Removes the events that `filter` means; their identities stay spent. Returns how many. Those
    /// accepted while this works stay.
    pub async fn erase(&self, filter: EventFilter) -> Result<u64, StoreError> {
        let last = *self.0.last_event().borrow();
        self.erase_up_to(filter, last).await
    }

    /// The same, without those that arrived after `last`.
    pub async fn erase_up_to(
        &self,
        filter: EventFilter,
        last: Sequence,
    ) -> Result<u64, StoreError> {
        self.0.erase(filter, last).await
    }

    /// Merges some small blocks of events, or blocks that overlap in time; whether there were any.
    /// Call again until there are none.
    pub async fn pack(&self) -> Result<bool, StoreError> {
        self.0.pack().await
    }

    /// Dead letters behind `after` in order of their number, at most `limit` and not many bytes at
    /// once, and whether there are more.
    pub async fn letters(
        &self,
        after: u64,
        limit: usize,
    ) -> Result<(Vec<DeadLetter>, bool), StoreError> {
        self.0.letters(after, limit).await
    }

    /// One dead letter.
    pub async fn letter(&self, id: u64) -> Result<Option<DeadLetter>, StoreError> {
        self.0.letter(id).await
    }

    /// Removes a dead letter; whether there was one.
    pub async fn discard_letter(&self, id: u64) -> Result<bool, StoreError> {
        self.0.discard_letter(id).await
    }

    /// Whether it takes writes.
    #[must_use]
    pub fn state(&self) -> StoreState {
        self.0.state()
    }

    /// Commits what waits, refuses what comes later, folds the log into the database, and ends the
    /// writer thread. As long as the disk takes: the bound is the caller's. Who gives up loses
    /// nothing that was acknowledged, only the folding.
    pub async fn close(&self) {
        self.0.close().await;
    }
}
