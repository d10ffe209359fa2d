//! What several nodes have in common.

use std::path::PathBuf;

/// Where the database is that several nodes share.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SharedSettings {
    /// `postgres://user:password@host:port/database`.
    pub url: String,
    /// Another one that analytics read from; it may be a replica of the first.
    pub read_url: Option<String>,
    /// The data directory of this node: only what is derived lies there.
    pub dir: PathBuf,
}

/// What is moved from one process to what several nodes share.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MigrationSettings {
    /// The data directory.
    pub dir: PathBuf,
    /// The database: `postgres://user:password@host:port/database`.
    pub to: String,
    /// The most rows in a transaction; of events a block more.
    pub batch: usize,
}
