//! The heart of the product against a naive model: any interleaving of submissions, time,
//! completions, failures and crashes gives the same order, statuses and positions as plain loops
//! over plain lists do.
//!
//! `SIMULATION_CASES=100000 cargo test simulation` runs more cases; a failing one is kept under
//! `proptest-regressions` and tried first from then on.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "numbers are small here"
)]

use std::collections::BTreeMap;
use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use parking_lot::RwLock;
use proptest::prelude::*;
use uuid::Uuid;

use super::decide::Finished;
use super::outlook::{self, QueuePace};
use super::processor::{Failure, IdResult, Response};
use super::registry::Registry;
use super::scheduler::{Outcome, Scheduler, Start};
use crate::model::batch::BatchStatus;
use crate::model::change::Change;
use crate::model::id::{Arrival, BatchIndex, IngestionId, IngestionRef};
use crate::model::ingestion::{Extras, Ingestion};
use crate::model::priority::Priority;
use crate::model::queue::{QueueId, QueueName, QueueSettings, RetryPolicy};
use crate::model::time::{Now, Timestamp};

const QUEUE: QueueId = QueueId(0);
const INTERVAL: Duration = Duration::from_millis(100);

/// What a test does to the world.
#[derive(Clone, Debug)]
enum Step {
    Submit {
        priority: Priority,
        ids: i64,
        deadline_ms: Option<u64>,
    },
    Advance {
        ms: u64,
    },
    /// One of the running batches ends; the bits say which of its ids failed.
    Finish {
        which: usize,
        failed: u8,
    },
    /// The process dies and starts again, `down_ms` later.
    Crash {
        down_ms: u64,
    },
    /// The process dies after it decided to start a batch, before that was committed.
    CrashBeforeCommit,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let priority = prop::sample::select(vec![Priority::Low, Priority::Medium, Priority::High]);
    let step = prop_oneof![
        4 => (priority, 1_i64..10, prop::option::weighted(0.2, 0_u64..600))
            .prop_map(|(priority, ids, deadline_ms)| Step::Submit { priority, ids, deadline_ms }),
        5 => (0_u64..250).prop_map(|ms| Step::Advance { ms }),
        5 => (0_usize..8, prop_oneof![3 => Just(0_u8), 1 => 0_u8..8])
            .prop_map(|(which, failed)| Step::Finish { which, failed }),
        1 => (0_u64..300).prop_map(|down_ms| Step::Crash { down_ms }),
        1 => Just(Step::CrashBeforeCommit),
    ];
    prop::collection::vec(step, 1..60)
}

fn settings(max_in_flight: u32, pack_slots: bool) -> QueueSettings {
    QueueSettings {
        interval: INTERVAL,
        batch_size: NonZeroU16::new(3).unwrap(),
        max_in_flight: NonZeroU32::new(max_in_flight).unwrap(),
        pack_slots,
        retry: RetryPolicy {
            max_attempts: NonZeroU32::new(3).unwrap(),
            min_backoff: Duration::from_millis(70),
            max_backoff: Duration::from_millis(500),
            max_doublings: 2,
        },
        ..QueueSettings::default()
    }
}

/// What the store would hold: folded from the committed changes in the plainest way.
#[derive(Default)]
struct Disk {
    last_slot: Option<Timestamp>,
    live: BTreeMap<Arrival, Ingestion>,
}

impl Disk {
    fn commit(&mut self, change: &Change) {
        match change {
            Change::Submitted { ingestion, .. } => {
                self.live.insert(ingestion.arrival, ingestion.clone());
            }
            Change::SlotTaken { at, .. } => self.last_slot = Some(*at),
            Change::BatchMoved {
                ingestion,
                batch,
                run,
            } => {
                self.live
                    .get_mut(&ingestion.arrival)
                    .unwrap()
                    .set_run(*batch, run.clone());
            }
            Change::RestEnded {
                ingestion,
                status,
                at,
            } => {
                self.live
                    .get_mut(&ingestion.arrival)
                    .unwrap()
                    .give_up_rest(*status, *at);
            }
            Change::IngestionEnded { ingestion, .. } => {
                self.live.remove(&ingestion.arrival);
            }
            Change::QueueConfigured { .. } => {}
        }
    }

