//! `GET /ingestions/<id>/results`: what came of the ids of an ingestion.

use std::time::Duration;

use rocket::fairing::AdHoc;
use rocket::http::ContentType;
use rocket::{State, get, routes};

use super::HttpState;
use super::error::Problem;
use super::events::{Page, Paging, read_page};
use super::quota;
use super::status::unknown;
use crate::jobs::results::TOPIC;
use crate::model::event::{DEFAULT_TENANT, EventFilter, EventTime};
use crate::model::id::IngestionId;

/// No result is older than its ingestion, but for a clock that was set back by less than this.
const SET_BACK: Duration = Duration::from_hours(1);

/// Mounts the resource.
pub(super) fn stage() -> AdHoc {
    AdHoc::on_ignite("results", |rocket| async {
        quota::mount(rocket, routes![results])
    })
}

/// Read the results of an ingestion
///
/// The events of topic `ingest` whose `source` is the ingestion, one for each id that is done;
/// pages as those of `GET /events`.
#[utoipa::path(
    get, path = "/ingestions/{ingestion_id}/results", tag = "jobs",
    params(
        ("ingestion_id" = String, Path, description = "As answered by `POST /ingest`."),
        ("order" = Option<String>, Query, description = "`asc` (oldest first, the default) or `desc`."),
        ("page_size" = Option<u64>, Query, minimum = 1, maximum = 10_000, description = "The most results of the page; 1,000 if absent."),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before."),
        ("page" = Option<u64>, Query, minimum = 1, description = "The number of the page, from 1; not together with `cursor`. At most 1,000,000 events may stand before it."),
    ),
    responses(
        (status = 200, description = "One page.", body = Page),
        (status = 400, description = "`contradictory_parameters`: `cursor` with `page`, or `order` against that of the cursor."),
        (status = 404, description = "`not_found`: there is no such ingestion, or it was removed after its retention."),
        (status = 422, description = "`invalid_value`: a parameter is not valid."),
        (status = 503, description = "`unavailable`: the service is shutting down."),
    )
)]
#[get("/ingestions/<ingestion_id>/results?<order>&<page_size>&<cursor>&<page>")]
pub(super) async fn results(
    ingestion_id: &str,
    order: Option<&str>,
    page_size: Option<&str>,
    cursor: Option<&str>,
    page: Option<&str>,
    state: &State<HttpState>,
) -> Result<(ContentType, Vec<u8>), Problem> {
    let id = IngestionId::parse(ingestion_id).ok_or_else(|| unknown(ingestion_id))?;
    let view = state.jobs.view(id, 0..0).await?;
    let view = view.ok_or_else(|| unknown(ingestion_id))?;
    let filter = EventFilter {
        tenant: Some(DEFAULT_TENANT.to_owned()),
        topic: Some(TOPIC.to_owned()),
        source: Some(id.to_string()),
        // Spares the search of everything that is older.
        from: Some(EventTime {
            micros: view.ingestion.created_at.minus(SET_BACK),
            nanos: 0,
        }),
        ..EventFilter::default()
    };
    let paging = Paging {
        order,
        page_size,
        cursor,
        page,
    };
    read_page(state, filter, paging).await
}
