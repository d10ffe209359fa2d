//! Takes events in: parse, find duplicates, write, count.
//!
//! ```text
//! body ──▶ parse ──▶ Store::prepare ──▶ Store::append (one sync) ──▶ receipts
//!          └── on a thread for blocking work, if the body is large ──┘
//! ```
//! Over a bus the second half is another one: see `queued`.

use std::sync::Arc;

use hashbrown::HashMap;
use thiserror::Error;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::Events;
use super::parse::{self, Parsed, Refusal, Request};
#[cfg(feature = "cluster")]
use crate::bus::Bus;
use crate::bus::BusError;
use crate::model::event::{Event, Receipt};
use crate::model::offence::Offences;
use crate::model::time::Timestamp;
use crate::store::{NewLetter, Prepared, Store, StoreError};
use crate::telemetry::Metrics;
use crate::telemetry::metrics::Failure;

/// Bodies up to this many bytes are prepared where they are read: that takes less time than
/// handing them to another thread.
const SMALL: usize = 16 * 1024;

/// The most large bodies that wait while others are prepared.
const MAX_WAITING: usize = 256;

/// What is counted of an event without a type.
pub const NO_TYPE: &str = "none";

/// Why nothing of a request was stored.
#[derive(Debug, Error)]
pub enum IngestError {
    /// The body.
    #[error("the body was refused")]
    Refused(Refusal),
    /// Too many large bodies wait.
    #[error("more than {MAX_WAITING} large requests wait to be stored")]
    Busy,
    /// The bus.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl IngestError {
    /// The most large requests that wait.
    pub const MAX_WAITING: usize = MAX_WAITING;
}

/// What became of a request.
#[derive(Debug)]
pub struct Ingested {
    /// Whether it was one event, rather than a list.
    pub single: bool,
    /// How many events were kept.
    pub accepted: u64,
    /// How many were duplicates.
    pub duplicates: u64,
    /// How many the bus took, if there is one; the other two counts are then zero.
    pub queued: Option<u64>,
    /// How many broke a rule.
    pub rejected: u64,
    /// What is wrong with those.
    pub errors: Offences,
    /// What became of each event, in order; only of a single one unless all were asked for.
    pub receipts: Vec<EventReceipt>,
}

/// What became of one event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventReceipt {
    /// Its identifier; `None` if it could not be read.
    pub event_id: Option<String>,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It reached the store.
    Stored(Receipt),
    /// It reached the bus, and will reach the store.
    Queued,
    /// It broke a rule.
    Rejected,
}

impl Events {
    /// Takes the events of a body. When it returns, they are on disk: in the store, or on the bus.
    pub async fn ingest<B>(
        &self,
        body: B,
        request: Request,
        with_receipts: bool,
    ) -> Result<Ingested, IngestError>
    where
        B: AsRef<[u8]> + Send + 'static,
    {
        let step = Step {
            request,
            with_receipts,
            now: self.clock.now().wall,
        };
        let done = match &self.bus {
            // What was refused before is put right by a person, who wants to know what became of it.
            #[cfg(feature = "cluster")]
            Bus::Nats(nats) if request.route != parse::Route::Again => {
                self.enqueue(nats, body, step).await
            }
            _ => self.store_all(body, step).await,
        };
        match &done {
            Ok(done) => self.count_rejected(done.rejected),
            Err(error) => self.count_failure(error),
        }
        done
    }

    /// Straight into the store.
    async fn store_all<B>(&self, body: B, step: Step) -> Result<Ingested, IngestError>
    where
        B: AsRef<[u8]> + Send + 'static,
    {
        let began = self.clock.now().mono;
        let (store, metrics) = (self.store.clone(), self.metrics.clone());
        let ready = self
            .on_a_core(body, move |body| step.prepare(body, &store, &metrics))
            .await?;
        let done = self.append_ready(ready).await?;
        self.metrics
            .ingestion(self.clock.now().mono.saturating_sub(began));
        Ok(done)
    }

