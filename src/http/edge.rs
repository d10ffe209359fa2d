//! What happens around every request: its id goes into the answer, and it is counted.
//!
//! One fairing for both, because each costs two boxed futures a request.

use std::time::Duration;

use rocket::fairing::{Fairing, Info, Kind};
use rocket::http::Header;
use rocket::{Data, Request, Response};

use super::HttpState;
use super::request_id::{HEADER, RequestId};
use crate::clock::Clock;
use crate::telemetry::Metrics;

/// When the request reached the fairings; `None` for one that the framework refused before.
pub(super) struct Began(Option<Duration>);

impl Began {
    /// Whether the request got as far as routing.
    pub(super) fn was_routed(request: &Request<'_>) -> bool {
        request.local_cache(|| Self(None)).0.is_some()
    }
}

/// The fairing.
pub(super) struct Edge {
    clock: Clock,
    metrics: Metrics,
}

impl Edge {
    /// Reads the clock and counts into the metrics of `state`.
    pub(super) fn new(state: &HttpState) -> Self {
        Self {
            clock: state.clock.clone(),
            metrics: state.metrics.clone(),
        }
    }
}

#[rocket::async_trait]
impl Fairing for Edge {
    fn info(&self) -> Info {
        Info {
            name: "request id and metrics",
            kind: Kind::Request | Kind::Response,
        }
    }

    async fn on_request(&self, request: &mut Request<'_>, _: &mut Data<'_>) {
        let now = self.clock.now().mono;
        request.local_cache(|| Began(Some(now)));
    }

    async fn on_response<'r>(&self, request: &'r Request<'_>, response: &mut Response<'r>) {
        response.set_header(Header::new(HEADER, RequestId::of(request).as_str()));
        let Began(Some(began)) = request.local_cache(|| Began(None)) else {
            return;
        };
        let took = self.clock.now().mono.saturating_sub(*began);
        // A pattern, never a path: the number of label values stays that of the routes.
        let endpoint = request.route().map_or("other", |route| route.uri.path());
        self.metrics.api_request(
            request.method().as_str(),
            endpoint,
            response.status().code,
            took,
        );
    }
}
