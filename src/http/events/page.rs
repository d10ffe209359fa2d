//! `GET /events` and `GET /events/<event_id>`: reads events back.

use std::io::Write as _;

use rocket::http::ContentType;
use rocket::{State, get};

use super::cursor;
use super::query::{Filter, name, number};
use crate::events::json;
use crate::http::HttpState;
use crate::http::error::{Code, Problem, shown};
use crate::model::event::{DEFAULT_TENANT, EventFilter, Order, PageQuery};

/// The most events of a page.
const MAX_PAGE: u64 = 10_000;

/// How many events a page has, unless the client says.
const DEFAULT_PAGE: u64 = 1_000;

/// The most events before a page that is asked for by its number: they are counted each time.
const MAX_SKIP: u64 = 1_000_000;

/// An event as it is returned. Keys beyond these come as they were sent.
#[derive(utoipa::ToSchema)]
#[expect(
    dead_code,
    clippy::struct_field_names,
    reason = "describes an event for the OpenAPI document"
)]
pub(in crate::http) struct Event {
    /// 1 to 256 bytes, not blank.
    #[schema(max_length = 256, example = "01936f5e-7c1a-7d3a-b5f0-0a1b2c3d4e5f")]
    event_id: String,
    /// RFC 3339, to the nanosecond; without an offset it is UTC. Returned in UTC.
    #[schema(format = DateTime, example = "2026-11-21T04:11:21.5Z")]
    timestamp: String,
    #[schema(default = "", max_length = 256)]
    topic: Option<String>,
    #[schema(default = "default", max_length = 256, example = "shop")]
    tenant_id: Option<String>,
    #[schema(max_length = 256)]
    source: Option<String>,
    #[schema(max_length = 256, example = "purchase")]
    event_type: Option<String>,
    #[schema(max_length = 256, example = "u-17")]
    user_id: Option<String>,
    /// An object of at most 64 KiB, returned as sent.
    #[schema(value_type = Option<Object>, example = json!({"country": "UA"}))]
    payload: Option<()>,
}

/// A page of events.
#[derive(utoipa::ToSchema)]
#[expect(
    dead_code,
    clippy::struct_field_names,
    reason = "describes the answer for the OpenAPI document"
)]
pub(in crate::http) struct Page {
    events: Vec<Event>,
    /// Its number, from 1; null for one that was asked for by `cursor`.
    #[schema(example = 1)]
    page: Option<u64>,
    /// How many events a page has at most.
    #[schema(example = 1000)]
    page_size: u64,
    /// Whether there are more behind it.
    has_more: bool,
    /// The `cursor` of the next page; null if there is none.
    next_cursor: Option<String>,
}

/// Which page.
#[derive(Clone, Copy)]
pub(in crate::http) struct Paging<'r> {
    pub(in crate::http) order: Option<&'r str>,
    pub(in crate::http) page_size: Option<&'r str>,
    pub(in crate::http) cursor: Option<&'r str>,
    pub(in crate::http) page: Option<&'r str>,
}

impl Paging<'_> {
    /// Checked; with the number of the page, unless it begins at a cursor.
    fn parse(self, filter: EventFilter) -> Result<(PageQuery, Option<u64>), Problem> {
        let order = match self.order {
            None => None,
            Some("asc") => Some(Order::Ascending),
            Some("desc") => Some(Order::Descending),
            Some(_) => return Err(Problem::parameter("order", "must be asc or desc")),
        };
        let size = number("page_size", self.page_size, 1..=MAX_PAGE)?.unwrap_or(DEFAULT_PAGE);
        let page = number("page", self.page, 1..=u64::MAX)?;
        let skip = (page.unwrap_or(1) - 1).saturating_mul(size);
        if skip > MAX_SKIP {
            return Err(Problem::parameter(
                "page",
                format!(
                    "must begin behind at most {MAX_SKIP} events, which with this page_size is page \
                     {}: go on from there by cursor",
                    MAX_SKIP / size + 1
                ),
            ));
        }
        let place = match self.cursor {
            None => None,
            Some(text) => Some(cursor::read(text).ok_or_else(|| {
                Problem::parameter("cursor", "must be the next_cursor of a page")
            })?),
        };
        if place.is_some() && page.is_some() {
            return Err(Problem::new(
                Code::ContradictoryParameters,
                "cursor and page both say where to begin. Leave one of them out.",
            ));
        }
        if let (Some((_, begun)), Some(order)) = (place, order)
            && begun != order
        {
            return Err(Problem::new(
                Code::ContradictoryParameters,
                "The cursor is of a page in the other order. Leave order out.",
            ));
        }
        let query = PageQuery {
            filter,
            order: place.map(|(_, order)| order).or(order).unwrap_or_default(),
            after: place.map(|(place, _)| place),
            skip,
            limit: usize::try_from(size).unwrap_or(usize::MAX),
        };
        let page = place.is_none().then(|| page.unwrap_or(1));
        Ok((query, page))
    }
}

