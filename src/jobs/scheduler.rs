//! One queue's scheduler: waits for the slot, then takes the most urgent batch.
//!
//! [`Scheduler::tick`] says what to do next and is handed the time, so that tests drive it by hand;
//! the loop around it (in [`super::runner`]) only waits, commits and starts work.

use std::time::Duration;

use parking_lot::RwLock;

use super::booking::Booking;
use super::decide::{self, Finished};
use super::pace::{Pace, Slot};
use super::processor::Work;
use super::registry::{Queue, Registry};
use crate::model::change::Change;
use crate::model::queue::{QueueId, QueueSettings};
use crate::model::time::{Now, Timestamp};

/// The state of one queue's scheduler that is not in the registry.
#[derive(Debug)]
pub(crate) struct Scheduler {
    queue: QueueId,
    settings: QueueSettings,
    pace: Pace,
    booking: Booking,
    /// The slot that the queue waits for with a batch ready.
    waits_for: Option<Duration>,
    /// The slot in use while more batches may be packed into it, and the ids it still takes.
    open: Option<(Slot, usize)>,
}

/// What a tick decided.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Commit these, then tick again.
    Commit(Vec<Change>),
    /// Commit [`Scheduler::slot_taken`] without waiting for it, and tell of its answer.
    Book(Slot),
    /// A batch starts, and its work begins at [`Scheduler::begins_at`]. If its slot is booked: while the
    /// changes are being committed; tick again once both is done. If not: commit first, then tick
    /// again, because other batches may share the slot. The work begins once there is nothing else
    /// to do but wait.
    Start(Start),
    /// Nothing to do until then (monotonic; `None`: until something happens).
    Wait(Option<Duration>),
}

/// A batch that starts.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) changes: Vec<Change>,
    /// The end of what the changes book. `None`: the slot is booked already.
    pub(crate) books: Option<Slot>,
    pub(crate) ingestion: crate::model::id::IngestionRef,
    pub(crate) work: Work,
    pub(crate) slot: Slot,
    /// Whether another batch started in the slot before.
    pub(crate) packed: bool,
    /// When the ingestion was accepted.
    pub(crate) created_at: Timestamp,
}

impl Scheduler {
    pub(crate) fn new(
        queue: QueueId,
        settings: QueueSettings,
        booked_until: Option<Timestamp>,
        booking: Booking,
        now: Now,
    ) -> Self {
        let pace = Pace::resume(settings.interval, booked_until, booking.ahead(), now);
        Self {
            queue,
            settings,
            pace,
            booking,
            waits_for: None,
            open: None,
        }
    }

    /// When the next slot opens, in monotonic time.
    pub(crate) const fn opens_at(&self) -> Duration {
        self.pace.opens_at()
    }

    /// When the work of the starts that were decided last may begin, in monotonic time.
    pub(crate) const fn begins_at(&self) -> Duration {
        self.pace.begins_at()
    }

    /// The work of a start began at `at`, in monotonic time.
    pub(crate) fn began(&mut self, slot: Slot, at: Duration) {
        let waits = self.waits_for == Some(self.pace.opens_at());
        self.pace.began(slot, at);
        self.waits_for = waits.then_some(self.pace.opens_at());
        self.booking.began(at);
    }

    /// After this, in monotonic time, no work begins before [`Self::book_again`] is committed.
    pub(crate) fn not_after(&self) -> Option<Duration> {
        self.booking.not_after()
    }

    /// The end of a booking for work that was held up. Commit [`Self::slot_taken`] of it, and tell.
    pub(crate) fn book_again(&mut self, now: Now) -> Slot {
        self.booking.ask(now)
    }

    /// What a booking commits.
    pub(crate) fn slot_taken(&self, end: Slot) -> Change {
        Change::SlotTaken {
            queue: self.queue,
            at: end.wall,
        }
    }

    /// The disk has answered a booking until `end`.
    pub(crate) fn booked(&mut self, end: Slot, committed: bool) {
        if committed {
            self.booking.committed(end);
        } else {
            self.booking.refused(end, self.pace.opens_at());
        }
    }

    /// The start was committed.
    pub(crate) fn started(&mut self, start: &Start) {
        if let Some(end) = start.books {
            self.booking.committed(end);
        }
    }

    /// The start was not committed: nothing started, and its slot is as it was before the tick.
    pub(crate) fn not_started(&mut self, start: &Start) {
        self.open = None;
        if !start.packed {
            self.pace.give_back(start.slot);
        }
    }

