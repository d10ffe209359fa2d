//! How urgent an ingestion is.

use serde::{Deserialize, Serialize};

/// `HIGH` goes before `MEDIUM`, `MEDIUM` before `LOW`; the derived order says so too.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Debug,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum Priority {
    /// Goes last.
    Low,
    /// Goes between.
    Medium,
    /// Goes first.
    High,
}

impl Priority {
    /// All, the most urgent first.
    pub const ALL: [Self; 3] = [Self::High, Self::Medium, Self::Low];

    /// As on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "LOW",
            Self::Medium => "MEDIUM",
            Self::High => "HIGH",
        }
    }

    /// A small number for storage and for indexing: `LOW` 0, `MEDIUM` 1, `HIGH` 2.
    #[must_use]
    pub const fn rank(self) -> u8 {
        self as u8
    }

    /// The inverse of [`Priority::rank`].
    #[must_use]
    pub const fn from_rank(rank: u8) -> Option<Self> {
        match rank {
            0 => Some(Self::Low),
            1 => Some(Self::Medium),
            2 => Some(Self::High),
            _ => None,
        }
    }
}
