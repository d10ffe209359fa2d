//! Identities whose events were erased: kept for the day when the identity index is built anew.

use rusqlite::{Connection, params};
use xxhash_rust::xxh3::xxh3_64;

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
    let (last, checksum) = (last_sequence.cast_signed(), checksum(&bytes));
    let sum = digest_of(digest, last, checksum);
    db.prepare_cached(
        "INSERT INTO spent (last_sequence, checksum, digest, identities) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![last, checksum, sum, bytes])?;
    meta.tally(Table::Spent).add(sum);
    Ok(())
}

/// Calls `each` with the identities of every row that has some of events behind `sequence`. Every
/// row is compared with what was written; the identities of the others are not read.
pub(super) fn each_after(
    db: &Connection,
    meta: &Meta,
    sequence: u64,
    mut each: impl FnMut(&[Entry]),
) -> Result<(), Fault> {
    let mut digest = Digest::default();
    let mut found = Tally::default();
    let mut statement =
        db.prepare("SELECT id, last_sequence, checksum, digest, identities FROM spent")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (id, last, sum): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let written = row.get::<_, i64>(3)?;
        if written != digest_of(&mut digest, last, sum) {
            return Err(damaged(id));
        }
        found.add(written);
        if last.cast_unsigned() <= sequence {
            continue;
        }
        let bytes = row.get_ref(4)?.as_blob().map_err(|_| damaged(id))?;
        if checksum(bytes) != sum {
            return Err(damaged(id));
        }
        let (records, _) = bytes.as_chunks::<RECORD>();
        let identities: Vec<_> = records.iter().map(decode).collect();
        each(&identities);
    }
    meta.check(Table::Spent, found)
}

fn checksum(identities: &[u8]) -> i64 {
    xxh3_64(identities).cast_signed()
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
