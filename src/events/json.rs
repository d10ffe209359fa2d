//! An event as JSON text: its fields in the order of the contract, then its further keys as sent.

use std::io::Write as _;

use crate::model::event::Event;

/// Writes one event.
pub fn write(out: &mut Vec<u8>, event: &Event<'_>) {
    out.extend_from_slice(b"{\"event_id\":");
    text(out, &event.id);
    // Writing to a vector can't fail.
    let _ = write!(out, ",\"timestamp\":\"{}\"", event.time);
    out.extend_from_slice(b",\"topic\":");
    text(out, &event.topic);
    out.extend_from_slice(b",\"tenant_id\":");
    text(out, &event.tenant);
    for (key, value) in [
        (&b",\"source\":"[..], &event.source),
        (b",\"event_type\":", &event.event_type),
        (b",\"user_id\":", &event.user),
    ] {
        if let Some(value) = value {
            out.extend_from_slice(key);
            text(out, value);
        }
    }
    out.extend_from_slice(b",\"payload\":");
    out.extend_from_slice(event.payload.as_bytes());
    // The members of another object, without its braces.
    if let Some(members) = event.extra.strip_prefix('{') {
        out.push(b',');
        out.extend_from_slice(members.as_bytes());
    } else {
        out.push(b'}');
    }
}

/// The text of one event.
#[must_use]
pub fn event(event: &Event<'_>) -> String {
    let mut out = Vec::with_capacity(256 + event.payload.len() + event.extra.len());
    write(&mut out, event);
    // Only text was written.
    String::from_utf8(out).unwrap_or_default()
}

/// A string with its quotes.
fn text(out: &mut Vec<u8>, text: &str) {
    let _ = serde_json::to_writer(out, text);
}

#[cfg(test)]
mod tests {
    use super::super::parse::{self, Format, Request, Route};
    use super::*;

    #[test]
    fn an_event_comes_back_as_it_was_sent() {
        let request = Request {
            format: Format::Json,
            route: Route::Bulk,
            max: 2,
            partial: false,
        };
        let full = concat!(
            r#"{"event_id":"e\"1","timestamp":"2026-11-21T04:11:21.123456789Z","topic":"t","#,
            r#""tenant_id":"ü","source":"s","event_type":"c","user_id":"u","#,
            r#""payload":{ "b" : 1.00,"b":[ ] },"x":{"y":1e5},"a/b":null}"#
        );
        let least = concat!(
            r#"{"event_id":"1","timestamp":"1999-12-31T00:00:00Z","topic":"","#,
            r#""tenant_id":"default","payload":{}}"#
        );
        let least_sent = r#"{"event_id":"1","timestamp":"1999-12-31T00:00:00"}"#;
        let body = format!("[{full},{least_sent}]");
        let parsed = parse::parse(body.as_bytes(), &request).unwrap();
        assert_eq!(event(&parsed.events[0]), full);
        assert_eq!(event(&parsed.events[1]), least);
    }
}
