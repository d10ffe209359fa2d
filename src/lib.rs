//! Tollgate: a priority job-scheduling and data-ingestion service.

pub mod clock;
pub mod model;
