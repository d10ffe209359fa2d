//! Events on disk.
//!
//! Events are kept in *blocks*: those of one commit, sorted by (tenant, time, arrival), in chunks,
//! encoded and compressed, with a checksum. A row each, however many events: rows of their own
//! with an index over random keys cost 3 to 6 times as much. What one block spans (times,
//! arrivals, tenants) is in a small row beside it, so that a page is found without reading blocks.
//!
//! The span of a block in time puts it on a *level*: the bits that the span in microseconds needs.
//! All blocks that touch a moment `t` are then found by one short range of the index for each level
//! `l`: those whose first time lies in `(t - 2^l, t]`.
//!
//! ```text
//! prepare (caller's thread)        writer thread                          append (caller)
//! ─────────────────────────        ─────────────                          ───────────────
//! identity, reserve in `seen` ──▶  arrivals, blocks, counters, one sync ─▶ receipts
//! build blocks                     `seen`: reserved becomes committed     those that another
//!                                                                         request held: again
//! ```
//!
//! An identity that another request holds is neither new nor a duplicate until that one has ended, see
//! `append`.

mod append;
pub(super) mod block;
pub(super) mod codec;
pub(super) mod count;
pub(super) mod letters;
pub(super) mod messages;
mod pack;
pub(super) mod page;
mod replace;
pub(super) mod scan;
pub(super) mod spent;
pub(super) mod write;

#[cfg(test)]
mod samples;

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use rusqlite::Connection;
use tokio::sync::watch;

use self::pack::Planner;
use self::write::{Append, Content};
use super::Embedded;
use super::fault::Fault;
use super::meta::{Meta, Table};
use super::rollups::Blocks;
use super::schema::{DATABASE, name_of};
use super::seen::{Claim, Entry, Reservation, Seen, SeenSettings, TicketId};
use crate::model::bus::MessageName;
use crate::model::event::{
    DeadLetter, Event, EventCounts, EventFilter, EventPage, PageQuery, Receipt, Sequence,
    StoredEvent,
};
use crate::model::time::Timestamp;
use crate::rollups::{Facts, Rollups, UserKey};
use crate::store::error::{OpenError, StoreError};
use crate::store::identity::Key;
use crate::store::rollups::{Fed, FollowLimits, Follower};
use crate::telemetry::counted;

/// The folder of the identity index.
const SEEN: &str = "seen";

/// Its name once a damaged page was found in it, so that the next start makes a new one.
const DISTRUSTED: &str = "seen-damaged";

/// With fewer new events than this a request gets no blocks of its own.
const OWN_BLOCKS: usize = 64;

/// How many identities are handed to the index at once when it is built anew.
const CHUNK: usize = 4096;

/// A refused event that shall be kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewLetter {
    /// When it was refused.
    pub refused_at: Timestamp,
    /// A JSON array of `{pointer, detail, code}`.
    pub errors: String,
    /// The event as sent.
    pub body: String,
}

/// What can be done with events.
#[derive(Debug)]
pub(in crate::store) enum Prepared {
    Ready(Box<Ready>),
    /// Nothing yet: these hold identities of what messages brought, all of which is one commit.
    Waiting(Vec<TicketId>),
}

/// Events that are ready to be written.
#[derive(Debug)]
pub(in crate::store) struct Ready {
    append: Append,
    /// What became of each; `None` for those in `held`.
    receipts: Vec<Option<Receipt>>,
    held: Vec<Held>,
}

/// An event whose identity another request holds.
#[derive(Debug)]
struct Held {
    /// Its place in the request.
    place: usize,
    event: Event<'static>,
    by: TicketId,
}

/// What the writer and the callers share about events.
pub(super) struct EventState {
    dir: PathBuf,
    pub(super) key: Key,
    pub(super) user_key: UserKey,
    pub(super) seen: Seen,
    /// As of the last commit.
    pub(super) counts: RwLock<Counted>,
    pub(super) last: watch::Sender<Sequence>,
    pub(super) rollups: Follower,
    /// How often events were erased.
    erasures: AtomicU64,
    planner: Arc<Mutex<Planner>>,
}

/// The numbers and topics that a reader may ask for.
#[derive(Default)]
pub(super) struct Counted {
    count: count::Count,
    topics: BTreeSet<String>,
}

