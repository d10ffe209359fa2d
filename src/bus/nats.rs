//! NATS JetStream: a work queue on files, read by one durable pull consumer that all nodes share.
//!
//! A message leaves the stream when it is acknowledged, which is after its events were committed. The
//! server delivers for ever: how often a message that can't be read is tried is decided by who reads
//! it, so that no outage of a store uses deliveries up.

mod floor;
mod pull;
mod setup;

use std::error::Error as _;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::context::{
    ConsumerInfoErrorKind, ContextBuilder, PublishAckFuture, PublishError, PublishErrorKind,
};
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{Client, ConnectErrorKind, ConnectOptions};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::task::JoinHandle;

use super::codec::MAX_MESSAGE;
use super::{BusError, OpenBusError};
use crate::clock::Clock;
use crate::model::bus::{BusSettings, BusState};
use crate::telemetry::Metrics;
use floor::Floor;
use pull::PullError;
pub(crate) use pull::{Delivery, Pull, Sign, sign};
use setup::SetupError;

/// The subject of messages with events.
const SUBJECT: &str = "tollgate.events";

/// How long the servers are waited for at the start, before the service starts without them.
const START: Duration = Duration::from_secs(5);

/// The pause between two attempts to connect, and between two looks at the consumer.
const PAUSE: Duration = Duration::from_millis(250);

/// How often the lag is asked for.
const LOOK: Duration = Duration::from_secs(1);

/// The most time for an acknowledgement, or for any other answer.
const ANSWER: Duration = Duration::from_secs(5);

/// The most time for sending what is still to be sent, at the end.
const FLUSH: Duration = Duration::from_millis(500);

/// The most bytes of messages on their way, in KiB.
const MAX_IN_FLIGHT: u32 = 64 * 1024;

/// Commands to the connection that may wait. Each may hold a message: those of requests that were
/// given up stay here until the servers are back.
const MAX_COMMANDS: usize = 128;

/// How often a connection without traffic is tried: after three without an answer it is made anew.
const PING: Duration = Duration::from_secs(5);

/// The connection, and what is known of the stream. Cheap to clone.
#[derive(Clone)]
pub struct Nats(Arc<Inner>);

struct Inner {
    client: Client,
    jetstream: jetstream::Context,
    settings: BusSettings,
    clock: Clock,
    metrics: Metrics,
    in_flight: InFlight,
    /// `None` until the stream and its consumer are known to be there.
    consumer: watch::Sender<Option<PullConsumer>>,
    lag: watch::Sender<u64>,
    floor: Mutex<Floor>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nats").finish_non_exhaustive()
    }
}

impl Nats {
    /// Connects, and makes or checks the stream and its consumer.
    pub(super) async fn open(
        settings: &BusSettings,
        clock: &Clock,
        metrics: &Metrics,
    ) -> Result<Self, OpenBusError> {
        let until = clock.now().mono.saturating_add(START);
        let client = connect(settings, clock, until).await?;
        let jetstream = ContextBuilder::new()
            .timeout(ANSWER)
            // Beyond the bound on bytes: messages of a KiB each.
            .max_ack_inflight(MAX_IN_FLIGHT as usize)
            .build(client.clone());
        let nats = Self(Arc::new(Inner {
            client,
            jetstream,
            settings: settings.clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
            in_flight: InFlight::new(),
            consumer: watch::Sender::new(None),
            lag: watch::Sender::new(0),
            floor: Mutex::default(),
            keeper: Mutex::default(),
        }));
        nats.first_look(until).await?;
        let keeper = tokio::spawn(nats.clone().keep());
        *nats.0.keeper.lock() = Some(keeper);
        Ok(nats)
    }

    /// Sets all up, unless that takes too long.
    async fn first_look(&self, until: Duration) -> Result<(), OpenBusError> {
        loop {
            let error = if self.is_connected() {
                match self.look().await {
                    Ok(()) => return Ok(()),
                    Err(SetupError::Refused(sentence)) => return Err(OpenBusError(sentence)),
                    Err(SetupError::Passing(error)) => error,
                }
            } else {
                "no connection".to_owned()
            };
            if self.0.clock.now().mono >= until {
                tracing::warn!(
                    "NATS does not answer ({error}): events are refused until it does; all else works"
                );
                return Ok(());
            }
            self.0.clock.sleep(PAUSE).await;
        }
    }

