//! What remains of erased events: their identities, for the day when the identity index is built
//! anew, and what the rollups need to know of them, for the day when those are.
//!
//! The latter is kept as the data of a block, of events that say nothing any more: their id is the
//! keyed hash of their user, in the form of a uuid; without a user it is empty. Beside each row lies
//! what it spans, so that answers that are made from the events know which of them are gone.

pub(super) mod span;

use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;
use xxhash_rust::xxh3::Xxh3;

use self::span::Span;
use super::super::codec::Digest;
use super::super::fault::Fault;
use super::super::meta::{Meta, Table, Tally};
use super::super::seen::{Entry, First, Identity};
use super::block::MAX_EVENTS;
use super::codec::{self, Decoded};
use crate::model::event::{Event, ScannedEvent, ScannedUser, Sequence};
use crate::rollups::{Facts, UserKey};
use crate::store::identity::Key;

/// Bytes of one identity: the hash, the time, the hash of the content.
const RECORD: usize = 28;

/// What remains of one event.
pub(super) struct Remains {
    identity: Entry,
    sequence: Sequence,
    /// With its user's hash for an id, and nothing that the rollups don't need.
    event: Event<'static>,
}

impl Remains {
    pub(super) fn of(
        (key, user_key): (Key, UserKey),
        sequence: Sequence,
        event: &Event<'_>,
    ) -> Self {
        let user = event.user.as_deref();
        let user = user.map(|user| Uuid::from_u128(user_key.hash(&event.tenant, user)));
        Self {
            identity: key.of(event),
            sequence,
            event: Event {
                tenant: event.tenant.clone(),
                topic: "".into(),
                id: user.map(|user| user.to_string()).unwrap_or_default().into(),
                time: event.time,
                source: event.source.clone(),
                event_type: event.event_type.clone(),
                user: None,
                payload: "".into(),
                extra: "".into(),
            }
            .into_owned(),
        }
    }
}

/// Adds rows of what remains of events.
pub(super) fn insert(
    db: &Connection,
    meta: &mut Meta,
    digest: &mut Digest,
    remains: &[Remains],
) -> Result<(), Fault> {
    for chunk in remains.chunks(MAX_EVENTS) {
        let mut bytes = Vec::with_capacity(chunk.len() * RECORD);
        for Remains { identity, .. } in chunk {
            let (identity, first) = identity;
            bytes.extend_from_slice(&identity.to_le_bytes());
            bytes.extend_from_slice(&first.time.to_le_bytes());
            bytes.extend_from_slice(&first.content.to_le_bytes());
        }
        let events: Vec<_> = chunk.iter().map(|it| (it.sequence.0, &it.event)).collect();
        let arrivals = || chunk.iter().map(|it| it.sequence.0);
        let facts = codec::encode(&events, arrivals().min().unwrap_or(0));
        let last = arrivals().max().unwrap_or(0).cast_signed();
        let checksum = checksum(&bytes, Some(&facts));
        let sum = digest_of(digest, last, checksum);
        db.prepare_cached(
            "INSERT INTO spent (last_sequence, checksum, digest, identities, facts)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![last, checksum, sum, bytes, facts])?;
        meta.tally(Table::Spent).add(sum);
        let of = chunk.iter().map(|it| &it.event);
        let span = span_of(db.last_insert_rowid(), of);
        span.insert(db, meta, digest)?;
    }
    Ok(())
}

/// The span of events.
fn span_of<'e>(id: i64, events: impl Iterator<Item = &'e Event<'e>> + Clone) -> Span {
    let times = events.clone().map(|event| event.time.micros.as_micros());
    let tenants = events.clone().map(|event| &*event.tenant);
    let ends = tenants.clone().min().zip(tenants.max());
    Span {
        id,
        times: (
            times.clone().min().unwrap_or(i64::MIN),
            times.max().unwrap_or(i64::MAX),
        ),
        tenants: ends.map(|(first, last)| (first.to_owned(), last.to_owned())),
        events: u32::try_from(events.count()).unwrap_or(u32::MAX),
    }
}

/// Writes the spans of all rows, in a store that has none yet.
pub(in crate::store::embedded) fn fill_spans(
    db: &Connection,
    meta: &mut Meta,
) -> Result<(), Fault> {
    let mut spans = Vec::new();
    let found = rows_after(db, 0, |row| {
        let remains = row.remains()?;
        spans.push(match remains.known()? {
            Known::Events(events) => span_of(row.id, events.iter().map(|it| &it.event)),
            Known::Times(times) => Span {
                id: row.id,
                times: (*times.iter().min()?, *times.iter().max()?),
                tenants: None,
                events: u32::try_from(times.len()).ok()?,
            },
        });
        Some(())
    })?;
    meta.check(Table::Spent, found)?;
    let mut digest = Digest::default();
    for span in spans {
        span.insert(db, meta, &mut digest)?;
    }
    Ok(())
}

