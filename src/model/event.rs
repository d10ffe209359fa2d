//! Events: what others push, and what the jobs' work results in.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::time::Timestamp;

/// The longest identifier or name of an event, in bytes.
pub const MAX_NAME: usize = 256;

/// The longest payload of an event, in bytes of JSON text.
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// The most bytes that all further keys of an event may take together, as JSON text.
pub const MAX_EXTRA: usize = 64 * 1024;

/// The tenant of an event that names none.
pub const DEFAULT_TENANT: &str = "default";

/// The bounds of what is accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventsSettings {
    /// The most events of a `POST /events`.
    pub max_batch: usize,
    /// The most events of a `POST /events/bulk`.
    pub max_bulk: usize,
    /// The most events of a `POST /publish`.
    pub max_publish: usize,
    /// How long the events of these tenants stay after their time; those of all others stay for ever.
    pub retention: BTreeMap<String, Duration>,
    /// Whether and where old events go; `None` if they stay.
    pub cold: Option<ColdSettings>,
}

/// The cold tier: Parquet files that old events are moved to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ColdSettings {
    /// How long an event stays in the store after its time, until its whole day is that old.
    pub after: Duration,
    /// Where the files are.
    pub dir: PathBuf,
}

impl Default for EventsSettings {
    fn default() -> Self {
        Self {
            max_batch: 1_000,
            max_bulk: 5_000,
            max_publish: 10_000,
            retention: BTreeMap::new(),
            cold: None,
        }
    }
}

/// When an event occurred, to the nanosecond.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct EventTime {
    /// Whole microseconds.
    pub micros: Timestamp,
    /// Nanoseconds beyond them, 0 to 999.
    pub nanos: u16,
}

/// RFC 3339 in UTC, with the digits of a second that it has, at least none, at most nine.
impl fmt::Display for EventTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = i128::from(self.micros.as_micros()) * 1000 + i128::from(self.nanos);
        match jiff::Timestamp::from_nanosecond(nanos) {
            Ok(time) => write!(f, "{time}"),
            Err(_) => write!(f, "{nanos}ns"),
        }
    }
}

impl Serialize for EventTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One event with legal values, borrowed from where it was parsed or decoded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event<'a> {
    /// Whose it is.
    pub tenant: Cow<'a, str>,
    /// The stream it belongs to; may be empty.
    pub topic: Cow<'a, str>,
    /// With tenant and topic its identity.
    pub id: Cow<'a, str>,
    /// When it occurred.
    pub time: EventTime,
    /// Who sent it.
    pub source: Option<Cow<'a, str>>,
    /// What kind of event it is.
    pub event_type: Option<Cow<'a, str>>,
    /// Who caused it.
    pub user: Option<Cow<'a, str>>,
    /// The text of a JSON object, as sent.
    pub payload: Cow<'a, str>,
    /// The text of a JSON object of every other key, with their values as sent; empty if none.
    pub extra: Cow<'a, str>,
}

impl Event<'_> {
    /// With memory of its own.
    #[must_use]
    pub fn into_owned(self) -> Event<'static> {
        fn own(text: Cow<'_, str>) -> Cow<'static, str> {
            Cow::Owned(text.into_owned())
        }
        Event {
            tenant: own(self.tenant),
            topic: own(self.topic),
            id: own(self.id),
            time: self.time,
            source: self.source.map(own),
            event_type: self.event_type.map(own),
            user: self.user.map(own),
            payload: own(self.payload),
            extra: own(self.extra),
        }
    }
}

/// An event's place in the order of commits; the first is 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Sequence(pub u64);

/// An event as it is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredEvent {
    /// Its arrival.
    pub sequence: Sequence,
    /// The event.
    pub event: Event<'static>,
}

/// What became of one event of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Receipt {
    /// It is the first of its identity, and kept.
    Accepted,
    /// Its identity is spent.
    Duplicate {
        /// Whether it says something else than the first one did.
        conflicting: bool,
    },
}

/// Which events are meant. Every field that is set must match.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EventFilter {
    /// The tenant.
    pub tenant: Option<String>,
    /// The topic.
    pub topic: Option<String>,
    /// The source.
    pub source: Option<String>,
    /// The type.
    pub event_type: Option<String>,
    /// The user.
    pub user: Option<String>,
    /// Not before this time.
    pub from: Option<EventTime>,
    /// Before this time.
    pub to: Option<EventTime>,
}

impl ScanQuery {
    /// Whether `event` is meant.
    #[must_use]
    pub fn matches(&self, event: &ScannedEvent<'_>) -> bool {
        let same = |wanted: &String, found| found == Some(wanted.as_str());
        let (tenant, source) = (self.tenant.as_ref(), self.source.as_ref());
        tenant.is_none_or(|it| same(it, Some(event.tenant)))
            && source.is_none_or(|it| same(it, event.source))
            && self.event_types.iter().all(|it| same(it, event.event_type))
            && self.from.is_none_or(|from| event.time >= from)
            && self.to.is_none_or(|to| event.time < to)
    }
}

