//! What can go wrong with the store.

use thiserror::Error;

/// Why a read or a write was not done.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum StoreError {
    /// More commits wait than the writer's queue holds, or more scans than may wait.
    #[error("more requests are waiting for the disk than can be queued")]
    Busy,
    /// The rollups don't cover every event yet.
    #[error("the events are still being counted")]
    Behind,
    /// The disk is full; writes resume when space returns.
    #[error("the disk is full")]
    Full,
    /// A write or a sync failed; the store takes no writes until the process is restarted.
    #[error("the store failed and takes no writes until a restart: {0}")]
    Failed(String),
    /// The database can't be reached, or refuses; tried again all the time. Whether what was asked for
    /// was done can't be told.
    #[error("the database can't be used now: {0}")]
    Away(String),
    /// Another node schedules.
    #[error("another node schedules")]
    Deposed,
    /// An answer is kept under the `Idempotency-Key`: another node was first.
    #[error("the Idempotency-Key has an answer")]
    KeyTaken,
    /// A message of the bus was committed before; nothing was written.
    #[error("a message was committed before")]
    MessageTaken,
    /// Other requests held some of the identities; they have ended. Nothing was written: it is to be
    /// prepared anew.
    #[error("other requests held some of the events")]
    Again,
    /// What nodes accepted at the same time leaves no room in the queue.
    #[error("the queue is full")]
    QueueFull,
    /// The database does not take what it was given, however often it is asked; nothing was written.
    #[error("the database does not take this: {0}")]
    Refused(String),
    /// The process is shutting down.
    #[error("the service is shutting down")]
    Closed,
    /// Something read from disk is not what was written.
    #[error("the store is damaged: {0}")]
    Damaged(String),
}

/// Why a data directory was not opened: one line for the operator.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct OpenError(pub String);
