//! What the process says of itself: the log and the metrics.

pub mod log;
pub mod metrics;

pub use metrics::Metrics;
