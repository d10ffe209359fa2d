//! The registry as everybody shares it: behind a lock, with those who wait for something to happen.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, broadcast, watch};

use super::outlook::QueuePace;
use super::registry::Registry;
use super::view::{BatchView, Moved, Watch};
use crate::clock::Clock;
use crate::model::batch::BatchStatus;
use crate::model::change::Change;
use crate::model::id::{BatchIndex, IngestionId, IngestionRef};
use crate::model::ingestion::Ingestion;
use crate::model::queue::{QueueId, QueueSettings};
use crate::model::time::Timestamp;

/// How many moves a slow watcher may lag behind before it loses the oldest.
const WATCH_LAG: usize = 256;

/// The most ingestions that are watched at once.
const MAX_WATCHED: usize = 10_000;

/// See the module.
#[derive(Debug)]
pub(crate) struct Live {
    clock: Clock,
    pub(crate) registry: RwLock<Registry>,
    /// By [`QueueId`]; set once the store has replayed.
    handles: OnceLock<Vec<Option<QueueHandle>>>,
    watched: Watched,
}

/// One queue as others reach its scheduler.
#[derive(Debug)]
pub(crate) struct QueueHandle {
    pub(crate) settings: QueueSettings,
    /// Wakes the scheduler.
    pub(crate) wake: Notify,
    /// Submissions applied so far.
    pub(crate) applied: AtomicU64,
    /// How many of those the scheduler had seen when it last found nothing to start.
    pub(crate) considered: watch::Sender<u64>,
    /// Whether its batches are started here, and not on another node.
    pub(crate) leads: AtomicBool,
    /// Moves of its batches so far.
    pub(crate) moved: watch::Sender<u64>,
    /// Batches that are being submitted: not in the registry yet.
    pub(crate) reserved: AtomicU64,
    opens_at_nanos: AtomicU64,
    run_micros: AtomicU64,
}

impl QueueHandle {
    pub(crate) fn new(settings: QueueSettings, typical_run: Duration) -> Self {
        Self {
            settings,
            wake: Notify::new(),
            applied: AtomicU64::new(0),
            considered: watch::Sender::new(0),
            leads: AtomicBool::new(false),
            moved: watch::Sender::new(0),
            reserved: AtomicU64::new(0),
            opens_at_nanos: AtomicU64::new(0),
            run_micros: AtomicU64::new(micros(typical_run)),
        }
    }

