//! Events on their way to the database, as far as that needs no database.

use std::collections::BTreeSet;

use bytes::BufMut;

use super::super::time::Y2K;
use super::escape::escape;
use super::parts::{Month, span_of};
use super::topics::Topics;
use crate::model::bus::MessageName;
use crate::model::event::{Event, MAX_TOPICS};
use crate::rollups::{Notes, UserKey};
use crate::store::NewLetter;
use crate::store::identity::{Entry, Key};

/// Where the arrival stands in a row as `COPY` takes it: behind the number of columns and a length.
pub(in crate::store::postgres) const ARRIVAL: usize = 2 + 4;

/// How many columns a row has.
const COLUMNS: i16 = 11;

/// The columns in the order of a row.
pub(in crate::store::postgres) const COPY: &str =
    "COPY event (sequence, time, nanos, tenant, topic, id, source, type,
    user_id, payload, extra) FROM STDIN BINARY";

/// The events of a request, ready to be written.
#[derive(Debug)]
pub(in crate::store) struct Prepared {
    /// The identity of each event and what is remembered of it.
    pub(super) entries: Vec<Entry>,
    /// Their places, in the order of their identities.
    pub(super) order: Vec<u32>,
    /// A row for each, without its arrival.
    pub(super) rows: Vec<u8>,
    /// Where each row ends.
    pub(super) ends: Vec<usize>,
    pub(super) notes: Notes,
    pub(super) months: BTreeSet<Month>,
    /// Topics that may be new, escaped.
    pub(super) topics: BTreeSet<String>,
    pub(super) letters: Vec<NewLetter>,
    /// The messages of the bus that all of this is of, each once.
    pub(super) names: Vec<MessageName>,
}

impl Prepared {
    pub(super) fn of(
        (key, user_key): (Key, UserKey),
        known: &Topics,
        events: &[Event<'_>],
        letters: Vec<NewLetter>,
        names: Vec<MessageName>,
    ) -> Self {
        let entries: Vec<Entry> = events.iter().map(|event| key.of(event)).collect();
        let mut order: Vec<u32> = (0..u32::try_from(events.len()).unwrap_or(u32::MAX)).collect();
        order.sort_unstable_by_key(|place| {
            let identity = entries.get(*place as usize).map(|entry| entry.0);
            (identity, *place)
        });
        let mut prepared = Self {
            entries,
            order,
            rows: Vec::with_capacity(events.len() * 256),
            ends: Vec::with_capacity(events.len()),
            notes: Notes::of(user_key, events),
            months: BTreeSet::new(),
            topics: BTreeSet::new(),
            letters,
            names,
        };
        let mut month = 0..0;
        let mut topic = None;
        for event in events {
            put_row(&mut prepared.rows, event);
            prepared.ends.push(prepared.rows.len());
            let micros = event.time.micros;
            if !month.contains(&micros.as_micros()) {
                let of = Month::of(micros);
                let (low, high) = span_of(of);
                month = low..high;
                prepared.months.insert(of);
            }
            if topic != Some(&event.topic) {
                topic = Some(&event.topic);
                if !known.is_listed(&event.topic, MAX_TOPICS) {
                    prepared.topics.insert(escape(&event.topic).into_owned());
                }
            }
        }
        prepared
    }

    /// Whether there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.letters.is_empty() && self.names.is_empty()
    }

    /// The row of the event at `place`.
    pub(super) fn row(&self, place: u32) -> &[u8] {
        let place = place as usize;
        let begin = place
            .checked_sub(1)
            .and_then(|before| self.ends.get(before));
        let end = self.ends.get(place).copied().unwrap_or_default();
        self.rows
            .get(begin.copied().unwrap_or_default()..end)
            .unwrap_or_default()
    }

    /// What it weighs in the queue, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let letters: usize = self
            .letters
            .iter()
            .map(|letter| letter.body.len() + letter.errors.len())
            .sum();
        size_of::<Self>()
            + self.rows.len()
            + self.entries.len() * (size_of::<Entry>() + 16)
            + self.names.len() * size_of::<MessageName>()
            + self.notes.bytes()
            + letters
    }
}

/// Adds a row as a binary `COPY` takes it.
pub(in crate::store::postgres) fn put_row(out: &mut Vec<u8>, event: &Event<'_>) {
    out.put_i16(COLUMNS);
    out.put_i32(8);
    out.put_i64(0);
    out.put_i32(8);
    out.put_i64(event.time.micros.as_micros().saturating_sub(Y2K));
    out.put_i32(2);
    out.put_u16(event.time.nanos);
    for text in [&event.tenant, &event.topic, &event.id] {
        put_text(out, Some(text));
    }
    for text in [&event.source, &event.event_type, &event.user] {
        put_text(out, text.as_deref());
    }
    for text in [&event.payload, &event.extra] {
        put_text(out, Some(text));
    }
}

fn put_text(out: &mut Vec<u8>, text: Option<&str>) {
    let Some(text) = text else {
        out.put_i32(-1);
        return;
    };
    let text = escape(text);
    // Bodies are far shorter.
    out.put_i32(i32::try_from(text.len()).unwrap_or(i32::MAX));
    out.put_slice(text.as_bytes());
}