    /// Does what takes time of a core: here, if the body is small.
    pub(super) async fn on_a_core<B, T: Send + 'static>(
        &self,
        body: B,
        work: impl FnOnce(&[u8]) -> Result<T, IngestError> + Send + 'static,
    ) -> Result<T, IngestError>
    where
        B: AsRef<[u8]> + Send + 'static,
    {
        if body.as_ref().len() <= SMALL {
            return work(body.as_ref());
        }
        match self.gate.enter().await {
            Some(_permit) => blocking(move || work(body.as_ref())).await,
            None => Err(IngestError::Busy),
        }
    }

    /// Stores events that the service itself made; receipts in their order.
    pub async fn append(&self, events: Vec<Event<'static>>) -> Result<Vec<Receipt>, StoreError> {
        let size: usize = events.iter().map(|event| event.payload.len()).sum();
        let store = self.store.clone();
        let mut tally = Tally::of(&events);
        let prepared = if size <= SMALL {
            store.prepare(&events, Vec::new())?
        } else {
            blocking(move || Ok(store.prepare(&events, Vec::new())?))
                .await
                .map_err(|error: IngestError| match error {
                    IngestError::Store(error) => error,
                    _ => StoreError::Closed,
                })?
        };
        let receipts = self.store.append(prepared).await?;
        tally.count(self, &receipts);
        Ok(receipts)
    }

    async fn append_ready(&self, ready: Ready) -> Result<Ingested, IngestError> {
        let Ready {
            prepared,
            mut tally,
            outline,
        } = ready;
        let receipts = match self.store.append(prepared).await {
            Ok(receipts) => receipts,
            Err(error) => {
                self.metrics
                    .events_failed(Failure::Unavailable, tally.len());
                return Err(error.into());
            }
        };
        let (accepted, duplicates) = tally.count(self, &receipts);
        let outcomes = receipts.into_iter().map(Outcome::Stored);
        Ok(Ingested {
            accepted,
            duplicates,
            ..outline.ingested(outcomes)
        })
    }

    fn count_rejected(&self, rejected: u64) {
        if rejected > 0 {
            self.metrics.events_failed(Failure::Invalid, rejected);
        }
    }

    fn count_failure(&self, error: &IngestError) {
        let (failure, events) = match error {
            IngestError::Refused(Refusal::Malformed(_)) => (Failure::Malformed, 1),
            IngestError::Refused(Refusal::Invalid(_)) => (Failure::Invalid, 1),
            IngestError::Refused(Refusal::TooMany { count, .. }) => {
                (Failure::TooMany, *count as u64)
            }
            IngestError::Busy => (Failure::QueueFull, 1),
            // Counted where it is known how many events there were.
            IngestError::Store(_) | IngestError::Bus(_) => return,
        };
        self.metrics.events_failed(failure, events);
    }
}

/// Runs on a thread for blocking work.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, IngestError> + Send + 'static,
) -> Result<T, IngestError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // The runtime ends, or the work panicked: the hook has told.
        Err(_) => Err(StoreError::Closed.into()),
    }
}

/// At most as many large bodies as there are cores are prepared at once, and a bounded number
/// waits: memory does not grow with the number of clients.
pub(super) struct Gate {
    running: Semaphore,
    waiting: Semaphore,
}

impl Default for Gate {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Self {
            running: Semaphore::new(cores),
            waiting: Semaphore::new(MAX_WAITING),
        }
    }
}

impl Gate {
    /// A place, as soon as one is free; `None` if too many wait already.
    async fn enter(&self) -> Option<SemaphorePermit<'_>> {
        let _waiting = self.waiting.try_acquire().ok()?;
        self.running.acquire().await.ok()
    }
}

/// The part that takes time of a core, ready to run on any thread.
#[derive(Clone, Copy)]
pub(super) struct Step {
    request: Request,
    with_receipts: bool,
    pub(super) now: Timestamp,
}

/// Events that need only be written.
struct Ready {
    prepared: Prepared,
    tally: Tally,
    outline: Outline,
}

/// What the answer needs of a request.
pub(super) struct Outline {
    single: bool,
    rejected: u64,
    errors: Offences,
    ids: Ids,
}

impl Outline {
    /// The answer, but for its counts: what became of each good event.
    pub(super) fn ingested(self, outcomes: impl Iterator<Item = Outcome>) -> Ingested {
        Ingested {
            single: self.single,
            accepted: 0,
            duplicates: 0,
            queued: None,
            rejected: self.rejected,
            errors: self.errors,
            receipts: merge(self.ids, outcomes),
        }
    }
}

/// What a body came to: its good events, the others as dead letters, and what the answer needs.
pub(super) struct Found<'a> {
    pub(super) events: Vec<Event<'a>>,
    pub(super) letters: Vec<NewLetter>,
    pub(super) outline: Outline,
}

impl Step {
    /// Parses, and sorts the good events from the others.
    pub(super) fn parse(self, body: &[u8]) -> Result<Found<'_>, IngestError> {
        let parsed = parse::parse(body, &self.request).map_err(IngestError::Refused)?;
        let mut errors = Offences::default();
        for refused in &parsed.refused {
            errors.absorb(&refused.pointer, &refused.offences);
        }
        let letters = parsed.refused.iter().map(|refused| NewLetter {
            refused_at: self.now,
            errors: serde_json::to_string(refused.offences.listed()).unwrap_or_default(),
            body: refused.body.to_owned(),
        });
        let letters = letters.collect();
        let outline = Outline {
            single: parsed.single,
            rejected: parsed.refused.len() as u64,
            errors,
            ids: if self.with_receipts || parsed.single {
                Ids::of(&parsed)
            } else {
                Ids::default()
            },
        };
        Ok(Found {
            events: parsed.events,
            letters,
            outline,
        })
    }

    fn prepare(self, body: &[u8], store: &Store, metrics: &Metrics) -> Result<Ready, IngestError> {
        let found = self.parse(body)?;
        let prepared = store
            .prepare(&found.events, found.letters)
            .inspect_err(|_| {
                let events = found.events.len() as u64;
                metrics.events_failed(Failure::Unavailable, events);
            })?;
        Ok(Ready {
            prepared,
            tally: Tally::of(&found.events),
            outline: found.outline,
        })
    }
}

