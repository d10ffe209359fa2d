//! Every ingestion that is in memory, and what follows from them: who goes next, who runs, who
//! waits to be tried again, whose deadline is near.
//!
//! Invariant: [`Registry::apply`] is the only code that changes what was committed. What is derived
//! from it also follows the time ([`Registry::release_due`]) and memory ([`Registry::evict`]).

mod slab;

use std::collections::{BTreeSet, HashSet, VecDeque};

use slab::{Entry, Slab};

use super::heap::{Heap, Ready};
use super::position::Backlog;
use crate::model::batch::BatchRun;
use crate::model::change::Change;
use crate::model::id::{Arrival, BatchIndex, IngestionId, IngestionRef};
use crate::model::ingestion::Ingestion;
use crate::model::priority::Priority;
use crate::model::queue::{QueueId, QueueName};
use crate::model::time::Timestamp;

/// How many of the newest ingestions can be listed.
pub(crate) const RECENT: usize = 1000;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    slab: Slab,
    /// By [`QueueId`]; a hole where a number was never used.
    queues: Vec<Option<Queue>>,
    /// The arrival of the last ingestion that was submitted.
    arrived: Arrival,
    /// The newest ingestions, the newest last: what a dashboard shows, without a walk over all.
    recent: VecDeque<IngestionId>,
    /// Whether the derived parts are kept. False while the store replays: they are then made once,
    /// at the end, by [`Registry::go_live`].
    live: bool,
}

/// What the registry knows of one queue.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) name: QueueName,
    /// Until when its slots are booked.
    pub(crate) last_slot: Option<Timestamp>,
    /// Ingestions that have not ended.
    pub(crate) ingestions: u64,
    /// The batches that run now.
    pub(crate) running: HashSet<(IngestionId, BatchIndex)>,
    heap: Heap,
    /// Entries of `heap` whose batches will never start.
    stale: usize,
    /// By [`Priority::rank`].
    backlog: [Backlog; 3],
    /// Batches between two attempts, the first to be due in front.
    backoff: BTreeSet<(Timestamp, Arrival, BatchIndex, u32)>,
    /// Ingestions with waiting batches and a deadline, the nearest in front.
    deadlines: BTreeSet<(Timestamp, Arrival, u32)>,
    /// Ended ingestions that are still in memory and were told of, in the order of their ends.
    ended: VecDeque<(Timestamp, IngestionId)>,
}

impl Queue {
    fn new(name: QueueName, last_slot: Option<Timestamp>) -> Self {
        Self {
            name,
            last_slot,
            ingestions: 0,
            running: HashSet::new(),
            heap: Heap::default(),
            stale: 0,
            backlog: Default::default(),
            backoff: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            ended: VecDeque::new(),
        }
    }

    /// The batch that goes next.
    pub(crate) fn next(&self) -> Option<Ready> {
        self.heap.peek()
    }

    /// Batches that could start, by [`Priority::rank`].
    pub(crate) fn waiting(&self) -> [u64; 3] {
        self.backlog.each_ref().map(Backlog::total)
    }

    /// Batches between two attempts.
    pub(crate) fn retrying(&self) -> usize {
        self.backoff.len()
    }

    /// When the first batch between two attempts is due.
    pub(crate) fn next_retry(&self) -> Option<Timestamp> {
        self.backoff.first().map(|(due, ..)| *due)
    }

    /// The nearest deadline of an ingestion with waiting batches.
    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(deadline, ..)| *deadline)
    }

    /// A batch of this entry can start from now on.
    fn ready(&mut self, entry: &Entry, slot: u32, batch: BatchIndex) {
        self.heap.push(entry.ready(slot, batch));
    }

    fn backlog_of(&mut self, priority: Priority) -> &mut Backlog {
        let [low, medium, high] = &mut self.backlog;
        match priority {
            Priority::Low => low,
            Priority::Medium => medium,
            Priority::High => high,
        }
    }
}

/// A change that does not fit what is there: a fault in this program or a damaged store.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Misfit(String);

impl Registry {
    /// The ingestion, if it is in memory.
    pub(crate) fn get(&self, id: IngestionId) -> Option<&Ingestion> {
        self.slab
            .find(id)
            .and_then(|slot| self.slab.get(slot))
            .map(|entry| &entry.ingestion)
    }