impl EventState {
    /// Opens the identity index in `dir` and brings it up to what `db` holds.
    pub(super) fn open(
        dir: &Path,
        db: &Connection,
        meta: &mut Meta,
        limits: FollowLimits,
    ) -> Result<Self, OpenError> {
        let refuse = |fault: Fault| fault.into_open_error(&name_of(&dir.join(DATABASE)));
        let key = *meta.events.key.get_or_insert_with(Key::random);
        let topics = write::load_topics(db, meta).map_err(refuse)?;
        remove_distrusted(dir)?;
        let (seen, covers) = open_seen(&dir.join(SEEN), key, meta)?;
        recover(&seen, covers, key, db, meta).map_err(refuse)?;
        let last = watch::Sender::new(Sequence(meta.events.last_sequence));
        let rollups = Follower::start(
            dir,
            key.of_checkpoints(),
            last.subscribe(),
            limits,
            Blocks::new(dir, key),
        )
        .map_err(|error| OpenError(format!("can't start a thread: {error}")))?;
        Ok(Self {
            dir: dir.to_owned(),
            key,
            user_key: key.of_users(),
            seen,
            counts: RwLock::new(Counted {
                count: meta.events.clone(),
                topics,
            }),
            last,
            rollups,
            erasures: AtomicU64::new(meta.tally(Table::Spent).rows()),
            planner: Arc::default(),
        })
    }

    /// After the commit of `appends`, in their order, that led to `count`.
    pub(super) fn committed(&self, appends: Vec<Append>, count: &count::Count) {
        let mut last = self.counts.read().count.last_sequence;
        let mut topics = Vec::new();
        let mut fed = Vec::with_capacity(appends.len());
        for append in appends {
            let after = Sequence(last);
            last += append.new;
            self.seen.committed(append.ticket, last);
            topics.extend(append.topics);
            if append.new > 0 {
                let (facts, last) = (append.facts, Sequence(last));
                fed.push(Fed { after, facts, last });
            }
        }
        debug_assert_eq!(last, count.last_sequence, "every event has its arrival");
        {
            let mut counts = self.counts.write();
            counts.count = count.clone();
            counts.topics.extend(topics);
        }
        self.last.send_if_modified(|shown| {
            let news = shown.0 != last;
            shown.0 = last;
            news
        });
        for fed in fed {
            self.rollups.feed(fed);
        }
    }

    /// After a commit that may have erased events.
    pub(super) fn replaced(&self, meta: &mut Meta) {
        let rows = meta.tally(Table::Spent).rows();
        self.erasures.store(rows, Ordering::Release);
    }
}

fn remove_distrusted(dir: &Path) -> Result<(), OpenError> {
    let dir = dir.join(DISTRUSTED);
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(OpenError(format!("{}: {error}", dir.display())))
        }
        _ => Ok(()),
    }
}

/// Compares the rows about events with what was written. What is inside of blocks is checked when
/// it is read.
pub(super) fn check(db: &Connection, meta: &Meta) -> Result<(), Fault> {
    write::load_topics(db, meta)?;
    block::check(db, meta)?;
    spent::span::check(db, meta)?;
    messages::check(db, meta)?;
    letters::check(db, meta)
}

/// Opens the identity index. Also returns the arrival up to which it knows every event.
fn open_seen(dir: &Path, key: Key, meta: &Meta) -> Result<(Seen, u64), OpenError> {
    let refuse = |error: std::io::Error| OpenError(format!("{}: {error}", dir.display()));
    let last = meta.events.last_sequence;
    let settings = SeenSettings::of(xxhash_rust::xxh3::xxh3_64(&key.0));
    let open = || Seen::open(dir, settings).map_err(refuse);
    let (mut seen, mut covers) = open()?;
    if covers > last {
        // It knows events that the store has lost.
        tracing::warn!("the identity index is ahead of the store and is built anew");
        seen.close();
        drop(seen);
        Seen::discard(dir).map_err(refuse)?;
        (seen, covers) = open()?;
    }
    Ok((seen, covers))
}

/// Feeds the index what it does not cover, from the blocks.
fn recover(seen: &Seen, covers: u64, key: Key, db: &Connection, meta: &Meta) -> Result<(), Fault> {
    let behind = meta.events.last_sequence.saturating_sub(covers);
    if behind == 0 {
        return Ok(());
    }
    tracing::info!(
        "reading the identities of {}",
        counted(behind, "event", "events")
    );
    let mut chunk: Vec<Entry> = Vec::with_capacity(CHUNK);
    page::blocks_after(db, Sequence(covers), |events| {
        chunk.extend(events.iter().map(|(_, event)| key.of(event)));
        if chunk.len() >= CHUNK {
            seen.recover(&chunk, covers);
            chunk.clear();
        }
        ControlFlow::Continue(())
    })?;
    seen.recover(&chunk, covers);
    spent::each_after(db, meta, covers, |identities| {
        seen.recover(identities, covers);
    })?;
    seen.recover(&[], meta.events.last_sequence);
    Ok(())
}

