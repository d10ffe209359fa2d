//! The way of a request's events onto the bus.
//!
//! ```text
//! body ──▶ parse ──▶ messages ──▶ stream ──▶ dead letters ──▶ answer: queued
//! ```
//! The request is parsed and refused as without a bus. Dead letters are stored after its good events
//! were taken: a request that fails and is sent again leaves each of them once.

use super::Events;
use super::ingest::{IngestError, Ingested, Outcome, Outline, Step};
use crate::bus::{BusError, Nats, codec};
use crate::store::NewLetter;
use crate::telemetry::metrics::Failure;

/// Events that need only be sent.
struct Encoded {
    messages: Vec<Vec<u8>>,
    events: usize,
    letters: Vec<NewLetter>,
    outline: Outline,
}

impl Events {
    /// Sends the events of a body. When it returns, the bus has them all.
    pub(super) async fn enqueue<B>(
        &self,
        nats: &Nats,
        body: B,
        step: Step,
    ) -> Result<Ingested, IngestError>
    where
        B: AsRef<[u8]> + Send + 'static,
    {
        let limit = nats.max_message();
        let encoded = self.on_a_core(body, move |body| encode(step, body, limit));
        let Encoded {
            messages,
            events,
            letters,
            outline,
        } = encoded.await?;
        if !messages.is_empty() {
            nats.publish(messages).await.inspect_err(|error| {
                let failure = match error {
                    BusError::Busy | BusError::Full => Failure::QueueFull,
                    BusError::Away => Failure::Unavailable,
                };
                self.metrics.events_failed(failure, events as u64);
            })?;
        }
        if !letters.is_empty() {
            let prepared = self.store.prepare(&[], letters)?;
            self.store.append(prepared).await?;
        }
        Ok(Ingested {
            queued: Some(events as u64),
            ..outline.ingested(std::iter::repeat_n(Outcome::Queued, events))
        })
    }
}

fn encode(step: Step, body: &[u8], limit: usize) -> Result<Encoded, IngestError> {
    let found = step.parse(body)?;
    Ok(Encoded {
        messages: codec::encode(&found.events, step.now, limit),
        events: found.events.len(),
        letters: found.letters,
        outline: found.outline,
    })
}
