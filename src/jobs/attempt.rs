//! One attempt at a batch: waits for its moment, does the work, keeps the results. And what is left to do
//! after the last attempt.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::decide::Finished;
use super::processor::{Failure, IdResult, Processor, Work};
use super::results;
use crate::clock::Clock;
use crate::events::Events;
use crate::model::event::Event;
use crate::model::id::{BatchIndex, IngestionRef};
use crate::model::time::Now;

/// Holds the work back until the pace allows it, and tells when it began.
pub(crate) struct Gate {
    pub(crate) clock: Clock,
    pub(crate) begins_at: Duration,
    /// After this, the work does not begin.
    pub(crate) not_after: Option<Duration>,
    /// `None`: it was too late.
    pub(crate) begun: oneshot::Sender<Option<Now>>,
}

impl Gate {
    /// Waits, and tells. Whether the work may begin.
    async fn pass(self) -> bool {
        let at = self.clock.hold_until(self.begins_at).await;
        let open = self.not_after.is_none_or(|last| at.mono <= last);
        // The receiver is gone only when the process ends, or the term.
        self.begun.send(open.then_some(at)).is_ok() && open
    }
}

/// One attempt at a batch.
pub(crate) struct Attempt {
    pub(crate) processor: Arc<Processor>,
    pub(crate) events: Events,
    pub(crate) ingestion: IngestionRef,
    pub(crate) work: Work,
    pub(crate) gate: Gate,
}

impl Attempt {
    /// Does the work and keeps the results of what was processed. `None`: the gate was closed.
    ///
    /// Dropping the future ends the work.
    pub(crate) async fn run(self) -> Option<Finished> {
        let (clock, gate) = (self.gate.clock.clone(), self.gate);
        let (processor, work) = (self.processor, self.work.clone());
        // Through the gate in the task that does the work: between the moment it tells and the work
        // there is nothing that could take time.
        let mut doing = JoinSet::new();
        doing.spawn(async move {
            if gate.pass().await {
                Some(processor.run(work).await)
            } else {
                None
            }
        });
        let mut results = doing.join_next().await?.unwrap_or_else(|error| {
            tracing::error!("the processor stopped in the middle of a batch: {error}");
            Some(broken_down(&self.work))
        })?;
        let at = clock.now().wall;
        let processed = results::of_processed(&self.work, &results, at);
        if !results::keep(&self.events, &clock, &processed).await {
            tracing::warn!(ingestion = %self.ingestion.id, "{}: its results could not be kept", self.work.batch.batch_id());
            results = results::not_kept(results);
        }
        Some(Finished {
            ingestion: self.ingestion,
            batch: self.work.batch,
            results,
            at,
            jitter: fastrand::f64(),
        })
    }
}

/// A batch that is given up, which is on disk: what failed in its last attempt is to be kept.
pub(crate) struct GivenUp {
    pub(crate) events: Events,
    pub(crate) clock: Clock,
    pub(crate) ingestion: IngestionRef,
    pub(crate) batch: BatchIndex,
    pub(crate) results: Vec<Event<'static>>,
}

impl GivenUp {
    /// Keeps the results; then the batch ends, also where they could not be kept.
    pub(crate) async fn run(self) -> Option<Finished> {
        if !results::keep(&self.events, &self.clock, &self.results).await {
            tracing::warn!(ingestion = %self.ingestion.id, "{}: its results could not be kept", self.batch.batch_id());
        }
        Some(Finished {
            ingestion: self.ingestion,
            batch: self.batch,
            results: Vec::new(),
            at: self.clock.now().wall,
            jitter: 0.0,
        })
    }
}

/// A processor that panics fails every id instead of blocking the queue.
fn broken_down(work: &Work) -> Vec<IdResult> {
    let failure = Failure {
        reason: "the processor stopped in the middle".to_owned(),
        retry_after: None,
    };
    let due = work.due.iter();
    due.map(|(position, id)| IdResult {
        position: *position,
        id: *id,
        result: Err(failure.clone()),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;
    use crate::clock::ManualClock;
    use crate::events::EventsSettings;
    use crate::model::id::{Arrival, IngestionId};
    use crate::model::queue::{HttpSettings, ProcessorSettings, UpstreamTemplate};
    use crate::model::time::Timestamp;
    use crate::store::{Store, StoreSettings};
    use crate::telemetry::Metrics;

    const MS: Duration = Duration::from_millis(1);

    /// Nothing here takes that long.
    const PATIENCE: Duration = Duration::from_mins(1);

    fn gate(
        clock: &ManualClock,
        not_after: Option<Duration>,
    ) -> (Gate, oneshot::Receiver<Option<Now>>) {
        let (begun, told) = oneshot::channel();
        let gate = Gate {
            clock: Clock::Manual(clock.clone()),
            begins_at: 3 * MS,
            not_after,
            begun,
        };
        (gate, told)
    }

    #[tokio::test]
    async fn work_that_was_held_up_past_what_is_booked_does_not_begin() {
        let clock = ManualClock::starting_at(Timestamp::EPOCH);
        clock.advance(10 * MS);
        for (not_after, begins) in [(None, true), (Some(10 * MS), true), (Some(9 * MS), false)] {
            let (gate, told) = gate(&clock, not_after);
            assert_eq!(gate.pass().await, begins);
            let at = told.await.unwrap();
            assert_eq!(at.map(|at| at.mono), begins.then_some(10 * MS));
        }
    }

    #[tokio::test]
    async fn work_ends_with_its_term() {
        let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/{{id}}", upstream.local_addr().unwrap());
        let template = UpstreamTemplate::parse(&url).unwrap();
        let settings = ProcessorSettings::Http(Box::new(HttpSettings {
            timeout: Duration::from_hours(1),
            ..HttpSettings::new(template)
        }));
        let dir = tempfile::tempdir().unwrap();
        let store = StoreSettings {
            dir: dir.path().to_owned(),
            accept_loss: false,
        };
        let (clock, metrics) = (Clock::system(), Metrics::new());
        let store = Store::open(&store, drop).unwrap();
        let events = EventsSettings::default();
        let (begun, _told) = oneshot::channel();
        let id = IngestionId::new(uuid::Uuid::nil());
        let attempt = Attempt {
            processor: Arc::new(Processor::new(&settings, clock.clone()).unwrap()),
            events: Events::new(store, clock.clone(), metrics, events),
            ingestion: IngestionRef {
                id,
                arrival: Arrival(1),
            },
            work: Work {
                ingestion: id,
                batch: BatchIndex(0),
                attempt: 1,
                due: vec![(0, 1)],
            },
            gate: Gate {
                clock,
                begins_at: Duration::ZERO,
                not_after: None,
                begun,
            },
        };
        let mut works = JoinSet::new();
        works.spawn(attempt.run());
        let (mut request, _) = upstream.accept().await.unwrap();
        drop(works);
        // The upstream says nothing: whoever asked has hung up.
        let mut asked = Vec::new();
        let ended = timeout(PATIENCE, request.read_to_end(&mut asked)).await;
        ended.expect("the request is given up").unwrap();
    }

    #[tokio::test]
    async fn nothing_begins_that_nobody_waits_for() {
        let clock = ManualClock::starting_at(Timestamp::EPOCH);
        clock.advance(10 * MS);
        let (gate, told) = gate(&clock, None);
        // The term is over.
        drop(told);
        assert!(!gate.pass().await);
    }
}
