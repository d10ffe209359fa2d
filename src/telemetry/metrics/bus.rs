//! The metrics of the bus. All are zero where none is set.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Metrics, add};
use crate::model::bus::BusState;

pub(super) struct BusMetrics {
    up: Gauge,
    lag: Gauge,
    published: Counter,
    redelivered: Counter,
    dead_lettered: Counter,
}

impl BusMetrics {
    /// All at zero, and known to `all`.
    pub(super) fn new(all: &mut Registry) -> Self {
        Self {
            up: add(all, "bus_up", "1 if the bus takes events, else 0"),
            lag: add(
                all,
                "bus_lag",
                "Messages of events that wait to be committed",
            ),
            published: add(
                all,
                "bus_published",
                "Messages of events acknowledged by the bus",
            ),
            redelivered: add(
                all,
                "bus_redelivered",
                "Messages that were delivered to this process and had been delivered before",
            ),
            dead_lettered: add(
                all,
                "bus_dead_lettered",
                "Messages that became dead letters",
            ),
        }
    }
}

impl Metrics {
    /// How the bus does.
    pub fn set_bus(&self, state: BusState) {
        self.0.bus.up.set(i64::from(state.up));
        let lag = i64::try_from(state.lag).unwrap_or(i64::MAX);
        self.0.bus.lag.set(lag);
    }

    /// The bus has acknowledged so many messages.
    pub fn bus_published(&self, messages: u64) {
        self.0.bus.published.inc_by(messages);
    }

    /// A message came again.
    pub fn bus_redelivered(&self) {
        self.0.bus.redelivered.inc();
    }

    /// So many messages became dead letters.
    pub fn bus_dead_lettered(&self, messages: u64) {
        self.0.bus.dead_lettered.inc_by(messages);
    }
}