    /// The arrival of the last ingestion that was submitted, of those that it was told of.
    pub(crate) const fn arrived(&self) -> Arrival {
        self.arrived
    }

    /// The ingestion that a heap entry stands for.
    pub(crate) fn at(&self, ready: Ready) -> Option<&Ingestion> {
        let entry = self.slab.get(ready.slot)?;
        (entry.ingestion.arrival == ready.arrival).then_some(&entry.ingestion)
    }

    /// What is known of a queue.
    pub(crate) fn queue(&self, queue: QueueId) -> Option<&Queue> {
        self.queues.get(queue.index())?.as_ref()
    }

    /// All queues with their numbers.
    pub(crate) fn queues(&self) -> impl Iterator<Item = (QueueId, &Queue)> {
        self.queues.iter().enumerate().filter_map(|(index, queue)| {
            Some((QueueId(u16::try_from(index).ok()?), queue.as_ref()?))
        })
    }

    /// The newest ingestions that are in memory, the newest first; at most [`RECENT`].
    pub(crate) fn recent(&self, limit: usize) -> impl Iterator<Item = &Ingestion> {
        let newest = self.recent.iter().rev().take(limit);
        newest.filter_map(|id| self.get(*id))
    }

    /// How many batches of the queue go before the next batch of this ingestion; `None` when none
    /// of its batches can start.
    pub(crate) fn position(&self, id: IngestionId) -> Option<u64> {
        let entry = self.slab.get(self.slab.find(id)?)?;
        let queue = self.queue(entry.ingestion.queue)?;
        let own = entry.ingestion.priority;
        let backlog = queue.backlog.get(usize::from(own.rank()))?;
        if backlog.count(entry.ordinal) == 0 {
            return None;
        }
        let urgent: u64 = Priority::ALL
            .into_iter()
            .filter(|priority| *priority > own)
            .filter_map(|priority| queue.backlog.get(usize::from(priority.rank())))
            .map(Backlog::total)
            .sum();
        Some(urgent + backlog.before(entry.ordinal))
    }

    /// Ingestions of `queue` with waiting batches whose deadline is not after `now`; at most `limit`.
    pub(crate) fn overdue(&self, queue: QueueId, now: Timestamp, limit: usize) -> Vec<&Ingestion> {
        let Some(queue) = self.queue(queue) else {
            return Vec::new();
        };
        let due = queue
            .deadlines
            .iter()
            .take_while(|(deadline, ..)| *deadline <= now)
            .take(limit);
        due.filter_map(|(_, _, slot)| self.slab.get(*slot))
            .map(|entry| &entry.ingestion)
            .collect()
    }

    /// Moves batches whose backoff has passed among those that can start. Whether any moved.
    pub(crate) fn release_due(&mut self, queue: QueueId, now: Timestamp) -> bool {
        let Some(queue) = self.queues.get_mut(queue.index()).and_then(Option::as_mut) else {
            return false;
        };
        let mut released = false;
        while let Some((due, arrival, batch, slot)) = queue.backoff.pop_first() {
            if due > now {
                queue.backoff.insert((due, arrival, batch, slot));
                break;
            }
            if let Some(entry) = self.slab.get(slot) {
                queue.ready(entry, slot, batch);
                queue
                    .backlog_of(entry.ingestion.priority)
                    .add(entry.ordinal, 1);
                released = true;
            }
        }
        released
    }

    /// The end of an ingestion is in the log and on its way to its callback: from now on it may
    /// leave memory. Whoever ends one calls this, or it stays.
    pub(crate) fn told(&mut self, key: IngestionRef, at: Timestamp) {
        let queue = self.get(key.id).map(|ingestion| ingestion.queue);
        if let Some(Ok(queue)) = queue.map(|queue| self.queue_mut(queue)) {
            queue.ended.push_back((at, key.id));
        }
    }

