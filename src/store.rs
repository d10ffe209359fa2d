//! Durable storage: what was acknowledged is here, whatever happens to the process.

mod arrivals;
mod embedded;
pub mod error;
mod identity;
#[cfg(feature = "cluster")]
pub mod migration;
#[cfg(feature = "cluster")]
mod postgres;
mod rollups;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use tokio::sync::watch;

use self::embedded::Embedded;
pub use self::embedded::events::NewLetter;
#[cfg(feature = "cluster")]
use self::postgres::Postgres;
#[cfg(feature = "cluster")]
use crate::clock::Clock;
use crate::model::bus::MessageName;
use crate::model::change::Change;
use crate::model::event::{
    DeadLetter, Event, EventCounts, EventFilter, EventPage, PageQuery, Receipt, Scan, ScanQuery,
    ScannedEvent, Sequence, StoredEvent,
};
use crate::model::id::{Arrival, IngestionId};
use crate::model::ingestion::Ingestion;
use crate::model::queue::QueueId;
pub use crate::model::shared::SharedSettings;
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

/// While a node may schedule. Its number is larger than that of every earlier term.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Term(pub i64);

impl Term {
    /// Before any.
    pub const NONE: Self = Self(-1);
    /// Of a store that no other process shares.
    pub const ONLY: Self = Self(0);
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
    /// The database can't be reached; the sentence says why. Tried again all the time.
    Away(String),
}

/// An answer kept under an `Idempotency-Key`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeptAnswer {
    /// The hash of the body it answered.
    pub body: u128,
    /// What was answered.
    pub ingestion: IngestionId,
}

/// Room in a queue, as this node has seen it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// Which queue.
    pub queue: QueueId,
    /// The last ingestion that was seen.
    pub after: Arrival,
    /// How many more batches may wait than did then.
    pub batches: u64,
}

/// Events that are ready to be written, by the store that made them so.
#[derive(Debug)]
pub struct Prepared(Ready);

#[derive(Debug)]
enum Ready {
    Embedded(embedded::events::Prepared),
    #[cfg(feature = "cluster")]
    Postgres(Box<postgres::Prepared>),
}

/// What was acknowledged. Cheap to clone.
///
/// The embedded one: all clones write through one thread. When the last one is dropped, what waits is
/// committed and the directory is let go of; a drop waits ten seconds for that at most.
#[derive(Clone)]
pub struct Store(Arm);

#[derive(Clone)]
enum Arm {
    Embedded(Arc<Embedded>),
    #[cfg(feature = "cluster")]
    Postgres(Arc<Postgres>),
}

/// Never changes, and never ends.
static ONLY_TERM: LazyLock<watch::Sender<Option<Term>>> =
    LazyLock::new(|| watch::Sender::new(Some(Term::ONLY)));

