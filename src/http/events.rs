//! `/events` and `/publish`: takes events in, reads them back, erases them.

mod answer;
mod cursor;
pub(super) mod page;
mod query;
pub(super) mod stream;

use rocket::data::Data;
use rocket::fairing::AdHoc;
use rocket::http::uri::{Origin, Query};
use rocket::http::{ContentType, Status};
use rocket::{State, delete, post, routes};
use serde::Serialize;

use super::HttpState;
use super::body;
use super::call::Call;
use super::error::{Code, Problem};
use super::health::json;
use super::quota;
use crate::events::parse::{Format, Request, Route};
use crate::model::event::EventFilter;
pub(super) use answer::{One, Taken, single};
pub(super) use page::{Event, Page, Paging, read as read_page};
use query::name;
pub(super) use query::{instant, legal_name, number, whole};

/// How a body may be written, by its media type.
pub(super) const FORMATS: [(&str, Format); 4] = [
    (body::JSON, Format::Json),
    ("application/x-ndjson", Format::Ndjson),
    ("application/cloudevents+json", Format::CloudEvent),
    ("application/cloudevents-batch+json", Format::CloudEvents),
];

/// Mounts the resource.
pub(super) fn stage() -> AdHoc {
    AdHoc::on_ignite("events", |rocket| async {
        quota::mount(
            rocket,
            routes![
                post_events,
                bulk,
                publish,
                page::page,
                page::event,
                stream::stream,
                erase
            ],
        )
    })
}

/// The answer to a request with events, and its status.
type Answer = Result<(Status, (ContentType, String)), Problem>;

/// The query of a request with events.
#[derive(rocket::FromForm, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Options<'r> {
    /// `true`: good events are stored although others break a rule. Those are counted in
    /// `rejected`, listed in `errors`, and kept as dead letters.
    partial: Option<&'r str>,
    /// `true`: the answer says what became of each event, in order.
    receipts: Option<&'r str>,
}

/// Post events
///
/// One event, or a list of up to 1,000 (an array, an object with an array `events`, or lines of
/// NDJSON). When the answer has come, the events are on disk and every later read sees them.
///
/// An event's identity is (`tenant_id`, `topic`, `event_id`): the first one wins, forever; a later
/// one is a duplicate, whatever else it says. One event alone must have `event_id`, `event_type`,
/// a time, and `tenant_id` or `user_id`; in a list `event_id` and a time are enough.
/// `timestamp` may be called `occurred_at`, and `payload` may be called `properties`; both names in
/// one event are refused, as is any key that is there twice. A `topic` is empty only by default.
/// Keys with no meaning here are kept and returned as sent, up to 64 KiB together.
///
/// A `CloudEvent` (1.0, JSON) must have `specversion`, `id`, `source`, `type` and `time`; `data` must
/// be an object if it is there. `topic`, `tenantid` and `userid` are taken as our own fields; all
/// other attributes are kept.
///
/// With `partial=true` the answer to one bad event is that of a list, too.
///
/// Where the service has a bus, the answer comes when the bus has the events on disk, and says `queued`:
/// they are compared, counted and shown by reads when they are committed, mostly within a second.
#[utoipa::path(
    post, path = "/events", tag = "events", params(Options),
    request_body(content(
        (Event = "application/json", examples(
            ("One event" = (value = json!({
                "event_id": "01936f5e-7c1a-7d3a-b5f0-0a1b2c3d4e5f", "event_type": "purchase",
                "timestamp": "2026-11-21T04:11:21.5Z", "tenant_id": "shop", "user_id": "u-17",
                "properties": {"country": "UA", "amount": 12.5}}))),
            ("A list" = (value = json!({"events": [
                {"event_id": "e-1", "occurred_at": "2026-11-21T04:11:21Z"},
                {"event_id": "e-2", "occurred_at": "2026-11-21T04:11:22Z"}]}))),
        )),
        (String = "application/x-ndjson"),
        (Object = "application/cloudevents+json", example = json!({
            "specversion": "1.0", "id": "A234-1234-1234", "source": "/mycontext",
            "type": "com.example.someevent", "time": "2018-04-05T17:31:00Z", "data": {}})),
        (Vec<Object> = "application/cloudevents-batch+json"),
    )),
    responses(
        (status = 200, description = "One event, which was a duplicate.", body = One),
        (status = 201, description = "One event, which is new.", body = One),
        (status = 202, description = "A list; over a bus also one event, whose `status` is then `queued`.", body = Taken),
        (status = 400, description = "`malformed_json`: not UTF-8, not JSON, cut off, nested deeper than 128, or more than one value."),
        (status = 408, description = "`request_timeout`: the body did not arrive in time."),
        (status = 413, description = "`body_too_large`: the body has more bytes than allowed (16 MiB unless set)."),
        (status = 415, description = "`unsupported_media_type`: another media type than those above."),
        (status = 422, description = "`invalid_value` or `too_many_items`: a rule is broken; nothing was stored."),
        (status = 429, description = "`queue_full`: too many large requests wait to be stored, or the bus is full."),
        (status = 503, description = "`unavailable`: the store takes no writes now, or the bus does not answer."),
    )
)]
#[post("/events?<options..>", data = "<data>")]
pub(super) async fn post_events(
    options: Options<'_>,
    call: Call<'_>,
    data: Data<'_>,
    state: &State<HttpState>,
) -> Answer {
    let max = state.events.settings.max_batch;
    take(Route::Events, max, &options, call, data, state).await
}