impl Embedded {
    pub(in crate::store) fn prepare(
        &self,
        events: &[Event<'_>],
        letters: Vec<NewLetter>,
        names: Vec<MessageName>,
    ) -> Result<Prepared, StoreError> {
        let wanted: Vec<Entry> = events.iter().map(|it| self.events.key.of(it)).collect();
        let reserved = self.events.seen.reserve(&wanted);
        let reserved = reserved.map_err(|error| self.index_failed(&error))?;
        if !names.is_empty() {
            let holders = reserved.claims.iter().filter_map(|claim| match claim {
                Claim::Pending(by) => Some(*by),
                _ => None,
            });
            let holders: Vec<TicketId> = holders.collect();
            if !holders.is_empty() {
                return Ok(Prepared::Waiting(holders));
            }
        }
        let mut ready = self.ready(events, &wanted, reserved);
        ready.append.letters = letters;
        ready.append.names = names;
        Ok(Prepared::Ready(Box::new(ready)))
    }

    fn ready(&self, events: &[Event<'_>], wanted: &[Entry], reserved: Reservation) -> Ready {
        let Reservation { claims, ticket } = reserved;
        let mut append = Append {
            content: Content::Few(Vec::new()),
            new: 0,
            facts: Facts::default(),
            ticket,
            duplicates: 0,
            conflicting: 0,
            topics: Vec::new(),
            letters: Vec::new(),
            names: Vec::new(),
        };
        let mut receipts = Vec::with_capacity(events.len());
        let mut held = Vec::new();
        let mut new: Vec<&Event<'_>> = Vec::with_capacity(events.len());
        for (place, ((event, (_, first)), claim)) in
            events.iter().zip(wanted).zip(&claims).enumerate()
        {
            let receipt = match first_of(*claim, wanted, &claims) {
                Known::New => {
                    new.push(event);
                    Some(Receipt::Accepted)
                }
                Known::Spent(earlier) => {
                    let conflicting = earlier != first.content;
                    append.duplicates += 1;
                    append.conflicting += u64::from(conflicting);
                    Some(Receipt::Duplicate { conflicting })
                }
                Known::Held(by) => {
                    let event = event.clone().into_owned();
                    held.push(Held { place, event, by });
                    None
                }
            };
            receipts.push(receipt);
        }
        append.new = new.len() as u64;
        append.facts = Facts::of(self.events.user_key, new.iter().copied());
        append.topics = self.new_topics(&new);
        append.content = if new.len() < OWN_BLOCKS {
            let own = |event: &Event<'_>| event.clone().into_owned();
            Content::Few(new.into_iter().map(own).collect())
        } else {
            Content::Blocks(block::build((1..).zip(new), 0))
        };
        Ready {
            append,
            receipts,
            held,
        }
    }

    /// The topics of `events` that are not listed yet.
    fn new_topics(&self, events: &[&Event<'_>]) -> Vec<String> {
        let counted = self.events.counts.read();
        let mut new: Vec<String> = Vec::new();
        let mut previous = None;
        for event in events {
            let topic: &str = &event.topic;
            if previous != Some(topic)
                && !counted.topics.contains(topic)
                && counted.topics.len() < crate::model::event::MAX_TOPICS
                && !new.iter().any(|known| known == topic)
            {
                new.push(topic.to_owned());
            }
            previous = Some(topic);
        }
        new
    }

    pub(in crate::store) async fn page(&self, query: PageQuery) -> Result<EventPage, StoreError> {
        self.readers.read(move |db| page::page(db, &query)).await
    }

    pub(in crate::store) async fn event(
        &self,
        tenant: &str,
        topic: &str,
        id: &str,
    ) -> Result<Option<StoredEvent>, StoreError> {
        let identity = self.events.key.identity(tenant, topic, id);
        let found = self.events.seen.find(identity);
        let Some(first) = found.map_err(|error| self.index_failed(&error))? else {
            return Ok(None);
        };
        let (tenant, topic, id) = (tenant.to_owned(), topic.to_owned(), id.to_owned());
        self.readers
            .read(move |db| page::at(db, first.time, &tenant, &topic, &id))
            .await
    }

    pub(in crate::store) async fn events_since(
        &self,
        after: Sequence,
        filter: EventFilter,
        limit: usize,
    ) -> Result<(Vec<StoredEvent>, Sequence), StoreError> {
        let last = *self.events.last.borrow();
        let found = self
            .readers
            .read(move |db| page::since(db, after, &filter, limit));
        let (events, up_to) = found.await?;
        // Where nothing is left behind `after`, there was nothing up to the last one.
        let up_to = if up_to == after {
            after.max(last)
        } else {
            up_to
        };
        Ok((events, up_to))
    }

    pub(in crate::store) fn last_event(&self) -> watch::Receiver<Sequence> {
        self.events.last.subscribe()
    }

    pub(in crate::store) fn user_key(&self) -> UserKey {
        self.events.user_key
    }

    pub(in crate::store) fn erasures(&self) -> u64 {
        self.events.erasures.load(Ordering::Acquire)
    }

    pub(in crate::store) fn event_counts(&self) -> EventCounts {
        let counted = self.events.counts.read();
        EventCounts {
            accepted: counted.count.accepted,
            duplicates: counted.count.duplicates,
            conflicting: counted.count.conflicting,
            last: Sequence(counted.count.last_sequence),
            topics: counted.topics.iter().cloned().collect(),
        }
    }

    pub(in crate::store) async fn rollups<T: Send + 'static>(
        &self,
        answer: impl Fn(&Rollups) -> T + Send + Sync + 'static,
    ) -> Result<T, StoreError> {
        self.events.rollups.ask(answer).await
    }

    pub(in crate::store) async fn letters(
        &self,
        after: u64,
        limit: usize,
    ) -> Result<(Vec<DeadLetter>, bool), StoreError> {
        self.readers
            .read(move |db| letters::list(db, after, limit))
            .await
    }

    pub(in crate::store) async fn letter(&self, id: u64) -> Result<Option<DeadLetter>, StoreError> {
        self.readers.read(move |db| letters::find(db, id)).await
    }

    pub(in crate::store) async fn discard_letter(&self, id: u64) -> Result<bool, StoreError> {
        let removed = self.other(move |db, meta, _| Ok(u64::from(letters::remove(db, meta, id)?)));
        Ok(removed.await? == 1)
    }

    /// What an error of the identity index means. Damage is final for this run of the process: the
    /// next one builds the index anew.
    fn index_failed(&self, error: &std::io::Error) -> StoreError {
        if error.kind() == std::io::ErrorKind::InvalidData {
            let sentence =
                format!("the identity index is damaged, a restart builds it anew: {error}");
            self.shared.fail(&sentence);
            // If this fails the next run finds the same page, and comes here, too.
            let _ = fs::rename(self.events.dir.join(SEEN), self.events.dir.join(DISTRUSTED));
            return StoreError::Failed(sentence);
        }
        StoreError::Failed(format!("the identity index can't be read: {error}"))
    }
}

/// What is known of an identity.
enum Known {
    /// It is this request's.
    New,
    /// By an event with this hash of its content.
    Spent(u32),
    /// By a request that has not ended.
    Held(TicketId),
}

/// What a claim means; one that repeats an earlier event of its request is a duplicate of that one,
/// or of what that one is a duplicate of.
fn first_of(claim: Claim, wanted: &[Entry], claims: &[Claim]) -> Known {
    match claim {
        Claim::New => Known::New,
        Claim::Seen(first) => Known::Spent(first.content),
        Claim::Pending(by) => Known::Held(by),
        Claim::Twice(earlier) => {
            let earlier = usize::try_from(earlier).unwrap_or(usize::MAX);
            match (claims.get(earlier), wanted.get(earlier)) {
                (Some(Claim::Seen(first)), _) | (_, Some((_, first))) => {
                    Known::Spent(first.content)
                }
                _ => Known::Spent(0),
            }
        }
    }
}

impl Append {
    /// Whether there is anything to write.
    fn says_something(&self) -> bool {
        self.new > 0 || self.duplicates > 0 || !self.letters.is_empty() || !self.names.is_empty()
    }

    /// What it weighs in the writer's queue.
    fn bytes(&self) -> usize {
        let content: usize = match &self.content {
            Content::Blocks(blocks) => blocks.iter().map(|block| block.data.len()).sum(),
            Content::Few(events) => events
                .iter()
                .map(|event| size_of::<Event<'_>>() + event.payload.len() + event.extra.len())
                .sum(),
        };
        let letters: usize = self
            .letters
            .iter()
            .map(|letter| letter.body.len() + letter.errors.len())
            .sum();
        let names = self.names.len() * size_of::<MessageName>();
        size_of::<Self>() + content + letters + names + self.facts.bytes()
    }
}
