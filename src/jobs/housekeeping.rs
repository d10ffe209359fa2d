//! Lets go of what is over: ended ingestions leave memory after a while, and the disk later.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::live::Live;
use crate::clock::Clock;
use crate::store::Store;

/// How often memory is looked at.
const EVICT_EVERY: Duration = Duration::from_secs(1);

/// How many looks at memory go by between two looks at the disk.
const PRUNE_EVERY: u32 = 60;

/// The most ingestions that leave memory while the registry is locked.
const EVICTED_AT_ONCE: usize = 1000;

/// See the module.
pub(crate) struct Housekeeping {
    pub(crate) live: Arc<Live>,
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) keep_ended: Duration,
    pub(crate) retention: Duration,
    pub(crate) stopping: watch::Receiver<bool>,
}

impl Housekeeping {
    /// Runs until told to stop.
    pub(crate) async fn run(mut self) {
        for round in 0_u32.. {
            self.evict();
            self.live.sweep_watched();
            let leads = self.store.term().borrow().is_some();
            if leads && round.is_multiple_of(PRUNE_EVERY) {
                self.prune().await;
            }
            tokio::select! {
                () = self.clock.sleep(EVICT_EVERY) => {}
                _ = self.stopping.changed() => return,
            }
        }
    }

    fn evict(&self) {
        let cutoff = self.clock.now().wall.minus(self.keep_ended);
        while self.live.registry.write().evict(cutoff, EVICTED_AT_ONCE) == EVICTED_AT_ONCE {}
    }

    async fn prune(&self) {
        let now = self.clock.now().wall;
        let mut removed = 0;
        while !*self.stopping.borrow() {
            match self.store.prune(now.minus(self.retention), now).await {
                Ok(0) => break,
                Ok(count) => removed += count,
                Err(error) => {
                    tracing::warn!(
                        "could not remove what is over, trying again in a minute: {error}"
                    );
                    break;
                }
            }
            // There may be a lot to remove: memory must not wait for it.
            self.evict();
        }
        if removed > 0 {
            let days = self.retention.as_secs() / 86_400;
            tracing::info!(
                "removed {removed} idempotency keys that expired and ingestions that ended over {days} days ago"
            );
        }
    }
}
