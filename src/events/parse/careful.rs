//! The careful way: says exactly what is wrong, and with which value of which event.
//!
//! Text that is not JSON is refused as a whole; for NDJSON that is a line's own fault if the
//! request takes good events without the others.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::extra::{Extra, ExtraFault};
use super::field::{Dialect, Draft, Field};
use super::{Format, MAX_EXTRA, Parsed, Refusal, Refused, Request, Rules};
use crate::model::event::Event;
use crate::model::json::{self, kind};
use crate::model::offence::Offences;

/// The shape of a list in an object, for messages.
const LIST: &str = "an array of events, or an object with an array events";

/// Every event, or everything that is wrong.
pub(super) fn parse<'a>(text: &'a str, request: &Request) -> Result<Parsed<'a>, Refusal> {
    let mut found = Found::new(request);
    if request.format == Format::Ndjson {
        found.lines(text)?;
        return found.finish("");
    }
    json::check(text.as_bytes()).map_err(Refusal::Malformed)?;
    let text = text.trim_ascii();
    match (text.bytes().next(), request.format) {
        (Some(b'['), _) if request.takes_list() => {
            found.list(text, "");
            found.finish("")
        }
        (Some(b'{'), Format::Json) if request.takes_list() => match around(text) {
            Around::List(events) => {
                found.list(events, "/events");
                found.finish("/events")
            }
            Around::Bad(offences) => Err(Refusal::Invalid(offences)),
            Around::None if request.takes_single() => found.single(text),
            Around::None => {
                let mut offences = Offences::default();
                offences.add(&["events"], "missing_field", || {
                    format!("is missing: this route takes {LIST}")
                });
                Err(Refusal::Invalid(offences))
            }
        },
        (Some(b'{'), _) if request.takes_single() => found.single(text),
        (_, format) => Err(wrong_shape(text, format, request)),
    }
}

fn wrong_shape(text: &str, format: Format, request: &Request) -> Refusal {
    let wanted = match format {
        _ if !request.takes_list() => "an object: one event".to_owned(),
        Format::CloudEvents => "an array of events".to_owned(),
        _ if request.takes_single() => format!("an event, {LIST}"),
        _ => LIST.to_owned(),
    };
    let mut offences = Offences::default();
    offences.add(&[], "wrong_type", || {
        format!("must be {wanted}, and is {}", kind(text))
    });
    Refusal::Invalid(offences)
}

/// What an object holds, if it is no event.
enum Around<'a> {
    /// The text of the array `events`.
    List(&'a str),
    /// It has `events`, and something is wrong with it.
    Bad(Offences),
    /// It has no `events`, or it has an `event_id`: it is an event.
    None,
}

/// Looks at an object's keys.
fn around(text: &str) -> Around<'_> {
    let mut list = None;
    let mut is_event = false;
    let mut offences = Offences::default();
    let readable = each_field(text, |key, value| match &*key {
        "events" if list.is_none() => list = Some(value),
        "events" => offences.add(&["events"], "duplicate_field", || {
            "is there more than once".to_owned()
        }),
        other => {
            is_event |= other == "event_id";
            offences.add(&[other], "unknown_field", || {
                "is unknown beside events".to_owned()
            });
        }
    });
    if !readable && list.is_some() {
        bad_key(&mut offences);
    }
    match list {
        Some(_) if is_event => Around::None,
        None => Around::None,
        Some(events) if !events.starts_with('[') => {
            offences.add(&["events"], "wrong_type", || {
                format!("must be an array, and is {}", kind(events))
            });
            Around::Bad(offences)
        }
        Some(_) if !offences.is_empty() => Around::Bad(offences),
        Some(events) => Around::List(events),
    }
}

/// What was found so far.
struct Found<'a, 'r> {
    request: &'r Request,
    rules: Rules,
    /// Events seen.
    count: usize,
    events: Vec<Event<'a>>,
    refused: Vec<Refused<'a>>,
    offences: Offences,
    single: bool,
}

