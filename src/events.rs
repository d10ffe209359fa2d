//! Events: what others push is accepted once, kept, and read back.

mod background;
mod cold;
#[cfg(feature = "cluster")]
mod consume;
mod housekeeping;
mod ingest;
pub mod json;
pub mod parse;
pub mod part;
#[cfg(feature = "cluster")]
mod queued;

use std::sync::Arc;

use crate::bus::Bus;
use crate::clock::Clock;
pub use crate::model::event::EventsSettings;
use crate::store::Store;
use crate::telemetry::Metrics;
pub use background::Background;
pub use ingest::{EventReceipt, IngestError, Ingested, NO_TYPE, Outcome};

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
    /// Where the events of clients go first.
    pub bus: Bus,
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
            bus: Bus::Local,
            gate: Arc::default(),
        }
    }

    /// The same, with the events of clients going over `bus`.
    #[must_use]
    pub fn over(self, bus: Bus) -> Self {
        Self { bus, ..self }
    }
}
