//! `GET /dashboard`: the queues and the newest ingestions, live, on one page.

use rocket::fairing::AdHoc;
use rocket::{get, routes};

use super::docs::Page;

const PAGE: &str = include_str!("assets/dashboard.html");

/// Mounts the resource.
pub(super) fn stage() -> AdHoc {
    AdHoc::on_ignite("dashboard", |rocket| async {
        rocket.mount("/", routes![dashboard])
    })
}

/// A page to watch and to submit
#[utoipa::path(get, path = "/dashboard", tag = "service",
    responses((status = 200, description = "An HTML page that works without a network.", body = String, content_type = "text/html")))]
#[get("/dashboard")]
pub(super) fn dashboard() -> Page {
    Page::html(PAGE)
}
