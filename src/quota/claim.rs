//! `Idempotency-Key`s that a request on any node is answering, or has answered.
//!
//! The store has every answer, written together with what it answers. What is here only makes other
//! nodes wait for it, and may be lost at any time.

use std::time::Duration;

use crate::model::id::IngestionId;

/// How long a claim holds if its node says nothing more.
pub const CLAIM: Duration = Duration::from_secs(30);

/// What is known of a key on all nodes.
pub enum Claimed {
    /// Nobody else has it, as far as is known: its request may be carried out.
    Mine(Claim),
    /// Another request with it is being answered.
    InFlight,
    /// A request with it was answered.
    Answered(Answer),
}

/// The answer to a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// A hash of the request's body.
    pub body: u128,
    /// What it became.
    pub ingestion: IngestionId,
}

/// The right to answer a request with a key.
#[must_use = "what becomes of it has to be told"]
pub enum Claim {
    /// Among the requests of this process only.
    Local,
    /// Among those of all nodes.
    #[cfg(feature = "cluster")]
    Redis(super::redis::Marker),
}

impl Claim {
    /// The request was answered, and the answer is in the store: others are told for so long.
    pub async fn answered(self, answer: Answer, keep: Duration) {
        match self {
            Self::Local => {}
            #[cfg(feature = "cluster")]
            Self::Redis(marker) => marker.answered(answer, keep).await,
        }
    }

    /// There is no answer to tell of: another request may have the key.
    pub async fn release(self) {
        match self {
            Self::Local => {}
            #[cfg(feature = "cluster")]
            Self::Redis(marker) => marker.release().await,
        }
    }
}
