//! The way back: whatever the bytes are, it ends, and takes no more memory than they warrant.

mod scanned;

use uuid::Uuid;
use uuid::fmt::Hyphenated;

pub(in crate::store::embedded::events) use self::scanned::ScanBody;
use super::{COLUMNS, FIELDS, KNOWN, MAX_BODY, MAX_RATIO, NEW, VERSION};
use crate::model::event::{Event, EventTime};
use crate::model::time::Timestamp;
use crate::store::embedded::events::block::MAX_EVENTS;

/// The data of a block is not of the encoder's making.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::store::embedded::events) struct Garbage;

/// The decompressed data of a block.
#[derive(Debug)]
pub(in crate::store::embedded::events) struct Decoded {
    body: Vec<u8>,
    /// The ids that are uuids, printed.
    uuids: String,
}

impl Decoded {
    /// Decompresses the data of a block.
    pub(in crate::store::embedded::events) fn new(data: &[u8]) -> Result<Self, Garbage> {
        let body = decompress(data)?;
        let (_, columns) = split(&body).ok_or(Garbage)?;
        let uuids = print(columns.uuids);
        Ok(Self { body, uuids })
    }

    /// How many bytes it holds.
    pub(in crate::store::embedded::events) fn size(&self) -> usize {
        self.body.len() + self.uuids.len()
    }

    /// The events with their numbers less the block's least one, in the block's order.
    pub(in crate::store::embedded::events) fn events(&self) -> Result<Events<'_>, Garbage> {
        self.start().ok_or(Garbage)
    }

    fn start(&self) -> Option<Events<'_>> {
        let (left, columns) = split(&self.body)?;
        let [tenant, topic, source, kind, user] = columns.fields;
        Some(Events {
            left,
            number: 0,
            micros: 0,
            numbers: Input(columns.numbers),
            times: Input(columns.times),
            nanos: Input(columns.nanos),
            tenant: Field::new(tenant)?,
            topic: Field::new(topic)?,
            source: Field::new(source)?,
            kind: Field::new(kind)?,
            user: Field::new(user)?,
            ids: Texts::new(columns.ids)?,
            uuids: &self.uuids,
            payloads: Texts::new(columns.payloads)?,
            extras: Texts::new(columns.extras)?,
        })
    }
}

fn decompress(data: &[u8]) -> Result<Vec<u8>, Garbage> {
    let (size, compressed) = data.split_first_chunk().ok_or(Garbage)?;
    let size = u32::from_le_bytes(*size) as usize;
    if size > MAX_BODY || size > compressed.len().saturating_mul(MAX_RATIO) {
        return Err(Garbage);
    }
    let body = lz4_flex::block::decompress(compressed, size).map_err(|_| Garbage)?;
    if body.len() == size {
        Ok(body)
    } else {
        Err(Garbage)
    }
}

