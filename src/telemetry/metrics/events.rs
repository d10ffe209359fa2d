//! The metrics of events.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::Metrics;
use super::bounded::Bounded;

/// The most event types with a label value of their own.
pub(super) const MAX_TYPES: usize = 200;

/// Seconds: how long a request's events take until they are on disk.
const INGESTION_BUCKETS: [f64; 14] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0,
];

/// Why an event was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// Its request was not JSON, or its line was not.
    Malformed,
    /// It broke a rule, or stood in a request with one that did.
    Invalid,
    /// Its request had more events than may be.
    TooMany,
    /// Too many requests waited.
    QueueFull,
    /// The store took no writes.
    Unavailable,
}

impl Failure {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Invalid => "invalid",
            Self::TooMany => "too_many",
            Self::QueueFull => "queue_full",
            Self::Unavailable => "unavailable",
        }
    }
}

pub(super) struct EventMetrics {
    types: Bounded<OfType>,
    received: Family<TypeLabel, Counter>,
    ingested: Family<TypeLabel, Counter>,
    failed: Family<Reason, Counter>,
    duplicate: Counter,
    conflicting: Counter,
    duration: Histogram,
    moved: Counter,
    cold_failing: Gauge,
}

/// The handles of one event type.
struct OfType {
    received: Counter,
    ingested: Counter,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct TypeLabel {
    event_type: Arc<str>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

impl EventMetrics {
    /// All at zero, and known to `registry`.
    pub(super) fn new(registry: &mut Registry) -> Self {
        let all = Self {
            types: Bounded::new(MAX_TYPES),
            received: Family::default(),
            ingested: Family::default(),
            failed: Family::default(),
            duplicate: Counter::default(),
            conflicting: Counter::default(),
            duration: Histogram::new(INGESTION_BUCKETS),
            moved: Counter::default(),
            cold_failing: Gauge::default(),
        };
        registry.register(
            "events_received",
            "Valid events received, duplicates included",
            all.received.clone(),
        );
        registry.register(
            "events_ingested",
            "Events accepted as the first of their identity",
            all.ingested.clone(),
        );
        registry.register(
            "events_duplicate",
            "Events dropped because their identity was spent",
            all.duplicate.clone(),
        );
        registry.register(
            "events_conflicting",
            "Duplicates that said something else than the first event did",
            all.conflicting.clone(),
        );
        registry.register(
            "events_failed",
            "Events not taken, by reason",
            all.failed.clone(),
        );
        registry.register(
            "ingestion_duration_seconds",
            "Time from a request's events being read to their being on disk",
            all.duration.clone(),
        );
        registry.register(
            "events_moved",
            "Events moved to the cold tier",
            all.moved.clone(),
        );
        registry.register(
            "cold_tier_failing",
            "1 if the last move to the cold tier failed, else 0",
            all.cold_failing.clone(),
        );
        all
    }
}

impl Metrics {
    /// Events of one type came in, and so many of them were kept.
    pub fn events(&self, event_type: &str, received: u64, ingested: u64) {
        let events = &self.0.events;
        let handle = events.types.get(event_type, |name| {
            let label = TypeLabel {
                event_type: Arc::clone(name),
            };
            OfType {
                received: events.received.get_or_create_owned(&label),
                ingested: events.ingested.get_or_create_owned(&label),
            }
        });
        handle.received.inc_by(received);
        handle.ingested.inc_by(ingested);
    }

    /// How many events of each type were kept since the process started, by type.
    #[must_use]
    pub fn ingested_by_type(&self) -> Vec<(Arc<str>, u64)> {
        self.0.events.types.all(|handle| handle.ingested.get())
    }

    /// So many events were duplicates, and so many of these said something else.
    pub fn events_duplicate(&self, duplicates: u64, conflicting: u64) {
        self.0.events.duplicate.inc_by(duplicates);
        self.0.events.conflicting.inc_by(conflicting);
    }

    /// So many events were not taken.
    pub fn events_failed(&self, failure: Failure, events: u64) {
        let reason = failure.as_str();
        let failed = &self.0.events.failed;
        failed
            .get_or_create_owned(&Reason { reason })
            .inc_by(events);
    }

    /// So many events were moved to the cold tier.
    pub fn events_moved(&self, events: u64) {
        self.0.events.moved.inc_by(events);
    }

    /// Whether the last move to the cold tier failed.
    pub fn set_cold_failing(&self, failing: bool) {
        self.0.events.cold_failing.set(i64::from(failing));
    }

    /// The events of a request were on disk `took` after they were read.
    pub fn ingestion(&self, took: Duration) {
        self.0.events.duration.observe(took.as_secs_f64());
    }
}