/// Has the arm do what its method of that name does.
macro_rules! delegate {
    ($store:expr, $it:ident => $call:expr) => {
        match &$store.0 {
            Arm::Embedded($it) => $call,
            #[cfg(feature = "cluster")]
            Arm::Postgres($it) => $call,
        }
    };
}

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
        Embedded::open(settings, apply).map(|store| Self(Arm::Embedded(Arc::new(store))))
    }

    /// The same over a database that other nodes share, whose time `clock` follows from here on. After
    /// the replay, `apply` is called with what every node commits.
    #[cfg(feature = "cluster")]
    pub async fn connect(
        settings: &SharedSettings,
        clock: Clock,
        apply: impl FnMut(Vec<Change>) + Send + 'static,
    ) -> Result<Self, OpenError> {
        let (store, election) = Postgres::open(settings, clock, apply).await?;
        store.elect(election);
        Ok(Self(Arm::Postgres(Arc::new(store))))
    }

    /// The same to look at what is there: this process never schedules, whatever becomes of the others.
    #[cfg(feature = "cluster")]
    pub async fn connect_to_look(
        settings: &SharedSettings,
        clock: Clock,
    ) -> Result<Self, OpenError> {
        let (store, _) = Postgres::open(settings, clock, drop).await?;
        Ok(Self(Arm::Postgres(Arc::new(store))))
    }

    /// Whether other nodes share it: then there may be more than this process has seen.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        match &self.0 {
            Arm::Embedded(_) => false,
            #[cfg(feature = "cluster")]
            Arm::Postgres(_) => true,
        }
    }

    /// A number that all nodes have in common that share it, and no others. `None` if none do.
    #[must_use]
    pub fn shared_by(&self) -> Option<u64> {
        match &self.0 {
            Arm::Embedded(_) => None,
            #[cfg(feature = "cluster")]
            Arm::Postgres(it) => Some(it.number()),
        }
    }

    /// Returns once this process has seen everything that was acknowledged before, by any node: what
    /// was applied, [`Store::last_event`], [`Store::event_counts`] and [`Store::erasures`].
    pub async fn sync(&self) -> Result<(), StoreError> {
        match &self.0 {
            // Nothing is acknowledged before it is visible here.
            Arm::Embedded(_) => std::future::ready(Ok(())).await,
            #[cfg(feature = "cluster")]
            Arm::Postgres(it) => it.sync().await,
        }
    }

    /// Whether this node schedules. Always, where no other shares the store.
    #[must_use]
    pub fn term(&self) -> watch::Receiver<Option<Term>> {
        match &self.0 {
            Arm::Embedded(_) => ONLY_TERM.subscribe(),
            #[cfg(feature = "cluster")]
            Arm::Postgres(it) => it.term(),
        }
    }

    /// Refused as [`StoreError::Deposed`] if another node has begun a term since: at the moment when the
    /// store looked. What another term begins with comes after that.
    pub async fn confirm(&self, term: Term) -> Result<(), StoreError> {
        match &self.0 {
            Arm::Embedded(_) => {
                // There is no other one.
                let _ = term;
                std::future::ready(Ok(())).await
            }
            #[cfg(feature = "cluster")]
            Arm::Postgres(it) => it.confirm(term).await,
        }
    }

    /// As [`Store::commit`], only as long as this node's term lasts: refused as
    /// [`StoreError::Deposed`] once another node has begun one.
    pub async fn commit_in(&self, term: Term, changes: Vec<Change>) -> Result<(), StoreError> {
        match &self.0 {
            Arm::Embedded(it) => {
                debug_assert_eq!(term, Term::ONLY, "there is no other");
                it.commit(changes).await
            }
            #[cfg(feature = "cluster")]
            Arm::Postgres(it) => it.commit(Some(term), changes, None).await,
        }
    }

    /// Writes `changes` in one transaction with whatever else waits, syncs once, applies them, and
    /// returns. `Submitted` ingestions get their arrival here. The order of the calls' first polls
    /// is the order of the commits; a caller that leaves takes nothing back.
    pub async fn commit(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        match &self.0 {
            Arm::Embedded(it) => it.commit(changes).await,
            #[cfg(feature = "cluster")]
            Arm::Postgres(it) => it.commit(None, changes, None).await,
        }
    }

    /// As [`Store::commit`] of one `Submitted`: refused as [`StoreError::QueueFull`] if what other nodes
    /// accept at the same time leaves too little of the `room` that this one has seen.
    pub async fn submit(&self, change: Change, room: Room) -> Result<(), StoreError> {
        match &self.0 {
            Arm::Embedded(it) => {
                // What this process has seen is all there is.
                let _ = room;
                it.commit(vec![change]).await
            }
            #[cfg(feature = "cluster")]
            Arm::Postgres(it) => it.commit(None, vec![change], Some(room)).await,
        }
    }

    /// An ingestion that has ended, from disk.
    pub async fn ended(&self, id: IngestionId) -> Result<Option<Ingestion>, StoreError> {
        delegate!(self, it => it.ended(id).await)
    }

    /// What was answered under a key that has not expired by `now`.
    pub async fn kept_answer(
        &self,
        key: u128,
        now: Timestamp,
    ) -> Result<Option<KeptAnswer>, StoreError> {
        delegate!(self, it => it.kept_answer(key, now).await)
    }

    /// Removes ingestions that ended before `ended_before` and keys that expired by `now`, a bounded
    /// number at a time; returns how many of both went. Call again until it returns 0.
    pub async fn prune(&self, ended_before: Timestamp, now: Timestamp) -> Result<u64, StoreError> {
        delegate!(self, it => it.prune(ended_before, now).await)
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
        self.prepare_messages(events, letters, Vec::new())
    }

    /// The same for what messages of the bus brought. Their names are committed with it, so that it is
    /// committed once, however often and wherever they are delivered.
    pub fn prepare_messages(
        &self,
        events: &[Event<'_>],
        letters: Vec<NewLetter>,
        mut names: Vec<MessageName>,
    ) -> Result<Prepared, StoreError> {
        names.sort_unstable();
        names.dedup();
        let ready = match &self.0 {
            Arm::Embedded(it) => Ready::Embedded(it.prepare(events, letters, names)?),
            #[cfg(feature = "cluster")]
            Arm::Postgres(it) => Ready::Postgres(Box::new(it.prepare(events, letters, names)?)),
        };
        Ok(Prepared(ready))
    }

    /// Writes them in one transaction with whatever else waits, and syncs once. Returns what became
    /// of each, in the order in which they were prepared.
    ///
    /// Refused as [`StoreError::MessageTaken`] if one of the messages that they are of was committed
    /// before: [`Store::known_messages`] says which, and the others can be committed without it. Refused
    /// as [`StoreError::Again`] if what messages brought has to be prepared anew.
    pub async fn append(&self, prepared: Prepared) -> Result<Vec<Receipt>, StoreError> {
        match (&self.0, prepared.0) {
            (Arm::Embedded(it), Ready::Embedded(prepared)) => it.append(prepared).await,
            #[cfg(feature = "cluster")]
            (Arm::Postgres(it), Ready::Postgres(prepared)) => it.append(*prepared).await,
            #[cfg(feature = "cluster")]
            _ => Err(StoreError::Failed(
                "events that another store made ready can't be written".to_owned(),
            )),
        }
    }

    /// Those of `names` that were committed, in order.
    pub async fn known_messages(
        &self,
        names: Vec<MessageName>,
    ) -> Result<Vec<MessageName>, StoreError> {
        let mut known = delegate!(self, it => it.known_messages(names).await)?;
        known.sort_unstable();
        Ok(known)
    }

    /// Forgets which messages up to this place of the stream were committed, but for some of the last
    /// ones: they must not be delivered any more. Takes a bounded number of commits at a time, and
    /// returns how many; call again until it returns 0.
    pub async fn forget_messages(&self, up_to: u64) -> Result<u64, StoreError> {
        // The place itself may be the first of its stretch.
        let stretch = MessageName::stretch_of(up_to);
        delegate!(self, it => it.forget_messages(stretch).await)
    }

    /// A page of events in order of (time, arrival).
    pub async fn page(&self, query: PageQuery) -> Result<EventPage, StoreError> {
        delegate!(self, it => it.page(query).await)
    }

    /// The event of an identity, unless it was erased.
    pub async fn event(
        &self,
        tenant: &str,
        topic: &str,
        id: &str,
    ) -> Result<Option<StoredEvent>, StoreError> {
        delegate!(self, it => it.event(tenant, topic, id).await)
    }

    /// The next events behind `after` in order of arrival that `filter` means, at most `limit`, and
    /// the arrival up to which was looked.
    pub async fn events_since(
        &self,
        after: Sequence,
        filter: EventFilter,
        limit: usize,
    ) -> Result<(Vec<StoredEvent>, Sequence), StoreError> {
        delegate!(self, it => it.events_since(after, filter, limit).await)
    }

    /// The arrival of the last event that can be read; changes with every commit that has any.
    #[must_use]
    pub fn last_event(&self) -> watch::Receiver<Sequence> {
        delegate!(self, it => it.last_event())
    }

    /// What `answer` makes of rollups that cover every event that was acknowledged before this was
    /// called. Computed on a thread for blocking work; refused as [`StoreError::Behind`] if events
    /// are still being counted after ten seconds.
    pub async fn rollups<T: Send + 'static>(
        &self,
        answer: impl Fn(&Rollups) -> T + Send + Sync + 'static,
    ) -> Result<T, StoreError> {
        delegate!(self, it => it.rollups(answer).await)
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
        delegate!(self, it => it.scan(query, each).await)
    }

    /// The key under which the users of erased events are hashed.
    #[must_use]
    pub fn user_key(&self) -> UserKey {
        delegate!(self, it => it.user_key())
    }

    /// A number that grows whenever events were erased.
    #[must_use]
    pub fn erasures(&self) -> u64 {
        delegate!(self, it => it.erasures())
    }

    /// Reads every event and compares what is derived from them with what follows from them: counts,
    /// identities, rollups. Minutes for ten million events; refused as [`StoreError::Busy`] if something
    /// is written meanwhile.
    pub async fn verify(&self) -> Result<Verified, StoreError> {
        delegate!(self, it => it.verify().await)
    }

    /// What was ever received.
    #[must_use]
    pub fn event_counts(&self) -> EventCounts {
        delegate!(self, it => it.event_counts())
    }

    /// Removes the events that `filter` means; their identities stay spent. Returns how many. Those
    /// accepted while this works stay.
    pub async fn erase(&self, filter: EventFilter) -> Result<u64, StoreError> {
        self.sync().await?;
        let last = *self.last_event().borrow();
        match &self.0 {
            Arm::Embedded(it) => it.erase(filter, last).await,
            #[cfg(feature = "cluster")]
            Arm::Postgres(it) => it.erase(None, filter, last).await,
        }
    }

    /// The same without those that arrived after `last`, only as long as this node's term lasts: refused
    /// as [`StoreError::Deposed`] once another node has begun one. Some of them may be gone then.
    pub async fn erase_in(
        &self,
        term: Term,
        filter: EventFilter,
        last: Sequence,
    ) -> Result<u64, StoreError> {
        match &self.0 {
            Arm::Embedded(it) => {
                // There is no other one.
                let _ = term;
                it.erase(filter, last).await
            }
            #[cfg(feature = "cluster")]
            Arm::Postgres(it) => it.erase(Some(term), filter, last).await,
        }
    }

    /// Merges some small blocks of events, or blocks that overlap in time; whether there were any.
    /// Call again until there are none.
    pub async fn pack(&self) -> Result<bool, StoreError> {
        match &self.0 {
            Arm::Embedded(it) => it.pack().await,
            // There are no blocks: the database keeps its own house.
            #[cfg(feature = "cluster")]
            Arm::Postgres(_) => Ok(false),
        }
    }

    /// Dead letters behind `after` in order of their number, at most `limit` and not many bytes at
    /// once, and whether there are more.
    pub async fn letters(
        &self,
        after: u64,
        limit: usize,
    ) -> Result<(Vec<DeadLetter>, bool), StoreError> {
        delegate!(self, it => it.letters(after, limit).await)
    }

    /// One dead letter.
    pub async fn letter(&self, id: u64) -> Result<Option<DeadLetter>, StoreError> {
        delegate!(self, it => it.letter(id).await)
    }

    /// Removes a dead letter; whether there was one.
    pub async fn discard_letter(&self, id: u64) -> Result<bool, StoreError> {
        delegate!(self, it => it.discard_letter(id).await)
    }

    /// Returns, with a sentence, once this process can't go on with what it shares with others, and a new
    /// start can. Never, where it shares nothing: what such a store has can still be read.
    pub async fn failed(&self) -> String {
        match &self.0 {
            Arm::Embedded(_) => std::future::pending().await,
            #[cfg(feature = "cluster")]
            Arm::Postgres(it) => it.failed().await,
        }
    }

    /// Whether it takes writes.
    #[must_use]
    pub fn state(&self) -> StoreState {
        delegate!(self, it => it.state())
    }

    /// Commits what waits, refuses what comes later, folds the log into the database, and ends the
    /// writer thread. As long as the disk takes: the bound is the caller's. Who gives up loses
    /// nothing that was acknowledged, only the folding.
    pub async fn close(&self) {
        delegate!(self, it => it.close().await);
    }
}
