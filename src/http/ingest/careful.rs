//! The careful way through a submission's body: says exactly what is wrong, and with what.
//!
//! Text that is not JSON is a 400. JSON that is no submission is a 422 with a pointer to each
//! offence. It accepts all that the fast way accepts, and the few things that one is too simple
//! for (`-0` is an integer).

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::parse::{self, Request};
use crate::http::error::{Code, Offences, Problem, shown};
use crate::model::ingestion::MAX_IDS;
use crate::model::json::{self, kind};
use crate::model::priority::Priority;
use crate::model::time::Timestamp;

/// The keys of a submission.
const KEYS: [&str; 6] = [
    "ids",
    "priority",
    "queue",
    "metadata",
    "callback_url",
    "deadline",
];

/// The request, or everything that is wrong with it.
pub(super) fn parse(body: &[u8], now: Timestamp) -> Result<Request<'_>, Problem> {
    let text = json::check(body).map_err(|reason| Problem::malformed(&reason))?;
    if !text.trim_start().starts_with('{') {
        let mut offences = Offences::default();
        offences.add(&[], "wrong_type", || {
            "must be an object with ids and priority".to_owned()
        });
        return Err(Problem::invalid(offences));
    }
    let mut fields = Fields {
        now,
        seen: [false; KEYS.len()],
        ids: Vec::new(),
        id_count: 0,
        priority: None,
        queue: None,
        metadata: None,
        callback_url: None,
        deadline: None,
        offences: Offences::default(),
    };
    serde_json::Deserializer::from_str(text)
        .deserialize_map(&mut fields)
        .map_err(|error| Problem::malformed(&error.to_string()))?;
    fields.finish()
}

/// What was found so far.
struct Fields<'de> {
    now: Timestamp,
    seen: [bool; KEYS.len()],
    ids: Vec<i64>,
    id_count: usize,
    priority: Option<Priority>,
    queue: Option<Cow<'de, str>>,
    metadata: Option<&'de str>,
    callback_url: Option<Cow<'de, str>>,
    deadline: Option<Timestamp>,
    offences: Offences,
}

impl<'de> Visitor<'de> for &mut Fields<'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            let value: &'de RawValue = map.next_value()?;
            self.field(&key, value.get());
        }
        Ok(())
    }
}

impl<'de> Fields<'de> {
    /// One key with the JSON text of its value.
    fn field(&mut self, key: &str, value: &'de str) {
        let Some(index) = KEYS.iter().position(|known| *known == key) else {
            self.offences.add(&[key], "unknown_field", || {
                format!("is unknown; there are {}", KEYS.join(", "))
            });
            return;
        };
        if let Some(seen) = self.seen.get_mut(index)
            && std::mem::replace(seen, true)
        {
            self.offences.add(&[key], "duplicate_field", || {
                "is there more than once".to_owned()
            });
            return;
        }
        match key {
            "ids" => self.ids(value),
            "priority" => self.priority(value),
            "queue" => self.queue = self.string("queue", value),
            "metadata" => self.metadata(value),
            "callback_url" => self.callback_url(value),
            _ => self.deadline(value),
        }
    }

    fn ids(&mut self, value: &'de str) {
        if !value.starts_with('[') {
            self.offences.add(&["ids"], "wrong_type", || {
                format!("must be an array of integers, and is {}", kind(value))
            });
            return;
        }
        // The whole text was checked before: this can't fail.
        let _ = serde_json::Deserializer::from_str(value).deserialize_seq(Ids(self));
        if self.id_count == 0 {
            self.offences
                .add(&["ids"], "empty", || "must have at least one id".to_owned());
        }
    }

    /// One element of `ids`, as JSON text.
    fn id(&mut self, value: &str) {
        let index = self.id_count;
        self.id_count += 1;
        if index >= MAX_IDS {
            return;
        }
        let is_number = value.starts_with(|first: char| first == '-' || first.is_ascii_digit());
        let is_integer = is_number && !value.contains(['.', 'e', 'E']);
        match value.parse::<i64>() {
            Ok(id) if is_integer => self.ids.push(id),
            _ => {
                let (code, detail) = if is_integer {
                    (
                        "out_of_range",
                        "is not in the range of a 64-bit integer".to_owned(),
                    )
                } else {
                    (
                        "wrong_type",
                        format!("must be an integer, and is {}", kind(value)),
                    )
                };
                self.offences
                    .add(&["ids", &index.to_string()], code, || detail);
            }
        }
    }

