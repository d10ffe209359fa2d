//! What is done with events later: small blocks are merged, old events of some tenants are erased.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::Clock;
use crate::model::event::{EventFilter, EventTime};
use crate::store::{Store, StoreError};

/// How often it is looked for blocks to merge.
const PACK_EVERY: Duration = Duration::from_secs(1);

/// How often old events are looked for: every so many rounds of packing.
const ERASE_EVERY: u32 = 60;

/// The task, and what it works with.
pub(super) struct Housekeeping {
    pub(super) store: Store,
    pub(super) clock: Clock,
    /// How long events of these tenants are kept after their time; all others stay.
    pub(super) retention: BTreeMap<String, Duration>,
    /// True once the process stops.
    pub(super) stopping: watch::Receiver<bool>,
}

impl Housekeeping {
    /// Runs until told to stop.
    pub(super) async fn run(mut self) {
        let mut rounds = 0_u32;
        let mut told = false;
        loop {
            let done = self.round(rounds.is_multiple_of(ERASE_EVERY)).await;
            match done {
                Ok(()) => told = false,
                Err(StoreError::Closed) => return,
                Err(error) if !told => {
                    tracing::warn!("events can't be tidied, trying again: {error}");
                    told = true;
                }
                Err(_) => {}
            }
            rounds = rounds.wrapping_add(1);
            tokio::select! {
                () = self.clock.sleep(PACK_EVERY) => {}
                _ = self.stopping.changed() => return,
            }
        }
    }

    async fn round(&self, erase: bool) -> Result<(), StoreError> {
        while !*self.stopping.borrow() && self.store.pack().await? {}
        if erase {
            self.erase_old().await?;
        }
        Ok(())
    }

    async fn erase_old(&self) -> Result<(), StoreError> {
        for (tenant, age) in &self.retention {
            let before = EventTime {
                micros: self.clock.now().wall.minus(*age),
                nanos: 0,
            };
            let old = EventFilter {
                tenant: Some(tenant.clone()),
                to: Some(before),
                ..EventFilter::default()
            };
            let erased = self.store.erase(old).await?;
            if erased > 0 {
                tracing::info!(tenant, erased, "events past their retention were erased");
            }
        }
        Ok(())
    }
}
