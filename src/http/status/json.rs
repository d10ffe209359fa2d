//! An ingestion as JSON: the fields of the contract first, then the additional ones.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use serde::Serialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, ReadBuf};

use crate::http::health::seconds;
use crate::jobs::{BatchView, View};
use crate::model::batch::BatchStatus;
use crate::model::id::IngestionId;
use crate::model::ingestion::{self, Ingestion};
use crate::model::priority::Priority;
use crate::model::time::Timestamp;

/// About how large the pieces of a large answer are, in bytes.
pub(super) const PIECE: usize = 64 * 1024;

/// An ingestion with its batches.
// Written piece by piece, by `whole` and `Pieces`; here for the OpenAPI document.
#[derive(Serialize, utoipa::ToSchema)]
#[expect(clippy::struct_field_names, reason = "the names of the contract")]
pub(in crate::http) struct Status<'a> {
    #[schema(value_type = String, format = Uuid)]
    ingestion_id: IngestionId,
    status: BatchStatus,
    /// In order; absent with `view=summary`.
    batches: Option<Vec<Batch<'a>>>,
    #[serde(flatten)]
    details: Details,
}

/// An ingestion without its batches.
#[derive(Serialize, utoipa::ToSchema)]
pub(in crate::http) struct Summary {
    #[schema(value_type = String, format = Uuid)]
    ingestion_id: IngestionId,
    status: BatchStatus,
    #[serde(flatten)]
    details: Details,
}

impl Summary {
    /// Of one reading.
    pub(in crate::http) fn of(view: &View) -> Self {
        Self {
            ingestion_id: view.ingestion.id,
            status: view.progress.status(),
            details: Details::of(view),
        }
    }
}

/// What is known of an ingestion beside its batches.
#[derive(Serialize, utoipa::ToSchema)]
pub(in crate::http) struct Details {
    #[schema(example = "default")]
    queue: String,
    priority: Priority,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When the first batch started.
    #[schema(value_type = Option<String>, format = DateTime)]
    started_at: Option<Timestamp>,
    /// When the last batch ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    completed_at: Option<Timestamp>,
    progress: Progress,
    /// How many batches of this queue go before the next one of this ingestion; null when none of
    /// its batches waits.
    position: Option<u64>,
    /// The estimated time until the last batch has ended; null once it has.
    #[schema(example = 12.5)]
    eta_seconds: Option<f64>,
    /// Why none of its batches starts at this moment; null when none waits.
    waiting_reason: Option<String>,
    /// As it was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    metadata: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    callback_url: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    deadline: Option<Timestamp>,
}

impl Details {
    fn of(view: &View) -> Self {
        let outlook = view.outlook.as_ref();
        let extras = view.ingestion.extras.as_deref();
        let metadata = extras.and_then(|extras| extras.metadata.as_deref());
        Self {
            queue: view.queue.to_string(),
            priority: view.ingestion.priority,
            created_at: view.ingestion.created_at,
            started_at: view.started_at,
            completed_at: view.ended_at,
            progress: view.progress.into(),
            position: outlook.and_then(|outlook| outlook.position),
            eta_seconds: outlook.map(|outlook| seconds(outlook.eta)),
            waiting_reason: outlook.and_then(|outlook| outlook.waiting_reason.clone()),
            metadata: metadata.and_then(|text| RawValue::from_string(text.to_owned()).ok()),
            callback_url: extras.and_then(|extras| extras.callback_url.clone()),
            deadline: view.ingestion.deadline(),
        }
    }
}

/// How many batches are in which state.
#[derive(Serialize, utoipa::ToSchema)]
pub(in crate::http) struct Progress {
    total: u32,
    yet_to_start: u32,
    triggered: u32,
    completed: u32,
    failed: u32,
    cancelled: u32,
    expired: u32,
}

impl From<ingestion::Progress> for Progress {
    fn from(progress: ingestion::Progress) -> Self {
        Self {
            total: progress.total,
            yet_to_start: progress.waiting,
            triggered: progress.triggered,
            completed: progress.completed,
            failed: progress.failed,
            cancelled: progress.cancelled,
            expired: progress.expired,
        }
    }
}