/// The columns of a body.
struct Columns<'a> {
    numbers: &'a [u8],
    times: &'a [u8],
    nanos: &'a [u8],
    fields: [[&'a [u8]; 3]; FIELDS],
    ids: [&'a [u8]; 2],
    uuids: &'a [u8],
    payloads: [&'a [u8]; 2],
    extras: [&'a [u8]; 2],
}

/// How many events a body has, and its columns.
fn split(body: &[u8]) -> Option<(usize, Columns<'_>)> {
    let (version, rest) = body.split_first()?;
    let mut input = Input(rest);
    let count = usize::try_from(input.unsigned()?).ok()?;
    if *version != VERSION || count > MAX_EVENTS {
        return None;
    }
    let mut lengths = [0; COLUMNS];
    for length in &mut lengths {
        *length = usize::try_from(input.unsigned()?).ok()?;
    }
    let mut columns = lengths.into_iter().map(|length| input.take(length));
    let mut next = || columns.next().flatten();
    let (numbers, times, nanos) = (next()?, next()?, next()?);
    let mut fields = [[&[][..]; 3]; FIELDS];
    for column in fields.as_flattened_mut() {
        *column = next()?;
    }
    let split = Columns {
        numbers,
        times,
        nanos,
        fields,
        ids: [next()?, next()?],
        uuids: next()?,
        payloads: [next()?, next()?],
        extras: [next()?, next()?],
    };
    input.0.is_empty().then_some((count, split))
}

fn print(uuids: &[u8]) -> String {
    let (uuids, _) = uuids.as_chunks();
    let mut out = String::with_capacity(uuids.len() * Hyphenated::LENGTH);
    for uuid in uuids {
        let printed = Uuid::from_bytes(*uuid).hyphenated();
        out.push_str(printed.encode_lower(&mut [0; Hyphenated::LENGTH]));
    }
    out
}

/// The events of a block, one after the other.
pub(in crate::store::embedded::events) struct Events<'a> {
    left: usize,
    number: u64,
    micros: i64,
    numbers: Input<'a>,
    times: Input<'a>,
    nanos: Input<'a>,
    tenant: Field<'a>,
    topic: Field<'a>,
    source: Field<'a>,
    kind: Field<'a>,
    user: Field<'a>,
    ids: Texts<'a>,
    uuids: &'a str,
    payloads: Texts<'a>,
    extras: Texts<'a>,
}

impl<'a> Iterator for Events<'a> {
    type Item = Result<(u64, Event<'a>), Garbage>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let decoded = self.decode();
        if decoded.is_none() {
            self.left = 0;
        }
        Some(decoded.ok_or(Garbage))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left))
    }
}

impl<'a> Events<'a> {
    fn decode(&mut self) -> Option<(u64, Event<'a>)> {
        let step = self.numbers.signed()?.cast_unsigned();
        self.number = self.number.wrapping_add(step);
        self.micros = self.micros.wrapping_add(self.times.signed()?);
        let nanos = u16::try_from(self.nanos.unsigned()?).ok()?;
        let event = Event {
            tenant: self.tenant.next().ok()??.into(),
            topic: self.topic.next().ok()??.into(),
            id: self.id()?.into(),
            time: EventTime {
                micros: Timestamp::from_micros(self.micros),
                nanos,
            },
            source: self.source.next().ok()?.map(Into::into),
            event_type: self.kind.next().ok()?.map(Into::into),
            user: self.user.next().ok()?.map(Into::into),
            payload: self.payloads.next()?.into(),
            extra: self.extras.next()?.into(),
        };
        Some((self.number, event))
    }

    fn id(&mut self) -> Option<&'a str> {
        match self.ids.lengths.unsigned()?.checked_sub(1) {
            Some(length) => take(&mut self.ids.text, length),
            None => take(&mut self.uuids, Hyphenated::LENGTH as u64),
        }
    }
}

/// A field whose values repeat.
struct Field<'a> {
    codes: Input<'a>,
    values: Texts<'a>,
    known: Vec<&'a str>,
}

impl<'a> Field<'a> {
    fn new([codes, lengths, text]: [&'a [u8]; 3]) -> Option<Self> {
        Some(Self {
            codes: Input(codes),
            values: Texts::new([lengths, text])?,
            known: Vec::new(),
        })
    }

    /// The next value or its absence.
    fn next(&mut self) -> Result<Option<&'a str>, Garbage> {
        let code = self.codes.unsigned().ok_or(Garbage)?;
        if code == NEW {
            let value = self.values.next().ok_or(Garbage)?;
            self.known.push(value);
            return Ok(Some(value));
        }
        let Some(index) = code.checked_sub(KNOWN) else {
            return Ok(None);
        };
        let value = usize::try_from(index)
            .ok()
            .and_then(|index| self.known.get(index));
        value.map(|value| Some(*value)).ok_or(Garbage)
    }
}

/// Texts, one behind the other.
struct Texts<'a> {
    lengths: Input<'a>,
    text: &'a str,
}

impl<'a> Texts<'a> {
    fn new([lengths, text]: [&'a [u8]; 2]) -> Option<Self> {
        let text = str::from_utf8(text).ok()?;
        Some(Self {
            lengths: Input(lengths),
            text,
        })
    }

    fn next(&mut self) -> Option<&'a str> {
        let length = self.lengths.unsigned()?;
        take(&mut self.text, length)
    }
}

/// The first bytes of a text, unless they end inside a character.
fn take<'a>(text: &mut &'a str, length: u64) -> Option<&'a str> {
    let (taken, rest) = text.split_at_checked(usize::try_from(length).ok()?)?;
    *text = rest;
    Some(taken)
}

/// What is not read yet.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn unsigned(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..u64::BITS).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn signed(&mut self) -> Option<i64> {
        let value = self.unsigned()?;
        Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }
}
