//! Queues: named, each with its own pace, batch size and processor.

use std::fmt;
use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A queue's small number, assigned once by the store and kept for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct QueueId(pub u16);

impl QueueId {
    /// As a position in a slice.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A queue's name: 1 to 64 of `a-z`, `0-9`, `-`, `_`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct QueueName(String);

impl QueueName {
    /// The queue of a submission that names none.
    pub const DEFAULT: &str = "default";

    /// Stands for a queue that is no longer configured, in the status of what once went through it.
    #[must_use]
    pub fn former() -> Self {
        Self("former".to_owned())
    }

    /// As on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for QueueName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let legal = |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
        if (1..=64).contains(&name.len()) && name.bytes().all(legal) {
            Ok(Self(name))
        } else {
            Err(format!(
                "{name:?} is no queue name: 1 to 64 of a-z, 0-9, - and _ are allowed"
            ))
        }
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The settings of one queue.
#[derive(Clone, PartialEq, Debug)]
pub struct QueueSettings {
    /// The least time between two starts; at least 1 ms.
    pub interval: Duration,
    /// The most ids in a batch.
    pub batch_size: NonZeroU16,
    /// How many batches may run at once.
    pub max_in_flight: NonZeroU32,
    /// Whether a slot takes several batches while their ids together fit into `batch_size`.
    pub pack_slots: bool,
    /// The most batches that may wait; a submission that would pass it is refused.
    pub max_waiting: u64,
    /// When a batch is tried again.
    pub retry: RetryPolicy,
    /// What does a batch's work.
    pub processor: ProcessorSettings,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            batch_size: NonZeroU16::MIN.saturating_add(2),
            max_in_flight: NonZeroU32::MIN,
            pack_slots: false,
            max_waiting: 20_000_000,
            retry: RetryPolicy::default(),
            processor: ProcessorSettings::Simulate(SimulateSettings::default()),
        }
    }
}

/// When a failed batch is tried again, in the terms of Google Cloud Tasks' `RetryConfig`
/// (<https://cloud.google.com/tasks/docs/reference/rest/v2/projects.locations.queues#RetryConfig>).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RetryPolicy {
    /// How often a batch is tried in all, the first time included.
    pub max_attempts: NonZeroU32,
    /// The wait after the first failure.
    pub min_backoff: Duration,
    /// The longest wait.
    pub max_backoff: Duration,
    /// How often the wait doubles; after that it grows by the last step, up to `max_backoff`.
    pub max_doublings: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: NonZeroU32::MIN.saturating_add(4),
            min_backoff: Duration::from_millis(500),
            max_backoff: Duration::from_mins(5),
            max_doublings: 10,
        }
    }
}

/// Which processor, with its settings.
#[derive(Clone, PartialEq, Debug)]
pub enum ProcessorSettings {
    /// Waits, and then says that it is done.
    Simulate(SimulateSettings),
    /// Requests each id from an upstream server.
    Http(Box<HttpSettings>),
}

/// Settings of the `simulate` processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SimulateSettings {
    /// The shortest run of a batch.
    pub min: Duration,
    /// The longest run of a batch.
    pub max: Duration,
    /// Makes the runs repeatable; by default each process draws its own.
    pub seed: Option<u64>,
}

impl Default for SimulateSettings {
    fn default() -> Self {
        Self {
            min: Duration::from_millis(200),
            max: Duration::from_millis(900),
            seed: None,
        }
    }
}

/// Settings of the `http` processor.
#[derive(Clone, PartialEq, Debug)]
pub struct HttpSettings {
    /// Where an id is requested: an `http` or `https` URL with `{id}` in it.
    pub upstream: UpstreamTemplate,
    /// The most time for a connection.
    pub connect_timeout: Duration,
    /// The most time for the whole request of one id.
    pub timeout: Duration,
    /// The largest response body that is read, in bytes; a larger one fails the id.
    pub max_response: u64,
}

impl HttpSettings {
    /// With the defaults for everything but the upstream.
    #[must_use]
    pub const fn new(upstream: UpstreamTemplate) -> Self {
        Self {
            upstream,
            connect_timeout: Duration::from_secs(2),
            timeout: Duration::from_secs(10),
            max_response: 1024 * 1024,
        }
    }
}

/// A URL with one or more `{id}` in its path or query.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UpstreamTemplate(String);

impl UpstreamTemplate {
    /// # Errors
    /// A sentence that says what the template lacks.
    pub fn parse(text: &str) -> Result<Self, String> {
        let scheme = ["http://", "https://"]
            .into_iter()
            .find(|scheme| text.starts_with(scheme));
        let Some(scheme) = scheme else {
            return Err(format!(
                "{text:?} is no upstream: it must start with http:// or https://"
            ));
        };
        let rest = text.get(scheme.len()..).unwrap_or_default();
        let Some((authority, path)) = rest.split_once('/') else {
            return Err(format!(
                "{text:?} is no upstream: it has no path with {{id}} in it"
            ));
        };
        if authority.is_empty() || authority.contains("{id}") {
            return Err(format!("{text:?} is no upstream: it must name a host"));
        }
        if !path.contains("{id}") {
            return Err(format!(
                "{text:?} is no upstream: {{id}} must stand in its path or query"
            ));
        }
        if text
            .bytes()
            .any(|byte| byte.is_ascii_whitespace() || byte.is_ascii_control())
        {
            return Err(format!("{text:?} is no upstream: it has white space in it"));
        }
        Ok(Self(text.to_owned()))
    }

    /// The URL of one id.
    #[must_use]
    pub fn url(&self, id: i64) -> String {
        self.0.replace("{id}", &id.to_string())
    }

    /// As it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_and_short() {
        for good in ["default", "a", "mail-2_x", &"q".repeat(64)] {
            assert!(QueueName::try_from(good.to_owned()).is_ok(), "{good}");
        }
        for bad in ["", "Mail", "a b", "ü", &"q".repeat(65)] {
            assert!(QueueName::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_template_needs_a_host_and_an_id() {
        let good = UpstreamTemplate::parse("http://127.0.0.1:9000/items/{id}?v={id}").unwrap();
        assert_eq!(good.url(-4), "http://127.0.0.1:9000/items/-4?v=-4");
        for bad in [
            "ftp://h/{id}",
            "http://h",
            "http://h/items",
            "http:///{id}",
            "http://{id}/",
            "http://h/{id} x",
        ] {
            assert!(UpstreamTemplate::parse(bad).is_err(), "{bad}");
        }
    }
}
