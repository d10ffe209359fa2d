//! `/dead-letters`: events that were refused, to be put right or thrown away.

use rocket::data::Data;
use rocket::fairing::AdHoc;
use rocket::http::{ContentType, Status};
use rocket::{State, delete, get, post, routes};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::HttpState;
use super::body;
use super::call::Call;
use super::error::{Code, Offence, Problem, shown};
use super::events::{FORMATS, One, number, single};
use super::health::json;
use super::quota;
use crate::events::parse::{Format, Request, Route};
use crate::model::event::DeadLetter;
use crate::model::time::Timestamp;

/// How many dead letters are listed, unless the client says.
const DEFAULT_PAGE: u64 = 100;

/// The most dead letters that are listed.
const MAX_PAGE: u64 = 1_000;

/// Mounts the resource.
pub(super) fn stage() -> AdHoc {
    AdHoc::on_ignite("dead letters", |rocket| async {
        quota::mount(rocket, routes![letters, letter, retry, discard])
    })
}

/// An event that was refused.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Letter {
    #[schema(example = 1)]
    id: u64,
    /// When it was refused.
    #[schema(value_type = String, format = DateTime)]
    refused_at: Timestamp,
    /// What is wrong with it, with pointers into the event.
    #[schema(value_type = Vec<Offence>)]
    errors: Box<RawValue>,
    /// The event as sent; a string if it was not JSON.
    #[schema(value_type = Object, example = json!({"event_id": "e-1", "timestamp": "yesterday"}))]
    body: Box<RawValue>,
}

impl From<DeadLetter> for Letter {
    fn from(letter: DeadLetter) -> Self {
        Self {
            id: letter.id,
            refused_at: letter.refused_at,
            errors: raw(letter.errors),
            body: raw(letter.body),
        }
    }
}

/// JSON text as it is; any other text as a string.
fn raw(text: String) -> Box<RawValue> {
    let is_json = serde_json::from_str::<IgnoredAny>(&text).is_ok();
    let written = if is_json {
        RawValue::from_string(text)
    } else {
        serde_json::value::to_raw_value(&text)
    };
    // JSON in the one case, a string in the other: neither fails.
    written.unwrap_or_default()
}

/// Some of the dead letters.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct LetterList {
    /// In order of their number.
    dead_letters: Vec<Letter>,
    /// Whether there are more.
    has_more: bool,
    /// The `cursor` of the next ones; null if there are none.
    #[schema(example = json!(null))]
    next_cursor: Option<String>,
}

/// List dead letters
///
/// Events that a request with `partial=true` left behind, in the order in which they were refused.
/// Fewer than `page_size` come although `has_more` is true where they have more than 32 MiB together.
#[utoipa::path(get, path = "/dead-letters", tag = "events",
    params(
        ("page_size" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "How many at most; 100 if absent."),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the list before."),
    ),
    responses(
        (status = 200, description = "Some of them.", body = LetterList),
        (status = 422, description = "`invalid_value`: a parameter is not valid."),
        (status = 503, description = "`unavailable`: the service is shutting down."),
    ))]
#[get("/dead-letters?<page_size>&<cursor>")]
pub(super) async fn letters(
    page_size: Option<&str>,
    cursor: Option<&str>,
    state: &State<HttpState>,
) -> Result<(ContentType, String), Problem> {
    let size = number("page_size", page_size, 1..=MAX_PAGE)?.unwrap_or(DEFAULT_PAGE);
    let after = number("cursor", cursor, 0..=u64::MAX >> 1)?.unwrap_or(0);
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let (found, has_more) = state.events.store.letters(after, size).await?;
    let last = found.last().map(|letter| letter.id.to_string());
    Ok(json(&LetterList {
        dead_letters: found.into_iter().map(Letter::from).collect(),
        has_more,
        next_cursor: last.filter(|_| has_more),
    }))
}

/// Read a dead letter
#[utoipa::path(get, path = "/dead-letters/{id}", tag = "events",
    params(("id" = u64, Path, description = "As listed.")),
    responses(
        (status = 200, description = "The dead letter.", body = Letter),
        (status = 404, description = "`not_found`: there is no such dead letter."),
        (status = 503, description = "`unavailable`: the service is shutting down."),
    ))]
#[get("/dead-letters/<id>")]
pub(super) async fn letter(
    id: &str,
    state: &State<HttpState>,
) -> Result<(ContentType, String), Problem> {
    Ok(json(&Letter::from(find(id, state).await?)))
}

