//! The words of the project as plain types: no I/O, no clock, no locks.
//!
//! Everything here can be built only with legal values ("parse, don't validate"); the layers
//! above pass these types on and check nothing again.

pub mod batch;
pub mod bus;
pub mod change;
pub mod event;
pub mod id;
pub mod ingestion;
pub mod json;
pub mod offence;
pub mod priority;
pub mod queue;
pub mod quota;
pub mod shared;
pub mod time;
