//! `GET /docs`: the interactive API documentation, from this server alone.

use rocket::fairing::AdHoc;
use rocket::http::{ContentType, Header};
use rocket::response::Responder;
use rocket::{get, routes};

const PAGE: &str = include_str!("assets/docs.html");
const SCRIPT: &[u8] = include_bytes!("assets/rapidoc-min.js");

/// The licences of the script and of what is bundled in it.
const LICENCE: &str = include_str!("assets/rapidoc-LICENSE.txt");

/// Nothing on the page may be loaded from, or sent to, another machine.
const POLICY: &str = "default-src 'none'; script-src 'self' 'unsafe-inline'; \
    style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; \
    form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Mounts the resource.
pub(super) fn stage() -> AdHoc {
    AdHoc::on_ignite("docs", |rocket| async {
        rocket.mount("/", routes![docs, script, licence])
    })
}

/// A page of ours, under the policy that keeps it to this machine.
#[derive(Responder)]
pub(super) struct Page {
    body: &'static str,
    media_type: ContentType,
    policy: Header<'static>,
}

impl Page {
    /// An HTML page.
    pub(super) fn html(body: &'static str) -> Self {
        Self {
            body,
            media_type: ContentType::HTML,
            policy: Header::new("Content-Security-Policy", POLICY),
        }
    }
}

/// The script, which may be kept by a browser for a day.
#[derive(Responder)]
pub(super) struct Script {
    body: &'static [u8],
    media_type: ContentType,
    caching: Header<'static>,
}

/// This documentation
#[utoipa::path(get, path = "/docs", tag = "service",
    responses((status = 200, description = "An HTML page that works without a network.", body = String, content_type = "text/html")))]
#[get("/docs")]
pub(super) fn docs() -> Page {
    Page::html(PAGE)
}

/// The documentation's script
#[utoipa::path(get, path = "/docs/rapidoc-min.js", tag = "service",
    responses((status = 200, description = "RapiDoc.", body = String, content_type = "text/javascript")))]
#[get("/docs/rapidoc-min.js")]
pub(super) fn script() -> Script {
    Script {
        body: SCRIPT,
        media_type: ContentType::JavaScript,
        caching: Header::new("Cache-Control", "public, max-age=86400"),
    }
}

/// The licences of the documentation's script
#[utoipa::path(get, path = "/docs/LICENSE.txt", tag = "service",
    responses((status = 200, description = "The licence texts.", body = String, content_type = "text/plain")))]
#[get("/docs/LICENSE.txt")]
pub(super) fn licence() -> &'static str {
    LICENCE
}
