//! Events on disk.
//!
//! Events are kept in *blocks*: those of one commit, sorted by (tenant, time, arrival), in chunks,
//! encoded and compressed, with a checksum. A row each, however many events: rows of their own
//! with an index over random keys cost 3 to 6 times as much. What one block spans (times,
//! arrivals, tenants) is in a small row beside it, so that a page is found without reading blocks.
//!
//! The span of a block in time puts it on a *level*: the bits that the span in microseconds needs.
//! All blocks that touch a moment `t` are then found by one short range of the index for each level
//! `l`: those whose first time lies in `(t - 2^l, t]`.

pub(super) mod block;
pub(super) mod codec;
pub(super) mod pack;
pub(super) mod page;

#[cfg(test)]
mod samples;

use tokio::sync::watch;

use super::Embedded;
use crate::model::event::{
    DeadLetter, Event, EventCounts, EventFilter, EventPage, PageQuery, Receipt, Sequence,
    StoredEvent,
};
use crate::model::time::Timestamp;
use crate::store::error::StoreError;

/// A refused event that shall be kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewLetter {
    /// When it was refused.
    pub refused_at: Timestamp,
    /// A JSON array of `{pointer, detail, code}`.
    pub errors: String,
    /// The event as sent.
    pub body: String,
}

/// Events that are ready to be written.
#[derive(Debug)]
pub struct Prepared {}

impl Embedded {
    pub(in crate::store) fn prepare(
        &self,
        events: &[Event<'_>],
        letters: Vec<NewLetter>,
    ) -> Result<Prepared, StoreError> {
        let _ = (events, letters);
        Err(StoreError::Closed)
    }

    pub(in crate::store) async fn append(
        &self,
        prepared: Prepared,
    ) -> Result<Vec<Receipt>, StoreError> {
        let _ = prepared;
        Err(StoreError::Closed)
    }

    pub(in crate::store) async fn page(&self, query: PageQuery) -> Result<EventPage, StoreError> {
        let _ = query;
        Err(StoreError::Closed)
    }

    pub(in crate::store) async fn event(
        &self,
        tenant: &str,
        topic: &str,
        id: &str,
    ) -> Result<Option<StoredEvent>, StoreError> {
        let _ = (tenant, topic, id);
        Err(StoreError::Closed)
    }

    pub(in crate::store) async fn events_since(
        &self,
        after: Sequence,
        filter: EventFilter,
        limit: usize,
    ) -> Result<(Vec<StoredEvent>, Sequence), StoreError> {
        let _ = (after, filter, limit);
        Err(StoreError::Closed)
    }

    pub(in crate::store) fn last_event(&self) -> watch::Receiver<Sequence> {
        watch::Sender::new(Sequence(0)).subscribe()
    }

    pub(in crate::store) fn event_counts(&self) -> EventCounts {
        EventCounts::default()
    }

    pub(in crate::store) async fn erase(&self, filter: EventFilter) -> Result<u64, StoreError> {
        let _ = filter;
        Err(StoreError::Closed)
    }

    pub(in crate::store) async fn letters(
        &self,
        after: u64,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let _ = (after, limit);
        Err(StoreError::Closed)
    }

    pub(in crate::store) async fn letter(&self, id: u64) -> Result<Option<DeadLetter>, StoreError> {
        let _ = id;
        Err(StoreError::Closed)
    }

    pub(in crate::store) async fn discard_letter(&self, id: u64) -> Result<bool, StoreError> {
        let _ = id;
        Err(StoreError::Closed)
    }
}