/// One batch. The additional fields are there once it was started.
#[derive(Serialize, utoipa::ToSchema)]
#[expect(clippy::struct_field_names, reason = "the names of the contract")]
pub(in crate::http) struct Batch<'a> {
    /// Unique inside the ingestion.
    #[schema(example = "batch1")]
    batch_id: String,
    #[schema(example = json!([1, 2, 3]))]
    ids: &'a [i64],
    status: BatchStatus,
    /// How often it was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    /// Its latest start.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    triggered_at: Option<Timestamp>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    completed_at: Option<Timestamp>,
    /// When it is tried again, while it waits for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    retry_at: Option<Timestamp>,
    /// What failed in the latest attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<BatchError<'a>>,
}

/// What failed in an attempt.
#[derive(Serialize, utoipa::ToSchema)]
pub(in crate::http) struct BatchError<'a> {
    /// In words.
    #[schema(example = "1 of 3 ids failed")]
    detail: String,
    /// Each id that failed.
    ids: Vec<IdError<'a>>,
}

/// Why one id failed.
#[derive(Serialize, utoipa::ToSchema)]
pub(in crate::http) struct IdError<'a> {
    id: i64,
    #[schema(example = "the upstream answered 500")]
    reason: &'a str,
}

impl<'a> Batch<'a> {
    /// One batch of `ingestion`.
    pub(in crate::http) fn of(ingestion: &'a Ingestion, batch: &'a BatchView) -> Self {
        let run = batch.run.as_ref();
        let ids = ingestion.ids_of(batch.index);
        let ended = run.filter(|run| run.status.has_ended());
        let failures = run.map(|run| run.failures.as_slice()).unwrap_or_default();
        let error = (!failures.is_empty()).then(|| BatchError {
            detail: format!("{} of {} ids failed", failures.len(), ids.len()),
            ids: failures
                .iter()
                .filter_map(|failure| {
                    let id = *ids.get(usize::from(failure.position))?;
                    let reason = failure.reason.as_str();
                    Some(IdError { id, reason })
                })
                .collect(),
        });
        Self {
            batch_id: batch.index.batch_id(),
            ids,
            status: batch.status,
            attempt: run.map(|run| run.attempt),
            triggered_at: run.map(|run| run.triggered_at),
            completed_at: ended.and_then(|run| run.completed_at),
            retry_at: run.and_then(|run| run.retry_at),
            error,
        }
    }
}

/// One batch that moved, as the data of an event.
#[derive(Serialize, utoipa::ToSchema)]
pub(in crate::http) struct Moved<'a> {
    pub(super) batch: Batch<'a>,
    /// Of the whole ingestion.
    pub(super) status: BatchStatus,
    pub(super) progress: Progress,
}

/// The whole answer in one buffer.
pub(super) fn whole(view: &View, with_batches: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(512 + 128 * view.batches.len());
    write_head(&mut out, view);
    if with_batches {
        out.extend_from_slice(b",\"batches\":[");
        write_batches(&mut out, view, 0, usize::MAX);
        out.push(b']');
    }
    write_tail(&mut out, view);
    out
}

fn write_head(out: &mut Vec<u8>, view: &View) {
    let (id, status) = (view.ingestion.id, view.progress.status().as_str());
    out.extend_from_slice(
        format!("{{\"ingestion_id\":\"{id}\",\"status\":\"{status}\"").as_bytes(),
    );
}

/// Writes batches from number `next` of the view on, until `out` has at least `until` bytes.
/// Returns the number of the first that was not written.
fn write_batches(out: &mut Vec<u8>, view: &View, mut next: usize, until: usize) -> usize {
    while let Some(batch) = view.batches.get(next)
        && out.len() < until
    {
        if next > 0 {
            out.push(b',');
        }
        write_json(out, &Batch::of(&view.ingestion, batch));
        next += 1;
    }
    next
}

fn write_tail(out: &mut Vec<u8>, view: &View) {
    let brace = out.len();
    write_json(out, &Details::of(view));
    // The object goes on: its brace becomes a comma.
    if let Some(byte) = out.get_mut(brace) {
        *byte = b',';
    }
}

fn write_json(out: &mut Vec<u8>, value: &impl Serialize) {
    // Neither these types nor a vector can fail.
    let _ = serde_json::to_writer(out, value);
}

/// A large answer, written as it is read: its text is never in memory as a whole.
pub(super) struct Pieces {
    view: View,
    next: usize,
    ended: bool,
    piece: Vec<u8>,
    read: usize,
}

impl Pieces {
    /// Of a view with batches.
    pub(super) fn new(view: View) -> Self {
        let mut piece = Vec::with_capacity(PIECE + 1024);
        write_head(&mut piece, &view);
        piece.extend_from_slice(b",\"batches\":[");
        Self {
            view,
            next: 0,
            ended: false,
            piece,
            read: 0,
        }
    }

