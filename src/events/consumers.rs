//! Those that commit what is on the bus, as one value to stop them by.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Events;
use crate::bus::Bus;

/// The tasks that take messages from the bus; none without one.
pub struct Consumers {
    stopping: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Events {
    /// Starts to commit what is on the bus.
    #[must_use]
    pub fn consume(&self) -> Consumers {
        let stopping = watch::Sender::new(false);
        let tasks = match &self.bus {
            Bus::Local => JoinSet::new(),
            #[cfg(feature = "cluster")]
            Bus::Nats(nats) => super::consume::start(self, nats, &stopping),
        };
        Consumers { stopping, tasks }
    }
}

impl Consumers {
    /// Takes no more messages, and returns when those in hand are committed, or when `limit` is over:
    /// what is in hand then is delivered again.
    pub async fn stop(mut self, limit: Duration) {
        self.stopping.send_replace(true);
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(limit, ended).await.is_err() {
            tracing::warn!(
                "messages in hand were not committed in time; they will be delivered again"
            );
            self.tasks.abort_all();
        }
    }
}
