//! What the columns of a CSV file mean, and a record of it as the JSON of an event.

use serde_json::value::RawValue;

/// What a column's fields are.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Column {
    /// A string under this key, which is JSON text, quotes and colon included.
    Text(String),
    /// A JSON object under this key.
    Object(String),
    /// A JSON object whose members belong to the event itself.
    Members,
    /// Nothing of the event.
    Nothing,
}

/// The columns in order.
#[derive(Default)]
pub(super) struct Columns {
    columns: Vec<Column>,
    names: Vec<String>,
}

/// What the importer itself writes before the columns of a rejected row: a corrected reject file
/// can be imported as it is.
pub(super) const REJECT_COLUMNS: [&str; 2] = ["reject_line", "reject_reason"];

/// Every key of an event that a column may be named after in another way, and those names.
const DIALECTS: [(&str, &[&str]); 2] = [
    ("timestamp", &["timestamp", "occurred_at"]),
    (
        "payload",
        &["payload", "payload_json", "properties", "properties_json"],
    ),
];

/// The column of an export that holds every other key of an event.
pub(super) const MEMBERS: &str = "extra_json";

impl Columns {
    /// From a header.
    pub(super) fn of<'a>(header: impl Iterator<Item = &'a [u8]>) -> Result<Self, String> {
        let mut found = Self::default();
        let mut keys = Vec::new();
        for name in header {
            let name = std::str::from_utf8(name)
                .map_err(|_| "the header is not UTF-8".to_owned())?
                .trim()
                .to_owned();
            let dialect = DIALECTS
                .iter()
                .find(|(_, names)| names.contains(&name.as_str()));
            let key = dialect.map_or(name.as_str(), |(key, _)| key).to_owned();
            if keys.contains(&key) {
                return Err(format!("the header has a second column for {key:?}"));
            }
            let quoted = format!("{}:", serde_json::Value::from(key.as_str()));
            found.columns.push(match key.as_str() {
                "" => return Err("a column of the header has no name".to_owned()),
                "payload" => Column::Object(quoted),
                MEMBERS => Column::Members,
                key if REJECT_COLUMNS.contains(&key) => Column::Nothing,
                _ => Column::Text(quoted),
            });
            keys.push(key);
            found.names.push(name);
        }
        for (key, allowed) in [
            ("event_id", "event_id"),
            ("timestamp", "timestamp or occurred_at"),
        ] {
            if !keys.iter().any(|found| found == key) {
                return Err(format!(
                    "the header {:?} has no column {allowed}",
                    found.names.join(",")
                ));
            }
        }
        Ok(found)
    }

    /// Adds a record as JSON to `out`; an empty field is an absent one.
    pub(super) fn render<'a>(
        &self,
        fields: impl Iterator<Item = &'a [u8]>,
        count: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        if count != self.columns.len() {
            return Err(format!(
                "it has {count} fields, and the header has {}",
                self.columns.len()
            ));
        }
        out.push(b'{');
        let mut separator: &[u8] = b"";
        for ((column, name), field) in self.columns.iter().zip(&self.names).zip(fields) {
            let field = std::str::from_utf8(field).map_err(|_| format!("{name} is not UTF-8"))?;
            let (key, value) = match column {
                Column::Nothing => continue,
                _ if field.is_empty() => continue,
                Column::Text(key) => (key.as_str(), None),
                Column::Object(key) => (key.as_str(), Some(object(name, field)?)),
                Column::Members => {
                    let members = object(name, field)?;
                    let members = members
                        .strip_prefix('{')
                        .and_then(|it| it.strip_suffix('}'));
                    let members = members.unwrap_or_default().trim();
                    if members.is_empty() {
                        continue;
                    }
                    ("", Some(members))
                }
            };
            out.extend_from_slice(separator);
            out.extend_from_slice(key.as_bytes());
            match value {
                Some(value) => out.extend_from_slice(value.as_bytes()),
                None => serde_json::to_writer(&mut *out, field).map_err(|it| it.to_string())?,
            }
            separator = b",";
        }
        out.push(b'}');
        Ok(())
    }
}

/// The text of one JSON object and nothing else, so that it says nothing of what is around it.
fn object<'a>(name: &str, field: &'a str) -> Result<&'a str, String> {
    let value: &RawValue =
        serde_json::from_str(field).map_err(|error| format!("{name} is no JSON: {error}"))?;
    if value.get().starts_with('{') {
        Ok(value.get())
    } else {
        Err(format!("{name} is no JSON object"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(header: &str) -> Result<Columns, String> {
        Columns::of(header.split(',').map(str::as_bytes))
    }

    fn rendered(header: &str, fields: &[&str]) -> Result<String, String> {
        let mut out = Vec::new();
        let fields = fields.iter().map(|field| field.as_bytes());
        let count = fields.len();
        columns(header)
            .unwrap()
            .render(fields, count, &mut out)
            .map(|()| String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_record_becomes_the_json_of_an_event() {
        assert_eq!(
            rendered(
                "event_id, occurred_at ,user_id,properties_json,wéird \"key\",reject_line",
                &["a\"b", "2026-01-01", "", " {\"n\": 1.0} ", "x\ny", "7"]
            )
            .unwrap(),
            r#"{"event_id":"a\"b","timestamp":"2026-01-01","payload":{"n": 1.0},"wéird \"key\"":"x\ny"}"#
        );
        let header = "extra_json,event_id,timestamp,payload";
        assert_eq!(
            rendered(header, &["{ \"a\": [1] }", "1", "t", ""]).unwrap(),
            r#"{"a": [1],"event_id":"1","timestamp":"t"}"#
        );
        assert_eq!(
            rendered(header, &["{ }", "1", "t", ""]).unwrap(),
            r#"{"event_id":"1","timestamp":"t"}"#
        );
    }

    #[test]
    fn a_field_can_say_nothing_of_what_is_around_it() {
        for (payload, problem) in [
            (r#"{}, "event_id": "other""#, "payload is no JSON: "),
            ("{", "payload is no JSON: "),
            ("[1]", "payload is no JSON object"),
        ] {
            let refused = rendered("event_id,timestamp,payload", &["1", "t", payload]);
            assert!(refused.unwrap_err().starts_with(problem), "{payload}");
        }
    }

    #[test]
    fn a_record_has_as_many_fields_as_the_header() {
        assert_eq!(
            rendered("event_id,timestamp", &["1"]).unwrap_err(),
            "it has 1 fields, and the header has 2"
        );
    }

    #[test]
    fn a_header_names_what_an_event_needs_once() {
        for (header, problem) in [
            ("event_id,user_id", "has no column timestamp or occurred_at"),
            ("id,timestamp", "has no column event_id"),
            (
                "event_id,timestamp,occurred_at",
                "a second column for \"timestamp\"",
            ),
            ("event_id,timestamp,x,x", "a second column for \"x\""),
            ("event_id,timestamp,", "has no name"),
        ] {
            let refused = columns(header).err().unwrap();
            assert!(refused.contains(problem), "{header}: {refused}");
        }
    }
}
