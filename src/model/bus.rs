//! The bus: where the events of clients wait until they are committed.

use std::fmt;

/// How a bus is reached and how it is bounded.
#[derive(Clone, PartialEq, Eq)]
pub struct BusSettings {
    /// The servers, each as `nats://host:port`; may hold passwords.
    pub servers: Vec<String>,
    /// On how many servers each message is.
    pub replicas: usize,
    /// The most bytes of messages that wait.
    pub max_bytes: u64,
    /// How often a message that can't be read is delivered before it becomes a dead letter.
    pub max_deliver: u32,
}

impl BusSettings {
    /// The defaults.
    #[must_use]
    pub const fn new(servers: Vec<String>) -> Self {
        Self {
            servers,
            replicas: 1,
            max_bytes: 1 << 30,
            max_deliver: 5,
        }
    }
}

/// Without the servers: their URLs may hold passwords.
impl fmt::Debug for BusSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BusSettings")
            .field("servers", &self.servers.len())
            .field("replicas", &self.replicas)
            .field("max_bytes", &self.max_bytes)
            .field("max_deliver", &self.max_deliver)
            .finish()
    }
}

/// How a bus does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BusState {
    /// Whether it takes messages.
    pub up: bool,
    /// How many messages are not committed yet, as far as is known.
    pub lag: u64,
}