impl<'a, 'r> Found<'a, 'r> {
    fn new(request: &'r Request) -> Self {
        Self {
            request,
            rules: request.rules(false),
            count: 0,
            events: Vec::new(),
            refused: Vec::new(),
            offences: Offences::default(),
            single: false,
        }
    }

    fn single(mut self, text: &'a str) -> Result<Parsed<'a>, Refusal> {
        self.rules = self.request.rules(true);
        self.single = true;
        self.event(text, String::new());
        self.finish("")
    }

    /// A JSON array.
    fn list(&mut self, text: &'a str, prefix: &str) {
        each_element(text, |element| {
            let pointer = format!("{prefix}/{}", self.count);
            self.event(element, pointer);
        });
    }

    /// An event a line.
    fn lines(&mut self, text: &'a str) -> Result<(), Refusal> {
        let lines = text.split('\n').map(str::trim_ascii).enumerate();
        for (number, line) in lines.filter(|(_, line)| !line.is_empty()) {
            match json::check_text(line) {
                Ok(()) => self.event(line, format!("/{number}")),
                Err(reason) if self.request.partial => {
                    let mut offences = Offences::default();
                    offences.add(&[], "malformed_json", || format!("is not JSON: {reason}"));
                    self.refuse(line, format!("/{number}"), None, offences);
                }
                Err(reason) => {
                    let reason = format!("line {number} (counted from 0): {reason}");
                    return Err(Refusal::Malformed(reason));
                }
            }
        }
        Ok(())
    }

    /// The text of one event, known to be JSON.
    fn event(&mut self, text: &'a str, pointer: String) {
        if self.count >= self.request.max {
            self.count += 1;
            return;
        }
        match event(text, self.rules) {
            Ok(event) => {
                self.count += 1;
                self.events.push(event);
            }
            Err((id, offences)) => self.refuse(text, pointer, id, offences),
        }
    }

    fn refuse(
        &mut self,
        body: &'a str,
        pointer: String,
        id: Option<Cow<'a, str>>,
        offences: Offences,
    ) {
        let index = self.count;
        self.count += 1;
        self.offences.absorb(&pointer, &offences);
        if self.request.partial && index < self.request.max {
            self.refused.push(Refused {
                index,
                pointer,
                id,
                body,
                offences,
            });
        }
    }

    fn finish(mut self, pointer: &'static str) -> Result<Parsed<'a>, Refusal> {
        let (count, max) = (self.count, self.request.max);
        if count > max {
            return Err(Refusal::TooMany {
                count,
                max,
                pointer,
            });
        }
        if count == 0 {
            let path: &[&str] = if pointer.is_empty() { &[] } else { &["events"] };
            self.offences
                .add(path, "empty", || "must have at least one event".to_owned());
        }
        if count == 0 || (!self.offences.is_empty() && !self.request.partial) {
            return Err(Refusal::Invalid(self.offences));
        }
        Ok(Parsed {
            single: self.single,
            events: self.events,
            refused: self.refused,
        })
    }
}

/// What is known of a bad event: its identifier, and what is wrong.
type Bad<'a> = (Option<Cow<'a, str>>, Offences);

/// One event from its JSON text.
fn event(text: &str, rules: Rules) -> Result<Event<'_>, Bad<'_>> {
    let mut offences = Offences::default();
    if !text.starts_with('{') {
        offences.add(&[], "wrong_type", || {
            format!("must be an object, and is {}", kind(text))
        });
        return Err((None, offences));
    }
    let mut reading = Reading {
        dialect: rules.dialect,
        draft: Draft::default(),
        extra: Extra::default(),
        extra_is_full: false,
        offences,
    };
    if each_field(text, |key, value| reading.field(key, value)) {
        reading.missing(rules);
    } else {
        bad_key(&mut reading.offences);
    }
    if reading.offences.is_empty() {
        Ok(reading.draft.finish(reading.extra.finish()))
    } else {
        Err((reading.draft.id(), reading.offences))
    }
}

fn bad_key(offences: &mut Offences) {
    offences.add(&[], "invalid_string", || {
        "has a key with an escape that stands for no character".to_owned()
    });
}

/// One event, key by key.
struct Reading<'a> {
    dialect: Dialect,
    draft: Draft<'a>,
    extra: Extra<'a>,
    extra_is_full: bool,
    offences: Offences,
}