    fn priority(&mut self, value: &'de str) {
        let Some(text) = self.string("priority", value) else {
            return;
        };
        self.priority = parse::priority(&text);
        if self.priority.is_none() {
            self.offences.add(&["priority"], "unknown_value", || {
                format!("must be HIGH, MEDIUM or LOW, and is {}", shown(&text))
            });
        }
    }

    fn metadata(&mut self, value: &'de str) {
        match parse::metadata_fault(value) {
            None => self.metadata = Some(value),
            Some((code, detail)) => self.offences.add(&["metadata"], code, || detail),
        }
    }

    fn callback_url(&mut self, value: &'de str) {
        let Some(text) = self.string("callback_url", value) else {
            return;
        };
        match parse::url_fault(&text) {
            None => self.callback_url = Some(text),
            Some((code, detail)) => self.offences.add(&["callback_url"], code, || detail),
        }
    }

    fn deadline(&mut self, value: &'de str) {
        let Some(text) = self.string("deadline", value) else {
            return;
        };
        match Timestamp::parse(&text) {
            Ok(deadline) if deadline > self.now => self.deadline = Some(deadline),
            Ok(deadline) => self.offences.add(&["deadline"], "in_the_past", || {
                format!("is in the past: {deadline}")
            }),
            Err(_) => self.offences.add(&["deadline"], "unparseable_date", || {
                format!(
                    "must be an RFC 3339 time with an offset, such as 2026-11-21T04:11:21Z, and is {}",
                    shown(&text)
                )
            }),
        }
    }

    /// A string; notes an offence if the value is none.
    fn string(&mut self, key: &'static str, value: &'de str) -> Option<Cow<'de, str>> {
        #[derive(serde::Deserialize)]
        struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

        if !value.starts_with('"') {
            self.offences.add(&[key], "wrong_type", || {
                format!("must be a string, and is {}", kind(value))
            });
            return None;
        }
        let text = serde_json::from_str::<Text<'_>>(value).ok();
        if text.is_none() {
            self.offences.add(&[key], "invalid_string", || {
                "has an escape that stands for no character".to_owned()
            });
        }
        text.map(|text| text.0)
    }

    /// The request, if nothing was wrong.
    fn finish(mut self) -> Result<Request<'de>, Problem> {
        if self.id_count > MAX_IDS {
            let count = self.id_count;
            let mut offences = Offences::default();
            offences.add(&["ids"], "too_many_items", || {
                format!("has {count} ids and may have {MAX_IDS}")
            });
            return Err(Problem::new(
                Code::TooManyItems,
                format!(
                    "There are {count} ids, and one request takes at most {MAX_IDS}. \
                     Send them in several requests."
                ),
            )
            .with_offences(offences));
        }
        for (key, seen) in KEYS.into_iter().zip(self.seen).take(2) {
            if !seen {
                self.offences.add(&[key], "missing_field", || {
                    format!("is missing: {key} is required")
                });
            }
        }
        match self.priority {
            Some(priority) if self.offences.is_empty() => Ok(Request {
                ids: self.ids,
                priority,
                queue: self.queue,
                metadata: self.metadata,
                callback_url: self.callback_url,
                deadline: self.deadline,
            }),
            _ => Err(Problem::invalid(self.offences)),
        }
    }
}

/// Hands each element to [`Fields::id`].
struct Ids<'a, 'de>(&'a mut Fields<'de>);

impl<'de> Visitor<'de> for Ids<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(element) = seq.next_element::<&RawValue>()? {
            self.0.id(element.get());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_is_right() {
        let request = parse(
            br#"{"ids":[-0, 7],"priority":"\u0048IGH"}"#,
            Timestamp::EPOCH,
        );
        let request = request.unwrap();
        assert_eq!(request.ids, [0, 7]);
        assert_eq!(request.priority, Priority::High);
    }

    #[test]
    fn both_ways_agree_on_good_bodies() {
        for body in [
            r#"{"ids":[1],"priority":"LOW"}"#,
            r#"{"priority":"HIGH","ids":[9223372036854775807,-9223372036854775808],"queue":"q"}"#,
            r#"{"ids":[1,1],"priority":"MEDIUM","metadata":{"a":[{}]},"deadline":"2999-01-01T00:00:00+02:00"}"#,
        ] {
            let fast = parse::fast(body.as_bytes(), Timestamp::EPOCH);
            assert_eq!(
                fast,
                parse(body.as_bytes(), Timestamp::EPOCH).ok(),
                "{body}"
            );
            assert!(fast.is_some(), "{body}");
        }
    }
}
