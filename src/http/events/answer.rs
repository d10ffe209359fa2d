//! What a client hears of the events that it sent.

use rocket::http::{ContentType, Status};
use serde::Serialize;

use crate::events::{EventReceipt, Ingested, Outcome};
use crate::http::error::Offence;
use crate::http::health::json;
use crate::model::event::Receipt;

/// What became of one event.
#[derive(Serialize, utoipa::ToSchema)]
pub(in crate::http) struct One<'a> {
    /// Absent if it could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "e-1")]
    event_id: Option<&'a str>,
    /// `accepted`, `duplicate` or `rejected`; over a bus `queued`.
    #[schema(example = "accepted")]
    status: &'static str,
    /// Whether a duplicate says something else than the first event did; with `receipts=true`.
    #[serde(skip_serializing_if = "is_false")]
    #[schema(value_type = Option<bool>)]
    conflict: bool,
}

// Serde hands over a reference.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature is serde's"
)]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl<'a> One<'a> {
    fn of(receipt: &'a EventReceipt, with_conflict: bool) -> Self {
        let (status, conflict) = match receipt.outcome {
            Outcome::Stored(Receipt::Accepted) => ("accepted", false),
            Outcome::Stored(Receipt::Duplicate { conflicting }) => ("duplicate", conflicting),
            Outcome::Queued => ("queued", false),
            Outcome::Rejected => ("rejected", false),
        };
        Self {
            event_id: receipt.event_id.as_deref(),
            status,
            conflict: conflict && with_conflict,
        }
    }
}

/// What became of a list.
#[derive(Serialize, utoipa::ToSchema)]
pub(in crate::http) struct Taken<'a> {
    /// How many were taken, duplicates included; only from `POST /publish`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 3)]
    enqueued: Option<u64>,
    /// How many are new.
    #[schema(example = 2)]
    accepted: u64,
    /// How many were dropped because their identity was spent.
    #[schema(example = 1)]
    duplicates: u64,
    /// How many the bus took, to be counted when they are committed; only where there is a bus.
    #[serde(skip_serializing_if = "Option::is_none")]
    queued: Option<u64>,
    /// How many broke a rule; 0 without `partial=true`.
    #[schema(example = 0)]
    rejected: u64,
    /// What is wrong with those: the first 100.
    #[schema(max_items = 100, example = json!([]))]
    errors: &'a [Offence],
    /// How many there are, those not listed too.
    #[serde(skip_serializing_if = "Option::is_none")]
    error_count: Option<u64>,
    /// What became of each event, in order; with `receipts=true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    receipts: Option<Vec<One<'a>>>,
}

impl<'a> Taken<'a> {
    /// The answer to a list.
    pub(super) fn of(done: &'a Ingested, with_receipts: bool) -> Self {
        let receipts = done.receipts.iter().map(|receipt| One::of(receipt, true));
        Self {
            enqueued: None,
            accepted: done.accepted,
            duplicates: done.duplicates,
            queued: done.queued,
            rejected: done.rejected,
            errors: done.errors.listed(),
            error_count: done.errors.count(),
            receipts: with_receipts.then(|| receipts.collect()),
        }
    }

    /// The answer of `POST /publish`.
    pub(super) fn published(done: &'a Ingested, with_receipts: bool) -> Self {
        Self {
            enqueued: Some(done.queued.unwrap_or(done.accepted + done.duplicates)),
            ..Self::of(done, with_receipts)
        }
    }
}

/// The answer to one event; `None` for a list, and for an event that was rejected.
pub(in crate::http) fn single(
    done: &Ingested,
    with_conflict: bool,
) -> Option<(Status, (ContentType, String))> {
    if !done.single {
        return None;
    }
    let receipt = done.receipts.first()?;
    let status = match receipt.outcome {
        Outcome::Stored(Receipt::Accepted) => Status::Created,
        Outcome::Stored(Receipt::Duplicate { .. }) => Status::Ok,
        Outcome::Queued => Status::Accepted,
        Outcome::Rejected => return None,
    };
    Some((status, json(&One::of(receipt, with_conflict))))
}