/// Reads one page.
pub(in crate::http) async fn read(
    state: &HttpState,
    filter: EventFilter,
    paging: Paging<'_>,
) -> Result<(ContentType, Vec<u8>), Problem> {
    let (query, page) = paging.parse(filter)?;
    let (order, limit) = (query.order, query.limit);
    let found = state.events.store.page(query).await?;
    let mut out = Vec::with_capacity(256 + 384 * found.events.len());
    out.extend_from_slice(b"{\"events\":[");
    // Each event's memory is given back once it is written.
    for (index, stored) in found.events.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        json::write(&mut out, &stored.event);
    }
    let page = page.map_or_else(|| "null".to_owned(), |page| page.to_string());
    let has_more = found.next.is_some();
    let next = found.next.map_or_else(
        || "null".to_owned(),
        |place| format!("\"{}\"", cursor::write(place, order)),
    );
    // Writing to a vector can't fail.
    let _ = write!(
        out,
        "],\"page\":{page},\"page_size\":{limit},\"has_more\":{has_more},\"next_cursor\":{next}}}"
    );
    Ok((ContentType::JSON, out))
}

/// Read events
///
/// In order of (`timestamp`, arrival). Pages by `cursor` stay stable while events arrive, and cost
/// the same at any depth; pages by `page` count from the beginning each time, over at most 1,000,000
/// events. A page may have fewer events than `page_size` although `has_more` is true: where a filter
/// finds little, and where the events have more than 32 MiB together. Behind such a page go on by
/// `next_cursor`; the next number would leave events out. Events that were moved to the cold tier
/// (setting `events.cold`) are not among them.
#[utoipa::path(
    get, path = "/events", tag = "events",
    params(
        Filter,
        ("order" = Option<String>, Query, description = "`asc` (oldest first, the default) or `desc`."),
        ("page_size" = Option<u64>, Query, minimum = 1, maximum = 10_000, description = "The most events of the page; 1,000 if absent."),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before."),
        ("page" = Option<u64>, Query, minimum = 1, description = "The number of the page, from 1; not together with `cursor`. At most 1,000,000 events may stand before it."),
    ),
    responses(
        (status = 200, description = "One page.", body = Page),
        (status = 400, description = "`contradictory_parameters`: `from` after `to`, `cursor` with `page`, or `order` against that of the cursor."),
        (status = 422, description = "`invalid_value`: a parameter is not valid."),
        (status = 503, description = "`unavailable`: the service is shutting down."),
    )
)]
#[get("/events?<order>&<page_size>&<cursor>&<page>&<filter..>")]
pub(in crate::http) async fn page(
    order: Option<&str>,
    page_size: Option<&str>,
    cursor: Option<&str>,
    page: Option<&str>,
    filter: Filter<'_>,
    state: &State<HttpState>,
) -> Result<(ContentType, Vec<u8>), Problem> {
    let paging = Paging {
        order,
        page_size,
        cursor,
        page,
    };
    read(state, filter.parse()?, paging).await
}

/// Read one event
///
/// Events called `stream` are found by `GET /events` only.
#[utoipa::path(
    get, path = "/events/{event_id}", tag = "events",
    params(
        ("event_id" = String, Path, description = "As sent."),
        ("tenant_id" = Option<String>, Query, description = "`default` if absent."),
        ("topic" = Option<String>, Query, description = "Empty if absent."),
    ),
    responses(
        (status = 200, description = "The event.", body = Event),
        (status = 404, description = "`not_found`: there is no such event, or it was erased."),
        (status = 405, description = "`method_not_allowed`: there is no event called `bulk`; `POST /events/bulk` takes many events."),
        (status = 422, description = "`invalid_value`: a parameter is not valid."),
        (status = 503, description = "`unavailable`: the service is shutting down."),
    )
)]
#[get("/events/<event_id>?<tenant_id>&<topic>")]
pub(in crate::http) async fn event(
    event_id: &str,
    tenant_id: Option<&str>,
    topic: Option<&str>,
    state: &State<HttpState>,
) -> Result<(ContentType, String), Problem> {
    let tenant = name("tenant_id", tenant_id)?.unwrap_or_else(|| DEFAULT_TENANT.to_owned());
    let topic = topic.unwrap_or_default();
    let found = state.events.store.event(&tenant, topic, event_id).await?;
    match found {
        Some(stored) => Ok((ContentType::JSON, json::event(&stored.event))),
        None if event_id == "bulk" => Err(Problem::new(
            Code::MethodNotAllowed,
            "/events/bulk does not offer this method. It offers POST.",
        )
        .allow("POST".to_owned())),
        None => Err(Problem::new(
            Code::NotFound,
            format!(
                "There is no event {} of tenant {} in topic {}, or it was erased.",
                shown(event_id),
                shown(&tenant),
                shown(topic)
            ),
        )),
    }
}