/// Send a dead letter again
///
/// With the event put right as the body, or as it is without a body. Once the event is stored (or
/// turns out to be a duplicate) the dead letter is gone; if it is refused again, it stays. It must
/// have `event_id` and a time, and keep the limits of every field.
#[utoipa::path(post, path = "/dead-letters/{id}/retry", tag = "events",
    params(("id" = u64, Path, description = "As listed.")),
    request_body(content(
        (Option<Object> = "application/json", example = json!({"event_id": "e-1", "timestamp": "2026-11-21T04:11:21Z"})),
        (Option<Object> = "application/cloudevents+json"),
    ), description = "The event put right; may be left out."),
    responses(
        (status = 200, description = "It was a duplicate.", body = One),
        (status = 201, description = "It is stored.", body = One),
        (status = 400, description = "`malformed_json`: the body is not JSON."),
        (status = 404, description = "`not_found`: there is no such dead letter."),
        (status = 408, description = "`request_timeout`: the body did not arrive in time."),
        (status = 413, description = "`body_too_large`: the body has more bytes than allowed (16 MiB unless set)."),
        (status = 415, description = "`unsupported_media_type`: another media type than those above."),
        (status = 422, description = "`invalid_value`: the event still breaks a rule."),
        (status = 429, description = "`queue_full`: too many large requests wait to be stored."),
        (status = 503, description = "`unavailable`: the store takes no writes now."),
    ))]
#[post("/dead-letters/<id>/retry", data = "<data>")]
pub(super) async fn retry(
    id: &str,
    call: Call<'_>,
    data: Data<'_>,
    state: &State<HttpState>,
) -> Result<(Status, (ContentType, String)), Problem> {
    let sent = if has_body(call) {
        let single =
            |(_, format): &(_, Format)| matches!(format, Format::Json | Format::CloudEvent);
        let types: Vec<_> = FORMATS.into_iter().filter(single).collect();
        Some(body::read(call, data, state, &types).await?)
    } else {
        None
    };
    let letter = find(id, state).await?;
    let request = |format| Request {
        format,
        route: Route::Again,
        max: 1,
        partial: false,
    };
    let events = &state.events;
    let done = if let Some((body, format)) = sent {
        events.ingest(body, request(format), false).await?
    } else {
        let format = format_of(&letter.body);
        let body = letter.body.into_bytes();
        events.ingest(body, request(format), false).await?
    };
    // If this fails, the event is stored and the letter is there: sent again, it is a duplicate.
    events.store.discard_letter(letter.id).await?;
    single(&done, false).ok_or_else(|| Problem::new(Code::Internal, "One event became none."))
}

/// Discard a dead letter
#[utoipa::path(delete, path = "/dead-letters/{id}", tag = "events",
    params(("id" = u64, Path, description = "As listed.")),
    responses(
        (status = 204, description = "It is gone."),
        (status = 404, description = "`not_found`: there is no such dead letter."),
        (status = 503, description = "`unavailable`: the store takes no writes now."),
    ))]
#[delete("/dead-letters/<id>")]
pub(super) async fn discard(id: &str, state: &State<HttpState>) -> Result<Status, Problem> {
    let was_there = match id.parse() {
        Ok(number) => state.events.store.discard_letter(number).await?,
        Err(_) => false,
    };
    if was_there {
        Ok(Status::NoContent)
    } else {
        Err(unknown(id))
    }
}

async fn find(id: &str, state: &HttpState) -> Result<DeadLetter, Problem> {
    let found = match id.parse() {
        Ok(number) => state.events.store.letter(number).await?,
        Err(_) => None,
    };
    found.ok_or_else(|| unknown(id))
}

fn unknown(id: &str) -> Problem {
    Problem::new(
        Code::NotFound,
        format!(
            "There is no dead letter {}, or it was sent again or discarded.",
            shown(id)
        ),
    )
}

/// Whether the request announces a body.
fn has_body(call: Call<'_>) -> bool {
    let length = call.header("content-length");
    length.is_some_and(|length| length != "0") || call.header("transfer-encoding").is_some()
}

/// How a dead letter is written: it does not say by which media type it came.
fn format_of(body: &str) -> Format {
    #[derive(Deserialize)]
    struct Keys {
        specversion: Option<IgnoredAny>,
        event_id: Option<IgnoredAny>,
    }
    match serde_json::from_str(body) {
        Ok(Keys {
            specversion: Some(_),
            event_id: None,
        }) => Format::CloudEvent,
        _ => Format::Json,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_shows_json_as_json_and_the_rest_as_text() {
        let letter = |body: &str| {
            json(&Letter::from(DeadLetter {
                id: 7,
                refused_at: Timestamp::EPOCH,
                errors: "[]".to_owned(),
                body: body.to_owned(),
            }))
            .1
        };
        assert!(letter(r#"{ "a":1.0}"#).ends_with(r#""body":{ "a":1.0}}"#));
        assert!(letter("{\"a").ends_with(r#""body":"{\"a"}"#));
    }

    #[test]
    fn a_cloud_event_is_known_by_its_version() {
        assert_eq!(format_of(r#"{"specversion":"1.0"}"#), Format::CloudEvent);
        let ours = r#"{"event_id":"1","specversion":"1.0"}"#;
        assert_eq!(format_of(ours), Format::Json);
        assert_eq!(format_of("oops"), Format::Json);
    }
}
