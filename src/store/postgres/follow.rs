//! Follows what all nodes commit.
//!
//! The numbers in the heads are the truth: whoever asks for something waits until this node has seen
//! everything up to what the heads say after the question came ([`Sight::now`]). A notification is a
//! hint to look, and without any it is looked every [`EVERY`].
//!
//! ```text
//! writer ──own changes──▶ follower ──apply──▶ registry
//!                            ▲ rows of `change` that others wrote
//!                        PostgreSQL
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::timeout;

use super::change::{Told, decode};
use super::connect::{Server, Session, fault, silent};
use super::events::topics::Topics;
use super::load;
use super::rows::{Head, count};
use super::time::At;
use crate::clock::Clock;
use crate::model::change::Change;
use crate::model::event::Sequence;
use crate::store::error::StoreError;

/// How often it is looked without a reason.
const EVERY: Duration = Duration::from_millis(500);

/// The longest that a look may take, and that somebody waits for one.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many rows of `change` are read at once.
const CHUNK: i64 = 1_000;

/// How many ids of ingestions are read at once; one ingestion may have more.
const CHUNK_IDS: i64 = 1_000_000;

/// Changes that this node committed.
pub(super) struct Own {
    /// Where they ended.
    pub(super) head: Head,
    pub(super) changes: Vec<Change>,
    /// Told once they are applied.
    pub(super) replies: Vec<oneshot::Sender<Result<(), StoreError>>>,
}

/// What the head of events says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct EventHead {
    /// The arrival of the last event.
    pub(super) event: u64,
    pub(super) duplicates: u64,
    pub(super) conflicting: u64,
    pub(super) erased: u64,
    /// How many topics there are.
    pub(super) topics: u64,
}

/// How far this node sees, for everybody.
pub(super) struct Sight {
    /// The number of the latest request for a look.
    asked: AtomicU64,
    ask: Arc<Notify>,
    /// The number of the latest request that was served, and how.
    served: watch::Sender<(u64, Result<(), StoreError>)>,
    events: watch::Sender<EventHead>,
    last: watch::Sender<Sequence>,
    topics: Topics,
}

impl Sight {
    pub(super) fn new() -> Self {
        Self {
            asked: AtomicU64::new(0),
            ask: Arc::default(),
            served: watch::Sender::new((0, Ok(()))),
            events: watch::Sender::default(),
            last: watch::Sender::default(),
            topics: Topics::default(),
        }
    }

    /// Returns once this node has seen everything that was committed before the call, on any node.
    pub(super) async fn now(&self) -> Result<(), StoreError> {
        let mut served = self.served.subscribe();
        let asked = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.ask.notify_one();
        let waited = timeout(PATIENCE, served.wait_for(|(number, _)| *number >= asked)).await;
        match waited {
            Ok(Ok(seen)) => seen.1.clone(),
            Ok(Err(_)) => Err(StoreError::Closed),
            Err(_) => Err(silent()),
        }
    }

    /// Why the last look failed, if it did.
    pub(super) fn trouble(&self) -> Option<StoreError> {
        self.served.borrow().1.clone().err()
    }

    /// Returns what went wrong once it can't go better here.
    pub(super) async fn failed(&self) -> String {
        let mut served = self.served.subscribe();
        loop {
            if let Err(StoreError::Failed(sentence)) = &served.borrow_and_update().1 {
                return sentence.clone();
            }
            // The sender lives as long as this.
            let _ = served.changed().await;
        }
    }

    /// What the head of events said when it was last looked at.
    pub(super) fn events(&self) -> EventHead {
        *self.events.borrow()
    }

    /// The arrival of the last event, for those who wait for news.
    pub(super) fn last(&self) -> watch::Receiver<Sequence> {
        self.last.subscribe()
    }

    /// What was there when this node began.
    pub(super) fn opened(&self, last: Sequence) {
        self.last.send_replace(last);
    }

