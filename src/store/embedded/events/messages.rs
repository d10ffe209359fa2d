//! Which messages of the bus were committed: a row for each commit and each stretch of the stream.

use std::collections::BTreeMap;

use hashbrown::HashSet;
use rusqlite::{Connection, params};

use super::super::Embedded;
use super::super::codec::Digest;
use super::super::fault::Fault;
use super::super::meta::{Meta, Table, Tally};
use crate::model::bus::MessageName;
use crate::store::error::StoreError;

/// The most rows that are removed at once.
const MAX_FORGOTTEN: u32 = 1024;

/// The bytes of a name.
const NAME: usize = 16;

impl Embedded {
    pub(in crate::store) async fn known_messages(
        &self,
        names: Vec<MessageName>,
    ) -> Result<Vec<MessageName>, StoreError> {
        self.readers.read(move |db| known(db, &names)).await
    }

    pub(in crate::store) async fn forget_messages(&self, before: u64) -> Result<u64, StoreError> {
        self.other(move |db, meta, _| forget(db, meta, before, MAX_FORGOTTEN))
            .await
    }
}

/// Adds names, unless one of them is there: then nothing is written, and this says `false`.
pub(in crate::store::embedded) fn take(
    db: &Connection,
    meta: &mut Meta,
    digest: &mut Digest,
    names: &[MessageName],
) -> Result<bool, Fault> {
    if !known(db, names)?.is_empty() {
        return Ok(false);
    }
    for (stretch, names) in by_stretch(names) {
        let bytes = encode(&names);
        let sum = digest_of(digest, stretch, &bytes);
        db.prepare_cached("INSERT INTO message (stretch, digest, names) VALUES (?1, ?2, ?3)")?
            .execute(params![stretch.cast_signed(), sum, bytes])?;
        meta.tally(Table::Message).add(sum);
    }
    Ok(true)
}

/// Those of `names` that are there.
fn known(db: &Connection, names: &[MessageName]) -> Result<Vec<MessageName>, Fault> {
    let mut digest = Digest::default();
    let mut found = Vec::new();
    for (stretch, wanted) in by_stretch(names) {
        let mut there = HashSet::new();
        let mut statement =
            db.prepare_cached("SELECT id, stretch, digest, names FROM message WHERE stretch = ?1")?;
        let mut rows = statement.query([stretch.cast_signed()])?;
        while let Some(row) = rows.next()? {
            there.extend(read(row, &mut digest)?);
        }
        found.extend(wanted.into_iter().filter(|name| there.contains(name)));
    }
    Ok(found)
}

/// Removes at most `most` rows of stretches before this one; how many went.
fn forget(db: &Connection, meta: &mut Meta, before: u64, most: u32) -> Result<u64, Fault> {
    let mut statement = db.prepare_cached(
        "DELETE FROM message WHERE id IN
             (SELECT id FROM message WHERE stretch < ?1 ORDER BY stretch LIMIT ?2)
         RETURNING digest",
    )?;
    let mut rows = statement.query(params![before.cast_signed(), most])?;
    let mut gone = 0;
    while let Some(row) = rows.next()? {
        meta.tally(Table::Message).remove(row.get(0)?);
        gone += 1;
    }
    Ok(gone)
}

/// The names of the next rows behind `id`, with the number of the last row; `None` at the end.
#[cfg(feature = "cluster")]
pub(in crate::store::embedded) fn after(
    db: &Connection,
    id: u64,
    limit: i64,
) -> Result<Option<(u64, Vec<MessageName>)>, Fault> {
    let mut statement = db.prepare_cached(
        "SELECT id, stretch, digest, names FROM message WHERE id > ?1 ORDER BY id LIMIT ?2",
    )?;
    let mut rows = statement.query(params![id.cast_signed(), limit])?;
    let mut digest = Digest::default();
    let mut found: Option<(u64, Vec<MessageName>)> = None;
    while let Some(row) = rows.next()? {
        let (last, names) = found.get_or_insert_default();
        *last = row.get::<_, i64>(0)?.cast_unsigned();
        names.extend(read(row, &mut digest)?);
    }
    Ok(found)
}

