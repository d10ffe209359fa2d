//! What does a batch's work.

mod http;
mod simulate;

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::model::id::{BatchIndex, IngestionId};
use crate::model::queue::ProcessorSettings;
pub use http::Http;
pub use simulate::Simulate;

/// One attempt at one batch: the ids that are due, with their positions in the batch.
#[derive(Clone, Debug)]
pub struct Work {
    /// Whose batch.
    pub ingestion: IngestionId,
    /// Which one.
    pub batch: BatchIndex,
    /// 1 the first time.
    pub attempt: u32,
    /// Position in the batch, and id. After a failed attempt, only those that failed.
    pub due: Vec<(u16, i64)>,
}

/// What came of one id.
#[derive(Clone, PartialEq, Debug)]
pub struct IdResult {
    /// The position in the batch.
    pub position: u16,
    /// The id.
    pub id: i64,
    /// What the processor got for it.
    pub result: Result<Response, Failure>,
}

/// What an upstream said of an id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Response {
    /// The HTTP status; 200 for a simulated one.
    pub status: u16,
    /// The body, at most `max_response` bytes; empty for a simulated one.
    pub body: Vec<u8>,
}

/// Why an id could not be processed this time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// One sentence.
    pub reason: String,
    /// How long the upstream asked to be left alone (RFC 9110, `Retry-After`).
    pub retry_after: Option<Duration>,
}

/// A queue's processor.
#[derive(Debug)]
pub enum Processor {
    /// Waits, and then says that it is done.
    Simulate(Simulate),
    /// Requests each id from an upstream server.
    Http(Http),
}

impl Processor {
    /// # Errors
    /// A sentence, if the settings can't be used on this machine.
    pub fn new(settings: &ProcessorSettings, clock: Clock) -> Result<Self, String> {
        Ok(match settings {
            ProcessorSettings::Simulate(settings) => Self::Simulate(Simulate::new(settings, clock)),
            ProcessorSettings::Http(settings) => Self::Http(Http::new(settings, clock)?),
        })
    }

    /// One attempt; a result for each id that is due, in order. Never fails as a whole, never
    /// panics, and always ends: every wait in it has a bound.
    ///
    /// Dropping the future ends the work: requests that are under way are given up.
    pub async fn run(self: &Arc<Self>, work: Work) -> Vec<IdResult> {
        match &**self {
            Self::Simulate(simulate) => simulate.run(work).await,
            Self::Http(http) => http.run(work).await,
        }
    }
}
