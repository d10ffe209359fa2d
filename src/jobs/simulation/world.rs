//! The world of a simulation: the real registry and scheduler, and the naive model that everything is
//! compared with.

use std::time::Duration;

use parking_lot::RwLock;
use uuid::Uuid;

use crate::jobs::booking::{Booking, REACH, SPARE};
use crate::jobs::decide::Finished;

use crate::jobs::pace::{LAUNCH, Slot};
use crate::jobs::processor::{Failure, IdResult, Response};
use crate::jobs::registry::Registry;
use crate::jobs::scheduler::{Outcome, Scheduler, Start};
use crate::model::batch::BatchStatus;
use crate::model::change::Change;
use crate::model::id::{Arrival, BatchIndex, IngestionId, IngestionRef};
use crate::model::ingestion::{Extras, Ingestion};
use crate::model::priority::Priority;
use crate::model::queue::QueueSettings;
use crate::model::time::{Now, Timestamp};

use super::disk::Disk;
use super::naive::{self, Naive, NaiveIngestion};
use super::{Bookings, INTERVAL, QUEUE, Step};

pub(super) struct World {
    pub(super) settings: QueueSettings,
    pub(super) now: Now,
    pub(super) registry: RwLock<Registry>,
    pub(super) scheduler: Scheduler,
    pub(super) disk: Disk,
    pub(super) running: Vec<Start>,
    /// Batches that are given up and whose results are being kept.
    pub(super) given_up: Vec<(IngestionRef, BatchIndex)>,
    /// In order of arrival: arrival 1 is the first.
    pub(super) naive: Vec<NaiveIngestion>,
    last_start: Option<Timestamp>,
    /// Ids that started in the slot of `last_start`.
    in_slot: usize,
    pub(super) started: Vec<(Timestamp, u64, u32)>,
    /// How much later than it is decided work begins.
    slow: Duration,
    /// The slot whose work has not begun yet, and when (monotonic) it does.
    pub(super) launching: Option<(Slot, Duration)>,
    bookings: Bookings,
    /// A booking that is on its way to the disk.
    booking: Option<Slot>,
    /// When the queue was last looked at.
    pub(super) looked_at: Timestamp,
    /// When the queue wakes by itself.
    wakes_at: Option<Duration>,
    /// Starts in booked slots.
    pub(super) booked: usize,
    /// Whether the disk takes starts in booked slots.
    takes_starts: bool,
    /// A start in a booked slot that is not on disk: the queue decides nothing until it is.
    moving: Option<Start>,
    /// When work last began, in whatever life of the process.
    pub(super) last_began: Option<Timestamp>,
    /// Until then there is a reason to start nothing.
    pub(super) paced_until: Timestamp,
}

impl World {
    pub(super) fn new(settings: QueueSettings) -> Self {
        let now = Now {
            wall: Timestamp::EPOCH.plus(Duration::from_secs(1000)),
            mono: Duration::ZERO,
        };
        let disk = Disk::default();
        let (registry, scheduler, given_up) = Self::boot(&settings, &disk, now);
        Self {
            settings,
            now,
            registry,
            scheduler,
            disk,
            running: Vec::new(),
            given_up,
            naive: Vec::new(),
            last_start: None,
            in_slot: 0,
            started: Vec::new(),
            slow: Duration::ZERO,
            launching: None,
            bookings: Bookings::AtOnce,
            booking: None,
            looked_at: now.wall,
            wakes_at: None,
            booked: 0,
            takes_starts: true,
            moving: None,
            last_began: None,
            paced_until: now.wall,
        }
    }

    fn boot(
        settings: &QueueSettings,
        disk: &Disk,
        now: Now,
    ) -> (RwLock<Registry>, Scheduler, Vec<(IngestionRef, BatchIndex)>) {
        let mut registry = Registry::default();
        for change in disk.replay() {
            registry.apply(change).unwrap();
        }
        registry.go_live();
        let given_up = registry.take_over(QUEUE);
        (
            RwLock::new(registry),
            Scheduler::new(
                QUEUE,
                settings.clone(),
                disk.last_slot,
                Booking::default(),
                now,
            ),
            given_up,
        )
    }

    fn commit(&mut self, changes: Vec<Change>) {
        self.booking_arrives();
        for change in changes {
            self.disk.commit(&change);
            self.registry.write().apply(change).unwrap();
        }
    }

