//! The fields of an event, the names they have in each dialect, and their limits.

use std::borrow::Cow;

use super::time;
use crate::model::event::{DEFAULT_TENANT, Event, EventTime, MAX_NAME, MAX_PAYLOAD};
use crate::model::json::kind;
use crate::model::offence::shown;

/// What an event's keys are called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Dialect {
    /// Our own names.
    Plain,
    /// Those of `CloudEvents` 1.0, and ours for what that has no name for.
    Cloud,
}

/// What a key stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Field {
    Id,
    Time,
    Topic,
    Tenant,
    Source,
    Type,
    User,
    Payload,
    /// The version of `CloudEvents`.
    Spec,
    /// Kept as sent.
    Other,
}

impl Field {
    /// What `key` stands for.
    pub(super) fn of(dialect: Dialect, key: &str) -> Self {
        let field = match key {
            "event_id" => Self::Id,
            "timestamp" | "occurred_at" => Self::Time,
            "event_type" => Self::Type,
            "payload" | "properties" => Self::Payload,
            "topic" => Self::Topic,
            "tenant_id" => Self::Tenant,
            "source" => Self::Source,
            "user_id" => Self::User,
            _ => Self::Other,
        };
        match (dialect, field, key) {
            // An attribute's name has no underscore in `CloudEvents`.
            (Dialect::Cloud, Self::Other, "id") => Self::Id,
            (Dialect::Cloud, Self::Other, "time") => Self::Time,
            (Dialect::Cloud, Self::Other, "type") => Self::Type,
            (Dialect::Cloud, Self::Other, "data") => Self::Payload,
            (Dialect::Cloud, Self::Other, "tenantid") => Self::Tenant,
            (Dialect::Cloud, Self::Other, "userid") => Self::User,
            (Dialect::Cloud, Self::Other, "specversion") => Self::Spec,
            _ => field,
        }
    }

    /// Its first name, for messages.
    pub(super) const fn name(self, dialect: Dialect) -> &'static str {
        match (self, dialect) {
            (Self::Id, Dialect::Plain) => "event_id",
            (Self::Id, Dialect::Cloud) => "id",
            (Self::Time, Dialect::Plain) => "timestamp",
            (Self::Time, Dialect::Cloud) => "time",
            (Self::Type, Dialect::Plain) => "event_type",
            (Self::Type, Dialect::Cloud) => "type",
            (Self::Payload, Dialect::Plain) => "payload",
            (Self::Payload, Dialect::Cloud) => "data",
            (Self::Topic, _) => "topic",
            (Self::Tenant, _) => "tenant_id",
            (Self::Source, _) => "source",
            (Self::User, _) => "user_id",
            (Self::Spec, _) => "specversion",
            (Self::Other, _) => "",
        }
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }

    /// Those that may be required.
    pub(super) const ALL: [Self; 9] = [
        Self::Id,
        Self::Type,
        Self::Time,
        Self::Topic,
        Self::Tenant,
        Self::Source,
        Self::User,
        Self::Payload,
        Self::Spec,
    ];
}

/// A set of fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Fields(u16);

impl Fields {
    pub(super) fn of(fields: &[Field]) -> Self {
        Self(fields.iter().fold(0, |bits, field| bits | field.bit()))
    }

    /// Adds one; whether it was not there.
    pub(super) fn add(&mut self, field: Field) -> bool {
        let is_new = self.0 & field.bit() == 0;
        self.0 |= field.bit();
        is_new
    }

    pub(super) const fn has(self, field: Field) -> bool {
        self.0 & field.bit() != 0
    }

    pub(super) const fn has_all(self, of: Self) -> bool {
        self.0 & of.0 == of.0
    }
}

/// A code and the end of a sentence.
pub(super) type Fault = (&'static str, String);

/// The fields of an event, as far as they were read; each holds a legal value.
#[derive(Default)]
pub(super) struct Draft<'a> {
    pub(super) seen: Fields,
    id: Cow<'a, str>,
    time: EventTime,
    topic: Cow<'a, str>,
    tenant: Option<Cow<'a, str>>,
    source: Option<Cow<'a, str>>,
    event_type: Option<Cow<'a, str>>,
    user: Option<Cow<'a, str>>,
    payload: Option<&'a str>,
}

impl<'a> Draft<'a> {
    /// Takes the text of a field that is a string.
    // Inlined: the fast way asks no more than whether there is a fault.
    #[inline]
    pub(super) fn text(&mut self, field: Field, text: Cow<'a, str>) -> Result<(), Fault> {
        match field {
            Field::Time => {
                self.time = time::parse(&text).ok_or_else(|| bad_time(&text))?;
                return Ok(());
            }
            Field::Spec if text == "1.0" => return Ok(()),
            Field::Spec => {
                let detail = format!("must be \"1.0\", and is {}", shown(&text));
                return Err(("unknown_value", detail));
            }
            _ => check_name(&text)?,
        }
        match field {
            Field::Id => self.id = text,
            Field::Topic => self.topic = text,
            Field::Tenant => self.tenant = Some(text),
            Field::Source => self.source = Some(text),
            Field::Type => self.event_type = Some(text),
            _ => self.user = Some(text),
        }
        Ok(())
    }

    /// Takes the JSON text of the payload.
    #[inline]
    pub(super) fn payload(&mut self, json: &'a str) -> Result<(), Fault> {
        if !json.starts_with('{') {
            let detail = format!("must be an object, and is {}", kind(json));
            return Err(("wrong_type", detail));
        }
        if json.len() > MAX_PAYLOAD {
            let detail = format!("has {} bytes and may have {MAX_PAYLOAD}", json.len());
            return Err(("too_long", detail));
        }
        self.payload = Some(json);
        Ok(())
    }

    /// The identifier, if it was read.
    pub(super) fn id(&self) -> Option<Cow<'a, str>> {
        (!self.id.is_empty()).then(|| self.id.clone())
    }

    /// The event, with the defaults for what was not sent.
    #[inline]
    pub(super) fn finish(self, extra: Cow<'a, str>) -> Event<'a> {
        Event {
            tenant: self.tenant.unwrap_or(Cow::Borrowed(DEFAULT_TENANT)),
            topic: self.topic,
            id: self.id,
            time: self.time,
            source: self.source,
            event_type: self.event_type,
            user: self.user,
            payload: Cow::Borrowed(self.payload.unwrap_or("{}")),
            extra,
        }
    }
}

#[inline]
fn check_name(text: &str) -> Result<(), Fault> {
    // Most names begin with a letter or a digit: they are not blank.
    let begins_well = text.bytes().next().is_some_and(|b| b.is_ascii_graphic());
    if text.len() <= MAX_NAME && (begins_well || !text.trim().is_empty()) {
        return Ok(());
    }
    Err(bad_name(text))
}

#[cold]
fn bad_name(text: &str) -> Fault {
    if text.is_empty() {
        (
            "empty",
            format!("is empty; it must have 1 to {MAX_NAME} bytes"),
        )
    } else if text.len() > MAX_NAME {
        let detail = format!("has {} bytes and may have {MAX_NAME}", text.len());
        ("too_long", detail)
    } else {
        ("blank", "is blank".to_owned())
    }
}

#[cold]
fn bad_time(text: &str) -> Fault {
    let detail = format!(
        "must be an RFC 3339 time of the years 0000 to 9999, such as 2026-11-21T04:11:21.5Z, \
         and is {}",
        shown(text)
    );
    ("unparseable_date", detail)
}