/// Post many events
///
/// As `POST /events` with a list, for up to 5,000 events.
#[utoipa::path(
    post, path = "/events/bulk", tag = "events", params(Options),
    request_body(content(
        (Object = "application/json", example = json!({"events": [
            {"event_id": "e-1", "occurred_at": "2026-11-21T04:11:21Z", "event_type": "page_view"},
            {"event_id": "e-2", "occurred_at": "2026-11-21T04:11:22Z", "event_type": "purchase"}]})),
        (String = "application/x-ndjson"),
        (Vec<Object> = "application/cloudevents-batch+json"),
    )),
    responses(
        (status = 202, description = "They are on disk; over a bus they are `queued` there.", body = Taken),
        (status = 400, description = "`malformed_json`: not UTF-8, not JSON, cut off, nested deeper than 128, or more than one value."),
        (status = 408, description = "`request_timeout`: the body did not arrive in time."),
        (status = 413, description = "`body_too_large`: the body has more bytes than allowed (16 MiB unless set)."),
        (status = 415, description = "`unsupported_media_type`: another media type than those above."),
        (status = 422, description = "`invalid_value` or `too_many_items`: a rule is broken; nothing was stored."),
        (status = 429, description = "`queue_full`: too many large requests wait to be stored, or the bus is full."),
        (status = 503, description = "`unavailable`: the store takes no writes now, or the bus does not answer."),
    )
)]
#[post("/events/bulk?<options..>", data = "<data>")]
pub(super) async fn bulk(
    options: Options<'_>,
    call: Call<'_>,
    data: Data<'_>,
    state: &State<HttpState>,
) -> Answer {
    let max = state.events.settings.max_bulk;
    take(Route::Bulk, max, &options, call, data, state).await
}

