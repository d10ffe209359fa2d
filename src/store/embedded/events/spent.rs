//! Identities whose events were erased: kept for the day when the identity index is built anew.

use rusqlite::{Connection, params};

use super::super::codec::Digest;
use super::super::fault::Fault;
use super::super::meta::{Meta, Table, Tally};
use super::super::seen::{Entry, First, Identity};

/// Bytes of one identity: the hash, the time, the hash of the content.
const RECORD: usize = 28;

/// Adds a row of identities of events up to `last_sequence`.
pub(super) fn insert(
    db: &Connection,
    meta: &mut Meta,
    digest: &mut Digest,
    identities: &[Entry],
    last_sequence: u64,
) -> Result<(), Fault> {
    let mut bytes = Vec::with_capacity(identities.len() * RECORD);
    for (identity, first) in identities {
        bytes.extend_from_slice(&identity.to_le_bytes());
        bytes.extend_from_slice(&first.time.to_le_bytes());
        bytes.extend_from_slice(&first.content.to_le_bytes());
    }
    let last = last_sequence.cast_signed();
    let sum = digest.row("spent").int(last).bytes(&bytes).finish();
    db.prepare_cached("INSERT INTO spent (last_sequence, identities, digest) VALUES (?1, ?2, ?3)")?
        .execute(params![last, bytes, sum])?;
    meta.tally(Table::Spent).add(sum);
    Ok(())
}

/// Calls `each` with the identities of every row that has some of events behind `sequence`.
pub(super) fn each_after(
    db: &Connection,
    meta: &Meta,
    sequence: u64,
    mut each: impl FnMut(&[Entry]),
) -> Result<(), Fault> {
    let mut digest = Digest::default();
    let mut found = Tally::default();
    let mut statement = db.prepare(
        "SELECT id, last_sequence, identities, digest FROM spent WHERE last_sequence > ?1",
    )?;
    let mut rows = statement.query([sequence.cast_signed()])?;
    while let Some(row) = rows.next()? {
        let (id, last): (i64, i64) = (row.get(0)?, row.get(1)?);
        let bytes = row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?;
        let sum = digest.row("spent").int(last).bytes(bytes).finish();
        if sum != row.get::<_, i64>(3)? {
            return Err(Fault::Damaged(format!(
                "row {id} of table spent is not what was written"
            )));
        }
        found.add(sum);
        let (records, _) = bytes.as_chunks::<RECORD>();
        let identities: Vec<_> = records.iter().map(decode).collect();
        each(&identities);
    }
    if sequence == 0 {
        meta.check(Table::Spent, found)?;
    }
    Ok(())
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
