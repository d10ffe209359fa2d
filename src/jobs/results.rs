//! What came of each id, kept as an event.
//!
//! An event of topic [`TOPIC`] whose identity is the id's place, so that the result of a batch that
//! is started again is a duplicate of what is there.
//!
//! What was processed is kept before the end of the attempt is recorded: a crash between the two repeats
//! the batch, and loses nothing. What failed is kept after it is recorded that the batch is given up, and
//! before its end: the first result of an id is its only one, so a failure is none while there may be
//! another attempt. Only the node that schedules can record that. After a crash between the two, or on
//! another node, the same results are made from what is recorded.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::json;
use serde_json::value::RawValue;

use super::processor::{Failure, IdResult, Response, Work};
use crate::clock::Clock;
use crate::events::Events;
use crate::model::event::{DEFAULT_TENANT, Event, EventTime, MAX_PAYLOAD};
use crate::model::id::{BatchIndex, IngestionId};
use crate::model::ingestion::Ingestion;
use crate::model::json::is_too_deep;
use crate::model::time::Timestamp;
use crate::store::StoreError;

/// The topic of results.
pub const TOPIC: &str = "ingest";

/// The type of the result of an id that was processed.
const COMPLETED: &str = "completed";

/// The type of the result of an id that was given up.
const FAILED: &str = "failed";

/// The most results that are kept in one commit.
const AT_ONCE: usize = 1_000;

/// The most bytes of a response that are kept: a payload holds them as JSON text, where a byte may
/// take six.
const MAX_BODY: usize = 60 * 1024;

/// How deep a body stands where it is returned: in a payload, in an event, in a list, in an object.
const ABOVE: usize = 4;

/// How long to wait after the store refused the results.
const PAUSE: Duration = Duration::from_secs(1);

/// How often to try again.
const ATTEMPTS: u32 = 60;

/// Keeps results. Whether they are kept: it gives up when the store refuses them for a minute, and at once
/// when it will take none until a restart.
pub(super) async fn keep(events: &Events, clock: &Clock, results: &[Event<'static>]) -> bool {
    for chunk in results.chunks(AT_ONCE) {
        if !keep_some(events, clock, chunk).await {
            return false;
        }
    }
    true
}

async fn keep_some(events: &Events, clock: &Clock, chunk: &[Event<'static>]) -> bool {
    for _ in 0..ATTEMPTS {
        match events.append(chunk.to_vec()).await {
            Ok(_) => return true,
            Err(StoreError::Closed | StoreError::Failed(_)) => return false,
            Err(_) => clock.sleep(PAUSE).await,
        }
    }
    false
}

/// What results come to that could not be kept: the ids are processed again, for a result that
/// nobody can read was not delivered.
pub(super) fn not_kept(results: Vec<IdResult>) -> Vec<IdResult> {
    let lost = |result: IdResult| IdResult {
        result: result.result.and_then(|_| {
            Err(Failure {
                reason: "the result could not be kept".to_owned(),
                retry_after: None,
            })
        }),
        ..result
    };
    results.into_iter().map(lost).collect()
}

/// The results of the ids that were processed in an attempt that ended at `at`.
pub(super) fn of_processed(
    work: &Work,
    results: &[IdResult],
    at: Timestamp,
) -> Vec<Event<'static>> {
    let processed = results.iter().filter_map(|result| {
        let response = result.result.as_ref().ok()?;
        let place = (work.ingestion, work.batch, result.position);
        Some(event(place, COMPLETED, processed(result.id, response), at))
    });
    processed.collect()
}

/// The results of the ids that failed in the last attempt at a batch that is given up; none of any other.
pub(super) fn of_given_up(ingestion: &Ingestion, batch: BatchIndex) -> Vec<Event<'static>> {
    let run = ingestion.run(batch).filter(|run| run.is_given_up());
    let Some((run, at)) = run.and_then(|run| Some((run, run.completed_at?))) else {
        return Vec::new();
    };
    let ids = ingestion.ids_of(batch);
    let failed = run.failures.iter().filter_map(|failure| {
        let id = ids.get(usize::from(failure.position))?;
        let payload = json!({"id": id, "error": failure.reason}).to_string();
        let place = (ingestion.id, batch, failure.position);
        Some(event(place, FAILED, payload, at))
    });
    failed.collect()
}

/// The result of the id at this place.
fn event(
    (ingestion, batch, position): (IngestionId, BatchIndex, u16),
    event_type: &'static str,
    payload: String,
    at: Timestamp,
) -> Event<'static> {
    Event {
        tenant: DEFAULT_TENANT.into(),
        topic: TOPIC.into(),
        id: format!("{ingestion}:{}:{position}", batch.0).into(),
        time: EventTime {
            micros: at,
            nanos: 0,
        },
        source: Some(ingestion.to_string().into()),
        event_type: Some(event_type.into()),
        user: None,
        payload: payload.into(),
        extra: Cow::Borrowed(""),
    }
}