    /// The topics of all events.
    pub(super) fn topics(&self) -> &Topics {
        &self.topics
    }

    /// What this node committed itself, or has read. Of two heads one comes after the other in all
    /// that they say.
    pub(super) fn committed(&self, head: EventHead) {
        self.events.send_if_modified(|shown| {
            let later = (head.event, head.duplicates, head.erased)
                > (shown.event, shown.duplicates, shown.erased)
                && head.event >= shown.event
                && head.duplicates >= shown.duplicates;
            if later {
                *shown = head;
            }
            later
        });
        self.last.send_if_modified(|shown| {
            let later = head.event > shown.0;
            shown.0 = shown.0.max(head.event);
            later
        });
    }
}

/// See the module.
pub(super) struct Follower<F> {
    pub(super) server: Server,
    pub(super) sight: Arc<Sight>,
    pub(super) own: mpsc::Receiver<Own>,
    /// Up to where `apply` was called.
    pub(super) seen: Head,
    pub(super) clock: Clock,
    pub(super) apply: F,
}

impl<F: FnMut(Vec<Change>) + Send> Follower<F> {
    /// Runs until the writer is gone and everything is answered.
    pub(super) async fn run(mut self) {
        let mut session: Option<Session> = None;
        loop {
            let ask = Arc::clone(&self.sight.ask);
            tokio::select! {
                biased;
                own = self.own.recv() => match own {
                    Some(own) => self.take(&mut session, own).await,
                    None => break,
                },
                () = ask.notified() => self.look(&mut session).await,
                () = tokio::time::sleep(EVERY) => self.look(&mut session).await,
            }
        }
        let closed = (u64::MAX, Err(StoreError::Closed));
        drop(self.sight.served.send_replace(closed));
    }

    /// Applies what this node committed, and before it what others did.
    async fn take(&mut self, session: &mut Option<Session>, own: Own) {
        let first = own.head.change - count(own.changes.len());
        let until = to_be_read(self.seen.change, first, own.head.change);
        let mut caught_up = Ok(());
        while self.seen.change < until {
            let read = timeout(PATIENCE, self.try_read_up_to(session, until)).await;
            caught_up = read.unwrap_or_else(|_| Err(silent()));
            if caught_up.is_err() {
                *session = None;
                break;
            }
        }
        // What was read up to its end from the table was applied already.
        if caught_up.is_ok() && self.seen.change == first {
            (self.apply)(own.changes);
            self.seen = own.head;
        }
        for reply in own.replies {
            let _ = reply.send(caught_up.clone());
        }
    }

    /// Brings this node up to the heads, and answers those who asked before.
    async fn look(&mut self, session: &mut Option<Session>) {
        let asked = self.sight.asked.load(Ordering::Acquire);
        let looked = timeout(PATIENCE, self.try_look(session)).await;
        let looked = looked.unwrap_or_else(|_| Err(silent()));
        if looked.is_err() {
            *session = None;
        }
        drop(self.sight.served.send_replace((asked, looked)));
    }

    async fn try_look(&mut self, session: &mut Option<Session>) -> Result<(), StoreError> {
        let open = self.open(session).await?;
        let failed = |error: tokio_postgres::Error| fault(&error);
        let asked = self.clock.now().mono;
        let row = open
            .query_typed_one(
                "SELECT head.change, clock_timestamp(), event, duplicates, conflicting, erased, topics
                 FROM head, event_head",
                &[],
            )
            .await
            .map_err(failed)?;
        let At(time) = row.try_get(1).map_err(failed)?;
        self.clock.follow(time, asked);
        let number = |column: usize| row.try_get::<_, i64>(column).map(i64::cast_unsigned);
        let events = EventHead {
            event: number(2).map_err(failed)?,
            duplicates: number(3).map_err(failed)?,
            conflicting: number(4).map_err(failed)?,
            erased: number(5).map_err(failed)?,
            topics: number(6).map_err(failed)?,
        };
        let head: i64 = row.try_get(0).map_err(failed)?;
        while self.seen.change < head {
            self.try_read_up_to(session, head).await?;
        }
        let open = self.open(session).await?;
        self.sight.topics.learn(open, events.topics).await?;
        self.sight.committed(events);
        Ok(())
    }

