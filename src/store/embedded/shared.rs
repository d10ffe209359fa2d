//! What the writer, the checkpoints and the callers all see.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::store::StoreState;

/// The store's state, and how much waits for the writer.
pub(super) struct Shared {
    state: Mutex<StoreState>,
    /// Bytes of ids in the writer's queue.
    waiting: AtomicUsize,
    /// Whether the last checkpoint was put off.
    put_off: AtomicBool,
    /// Turns true when the writer has ended and let go of the directory.
    ended: watch::Sender<bool>,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(StoreState::Ok),
            waiting: AtomicUsize::new(0),
            put_off: AtomicBool::new(false),
            ended: watch::Sender::new(false),
        }
    }

    pub(super) fn state(&self) -> StoreState {
        self.state.lock().clone()
    }

    pub(super) fn has_failed(&self) -> bool {
        matches!(*self.state.lock(), StoreState::Failed(_))
    }

    /// For good: the first reason is kept.
    pub(super) fn fail(&self, sentence: &str) {
        let mut state = self.state.lock();
        if !matches!(*state, StoreState::Failed(_)) {
            tracing::error!(
                reason = sentence,
                "the store failed and takes no more writes"
            );
            *state = StoreState::Failed(sentence.to_owned());
        }
    }

    /// The disk is full, or no longer.
    pub(super) fn set_full(&self, full: bool) {
        let mut state = self.state.lock();
        match (&*state, full) {
            (StoreState::Ok, true) => {
                tracing::warn!("the disk is full: writes are refused until space returns");
                *state = StoreState::Full;
            }
            (StoreState::Full, false) => {
                tracing::info!("the disk has space again");
                *state = StoreState::Ok;
            }
            _ => {}
        }
    }

    /// A checkpoint was put off, or one was done. Whether the log has to say so: only the first of
    /// many, because one is tried after each commit.
    pub(super) fn set_put_off(&self, put_off: bool) -> bool {
        let before = self.put_off.swap(put_off, Ordering::Relaxed);
        put_off && !before
    }

    /// Counts bytes that are about to wait; false, and nothing counted, if they would pass
    /// `limit`. A single commit may be larger than the limit.
    pub(super) fn reserve(&self, bytes: usize, limit: usize) -> bool {
        self.waiting
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| {
                let sum = waiting.saturating_add(bytes);
                (waiting == 0 || sum <= limit).then_some(sum)
            })
            .is_ok()
    }

    /// They wait no longer.
    pub(super) fn release(&self, bytes: usize) {
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn set_ended(&self) {
        self.ended.send_replace(true);
    }

    /// Returns once the writer has ended.
    pub(super) async fn wait_ended(&self) {
        // The sender lives in `self`, so the wait can't fail.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_has_a_bound() {
        let shared = Shared::new();
        assert!(shared.reserve(90, 100));
        assert!(shared.reserve(10, 100));
        assert!(!shared.reserve(1, 100));
        shared.release(100);
        assert!(shared.reserve(500, 100), "one large commit passes");
        assert!(!shared.reserve(1, 100));
    }

    #[test]
    fn checkpoints_that_are_put_off_are_told_once() {
        let shared = Shared::new();
        assert!(!shared.set_put_off(false));
        assert_eq!((0..100).filter(|_| shared.set_put_off(true)).count(), 1);
        assert!(!shared.set_put_off(false));
        assert!(shared.set_put_off(true));
    }

    #[test]
    fn a_failure_stays_and_a_full_disk_does_not() {
        let shared = Shared::new();
        shared.set_full(true);
        assert_eq!(shared.state(), StoreState::Full);
        shared.set_full(false);
        assert_eq!(shared.state(), StoreState::Ok);
        shared.fail("first");
        shared.fail("second");
        shared.set_full(true);
        shared.set_full(false);
        assert_eq!(shared.state(), StoreState::Failed("first".to_owned()));
    }
}
