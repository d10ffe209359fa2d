//! One name for each request, in its answer and in whatever is said of it.

use rocket::request::Request;
use uuid::Uuid;

/// The header that carries it, both ways.
pub(super) const HEADER: &str = "X-Request-Id";

/// The longest that is taken from a client, in characters.
const MAX_LEN: usize = 128;

/// The name of a request: the client's, if it is 1 to 128 visible ASCII characters, else a new one.
#[derive(Debug)]
pub(super) struct RequestId(Box<str>);

impl RequestId {
    /// The client's, or a new one.
    pub(super) fn choose(given: Option<&str>) -> Self {
        Self(match given {
            Some(text) if is_acceptable(text) => text.into(),
            _ => Uuid::new_v4().to_string().into(),
        })
    }

    /// The one of this request; always the same for the same request.
    pub(super) fn of<'r>(request: &'r Request<'_>) -> &'r Self {
        request.local_cache(|| Self::choose(request.headers().get_one(HEADER)))
    }

    /// As sent.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_acceptable(text: &str) -> bool {
    (1..=MAX_LEN).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_is_short_and_visible_and_makes_one_else() {
        for good in ["a", "req-7/{x}", &"x".repeat(128)] {
            assert_eq!(RequestId::choose(Some(good)).as_str(), good);
        }
        for bad in ["", "a b", "a\tb", "ü", &"x".repeat(129)] {
            let made = RequestId::choose(Some(bad));
            assert!(Uuid::parse_str(made.as_str()).is_ok(), "{bad:?}");
        }
        let (one, two) = (RequestId::choose(None), RequestId::choose(None));
        assert_ne!(one.as_str(), two.as_str());
    }
}
