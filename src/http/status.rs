//! `GET /status/<ingestion_id>`: one ingestion, once, at its next change, or as it goes.

mod follow;
mod json;
mod parameters;

use std::ops::Range;
use std::time::Duration;

use rocket::fairing::AdHoc;
use rocket::futures::stream::BoxStream;
use rocket::http::ContentType;
use rocket::request::Request;
use rocket::response::stream::{Event, EventStream};
use rocket::response::{self, Responder, Response};
use rocket::{Shutdown, State, get, routes};
use tokio::sync::broadcast::error::RecvError;

use super::HttpState;
use super::call::Call;
use super::error::{Code, Problem, shown};
use super::quota;
use crate::jobs::View;
use crate::model::id::IngestionId;
pub(super) use json::{Batch, Moved, Status, Summary};
use parameters::Parameters;

/// An answer with more batches than this is sent in pieces.
const MAX_BUFFERED: usize = 1000;

/// Mounts the resource.
pub(super) fn stage() -> AdHoc {
    AdHoc::on_ignite("status", |rocket| async {
        quota::mount(rocket, routes![status])
    })
}

/// One reading, or a stream of them.
pub(super) enum Answer {
    /// JSON.
    Once(Box<View>, bool),
    /// Server-sent events.
    Follow(EventStream<BoxStream<'static, Event>>),
}

impl<'r> Responder<'r, 'r> for Answer {
    fn respond_to(self, request: &'r Request<'_>) -> response::Result<'r> {
        let (view, with_batches) = match self {
            Self::Once(view, with_batches) => (view, with_batches),
            Self::Follow(events) => return events.respond_to(request),
        };
        let mut answer = Response::build();
        answer
            .header(ContentType::JSON)
            .raw_header("Cache-Control", "no-store");
        if view.batches.len() > MAX_BUFFERED {
            answer.max_chunk_size(json::PIECE);
            answer.streamed_body(json::Pieces::new(*view));
        } else {
            let body = json::whole(&view, with_batches);
            answer.sized_body(body.len(), std::io::Cursor::new(body));
        }
        answer.ok()
    }
}

/// Read an ingestion
///
/// With `Accept: text/event-stream` the answer is a stream of server-sent events instead: `status`
/// (the same as the JSON answer, with the first 1,000 batches of `batches`, or all if there are at
/// most 1,000) at first and whenever changes were missed, `batch` for each batch that moves, and `end`
/// once nothing can change any more. `wait` has no meaning there.
#[utoipa::path(
    get, path = "/status/{ingestion_id}", tag = "jobs",
    params(
        ("ingestion_id" = String, Path, description = "As answered by `POST /ingest`."),
        ("view" = Option<String>, Query, description = "`full`, or `summary` for an answer without `batches`."),
        ("batches" = Option<String>, Query, description = "Only these batches, counted from 0, both included.", example = "0-99"),
        ("wait" = Option<String>, Query, description = "Answer when `status` changes, or after this time (`0s` to `60s`; units `ms`, `s`, `m`). At once, if it has ended."),
    ),
    responses(
        (status = 200, description = "One reading, consistent in itself.", content(
            (Status = "application/json", examples(("Running" = (value = json!({
                "ingestion_id": "01936f5e-7c1a-7d3a-b5f0-0a1b2c3d4e5f",
                "status": "triggered",
                "batches": [
                    {"batch_id": "batch1", "ids": [1, 2, 3], "status": "completed", "attempt": 1,
                        "triggered_at": "2026-11-21T03:11:21.000000Z",
                        "completed_at": "2026-11-21T03:11:21.512034Z"},
                    {"batch_id": "batch2", "ids": [4, 5], "status": "triggered", "attempt": 1,
                        "triggered_at": "2026-11-21T03:11:26.000000Z"},
                ],
                "queue": "default",
                "priority": "HIGH",
                "created_at": "2026-11-21T03:11:20.998113Z",
                "started_at": "2026-11-21T03:11:21.000000Z",
                "completed_at": null,
                "progress": {"total": 2, "yet_to_start": 0, "triggered": 1, "completed": 1,
                    "failed": 0, "cancelled": 0, "expired": 0},
                "position": null,
                "eta_seconds": 0.4,
                "waiting_reason": null,
            }))))),
            (String = "text/event-stream", examples(("First event" = (value = json!("event:status\nid:0\ndata:{...}\n\n"))))),
        )),
        (status = 400, description = "`contradictory_parameters`: `batches` with `view=summary`."),
        (status = 404, description = "`not_found`: there is no such ingestion, or it was removed after its retention."),
        (status = 422, description = "`invalid_value`: a parameter is not valid."),
        (status = 429, description = "`rate_limited`: too many clients wait for changes."),
    )
)]
#[get("/status/<ingestion_id>?<view>&<batches>&<wait>")]
pub(super) async fn status(
    ingestion_id: &str,
    view: Option<&str>,
    batches: Option<&str>,
    wait: Option<&str>,
    call: Call<'_>,
    state: &State<HttpState>,
    shutdown: Shutdown,
) -> Result<Answer, Problem> {
    let parameters = Parameters::parse(view, batches, wait)?;
    let id = IngestionId::parse(ingestion_id).ok_or_else(|| unknown(ingestion_id))?;
    if call.accepts("text/event-stream") {
        let permit = state.waiter()?;
        let follow = follow::Follow::begin(state, id, &parameters, permit, shutdown).await?;
        let events = EventStream::from(follow.events()).heartbeat(state.limits.heartbeat);
        return Ok(Answer::Follow(events));
    }
    if let Some(time) = parameters.wait {
        let _permit = state.waiter()?;
        wait_for_change(state, id, time, shutdown).await?;
    }
    let view = read(state, id, parameters.range()).await?;
    Ok(Answer::Once(Box::new(view), parameters.with_batches))
}

/// One reading; 404 if there is no such ingestion.
async fn read(state: &HttpState, id: IngestionId, range: Range<u32>) -> Result<View, Problem> {
    let view = state.jobs.view(id, range).await?;
    view.ok_or_else(|| unknown(&id.to_string()))
}

/// Returns when the overall status is no longer what it is now, when it can't change any more, at
/// shutdown, or after `time`.
async fn wait_for_change(
    state: &HttpState,
    id: IngestionId,
    time: Duration,
    shutdown: Shutdown,
) -> Result<(), Problem> {
    // Subscribe first: a change between the two would be missed otherwise.
    let Some(mut watch) = state.jobs.watch(id).await else {
        return Ok(());
    };
    let before = read(state, id, 0..0).await?.progress.status();
    if before.has_ended() {
        return Ok(());
    }
    let changed = async {
        loop {
            let now = match watch.0.recv().await {
                Ok(moved) => moved.progress.status(),
                Err(RecvError::Lagged(_)) => match read(state, id, 0..0).await {
                    Ok(view) => view.progress.status(),
                    Err(_) => break,
                },
                Err(RecvError::Closed) => break,
            };
            if now != before {
                break;
            }
        }
    };
    tokio::select! {
        () = changed => {}
        () = state.clock.sleep(time) => {}
        () = shutdown => {}
    }
    Ok(())
}

/// The answer for an ingestion that is not there.
pub(super) fn unknown(id: &str) -> Problem {
    Problem::new(
        Code::NotFound,
        format!(
            "There is no ingestion {}, or it ended so long ago that it was removed.",
            shown(id)
        ),
    )
}