impl EventFilter {
    /// Whether `event` is meant.
    #[must_use]
    pub fn matches(&self, event: &Event<'_>) -> bool {
        fn same(wanted: Option<&String>, found: Option<&str>) -> bool {
            wanted.is_none_or(|wanted| found == Some(wanted))
        }
        same(self.tenant.as_ref(), Some(&event.tenant))
            && same(self.topic.as_ref(), Some(&event.topic))
            && same(self.source.as_ref(), event.source.as_deref())
            && same(self.event_type.as_ref(), event.event_type.as_deref())
            && same(self.user.as_ref(), event.user.as_deref())
            && self.from.is_none_or(|from| event.time >= from)
            && self.to.is_none_or(|to| event.time < to)
    }
}

/// A place between two events in the order of (time, arrival).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    /// The time of the event before it.
    pub time: EventTime,
    /// The arrival of the event before it.
    pub sequence: Sequence,
}

/// Whether older events come first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Order {
    /// They do.
    #[default]
    Ascending,
    /// Newer ones do.
    Descending,
}

/// What a page of events is asked for with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageQuery {
    /// Which events.
    pub filter: EventFilter,
    /// In which order of (time, arrival).
    pub order: Order,
    /// Only those behind this place, in that order.
    pub after: Option<Place>,
    /// How many of them to leave out first.
    pub skip: u64,
    /// The most events of the page, at least 1.
    pub limit: usize,
}

/// A page of events.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventPage {
    /// The events, in order. Fewer than asked for although there are more, where a filter finds
    /// little and the work for one page is used up, and where they have many bytes together.
    pub events: Vec<StoredEvent>,
    /// Where the next page begins; `None` if there are no more.
    pub next: Option<Place>,
}

/// Which events are gone through, and how many at most.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScanQuery {
    /// Those of this tenant; of all if `None`.
    pub tenant: Option<String>,
    /// Those of this source; of all if `None`.
    pub source: Option<String>,
    /// Those that are of each of these types: of all if there are none.
    pub event_types: Vec<String>,
    /// Not before this time.
    pub from: Option<EventTime>,
    /// Before this time.
    pub to: Option<EventTime>,
    /// Whether the payloads are needed. Erased events have none.
    pub payloads: bool,
    /// The most events of the blocks that have to be read for it. A block with few events, or with
    /// large ones, counts for more than it has.
    pub limit: u64,
}

/// How a scan ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scan {
    /// Every event was seen.
    Whole,
    /// Whoever looked at them had seen enough.
    Left,
    /// None was seen: there is more to read than the limit.
    TooBroad,
    /// Some of the events that are meant are erased, and too little remains of them: of those that
    /// were found, the last is of this time.
    Gone(EventTime),
}

/// What a scan shows of an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScannedEvent<'a> {
    /// When it occurred.
    pub time: EventTime,
    /// Whose it is.
    pub tenant: &'a str,
    /// Who sent it.
    pub source: Option<&'a str>,
    /// What kind of event it is.
    pub event_type: Option<&'a str>,
    /// Who caused it.
    pub user: Option<ScannedUser<'a>>,
    /// The text of a JSON object, as sent; empty if the event is erased.
    pub payload: &'a str,
}

/// What a scan shows of a user.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScannedUser<'a> {
    /// The name.
    Named(&'a str),
    /// What remains of it: its hash under the store's key.
    Hashed(u128),
}

/// What was ever received; survives a restart.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EventCounts {
    /// Events that were kept, also those erased later.
    pub accepted: u64,
    /// Events that were not, because their identity was spent.
    pub duplicates: u64,
    /// Duplicates that said something else than the first one.
    pub conflicting: u64,
    /// The arrival of the last event kept.
    pub last: Sequence,
    /// The topics of the events kept, in order of name, the first [`MAX_TOPICS`] that there were.
    pub topics: Vec<String>,
}

/// The most topics that are listed.
pub const MAX_TOPICS: usize = 10_000;

/// An event that was refused, kept for whoever sent it to be put right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeadLetter {
    /// Its number; the first is 1.
    pub id: u64,
    /// When it was refused.
    pub refused_at: Timestamp,
    /// What is wrong with it: a JSON array of `{pointer, detail, code}`.
    pub errors: String,
    /// The event as sent; JSON text wherever it was JSON.
    pub body: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_shows_the_digits_it_has() {
        let at = |micros, nanos| EventTime {
            micros: Timestamp::from_micros(micros),
            nanos,
        };
        assert_eq!(at(0, 0).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(at(500_000, 0).to_string(), "1970-01-01T00:00:00.5Z");
        assert_eq!(at(-1, 999).to_string(), "1969-12-31T23:59:59.999999999Z");
    }

    #[test]
    fn a_filter_matches_what_it_names() {
        let event = Event {
            tenant: "t".into(),
            topic: "".into(),
            id: "1".into(),
            time: EventTime::default(),
            source: None,
            event_type: Some("click".into()),
            user: None,
            payload: "{}".into(),
            extra: "".into(),
        };
        let mut filter = EventFilter::default();
        assert!(filter.matches(&event));
        filter.topic = Some(String::new());
        filter.event_type = Some("click".to_owned());
        filter.from = Some(event.time);
        assert!(filter.matches(&event));
        filter.to = Some(event.time);
        assert!(!filter.matches(&event), "the end is not part of it");
        filter.to = None;
        filter.user = Some(String::new());
        assert!(!filter.matches(&event), "an absent user is no empty one");
    }
}
