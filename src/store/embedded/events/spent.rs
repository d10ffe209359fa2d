//! What remains of erased events: their identities, for the day when the identity index is built
//! anew, and what the rollups need to know of them, for the day when those are.
//!
//! The latter is kept as the data of a block, of events that say nothing any more: their id is the
//! keyed hash of their user, in the form of a uuid; without a user it is empty.

use rusqlite::{Connection, params};
use uuid::Uuid;
use xxhash_rust::xxh3::Xxh3;

use super::super::codec::Digest;
use super::super::fault::Fault;
use super::super::meta::{Meta, Table, Tally};
use super::super::seen::{Entry, First, Identity};
use super::block::MAX_EVENTS;
use super::codec::{self, Decoded};
use super::identity::Key;
use crate::model::event::{Event, Sequence};
use crate::rollups::{Facts, UserKey};

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
    let found = rows_after(db, sequence, |_, identities, _| {
        let (records, _) = identities.as_chunks::<RECORD>();
        let identities: Vec<_> = records.iter().map(decode).collect();
        each(&identities);
        Some(())
    })?;
    meta.check(Table::Spent, found)
}

/// Calls `each` with the arrivals of erased events behind `after`, and with what the rollups need to
/// know of them. Of those that
/// were erased by a version that kept no such thing, nothing is known.
pub(in crate::store::embedded) fn facts_after(
    db: &Connection,
    after: Sequence,
    mut each: impl FnMut(&[Sequence], &Facts),
) -> Result<(), Fault> {
    rows_after(db, after.0, |last, _, facts| {
        let Some(facts) = facts else { return Some(()) };
        let decoded = Decoded::new(facts).ok()?;
        let events: Vec<_> = decoded.events().ok()?.collect::<Result<_, _>>().ok()?;
        // Numbers count from the row's least, and the last of them is known.
        let most = events.iter().map(|(number, _)| *number).max()?;
        let least = last.checked_sub(most)?;
        let mut arrivals = Vec::with_capacity(events.len());
        let mut users = Vec::with_capacity(events.len());
        for (number, event) in &events {
            if least + number > after.0 {
                arrivals.push(Sequence(least + number));
                users.push(match event.id.as_ref() {
                    "" => (event, None),
                    id => (event, Some(Uuid::try_parse(id).ok()?.as_u128())),
                });
            }
        }
        each(&arrivals, &Facts::of_hashed(users));
        Some(())
    })?;
    Ok(())
}

/// Calls `each` with the last arrival, the identities and the facts of the rows that have some of
/// events behind `sequence`; it returns `None` if they can't have been written. Returns what all
/// rows tally.
fn rows_after(
    db: &Connection,
    sequence: u64,
    mut each: impl FnMut(u64, &[u8], Option<&[u8]>) -> Option<()>,
) -> Result<Tally, Fault> {
    let mut digest = Digest::default();
    let mut found = Tally::default();
    let mut statement =
        db.prepare("SELECT id, last_sequence, checksum, digest, identities, facts FROM spent")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (id, last, sum): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let written = row.get::<_, i64>(3)?;
        if written != digest_of(&mut digest, last, sum) {
            return Err(damaged(id));
        }
        found.add(written);
        let last = last.cast_unsigned();
        if last <= sequence {
            continue;
        }
        let identities = row.get_ref(4)?.as_blob().map_err(|_| damaged(id))?;
        let facts = row.get_ref(5)?.as_blob_or_null().map_err(|_| damaged(id))?;
        if checksum(identities, facts) != sum || each(last, identities, facts).is_none() {
            return Err(damaged(id));
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

fn damaged(id: i64) -> Fault {
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
