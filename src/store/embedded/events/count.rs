//! The one row of everything that is counted about events.

use rusqlite::{Connection, OptionalExtension};

use super::super::codec::Digest;
use super::super::fault::Fault;
use super::super::meta::Tally;
use crate::store::identity::Key;

/// The content of the row. It is first written with the first events, so a store without it has
/// none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(in crate::store::embedded) struct Count {
    /// Events that were kept.
    pub(in crate::store::embedded) accepted: u64,
    /// Events that were not, as duplicates.
    pub(in crate::store::embedded) duplicates: u64,
    /// Duplicates that said something else than the first.
    pub(in crate::store::embedded) conflicting: u64,
    /// The arrival that was assigned last; 0 before the first.
    pub(in crate::store::embedded) last_sequence: u64,
    /// The number of the last dead letter; 0 before the first.
    pub(in crate::store::embedded) last_letter: u64,
    /// The key of the identities; none before the store was opened to write.
    pub(in crate::store::embedded) key: Option<Key>,
}

impl Count {
    /// Reads the row, and tallies it.
    pub(in crate::store::embedded) fn load(db: &Connection) -> Result<(Self, Tally), Fault> {
        let sql =
            "SELECT accepted, duplicates, conflicting, last_sequence, last_letter, key, digest
                   FROM event_count WHERE one = 1";
        let found = db
            .prepare_cached(sql)?
            .query_row([], |row| {
                let count = Self {
                    accepted: row.get::<_, i64>(0)?.cast_unsigned(),
                    duplicates: row.get::<_, i64>(1)?.cast_unsigned(),
                    conflicting: row.get::<_, i64>(2)?.cast_unsigned(),
                    last_sequence: row.get::<_, i64>(3)?.cast_unsigned(),
                    last_letter: row.get::<_, i64>(4)?.cast_unsigned(),
                    key: Some(Key(row.get(5)?)),
                };
                Ok((count, row.get::<_, i64>(6)?))
            })
            .optional()?;
        match found {
            None => Ok((Self::default(), Tally::default())),
            Some((count, digest)) if digest == count.digest() => Ok((count, Tally::of_one(digest))),
            Some(_) => Err(Fault::Damaged(
                "the row of table event_count is not what was written".to_owned(),
            )),
        }
    }

    /// Writes the row and returns its digest.
    pub(in crate::store::embedded) fn save(&self, db: &Connection) -> Result<i64, Fault> {
        let digest = self.digest();
        let key = self.key.map(|key| key.0).unwrap_or_default();
        let [
            accepted,
            duplicates,
            conflicting,
            last_sequence,
            last_letter,
        ] = self.numbers();
        db.prepare_cached(
            "INSERT OR REPLACE INTO event_count (one, accepted, duplicates, conflicting,
                                                 last_sequence, last_letter, key, digest)
             VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute((
            accepted,
            duplicates,
            conflicting,
            last_sequence,
            last_letter,
            key,
            digest,
        ))?;
        Ok(digest)
    }

    fn numbers(&self) -> [i64; 5] {
        [
            self.accepted,
            self.duplicates,
            self.conflicting,
            self.last_sequence,
            self.last_letter,
        ]
        .map(u64::cast_signed)
    }

    fn digest(&self) -> i64 {
        let mut digest = Digest::default();
        digest.row("event_count");
        for number in self.numbers() {
            digest.int(number);
        }
        digest.bytes(&self.key.map(|key| key.0).unwrap_or_default());
        digest.finish()
    }
}
