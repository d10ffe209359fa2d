//! Events: what others push is accepted once, kept, and read back.

mod cold;
mod housekeeping;
mod ingest;
pub mod json;
pub mod parse;
pub mod part;

use std::sync::Arc;

use crate::clock::Clock;
pub use crate::model::event::EventsSettings;
use crate::store::Store;
use crate::telemetry::Metrics;
pub use ingest::{EventReceipt, IngestError, Ingested, Outcome};

/// The handle to all events. Cheap to clone.
#[derive(Clone)]
pub struct Events {
    /// Where they are kept.
    pub store: Store,
    /// The time of refusals.
    pub clock: Clock,
    /// Counts what comes in.
    pub metrics: Metrics,
    /// The bounds.
    pub settings: EventsSettings,
    /// Lets in few large bodies at a time.
    gate: Arc<ingest::Gate>,
}

impl Events {
    /// Into and out of `store`.
    #[must_use]
    pub fn new(store: Store, clock: Clock, metrics: Metrics, settings: EventsSettings) -> Self {
        Self {
            store,
            clock,
            metrics,
            settings,
            gate: Arc::default(),
        }
    }

    /// Merges small blocks, erases old events and moves others to the cold tier, until the store is
    /// closed.
    pub async fn keep_house(self) {
        housekeeping::run(self).await;
    }
}
