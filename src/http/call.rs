//! What a handler may know of its request, beside path and query.

use rocket::http::HeaderMap;
use rocket::request::{FromRequest, Outcome, Request};

/// The request's headers.
#[derive(Clone, Copy)]
pub(super) struct Call<'r> {
    headers: &'r HeaderMap<'r>,
}

#[rocket::async_trait]
impl<'r> FromRequest<'r> for Call<'r> {
    type Error = std::convert::Infallible;

    async fn from_request(request: &'r Request<'_>) -> Outcome<Self, Self::Error> {
        Outcome::Success(Self {
            headers: request.headers(),
        })
    }
}

impl<'r> Call<'r> {
    /// The first value of a header; `None` too if it isn't UTF-8, as the framework drops those.
    pub(super) fn header(self, name: &str) -> Option<&'r str> {
        self.headers.get_one(name)
    }

    /// Every value of a header.
    pub(super) fn headers(self, name: &str) -> impl Iterator<Item = &'r str> {
        self.headers.get(name)
    }

    /// Whether the client names this media type among those that it takes.
    pub(super) fn accepts(self, media_type: &str) -> bool {
        self.headers("accept")
            .flat_map(|value| value.split(','))
            .filter_map(|range| range.split(';').next())
            .any(|range| range.trim().eq_ignore_ascii_case(media_type))
    }
}