    /// As `Store::open` replays.
    fn replay(&self) -> Vec<Change> {
        let name = QueueName::try_from("default".to_owned()).unwrap();
        let mut changes = vec![Change::QueueConfigured {
            queue: QUEUE,
            name,
            last_slot: self.last_slot,
        }];
        for ingestion in self.live.values() {
            let submitted = Ingestion {
                runs: None,
                ..ingestion.clone()
            };
            changes.push(Change::Submitted {
                ingestion: submitted,
                idempotency: None,
            });
            let runs = ingestion.runs.as_deref();
            for (batch, run) in (0..)
                .map(BatchIndex)
                .zip(runs.iter().flat_map(|runs| &runs.started))
            {
                changes.push(Change::BatchMoved {
                    ingestion: ingestion.key(),
                    batch,
                    run: run.clone(),
                });
            }
            if let Some((status, at)) = runs.and_then(|runs| runs.rest) {
                changes.push(Change::RestEnded {
                    ingestion: ingestion.key(),
                    status,
                    at,
                });
            }
        }
        changes
    }
}

/// A batch in the naive model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Naive {
    Waiting,
    Running,
    /// Was running when the process died.
    Interrupted,
    RetryAt(Timestamp),
    Ended(BatchStatus),
}

#[derive(Debug)]
struct NaiveIngestion {
    id: IngestionId,
    priority: Priority,
    deadline: Option<Timestamp>,
    ids: i64,
    batches: Vec<Naive>,
    attempts: Vec<u32>,
    /// Which ids of a batch the next attempt is about.
    due: Vec<Vec<u16>>,
}

struct World {
    settings: QueueSettings,
    now: Now,
    registry: RwLock<Registry>,
    scheduler: Scheduler,
    disk: Disk,
    running: Vec<Start>,
    /// In order of arrival: arrival 1 is the first.
    naive: Vec<NaiveIngestion>,
    last_start: Option<Timestamp>,
    /// Ids that started in the slot of `last_start`.
    in_slot: usize,
    started: Vec<(Timestamp, u64, u32)>,
}

impl World {
    fn new(settings: QueueSettings) -> Self {
        let now = Now {
            wall: Timestamp::EPOCH.plus(Duration::from_secs(1000)),
            mono: Duration::ZERO,
        };
        let disk = Disk::default();
        let (registry, scheduler) = Self::boot(&settings, &disk, now);
        Self {
            settings,
            now,
            registry,
            scheduler,
            disk,
            running: Vec::new(),
            naive: Vec::new(),
            last_start: None,
            in_slot: 0,
            started: Vec::new(),
        }
    }

    fn boot(settings: &QueueSettings, disk: &Disk, now: Now) -> (RwLock<Registry>, Scheduler) {
        let mut registry = Registry::default();
        for change in disk.replay() {
            registry.apply(change).unwrap();
        }
        registry.go_live();
        (
            RwLock::new(registry),
            Scheduler::new(QUEUE, settings.clone(), disk.last_slot, now),
        )
    }

