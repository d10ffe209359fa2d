//! Events: what others push is accepted once, kept, and read back.

pub mod parse;

use crate::clock::Clock;
use crate::store::Store;
use crate::telemetry::Metrics;

/// The bounds of what is accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EventsSettings {
    /// The most events of a `POST /events`.
    pub max_batch: usize,
    /// The most events of a `POST /events/bulk`.
    pub max_bulk: usize,
    /// The most events of a `POST /publish`.
    pub max_publish: usize,
}

impl Default for EventsSettings {
    fn default() -> Self {
        Self {
            max_batch: 1_000,
            max_bulk: 5_000,
            max_publish: 10_000,
        }
    }
}

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
}
