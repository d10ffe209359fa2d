//! The quota of each client, before anything of a request's body is read.
//!
//! A resource mounts its routes through [`mount`], and each of their handlers is then put behind a
//! [`Limited`]. Paths without a route are counted in the catcher. What the service says of itself is
//! mounted without: see [`FREE`].

use rocket::response::{self, Responder};
use rocket::route::{Handler, Outcome, Route};
use rocket::{Build, Data, Request, Response, Rocket};

use super::HttpState;
use super::body;
use super::error::{Code, Problem};
use crate::model::quota::Rate;
use crate::quota::{Client, Verdict};

/// The paths that are not counted, and all below them. `/metrics` is another one if it has no
/// parameters.
pub(super) const FREE: [&str; 6] = [
    "/",
    "/health",
    "/ready",
    "/docs",
    "/openapi.json",
    "/dashboard",
];

/// Mounts routes that count.
pub(super) fn mount(rocket: Rocket<Build>, routes: Vec<Route>) -> Rocket<Build> {
    mount_if(rocket, routes, |_| true)
}

/// Mounts routes whose requests count if `counts` says so.
pub(super) fn mount_if(
    rocket: Rocket<Build>,
    mut routes: Vec<Route>,
    counts: fn(&Request<'_>) -> bool,
) -> Rocket<Build> {
    let state = rocket.state::<HttpState>();
    if state.is_some_and(|state| state.quota.rate().is_some()) {
        for route in &mut routes {
            let inner = route.handler.clone();
            route.handler = Box::new(Limited { inner, counts });
        }
    }
    rocket.mount("/", routes)
}

/// A handler that is reached only by clients that may.
#[derive(Clone)]
struct Limited {
    inner: Box<dyn Handler>,
    counts: fn(&Request<'_>) -> bool,
}

#[rocket::async_trait]
impl Handler for Limited {
    async fn handle<'r>(&self, request: &'r Request<'_>, data: Data<'r>) -> Outcome<'r> {
        if !(self.counts)(request) {
            return self.inner.handle(request, data).await;
        }
        if let Some(problem) = exceeded(request).await {
            body::discard(request, data).await;
            return Outcome::from(request, Counted(problem));
        }
        let mut outcome = self.inner.handle(request, data).await;
        if let Outcome::Success(response) = &mut outcome {
            tell(request, response);
        }
        outcome
    }
}

/// What was decided of a request, once.
struct Decided(Option<(Rate, Verdict)>);

/// Counts the request; the problem, if its client makes too many.
pub(super) async fn exceeded(request: &Request<'_>) -> Option<Problem> {
    let Decided(decided) = request.local_cache_async(decide(request)).await;
    let (rate, verdict) = decided.as_ref().filter(|(_, verdict)| !verdict.allowed)?;
    Some(
        Problem::new(
            Code::RateLimited,
            format!(
                "This client made more than {} requests in {} s. Send this one again after the \
                 seconds that Retry-After says, and fewer.",
                rate.requests,
                whole_seconds(rate.per),
            ),
        )
        .retry_after(verdict.retry_in),
    )
}

async fn decide(request: &Request<'_>) -> Decided {
    let Some(state) = request.rocket().state::<HttpState>() else {
        return Decided(None);
    };
    let Some(rate) = state.quota.rate() else {
        return Decided(None);
    };
    let verdict = state.quota.take(&client(request)).await;
    if verdict.is_some_and(|verdict| !verdict.allowed) {
        state.metrics.rate_limited();
    }
    Decided(verdict.map(|verdict| (rate, verdict)))
}

/// By `X-Api-Key`, by a bearer token, or by address.
fn client(request: &Request<'_>) -> Client {
    let headers = request.headers();
    let key = headers
        .get_one("X-Api-Key")
        .or_else(|| bearer(headers.get_one("Authorization")?))
        .map(str::trim)
        .filter(|key| !key.is_empty());
    Client::new(key, request.client_ip())
}

/// The token of `Bearer <token>` (RFC 6750).
fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

/// A problem of the catcher, with the fields if the request was counted.
pub(super) struct Counted(pub(super) Problem);

impl<'r> Responder<'r, 'static> for Counted {
    fn respond_to(self, request: &'r Request<'_>) -> response::Result<'static> {
        let mut response = self.0.respond_to(request)?;
        tell(request, &mut response);
        Ok(response)
    }
}

/// Adds what is left to the client, beside other bounds that the answer tells of.
fn tell(request: &Request<'_>, response: &mut Response<'_>) {
    if let Decided(Some((rate, verdict))) = request.local_cache(|| Decided(None)) {
        let (policy, state) = fields(*rate, *verdict);
        add(response, "RateLimit-Policy", policy);
        add(response, "RateLimit", state);
    }
}

/// Both fields are lists (RFC 9651), one member for each bound.
fn add(response: &mut Response<'_>, name: &'static str, member: String) {
    let value = match response.headers().get_one(name) {
        Some(before) => format!("{before}, {member}"),
        None => member,
    };
    response.set_raw_header(name, value);
}

/// `RateLimit-Policy` and `RateLimit` as in draft-ietf-httpapi-ratelimit-headers-10: quota and
/// window; what remains, and the seconds until all of it is back.
fn fields(rate: Rate, verdict: Verdict) -> (String, String) {
    let policy = format!(
        "\"requests\";q={};w={}",
        rate.requests,
        whole_seconds(rate.per)
    );
    let state = format!(
        "\"requests\";r={};t={}",
        verdict.remaining,
        whole_seconds(verdict.full_in)
    );
    (policy, state)
}

/// Rounded up.
fn whole_seconds(duration: std::time::Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use super::*;

    #[test]
    fn fields_are_as_in_the_draft() {
        let rate = Rate {
            requests: NonZeroU32::new(1_000).unwrap(),
            per: Duration::from_millis(59_001),
        };
        let verdict = Verdict {
            allowed: true,
            remaining: 999,
            full_in: Duration::from_millis(60),
            retry_in: Duration::ZERO,
        };
        let (policy, state) = fields(rate, verdict);
        assert_eq!(policy, "\"requests\";q=1000;w=60");
        assert_eq!(state, "\"requests\";r=999;t=1");
        let mut response = Response::new();
        add(
            &mut response,
            "RateLimit",
            "\"waiting-batches\";r=0;t=5".to_owned(),
        );
        add(&mut response, "RateLimit", state);
        let all: Vec<&str> = response.headers().get("RateLimit").collect();
        assert_eq!(all, ["\"waiting-batches\";r=0;t=5, \"requests\";r=999;t=1"]);
    }

    #[test]
    fn a_token_is_known_by_its_scheme() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bEARER abc"), Some("abc"));
        for other in ["abc", "Basic abc", "Bearerabc", ""] {
            assert_eq!(bearer(other), None, "{other}");
        }
    }
}