    /// Forgets ingestions that ended before `cutoff` and were told of, at most `limit`; returns how
    /// many.
    pub(crate) fn evict(&mut self, cutoff: Timestamp, limit: usize) -> usize {
        let mut evicted = 0;
        for queue in self.queues.iter_mut().flatten() {
            while evicted < limit
                && queue
                    .ended
                    .front()
                    .is_some_and(|(ended, _)| *ended < cutoff)
            {
                if let Some((_, id)) = queue.ended.pop_front() {
                    self.slab.remove(id);
                    evicted += 1;
                }
            }
        }
        evicted
    }

    /// Does what `change` says. Everything that happens to a job comes through here: live, and when
    /// the store replays.
    pub(crate) fn apply(&mut self, change: Change) -> Result<(), Misfit> {
        match change {
            Change::QueueConfigured {
                queue,
                name,
                last_slot,
            } => self.queue_configured(queue, name, last_slot),
            Change::Submitted { ingestion, .. } => self.submitted(ingestion)?,
            Change::SlotTaken { queue, at } => self.queue_mut(queue)?.last_slot = Some(at),
            Change::BatchMoved {
                ingestion,
                batch,
                run,
            } => self.batch_moved(ingestion, batch, run)?,
            Change::RestEnded {
                ingestion,
                status,
                at,
            } => {
                let waiting = self.entry(ingestion)?.1.ingestion.waiting_count();
                self.entry_mut(ingestion)?
                    .1
                    .ingestion
                    .give_up_rest(status, at);
                self.rest_ended(ingestion, waiting)?;
            }
            Change::IngestionEnded { ingestion, at } => self.ingestion_ended(ingestion, at)?,
        }
        Ok(())
    }

    /// Ends the replay: makes the heaps, the positions and the timers from what was replayed. Batches
    /// that are `triggered` run on another node if there is one, until [`Registry::take_over`].
    pub(crate) fn go_live(&mut self) {
        debug_assert!(!self.live, "a registry goes live once");
        self.live = true;
        let mut by_arrival: Vec<(Arrival, u32)> = self
            .slab
            .slots()
            .map(|(slot, entry)| (entry.ingestion.arrival, slot))
            .collect();
        by_arrival.sort_unstable();
        let mut ready: Vec<Vec<Ready>> = self.queues.iter().map(|_| Vec::new()).collect();
        for (arrival, slot) in by_arrival {
            let Some(entry) = self.slab.get_mut(slot) else {
                continue;
            };
            let Some(queue) = self
                .queues
                .get_mut(entry.ingestion.queue.index())
                .and_then(Option::as_mut)
            else {
                continue;
            };
            let Some(ready) = ready.get_mut(entry.ingestion.queue.index()) else {
                continue;
            };
            let startable = entry.ingestion.waiting_count();
            ready.extend(
                entry
                    .ingestion
                    .next_batch()
                    .map(|batch| entry.ready(slot, batch)),
            );
            let started = entry.ingestion.runs.iter().flat_map(|runs| &runs.started);
            for (batch, run) in (0..).map(BatchIndex).zip(started) {
                if let Some(due) = run.retry_at.filter(|_| run.waits_for_retry()) {
                    queue.backoff.insert((due, arrival, batch, slot));
                } else if !run.status.has_ended() {
                    queue.running.insert((entry.ingestion.id, batch));
                }
            }
            if entry.ingestion.waiting_count() > 0
                && let Some(deadline) = entry.ingestion.deadline()
            {
                queue.deadlines.insert((deadline, arrival, slot));
            }
            entry.ordinal = queue.backlog_of(entry.ingestion.priority).push(startable);
        }
        for (queue, ready) in self.queues.iter_mut().zip(ready) {
            if let Some(queue) = queue {
                queue.heap = Heap::from_unordered(ready.into_iter());
            }
        }
    }

    /// From now on batches of the queue are started here. Those that are `triggered` were started by
    /// somebody who is gone: they can start again, in their old order. Returned are those that are given
    /// up: they don't, and their results are to be kept.
    pub(crate) fn take_over(&mut self, queue: QueueId) -> Vec<(IngestionRef, BatchIndex)> {
        let Ok(queue) = queue_mut(&mut self.queues, queue) else {
            return Vec::new();
        };
        let mut given_up = Vec::new();
        for (id, batch) in std::mem::take(&mut queue.running) {
            let Some(slot) = self.slab.find(id) else {
                continue;
            };
            let Some(entry) = self.slab.get(slot) else {
                continue;
            };
            let run = entry.ingestion.run(batch);
            if run.is_some_and(BatchRun::is_given_up) {
                queue.running.insert((id, batch));
                given_up.push((entry.ingestion.key(), batch));
            } else {
                queue.ready(entry, slot, batch);
                queue
                    .backlog_of(entry.ingestion.priority)
                    .add(entry.ordinal, 1);
            }
        }
        given_up
    }

