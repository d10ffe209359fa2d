//! Server-sent events: an ingestion as it goes.
//!
//! ```text
//! begin ─▶ status ─▶ batch, batch, ... ─▶ end
//!            ▲          │
//!            └──────────┘ missed some, or the rest ended at once
//! ```

use std::collections::VecDeque;
use std::ops::Range;

use rocket::Shutdown;
use rocket::futures::StreamExt;
use rocket::futures::stream::{BoxStream, unfold};
use rocket::response::stream::Event;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::error::RecvError;

use super::parameters::Parameters;
use super::{MAX_BUFFERED, Moved, json, read};
use crate::http::HttpState;
use crate::http::error::Problem;
use crate::http::status::Batch;
use crate::jobs::{self, View, Watch};
use crate::model::id::IngestionId;
use crate::model::ingestion::Ingestion;

/// One client that follows one ingestion.
pub(super) struct Follow {
    state: HttpState,
    id: IngestionId,
    range: Option<Range<u32>>,
    with_batches: bool,
    /// Whose batches the events are about; its ids are shared, not copied.
    ingestion: Ingestion,
    watch: Option<Watch>,
    shutdown: Shutdown,
    /// The number of the next event.
    number: u64,
    /// Events that are made and not sent.
    ready: VecDeque<Event>,
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

impl Follow {
    /// Reads the ingestion once; a problem if there is none.
    pub(super) async fn begin(
        state: &HttpState,
        id: IngestionId,
        parameters: &Parameters,
        permit: OwnedSemaphorePermit,
        shutdown: Shutdown,
    ) -> Result<Self, Problem> {
        // Subscribe first: a change between the two would be missed otherwise.
        let watch = state.jobs.watch(id).await;
        let range = parameters.batches.clone();
        let view = read(
            state,
            id,
            reading_range(parameters.with_batches, range.as_ref()),
        )
        .await?;
        let mut follow = Self {
            state: state.clone(),
            id,
            range,
            with_batches: parameters.with_batches,
            ingestion: view.ingestion.clone(),
            watch,
            shutdown,
            number: 0,
            ready: VecDeque::new(),
            ended: false,
            _permit: permit,
        };
        follow.push_status(&view);
        Ok(follow)
    }

    /// The events; the stream ends after `end`, at shutdown, and when nothing more can be read.
    pub(super) fn events(self) -> BoxStream<'static, Event> {
        unfold(self, |mut follow| async {
            while follow.ready.is_empty() && !follow.ended {
                follow.advance().await;
            }
            let event = follow.ready.pop_front()?;
            Some((event, follow))
        })
        .boxed()
    }

    /// Waits for the next change and makes its events.
    async fn advance(&mut self) {
        let Some(watch) = &mut self.watch else {
            // It is not in memory and had not ended: it left between the two readings.
            self.watch = None;
            self.reread().await;
            self.ended = true;
            return;
        };
        let change = tokio::select! {
            () = &mut self.shutdown => {
                self.ended = true;
                return;
            }
            change = watch.0.recv() => change,
        };
        match change {
            Ok(moved) if moved.batch.is_some() && !moved.progress.status().has_ended() => {
                self.push_batch(&moved);
            }
            Ok(moved) => {
                self.push_batch(&moved);
                self.reread().await;
            }
            Err(RecvError::Lagged(_)) => self.reread().await,
            Err(RecvError::Closed) => {
                self.reread().await;
                self.ended = true;
            }
        }
    }

    /// Sends a fresh status: changes were missed, or it has ended.
    async fn reread(&mut self) {
        let range = reading_range(self.with_batches, self.range.as_ref());
        match read(&self.state, self.id, range).await {
            Ok(view) => self.push_status(&view),
            Err(_) => self.ended = true,
        }
    }

    /// A `status` event, and an `end` event if nothing can change any more.
    fn push_status(&mut self, view: &View) {
        let fits = view.batches.len() <= MAX_BUFFERED || self.range.is_some();
        let ended = view.progress.status().has_ended();
        // The last status comes as the end, unless it is the first, too.
        if !ended || self.number == 0 {
            let data = json::whole(view, self.with_batches && fits);
            self.push("status", data);
        }
        if ended {
            self.ended = true;
            let data = json::whole(view, self.with_batches && fits);
            self.push("end", data);
        }
    }

    fn push_batch(&mut self, moved: &jobs::Moved) {
        let Some(batch) = &moved.batch else {
            return;
        };
        let data = Moved {
            batch: Batch::of(&self.ingestion, batch),
            status: moved.progress.status(),
            progress: moved.progress.into(),
        };
        let data = serde_json::to_vec(&data).unwrap_or_default();
        self.push("batch", data);
    }

    fn push(&mut self, name: &'static str, data: Vec<u8>) {
        let data = String::from_utf8(data).unwrap_or_default();
        let event = Event::data(data).event(name).id(self.number.to_string());
        self.number += 1;
        self.ready.push_back(event);
    }
}

/// The batches to read: one more than fit into an event, to see whether they do.
fn reading_range(with_batches: bool, range: Option<&Range<u32>>) -> Range<u32> {
    let most = u32::try_from(MAX_BUFFERED).unwrap_or(u32::MAX);
    match range {
        _ if !with_batches => 0..0,
        Some(range) => range.start..range.end.min(range.start.saturating_add(most)),
        None => 0..most + 1,
    }
}
