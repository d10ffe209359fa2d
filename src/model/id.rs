//! Names of single things.

use std::fmt;

use serde::Serialize;
use uuid::Uuid;

/// The public name of an ingestion: a version 7 UUID (RFC 9562).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(transparent)]
pub struct IngestionId(Uuid);

impl IngestionId {
    /// Wraps a UUID.
    #[must_use]
    pub const fn new(id: Uuid) -> Self {
        Self(id)
    }

    /// The hyphenated form only, in either case; anything else names no ingestion.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 36)
            .then(|| Uuid::try_parse(text).ok())
            .flatten()
            .map(Self)
    }

    /// The UUID itself.
    #[must_use]
    pub const fn uuid(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for IngestionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Order of arrival over all queues: 1, 2, 3, ... in the order of the commits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Arrival(pub u64);

/// Which ingestion a change is about: by its public name and by its row.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct IngestionRef {
    /// The public name.
    pub id: IngestionId,
    /// The order of arrival, which is also the row in the store.
    pub arrival: Arrival,
}

/// Which batch of its ingestion, from 0. Clients see [`BatchIndex::batch_id`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct BatchIndex(pub u32);

impl BatchIndex {
    /// `batch1` for the first, unique inside an ingestion.
    #[must_use]
    pub fn batch_id(self) -> String {
        format!("batch{}", u64::from(self.0) + 1)
    }

    /// As a position in a slice.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}