    async fn open<'s>(
        &mut self,
        session: &'s mut Option<Session>,
    ) -> Result<&'s Session, StoreError> {
        if session.as_ref().is_none_or(|session| session.is_closed()) {
            let fresh = self.server.listening(Arc::clone(&self.sight.ask)).await?;
            let listens = fresh.batch_execute("LISTEN tollgate").await;
            listens.map_err(|error| fault(&error))?;
            *session = Some(fresh);
        }
        session.as_ref().ok_or(StoreError::Closed)
    }

    /// Applies a chunk of what was committed up to `number`.
    async fn try_read_up_to(
        &mut self,
        session: &mut Option<Session>,
        number: i64,
    ) -> Result<(), StoreError> {
        let last = number.min(self.seen.change + CHUNK);
        let open = self.open(session).await?;
        let rows = open
            .query(
                "SELECT number, body FROM change WHERE number > $1 AND number <= $2 ORDER BY number",
                &[&self.seen.change, &last],
            )
            .await
            .map_err(|error| fault(&error))?;
        let mut told = Vec::with_capacity(rows.len());
        let mut submitted = 0;
        for (expected, row) in (self.seen.change + 1..).zip(&rows) {
            let found: i64 = row.try_get(0).map_err(|error| fault(&error))?;
            let body: &str = row.try_get(1).map_err(|error| fault(&error))?;
            if found != expected {
                return Err(missing(expected));
            }
            let change = decode(body).ok_or_else(|| {
                StoreError::Damaged(format!("change {found} is not one that was written"))
            })?;
            submitted += i64::from(matches!(change, Told::Submitted));
            told.push(change);
        }
        if count(told.len()) != last - self.seen.change {
            return Err(missing(self.seen.change + 1 + count(told.len())));
        }
        let Head { arrival, .. } = self.seen;
        let ingestions = if submitted > 0 {
            load::arrived(open, arrival, arrival + submitted, CHUNK_IDS).await?
        } else {
            Vec::new()
        };
        let mut arrivals = (arrival + 1..).zip(&ingestions);
        if (submitted > 0 && ingestions.is_empty())
            || arrivals.any(|(expected, it)| it.arrival.0 != expected.cast_unsigned())
        {
            return Err(missing(last));
        }
        let read = count(ingestions.len());
        let mut ingestions = ingestions.into_iter();
        let mut changes = Vec::with_capacity(told.len());
        for told in told {
            changes.push(match told {
                Told::Whole(change) => change,
                Told::Submitted => match ingestions.next() {
                    Some(ingestion) => Change::Submitted {
                        ingestion,
                        idempotency: None,
                    },
                    // It and what follows is too much at once.
                    None => break,
                },
            });
        }
        self.seen = Head {
            change: self.seen.change + count(changes.len()),
            arrival: arrival + read,
        };
        (self.apply)(changes);
        Ok(())
    }
}

/// Up to which change a node that has seen up to `seen` reads before it applies its own, those behind
/// `first` up to `last`: the ones of others before them, and all of its own where a read of the table
/// has ended among them.
fn to_be_read(seen: i64, first: i64, last: i64) -> i64 {
    if seen > first { last } else { first }
}

/// A change that this node has not seen is no longer there.
fn missing(number: i64) -> StoreError {
    StoreError::Failed(format!(
        "change {number} is gone from the database: this node was away for too long"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_changes_are_applied_at_once_or_read_to_their_end() {
        let cases = [(3, 5), (5, 5), (6, 8), (7, 8), (8, 8), (9, 8)];
        for (seen, until) in cases {
            assert_eq!(to_be_read(seen, 5, 8), until, "seen up to {seen}");
        }
    }
}
