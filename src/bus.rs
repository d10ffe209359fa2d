//! The bus: where the events of clients go first.
//!
//! ```text
//! Local   request ──▶ store ──▶ answer: accepted or duplicate
//! Nats    request ──▶ JetStream ──▶ answer: queued
//!                         └──▶ consumer, on any node ──▶ store ──▶ acknowledgement
//! ```
//! Over `Local` there is no bus: events go straight to the store. Over `Nats` JetStream takes bursts;
//! what it acknowledged is in the store later, once, whoever dies in between.
//!
//! This module moves messages and knows nothing of the store; `events` makes messages of requests
//! and commits what comes out.

#[cfg(feature = "cluster")]
pub(crate) mod codec;
#[cfg(feature = "cluster")]
mod nats;

use thiserror::Error;

use crate::clock::Clock;
use crate::model::bus::{BusSettings, BusState};
use crate::telemetry::Metrics;

#[cfg(feature = "cluster")]
pub use nats::Nats;
#[cfg(feature = "cluster")]
pub(crate) use nats::{Delivery, Pull, Sign, sign};

/// Why a bus was not opened: one line for the operator.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct OpenBusError(pub String);

/// Why messages were not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum BusError {
    /// The bytes that are being sent are as many as may be.
    #[error("too many events are on their way to the bus")]
    Busy,
    /// The bytes that wait to be committed are as many as may be.
    #[error("the bus is full of events that wait to be committed")]
    Full,
    /// It does not answer. Messages may have reached it all the same.
    #[error("the bus does not answer")]
    Away,
}

/// Where the events of clients go first. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub enum Bus {
    /// Straight to the store.
    #[default]
    Local,
    /// To NATS JetStream.
    #[cfg(feature = "cluster")]
    Nats(Nats),
}

impl Bus {
    /// The bus of these settings; none without.
    ///
    /// Servers that can't be reached are tried on and on in the background; a refusal that will not
    /// pass (wrong credentials, a stream that is set up otherwise) is an error.
    #[cfg_attr(
        not(feature = "cluster"),
        expect(clippy::unused_async, reason = "a bus is reached over the network")
    )]
    pub async fn open(
        settings: Option<&BusSettings>,
        clock: &Clock,
        metrics: &Metrics,
    ) -> Result<Self, OpenBusError> {
        match settings {
            None => Ok(Self::Local),
            #[cfg(feature = "cluster")]
            Some(settings) => Nats::open(settings, clock, metrics).await.map(Self::Nats),
            #[cfg(not(feature = "cluster"))]
            Some(_) => {
                let _ = (clock, metrics);
                Err(OpenBusError(
                    "this program was built without the cargo feature `cluster`".to_owned(),
                ))
            }
        }
    }

    /// How it does; `None` if there is none.
    #[must_use]
    pub fn state(&self) -> Option<BusState> {
        match self {
            Self::Local => None,
            #[cfg(feature = "cluster")]
            Self::Nats(nats) => Some(nats.state()),
        }
    }

    /// The place in the stream up to which no message is delivered any more, as far as is known.
    #[must_use]
    pub fn settled(&self) -> Option<u64> {
        match self {
            Self::Local => None,
            #[cfg(feature = "cluster")]
            Self::Nats(nats) => nats.settled(),
        }
    }

    /// Ends what it does in the background, and sends what is still to be sent.
    #[cfg_attr(
        not(feature = "cluster"),
        expect(clippy::unused_async, reason = "a bus is reached over the network")
    )]
    pub async fn close(&self) {
        match self {
            Self::Local => {}
            #[cfg(feature = "cluster")]
            Self::Nats(nats) => nats.close().await,
        }
    }
}
