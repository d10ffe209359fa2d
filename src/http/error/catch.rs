//! What the framework itself refuses: unknown routes, wrong methods, panics.

use std::collections::BTreeSet;

use rocket::http::{Method, Status};
use rocket::{Request, Route, catch};

use super::{Code, Problem, shown};
use crate::http::edge::Began;
use crate::http::quota::{self, Counted};

/// Every refusal of the framework ends here; handlers answer with problems of their own.
///
/// What has no route counts for the quota here.
#[catch(default)]
pub(super) async fn anything(status: Status, request: &Request<'_>) -> Counted {
    let unrouted = !Began::was_routed(request);
    let unknown = matches!(status.code, 404 | 422) || (unrouted && status.code == 400);
    if unknown && let Some(problem) = quota::exceeded(request).await {
        return Counted(problem);
    }
    Counted(problem(status, request))
}

fn problem(status: Status, request: &Request<'_>) -> Problem {
    // A request that never reached the fairings has a method that HTTP does not know, or a target
    // that is no path. The framework calls it GET, or `/`: answer for the path that is left.
    let unrouted = !Began::was_routed(request);
    match status.code {
        // 422 stands for a path segment that did not parse: that names nothing here.
        404 | 422 => unknown(request),
        400 if unrouted => unknown(request),
        413 => Problem::new(Code::BodyTooLarge, "The body is larger than allowed."),
        415 => Problem::new(
            Code::UnsupportedMediaType,
            "The media type of the body is not supported.",
        ),
        500.. => Problem::new(
            Code::Internal,
            "The request could not be answered because of an error in the service; \
             the operator finds it in the log by this request_id.",
        ),
        _ => Problem::new(Code::BadRequest, "The request could not be understood."),
    }
}

/// No route for this method and path: 405 if the path has one for other methods, else 404.
fn unknown(request: &Request<'_>) -> Problem {
    let offered = methods_of(request);
    let path = shown(request.uri().path().as_str());
    if offered.is_empty() {
        return Problem::new(
            Code::NotFound,
            format!("There is nothing at {path}. GET /docs shows what there is."),
        );
    }
    let allow = offered.into_iter().collect::<Vec<_>>().join(", ");
    Problem::new(
        Code::MethodNotAllowed,
        format!("{path} does not offer this method. It offers {allow}."),
    )
    .allow(allow)
}

/// The methods offered for the path of the request, by name; `HEAD` wherever `GET` is.
fn methods_of(request: &Request<'_>) -> BTreeSet<&'static str> {
    let mut methods = BTreeSet::new();
    for route in request.rocket().routes() {
        if covers(route, request) {
            methods.insert(route.method.as_str());
            if route.method == Method::Get {
                methods.insert(Method::Head.as_str());
            }
        }
    }
    methods
}

/// Whether the path of the request is one of the route's; the query plays no part.
fn covers(route: &Route, request: &Request<'_>) -> bool {
    let mut pattern = route.uri.path().split('/').skip(1);
    let mut path = request.uri().path().segments();
    loop {
        match (pattern.next().filter(|part| !part.is_empty()), path.next()) {
            (None, None) => return true,
            (Some(part), _) if part.starts_with('<') && part.ends_with("..>") => return true,
            (Some(part), Some(_)) if part.starts_with('<') => {}
            (Some(part), Some(segment)) if part == segment => {}
            _ => return false,
        }
    }
}