    fn commit(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.disk.commit(&change);
            self.registry.write().apply(change).unwrap();
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Submit {
                priority,
                ids,
                deadline_ms,
            } => self.submit(priority, ids, deadline_ms),
            Step::Advance { ms } => self.advance(Duration::from_millis(ms)),
            Step::Finish { which, failed } => self.finish(which, failed),
            Step::Crash { down_ms } => self.crash(Duration::from_millis(down_ms)),
            Step::CrashBeforeCommit => {
                // The tick may consume the slot in memory; nothing of that survives.
                let _ = self.scheduler.tick(&self.registry, &[], self.now);
                self.crash(Duration::ZERO);
            }
        }
        self.settle();
        self.check();
    }

    fn submit(&mut self, priority: Priority, ids: i64, deadline_ms: Option<u64>) {
        let arrival = Arrival(self.naive.len() as u64 + 1);
        let id = IngestionId::new(Uuid::from_u128(u128::from(arrival.0) << 64 | 7));
        let deadline = deadline_ms.map(|ms| self.now.wall.plus(Duration::from_millis(ms)));
        let ingestion = Ingestion {
            id,
            arrival,
            created_at: self.now.wall,
            ids: (0..ids).collect(),
            extras: deadline.map(|_| {
                Box::new(Extras {
                    deadline,
                    ..Extras::default()
                })
            }),
            runs: None,
            queue: QUEUE,
            batch_size: self.settings.batch_size,
            priority,
        };
        let count = ingestion.batch_count() as usize;
        let due = (0..count).map(|batch| {
            (0..ingestion
                .ids_of(BatchIndex(u32::try_from(batch).unwrap()))
                .len() as u16)
                .collect()
        });
        self.naive.push(NaiveIngestion {
            id,
            priority,
            deadline,
            ids,
            batches: vec![Naive::Waiting; count],
            attempts: vec![0; count],
            due: due.collect(),
        });
        self.commit(vec![Change::Submitted {
            ingestion,
            idempotency: None,
        }]);
    }

    fn advance(&mut self, by: Duration) {
        self.now = Now {
            wall: self.now.wall.plus(by),
            mono: self.now.mono + by,
        };
    }

    fn finish(&mut self, which: usize, failed: u8) {
        if self.running.is_empty() {
            return;
        }
        let start = self.running.remove(which % self.running.len());
        let result = |position: u16| {
            if failed & (1 << position) == 0 {
                Ok(Response {
                    status: 200,
                    body: Vec::new(),
                })
            } else {
                Err(Failure {
                    reason: "no".to_owned(),
                    retry_after: None,
                })
            }
        };
        let results: Vec<IdResult> = start
            .work
            .due
            .iter()
            .map(|(position, id)| IdResult {
                position: *position,
                id: *id,
                result: result(*position),
            })
            .collect();
        let naive = &mut self.naive[start.ingestion.arrival.0 as usize - 1];
        let batch = start.work.batch.index();
        let failing: Vec<u16> = results
            .iter()
            .filter(|r| r.result.is_err())
            .map(|r| r.position)
            .collect();
        let jitter = 0.5;
        naive.batches[batch] = if failing.is_empty() {
            Naive::Ended(BatchStatus::Completed)
        } else {
            naive.due[batch].clone_from(&failing);
            match super::retry::backoff(&self.settings.retry, naive.attempts[batch], None, jitter) {
                Some(wait) => Naive::RetryAt(self.now.wall.plus(wait)),
                None => Naive::Ended(BatchStatus::Failed),
            }
        };
        let finished = Finished {
            ingestion: start.ingestion,
            batch: start.work.batch,
            results,
            at: self.now.wall,
            jitter,
        };
        match self.scheduler.tick(&self.registry, &[finished], self.now) {
            Outcome::Commit(changes) => self.commit(changes),
            other => panic!("an ended attempt must be recorded, not {other:?}"),
        }
    }

    fn crash(&mut self, down: Duration) {
        let before: Vec<Ingestion> = self
            .naive
            .iter()
            .filter_map(|naive| self.registry.read().get(naive.id).cloned())
            .collect();
        self.running.clear();
        for batch in self.naive.iter_mut().flat_map(|naive| &mut naive.batches) {
            if *batch == Naive::Running {
                *batch = Naive::Interrupted;
            }
        }
        // Another process has another monotonic clock.
        self.now = Now {
            wall: self.now.wall.plus(down),
            mono: Duration::from_millis(3),
        };
        (self.registry, self.scheduler) = Self::boot(&self.settings, &self.disk, self.now);
        for ingestion in before
            .iter()
            .filter(|ingestion| ingestion.ended_at().is_none())
        {
            assert_eq!(
                self.registry.read().get(ingestion.id),
                Some(ingestion),
                "as before the crash"
            );
        }
    }

    /// Does all that can be done at this moment.
    fn settle(&mut self) {
        self.expire_naive();
        loop {
            match self.scheduler.tick(&self.registry, &[], self.now) {
                Outcome::Commit(changes) => self.commit(changes),
                Outcome::Start(start) => self.start(start),
                Outcome::Wait(until) => return self.check_wait(until),
            }
        }
    }

    fn expire_naive(&mut self) {
        for naive in &mut self.naive {
            if naive
                .deadline
                .is_some_and(|deadline| deadline <= self.now.wall)
            {
                for batch in naive
                    .batches
                    .iter_mut()
                    .filter(|batch| **batch == Naive::Waiting)
                {
                    *batch = Naive::Ended(BatchStatus::Expired);
                }
            }
        }
    }

    /// The batch that plain loops would start now: the index of its ingestion, and its own.
    fn naive_next(&self) -> Option<(usize, usize)> {
        for priority in Priority::ALL {
            for (index, naive) in self
                .naive
                .iter()
                .enumerate()
                .filter(|(_, naive)| naive.priority == priority)
            {
                if let Some(batch) = naive
                    .batches
                    .iter()
                    .position(|batch| self.can_start(*batch))
                {
                    return Some((index, batch));
                }
            }
        }
        None
    }

    fn can_start(&self, batch: Naive) -> bool {
        match batch {
            Naive::Waiting | Naive::Interrupted => true,
            Naive::RetryAt(due) => due <= self.now.wall,
            Naive::Running | Naive::Ended(_) => false,
        }
    }

    fn start(&mut self, start: Start) {
        let (index, batch) = self.naive_next().expect("plain loops would start nothing");
        assert_eq!(
            (start.ingestion.id, start.work.batch.index()),
            (self.naive[index].id, batch),
            "the order"
        );
        let naive = &mut self.naive[index];
        naive.attempts[batch] += 1;
        naive.batches[batch] = Naive::Running;
        assert_eq!(start.work.attempt, naive.attempts[batch]);
        let due: Vec<u16> = start
            .work
            .due
            .iter()
            .map(|(position, _)| *position)
            .collect();
        assert_eq!(
            due, naive.due[batch],
            "only the ids that failed are tried again"
        );
        let slot = start.slot.wall;
        let packed = self.settings.pack_slots && self.last_start == Some(slot);
        if packed {
            self.in_slot += due.len();
            assert!(self.in_slot <= 3, "a slot takes at most the ids of a batch");
        } else {
            let running = self.running.len();
            assert!(
                running < self.settings.max_in_flight.get() as usize,
                "{running} batches run"
            );
            if let Some(last) = self.last_start {
                assert!(
                    slot.since(last) >= INTERVAL,
                    "two starts {:?} apart",
                    slot.since(last)
                );
            }
            self.in_slot = due.len();
        }
        assert!(slot <= self.now.wall, "a start in the future");
        self.last_start = Some(slot);
        self.started
            .push((slot, start.ingestion.arrival.0, start.work.batch.0));
        self.commit(start.changes.clone());
        self.running.push(start);
    }

    /// Nothing starts: there must be a reason, and the wait must end when it does.
    fn check_wait(&self, until: Option<Duration>) {
        if self.naive_next().is_some() {
            let blocked = self.running.len() >= self.settings.max_in_flight.get() as usize;
            let opens_at = self.scheduler.opens_at();
            assert!(
                blocked || opens_at > self.now.mono,
                "the slot is open and a batch is ready"
            );
            assert!(
                blocked || until.is_some_and(|until| until <= opens_at),
                "sleeps past the slot"
            );
        }
        let due = self
            .naive
            .iter()
            .flat_map(|naive| &naive.batches)
            .filter_map(|batch| match batch {
                Naive::RetryAt(due) if *due > self.now.wall => Some(*due),
                _ => None,
            });
        if let Some(due) = due.min() {
            let latest = self.now.mono + due.since(self.now.wall);
            assert!(
                until.is_some_and(|until| until <= latest),
                "sleeps past a retry"
            );
        }
    }

    /// Statuses, counts and positions of everything.
    fn check(&self) {
        let registry = self.registry.read();
        for (index, naive) in self.naive.iter().enumerate() {
            let Some(ingestion) = registry.get(naive.id) else {
                let ended = naive
                    .batches
                    .iter()
                    .all(|batch| matches!(batch, Naive::Ended(_)));
                assert!(ended, "arrival {} was lost", index + 1);
                continue;
            };
            assert_eq!(ingestion.ids.len() as i64, naive.ids);
            for (batch, expected) in (0..).map(BatchIndex).zip(&naive.batches) {
                let status = match expected {
                    Naive::Waiting => BatchStatus::YetToStart,
                    Naive::Running | Naive::Interrupted | Naive::RetryAt(_) => {
                        BatchStatus::Triggered
                    }
                    Naive::Ended(status) => *status,
                };
                assert_eq!(
                    ingestion.status_of(batch),
                    status,
                    "{batch:?} of arrival {}",
                    index + 1
                );
            }
            let all_ended = naive
                .batches
                .iter()
                .all(|batch| matches!(batch, Naive::Ended(_)));
            assert_eq!(ingestion.ended_at().is_some(), all_ended);
            assert_eq!(
                registry.position(naive.id),
                self.naive_position(index),
                "position of arrival {}",
                index + 1
            );
        }
    }

    fn naive_position(&self, index: usize) -> Option<u64> {
        let startable = |naive: &NaiveIngestion| {
            naive
                .batches
                .iter()
                .filter(|batch| self.can_start(**batch))
                .count() as u64
        };
        let own = &self.naive[index];
        if startable(own) == 0 {
            return None;
        }
        let ahead = self.naive.iter().enumerate().filter(|(other, naive)| {
            naive.priority > own.priority || (naive.priority == own.priority && *other < index)
        });
        Some(ahead.map(|(_, naive)| startable(naive)).sum())
    }

    /// Runs on without failures until all has ended.
    fn drain(&mut self) {
        for _ in 0..10_000 {
            if self
                .naive
                .iter()
                .flat_map(|naive| &naive.batches)
                .all(|batch| matches!(batch, Naive::Ended(_)))
            {
                return;
            }
            self.step(&Step::Finish {
                which: 0,
                failed: 0,
            });
            self.step(&Step::Advance { ms: 50 });
        }
        panic!("it never ends");
    }
}

