//! The metrics: counted in memory, read as text in the `OpenMetrics` format.
//!
//! A call finds its handle under a read lock by borrowed text and adds to an atomic: nothing is
//! allocated once a label value was seen. Label values that clients or operators choose are bounded;
//! those past the bound are counted as `other`.

mod bounded;
#[cfg(feature = "cluster")]
mod bus;
mod events;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

use self::bounded::Bounded;
use self::events::EventMetrics;
pub use self::events::Failure;
use crate::model::batch::BatchStatus;
use crate::model::priority::Priority;

/// The most queues with a label value of their own.
const MAX_QUEUES: usize = 1_000;

/// The most endpoints with a label value of their own.
const MAX_ENDPOINTS: usize = 200;

/// The methods with a label value of their own; the last stands for all others.
const METHODS: [&str; 10] = [
    "GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "CONNECT", OTHER,
];

/// The label value past a bound.
const OTHER: &str = "other";

/// Seconds: how long an answer takes.
const REQUEST_BUCKETS: [f64; 14] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
];

/// Seconds: how long a batch waits for its slot, up to a week.
const WAIT_BUCKETS: [f64; 12] = [
    0.01, 0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 1_800.0, 7_200.0, 21_600.0, 86_400.0, 604_800.0,
];

/// Seconds: how long a batch runs.
const RUN_BUCKETS: [f64; 12] = [
    0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.9, 2.0, 5.0, 15.0, 60.0,
];

/// Seconds: how late a batch starts in its slot.
const DELAY_BUCKETS: [f64; 12] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0,
];

/// The process's metrics. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    queues: Bounded<Queue>,
    endpoints: Bounded<Endpoint>,
    families: Families,
    wait: Histogram,
    run: Histogram,
    delay: Histogram,
    events: EventMetrics,
    rate_limited: Counter,
    redis_up: Family<[(&'static str, &'static str); 0], Gauge>,
    #[cfg(feature = "cluster")]
    bus: bus::BusMetrics,
}

/// Families keep what was counted; the handles below are found faster.
#[derive(Clone)]
struct Families {
    submitted: Family<QueuePriority, Counter>,
    started: Family<QueueLabel, Counter>,
    finished: Family<QueueStatus, Counter>,
    waiting: Family<QueuePriority, Gauge>,
    requests: Family<Request, Counter>,
    durations: Family<MethodEndpoint, Histogram>,
}

/// The handles of one queue; `submitted` and `waiting` by [`Priority::rank`], `finished` by
/// [`BatchStatus::code`].
struct Queue {
    submitted: [Counter; 3],
    waiting: [Gauge; 3],
    started: Counter,
    finished: [Counter; BatchStatus::ALL.len()],
}

/// The handles of one endpoint; those of a method are made when it is first used.
struct Endpoint {
    name: Arc<str>,
    methods: RwLock<Vec<Method>>,
}

