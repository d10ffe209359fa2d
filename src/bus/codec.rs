//! Events as messages.
//!
//! ```text
//! message   version (1 byte) · checksum (u64) · received at (i64, microseconds) · number of events (u32)
//!           · length of the body (u32) · body, compressed by lz4
//! body      length of the numbers (u32) · numbers · text
//! numbers   for each event: its time (zigzag difference to the one before) · nanoseconds
//!           · lengths of tenant, topic, source, type, user, id, payload, extras
//! text      the same fields, one behind the other
//! ```
//! What stands in front is little-endian; numbers in the body are varints (LEB128). Lengths of source,
//! type and user are one more than they are, and 0 if there is none. The checksum (xxh3) covers
//! everything behind it.
//!
//! The events were parsed and checked where they were received; here they are neither parsed nor
//! checked again, but for what keeps reading safe. So who may write to the stream is trusted as who
//! may write to the store is.

use std::borrow::Cow;

use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

use crate::model::event::{Event, EventTime, MAX_EXTRA, MAX_NAME, MAX_PAYLOAD};
use crate::model::time::Timestamp;

/// The first byte.
const VERSION: u8 = 1;

/// Where the part that the checksum covers begins.
const COVERED: usize = 1 + 8;

/// The length of what stands in front of the body.
const HEADER: usize = COVERED + 8 + 4 + 4;

/// The longest message that is made; servers take 1 MiB unless set otherwise.
pub(crate) const MAX_MESSAGE: usize = 1 << 20;

/// The least that a server must take: the largest event fits, however badly it compresses.
pub(crate) const MIN_MESSAGE: usize = 256 * 1024;

/// The most bytes that the numbers of an event take: ten varints.
const NUMBERS: usize = 10 * 10;

/// Why a message is none of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub(crate) enum Unreadable {
    /// Another version wrote it.
    #[error("has the version {0}, which this program doesn't know")]
    Version(u8),
    /// It is not what was sent.
    #[error("is no message of events, or was damaged on its way")]
    Damaged,
}

/// Events as messages of at most `limit` bytes each, in order, as few as can be without trying. The
/// limit is at least [`MIN_MESSAGE`].
pub(crate) fn encode(events: &[Event<'_>], received_at: Timestamp, limit: usize) -> Vec<Vec<u8>> {
    // What lz4 adds at worst, and the length of the numbers.
    let room = limit.saturating_sub(HEADER + 64) / 256 * 255;
    let mut messages = Vec::new();
    let mut body = Body::default();
    for event in events {
        if body.events > 0 && body.len() + text_len(event) + NUMBERS > room {
            messages.push(std::mem::take(&mut body).finish(received_at));
        }
        body.put(event);
    }
    if body.events > 0 {
        messages.push(body.finish(received_at));
    }
    messages
}

fn texts<'e>(event: &'e Event<'_>) -> [Option<&'e str>; 8] {
    [
        Some(&event.tenant),
        Some(&event.topic),
        event.source.as_deref(),
        event.event_type.as_deref(),
        event.user.as_deref(),
        Some(&event.id),
        Some(&event.payload),
        Some(&event.extra),
    ]
}

fn text_len(event: &Event<'_>) -> usize {
    texts(event).into_iter().flatten().map(str::len).sum()
}

/// A body in the making.
#[derive(Default)]
struct Body {
    events: u32,
    numbers: Vec<u8>,
    text: Vec<u8>,
    micros: i64,
}

impl Body {
    fn len(&self) -> usize {
        self.numbers.len() + self.text.len()
    }

    fn put(&mut self, event: &Event<'_>) {
        self.events += 1;
        let micros = event.time.micros.as_micros();
        put_signed(&mut self.numbers, micros.wrapping_sub(self.micros));
        self.micros = micros;
        put(&mut self.numbers, u64::from(event.time.nanos));
        for (place, text) in texts(event).into_iter().enumerate() {
            let length = text.map_or(0, |text| text.len() as u64 + u64::from(may_miss(place)));
            put(&mut self.numbers, length);
            self.text.extend_from_slice(text.unwrap_or("").as_bytes());
        }
    }

    fn finish(self, received_at: Timestamp) -> Vec<u8> {
        let mut raw = Vec::with_capacity(4 + self.len());
        raw.extend_from_slice(&length(self.numbers.len()));
        raw.extend_from_slice(&self.numbers);
        raw.extend_from_slice(&self.text);
        seal(&raw, self.events, received_at)
    }
}

/// Whether the text at this place may be absent.
const fn may_miss(place: usize) -> bool {
    matches!(place, 2..=4)
}

/// Bodies are far shorter than 4 GiB.
fn length(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes()
}