fn cases() -> ProptestConfig {
    let cases = std::env::var("SIMULATION_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(1000);
    ProptestConfig {
        cases,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn agrees_with_plain_loops(steps in steps(), max_in_flight in 1_u32..4, pack in any::<bool>()) {
        let mut world = World::new(settings(max_in_flight, pack));
        for step in &steps {
            world.step(step);
        }
        world.drain();
    }
}

fn submit(world: &mut World, priority: Priority, ids: i64) {
    world.step(&Step::Submit {
        priority,
        ids,
        deadline_ms: None,
    });
}

/// The contract's timeline, in units of a twentieth of its five seconds.
fn timeline(pack_slots: bool) -> Vec<(u64, u64, u32)> {
    let mut world = World::new(settings(1, pack_slots));
    let begin = world.now.wall;
    submit(&mut world, Priority::Medium, 5);
    world.step(&Step::Finish {
        which: 0,
        failed: 0,
    });
    world.step(&Step::Advance { ms: 80 });
    submit(&mut world, Priority::High, 4);
    for _ in 0..50 {
        world.step(&Step::Finish {
            which: 0,
            failed: 0,
        });
        world.step(&Step::Advance { ms: 10 });
    }
    let tell = |(at, arrival, batch): &(Timestamp, u64, u32)| {
        (
            u64::try_from(at.since(begin).as_millis()).unwrap() / 20,
            *arrival,
            *batch,
        )
    };
    world.started.iter().map(tell).collect()
}

#[test]
fn the_timeline_of_the_contract() {
    assert_eq!(
        timeline(false),
        [(0, 1, 0), (5, 2, 0), (10, 2, 1), (15, 1, 1)]
    );
}

#[test]
fn the_timeline_of_the_contract_with_packed_slots() {
    assert_eq!(
        timeline(true),
        [(0, 1, 0), (5, 2, 0), (10, 2, 1), (10, 1, 1)]
    );
}

#[test]
fn the_estimated_end_is_when_it_ends() {
    let run = Duration::from_millis(30);
    let mut world = World::new(settings(1, false));
    for ids in [4, 7, 2, 9] {
        submit(&mut world, Priority::Medium, ids);
    }
    submit(&mut world, Priority::High, 5);
    let begin = world.now.wall;
    let estimates: Vec<(IngestionRef, Duration)> = world
        .naive
        .iter()
        .map(|naive| {
            let registry = world.registry.read();
            let ingestion = registry.get(naive.id).unwrap();
            let pace = QueuePace {
                settings: &world.settings,
                opens_at: world.scheduler.opens_at(),
                run,
            };
            (
                ingestion.key(),
                outlook::outlook(&registry, ingestion, pace, world.now)
                    .unwrap()
                    .eta,
            )
        })
        .collect();
    // Each run takes 30 ms of the 100 ms between two slots.
    for tenth in 1..200 {
        world.step(&Step::Advance { ms: 10 });
        if tenth % 10 == 3 {
            world.step(&Step::Finish {
                which: 0,
                failed: 0,
            });
        }
    }
    for (key, eta) in estimates {
        let registry = world.registry.read();
        let ended = registry
            .get(key.id)
            .unwrap()
            .ended_at()
            .expect("all have ended");
        let actual = ended.since(begin);
        assert!(
            eta.abs_diff(actual) <= Duration::from_millis(10),
            "arrival {}: {eta:?} for {actual:?}",
            key.arrival.0
        );
    }
}

#[test]
fn a_retry_does_not_block_the_queue_and_only_failed_ids_are_tried_again() {
    let mut world = World::new(settings(1, false));
    submit(&mut world, Priority::High, 3);
    submit(&mut world, Priority::Low, 3);
    // Ids 0 and 2 of the first fail; the model in `start` checks what is due.
    world.step(&Step::Finish {
        which: 0,
        failed: 0b101,
    });
    world.step(&Step::Advance { ms: 100 });
    let order: Vec<u64> = world
        .started
        .iter()
        .map(|(_, arrival, _)| *arrival)
        .collect();
    assert!(order.len() == 2, "the slot was used: {order:?}");
    world.drain();
    assert_eq!(world.started.len(), 3);
}
