//! `GET /events/stream`: events as they are committed.
//!
//! A stream reads from the store, some events at a time, whenever there are newer ones than it has
//! read. Nobody writes to it, so a slow reader holds up nobody, and misses nothing.

use std::collections::VecDeque;
use std::time::Duration;

use rocket::futures::StreamExt;
use rocket::futures::stream::{BoxStream, unfold};
use rocket::response::stream::{Event as Sent, EventStream};
use rocket::{Shutdown, State, get};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::query::{Filter, number};
use crate::events::json;
use crate::http::HttpState;
use crate::http::call::Call;
use crate::http::error::Problem;
use crate::model::event::{EventFilter, Sequence};
use crate::store::Store;

/// How many events are read at once: what a slow reader holds in memory.
const AT_ONCE: usize = 64;

/// When a client shall connect again after the stream broke off.
const RETRY: Duration = Duration::from_secs(1);

/// The header by which a client says what it has seen.
const LAST_ID: &str = "Last-Event-ID";

/// Follow events
///
/// Server-sent events in the order of commits: `data` is an event, `id` is its place in that order.
/// `Last-Event-ID` (a browser sends it when it connects again) or `after` resumes behind that place;
/// without either, and from a place that no event has yet, the stream begins with the next event;
/// `after=0` begins with the first. A comment
/// comes every five seconds.
#[utoipa::path(
    get, path = "/events/stream", tag = "events",
    params(
        Filter,
        ("after" = Option<u64>, Query, minimum = 0, description = "The `id` behind which to begin; the header `Last-Event-ID` wins."),
        ("Last-Event-ID" = Option<String>, Header, description = "The `id` behind which to begin."),
    ),
    responses(
        (status = 200, description = "A stream that ends when the service stops.", content(
            (String = "text/event-stream", examples(("An event" = (value = json!(
                "id:17\ndata:{\"event_id\":\"e-1\",\"timestamp\":\"2026-11-21T04:11:21Z\",\"topic\":\"\",\"tenant_id\":\"default\",\"payload\":{}}\n\n"))))),
        )),
        (status = 400, description = "`contradictory_parameters`: `from` after `to`."),
        (status = 422, description = "`invalid_value`: a parameter or `Last-Event-ID` is not valid."),
        (status = 429, description = "`rate_limited`: too many clients wait for changes."),
    )
)]
#[get("/events/stream?<after>&<filter..>")]
pub(in crate::http) async fn stream(
    after: Option<&str>,
    filter: Filter<'_>,
    call: Call<'_>,
    state: &State<HttpState>,
    shutdown: Shutdown,
) -> Result<EventStream<BoxStream<'static, Sent>>, Problem> {
    let filter = filter.parse()?;
    let after = match call.header(LAST_ID) {
        Some(text) => match text.parse() {
            Ok(seen) => Some(seen),
            Err(_) => return Err(Problem::header(LAST_ID, "must be the id of an event")),
        },
        None => number("after", after, 0..=u64::MAX)?,
    };
    let store = state.events.store.clone();
    store.sync().await?;
    let mut last = store.last_event();
    let now = *last.borrow_and_update();
    let follow = Follow {
        store,
        filter,
        // Nothing was sent from behind the end: such a place is of another store, and would be
        // waited for without a word.
        read: after.map_or(now, |after| Sequence(after).min(now)),
        last,
        ready: VecDeque::from([Sent::retry(RETRY)]),
        shutdown,
        _permit: state.waiter()?,
    };
    Ok(EventStream::from(follow.events()).heartbeat(state.limits.heartbeat))
}

/// One client.
struct Follow {
    store: Store,
    filter: EventFilter,
    /// Up to where was read.
    read: Sequence,
    last: watch::Receiver<Sequence>,
    /// What is read and not sent.
    ready: VecDeque<Sent>,
    shutdown: Shutdown,
    _permit: OwnedSemaphorePermit,
}

impl Follow {
    /// The events; ends at shutdown, and when the store can't be read.
    fn events(self) -> BoxStream<'static, Sent> {
        unfold(self, |mut follow| async {
            while follow.ready.is_empty() {
                follow.advance().await?;
            }
            let event = follow.ready.pop_front()?;
            Some((event, follow))
        })
        .boxed()
    }

    /// Reads what is new, or waits for it; `None` at the end.
    async fn advance(&mut self) -> Option<()> {
        let last = *self.last.borrow_and_update();
        if self.read >= last {
            return tokio::select! {
                () = &mut self.shutdown => None,
                changed = self.last.changed() => changed.ok(),
            };
        }
        let reading = self
            .store
            .events_since(self.read, self.filter.clone(), AT_ONCE);
        let (events, read) = tokio::select! {
            () = &mut self.shutdown => return None,
            found = reading => found.ok()?,
        };
        for stored in events {
            let id = stored.sequence.0.to_string();
            self.ready
                .push_back(Sent::data(json::event(&stored.event)).id(id));
        }
        // A store that does not get on would be asked forever.
        if read <= self.read {
            return None;
        }
        self.read = read;
        Some(())
    }
}
