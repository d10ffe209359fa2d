//! What the process says of itself: the log and the metrics.

pub mod log;
pub mod metrics;

pub use metrics::Metrics;

/// `1 batch`, `2 batches`: as the log says it.
pub(crate) fn counted(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}