/// The payload of an id that was processed. A body that is JSON is kept as such, any other (and one
/// nested too deep to be returned) as text; one that is too long is cut off.
fn processed(id: i64, response: &Response) -> String {
    let (status, body) = (response.status, response.body.as_slice());
    if let Ok(value) = serde_json::from_slice::<&RawValue>(body)
        && body.len() <= MAX_BODY
        && !is_too_deep(value.get(), ABOVE)
    {
        return format!(r#"{{"id":{id},"status":{status},"body":{}}}"#, value.get());
    }
    let mut kept = body.len().min(MAX_BODY);
    loop {
        let text = String::from_utf8_lossy(body.get(..kept).unwrap_or_default());
        let text = serde_json::Value::from(text);
        let payload = if kept == body.len() {
            format!(r#"{{"id":{id},"status":{status},"body":{text}}}"#)
        } else {
            let bytes = body.len();
            format!(r#"{{"id":{id},"status":{status},"body":{text},"body_bytes":{bytes}}}"#)
        };
        if payload.len() <= MAX_PAYLOAD {
            return payload;
        }
        kept /= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::batch::{BatchRun, IdFailure};
    use crate::model::id::Arrival;
    use crate::model::priority::Priority;
    use crate::model::queue::QueueId;

    fn work() -> Work {
        Work {
            ingestion: IngestionId::new(uuid::Uuid::nil()),
            batch: BatchIndex(2),
            attempt: 1,
            due: vec![(0, 7)],
        }
    }

    fn payload(body: &[u8]) -> String {
        let response = Response {
            status: 200,
            body: body.to_vec(),
        };
        processed(7, &response)
    }

    fn failure(position: u16) -> IdResult {
        IdResult {
            position,
            id: 7,
            result: Err(Failure {
                reason: "no".to_owned(),
                retry_after: None,
            }),
        }
    }

    #[test]
    fn an_event_names_the_place_of_its_id() {
        let done = IdResult {
            position: 1,
            id: 7,
            result: Ok(Response {
                status: 204,
                body: Vec::new(),
            }),
        };
        let events = of_processed(&work(), &[failure(0), done], Timestamp::EPOCH);
        let [event] = events.as_slice() else {
            panic!("a failure may be followed by another attempt: {events:?}");
        };
        assert_eq!(event.id, "00000000-0000-0000-0000-000000000000:2:1");
        assert_eq!(
            (&*event.topic, event.event_type.as_deref()),
            ("ingest", Some("completed"))
        );
        assert_eq!(event.payload, r#"{"id":7,"status":204,"body":""}"#);
    }

    #[test]
    fn a_failure_is_a_result_once_the_batch_is_given_up() {
        let at = Timestamp::from_micros(9);
        let mut ingestion = Ingestion {
            id: IngestionId::new(uuid::Uuid::nil()),
            arrival: Arrival(1),
            created_at: Timestamp::EPOCH,
            ids: [5, 6, 7].into(),
            extras: None,
            runs: None,
            queue: QueueId(0),
            batch_size: 2.try_into().unwrap(),
            priority: Priority::Low,
        };
        let failed = BatchRun {
            failures: vec![IdFailure::new(1, "no".to_owned())],
            ..BatchRun::first(Timestamp::EPOCH)
        };
        let given_up = BatchRun {
            completed_at: Some(at),
            ..failed.clone()
        };
        ingestion.set_run(BatchIndex(0), failed);
        assert_eq!(of_given_up(&ingestion, BatchIndex(0)), []);
        ingestion.set_run(BatchIndex(0), given_up);
        let events = of_given_up(&ingestion, BatchIndex(0));
        let [event] = events.as_slice() else {
            panic!("one failed: {events:?}");
        };
        assert_eq!(event.id, "00000000-0000-0000-0000-000000000000:0:1");
        assert_eq!(event.event_type.as_deref(), Some("failed"));
        assert_eq!(event.time.micros, at);
        assert_eq!(event.payload, r#"{"error":"no","id":6}"#);
    }

    #[test]
    fn what_was_not_kept_is_no_success() {
        let result = |result| IdResult {
            position: 0,
            id: 7,
            result,
        };
        let failure = |reason: &str| Failure {
            reason: reason.to_owned(),
            retry_after: Some(PAUSE),
        };
        let response = Response {
            status: 200,
            body: Vec::new(),
        };
        let lost = not_kept(vec![result(Ok(response)), result(Err(failure("no")))]);
        let reason = |at: usize| lost[at].result.as_ref().unwrap_err().reason.as_str();
        assert_eq!(reason(0), "the result could not be kept");
        assert_eq!(lost[1], result(Err(failure("no"))));
    }

    #[test]
    fn a_body_is_kept_as_json_as_text_or_cut_off() {
        assert_eq!(
            payload(b"{\"a\": 1.0}"),
            r#"{"id":7,"status":200,"body":{"a": 1.0}}"#
        );
        assert_eq!(payload(b"<p>"), r#"{"id":7,"status":200,"body":"<p>"}"#);
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(payload(nested(124).as_bytes()).contains(r#""body":["#));
        assert!(payload(nested(125).as_bytes()).contains(r#""body":"["#));
        let long = payload(&vec![b'x'; 1_000_000]);
        assert!(long.contains("\"body_bytes\":1000000") && long.len() <= MAX_PAYLOAD);
        let escaped = payload(&vec![1; 1_000_000]);
        assert!(escaped.contains("\\u0001") && escaped.len() <= MAX_PAYLOAD);
    }
}
