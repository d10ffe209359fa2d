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

/// Which message of the bus: its place in the stream, and when it got there, for a stream may be made anew.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MessageName {
    /// Its place, counted from 1.
    pub place: u64,
    /// When it got there, in nanoseconds since 1970.
    pub published: i64,
}

impl MessageName {
    /// How many places a stretch of the stream has. The schema of PostgreSQL says the same.
    const STRETCH: u64 = 256;

    /// The stretch of the stream that it is in: names are kept by it, so that few are looked at to find
    /// one, however far apart the messages of a commit are.
    #[must_use]
    pub const fn stretch(self) -> u64 {
        Self::stretch_of(self.place)
    }

    /// The stretch with this place.
    #[must_use]
    pub const fn stretch_of(place: u64) -> u64 {
        place / Self::STRETCH
    }
}
