//! Events in PostgreSQL.
//!
//! ```text
//! prepare (caller's thread)     writers (see `append`, `write`)              append (caller)
//! ─────────────────────────     ───────────────────────────────              ───────────────
//! identities, rows, facts  ──▶  claim identities │ event_head: arrivals, ──▶ receipts
//!                               (side by side)   │ rows, facts, commit
//!                                                └─▶ `Sight`, own rollups
//! ```
//!
//! | table | what |
//! |---|---|
//! | `event_head` | one row: the counts, and the lock that gives arrivals their order |
//! | `identity` | which identities are spent, for ever |
//! | `event`, `part` | the events, a partition for each month |
//! | `fact` | what the rollups need of each commit: what the rollups of all nodes follow |
//! | `erased` | what remains of erased events |
//! | `topic`, `letter` | the topics; the dead letters |
//! | `message` | which messages of the bus were committed of late |

mod append;
mod claims;
mod erase;
pub(super) mod escape;
pub(super) mod facts;
mod group;
pub(super) mod letters;
pub(super) mod messages;
mod page;
pub(super) mod parts;
pub(super) mod prepare;
pub(super) mod remains;
mod replica;
pub(super) mod row;
mod scan;
mod since;
pub(super) mod topics;
mod verify;
pub(super) mod write;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use self::append::{Append, Queue, WRITERS, Writer};
use self::claims::Claims;
use self::erase::Erasures;
use self::facts::FactRows;
use self::parts::Parts;
pub(in crate::store) use self::prepare::Prepared;
use self::replica::Origin;
use self::scan::Scans;
use super::Postgres;
use super::connect::{Server, Session, fault};
use super::follow::Sight;
use crate::model::bus::MessageName;
use crate::model::event::{Event, EventCounts, Receipt, Sequence};
use crate::rollups::{Rollups, UserKey};
use crate::store::error::{OpenError, StoreError};
use crate::store::identity::Key;
use crate::store::rollups::{FollowLimits, Follower};
use crate::store::{NewLetter, SharedSettings};

/// How many requests wait for the writers.
const QUEUE: usize = 4096;

/// Their weight, in KiB.
const WEIGHT: usize = 256 * 1024;

/// How long a closing store waits for each of its tasks.
const LEAVE: Duration = Duration::from_secs(10);

/// What callers and writers share.
struct Shared {
    key: Key,
    user_key: UserKey,
    /// Of the checkpoints of the rollups, and of this history of the database.
    owner: [u8; 16],
    parts: Parts,
    claims: Claims,
    rollups: Follower,
}

/// The callers' side.
pub(super) struct EventState {
    server: Server,
    /// Where analytics read.
    origin: Origin,
    shared: Arc<Shared>,
    scans: Scans,
    erasures: Erasures,
    /// Gone once the store is closing.
    appends: parking_lot::Mutex<Option<mpsc::Sender<Append>>>,
    weight: Arc<Semaphore>,
    tasks: parking_lot::Mutex<Vec<JoinHandle<()>>>,
    /// Tells the rollups of what other nodes commit.
    hints: JoinHandle<()>,
}

impl EventState {
    pub(super) async fn open(
        settings: &SharedSettings,
        server: &Server,
        session: &Session,
        sight: Arc<Sight>,
    ) -> Result<Self, OpenError> {
        let place = server.place();
        let refuse = |error: StoreError| OpenError(format!("PostgreSQL at {place}: {error}"));
        let (key, opened) = check(session).await.map_err(refuse)?;
        let origin = Origin::open(settings, server, key).await?;
        let failed =
            |error: std::io::Error| OpenError(format!("{}: {error}", settings.dir.display()));
        std::fs::create_dir_all(&settings.dir).map_err(failed)?;
        // The rollups begin with what there is now; the rest of the head comes with the first look.
        sight.opened(opened);
        let source = FactRows::new(origin.clone()).map_err(failed)?;
        let limits = FollowLimits::default();
        let owner = key.of_checkpoints_in(server.history());
        let rollups = Follower::start(&settings.dir, owner, sight.last(), limits, source);
        let shared = Arc::new(Shared {
            key,
            user_key: key.of_users(),
            owner,
            parts: Parts::default(),
            claims: Claims::default(),
            rollups: rollups.map_err(failed)?,
        });
        let (sender, appends) = mpsc::channel(QUEUE);
        let queue = Arc::new(tokio::sync::Mutex::new(Queue::new(appends)));
        let writers = (0..WRITERS).map(|_| {
            let writer = Writer {
                server: server.clone(),
                sight: Arc::clone(&sight),
                shared: Arc::clone(&shared),
                queue: Arc::clone(&queue),
            };
            tokio::spawn(writer.run())
        });
        let hints = tokio::spawn(hint(sight.last(), Arc::clone(&shared)));
        Ok(Self {
            server: server.clone(),
            origin,
            scans: Scans::default(),
            erasures: Erasures::default(),
            appends: parking_lot::Mutex::new(Some(sender)),
            weight: Arc::new(Semaphore::new(WEIGHT)),
            tasks: parking_lot::Mutex::new(writers.collect()),
            hints,
            shared,
        })
    }