/// Publish events into topics
///
/// One event or a list of up to 10,000; each must have `topic`, `event_id`, `timestamp`, `source`
/// and `payload`. `enqueued` counts duplicates, too.
#[utoipa::path(
    post, path = "/publish", tag = "events", params(Options),
    request_body(content(
        (Object = "application/json", example = json!({"topic": "orders", "event_id": "o-1",
            "timestamp": "2026-11-21T04:11:21Z", "source": "shop", "payload": {"total": 12.5}})),
        (String = "application/x-ndjson"),
        (Object = "application/cloudevents+json"),
        (Vec<Object> = "application/cloudevents-batch+json"),
    )),
    responses(
        (status = 200, description = "They are on disk; over a bus they are `queued` there.", body = Taken),
        (status = 400, description = "`malformed_json`: not UTF-8, not JSON, cut off, nested deeper than 128, or more than one value."),
        (status = 408, description = "`request_timeout`: the body did not arrive in time."),
        (status = 413, description = "`body_too_large`: the body has more bytes than allowed (16 MiB unless set)."),
        (status = 415, description = "`unsupported_media_type`: another media type than those above."),
        (status = 422, description = "`invalid_value` or `too_many_items`: a rule is broken; nothing was stored."),
        (status = 429, description = "`queue_full`: too many large requests wait to be stored, or the bus is full."),
        (status = 503, description = "`unavailable`: the store takes no writes now, or the bus does not answer."),
    )
)]
#[post("/publish?<options..>", data = "<data>")]
pub(super) async fn publish(
    options: Options<'_>,
    call: Call<'_>,
    data: Data<'_>,
    state: &State<HttpState>,
) -> Answer {
    let max = state.events.settings.max_publish;
    take(Route::Publish, max, &options, call, data, state).await
}

/// What the three routes have in common.
async fn take(
    route: Route,
    max: usize,
    options: &Options<'_>,
    call: Call<'_>,
    data: Data<'_>,
    state: &HttpState,
) -> Answer {
    let read = body::read(call, data, state, &FORMATS).await;
    let partial = query::flag("partial", options.partial)?;
    let with_receipts = query::flag("receipts", options.receipts)?;
    let (body, format) = read?;
    let request = Request {
        format,
        route,
        max,
        partial,
    };
    let done = state.events.ingest(body, request, with_receipts).await?;
    if route == Route::Publish {
        return Ok((Status::Ok, json(&Taken::published(&done, with_receipts))));
    }
    Ok(match single(&done, with_receipts) {
        Some(one) if route == Route::Events => one,
        _ => (Status::Accepted, json(&Taken::of(&done, with_receipts))),
    })
}

/// How many events were erased.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Erased {
    #[schema(example = 17)]
    erased: u64,
}

/// Erase events
///
/// All events of a tenant, of a user, or of a user of a tenant. Their identities stay spent: an
/// event that is sent again is a duplicate. Events accepted meanwhile may stay.
#[utoipa::path(
    delete, path = "/events", tag = "events",
    params(
        ("tenant_id" = Option<String>, Query, description = "Whose events; one of the two must be given."),
        ("user_id" = Option<String>, Query, description = "Events of this user only."),
    ),
    responses(
        (status = 200, description = "They are gone.", body = Erased),
        (status = 422, description = "`invalid_value`: neither of the parameters is given, or there is another one."),
        (status = 503, description = "`unavailable`: the store takes no writes now."),
    )
)]
#[delete("/events?<tenant_id>&<user_id>")]
pub(super) async fn erase(
    tenant_id: Option<&str>,
    user_id: Option<&str>,
    uri: &Origin<'_>,
    state: &State<HttpState>,
) -> Result<(ContentType, String), Problem> {
    // A filter that is passed over would erase more than was meant.
    let query = uri.query();
    let mut fields = query.iter().flat_map(Query::segments);
    if let Some((other, _)) = fields.find(|(key, _)| !matches!(*key, "tenant_id" | "user_id")) {
        return Err(Problem::new(
            Code::InvalidValue,
            format!(
                "There is no parameter {}; tenant_id and user_id say what is erased.",
                super::error::shown(other)
            ),
        ));
    }
    let filter = EventFilter {
        tenant: name("tenant_id", tenant_id)?,
        user: name("user_id", user_id)?,
        ..EventFilter::default()
    };
    if filter == EventFilter::default() {
        return Err(Problem::parameter(
            "tenant_id",
            "is missing: tenant_id, user_id or both say what is erased",
        ));
    }
    let erased = state.events.store.erase(filter).await?;
    Ok(json(&Erased { erased }))
}