fn seal(raw: &[u8], events: u32, received_at: Timestamp) -> Vec<u8> {
    let packed = lz4_flex::block::compress(raw);
    let mut message = Vec::with_capacity(HEADER + packed.len());
    message.push(VERSION);
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&received_at.as_micros().to_le_bytes());
    message.extend_from_slice(&events.to_le_bytes());
    message.extend_from_slice(&length(raw.len()));
    message.extend_from_slice(&packed);
    let sum = xxh3_64(message.get(COVERED..).unwrap_or_default());
    if let Some(place) = message.get_mut(1..COVERED) {
        place.copy_from_slice(&sum.to_le_bytes());
    }
    message
}

/// How many bytes a message takes once it is open, as far as it says.
pub(crate) fn open_len(message: &[u8]) -> usize {
    let mut reader = Reader(message.get(HEADER - 4..).unwrap_or_default());
    reader.u32().map_or(message.len(), |length| length as usize)
}

/// A message that was found whole, decompressed.
pub(crate) struct Message {
    /// When its events were received.
    pub(crate) received_at: Timestamp,
    events: u32,
    raw: Vec<u8>,
}

impl Message {
    /// Checks and decompresses.
    pub(crate) fn open(message: &[u8]) -> Result<Self, Unreadable> {
        match message.first() {
            Some(&VERSION) => {}
            Some(other) => return Err(Unreadable::Version(*other)),
            None => return Err(Unreadable::Damaged),
        }
        Self::open_known(message).ok_or(Unreadable::Damaged)
    }

    fn open_known(message: &[u8]) -> Option<Self> {
        let mut reader = Reader(message.get(1..)?);
        let sum = u64::from_le_bytes(reader.take(8)?.try_into().ok()?);
        if xxh3_64(reader.0) != sum {
            return None;
        }
        let received_at = i64::from_le_bytes(reader.take(8)?.try_into().ok()?);
        let events = reader.u32()?;
        let length = usize::try_from(reader.u32()?).ok()?;
        if length > MAX_MESSAGE {
            return None;
        }
        let raw = lz4_flex::block::decompress(reader.0, length).ok()?;
        Some(Self {
            received_at: Timestamp::from_micros(received_at),
            events,
            raw,
        })
    }

    /// Its events, borrowed from it.
    pub(crate) fn events(&self) -> Result<Vec<Event<'_>>, Unreadable> {
        self.read().ok_or(Unreadable::Damaged)
    }

    fn read(&self) -> Option<Vec<Event<'_>>> {
        let mut reader = Reader(&self.raw);
        let length = usize::try_from(reader.u32()?).ok()?;
        let mut numbers = Reader(reader.take(length)?);
        // All text at once; each piece is then cut where a character begins.
        let mut text = std::str::from_utf8(reader.0).ok()?;
        // An event has ten numbers, of a byte at least.
        let most = numbers.0.len() / 10;
        let mut events = Vec::with_capacity(most.min(self.events as usize));
        let mut micros = 0_i64;
        for _ in 0..self.events {
            micros = micros.wrapping_add(numbers.signed()?);
            let nanos = u16::try_from(numbers.number()?).ok()?;
            if nanos > 999 {
                return None;
            }
            let time = EventTime {
                micros: Timestamp::from_micros(micros),
                nanos,
            };
            events.push(read_event(time, &mut numbers, &mut text)?);
        }
        (numbers.0.is_empty() && text.is_empty()).then_some(events)
    }
}

fn read_event<'a>(
    time: EventTime,
    numbers: &mut Reader<'_>,
    text: &mut &'a str,
) -> Option<Event<'a>> {
    let mut next = |place: usize, most: usize| -> Option<Option<Cow<'a, str>>> {
        let mut length = usize::try_from(numbers.number()?).ok()?;
        if may_miss(place) {
            match length.checked_sub(1) {
                Some(less) => length = less,
                None => return Some(None),
            }
        }
        if length > most {
            return None;
        }
        let (piece, rest) = text.split_at_checked(length)?;
        *text = rest;
        Some(Some(Cow::Borrowed(piece)))
    };
    Some(Event {
        tenant: next(0, MAX_NAME)??,
        topic: next(1, MAX_NAME)??,
        source: next(2, MAX_NAME)?,
        event_type: next(3, MAX_NAME)?,
        user: next(4, MAX_NAME)?,
        id: next(5, MAX_NAME)??,
        payload: next(6, MAX_PAYLOAD)??,
        extra: next(7, MAX_EXTRA)??,
        time,
    })
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

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn number(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn signed(&mut self) -> Option<i64> {
        let value = self.number()?;
        Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }
}

#[cfg(test)]
mod tests;