    pub(super) fn step(&mut self, step: &Step) {
        match *step {
            Step::Submit {
                priority,
                ids,
                deadline_ms,
            } => self.submit(priority, ids, deadline_ms),
            Step::Slow { micros } => self.slow = Duration::from_micros(micros),
            Step::Advance { ms } => self.advance(Duration::from_millis(ms)),
            Step::Wake => {
                let began = self.launching.map(|(_, begins_at)| begins_at);
                let wake = [began, self.wakes_at].into_iter().flatten().min();
                self.advance(wake.unwrap_or_default().saturating_sub(self.now.mono));
            }
            Step::Finish { which, failed } => self.finish(which, failed),
            Step::Keep { which } => self.keep(which),
            Step::Bookings(bookings) => self.bookings = bookings,
            Step::Starts { taken } => {
                self.takes_starts = taken;
                if taken {
                    self.record_start();
                }
            }
            Step::Crash { down_ms } => self.crash(Duration::from_millis(down_ms)),
            Step::CrashBeforeCommit { ms } => {
                self.advance(Duration::from_millis(ms));
                // The tick may consume the slot in memory; nothing of that survives.
                if self.moving.is_none() {
                    let _ = self.scheduler.tick(&self.registry, &[], self.now);
                }
                self.crash(Duration::ZERO);
            }
            Step::CommitFails { ms } => {
                self.advance(Duration::from_millis(ms));
                self.refuse();
            }
        }
        self.settle();
        self.check();
    }

    /// What is decided now is not taken by the disk.
    fn refuse(&mut self) {
        if self.moving.is_some() {
            return;
        }
        self.looked_at = self.now.wall;
        match self.scheduler.tick(&self.registry, &[], self.now) {
            Outcome::Start(start) if start.books.is_some() => self.scheduler.not_started(&start),
            // The disk takes it on a later attempt: the work has not waited.
            Outcome::Start(start) => {
                let takes = std::mem::replace(&mut self.takes_starts, false);
                self.start(start);
                self.takes_starts = takes;
            }
            Outcome::Book(end) => self.scheduler.booked(end, false),
            Outcome::Commit(_) | Outcome::Wait(_) => {}
        }
    }

    fn book(&mut self, end: Slot) {
        match self.bookings {
            Bookings::AtOnce => {
                self.disk.commit(&self.scheduler.slot_taken(end));
                self.scheduler.booked(end, true);
            }
            Bookings::Late => {
                self.booking_arrives();
                self.booking = Some(end);
            }
            Bookings::Refused => self.scheduler.booked(end, false),
        }
    }

    /// What was sent to the disk first is there first.
    fn booking_arrives(&mut self) {
        if let Some(end) = self.booking.take() {
            self.disk.commit(&self.scheduler.slot_taken(end));
            self.scheduler.booked(end, true);
        }
    }

    /// The start in a booked slot is on disk now, if there is one.
    fn record_start(&mut self) {
        if let Some(start) = self.moving.take() {
            self.commit(start.changes.clone());
            self.moved(start);
        }
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
        self.naive.push(NaiveIngestion::new(&ingestion));
        self.commit(vec![Change::Submitted {
            ingestion,
            idempotency: None,
        }]);
    }

    fn advance(&mut self, by: Duration) {
        let target = self.now.mono + by;
        if let Some((slot, begins_at)) = self.launching.filter(|(_, at)| *at <= target) {
            self.set_time(begins_at);
            self.begin(slot);
        }
        self.set_time(target);
    }

    fn set_time(&mut self, mono: Duration) {
        self.now = Now {
            wall: self.now.wall.plus(mono.saturating_sub(self.now.mono)),
            mono,
        };
    }

    /// The work of a slot begins now.
    fn begin(&mut self, slot: Slot) {
        self.launching = None;
        if let Some(last) = self.last_began.replace(self.now.wall) {
            let apart = self.now.wall.since(last);
            assert!(apart >= INTERVAL, "work began {apart:?} apart");
        }
        assert!(
            self.disk.last_slot >= Some(self.now.wall) || self.now.wall.since(slot.wall) > SPARE,
            "work began outside of what is booked"
        );
        self.paced_until = slot.wall.max(self.now.wall.minus(LAUNCH)).plus(INTERVAL);
        self.scheduler.began(slot, self.now.mono);
    }