struct Method {
    name: &'static str,
    duration: Histogram,
    /// By status. Only the service itself chooses these, a few dozen.
    statuses: Vec<(u16, Counter)>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct QueueLabel {
    queue: Arc<str>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct QueuePriority {
    queue: Arc<str>,
    priority: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct QueueStatus {
    queue: Arc<str>,
    status: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Request {
    method: &'static str,
    endpoint: Arc<str>,
    status_code: u16,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct MethodEndpoint {
    method: &'static str,
    endpoint: Arc<str>,
}

/// Adds a metric to those that are told. The encoder adds `_total` to the name of a counter, and a
/// full stop to each help text.
fn register<M: Metric + Clone>(all: &mut Registry, name: &str, help: &str, metric: M) -> M {
    all.register(name, help, metric.clone());
    metric
}

/// The same for one that starts empty.
fn add<M: Metric + Clone + Default>(all: &mut Registry, name: &str, help: &str) -> M {
    register(all, name, help, M::default())
}

impl Metrics {
    /// The media type of [`Metrics::encode`].
    pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let all = &mut registry;
        let families = Families {
            submitted: add(all, "ingestions_submitted", "Ingestions accepted"),
            started: add(all, "batches_started", "Batches started, retries included"),
            finished: add(all, "batches_finished", "Batches that ended, by how"),
            waiting: add(all, "batches_waiting", "Batches that wait for a slot"),
            requests: add(all, "api_requests", "HTTP requests answered"),
            durations: register(
                all,
                "api_request_duration_seconds",
                "Time from a request's arrival to its answer",
                Family::new_with_constructor(|| Histogram::new(REQUEST_BUCKETS)),
            ),
        };
        let wait = register(
            all,
            "batch_wait_seconds",
            "Time from a batch's submission to its first start",
            Histogram::new(WAIT_BUCKETS),
        );
        let run = register(
            all,
            "batch_run_seconds",
            "Time from a batch's start to its end",
            Histogram::new(RUN_BUCKETS),
        );
        let delay = register(
            all,
            "dispatch_delay_seconds",
            "Time from the opening of a slot to the start of its batch",
            Histogram::new(DELAY_BUCKETS),
        );
        let rate_limited = add(
            &mut registry,
            "rate_limit_exceeded",
            "Requests refused since their client made too many",
        );
        let redis_up = add(
            &mut registry,
            "quota_redis_up",
            "1 if the Redis that nodes share answers, else 0; absent if none is set",
        );
        let events = EventMetrics::new(&mut registry);
        #[cfg(feature = "cluster")]
        let bus = bus::BusMetrics::new(&mut registry);
        Self(Arc::new(Inner {
            registry,
            #[cfg(feature = "cluster")]
            bus,
            events,
            queues: Bounded::new(MAX_QUEUES),
            endpoints: Bounded::new(MAX_ENDPOINTS),
            families,
            wait,
            run,
            delay,
            rate_limited,
            redis_up,
        }))
    }

    /// All metrics as text; see [`Metrics::CONTENT_TYPE`].
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string can't fail.
        let _ = text::encode(&mut text, &self.0.registry);
        text
    }

    /// An ingestion was accepted.
    pub fn submitted(&self, queue: &str, priority: Priority) {
        if let Some(counter) = self
            .queue(queue)
            .submitted
            .get(usize::from(priority.rank()))
        {
            counter.inc();
        }
    }

    /// A batch was started `delay` after its slot opened; `waited` since it was submitted, if this
    /// is its first start.
    pub fn started(&self, queue: &str, waited: Option<Duration>, delay: Duration) {
        self.queue(queue).started.inc();
        if let Some(waited) = waited {
            self.0.wait.observe(waited.as_secs_f64());
        }
        self.0.delay.observe(delay.as_secs_f64());
    }

    /// `batches` ended with `status` before they were ever started.
    pub fn ended_unstarted(&self, queue: &str, status: BatchStatus, batches: u32) {
        if let Some(counter) = self.queue(queue).finished.get(usize::from(status.code())) {
            counter.inc_by(u64::from(batches));
        }
    }

    /// A batch ended with `status`, `ran` after its start.
    pub fn finished(&self, queue: &str, status: BatchStatus, ran: Duration) {
        if let Some(counter) = self.queue(queue).finished.get(usize::from(status.code())) {
            counter.inc();
        }
        self.0.run.observe(ran.as_secs_f64());
    }

    /// `n` batches of this urgency wait in `queue` now.
    pub fn set_waiting(&self, queue: &str, priority: Priority, n: u64) {
        if let Some(gauge) = self.queue(queue).waiting.get(usize::from(priority.rank())) {
            gauge.set(i64::try_from(n).unwrap_or(i64::MAX));
        }
    }

    /// A request was refused since its client made too many.
    pub fn rate_limited(&self) {
        self.0.rate_limited.inc();
    }

    /// Whether the Redis that nodes share answers.
    pub fn set_redis_up(&self, up: bool) {
        self.0.redis_up.get_or_create(&[]).set(i64::from(up));
    }

    /// A request was answered; `endpoint` is its route's pattern.
    pub fn api_request(&self, method: &str, endpoint: &str, status: u16, took: Duration) {
        let endpoint = self.0.endpoints.get(endpoint, Endpoint::new);
        endpoint.count(&self.0.families, method, status, took.as_secs_f64());
    }

    fn queue(&self, name: &str) -> Arc<Queue> {
        self.0
            .queues
            .get(name, |name| Queue::new(&self.0.families, name))
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Queue {
    fn new(families: &Families, queue: &Arc<str>) -> Self {
        let by_rank = |rank| {
            let priority = Priority::from_rank(rank).map_or(OTHER, Priority::as_str);
            QueuePriority {
                queue: Arc::clone(queue),
                priority,
            }
        };
        let label = QueueLabel {
            queue: Arc::clone(queue),
        };
        Self {
            submitted: [0, 1, 2].map(|rank| families.submitted.get_or_create_owned(&by_rank(rank))),
            waiting: [0, 1, 2].map(|rank| families.waiting.get_or_create_owned(&by_rank(rank))),
            started: families.started.get_or_create_owned(&label),
            finished: BatchStatus::ALL.map(|status| {
                families.finished.get_or_create_owned(&QueueStatus {
                    queue: Arc::clone(queue),
                    status: status.as_str(),
                })
            }),
        }
    }
}

impl Endpoint {
    fn new(name: &Arc<str>) -> Self {
        Self {
            name: Arc::clone(name),
            methods: RwLock::new(Vec::new()),
        }
    }

    fn count(&self, families: &Families, method: &str, status: u16, seconds: f64) {
        let known = METHODS.into_iter().find(|known| *known == method);
        let method = known.unwrap_or(OTHER);
        {
            let methods = self.methods.read();
            let found = methods.iter().find(|entry| entry.name == method);
            if let Some((entry, counter)) =
                found.and_then(|entry| Some((entry, entry.get(status)?)))
            {
                counter.inc();
                entry.duration.observe(seconds);
                return;
            }
        }
        let (duration, counter) = self.add(families, method, status);
        counter.inc();
        duration.observe(seconds);
    }

    #[cold]
    fn add(
        &self,
        families: &Families,
        method: &'static str,
        status_code: u16,
    ) -> (Histogram, Counter) {
        let duration = families.durations.get_or_create_owned(&MethodEndpoint {
            method,
            endpoint: Arc::clone(&self.name),
        });
        let counter = families.requests.get_or_create_owned(&Request {
            method,
            endpoint: Arc::clone(&self.name),
            status_code,
        });
        let mut methods = self.methods.write();
        match methods.iter_mut().find(|entry| entry.name == method) {
            Some(entry) if entry.get(status_code).is_some() => {}
            Some(entry) => entry.statuses.push((status_code, counter.clone())),
            None => methods.push(Method {
                name: method,
                duration: duration.clone(),
                statuses: vec![(status_code, counter.clone())],
            }),
        }
        (duration, counter)
    }
}

impl Method {
    fn get(&self, status: u16) -> Option<&Counter> {
        let found = self.statuses.iter().find(|(known, _)| *known == status);
        found.map(|(_, counter)| counter)
    }
}

#[cfg(test)]
mod tests;