    fn queue_configured(&mut self, id: QueueId, name: QueueName, last_slot: Option<Timestamp>) {
        while self.queues.len() <= id.index() {
            self.queues.push(None);
        }
        if let Some(place) = self.queues.get_mut(id.index()) {
            match place {
                Some(queue) => queue.name = name,
                None => *place = Some(Queue::new(name, last_slot)),
            }
        }
    }

    fn submitted(&mut self, ingestion: Ingestion) -> Result<(), Misfit> {
        let live = self.live;
        let (queue_id, id) = (ingestion.queue, ingestion.id);
        if self.slab.find(id).is_some() {
            return Err(Misfit(format!("ingestion {id} was submitted twice")));
        }
        let queue = queue_mut(&mut self.queues, queue_id)?;
        queue.ingestions += 1;
        self.arrived = self.arrived.max(ingestion.arrival);
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(id);
        let mut entry = Entry::new(ingestion);
        if !live {
            self.slab.insert(entry);
            return Ok(());
        }
        let priority = entry.ingestion.priority;
        entry.ordinal = queue
            .backlog_of(priority)
            .push(entry.ingestion.waiting_count());
        let slot = self.slab.insert(entry);
        if let Some(entry) = self.slab.get(slot) {
            if let Some(batch) = entry.ingestion.next_batch() {
                queue.ready(entry, slot, batch);
            }
            if let Some(deadline) = entry.ingestion.deadline() {
                queue
                    .deadlines
                    .insert((deadline, entry.ingestion.arrival, slot));
            }
        }
        Ok(())
    }

    fn batch_moved(
        &mut self,
        key: IngestionRef,
        batch: BatchIndex,
        run: BatchRun,
    ) -> Result<(), Misfit> {
        let live = self.live;
        let slot = self.slot(key)?;
        let entry = self.slab.get_mut(slot).ok_or_else(|| unknown(key))?;
        if batch.0 > entry.ingestion.started_count() || batch.0 >= entry.ingestion.batch_count() {
            return Err(Misfit(format!(
                "{} of {} moved out of turn",
                batch.batch_id(),
                key.id
            )));
        }
        let (retry_at, ended) = (
            run.retry_at.filter(|_| run.waits_for_retry()),
            run.status.has_ended(),
        );
        let before = entry.ingestion.set_run(batch, run);
        if !live {
            return Ok(());
        }
        let queue = queue_mut(&mut self.queues, entry.ingestion.queue)?;
        // Leave where it was.
        let was_running = queue.running.remove(&(key.id, batch));
        let was_backing_off = before
            .as_ref()
            .and_then(|run| run.retry_at)
            .is_some_and(|due| queue.backoff.remove(&(due, key.arrival, batch, slot)));
        if !was_running && !was_backing_off && queue.heap.take(entry.ready(slot, batch)) {
            queue
                .backlog_of(entry.ingestion.priority)
                .remove(entry.ordinal, 1);
        }
        // Enter where it is.
        if let Some(due) = retry_at {
            queue.backoff.insert((due, key.arrival, batch, slot));
        } else if !ended {
            queue.running.insert((key.id, batch));
        }
        if before.is_none() {
            match entry.ingestion.next_batch() {
                Some(next) => queue.ready(entry, slot, next),
                None => forget_deadline(queue, &entry.ingestion, slot),
            }
        }
        self.prune(key)
    }

    fn rest_ended(&mut self, key: IngestionRef, waiting: u32) -> Result<(), Misfit> {
        if !self.live {
            return Ok(());
        }
        let slot = self.slot(key)?;
        let entry = self.slab.get_mut(slot).ok_or_else(|| unknown(key))?;
        let queue = queue_mut(&mut self.queues, entry.ingestion.queue)?;
        queue
            .backlog_of(entry.ingestion.priority)
            .remove(entry.ordinal, waiting);
        queue.stale += usize::from(waiting > 0);
        forget_deadline(queue, &entry.ingestion, slot);
        self.prune(key)
    }