/// The identifiers of a request's events, for receipts.
#[derive(Default)]
struct Ids {
    good: Vec<String>,
    /// With the place in the request.
    refused: Vec<(usize, Option<String>)>,
}

impl Ids {
    fn of(parsed: &Parsed<'_>) -> Self {
        let own = |id: &std::borrow::Cow<'_, str>| id.clone().into_owned();
        let refused = parsed.refused.iter();
        Self {
            good: parsed.events.iter().map(|event| own(&event.id)).collect(),
            refused: refused
                .map(|it| (it.index, it.id.as_ref().map(own)))
                .collect(),
        }
    }
}

/// Receipts in the order of the request.
fn merge(ids: Ids, outcomes: impl Iterator<Item = Outcome>) -> Vec<EventReceipt> {
    let mut merged = Vec::with_capacity(ids.good.len() + ids.refused.len());
    let mut good = ids.good.into_iter().zip(outcomes).map(|(id, outcome)| {
        let event_id = Some(id);
        EventReceipt { event_id, outcome }
    });
    for (index, event_id) in ids.refused {
        let before = index.saturating_sub(merged.len());
        merged.extend(good.by_ref().take(before));
        let outcome = Outcome::Rejected;
        merged.push(EventReceipt { event_id, outcome });
    }
    merged.extend(good);
    merged
}

/// How many events of each type there are.
pub(super) struct Tally {
    types: Vec<OfType>,
    /// The number of each event's type.
    each: Vec<u32>,
}

struct OfType {
    name: Arc<str>,
    received: u64,
    accepted: u64,
}

impl Tally {
    pub(super) fn of(events: &[Event<'_>]) -> Self {
        let mut numbers: HashMap<&str, u32, std::hash::RandomState> = HashMap::default();
        let mut types: Vec<OfType> = Vec::new();
        let each = events.iter().map(|event| {
            let name = event.event_type.as_deref().unwrap_or(NO_TYPE);
            let number = *numbers.entry(name).or_insert_with(|| {
                types.push(OfType {
                    name: name.into(),
                    received: 0,
                    accepted: 0,
                });
                // A request has far fewer.
                u32::try_from(types.len() - 1).unwrap_or(u32::MAX)
            });
            if let Some(found) = types.get_mut(number as usize) {
                found.received += 1;
            }
            number
        });
        let each = each.collect();
        Self { types, each }
    }

    fn len(&self) -> u64 {
        self.each.len() as u64
    }

    /// Adds the events to the metrics; how many were accepted, and how many were duplicates.
    pub(super) fn count(&mut self, events: &Events, receipts: &[Receipt]) -> (u64, u64) {
        let (mut accepted, mut duplicates, mut conflicts) = (0, 0, 0);
        for (number, receipt) in self.each.iter().zip(receipts) {
            match receipt {
                Receipt::Accepted => {
                    accepted += 1;
                    if let Some(found) = self.types.get_mut(*number as usize) {
                        found.accepted += 1;
                    }
                }
                Receipt::Duplicate { conflicting } => {
                    duplicates += 1;
                    conflicts += u64::from(*conflicting);
                }
            }
        }
        for of in &self.types {
            events.metrics.events(&of.name, of.received, of.accepted);
        }
        events.metrics.events_duplicate(duplicates, conflicts);
        (accepted, duplicates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_bounded_number_waits_at_the_gate() {
        let gate = Arc::new(Gate::default());
        let cores = gate.running.available_permits();
        let mut inside = Vec::new();
        for _ in 0..cores {
            inside.push(gate.enter().await.unwrap());
        }
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..MAX_WAITING {
            let gate = Arc::clone(&gate);
            waiting.spawn(async move { gate.enter().await.is_some() });
        }
        while gate.waiting.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(gate.enter().await.is_none(), "one more than may wait");
        drop(inside);
        while let Some(entered) = waiting.join_next().await {
            assert!(entered.unwrap());
        }
        assert_eq!(gate.running.available_permits(), cores);
    }

    #[test]
    fn receipts_come_in_the_order_of_the_request() {
        let ids = Ids {
            good: vec!["a".into(), "b".into()],
            refused: vec![(0, None), (2, Some("x".into())), (4, None)],
        };
        let conflicting = Receipt::Duplicate { conflicting: true };
        let outcomes = [Receipt::Accepted, conflicting].map(Outcome::Stored);
        let merged = merge(ids, outcomes.into_iter());
        let shown: Vec<_> = merged
            .iter()
            .map(|it| (it.event_id.as_deref(), it.outcome))
            .collect();
        assert_eq!(
            shown,
            [
                (None, Outcome::Rejected),
                (Some("a"), Outcome::Stored(Receipt::Accepted)),
                (Some("x"), Outcome::Rejected),
                (Some("b"), Outcome::Stored(conflicting)),
                (None, Outcome::Rejected),
            ]
        );
    }
}
