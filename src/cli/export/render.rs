//! Events as lines of a file that can be imported.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::cli::{Failure, csv};

/// The column of the keys that have none.
const EXTRA: &str = "extra_json";

/// The columns of a CSV file, which are keys of an event, and the last one for all others.
const COLUMNS: [&str; 9] = [
    "event_id",
    "timestamp",
    "tenant_id",
    "topic",
    "source",
    "event_type",
    "user_id",
    "payload",
    EXTRA,
];

/// Makes lines of events.
pub(super) struct Renderer {
    csv: bool,
}

/// The members of a JSON object in their order.
pub(super) struct Members<'a>(pub(super) Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// Of the text of an event.
    pub(super) fn parse(json: &'a str) -> Result<Self, Failure> {
        serde_json::from_str(json)
            .map_err(|error| Failure::Failed(format!("an event can't be read: {error}")))
    }

    /// The object of those that have no column; empty if there are none.
    pub(super) fn extra(&self) -> Vec<u8> {
        let has_column = |key: &str| key != EXTRA && COLUMNS.contains(&key);
        let extra = self.0.iter().filter(|(key, _)| !has_column(key));
        let mut extra = extra.peekable();
        let mut text = Vec::new();
        if extra.peek().is_some() {
            object(extra, &mut text);
        }
        text
    }
}

impl Renderer {
    pub(super) fn new(csv: bool) -> Self {
        Self { csv }
    }

    /// What stands before all events.
    pub(super) fn header(&self, out: &mut Vec<u8>) {
        if self.csv {
            out.extend_from_slice(COLUMNS.join(",").as_bytes());
            out.push(b'\n');
        }
    }

    /// Adds the event of `json` as a line.
    pub(super) fn render(&self, json: &str, out: &mut Vec<u8>) -> Result<(), Failure> {
        let members = Members::parse(json)?;
        if self.csv {
            record(&members, out)
        } else {
            object(
                members
                    .0
                    .iter()
                    .filter(|(key, value)| !is_default(key, value)),
                out,
            );
            out.push(b'\n');
            Ok(())
        }
    }
}

/// An empty topic is what an event without one gets, and can't be sent.
fn is_default(key: &str, value: &RawValue) -> bool {
    key == "topic" && value.get() == "\"\""
}

fn object<'a>(members: impl Iterator<Item = &'a (Cow<'a, str>, &'a RawValue)>, out: &mut Vec<u8>) {
    let mut separator = b'{';
    for (key, value) in members {
        out.push(separator);
        separator = b',';
        // Writing a string to a vector can't fail.
        let _ = serde_json::to_writer(&mut *out, key);
        out.push(b':');
        // Line ends can only stand between its tokens.
        let bytes = value.get().bytes();
        out.extend(bytes.map(|byte| {
            if matches!(byte, b'\n' | b'\r') {
                b' '
            } else {
                byte
            }
        }));
    }
    if separator == b'{' {
        out.push(b'{');
    }
    out.push(b'}');
}

fn record(members: &Members<'_>, out: &mut Vec<u8>) -> Result<(), Failure> {
    for (index, column) in COLUMNS.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let found = members.0.iter().find(|(key, _)| key == column);
        match (*column, found) {
            (EXTRA, _) => {
                let extra = members.extra();
                if !extra.is_empty() {
                    csv::field(out, &String::from_utf8_lossy(&extra));
                }
            }
            ("payload", Some((_, value))) => csv::field(out, value.get()),
            (_, Some((key, value))) => {
                let text: String = serde_json::from_str(value.get())
                    .map_err(|_| Failure::Failed(format!("an event's {key} is no string")))?;
                csv::field(out, &text);
            }
            (_, None) => {}
        }
    }
    out.push(b'\n');
    Ok(())
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry::<Key<'de>, &'de RawValue>()? {
                    members.push((member.0.0, member.1));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// A key, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(csv: bool, json: &str) -> String {
        let mut out = Vec::new();
        Renderer::new(csv).render(json, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    const FULL: &str = r#"{"event_id":"1","timestamp":"2026-01-01T00:00:00Z","topic":"",
        "tenant_id":"a,b","payload":{"topic":"","n":1.0},"k\"":[1,
        2],"x":null}"#;

    #[test]
    fn a_line_has_the_event_as_it_is() {
        assert_eq!(
            rendered(false, FULL),
            concat!(
                r#"{"event_id":"1","timestamp":"2026-01-01T00:00:00Z","tenant_id":"a,b","#,
                r#""payload":{"topic":"","n":1.0},"k\"":[1,         2],"x":null}"#,
                "\n"
            )
        );
        assert_eq!(rendered(false, "{}"), "{}\n");
    }

    #[test]
    fn a_record_has_a_column_a_field_and_one_for_all_others() {
        assert_eq!(
            rendered(true, FULL),
            concat!(
                r#"1,2026-01-01T00:00:00Z,"a,b",,,,,"{""topic"":"""",""n"":1.0}","#,
                r#""{""k\"""":[1,         2],""x"":null}""#,
                "\n"
            )
        );
        let named = r#"{"event_id":"1","timestamp":"t","payload":{},"extra_json":7}"#;
        assert_eq!(
            rendered(true, named),
            "1,t,,,,,,{},\"{\"\"extra_json\"\":7}\"\n"
        );
        let least = r#"{"event_id":"1","timestamp":"t","payload":{}}"#;
        assert_eq!(rendered(true, least), "1,t,,,,,,{},\n");
        assert!(Renderer::new(true).render("[]", &mut Vec::new()).is_err());
    }
}
