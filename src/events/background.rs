//! What goes on with events beside requests, as one value to stop it by.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::{Events, housekeeping};
use crate::bus::Bus;

/// The housekeeping, and the tasks that commit what is on the bus.
pub struct Background {
    keeper: AbortHandle,
    stopping: watch::Sender<bool>,
    /// None without a bus.
    consumers: JoinSet<()>,
}

impl Events {
    /// Starts it: small blocks are merged, events are erased or moved to the cold tier when they are old,
    /// what the bus has is committed, and what it has done with is forgotten.
    #[must_use]
    pub fn start(&self) -> Background {
        let keeper = tokio::spawn(housekeeping::run(self.clone()));
        let stopping = watch::Sender::new(false);
        let consumers = match &self.bus {
            Bus::Local => JoinSet::new(),
            #[cfg(feature = "cluster")]
            Bus::Nats(nats) => super::consume::start(self, nats, &stopping),
        };
        Background {
            keeper: keeper.abort_handle(),
            stopping,
            consumers,
        }
    }
}

impl Background {
    /// Ends the housekeeping, takes no more messages, and returns when those in hand are committed, or
    /// when `limit` is over: what is in hand then is delivered again.
    pub async fn stop(mut self, limit: Duration) {
        self.keeper.abort();
        self.stopping.send_replace(true);
        let ended = async { while self.consumers.join_next().await.is_some() {} };
        if tokio::time::timeout(limit, ended).await.is_err() {
            tracing::warn!(
                "messages in hand were not committed in time; they will be delivered again"
            );
            self.consumers.abort_all();
        }
    }
}