/// Calls `each` with the identities of every row that has some of events behind `sequence`. Every
/// row is compared with what was written; the identities of the others are not read.
pub(in crate::store::embedded) fn each_after(
    db: &Connection,
    meta: &Meta,
    sequence: u64,
    mut each: impl FnMut(&[Entry]),
) -> Result<(), Fault> {
    let found = rows_after(db, sequence, |row| {
        let identities: Vec<_> = row.entries().collect();
        each(&identities);
        Some(())
    })?;
    meta.check(Table::Spent, found)
}

/// Calls `each` with the arrivals of erased events behind `after`, and with what the rollups need to
/// know of them. Of those that were erased by a version that kept no such thing, nothing is known. Every row
/// is compared with what was written: one that fell back to an older content would be left out.
pub(in crate::store::embedded) fn facts_after(
    db: &Connection,
    meta: &Meta,
    after: Sequence,
    mut each: impl FnMut(&[Sequence], &Facts),
) -> Result<(), Fault> {
    let found = rows_after(db, after.0, |row| {
        let erased = row.remains()?;
        let Known::Events(events) = erased.known()? else {
            return Some(());
        };
        // Numbers count from the row's least, and the last of them is known.
        let most = events.iter().map(|it| it.number).max()?;
        let least = row.last.checked_sub(most)?;
        let mut arrivals = Vec::with_capacity(events.len());
        let mut users = Vec::with_capacity(events.len());
        for it in &events {
            if least + it.number > after.0 {
                arrivals.push(Sequence(least + it.number));
                users.push((&it.event, it.user));
            }
        }
        each(&arrivals, &Facts::of_hashed(users));
        Some(())
    })?;
    meta.check(Table::Spent, found)
}

/// What a row has of its events.
pub(super) enum Erased {
    /// What the rollups need.
    Facts(Decoded),
    /// Their times, in microseconds.
    Times(Vec<i64>),
}

/// What is known of the events of a row.
pub(super) enum Known<'a> {
    /// What the rollups need.
    Events(Vec<Remainder<'a>>),
    /// Their times only, in microseconds: they were erased by a version that kept nothing else.
    Times(&'a [i64]),
}

/// What is known of an erased event.
pub(super) struct Remainder<'a> {
    /// Its arrival, less the row's least one.
    number: u64,
    /// It says nothing any more.
    event: Event<'a>,
    /// The hash of its user.
    user: Option<u128>,
}

impl Remainder<'_> {
    /// As a scan shows it: there is no payload.
    pub(super) fn shown(&self) -> ScannedEvent<'_> {
        let event = &self.event;
        ScannedEvent {
            time: event.time,
            tenant: &event.tenant,
            source: event.source.as_deref(),
            event_type: event.event_type.as_deref(),
            user: self.user.map(ScannedUser::Hashed),
            payload: "",
        }
    }
}

impl Erased {
    /// `None` if it can't have been written.
    pub(super) fn known(&self) -> Option<Known<'_>> {
        let decoded = match self {
            Self::Facts(decoded) => decoded,
            Self::Times(times) => return Some(Known::Times(times)),
        };
        let mut known = Vec::with_capacity(MAX_EVENTS);
        for event in decoded.events().ok()? {
            let (number, event) = event.ok()?;
            let user = match event.id.as_ref() {
                "" => None,
                id => Some(Uuid::try_parse(id).ok()?.as_u128()),
            };
            known.push(Remainder {
                number,
                event,
                user,
            });
        }
        Some(Known::Events(known))
    }
}

/// What is known of the events of the row with this id.
pub(super) fn find(db: &Connection, id: i64) -> Result<Erased, Fault> {
    let found = db
        .prepare_cached(&format!("SELECT {COLUMNS} FROM spent WHERE id = ?1"))?
        .query_row([id], |row| {
            let row = Row::read(row, &mut Digest::default());
            Ok(row.and_then(|row| {
                let whole = row.is_whole().then(|| row.remains()).flatten();
                whole.ok_or_else(|| damaged(id))
            }))
        })
        .optional()?;
    found.unwrap_or_else(|| Err(damaged(id)))
}

/// Where a row stands among the arrivals.
#[cfg(feature = "cluster")]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::store) struct Place {
    /// The first arrival.
    pub(in crate::store) first: u64,
    /// The last one.
    pub(in crate::store) last: u64,
    id: i64,
}

/// All rows by their first arrival, each compared with what was written; and how many events were
/// erased by a version that kept only their identities.
#[cfg(feature = "cluster")]
pub(in crate::store::embedded) fn places(
    db: &Connection,
    meta: &Meta,
) -> Result<(Vec<Place>, u64), Fault> {
    let (mut places, mut unknown) = (Vec::new(), 0_u64);
    let found = rows_after(db, 0, |row| {
        let remains = row.remains()?;
        let Known::Events(events) = remains.known()? else {
            unknown += row.entries().count() as u64;
            return Some(());
        };
        let most = events.iter().map(|it| it.number).max()?;
        places.push(Place {
            first: row.last.checked_sub(most)?,
            last: row.last,
            id: row.id,
        });
        Some(())
    })?;
    meta.check(Table::Spent, found)?;
    places.sort_unstable();
    Ok((places, unknown))
}

