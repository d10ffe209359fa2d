//! How events are laid out inside a block.
//!
//! ```text
//! data     length of the body (u32) · body, compressed by lz4
//! body     version (1 byte) · number of events · length of each column · the columns
//! columns  numbers · times · nanoseconds
//!          tenant, topic, source, type, user: codes · lengths · text
//!          ids: lengths · text · uuids
//!          payloads: lengths · text
//!          extras: lengths · text
//! ```
//! Every number is a varint (LEB128). Numbers and times are zigzag differences to those of the event
//! before. A code is [`NEW`] (the next value of the text), [`ABSENT`], or says which value that was
//! already new. The length of an id is one more than its bytes; 0 stands for a uuid in its usual
//! form, kept as its 16 bytes.
//!
//! Columns, because values of one kind lie side by side then: what repeats is found by lz4 however
//! long the payloads between are, text is checked as one piece, and a value that came before costs
//! its code.

mod read;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use uuid::Uuid;
use uuid::fmt::Hyphenated;

pub(super) use self::read::{Decoded, Garbage, ScanBody};
use crate::model::event::Event;

/// The first byte of a body.
const VERSION: u8 = 1;

/// How many columns there are.
const COLUMNS: usize = 3 + FIELDS * 3 + 3 + 2 + 2;

/// How many fields have codes.
const FIELDS: usize = 5;

/// The code of a value that did not come before.
const NEW: u64 = 0;

/// The code of no value.
const ABSENT: u64 = 1;

/// The code of the first value that was new.
const KNOWN: u64 = 2;

/// The longest body: the longest request there may be, and room for what is around it.
const MAX_BODY: usize = (1 << 30) + (1 << 20);

/// What lz4 makes of a byte at best.
const MAX_RATIO: usize = 255;

/// The events with their numbers, of which `least` is the least, as the data of a block.
pub(super) fn encode<'e>(events: &[(u64, &'e Event<'e>)], least: u64) -> Vec<u8> {
    let mut columns = Columns::default();
    let (mut number, mut micros) = (least, 0);
    for (of, event) in events {
        put_signed(&mut columns.numbers, of.wrapping_sub(number).cast_signed());
        number = *of;
        let at = event.time.micros.as_micros();
        put_signed(&mut columns.times, at.wrapping_sub(micros));
        micros = at;
        put(&mut columns.nanos, u64::from(event.time.nanos));
        let [tenant, topic, source, kind, user] = &mut columns.fields;
        tenant.put(Some(&event.tenant));
        topic.put(Some(&event.topic));
        source.put(event.source.as_deref());
        kind.put(event.event_type.as_deref());
        user.put(event.user.as_deref());
        columns.put_id(&event.id);
        columns.payloads.put(&event.payload);
        columns.extras.put(&event.extra);
    }
    columns.finish(events.len())
}

/// Texts, one behind the other.
#[derive(Default)]
struct Texts {
    lengths: Vec<u8>,
    text: Vec<u8>,
}

impl Texts {
    fn put(&mut self, text: &str) {
        put(&mut self.lengths, text.len() as u64);
        self.text.extend_from_slice(text.as_bytes());
    }
}

/// A field whose values repeat.
#[derive(Default)]
struct Field<'e> {
    codes: Vec<u8>,
    values: Texts,
    known: HashMap<&'e str, u64>,
    /// The value before, and its code: most often the next one is the same.
    last: Option<(&'e str, u64)>,
}

impl<'e> Field<'e> {
    fn put(&mut self, value: Option<&'e str>) {
        let code = match value {
            None => ABSENT,
            Some(value) => self.code(value),
        };
        put(&mut self.codes, code);
    }

    fn code(&mut self, value: &'e str) -> u64 {
        if let Some((last, code)) = self.last
            && last == value
        {
            return code;
        }
        let next = KNOWN + self.known.len() as u64;
        match self.known.entry(value) {
            Entry::Occupied(entry) => {
                self.last = Some((value, *entry.get()));
                *entry.get()
            }
            Entry::Vacant(entry) => {
                entry.insert(next);
                self.last = Some((value, next));
                self.values.put(value);
                NEW
            }
        }
    }
}

#[derive(Default)]
struct Columns<'e> {
    numbers: Vec<u8>,
    times: Vec<u8>,
    nanos: Vec<u8>,
    fields: [Field<'e>; FIELDS],
    ids: Texts,
    uuids: Vec<u8>,
    payloads: Texts,
    extras: Texts,
}

impl Columns<'_> {
    fn put_id(&mut self, id: &str) {
        if let Some(uuid) = plain_uuid(id) {
            put(&mut self.ids.lengths, 0);
            self.uuids.extend_from_slice(uuid.as_bytes());
        } else {
            put(&mut self.ids.lengths, id.len() as u64 + 1);
            self.ids.text.extend_from_slice(id.as_bytes());
        }
    }

    fn all(&self) -> impl Iterator<Item = &Vec<u8>> {
        let fields = self
            .fields
            .iter()
            .flat_map(|field| [&field.codes, &field.values.lengths, &field.values.text]);
        [&self.numbers, &self.times, &self.nanos]
            .into_iter()
            .chain(fields)
            .chain([&self.ids.lengths, &self.ids.text, &self.uuids])
            .chain([&self.payloads.lengths, &self.payloads.text])
            .chain([&self.extras.lengths, &self.extras.text])
    }

    fn finish(&self, events: usize) -> Vec<u8> {
        let size: usize = self.all().map(|column| column.len() + 4).sum();
        let mut body = Vec::with_capacity(size + 8);
        body.push(VERSION);
        put(&mut body, events as u64);
        for column in self.all() {
            put(&mut body, column.len() as u64);
        }
        for column in self.all() {
            body.extend_from_slice(column);
        }
        lz4_flex::block::compress_prepend_size(&body)
    }
}

/// The uuid that `text` is, if it looks exactly as that uuid is printed.
fn plain_uuid(text: &str) -> Option<Uuid> {
    if text.len() != Hyphenated::LENGTH {
        return None;
    }
    let uuid = Uuid::try_parse(text).ok()?;
    let printed = uuid.hyphenated();
    (*printed.encode_lower(&mut [0; Hyphenated::LENGTH]) == *text).then_some(uuid)
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn put_signed(out: &mut Vec<u8>, value: i64) {
    put(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

#[cfg(test)]
mod tests;
