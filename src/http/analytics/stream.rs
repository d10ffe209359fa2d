//! `GET /stats/stream`: what comes in, second by second.

use std::sync::Arc;
use std::time::Duration;

use rocket::futures::StreamExt;
use rocket::futures::stream::{BoxStream, unfold};
use rocket::response::stream::{Event as Sent, EventStream};
use rocket::tokio;
use rocket::{Shutdown, State, get};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use super::query::Query;
use crate::analytics::Scope;
use crate::events::NO_TYPE;
use crate::http::HttpState;
use crate::http::error::Problem;
use crate::model::time::Timestamp;

/// How often a message comes.
const STEP: Duration = Duration::from_secs(1);

/// The most types of a message.
const MAX_TYPES: usize = 20;

/// The most types that are watched where nodes share a store.
const MOST_TYPES: usize = 1_000;

/// What came in.
#[derive(Serialize, utoipa::ToSchema)]
pub(in crate::http) struct Live {
    /// The time of the message.
    #[schema(value_type = String, format = DateTime, example = "2026-11-21T04:11:21.500000Z")]
    as_of: Timestamp,
    /// Valid events since the store was made, duplicates included.
    #[schema(example = 5000)]
    received: u64,
    /// Of those, the first of their identity.
    #[schema(example = 4000)]
    accepted: u64,
    /// The others.
    #[schema(example = 1000)]
    duplicates: u64,
    /// The same since the message before; zeros in the first.
    change: Change,
    /// Events accepted since the message before, by type, the most first: at most 20 types. `none`
    /// stands for events without a type, `other` for all types beyond the first 200 of the process.
    by_type: Vec<OfType>,
}

/// What came in since the message before.
#[derive(Serialize, utoipa::ToSchema)]
pub(in crate::http) struct Change {
    #[schema(example = 50)]
    received: u64,
    #[schema(example = 40)]
    accepted: u64,
    #[schema(example = 10)]
    duplicates: u64,
}

/// Events of a type.
#[derive(Serialize, utoipa::ToSchema)]
pub(in crate::http) struct OfType {
    #[schema(value_type = String, example = "purchase")]
    event_type: Arc<str>,
    #[schema(example = 40)]
    accepted: u64,
}

/// Follow what comes in
///
/// Server-sent events: the first at once, then one each second, until the service stops.
#[utoipa::path(get, path = "/stats/stream", tag = "analytics",
    responses(
        (status = 200, description = "A stream whose `data` are objects such as this one.", body = Live, content_type = "text/event-stream"),
        (status = 422, description = "`invalid_value`: there are no parameters here."),
        (status = 429, description = "`rate_limited`: too many clients wait for changes."),
    ))]
#[get("/stats/stream")]
pub(in crate::http) fn stream(
    query: Query<'_>,
    state: &State<HttpState>,
    shutdown: Shutdown,
) -> Result<EventStream<BoxStream<'static, Sent>>, Problem> {
    query.read().finish()?;
    let watch = Watch {
        state: state.inner().clone(),
        due: state.clock.now().mono,
        last: None,
        shutdown,
        _permit: state.waiter()?,
    };
    Ok(EventStream::from(watch.messages()).heartbeat(state.limits.heartbeat))
}

/// One client.
struct Watch {
    state: HttpState,
    /// When the next message is due.
    due: Duration,
    last: Option<Totals>,
    shutdown: Shutdown,
    _permit: OwnedSemaphorePermit,
}

/// Everything at one moment.
struct Totals {
    accepted: u64,
    duplicates: u64,
    by_type: Vec<(Arc<str>, u64)>,
}