    /// Writes the next piece in the place of the one that was read.
    fn refill(&mut self) {
        self.piece.clear();
        self.read = 0;
        self.next = write_batches(&mut self.piece, &self.view, self.next, PIECE);
        if self.next == self.view.batches.len() && !self.ended {
            self.ended = true;
            self.piece.push(b']');
            write_tail(&mut self.piece, &self.view);
        }
    }
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read == self.piece.len() {
            self.refill();
        }
        let left = self.piece.get(self.read..).unwrap_or_default();
        let count = left.len().min(buffer.remaining());
        buffer.put_slice(left.get(..count).unwrap_or_default());
        self.read += count;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use tokio::io::AsyncReadExt;
    use uuid::Uuid;

    use super::*;
    use crate::jobs::Outlook;
    use crate::model::batch::{BatchRun, IdFailure};
    use crate::model::id::{Arrival, BatchIndex};
    use crate::model::ingestion::Extras;
    use crate::model::queue::{QueueId, QueueName};

    fn view(ids: i64) -> View {
        let ingestion = Ingestion {
            id: IngestionId::new(Uuid::from_u128(7)),
            arrival: Arrival(1),
            created_at: Timestamp::EPOCH,
            ids: (1..=ids).collect(),
            extras: Some(Box::new(Extras {
                metadata: Some(r#"{ "a" : 1.0 }"#.into()),
                ..Extras::default()
            })),
            runs: None,
            queue: QueueId(0),
            batch_size: NonZeroU16::new(3).unwrap(),
            priority: Priority::High,
        };
        let failed = BatchRun {
            failures: vec![IdFailure::new(1, "gone".into())],
            ..BatchRun::first(Timestamp::EPOCH)
        };
        let batches = (0..ingestion.batch_count())
            .map(|index| BatchView {
                index: BatchIndex(index),
                status: BatchStatus::YetToStart,
                run: (index == 0).then(|| failed.clone()),
            })
            .collect();
        View {
            queue: QueueName::try_from("default".to_owned()).unwrap(),
            progress: ingestion.progress(),
            started_at: None,
            ended_at: None,
            batches,
            outlook: Some(Outlook {
                position: Some(4),
                eta: std::time::Duration::from_micros(1_234_567),
                waiting_reason: Some("it waits".into()),
            }),
            ingestion,
        }
    }

    #[test]
    fn the_fields_of_the_contract_come_first_in_its_order() {
        let text = String::from_utf8(whole(&view(5), true)).unwrap();
        let expected = concat!(
            r#"{"ingestion_id":"00000000-0000-0000-0000-000000000007","status":"yet_to_start","#,
            r#""batches":[{"batch_id":"batch1","ids":[1,2,3],"status":"yet_to_start","attempt":1,"#,
            r#""triggered_at":"1970-01-01T00:00:00.000000Z","error":{"detail":"1 of 3 ids failed","#,
            r#""ids":[{"id":2,"reason":"gone"}]}},"#,
            r#"{"batch_id":"batch2","ids":[4,5],"status":"yet_to_start"}],"queue":"default","#,
            r#""priority":"HIGH","created_at":"1970-01-01T00:00:00.000000Z","started_at":null,"#,
            r#""completed_at":null,"progress":{"total":2,"yet_to_start":2,"triggered":0,"#,
            r#""completed":0,"failed":0,"cancelled":0,"expired":0},"position":4,"#,
            r#""eta_seconds":1.235,"waiting_reason":"it waits","metadata":{ "a" : 1.0 }}"#,
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn a_summary_is_the_same_without_batches() {
        let view = view(5);
        let text = String::from_utf8(whole(&view, false)).unwrap();
        assert_eq!(text, serde_json::to_string(&Summary::of(&view)).unwrap());
        assert!(!text.contains("batches\""));
    }

    #[tokio::test]
    async fn pieces_make_the_whole() {
        for ids in [3, 3001, 30_000] {
            let view = view(ids);
            let expected = whole(&view, true);
            let mut pieces = Pieces::new(view);
            let mut read = Vec::new();
            pieces.read_to_end(&mut read).await.unwrap();
            assert!(read == expected, "{ids} ids");
            assert!(pieces.piece.capacity() < 2 * PIECE + 2048);
        }
    }
}
