//! What callers and the background thread share, and how a generation goes from one to the other.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex, RwLock};

use super::fresh::Fresh;
use super::snapshot::{Frozen, Snapshot};
use super::tickets::Tickets;
use super::{Entry, SeenSettings};

/// Generations that wait for the background thread.
pub(super) const MAX_FROZEN: usize = 2;

/// What the background thread is asked to do, and what it tells.
#[derive(Default)]
pub(super) struct Work {
    pub(super) stop: Stop,
    /// The thread has ended.
    pub(super) ended: bool,
    /// Why the last attempt to write failed; gone with the next that succeeds.
    pub(super) failing: Option<(io::ErrorKind, String)>,
    /// A run was found damaged: the index must be made again.
    pub(super) damaged: Option<String>,
}

/// Whether the background thread is asked to end.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) enum Stop {
    #[default]
    No,
    /// After what is frozen was written, if that succeeds at once.
    Written,
    /// As soon as it can.
    Now,
}

/// See the module.
pub(super) struct Shared {
    pub(super) settings: SeenSettings,
    pub(super) fresh: Fresh,
    pub(super) tickets: Tickets,
    snapshot: RwLock<Arc<Snapshot>>,
    /// The highest sequence that was committed. Held while identities become committed, so that
    /// a generation that is frozen has all that came before.
    covered: Mutex<u64>,
    /// Identities in the fresh part; changed under `covered` only.
    recent: AtomicUsize,
    pub(super) work: Mutex<Work>,
    /// Whether `work` tells of a failure or of damage.
    troubled: AtomicBool,
    /// Something in `work` or in the snapshot's frozen generations is new.
    pub(super) changed: Condvar,
}

impl Shared {
    pub(super) fn new(settings: SeenSettings, snapshot: Snapshot, covers: u64) -> Self {
        Self {
            fresh: Fresh::new(settings.generation),
            settings,
            tickets: Tickets::default(),
            snapshot: RwLock::new(Arc::new(snapshot)),
            covered: Mutex::new(covers),
            recent: AtomicUsize::new(0),
            work: Mutex::default(),
            troubled: AtomicBool::new(false),
            changed: Condvar::new(),
        }
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read())
    }

    /// Puts a changed copy in the snapshot's place, and tells those who wait for one.
    pub(super) fn update(&self, change: impl FnOnce(&mut Snapshot)) {
        {
            let mut current = self.snapshot.write();
            let mut next = Snapshot::clone(&current);
            change(&mut next);
            *current = Arc::new(next);
        }
        // Whoever looks at the snapshot under this lock now waits, and hears of it.
        drop(self.work.lock());
        self.changed.notify_all();
    }

    /// Changes what is asked or told.
    pub(super) fn tell(&self, change: impl FnOnce(&mut Work)) {
        let mut work = self.work.lock();
        change(&mut work);
        let troubled = work.failing.is_some() || work.damaged.is_some();
        self.troubled.store(troubled, Ordering::Relaxed);
        drop(work);
        self.changed.notify_all();
    }

    /// Whether reservations are accepted: not on damage, and not when memory is full while
    /// nothing can be written.
    pub(super) fn ready(&self) -> io::Result<()> {
        if !self.troubled.load(Ordering::Relaxed) {
            return Ok(());
        }
        let work = self.work.lock();
        if let Some(sentence) = &work.damaged {
            return Err(io::Error::new(io::ErrorKind::InvalidData, sentence.clone()));
        }
        match &work.failing {
            Some((kind, sentence)) if self.is_full() => {
                Err(io::Error::new(*kind, sentence.clone()))
            }
            _ => Ok(()),
        }
    }

    fn is_full(&self) -> bool {
        self.snapshot.read().frozen.len() >= MAX_FROZEN
            && self.recent.load(Ordering::Relaxed) >= self.settings.generation
    }

    /// Makes `entries` committed, and freezes the generation if it is full. Waits while too many
    /// generations wait.
    pub(super) fn commit(&self, entries: &[Entry], last_seq: u64, then: impl FnOnce()) {
        let mut covered = self.covered.lock();
        debug_assert!(*covered <= last_seq, "commits come in their order");
        self.fresh.commit(entries);
        *covered = last_seq.max(*covered);
        then();
        let recent = self.recent.load(Ordering::Relaxed) + entries.len();
        self.recent.store(recent, Ordering::Relaxed);
        if recent >= self.settings.generation && self.wait_for_room() {
            self.freeze(*covered);
        }
    }

    /// Freezes what there is, room or not: for the end.
    pub(super) fn freeze_rest(&self) {
        let covered = self.covered.lock();
        if self.recent.load(Ordering::Relaxed) > 0 {
            self.freeze(*covered);
        }
    }

    /// The generation is published as frozen before it is gone from the fresh part.
    fn freeze(&self, covers: u64) {
        self.fresh.freeze(|maps| {
            let frozen = Arc::new(Frozen { maps, covers });
            self.update(|snapshot| snapshot.frozen.push(frozen));
        });
        self.recent.store(0, Ordering::Relaxed);
    }

    /// Whether a commit is under way.
    #[cfg(test)]
    pub(super) fn is_committing(&self) -> bool {
        self.covered.is_locked()
    }

    /// False if there won't be any: the background thread fails or is about to end. The fresh
    /// part then takes what was reserved already, and `ready` refuses more.
    fn wait_for_room(&self) -> bool {
        let mut work = self.work.lock();
        loop {
            if self.snapshot.read().frozen.len() < MAX_FROZEN {
                return true;
            }
            if work.ended || work.stop != Stop::No || work.failing.is_some() {
                return false;
            }
            self.changed.wait(&mut work);
        }
    }
}
