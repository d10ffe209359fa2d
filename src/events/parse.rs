//! Request bodies into events.
//!
//! Twice, at most: `fast` goes through the text once, borrows from it, and only says yes or no.
//! What it says no to goes through `careful`, which finds every offence with its pointer, or
//! finds that all is well (`null` as an absent attribute of a `CloudEvent`, say). So good requests
//! never pay for good messages.

mod careful;
mod extra;
mod fast;
mod field;
pub mod time;

use std::borrow::Cow;

use crate::model::event::Event;
pub use crate::model::event::MAX_EXTRA;
use crate::model::offence::Offences;
use field::{Dialect, Field, Fields};

/// How a body is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// One JSON value: an event, an array of them, or an object with an array `events`.
    Json,
    /// A JSON event a line.
    Ndjson,
    /// One `CloudEvent`, as JSON.
    CloudEvent,
    /// An array of `CloudEvent`s, as JSON.
    CloudEvents,
}

/// What a request asks for, beside its body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// How the body is written.
    pub format: Format,
    /// Which rules hold.
    pub route: Route,
    /// The most events.
    pub max: usize,
    /// Whether good events are taken although others are refused.
    pub partial: bool,
}

/// The routes by which events come; each asks for other fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// A list, or one event that names its type, and its tenant or its user.
    Events,
    /// A list.
    Bulk,
    /// One event or a list; each names its topic and its source, and has a payload.
    Publish,
    /// An event that was refused before, by the rules of a list.
    Again,
}

/// What a body holds.
#[derive(PartialEq, Eq, Debug)]
pub struct Parsed<'a> {
    /// Whether it is one event, rather than a list, which may have one.
    pub single: bool,
    /// The good ones, in order.
    pub events: Vec<Event<'a>>,
    /// The others, in order; none unless the request takes good events without them.
    pub refused: Vec<Refused<'a>>,
}

/// An event that breaks a rule.
#[derive(PartialEq, Eq, Debug)]
pub struct Refused<'a> {
    /// How many events of the request stand before it.
    pub index: usize,
    /// The pointer to it in the body; for NDJSON, `/` and the number of its line, from 0.
    pub pointer: String,
    /// Its `event_id`, where that could be read.
    pub id: Option<Cow<'a, str>>,
    /// What it is as text.
    pub body: &'a str,
    /// What is wrong, with pointers into the event itself.
    pub offences: Offences,
}

/// Why nothing of a body is taken.
#[derive(PartialEq, Eq, Debug)]
pub enum Refusal {
    /// It is not JSON; the end of a sentence says why.
    Malformed(String),
    /// Values break rules.
    Invalid(Offences),
    /// There are more events than may be.
    TooMany {
        /// How many there are.
        count: usize,
        /// How many there may be.
        max: usize,
        /// The pointer to the list.
        pointer: &'static str,
    },
}

/// Every event of a body, or why there is none.
pub fn parse<'a>(body: &'a [u8], request: &Request) -> Result<Parsed<'a>, Refusal> {
    let text = std::str::from_utf8(body).map_err(|error| {
        Refusal::Malformed(format!("byte {} is not UTF-8", error.valid_up_to()))
    })?;
    // Some editors begin a file with one; RFC 8259 lets it be passed over.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match fast::parse(text, request) {
        Some(parsed) => Ok(parsed),
        None => careful::parse(text, request),
    }
}

/// What each event must have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Rules {
    dialect: Dialect,
    needs: Fields,
    /// A tenant or a user must be named.
    needs_owner: bool,
}

impl Request {
    fn dialect(&self) -> Dialect {
        match self.format {
            Format::Json | Format::Ndjson => Dialect::Plain,
            Format::CloudEvent | Format::CloudEvents => Dialect::Cloud,
        }
    }

    /// The rules for an event on its own, or for each one of a list.
    fn rules(&self, single: bool) -> Rules {
        use Field::{Id, Payload, Source, Spec, Time, Topic, Type};
        let dialect = self.dialect();
        let alone = single && self.route == Route::Events && dialect == Dialect::Plain;
        let needs: &[Field] = match (dialect, self.route) {
            (Dialect::Cloud, _) => &[Id, Source, Spec, Type, Time],
            (Dialect::Plain, Route::Publish) => &[Topic, Id, Time, Source, Payload],
            (Dialect::Plain, _) if alone => &[Id, Type, Time],
            (Dialect::Plain, _) => &[Id, Time],
        };
        Rules {
            dialect,
            needs: Fields::of(needs),
            needs_owner: alone,
        }
    }

    /// Whether an array of events is taken.
    fn takes_list(&self) -> bool {
        self.route != Route::Again && self.format != Format::CloudEvent
    }

    /// Whether one event that is no list is taken.
    fn takes_single(&self) -> bool {
        match self.format {
            Format::Json => self.route != Route::Bulk,
            Format::CloudEvent => true,
            Format::Ndjson | Format::CloudEvents => false,
        }
    }
}

#[cfg(test)]
mod tests;