impl<'a> Reading<'a> {
    fn field(&mut self, key: Cow<'a, str>, value: &'a str) {
        let field = Field::of(self.dialect, &key);
        if field == Field::Other {
            self.other(key, value);
            return;
        }
        // An attribute of a CloudEvent that is null is one that is not there.
        if self.dialect == Dialect::Cloud && value == "null" {
            return;
        }
        if !self.draft.seen.add(field) {
            let name = field.name(self.dialect);
            self.offences.add(&[&key], "duplicate_field", || {
                format!("is there more than once: it says {name} again")
            });
            return;
        }
        let taken = if field == Field::Payload {
            self.draft.payload(value)
        } else {
            string(value).and_then(|text| self.draft.text(field, text))
        };
        match taken {
            Err((code, detail)) => self.offences.add(&[&key], code, || detail),
            Ok(()) if field == Field::Spec => self.other(key, value),
            Ok(()) => {}
        }
    }

    fn other(&mut self, key: Cow<'a, str>, value: &str) {
        // The key is moved; its pointer is needed in the rare case only.
        let name = key.clone();
        match self.extra.add(key, value) {
            Ok(()) => {}
            Err(ExtraFault::Repeated) => {
                self.offences.add(&[&name], "duplicate_field", || {
                    "is there more than once".to_owned()
                });
            }
            Err(ExtraFault::TooLong) if self.extra_is_full => {}
            Err(ExtraFault::TooLong) => {
                self.extra_is_full = true;
                self.offences.add(&[&name], "too_long", || {
                    format!("is too much: further keys may have {MAX_EXTRA} bytes together")
                });
            }
        }
    }

    fn missing(&mut self, rules: Rules) {
        let seen = self.draft.seen;
        for field in Field::ALL {
            if rules.needs.has(field) && !seen.has(field) {
                let name = field.name(rules.dialect);
                self.offences.add(&[name], "missing_field", || {
                    format!("is missing: {name} is required")
                });
            }
        }
        if rules.needs_owner && !seen.has(Field::Tenant) && !seen.has(Field::User) {
            self.offences.add(&["tenant_id"], "missing_field", || {
                "is missing: tenant_id or user_id is required".to_owned()
            });
        }
    }
}

/// A string from its JSON text.
fn string(json: &str) -> Result<Cow<'_, str>, super::field::Fault> {
    if !json.starts_with('"') {
        let detail = format!("must be a string, and is {}", kind(json));
        return Err(("wrong_type", detail));
    }
    serde_json::from_str::<Text<'_>>(json)
        .map(|text| text.0)
        .map_err(|_| {
            let detail = "has an escape that stands for no character".to_owned();
            ("invalid_string", detail)
        })
}

#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Calls `each` with every key of an object and the JSON text of its value. Whether all keys could
/// be read: JSON may have escapes that stand for no character.
fn each_field<'a>(object: &'a str, each: impl FnMut(Cow<'a, str>, &'a str)) -> bool {
    struct Walk<F>(F);

    impl<'de, F: FnMut(Cow<'de, str>, &'de str)> Visitor<'de> for Walk<F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
            while let Some((Text(key), value)) = map.next_entry::<Text<'de>, &'de RawValue>()? {
                self.0(key, value.get());
            }
            Ok(())
        }
    }

    serde_json::Deserializer::from_str(object)
        .deserialize_map(Walk(each))
        .is_ok()
}

/// Calls `each` with the JSON text of every element of an array.
fn each_element<'a>(array: &'a str, each: impl FnMut(&'a str)) {
    struct Walk<F>(F);

    impl<'de, F: FnMut(&'de str)> Visitor<'de> for Walk<F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }

        fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
            while let Some(element) = seq.next_element::<&'de RawValue>()? {
                self.0(element.get());
            }
            Ok(())
        }
    }

    // The text was checked before, and elements are not looked into: this can't fail.
    let _ = serde_json::Deserializer::from_str(array).deserialize_seq(Walk(each));
}