    /// What to do at `now`. Attempts in `finished` are recorded first, then deadlines are kept, then
    /// a batch is started if there is one, nothing blocks it, and the slot is open; if only the slot
    /// is not, it is booked in time.
    pub(crate) fn tick(
        &mut self,
        registry: &RwLock<Registry>,
        finished: &[Finished],
        now: Now,
    ) -> Outcome {
        if registry
            .read()
            .queue(self.queue)
            .and_then(Queue::next_retry)
            .is_some_and(|due| due <= now.wall)
        {
            registry.write().release_due(self.queue, now.wall);
        }
        let registry = registry.read();
        let Some(queue) = registry.queue(self.queue) else {
            return Outcome::Wait(None);
        };
        let mut changes = decide::finish(&registry, &self.settings.retry, finished);
        if changes.is_empty() {
            changes = decide::expire(&registry, self.queue, now.wall);
        }
        if !changes.is_empty() {
            return Outcome::Commit(changes);
        }
        if self.booking.is_passed() {
            return Outcome::Book(self.booking.ask(now));
        }
        let timers = [queue.next_retry(), queue.next_deadline()]
            .into_iter()
            .flatten()
            .min();
        let timer = timers.map(|due| now.mono.saturating_add(due.since(now.wall)));
        let Some((next, ingestion)) = queue
            .next()
            .and_then(|next| Some((next, registry.at(next)?)))
        else {
            // What comes later is not of this slot, though it may have room.
            (self.waits_for, self.open) = (None, None);
            return Outcome::Wait(timer);
        };
        let due = decide::due_ids(ingestion, next.batch);
        let packed = self
            .open
            .filter(|(slot, room)| due.len() <= *room && ingestion.created_at <= slot.wall);
        let slot = match packed {
            Some((slot, _)) => Some(slot),
            None => self.fresh_slot(queue, ingestion.created_at, now),
        };
        let Some(slot) = slot else {
            return self.before_slot(queue, timer, now);
        };
        self.use_room(slot, due.len());
        let books = (self.settings.pack_slots || !self.booking.covers(slot.mono))
            .then(|| self.booking.reach(now));
        let mut changes: Vec<Change> = books.map(|end| self.slot_taken(end)).into_iter().collect();
        changes.push(decide::start(ingestion, next, slot));
        Outcome::Start(Start {
            changes,
            books,
            ingestion: ingestion.key(),
            work: Work {
                ingestion: ingestion.id,
                batch: next.batch,
                attempt: ingestion
                    .run(next.batch)
                    .map_or(1, |run| run.attempt.saturating_add(1)),
                due,
            },
            slot,
            packed: packed.is_some(),
            created_at: ingestion.created_at,
        })
    }

    /// A batch is ready, and no slot is open for it.
    fn before_slot(&mut self, queue: &Queue, timer: Option<Duration>, now: Now) -> Outcome {
        if self.is_full(queue, 0) {
            return Outcome::Wait(timer);
        }
        let opens_at = self.pace.opens_at();
        // Packed batches are committed one after the other before their work begins.
        let book_at = self.booking.due(opens_at);
        let book_at = book_at.filter(|_| !self.settings.pack_slots && !self.pace.is_launching());
        if book_at.is_some_and(|at| at <= now.mono) {
            return Outcome::Book(self.booking.ask(now));
        }
        let next = [timer, book_at, Some(opens_at)];
        Outcome::Wait(next.into_iter().flatten().min())
    }

    /// Whether no further batch may run beside those that do and `more`.
    fn is_full(&self, queue: &Queue, more: usize) -> bool {
        queue.running.len() + more >= self.settings.max_in_flight.get() as usize
    }

    /// Takes the next slot if it is open and not too many batches run.
    fn fresh_slot(&mut self, queue: &Queue, created_at: Timestamp, now: Now) -> Option<Slot> {
        self.open = None;
        if self.is_full(queue, 0) {
            self.waits_for = None;
            return None;
        }
        let waited = self.waits_for == Some(self.pace.opens_at());
        let slot = self
            .pace
            .open_slot(now, waited, created_at)
            .filter(|slot| self.pace.take(*slot).is_ok());
        // Once this batch has started, those behind it wait for the next slot: also while nobody
        // looks, because the disk is slow.
        let waits = match slot {
            Some(_) => queue.waiting().iter().sum::<u64>() > 1 && !self.is_full(queue, 1),
            None => true,
        };
        self.waits_for = waits.then_some(self.pace.opens_at());
        slot
    }

    /// Where slots are packed: what the slot still takes after `ids` more.
    fn use_room(&mut self, slot: Slot, ids: usize) {
        if self.settings.pack_slots {
            let room = match self.open {
                Some((open, room)) if open == slot => room,
                _ => usize::from(self.settings.batch_size.get()),
            };
            self.open = Some((slot, room.saturating_sub(ids)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// How long after a takeover the next slot opens.
    fn waits(booking: Booking, booked_for: Duration) -> Duration {
        let now = Now {
            wall: Timestamp::EPOCH.plus(1_000_000 * MS),
            mono: 7 * MS,
        };
        let settings = QueueSettings::default();
        let until = now.wall.plus(booked_for);
        let scheduler = Scheduler::new(QueueId(0), settings, Some(until), booking, now);
        scheduler.opens_at().saturating_sub(now.mono)
    }

    #[test]
    fn only_another_node_may_still_begin_what_it_has_booked() {
        let interval = QueueSettings::default().interval;
        assert_eq!(waits(Booking::shared(), 900 * MS), 900 * MS + interval);
        assert_eq!(waits(Booking::default(), 90 * MS), interval);
        // A clock that was set back, or a booking that nobody can have made.
        assert_eq!(waits(Booking::shared(), 9000 * MS), 1000 * MS + interval);
    }
}
