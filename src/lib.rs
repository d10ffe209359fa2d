//! Tollgate: a priority job-scheduling and data-ingestion service.

pub mod clock;
pub mod config;
pub mod jobs;
pub mod model;
pub mod store;
pub mod telemetry;
