//! A naive model of what a store holds, and random histories for it.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use tollgate::clock::Clock;
use tollgate::model::batch::{BatchRun, BatchStatus, IdFailure};
use tollgate::model::change::{Change, IdempotencyRecord};
use tollgate::model::id::{Arrival, BatchIndex, IngestionId};
use tollgate::model::ingestion::{Extras, Ingestion};
use tollgate::model::priority::Priority;
use tollgate::model::queue::{QueueId, QueueName};
use tollgate::model::time::Timestamp;
use tollgate::store::{KeptAnswer, OpenError, SharedSettings, Store, StoreSettings};
use uuid::Uuid;

/// What was committed.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct State {
    pub queues: BTreeMap<u16, (QueueName, Option<Timestamp>)>,
    pub live: BTreeMap<u64, Ingestion>,
    pub ended: BTreeMap<u64, Ingestion>,
    pub kept: BTreeMap<u128, (KeptAnswer, Timestamp)>,
}

impl PartialEq<State> for &State {
    fn eq(&self, other: &State) -> bool {
        **self == *other
    }
}

impl State {
    /// Applies a change whose ingestion has its arrival.
    pub fn apply(&mut self, change: &Change) {
        match change.clone() {
            Change::QueueConfigured {
                queue,
                name,
                last_slot,
            } => {
                let entry = self.queues.entry(queue.0).or_insert((name.clone(), None));
                entry.0 = name;
                entry.1 = last_slot.or(entry.1);
            }
            Change::SlotTaken { queue, at } => self.queues.get_mut(&queue.0).unwrap().1 = Some(at),
            Change::Submitted {
                ingestion,
                idempotency,
            } => {
                if let Some(record) = idempotency {
                    let answer = KeptAnswer {
                        body: record.body,
                        ingestion: ingestion.id,
                    };
                    self.kept.insert(record.key, (answer, record.expires_at));
                }
                self.live.insert(ingestion.arrival.0, ingestion);
            }
            Change::BatchMoved {
                ingestion,
                batch,
                run,
            } => {
                let found = self.live.get_mut(&ingestion.arrival.0).unwrap();
                found.set_run(batch, run);
            }
            Change::RestEnded {
                ingestion,
                status,
                at,
            } => {
                let found = self.live.get_mut(&ingestion.arrival.0).unwrap();
                found.give_up_rest(status, at);
            }
            Change::IngestionEnded { ingestion, at } => {
                let mut found = self.live.remove(&ingestion.arrival.0).unwrap();
                found.runs.get_or_insert_default().ended_at = Some(at);
                self.ended.insert(ingestion.arrival.0, found);
            }
        }
    }

    /// Forgets what is old.
    pub fn prune(&mut self, ended_before: Timestamp, now: Timestamp) {
        self.ended
            .retain(|_, ingestion| ingestion.ended_at().unwrap() >= ended_before);
        self.kept.retain(|_, (_, expires_at)| *expires_at > now);
    }
}

/// Makes changes that fit a state, one by one, with times that go up.
pub struct History {
    pub rng: fastrand::Rng,
    pub state: State,
    pub arrivals: u64,
    pub micros: i64,
}

