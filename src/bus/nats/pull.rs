//! Messages as they are delivered.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use async_nats::jetstream::consumer::{PullConsumer, pull};
use async_nats::jetstream::{AckKind, Message};
use futures_util::Stream;
use thiserror::Error;

use super::ANSWER;
use crate::bus::codec;
use crate::model::bus::MessageName;
use crate::telemetry::Metrics;

/// The most messages that are asked for at once.
const MAX_MESSAGES: usize = 256;

/// The most bytes that are asked for at once. Few, for what waits here while other messages are
/// committed must be acknowledged in time, too.
const MAX_BYTES: usize = 4 << 20;

/// The most bytes, once they are open, of the messages that are taken together.
const MAX_OPEN: usize = 8 << 20;

/// How long a request for messages stands.
const EXPIRES: Duration = Duration::from_secs(30);

/// How often the server says that it is there while there are no messages.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Why no messages come: another try may help.
#[derive(Debug, Error)]
#[error("{0}")]
pub(crate) struct PullError(pub(super) String);

/// One of those that read.
pub(crate) struct Pull {
    stream: pull::Stream,
    metrics: Metrics,
}

impl Pull {
    pub(super) async fn new(consumer: &PullConsumer, metrics: Metrics) -> Result<Self, PullError> {
        let stream = consumer
            .stream()
            .max_messages_per_batch(MAX_MESSAGES)
            .max_bytes_per_batch(MAX_BYTES)
            .expires(EXPIRES)
            .heartbeat(HEARTBEAT)
            .messages()
            .await
            .map_err(|error| PullError(error.to_string()))?;
        Ok(Self { stream, metrics })
    }

    /// The next messages, as soon as there is one: it and those that have come with it. Nothing is
    /// lost if this is not polled to its end.
    pub(crate) async fn next(&mut self) -> Result<Vec<Delivery>, PullError> {
        poll_fn(|cx| {
            let mut taken = Taken::default();
            while taken.has_room() {
                match Pin::new(&mut self.stream).poll_next(cx) {
                    Poll::Ready(Some(Ok(message))) => taken.push(message, &self.metrics),
                    // What was taken comes first; the next call meets the end again, or goes on.
                    Poll::Ready(_) | Poll::Pending if !taken.messages.is_empty() => break,
                    Poll::Ready(Some(Err(error))) => {
                        return Poll::Ready(Err(PullError(error.to_string())));
                    }
                    Poll::Ready(None) => {
                        return Poll::Ready(Err(PullError("there are no more".to_owned())));
                    }
                    Poll::Pending => return Poll::Pending,
                }
            }
            Poll::Ready(Ok(taken.messages))
        })
        .await
    }

    /// What has come and was not taken.
    pub(crate) async fn rest(&mut self) -> Vec<Delivery> {
        let mut next = Box::pin(self.next());
        poll_fn(|cx| match next.as_mut().poll(cx) {
            Poll::Ready(Ok(messages)) => Poll::Ready(messages),
            _ => Poll::Ready(Vec::new()),
        })
        .await
    }
}

/// Messages within their bounds.
#[derive(Default)]
struct Taken {
    messages: Vec<Delivery>,
    bytes: usize,
}

impl Taken {
    const fn has_room(&self) -> bool {
        self.messages.len() < MAX_MESSAGES && self.bytes < MAX_OPEN
    }

    fn push(&mut self, message: Message, metrics: &Metrics) {
        let Some(delivery) = Delivery::of(message) else {
            return;
        };
        if delivery.times > 1 {
            metrics.bus_redelivered();
        }
        self.bytes = self.bytes.saturating_add(codec::open_len(delivery.bytes()));
        self.messages.push(delivery);
    }
}

/// A message, delivered. Dropped without a sign, it is delivered again later.
pub(crate) struct Delivery {
    message: Message,
    /// How often it was delivered, this time included.
    pub(crate) times: u64,
    /// Which message it is.
    pub(crate) name: MessageName,
}

impl Delivery {
    /// `None` if it does not say which message it is, as every message of a consumer does: what can't be
    /// told from others can't be committed once.
    fn of(message: Message) -> Option<Self> {
        let found = message.info().ok().and_then(|info| {
            let published = info.published.unix_timestamp_nanos();
            let name = MessageName {
                place: info.stream_sequence,
                published: i64::try_from(published).ok()?,
            };
            Some((u64::try_from(info.delivered).unwrap_or(1), name))
        });
        let Some((times, name)) = found else {
            tracing::warn!("a message of NATS without a name was left aside");
            return None;
        };
        Some(Self {
            message,
            times,
            name,
        })
    }

    /// What it says.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.message.payload
    }

    /// The same, shared.
    pub(crate) fn shared(&self) -> impl AsRef<[u8]> + Send + use<> {
        self.message.payload.clone()
    }
}

/// What becomes of messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sign {
    /// They are committed: they go.
    Done,
    /// They are in hand: others shall not have them yet.
    InHand,
    /// Somebody shall have them after so long.
    Again(Duration),
    /// They go, and were not committed.
    Gone,
}

impl From<Sign> for AckKind {
    fn from(sign: Sign) -> Self {
        match sign {
            Sign::Done => Self::Ack,
            Sign::InHand => Self::Progress,
            Sign::Again(delay) => Self::Nak(Some(delay)),
            Sign::Gone => Self::Term,
        }
    }
}

/// Tells the server what became of messages. It waits for room on the way there, and for no answer:
/// a sign that is lost only means that the message comes again.
pub(crate) async fn sign(deliveries: impl IntoIterator<Item = &Delivery>, sign: Sign) {
    let signing = async {
        for delivery in deliveries {
            if let Err(error) = delivery.message.ack_with(sign.into()).await {
                tracing::debug!("a sign to NATS was lost: {error}");
            }
        }
    };
    // Without a connection there is no room.
    let _ = tokio::time::timeout(ANSWER, signing).await;
}
