//! The fast way through a submission's body: one pass, borrowing from it.
//!
//! It only says yes or no. What exactly is wrong is found by [`super::careful`], in a second pass
//! that good requests never pay for.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::model::ingestion::{MAX_IDS, MAX_METADATA};
use crate::model::json::is_too_deep;
use crate::model::priority::Priority;
use crate::model::time::Timestamp;

/// The longest `callback_url`, in bytes.
pub(super) const MAX_URL: usize = 2048;

/// A submission's body with legal values; only the queue is not looked up yet.
#[derive(PartialEq, Debug)]
pub(super) struct Request<'a> {
    pub(super) ids: Vec<i64>,
    pub(super) priority: Priority,
    pub(super) queue: Option<Cow<'a, str>>,
    pub(super) metadata: Option<&'a str>,
    pub(super) callback_url: Option<Cow<'a, str>>,
    pub(super) deadline: Option<Timestamp>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire<'a> {
    #[serde(deserialize_with = "ids")]
    ids: Vec<i64>,
    #[serde(borrow)]
    priority: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "text")]
    queue: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "raw")]
    metadata: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "text")]
    callback_url: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "text")]
    deadline: Option<Cow<'a, str>>,
}

/// The request, if everything about it is right.
pub(super) fn fast(body: &[u8], now: Timestamp) -> Option<Request<'_>> {
    // The derived code would take the fields as an array, too.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return None;
    }
    let wire: Wire<'_> = serde_json::from_slice(body).ok()?;
    let metadata = match wire.metadata {
        Some(raw) if metadata_fault(raw.get()).is_some() || is_too_deep(raw.get(), 1) => {
            return None;
        }
        raw => raw.map(RawValue::get),
    };
    let deadline = match wire.deadline {
        Some(text) => Some(
            Timestamp::parse(&text)
                .ok()
                .filter(|deadline| *deadline > now)?,
        ),
        None => None,
    };
    if wire.ids.is_empty()
        || wire
            .callback_url
            .as_deref()
            .is_some_and(|url| url_fault(url).is_some())
    {
        return None;
    }
    Some(Request {
        ids: wire.ids,
        priority: priority(&wire.priority)?,
        queue: wire.queue,
        metadata,
        callback_url: wire.callback_url,
        deadline,
    })
}

/// A priority as on the wire: upper case only.
pub(super) fn priority(text: &str) -> Option<Priority> {
    Priority::ALL
        .into_iter()
        .find(|priority| priority.as_str() == text)
}

/// What is wrong with `metadata`, given its JSON text: a code and a sentence.
pub(super) fn metadata_fault(json: &str) -> Option<(&'static str, String)> {
    if !json.starts_with('{') {
        Some(("wrong_type", "must be an object".to_owned()))
    } else if json.len() > MAX_METADATA {
        Some((
            "too_long",
            format!("has {} bytes and may have {MAX_METADATA}", json.len()),
        ))
    } else {
        None
    }
}

/// What is wrong with a callback URL: a code and a sentence.
pub(super) fn url_fault(text: &str) -> Option<(&'static str, String)> {
    if text.len() > MAX_URL {
        return Some((
            "too_long",
            format!("has {} bytes and may have {MAX_URL}", text.len()),
        ));
    }
    // The parser takes them, and has them as escapes in a copy of its own; kept is what was sent.
    if text.contains(char::is_control) {
        return Some((
            "invalid_url",
            "must be an http or https URL, and has a control character".to_owned(),
        ));
    }
    let right = reqwest::Url::parse(text)
        .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    (!right).then(|| ("invalid_url", "must be an http or https URL".to_owned()))
}

/// A string that is there: unlike for a plain `Option`, null is none.
fn text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Cow<'de, str>>, D::Error> {
    #[derive(serde::Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    Text::deserialize(from).map(|text| Some(text.0))
}

/// Any value that is there, as JSON text.
fn raw<'de, D: Deserializer<'de>>(from: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

/// At most [`MAX_IDS`] integers: an array that is longer ends the pass instead of filling memory.
fn ids<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<i64>, D::Error> {
    struct Ids;

    impl<'de> Visitor<'de> for Ids {
        type Value = Vec<i64>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array of integers")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<i64>, A::Error> {
            let mut ids = Vec::with_capacity(8);
            while let Some(id) = seq.next_element()? {
                if ids.len() == MAX_IDS {
                    return Err(A::Error::custom("too many ids"));
                }
                ids.push(id);
            }
            Ok(ids)
        }
    }

    from.deserialize_seq(Ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borrows_what_it_can() {
        let body = br#" {"priority":"LOW","ids":[3,-9223372036854775808,3],"queue":"mail",
            "metadata":{ "a" : 1.0 },"callback_url":"https://h/x","deadline":"2026-01-01T00:00:00Z"}"#;
        let request = fast(body, Timestamp::EPOCH).unwrap();
        assert_eq!(request.ids, [3, i64::MIN, 3]);
        assert_eq!(request.priority, Priority::Low);
        assert!(matches!(request.queue, Some(Cow::Borrowed("mail"))));
        assert_eq!(request.metadata, Some(r#"{ "a" : 1.0 }"#));
        assert!(matches!(request.callback_url, Some(Cow::Borrowed(_))));
        let late = Timestamp::parse("2026-01-01T00:00:00Z").unwrap();
        assert_eq!(request.deadline, Some(late));
        assert_eq!(fast(body, late), None);
    }

    #[test]
    fn a_callback_has_a_scheme_and_a_host() {
        for good in ["http://h", "https://user@h:1/p?q#f", "http://[::1]/"] {
            assert_eq!(url_fault(good), None, "{good}");
        }
        for bad in [
            "",
            "h/x",
            "ftp://h/",
            "http://",
            "mailto:a@b",
            "javascript:1",
            "http://h/a\0b",
            "http://h/\u{1}",
            "http://h/a\nb",
            "http://h/\u{7f}",
            "http://h/\u{85}",
        ] {
            assert!(url_fault(bad).is_some(), "{bad}");
        }
        let long = format!("http://h/{}", "x".repeat(MAX_URL));
        assert_eq!(url_fault(&long).unwrap().0, "too_long");
    }
}