    pub(super) async fn close(&self) {
        self.appends.lock().take();
        self.scans.close();
        self.erasures.close();
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            let _ = timeout(LEAVE, task).await;
        }
        self.hints.abort();
        // It may be writing its checkpoint.
        let shared = Arc::clone(&self.shared);
        let closed = tokio::task::spawn_blocking(move || shared.rollups.close());
        let _ = timeout(LEAVE, closed).await;
    }
}

impl Drop for EventState {
    fn drop(&mut self) {
        self.hints.abort();
    }
}

/// Tells the rollups of every event that this node hears of.
async fn hint(mut last: watch::Receiver<Sequence>, shared: Arc<Shared>) {
    while last.changed().await.is_ok() {
        shared.rollups.look();
    }
}

/// The key, and the arrival of the last event. Refused if the tables can't be those that were written.
async fn check(session: &Session) -> Result<(Key, Sequence), StoreError> {
    let failed = |error: tokio_postgres::Error| fault(&error);
    let row = session
        .query_one(
            "SELECT key, event, coalesce((SELECT max(last) FROM fact), 0),
                    EXISTS (SELECT FROM identity), EXISTS (SELECT FROM part)
             FROM event_head",
            &[],
        )
        .await
        .map_err(failed)?;
    let key: Vec<u8> = row.try_get(0).map_err(failed)?;
    let damaged = |sentence: &str| StoreError::Damaged(sentence.to_owned());
    let key = key.try_into().map(Key);
    let key = key.map_err(|_| damaged("the key in table event_head is not one"))?;
    let (last, facts): (i64, i64) = (
        row.try_get(1).map_err(failed)?,
        row.try_get(2).map_err(failed)?,
    );
    let (identities, parts): (bool, bool) = (
        row.try_get(3).map_err(failed)?,
        row.try_get(4).map_err(failed)?,
    );
    if last != facts {
        return Err(damaged(
            "table fact does not end where table event_head does",
        ));
    }
    if last > 0 && !(identities && parts) {
        return Err(damaged(
            "there were events, and a table about them is empty",
        ));
    }
    Ok((key, Sequence(last.cast_unsigned())))
}

impl Postgres {
    pub(in crate::store) fn prepare(
        &self,
        events: &[Event<'_>],
        letters: Vec<NewLetter>,
        names: Vec<MessageName>,
    ) -> Result<Prepared, StoreError> {
        if self.events.appends.lock().is_none() {
            return Err(StoreError::Closed);
        }
        let shared = &self.events.shared;
        let keys = (shared.key, shared.user_key);
        let topics = self.sight.topics();
        Ok(Prepared::of(keys, topics, events, letters, names))
    }

    pub(in crate::store) async fn append(
        &self,
        prepared: Prepared,
    ) -> Result<Vec<Receipt>, StoreError> {
        if prepared.is_empty() {
            return Ok(Vec::new());
        }
        let weight = (prepared.bytes() / 1024 + 1).min(WEIGHT);
        let weight = u32::try_from(weight).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.events.weight).try_acquire_many_owned(weight);
        let (reply, answer) = oneshot::channel();
        let append = Append {
            prepared,
            reply,
            weight: permit.map_err(|_| StoreError::Busy)?,
        };
        match &*self.events.appends.lock() {
            None => return Err(StoreError::Closed),
            Some(appends) => appends.try_send(append).map_err(|_| StoreError::Busy)?,
        }
        answer.await.unwrap_or(Err(StoreError::Closed))
    }

    pub(in crate::store) fn last_event(&self) -> watch::Receiver<Sequence> {
        self.sight.last()
    }

    /// Other databases have another one, and so have other histories of this one.
    pub(in crate::store) fn number(&self) -> u64 {
        let bytes = self.events.shared.owner;
        let (half, _) = bytes.split_first_chunk().unwrap_or((&[0; 8], &[]));
        u64::from_le_bytes(*half)
    }

    pub(in crate::store) fn user_key(&self) -> UserKey {
        self.events.shared.user_key
    }

    pub(in crate::store) fn erasures(&self) -> u64 {
        self.sight.events().erased
    }

    pub(in crate::store) fn event_counts(&self) -> EventCounts {
        let head = self.sight.events();
        EventCounts {
            accepted: head.event,
            duplicates: head.duplicates,
            conflicting: head.conflicting,
            last: Sequence(head.event),
            topics: self.sight.topics().list(),
        }
    }

    pub(in crate::store) async fn rollups<T: Send + 'static>(
        &self,
        answer: impl Fn(&Rollups) -> T + Send + Sync + 'static,
    ) -> Result<T, StoreError> {
        // Other nodes may have acknowledged events that this one has not heard of.
        self.sight.now().await?;
        self.events.shared.rollups.ask(answer).await
    }
}
