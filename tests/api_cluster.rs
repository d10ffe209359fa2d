//! The same tests of the API as in `api`, over two nodes that take the requests in turn: whatever one
//! has answered, the other knows at the next request.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods
)]

#[path = "api/analytics.rs"]
mod analytics;
#[path = "api/analytics_refused.rs"]
mod analytics_refused;
#[path = "api/analytics_segments.rs"]
mod analytics_segments;
#[path = "api/analytics_stream.rs"]
mod analytics_stream;
#[path = "support/backing.rs"]
mod backing;
#[path = "api/common.rs"]
mod common;
#[path = "api/dead_letters.rs"]
mod dead_letters;
#[path = "api/errors.rs"]
mod errors;
#[path = "api/events.rs"]
mod events;
#[path = "api/events_read.rs"]
mod events_read;
#[path = "api/events_stream.rs"]
mod events_stream;
#[path = "api/hostile.rs"]
mod hostile;
#[path = "support/port.rs"]
mod port;
#[path = "api/results.rs"]
mod results;
#[path = "api/service.rs"]
mod service;
#[path = "api/status.rs"]
mod status;

/// How many servers take the requests of a test in turn.
const NODES: usize = 2;