    /// Keeps the lag, and sets up again what is gone.
    async fn keep(self) {
        let mut was_up = self.state().up;
        self.0.metrics.set_bus(self.state());
        loop {
            self.0.clock.sleep(LOOK).await;
            let looked = if self.is_connected() {
                self.look().await
            } else {
                Err(SetupError::Passing("no connection".to_owned()))
            };
            if let Err(error) = &looked {
                self.0.consumer.send_replace(None);
                if was_up {
                    tracing::warn!("NATS is away, events are refused: {error}");
                }
            } else if !was_up {
                tracing::info!("NATS is back, events are taken");
            }
            was_up = looked.is_ok();
            self.0.metrics.set_bus(self.state());
        }
    }

    /// Asks for the lag; makes or checks stream and consumer if they aren't known.
    async fn look(&self) -> Result<(), SetupError> {
        let inner = &self.0;
        let known = inner.consumer.borrow().clone();
        let info = match &known {
            Some(consumer) => match consumer.get_info().await {
                Ok(info) => Some(info),
                Err(error) if is_gone(&error.kind()) => None,
                Err(error) => return Err(SetupError::Passing(error.to_string())),
            },
            None => None,
        };
        let info = if let Some(info) = info {
            info
        } else {
            let (jetstream, client) = (&inner.jetstream, &inner.client);
            let made = setup::stream_and_consumer(jetstream, &inner.settings, client.max_payload())
                .await?;
            let info = made.cached_info().clone();
            // It may be another stream than before.
            *inner.floor.lock() = Floor::default();
            inner.consumer.send_replace(Some(made));
            info
        };
        // Killed, the server may have wrong what waits for an acknowledgement, or what it has.
        let waits = info.num_pending.saturating_add(info.num_ack_pending as u64);
        let (has, first) = setup::stream_state(&inner.jetstream).await?;
        inner.lag.send_replace(waits.min(has));
        let floor = info.ack_floor.stream_sequence.max(first.saturating_sub(1));
        inner.floor.lock().look(inner.clock.now().mono, floor);
        Ok(())
    }

    fn is_connected(&self) -> bool {
        self.0.client.connection_state() == State::Connected
    }

    /// Whether it takes messages, and how many wait.
    pub(super) fn state(&self) -> BusState {
        BusState {
            up: self.is_connected() && self.0.consumer.borrow().is_some(),
            lag: *self.0.lag.borrow(),
        }
    }

    /// The place up to which no message is delivered any more, as of the last look.
    pub(super) fn settled(&self) -> Option<u64> {
        // What was looked at before it was away may be another stream than what comes back.
        self.state().up.then(|| self.0.floor.lock().settled())?
    }

    /// The longest message.
    #[must_use]
    pub(crate) fn max_message(&self) -> usize {
        self.0.client.max_payload().min(MAX_MESSAGE)
    }

    /// How often a message that can't be read is delivered.
    #[must_use]
    pub(crate) fn max_deliver(&self) -> u64 {
        self.0.settings.max_deliver.into()
    }

    /// Sends messages; when it returns, the stream has them all.
    pub(crate) async fn publish(&self, messages: Vec<Vec<u8>>) -> Result<(), BusError> {
        let inner = &self.0;
        let bytes = messages.iter().map(Vec::len).sum();
        let _place = inner.in_flight.take(bytes).ok_or(BusError::Busy)?;
        if !self.state().up {
            return Err(BusError::Away);
        }
        let mut sent: Vec<PublishAckFuture> = Vec::with_capacity(messages.len());
        for message in messages {
            let ack = inner.jetstream.publish(SUBJECT, message.into()).await;
            sent.push(ack.map_err(|error| refusal(&error))?);
        }
        // All are on their way: the waits overlap.
        let count = sent.len() as u64;
        for ack in sent {
            ack.await.map_err(|error| refusal(&error))?;
        }
        inner.metrics.bus_published(count);
        Ok(())
    }