/// Compares what the rows say of themselves with what was written; names are checked when they are read.
pub(super) fn check(db: &Connection, meta: &Meta) -> Result<(), Fault> {
    let mut found = Tally::default();
    let mut statement = db.prepare("SELECT digest FROM message")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        found.add(row.get(0)?);
    }
    meta.check(Table::Message, found)
}

fn by_stretch(names: &[MessageName]) -> BTreeMap<u64, Vec<MessageName>> {
    let mut stretches: BTreeMap<u64, Vec<MessageName>> = BTreeMap::new();
    for name in names {
        stretches.entry(name.stretch()).or_default().push(*name);
    }
    stretches
}

fn encode(names: &[MessageName]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(names.len() * NAME);
    for name in names {
        bytes.extend_from_slice(&name.place.to_le_bytes());
        bytes.extend_from_slice(&name.published.to_le_bytes());
    }
    bytes
}

/// Reads `id, stretch, digest, names` and checks them.
fn read(row: &rusqlite::Row<'_>, digest: &mut Digest) -> Result<Vec<MessageName>, Fault> {
    let id: i64 = row.get(0)?;
    let damaged = || Fault::Damaged(format!("row {id} of table message is not what was written"));
    // A value of another type is none of ours.
    let number = |column: usize| row.get::<_, i64>(column).map_err(|_| damaged());
    let (stretch, sum) = (number(1)?, number(2)?);
    let bytes = row.get_ref(3)?.as_blob().map_err(|_| damaged())?;
    if sum != digest_of(digest, stretch.cast_unsigned(), bytes) {
        return Err(damaged());
    }
    let (halves, _) = bytes.as_chunks::<8>();
    let names = halves.chunks_exact(2).filter_map(|name| match name {
        [place, published] => Some(MessageName {
            place: u64::from_le_bytes(*place),
            published: i64::from_le_bytes(*published),
        }),
        _ => None,
    });
    Ok(names.collect())
}

fn digest_of(digest: &mut Digest, stretch: u64, names: &[u8]) -> i64 {
    digest
        .row("message")
        .int(stretch.cast_signed())
        .bytes(names)
        .finish()
}

#[cfg(test)]
mod tests {
    use super::super::super::schema;
    use super::*;

    #[test]
    fn a_bounded_number_of_rows_goes_and_a_changed_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        schema::create(dir.path()).unwrap();
        let db = schema::open_writer(&dir.path().join(schema::DATABASE)).unwrap();
        let (mut meta, mut digest) = (Meta::default(), Digest::default());
        let names: Vec<_> = [1, 255, 256, 1_250, 2_300]
            .map(|place| MessageName {
                place,
                published: -7,
            })
            .into();
        assert!(take(&db, &mut meta, &mut digest, &names).unwrap());
        assert!(!take(&db, &mut meta, &mut digest, &names[3..4]).unwrap());
        assert_eq!(known(&db, &names).unwrap(), names);
        check(&db, &meta).unwrap();
        assert_eq!(forget(&db, &mut meta, 4, 1).unwrap(), 1);
        assert_eq!(known(&db, &names).unwrap(), names[2..]);
        assert_eq!(forget(&db, &mut meta, 4, 9).unwrap(), 1);
        assert_eq!(forget(&db, &mut meta, 4, 9).unwrap(), 0);
        assert_eq!(known(&db, &names).unwrap(), names[3..]);
        check(&db, &meta).unwrap();
        db.execute("UPDATE message SET names = x'00' WHERE stretch = 8", [])
            .unwrap();
        assert!(known(&db, &names).is_err());
        db.execute("DELETE FROM message", []).unwrap();
        assert!(check(&db, &meta).is_err());
    }
}