    fn ingestion_ended(&mut self, key: IngestionRef, at: Timestamp) -> Result<(), Misfit> {
        let (slot, entry) = self.entry_mut(key)?;
        entry.ingestion.runs.get_or_insert_default().ended_at = Some(at);
        let Some(entry) = self.slab.get(slot) else {
            return Ok(());
        };
        let queue = queue_mut(&mut self.queues, entry.ingestion.queue)?;
        queue.ingestions = queue.ingestions.saturating_sub(1);
        Ok(())
    }

    /// Keeps the top of the heap alive, and its dead entries fewer than the others.
    fn prune(&mut self, key: IngestionRef) -> Result<(), Misfit> {
        let queue_id = self.entry(key)?.1.ingestion.queue;
        let slab = &self.slab;
        let queue = queue_mut(&mut self.queues, queue_id)?;
        if queue.stale == 0 {
            return Ok(());
        }
        while let Some(top) = queue.heap.peek()
            && !slab.can_start(top)
        {
            queue.heap.pop();
            queue.stale = queue.stale.saturating_sub(1);
        }
        if queue.stale > 1024 && queue.stale > queue.heap.len() / 2 {
            queue.heap.retain(|ready| slab.can_start(ready));
            queue.stale = 0;
        }
        Ok(())
    }

    fn slot(&self, key: IngestionRef) -> Result<u32, Misfit> {
        self.slab.find(key.id).ok_or_else(|| unknown(key))
    }

    fn entry(&self, key: IngestionRef) -> Result<(u32, &Entry), Misfit> {
        let slot = self.slot(key)?;
        Ok((slot, self.slab.get(slot).ok_or_else(|| unknown(key))?))
    }

    fn entry_mut(&mut self, key: IngestionRef) -> Result<(u32, &mut Entry), Misfit> {
        let slot = self.slot(key)?;
        Ok((slot, self.slab.get_mut(slot).ok_or_else(|| unknown(key))?))
    }

    fn queue_mut(&mut self, queue: QueueId) -> Result<&mut Queue, Misfit> {
        queue_mut(&mut self.queues, queue)
    }
}

/// Borrows the queues alone, so that the slab can be borrowed beside them.
fn queue_mut(queues: &mut [Option<Queue>], queue: QueueId) -> Result<&mut Queue, Misfit> {
    let found = queues.get_mut(queue.index()).and_then(Option::as_mut);
    found.ok_or_else(|| Misfit(format!("queue number {} is not known", queue.0)))
}

fn unknown(key: IngestionRef) -> Misfit {
    Misfit(format!(
        "ingestion {} (arrival {}) is not in memory",
        key.id, key.arrival.0
    ))
}

fn forget_deadline(queue: &mut Queue, ingestion: &Ingestion, slot: u32) {
    if let Some(deadline) = ingestion.deadline() {
        queue.deadlines.remove(&(deadline, ingestion.arrival, slot));
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use uuid::Uuid;

    use super::*;

    #[test]
    fn an_end_stays_in_memory_until_it_was_told() {
        let mut registry = Registry::default();
        let queue = QueueId(0);
        registry.queue_configured(queue, QueueName::former(), None);
        registry.go_live();
        let ingestion = Ingestion {
            id: IngestionId::new(Uuid::from_u128(1)),
            arrival: Arrival(1),
            created_at: Timestamp::EPOCH,
            ids: [1].into(),
            extras: None,
            runs: None,
            queue,
            batch_size: NonZeroU16::MIN,
            priority: Priority::Low,
        };
        let (key, at) = (ingestion.key(), Timestamp::EPOCH);
        let late = Timestamp::from_micros(1);
        registry.submitted(ingestion).unwrap();
        registry.ingestion_ended(key, at).unwrap();
        assert_eq!(registry.evict(late, 9), 0);
        assert!(registry.get(key.id).is_some());
        registry.told(key, at);
        assert_eq!(registry.evict(late, 9), 1);
        assert!(registry.get(key.id).is_none());
    }
}
