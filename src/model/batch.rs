//! One batch: up to `batch_size` ids of one ingestion, the unit of dispatch.

use serde::Serialize;

use super::time::Timestamp;

/// Where a batch is in its life.
///
/// ```text
///                 slot                 processor done
/// YetToStart ─────────────▶ Triggered ───────────────▶ Completed
///     │                      │   ▲  │
///     │ deadline, cancel     └───┘  └ retries used up ▶ Failed
///     ▼                  retry or restart
/// Expired, Cancelled
/// ```
///
/// A batch whose retries are used up is `Triggered` and given up ([`BatchRun::is_given_up`]) until the
/// results of what failed are kept; nothing but its end can come then.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BatchStatus {
    /// Waits for its first slot.
    YetToStart,
    /// Was started and has not ended: it runs, or waits to be tried again.
    Triggered,
    /// Every id was processed.
    Completed,
    /// Retries are used up for at least one id: a dead letter.
    Failed,
    /// Taken back before it started.
    Cancelled,
    /// The ingestion's deadline passed before it started.
    Expired,
}

impl BatchStatus {
    /// All, in the order of their codes.
    pub const ALL: [Self; 6] = [
        Self::YetToStart,
        Self::Triggered,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
        Self::Expired,
    ];

    /// As on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::YetToStart => "yet_to_start",
            Self::Triggered => "triggered",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    /// A small number for storage.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The inverse of [`BatchStatus::code`].
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// Whether nothing can change it any more.
    #[must_use]
    pub const fn has_ended(self) -> bool {
        !matches!(self, Self::YetToStart | Self::Triggered)
    }
}

/// Why one id of a batch failed in the last attempt.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, utoipa::ToSchema)]
pub struct IdFailure {
    /// The id's position in its batch, from 0.
    pub position: u16,
    /// One sentence, at most [`IdFailure::MAX_REASON`] bytes.
    pub reason: String,
}

impl IdFailure {
    /// The longest reason kept, in bytes.
    pub const MAX_REASON: usize = 512;

    /// Cuts the reason to its bound, on a character boundary.
    #[must_use]
    pub fn new(position: u16, mut reason: String) -> Self {
        reason.truncate(reason.floor_char_boundary(Self::MAX_REASON));
        Self { position, reason }
    }
}

/// What is known of a batch that was started at least once. A batch that still waits has none:
/// it costs nothing beside its ids.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BatchRun {
    /// `Triggered`, `Completed` or `Failed`.
    pub status: BatchStatus,
    /// How often it was started; 1 after the first start.
    pub attempt: u32,
    /// The slot of its first start.
    pub first_triggered_at: Timestamp,
    /// The slot of its latest start.
    pub triggered_at: Timestamp,
    /// When it ended; of one that is given up, when its last attempt did.
    pub completed_at: Option<Timestamp>,
    /// When it may be tried again; set only while it waits for that.
    pub retry_at: Option<Timestamp>,
    /// The ids that failed in the last attempt. Only they are tried again.
    pub failures: Vec<IdFailure>,
}

impl BatchRun {
    /// Just started for the first time.
    #[must_use]
    pub const fn first(slot: Timestamp) -> Self {
        Self {
            status: BatchStatus::Triggered,
            attempt: 1,
            first_triggered_at: slot,
            triggered_at: slot,
            completed_at: None,
            retry_at: None,
            failures: Vec::new(),
        }
    }

    /// Started again at `slot`, after a failure or a crash: the failures of the attempt before
    /// say which ids are due.
    #[must_use]
    pub fn again(&self, slot: Timestamp) -> Self {
        Self {
            status: BatchStatus::Triggered,
            attempt: self.attempt.saturating_add(1),
            first_triggered_at: self.first_triggered_at,
            triggered_at: slot,
            completed_at: None,
            retry_at: None,
            failures: self.failures.clone(),
        }
    }

    /// Whether it is between two attempts, waiting for its backoff to pass.
    #[must_use]
    pub const fn waits_for_retry(&self) -> bool {
        matches!(self.status, BatchStatus::Triggered) && self.retry_at.is_some()
    }

    /// Whether its retries are used up, and the results of what failed are not all kept yet.
    #[must_use]
    pub const fn is_given_up(&self) -> bool {
        matches!(self.status, BatchStatus::Triggered) && self.completed_at.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip() {
        for status in BatchStatus::ALL {
            assert_eq!(BatchStatus::from_code(status.code()), Some(status));
        }
        assert_eq!(BatchStatus::from_code(6), None);
    }

    #[test]
    fn a_reason_is_cut_on_a_character_boundary() {
        let failure = IdFailure::new(0, "ü".repeat(400));
        assert_eq!(failure.reason.len(), IdFailure::MAX_REASON);
    }
}