    fn finish(&mut self, which: usize, failed: u8) {
        // What has not begun can't end.
        if self.running.is_empty() || self.launching.is_some() || self.moving.is_some() {
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
        let failing: Vec<u16> = results
            .iter()
            .filter(|r| r.result.is_err())
            .map(|r| r.position)
            .collect();
        let jitter = 0.5;
        let backoff = |attempt| {
            let wait = crate::jobs::retry::backoff(&self.settings.retry, attempt, None, jitter)?;
            Some(self.now.wall.plus(wait))
        };
        self.naive[start.ingestion.arrival.0 as usize - 1].ended(
            start.work.batch.index(),
            failing,
            backoff,
        );
        let finished = Finished {
            ingestion: start.ingestion,
            batch: start.work.batch,
            results,
            at: self.now.wall,
            jitter,
        };
        self.record(finished);
        let naive = &self.naive[start.ingestion.arrival.0 as usize - 1];
        if naive.batches[start.work.batch.index()] == Naive::GivenUp {
            self.given_up.push((start.ingestion, start.work.batch));
        }
    }

    fn record(&mut self, finished: Finished) {
        match self.scheduler.tick(&self.registry, &[finished], self.now) {
            Outcome::Commit(changes) => self.commit(changes),
            other => panic!("an ended attempt must be recorded, not {other:?}"),
        }
    }

    fn keep(&mut self, which: usize) {
        if self.given_up.is_empty() || self.moving.is_some() {
            return;
        }
        let (ingestion, batch) = self.given_up.remove(which % self.given_up.len());
        let naive = &mut self.naive[ingestion.arrival.0 as usize - 1];
        naive.batches[batch.index()] = Naive::Ended(BatchStatus::Failed);
        self.record(Finished {
            ingestion,
            batch,
            results: Vec::new(),
            at: self.now.wall,
            jitter: 0.0,
        });
    }

    fn crash(&mut self, down: Duration) {
        let before: Vec<Ingestion> = self
            .naive
            .iter()
            .filter_map(|naive| self.registry.read().get(naive.id).cloned())
            .collect();
        self.running.clear();
        self.launching = None;
        // The booking may be on disk or not. The start is not, and so its batch is as it was.
        if self.now.mono.as_millis().is_multiple_of(2) {
            self.booking_arrives();
        }
        (self.booking, self.moving) = (None, None);
        // Of work that began later than was booked, the next run knows once that is on disk.
        self.last_began = self.last_began.min(self.disk.last_slot);
        naive::interrupt(&mut self.naive);
        // Another process has another monotonic clock.
        self.now = Now {
            wall: self.now.wall.plus(down),
            mono: Duration::from_millis(3),
        };
        let by_place = |(key, batch): &(IngestionRef, BatchIndex)| (key.arrival, *batch);
        self.given_up.sort_unstable_by_key(by_place);
        let before_crash = std::mem::take(&mut self.given_up);
        (self.registry, self.scheduler, self.given_up) =
            Self::boot(&self.settings, &self.disk, self.now);
        self.given_up.sort_unstable_by_key(by_place);
        assert_eq!(self.given_up, before_crash, "nothing else is kept again");
        self.paced_until = self.disk.last_slot.map_or(self.now.wall, |until| {
            assert!(until.since(self.now.wall) <= REACH);
            until.min(self.now.wall).plus(INTERVAL)
        });
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
        self.wakes_at = None;
        if self.moving.is_some() {
            return self.settle_launching();
        }
        self.looked_at = self.now.wall;
        naive::expire(&mut self.naive, self.now.wall);
        loop {
            match self.scheduler.tick(&self.registry, &[], self.now) {
                Outcome::Commit(changes) => self.commit(changes),
                Outcome::Book(end) => self.book(end),
                Outcome::Start(start) => {
                    self.start(start);
                    if self.moving.is_some() {
                        return self.settle_launching();
                    }
                }
                Outcome::Wait(until) => {
                    if let Some((slot, begins_at)) = self.launching {
                        // Meanwhile the queue's task does nothing else.
                        self.paced_until = slot.wall.plus(INTERVAL);
                        if begins_at <= self.now.mono {
                            self.begin(slot);
                            continue;
                        }
                    }
                    self.wakes_at = until;
                    return self.check_wait(until);
                }
            }
        }
    }

    /// Nothing is decided, and yet work begins when it shall.
    fn settle_launching(&mut self) {
        if let Some((slot, begins_at)) = self.launching
            && begins_at <= self.now.mono
        {
            self.begin(slot);
        }
    }

    fn start(&mut self, start: Start) {
        let (index, batch) =
            naive::next(&self.naive, self.now.wall).expect("plain loops would start nothing");
        assert_eq!(
            (start.ingestion.id, start.work.batch.index()),
            (self.naive[index].id, batch),
            "the order"
        );
        let naive = &self.naive[index];
        assert_eq!(start.work.attempt, naive.attempts[batch] + 1);
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
            let running = self.running.len() + self.given_up.len();
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
        assert!(
            self.now.wall.since(slot) <= LAUNCH,
            "a start in a slot that is over"
        );
        assert!(start.created_at <= slot, "a start before its submission");
        self.last_start = Some(slot);
        self.started
            .push((slot, start.ingestion.arrival.0, start.work.batch.0));
        let begins_at = self.scheduler.begins_at().max(self.now.mono + self.slow);
        self.launching = Some((start.slot, begins_at));
        if start.books.is_some() {
            self.commit(start.changes.clone());
            self.scheduler.started(&start);
            self.moved(start);
        } else {
            let booked = self.disk.last_slot;
            assert!(
                booked >= Some(slot),
                "no start in a slot that is not booked"
            );
            self.booked += 1;
            self.moving = Some(start);
            if self.takes_starts {
                self.record_start();
            }
        }
    }

    /// The start is on disk, and visible.
    fn moved(&mut self, start: Start) {
        self.naive[start.ingestion.arrival.0 as usize - 1].started(start.work.batch.index());
        self.running.push(start);
    }

    /// Runs on without failures until all has ended.
    pub(super) fn drain(&mut self) {
        self.step(&Step::Starts { taken: true });
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
            self.step(&Step::Keep { which: 0 });
            self.step(&Step::Advance { ms: 50 });
        }
        panic!("it never ends");
    }
}
