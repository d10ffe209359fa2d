//! Dead letters: refused events, kept to be put right.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::super::codec::Digest;
use super::super::fault::Fault;
use super::super::meta::{Meta, Table, Tally};
use super::NewLetter;
use crate::model::event::DeadLetter;
use crate::model::time::Timestamp;

/// The most dead letters that are kept: with one more, the oldest goes.
pub(in crate::store::embedded) const MAX_LETTERS: u64 = 100_000;

/// Adds a letter, and removes the oldest beyond `most`.
pub(super) fn insert(
    db: &Connection,
    meta: &mut Meta,
    digest: &mut Digest,
    letter: &NewLetter,
    most: u64,
) -> Result<(), Fault> {
    meta.events.last_letter += 1;
    let id = meta.events.last_letter;
    let letter = DeadLetter {
        id,
        refused_at: letter.refused_at,
        errors: letter.errors.clone(),
        body: letter.body.clone(),
    };
    let sum = digest_of(digest, &letter);
    db.prepare_cached(
        "INSERT INTO letter (id, refused_at, errors, body, digest) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![
        id.cast_signed(),
        letter.refused_at.as_micros(),
        letter.errors,
        letter.body,
        sum
    ])?;
    meta.tally(Table::Letter).add(sum);
    if id > most {
        // Numbers have no gaps but those of letters that are gone already.
        remove_up_to(db, meta, id - most)?;
    }
    Ok(())
}

fn remove_up_to(db: &Connection, meta: &mut Meta, last: u64) -> Result<(), Fault> {
    let oldest: Option<i64> = db
        .prepare_cached("SELECT min(id) FROM letter WHERE id <= ?1")?
        .query_row([last.cast_signed()], |row| row.get(0))?;
    if let Some(oldest) = oldest {
        remove(db, meta, oldest.cast_unsigned())?;
    }
    Ok(())
}

/// Removes a letter; whether there was one.
pub(super) fn remove(db: &Connection, meta: &mut Meta, id: u64) -> Result<bool, Fault> {
    let digest: Option<i64> = db
        .prepare_cached("DELETE FROM letter WHERE id = ?1 RETURNING digest")?
        .query_row([id.cast_signed()], |row| row.get(0))
        .optional()?;
    if let Some(digest) = digest {
        meta.tally(Table::Letter).remove(digest);
    }
    Ok(digest.is_some())
}

/// The most bytes of letters that are listed at once: each may be as large as a request. One larger
/// letter is listed alone.
const MAX_LISTED: usize = 32 << 20;

/// At most `limit` letters behind `after`, in order of their number, and whether there are more.
pub(in crate::store::embedded) fn list(
    db: &Connection,
    after: u64,
    limit: usize,
) -> Result<(Vec<DeadLetter>, bool), Fault> {
    list_within(db, after, limit, MAX_LISTED)
}

fn list_within(
    db: &Connection,
    after: u64,
    limit: usize,
    bytes: usize,
) -> Result<(Vec<DeadLetter>, bool), Fault> {
    let mut statement = db.prepare_cached(
        "SELECT id, refused_at, errors, body, digest FROM letter WHERE id > ?1 ORDER BY id LIMIT ?2",
    )?;
    // One more tells that there are more.
    let rows = i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX);
    let mut rows = statement.query([after.cast_signed(), rows])?;
    let mut digest = Digest::default();
    let mut letters = Vec::new();
    let mut left = bytes;
    while let Some(row) = rows.next()? {
        if letters.len() == limit {
            return Ok((letters, true));
        }
        let letter = read(row, &mut digest)?;
        let size = letter.errors.len() + letter.body.len();
        if size > left && !letters.is_empty() {
            return Ok((letters, true));
        }
        left = left.saturating_sub(size);
        letters.push(letter);
    }
    Ok((letters, false))
}

/// One letter.
pub(super) fn find(db: &Connection, id: u64) -> Result<Option<DeadLetter>, Fault> {
    let Some(before) = id.checked_sub(1) else {
        return Ok(None);
    };
    let next = list(db, before, 1)?.0.into_iter().next();
    Ok(next.filter(|letter| letter.id == id))
}

/// Compares what the rows say of themselves with what was written; their texts are not read.
pub(super) fn check(db: &Connection, meta: &Meta) -> Result<(), Fault> {
    let mut found = Tally::default();
    let mut statement = db.prepare("SELECT digest FROM letter")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        found.add(row.get(0)?);
    }
    meta.check(Table::Letter, found)
}

/// Reads `id, refused_at, errors, body, digest` and checks them.
fn read(row: &Row<'_>, digest: &mut Digest) -> Result<DeadLetter, Fault> {
    let id: i64 = row.get(0)?;
    // A value of another type is no letter of ours either.
    decode(row)
        .ok()
        .filter(|(letter, sum)| digest_of(digest, letter) == *sum)
        .map(|(letter, _)| letter)
        .ok_or_else(|| Fault::Damaged(format!("row {id} of table letter is not what was written")))
}

fn decode(row: &Row<'_>) -> rusqlite::Result<(DeadLetter, i64)> {
    let letter = DeadLetter {
        id: row.get::<_, i64>(0)?.cast_unsigned(),
        refused_at: Timestamp::from_micros(row.get(1)?),
        errors: row.get(2)?,
        body: row.get(3)?,
    };
    Ok((letter, row.get(4)?))
}

fn digest_of(digest: &mut Digest, letter: &DeadLetter) -> i64 {
    digest
        .row("letter")
        .int(letter.id.cast_signed())
        .int(letter.refused_at.as_micros())
        .bytes(letter.errors.as_bytes())
        .bytes(letter.body.as_bytes())
        .finish()
}

#[cfg(test)]
mod tests {
    use super::super::super::schema;
    use super::*;

    #[test]
    fn the_oldest_letter_goes_for_one_too_many() {
        let dir = tempfile::tempdir().unwrap();
        schema::create(dir.path()).unwrap();
        let db = schema::open_writer(&dir.path().join(schema::DATABASE)).unwrap();
        let (mut meta, mut digest) = (Meta::default(), Digest::default());
        for n in 1..=5 {
            let letter = NewLetter {
                refused_at: Timestamp::from_micros(n),
                errors: "[]".to_owned(),
                body: format!("{{\"n\":{n}}}"),
            };
            insert(&db, &mut meta, &mut digest, &letter, 3).unwrap();
        }
        let kept: Vec<u64> = list(&db, 0, 10).unwrap().0.iter().map(|it| it.id).collect();
        assert_eq!(kept, [3, 4, 5]);
        assert!(remove(&db, &mut meta, 4).unwrap());
        assert!(!remove(&db, &mut meta, 4).unwrap());
        assert_eq!(find(&db, 4).unwrap(), None);
        assert_eq!(find(&db, 5).unwrap().unwrap().body, "{\"n\":5}");
        let ids = |limit, bytes| {
            let (letters, more) = list_within(&db, 0, limit, bytes).unwrap();
            (letters.iter().map(|it| it.id).collect::<Vec<_>>(), more)
        };
        // Each has nine bytes.
        assert_eq!(ids(1, 100), (vec![3], true));
        assert_eq!(ids(2, 100), (vec![3, 5], false));
        assert_eq!(ids(2, 18), (vec![3, 5], false));
        assert_eq!(ids(2, 17), (vec![3], true));
        assert_eq!(ids(2, 1), (vec![3], true));
        assert_eq!(meta.events.last_letter, 5);
    }
}