/// What remains of the events of a row.
#[cfg(feature = "cluster")]
pub(in crate::store) struct Gone {
    place: Place,
    /// Their identities.
    pub(in crate::store) entries: Vec<Entry>,
    erased: Erased,
}

/// An erased event: its arrival, what is left of it, and the hash of its user.
#[cfg(feature = "cluster")]
pub(in crate::store) type GoneEvent<'a> = (Sequence, Event<'a>, Option<u128>);

#[cfg(feature = "cluster")]
impl Gone {
    /// Reads a row.
    pub(in crate::store::embedded) fn read(db: &Connection, place: Place) -> Result<Self, Fault> {
        let id = place.id;
        let entries = db
            .prepare_cached(&format!("SELECT {COLUMNS} FROM spent WHERE id = ?1"))?
            .query_row([id], |row| {
                let row = Row::read(row, &mut Digest::default());
                Ok(row.map(|row| row.entries().collect()))
            })??;
        Ok(Self {
            place,
            entries,
            erased: find(db, id)?,
        })
    }

    /// The events.
    pub(in crate::store::embedded) fn events(&self) -> Result<Vec<GoneEvent<'_>>, Fault> {
        let Some(Known::Events(events)) = self.erased.known() else {
            return Err(damaged(self.place.id));
        };
        let events = events.into_iter();
        let arrival = |number| Sequence(self.place.first.wrapping_add(number));
        Ok(events
            .map(|it| (arrival(it.number), it.event, it.user))
            .collect())
    }
}

/// A row as it lies there.
struct Row<'r> {
    id: i64,
    /// The last arrival.
    last: u64,
    checksum: i64,
    digest: i64,
    identities: &'r [u8],
    facts: Option<&'r [u8]>,
}

/// What [`Row::read`] reads.
const COLUMNS: &str = "id, last_sequence, checksum, digest, identities, facts";

impl<'r> Row<'r> {
    /// Reads it and checks all but the content.
    fn read(row: &'r rusqlite::Row<'_>, digest: &mut Digest) -> Result<Self, Fault> {
        let id = row.get(0)?;
        // A value of another type is none of ours.
        let number = |column: usize| row.get::<_, i64>(column).map_err(|_| damaged(id));
        let last = number(1)?;
        let found = Self {
            id,
            last: last.cast_unsigned(),
            checksum: number(2)?,
            digest: number(3)?,
            identities: row.get_ref(4)?.as_blob().map_err(|_| damaged(id))?,
            facts: row.get_ref(5)?.as_blob_or_null().map_err(|_| damaged(id))?,
        };
        if found.digest == digest_of(digest, last, found.checksum) {
            Ok(found)
        } else {
            Err(damaged(id))
        }
    }

    fn is_whole(&self) -> bool {
        checksum(self.identities, self.facts) == self.checksum
    }

    fn entries(&self) -> impl Iterator<Item = Entry> {
        let (records, _) = self.identities.as_chunks::<RECORD>();
        records.iter().map(decode)
    }

    fn remains(&self) -> Option<Erased> {
        let Some(facts) = self.facts else {
            let times = self.entries().map(|(_, first)| first.time);
            return Some(Erased::Times(times.collect()));
        };
        Decoded::new(facts).ok().map(Erased::Facts)
    }
}

/// Calls `each` with the rows that have some of events behind `sequence`; it returns `None` if they
/// can't have been written. Returns what all rows tally.
fn rows_after(
    db: &Connection,
    sequence: u64,
    mut each: impl FnMut(&Row<'_>) -> Option<()>,
) -> Result<Tally, Fault> {
    let mut digest = Digest::default();
    let mut found = Tally::default();
    let mut statement = db.prepare(&format!("SELECT {COLUMNS} FROM spent"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let row = Row::read(row, &mut digest)?;
        found.add(row.digest);
        if row.last > sequence && !(row.is_whole() && each(&row).is_some()) {
            return Err(damaged(row.id));
        }
    }
    Ok(found)
}

fn checksum(identities: &[u8], facts: Option<&[u8]>) -> i64 {
    let mut hasher = Xxh3::new();
    hasher.update(identities);
    hasher.update(facts.unwrap_or_default());
    hasher.digest().cast_signed()
}

fn digest_of(digest: &mut Digest, last_sequence: i64, checksum: i64) -> i64 {
    digest
        .row("spent")
        .int(last_sequence)
        .int(checksum)
        .finish()
}

pub(super) fn damaged(id: i64) -> Fault {
    Fault::Damaged(format!("row {id} of table spent is not what was written"))
}

fn decode(record: &[u8; RECORD]) -> Entry {
    let (identity, rest) = record.split_first_chunk().unwrap_or((&[0; 16], &[]));
    let (time, rest) = rest.split_first_chunk().unwrap_or((&[0; 8], &[]));
    let content = rest.first_chunk().unwrap_or(&[0; 4]);
    let first = First {
        time: i64::from_le_bytes(*time),
        content: u32::from_le_bytes(*content),
    };
    (Identity::from_le_bytes(*identity), first)
}

#[cfg(test)]
mod tests;