    pub(crate) fn set_opens_at(&self, mono: Duration) {
        self.opens_at_nanos.store(
            u64::try_from(mono.as_nanos()).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
    }

    pub(crate) fn opens_at(&self) -> Duration {
        Duration::from_nanos(self.opens_at_nanos.load(Ordering::Relaxed))
    }

    /// Learns from a run: an exponential average that gives the newest an eighth.
    pub(crate) fn ran(&self, took: Duration) {
        let before = self.run_micros.load(Ordering::Relaxed);
        let after = if before == 0 {
            micros(took)
        } else {
            before - before / 8 + micros(took) / 8
        };
        self.run_micros.store(after, Ordering::Relaxed);
    }

    pub(crate) fn pace(&self) -> QueuePace<'_> {
        QueuePace {
            settings: &self.settings,
            opens_at: self.opens_at(),
            run: Duration::from_micros(self.run_micros.load(Ordering::Relaxed)),
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Live {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            registry: RwLock::default(),
            handles: OnceLock::new(),
            watched: Watched::default(),
        }
    }

    /// Ends the replay and opens the queues for business.
    pub(crate) fn open(&self, handles: Vec<Option<QueueHandle>>) {
        self.registry.write().go_live();
        let fresh = self.handles.set(handles).is_ok();
        debug_assert!(fresh, "queues are opened once");
    }

    pub(crate) fn handle(&self, queue: QueueId) -> Option<&QueueHandle> {
        self.handles.get()?.get(queue.index())?.as_ref()
    }

    /// Applies committed changes in their order, tells the watchers, wakes the schedulers.
    pub(crate) fn apply(&self, changes: Vec<Change>) {
        let mut registry = self.registry.write();
        for change in changes {
            let submitted = match &change {
                Change::Submitted { ingestion, .. } => Some(ingestion.queue),
                _ => None,
            };
            let news = News::of(&change);
            let moved = match &change {
                // For everybody else it runs on, until its results are kept.
                Change::BatchMoved { run, .. } if run.is_given_up() => None,
                Change::BatchMoved {
                    ingestion, batch, ..
                } => Some((ingestion.id, Some(*batch))),
                Change::RestEnded { ingestion, .. } | Change::IngestionEnded { ingestion, .. } => {
                    Some((ingestion.id, None))
                }
                _ => None,
            };
            if let Err(misfit) = registry.apply(change) {
                debug_assert!(false, "{misfit}");
                tracing::error!("a committed change does not fit the registry: {misfit}");
                continue;
            }
            if let Some((id, batch)) = moved {
                self.watched
                    .tell(id, || Some(moved_in(registry.get(id)?, batch)));
                if let Some(queue) = registry.get(id).map(|ingestion| ingestion.queue)
                    && let Some(handle) = self.handle(queue)
                {
                    self.tell_queue(handle, news, &mut registry);
                }
            }
            if let Some(handle) = submitted.and_then(|queue| self.handle(queue)) {
                handle.applied.fetch_add(1, Ordering::Release);
                handle.wake.notify_one();
            }
        }
    }

    /// What follows from a move beside the registry. Where batches are started here, the scheduler
    /// knows when the next slot opens, and tells of the ends.
    fn tell_queue(&self, handle: &QueueHandle, news: News, registry: &mut Registry) {
        handle.moved.send_modify(|moves| *moves += 1);
        if handle.leads.load(Ordering::Acquire) {
            return;
        }
        match news {
            News::Started(slot) => {
                let now = self.clock.now();
                let until = slot.plus(handle.settings.interval).since(now.wall);
                handle.set_opens_at(now.mono + until);
            }
            News::Ended(ingestion, at) => registry.told(ingestion, at),
            News::Other => {}
        }
    }

    /// Follows an ingestion that is in memory. `Err` when too many are watched already.
    pub(crate) fn watch(&self, id: IngestionId) -> Option<Watch> {
        let registry = self.registry.read();
        registry.get(id)?;
        self.watched.subscribe(id)
    }

    /// Forgets watched ingestions that nobody watches any more.
    pub(crate) fn sweep_watched(&self) {
        self.watched.sweep();
    }
}

/// What a change means for those who don't schedule.
#[derive(Clone, Copy)]
enum News {
    /// A batch started in this slot.
    Started(Timestamp),
    Ended(IngestionRef, Timestamp),
    Other,
}

impl News {
    fn of(change: &Change) -> Self {
        match change {
            Change::BatchMoved { run, .. }
                if run.status == BatchStatus::Triggered && !run.waits_for_retry() =>
            {
                Self::Started(run.triggered_at)
            }
            Change::IngestionEnded { ingestion, at } => Self::Ended(*ingestion, *at),
            _ => Self::Other,
        }
    }
}

fn moved_in(ingestion: &Ingestion, batch: Option<BatchIndex>) -> Moved {
    let progress = ingestion.progress();
    Moved {
        batch: batch.map(|index| batch_view(ingestion, index)),
        progress,
        ended: ingestion.ended_at().is_some(),
    }
}

pub(crate) fn batch_view(ingestion: &Ingestion, index: BatchIndex) -> BatchView {
    BatchView {
        index,
        status: ingestion.status_of(index),
        run: ingestion.run(index).cloned(),
    }
}

/// Who is watched by whom.
#[derive(Debug, Default)]
struct Watched {
    /// So that nobody pays for the lock while nobody watches.
    count: AtomicUsize,
    senders: Mutex<HashMap<IngestionId, broadcast::Sender<Moved>>>,
}

impl Watched {
    fn subscribe(&self, id: IngestionId) -> Option<Watch> {
        let mut senders = self.senders.lock();
        if senders.len() >= MAX_WATCHED && !senders.contains_key(&id) {
            return None;
        }
        let sender = senders
            .entry(id)
            .or_insert_with(|| broadcast::Sender::new(WATCH_LAG));
        let receiver = sender.subscribe();
        self.count.store(senders.len(), Ordering::Release);
        Some(Watch(receiver))
    }

    fn tell(&self, id: IngestionId, moved: impl FnOnce() -> Option<Moved>) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut senders = self.senders.lock();
        let Some(sender) = senders.get(&id) else {
            return;
        };
        let Some(moved) = moved() else { return };
        // The end is the last thing that happens: let go of it, so that its readers end too.
        let (heard, ended) = (sender.send(moved.clone()).is_ok(), moved.ended);
        if !heard || ended {
            senders.remove(&id);
            self.count.store(senders.len(), Ordering::Release);
        }
    }

    fn sweep(&self) {
        let mut senders = self.senders.lock();
        senders.retain(|_, sender| sender.receiver_count() > 0);
        self.count.store(senders.len(), Ordering::Release);
    }
}
