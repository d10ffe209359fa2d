#![doc = include_str!("../README.md")]

pub mod analytics;
pub mod app;
pub mod bus;
pub mod cli;
pub mod clock;
pub mod config;
pub mod events;
pub mod http;
pub mod jobs;
pub mod model;
pub mod quota;
pub mod rollups;
pub mod store;
pub mod telemetry;