    /// A place among those that read, once the stream is there.
    pub(crate) async fn pull(&self) -> Result<Pull, PullError> {
        let mut consumer = self.0.consumer.subscribe();
        let found = match consumer.wait_for(Option::is_some).await {
            Ok(found) => found.clone(),
            Err(_) => None,
        };
        let found = found.ok_or_else(|| PullError("the bus is closed".to_owned()))?;
        Pull::new(&found, self.0.metrics.clone()).await
    }

    /// Ends the keeper, and sends what is still to be sent.
    pub(super) async fn close(&self) {
        if let Some(keeper) = self.0.keeper.lock().take() {
            keeper.abort();
        }
        if self.is_connected() {
            // Acknowledgements that don't get out come to nothing worse than a second delivery.
            let _ = tokio::time::timeout(FLUSH, self.0.client.flush()).await;
        }
    }
}

/// The bytes of messages on their way, bounded.
struct InFlight(Semaphore);

impl InFlight {
    const fn new() -> Self {
        Self(Semaphore::const_new(MAX_IN_FLIGHT as usize))
    }

    /// A place for so many bytes; `None` if there are too many already. A request with more than the
    /// bound goes alone.
    fn take(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        self.0.try_acquire_many(kib.clamp(1, MAX_IN_FLIGHT)).ok()
    }
}

/// A connection; one that is still being tried when the time is up.
async fn connect(
    settings: &BusSettings,
    clock: &Clock,
    until: Duration,
) -> Result<Client, OpenBusError> {
    let options = || {
        ConnectOptions::new()
            .name("tollgate")
            .connection_timeout(ANSWER)
            .request_timeout(Some(ANSWER))
            .client_capacity(MAX_COMMANDS)
            .ping_interval(PING)
    };
    let refused = |error: &dyn fmt::Display| OpenBusError(format!("bus.url: NATS: {error}"));
    loop {
        let error = match options().connect(&settings.servers).await {
            Ok(client) => return Ok(client),
            Err(error) => error,
        };
        match error.kind() {
            ConnectErrorKind::Authentication
            | ConnectErrorKind::AuthorizationViolation
            | ConnectErrorKind::ServerParse
            | ConnectErrorKind::Tls => return Err(refused(&error)),
            _ => {}
        }
        if clock.now().mono >= until {
            let trying = options().retry_on_initial_connect();
            let client = trying.connect(&settings.servers).await;
            return client.map_err(|error| refused(&error));
        }
        clock.sleep(PAUSE).await;
    }
}

/// Whether the stream or its consumer has to be made again.
const fn is_gone(error: &ConsumerInfoErrorKind) -> bool {
    matches!(
        error,
        ConsumerInfoErrorKind::NotFound | ConsumerInfoErrorKind::StreamNotFound
    )
}

/// What it means that a message was not taken.
fn refusal(error: &PublishError) -> BusError {
    let Some(answer) = error
        .source()
        .and_then(|source| source.downcast_ref::<jetstream::Error>())
    else {
        if error.kind() == PublishErrorKind::MaxPayloadExceeded {
            tracing::warn!("NATS takes only shorter messages than it did: {error}");
        }
        return BusError::Away;
    };
    match answer.error_code() {
        ErrorCode::INSUFFICIENT_RESOURCES
        | ErrorCode::STORAGE_RESOURCES_EXCEEDED
        | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED => BusError::Full,
        // "maximum bytes exceeded"; the same code stands for a disk that fails.
        ErrorCode::STREAM_STORE_FAILED if answer.to_string().contains("maximum") => BusError::Full,
        _ => {
            tracing::warn!("NATS took no message: {answer}");
            BusError::Away
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_bytes_are_on_their_way_and_no_more() {
        let bound = MAX_IN_FLIGHT as usize * 1024;
        let in_flight = InFlight::new();
        let most = in_flight.take(bound - 1024);
        assert!(most.is_some());
        assert!(in_flight.take(1025).is_none());
        let last = in_flight.take(1024);
        assert!(last.is_some());
        assert!(in_flight.take(1).is_none());
        drop((most, last));
        let alone = in_flight.take(usize::MAX);
        assert!(alone.is_some());
        assert!(in_flight.take(1).is_none());
    }
}
