//! The fast way: one pass that borrows, and stops at the first thing that is not plainly right.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::extra::Extra;
use super::field::{Dialect, Draft, Field};
use super::{Format, Parsed, Request, Rules};
use crate::model::event::Event;
use crate::model::json::is_too_deep;

/// How deep a value of an event may stand: in the event, in the list, in the object around.
const ABOVE: usize = 3;

/// How many bytes an event has at least, roughly: more memory is not reserved at first.
const SMALL_EVENT: usize = 128;

/// Every event, if all of them are right.
pub(super) fn parse<'a>(text: &'a str, request: &Request) -> Option<Parsed<'a>> {
    let many = Many {
        rules: request.rules(false),
        max: request.max,
        reserve: (text.len() / SMALL_EVENT).min(request.max),
    };
    if request.format == Format::Ndjson {
        return lines(text, &many);
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let parsed = match text.trim_ascii_start().bytes().next()? {
        b'[' if request.takes_list() => list(many.deserialize(&mut json).ok()?),
        b'{' => {
            let body = Object {
                single: request.takes_single().then(|| request.rules(true)),
                many: (request.format == Format::Json && request.takes_list()).then_some(many),
            };
            body.deserialize(&mut json).ok()?
        }
        _ => return None,
    };
    json.end().ok()?;
    (!parsed.events.is_empty()).then_some(parsed)
}

fn list(events: Vec<Event<'_>>) -> Parsed<'_> {
    Parsed {
        single: false,
        events,
        refused: Vec::new(),
    }
}

/// An event a line.
fn lines<'a>(text: &'a str, many: &Many) -> Option<Parsed<'a>> {
    let mut events = Vec::with_capacity(many.reserve);
    for line in text
        .split('\n')
        .filter(|line| !line.trim_ascii().is_empty())
    {
        if events.len() == many.max {
            return None;
        }
        let mut json = serde_json::Deserializer::from_str(line);
        events.push(One(many.rules).deserialize(&mut json).ok()?);
        json.end().ok()?;
    }
    (!events.is_empty()).then(|| list(events))
}

/// An object that is an event, or has the array `events` and nothing else.
struct Object {
    single: Option<Rules>,
    many: Option<Many>,
}

impl<'de> DeserializeSeed<'de> for Object {
    type Value = Parsed<'de>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object {
    type Value = Parsed<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let first: Option<Text<'de>> = map.next_key()?;
        let first = first.ok_or_else(no)?.0;
        if let Some(many) = self.many
            && first == "events"
        {
            let events = map.next_value_seed(many)?;
            return match map.next_key::<Text<'de>>()? {
                None => Ok(list(events)),
                Some(_) => Err(no()),
            };
        }
        let rules = self.single.ok_or_else(no)?;
        Ok(Parsed {
            single: true,
            events: vec![event(&mut map, rules, Some(first))?],
            refused: Vec::new(),
        })
    }
}

/// An array of events.
struct Many {
    rules: Rules,
    max: usize,
    reserve: usize,
}

impl<'de> DeserializeSeed<'de> for Many {
    type Value = Vec<Event<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Many {
    type Value = Vec<Event<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut events = Vec::with_capacity(self.reserve);
        while let Some(event) = seq.next_element_seed(One(self.rules))? {
            if events.len() == self.max {
                return Err(no());
            }
            events.push(event);
        }
        Ok(events)
    }
}

/// One event.
struct One(Rules);

impl<'de> DeserializeSeed<'de> for One {
    type Value = Event<'de>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for One {
    type Value = Event<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        event(&mut map, self.0, None)
    }
}

/// The event of an object, of which the first key may have been read already.
fn event<'de, A: MapAccess<'de>>(
    map: &mut A,
    rules: Rules,
    first: Option<Cow<'de, str>>,
) -> Result<Event<'de>, A::Error> {
    let mut draft = Draft::default();
    let mut extra: Option<Extra<'de>> = None;
    let mut key = match first {
        Some(first) => Some(Key::of(rules.dialect, first)),
        None => map.next_key_seed(Keys(rules.dialect))?,
    };
    while let Some(Key(field, name)) = key {
        if field == Field::Other {
            let value: &RawValue = map.next_value()?;
            keep(extra.get_or_insert_default(), name, value.get()).map_err(Error::custom)?;
        } else if !draft.seen.add(field) {
            return Err(no());
        } else if field == Field::Payload {
            let value: &RawValue = map.next_value()?;
            let fault = draft.payload(value.get()).is_err();
            if fault || is_too_deep(value.get(), ABOVE) {
                return Err(no());
            }
        } else {
            let Text(text) = map.next_value()?;
            if draft.text(field, text).is_err() {
                return Err(no());
            }
            if field == Field::Spec {
                keep(extra.get_or_insert_default(), name, "\"1.0\"").map_err(Error::custom)?;
            }
        }
        key = map.next_key_seed(Keys(rules.dialect))?;
    }
    let owned = draft.seen.has(Field::Tenant) || draft.seen.has(Field::User);
    if !draft.seen.has_all(rules.needs) || (rules.needs_owner && !owned) {
        return Err(no());
    }
    Ok(draft.finish(extra.map_or(Cow::Borrowed(""), Extra::finish)))
}

/// Adds a further key.
fn keep<'a>(extra: &mut Extra<'a>, name: Cow<'a, str>, value: &str) -> Result<(), &'static str> {
    if is_too_deep(value, ABOVE) {
        return Err("no");
    }
    extra.add(name, value).map_err(|_| "no")
}

/// The answer of this pass to whatever is not plainly right; [`super::careful`] says why.
#[cold]
fn no<E: Error>() -> E {
    E::custom("no")
}

/// A key with what it stands for.
struct Key<'a>(Field, Cow<'a, str>);

impl<'a> Key<'a> {
    fn of(dialect: Dialect, name: Cow<'a, str>) -> Self {
        Self(Field::of(dialect, &name), name)
    }
}

/// Reads keys.
struct Keys(Dialect);

impl<'de> DeserializeSeed<'de> for Keys {
    type Value = Key<'de>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        let Text(name) = Text::deserialize(from)?;
        Ok(Key::of(self.0, name))
    }
}

/// A string, borrowed unless it has escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Borrow;

        impl<'de> Visitor<'de> for Borrow {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }

        from.deserialize_str(Borrow)
    }
}