impl Watch {
    fn messages(self) -> BoxStream<'static, Sent> {
        unfold(self, |mut watch| async {
            tokio::select! {
                () = &mut watch.shutdown => return None,
                () = watch.state.clock.sleep_until(watch.due) => {}
            }
            let now = watch.state.clock.now();
            // A client that was slow for seconds gets one message, not one for each of them.
            watch.due = (watch.due + STEP).max(now.mono + STEP / 2);
            // Without the database the counts are those that were seen last.
            let _ = watch.state.events.store.sync().await;
            let message = watch.message(now.wall).await;
            let text = serde_json::to_string(&message).ok()?;
            Some((Sent::data(text), watch))
        })
        .boxed()
    }

    async fn message(&mut self, as_of: Timestamp) -> Live {
        let counts = self.state.events.store.event_counts();
        let now = Totals {
            accepted: counts.accepted,
            duplicates: counts.duplicates,
            by_type: self.by_type(counts.accepted).await,
        };
        let (accepted, duplicates, by_type) = match &self.last {
            None => (0, 0, Vec::new()),
            Some(last) => (
                now.accepted.saturating_sub(last.accepted),
                now.duplicates.saturating_sub(last.duplicates),
                grown(&last.by_type, &now.by_type),
            ),
        };
        let message = Live {
            as_of,
            received: now.accepted + now.duplicates,
            accepted: now.accepted,
            duplicates: now.duplicates,
            change: Change {
                received: accepted + duplicates,
                accepted,
                duplicates,
            },
            by_type,
        };
        self.last = Some(now);
        message
    }
}

impl Watch {
    /// How many of the accepted events are of each type, by name. What this process counted is enough
    /// where no other accepts any.
    async fn by_type(&self, accepted: u64) -> Vec<(Arc<str>, u64)> {
        if !self.state.events.store.is_shared() {
            return self.state.metrics.ingested_by_type();
        }
        let everything = (Scope::default(), (None, None));
        let asked = self
            .state
            .analytics
            .top_types(everything.0, everything.1, MOST_TYPES);
        let Ok(types) = asked.await else {
            return self
                .last
                .as_ref()
                .map_or_else(Vec::new, |last| last.by_type.clone());
        };
        let told: u64 = types.iter().map(|it| it.count).sum();
        let types = types.into_iter().map(|it| (it.event_type.into(), it.count));
        let untyped = (NO_TYPE.into(), accepted.saturating_sub(told));
        let mut types: Vec<(Arc<str>, u64)> = types.chain([untyped]).collect();
        types.sort_unstable();
        types
    }
}

/// By how much each type grew from `last` to `now`, both by name; the most first.
fn grown(last: &[(Arc<str>, u64)], now: &[(Arc<str>, u64)]) -> Vec<OfType> {
    let mut grown: Vec<OfType> = now
        .iter()
        .filter_map(|(event_type, total)| {
            let before = last.binary_search_by(|(name, _)| name.cmp(event_type));
            let before = before.ok().and_then(|at| last.get(at));
            let accepted = total.saturating_sub(before.map_or(0, |(_, total)| *total));
            let event_type = Arc::clone(event_type);
            (accepted > 0).then_some(OfType {
                event_type,
                accepted,
            })
        })
        .collect();
    // Stable: those of one count stay in order of their names.
    grown.sort_by_key(|it| std::cmp::Reverse(it.accepted));
    grown.truncate(MAX_TYPES);
    grown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_that_grew_come_by_how_much() {
        let totals = |all: &[(&str, u64)]| -> Vec<(Arc<str>, u64)> {
            all.iter().map(|(name, n)| (Arc::from(*name), *n)).collect()
        };
        let last = totals(&[("a", 5), ("c", 7), ("d", 1)]);
        let now = totals(&[("a", 6), ("b", 3), ("c", 7), ("d", 2)]);
        let found: Vec<(String, u64)> = grown(&last, &now)
            .into_iter()
            .map(|it| (it.event_type.to_string(), it.accepted))
            .collect();
        let expected = [("b", 3), ("a", 1), ("d", 1)];
        assert_eq!(found, expected.map(|(name, n)| (name.to_owned(), n)));
        let many: Vec<(Arc<str>, u64)> = (0..30)
            .map(|n| (Arc::from(format!("{n:02}").as_str()), n + 1))
            .collect();
        let found = grown(&[], &many);
        assert_eq!(found.len(), MAX_TYPES);
        assert_eq!(found[0].accepted, 30);
    }
}
