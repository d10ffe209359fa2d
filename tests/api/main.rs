//! The API over a real port: what a client on the network sees.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods
)]

mod analytics;
mod analytics_refused;
mod analytics_segments;
mod analytics_stream;
#[path = "../support/backing.rs"]
mod backing;
mod common;
mod dead_letters;
mod errors;
mod events;
mod events_read;
mod events_stream;
mod hostile;
#[path = "../support/port.rs"]
mod port;
mod results;
mod service;
mod status;

/// How many servers take the requests of a test in turn.
const NODES: usize = 1;