impl History {
    pub fn new(seed: u64) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed),
            state: State::default(),
            arrivals: 0,
            micros: 1_700_000_000_000_000,
        }
    }

    pub fn now(&mut self) -> Timestamp {
        self.micros += self.rng.i64(1..1_000_000);
        Timestamp::from_micros(self.micros)
    }

    /// One commit: one to three changes, applied to the state.
    pub fn commit(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        for _ in 0..self.rng.usize(1..=3) {
            let change = self.change();
            self.state.apply(&change);
            changes.push(unassigned(change));
        }
        changes
    }

    fn change(&mut self) -> Change {
        if self.state.queues.is_empty() {
            return self.queue();
        }
        let live: Vec<u64> = self.state.live.keys().copied().collect();
        match self.rng.u8(0..10) {
            0 => self.queue(),
            1 => {
                let queues: Vec<u16> = self.state.queues.keys().copied().collect();
                Change::SlotTaken {
                    queue: QueueId(self.rng.choice(queues).unwrap()),
                    at: self.now(),
                }
            }
            2..=8 if !live.is_empty() => {
                let arrival = self.rng.choice(live).unwrap();
                let ingestion = self.state.live[&arrival].clone();
                self.progress(&ingestion)
            }
            _ => self.submission(),
        }
    }

    fn queue(&mut self) -> Change {
        // No name has two numbers, and no number two names.
        let queue = self.rng.u16(..4);
        Change::QueueConfigured {
            queue: QueueId(queue),
            name: QueueName::try_from(format!("mail-{queue}")).unwrap(),
            last_slot: self.rng.bool().then(|| self.now()),
        }
    }

    pub fn submission(&mut self) -> Change {
        self.arrivals += 1;
        let count = if self.rng.u8(..8) == 0 { 3000 } else { 12 };
        let shift = self.rng.u32(..64);
        let created_at = self.now();
        let extras = (self.rng.u8(..3) == 0).then(|| {
            Box::new(Extras {
                metadata: Some("{\"ü\": 1}".repeat(self.rng.usize(1..200)).into()),
                callback_url: self.rng.bool().then(|| "http://h/x".into()),
                deadline: self.rng.bool().then_some(created_at),
            })
        });
        let ingestion = Ingestion {
            id: IngestionId::new(Uuid::from_u128(self.rng.u128(..))),
            arrival: Arrival(self.arrivals),
            created_at,
            ids: (0..self.rng.usize(1..=count))
                .map(|_| self.rng.i64(..) >> shift)
                .collect(),
            extras,
            runs: None,
            queue: QueueId(self.rng.u16(..4)),
            batch_size: NonZeroU16::new(self.rng.u16(1..5)).unwrap(),
            priority: Priority::ALL[self.rng.usize(..3)],
        };
        let idempotency = (self.rng.u8(..2) == 0).then(|| IdempotencyRecord {
            key: u128::from(self.rng.u8(..40)),
            body: self.rng.u128(..),
            expires_at: created_at.plus(std::time::Duration::from_secs(self.rng.u64(1..100))),
        });
        Change::Submitted {
            ingestion,
            idempotency,
        }
    }

    fn progress(&mut self, ingestion: &Ingestion) -> Change {
        let key = ingestion.key();
        let at = self.now();
        let progress = ingestion.progress();
        if progress.waiting == 0 && progress.triggered == 0 {
            return Change::IngestionEnded { ingestion: key, at };
        }
        let open: Vec<u32> = (0..ingestion.started_count())
            .filter(|batch| !ingestion.status_of(BatchIndex(*batch)).has_ended())
            .collect();
        if progress.waiting > 0 && self.rng.u8(..8) == 0 {
            let status = [BatchStatus::Cancelled, BatchStatus::Expired][self.rng.usize(..2)];
            return Change::RestEnded {
                ingestion: key,
                status,
                at,
            };
        }
        if let Some(batch) = ingestion.next_batch().filter(|_| open.len() < 3) {
            return Change::BatchMoved {
                ingestion: key,
                batch,
                run: BatchRun::first(at),
            };
        }
        let batch = BatchIndex(self.rng.choice(open).unwrap());
        let before = ingestion.run(batch).unwrap().clone();
        let failures = vec![IdFailure::new(0, "ü timed out".to_owned())];
        let run = match self.rng.u8(..6) {
            0 => before.again(at),
            1 => BatchRun {
                retry_at: Some(at),
                failures,
                ..before
            },
            2 => BatchRun {
                status: BatchStatus::Failed,
                completed_at: Some(at),
                retry_at: None,
                failures,
                ..before
            },
            3 => BatchRun {
                completed_at: Some(at),
                retry_at: None,
                failures,
                ..before
            },
            _ => BatchRun {
                status: BatchStatus::Completed,
                completed_at: Some(at),
                retry_at: None,
                failures: Vec::new(),
                ..before
            },
        };
        Change::BatchMoved {
            ingestion: key,
            batch,
            run,
        }
    }
}

/// As a caller makes it: without an arrival.
fn unassigned(mut change: Change) -> Change {
    if let Change::Submitted { ingestion, .. } = &mut change {
        ingestion.arrival = Arrival(0);
    }
    change
}

/// A store, and what it has applied so far.
pub struct Opened {
    pub store: Store,
    pub applied: Arc<Mutex<State>>,
}

pub fn settings(dir: &Path) -> StoreSettings {
    StoreSettings {
        dir: dir.to_owned(),
        accept_loss: false,
    }
}

/// Opens a store whose changes go to a [`State`].
pub fn open(settings: &StoreSettings) -> Result<Opened, OpenError> {
    let (applied, apply) = applied();
    let store = Store::open(settings, apply)?;
    Ok(Opened { store, applied })
}

/// The same over a database.
pub async fn connect(settings: &SharedSettings) -> Result<Opened, OpenError> {
    let (applied, apply) = applied();
    let store = Store::connect(settings, Clock::system(), apply).await?;
    Ok(Opened { store, applied })
}

fn applied() -> (Arc<Mutex<State>>, impl FnMut(Vec<Change>) + Send + 'static) {
    let applied = Arc::new(Mutex::new(State::default()));
    let sink = Arc::clone(&applied);
    let apply = move |changes: Vec<Change>| {
        let mut state = sink.lock();
        for change in &changes {
            state.apply(change);
        }
    };
    (applied, apply)
}
