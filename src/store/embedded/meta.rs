//! The one row that every commit rewrites: how many commits there were, and what each table holds.

use rusqlite::Connection;

use super::codec::Digest;
use super::events::count::Count;
use super::fault::Fault;

/// The tables whose rows are tallied, in the order in which their tallies are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Table {
    Queue,
    Live,
    Run,
    Ended,
    Idempotency,
    Block,
    Spent,
    Topic,
    Letter,
    EventCount,
    SpentSpan,
    Message,
}

impl Table {
    /// As in messages.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Live => "live",
            Self::Run => "run",
            Self::Ended => "ended",
            Self::Idempotency => "idempotency",
            Self::Block => "block",
            Self::Spent => "spent",
            Self::Topic => "topic",
            Self::Letter => "letter",
            Self::EventCount => "event_count",
            Self::SpentSpan => "spent_span",
            Self::Message => "message",
        }
    }
}

/// How many tables the current format tallies.
pub(super) const TABLES: usize = 12;

/// The number of rows of a table, and the wrapping sum of their digests: rows that vanish, come
/// twice or fall back to an older content with a damaged page change it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::store) struct Tally {
    rows: u64,
    sum: u64,
}

impl Tally {
    /// How many rows.
    pub(in crate::store) const fn rows(&self) -> u64 {
        self.rows
    }

    /// The wrapping sum of the digests.
    #[cfg(feature = "cluster")]
    pub(in crate::store) const fn sum(&self) -> u64 {
        self.sum
    }

    /// Of one row.
    pub(super) const fn of_one(digest: i64) -> Self {
        Self {
            rows: 1,
            sum: digest.cast_unsigned(),
        }
    }

    /// A row with this digest came.
    pub(in crate::store) const fn add(&mut self, digest: i64) {
        self.rows = self.rows.wrapping_add(1);
        self.sum = self.sum.wrapping_add(digest.cast_unsigned());
    }

    /// A row with this digest went.
    pub(super) const fn remove(&mut self, digest: i64) {
        self.rows = self.rows.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(digest.cast_unsigned());
    }
}

/// The content of the row.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Meta {
    /// How many transactions were committed.
    pub(super) commits: u64,
    /// The arrival that was assigned last; 0 before the first.
    pub(super) last_arrival: u64,
    /// What is counted about events; a row of its own.
    pub(super) events: Count,
    tallies: [Tally; TABLES],
}

impl Meta {
    /// The tally of a table.
    pub(super) const fn tally(&mut self, table: Table) -> &mut Tally {
        let [
            queue,
            live,
            run,
            ended,
            idempotency,
            block,
            spent,
            topic,
            letter,
            event_count,
            spent_span,
            message,
        ] = &mut self.tallies;
        match table {
            Table::Queue => queue,
            Table::Live => live,
            Table::Run => run,
            Table::Ended => ended,
            Table::Idempotency => idempotency,
            Table::Block => block,
            Table::Spent => spent,
            Table::Topic => topic,
            Table::Letter => letter,
            Table::EventCount => event_count,
            Table::SpentSpan => spent_span,
            Table::Message => message,
        }
    }

    /// Compares what a scan of `table` found with what was written.
    pub(super) fn check(&self, table: Table, found: Tally) -> Result<(), Fault> {
        let expected = *self.clone().tally(table);
        if found == expected {
            return Ok(());
        }
        let (name, rows) = (table.name(), found.rows);
        Err(Fault::Damaged(if rows == expected.rows {
            format!("the {rows} rows of table {name} are not the ones that were written")
        } else {
            format!(
                "table {name} has {rows} rows, {} were written",
                expected.rows
            )
        }))
    }

    /// Reads the row of a database whose format tallies the first `tables` tables.
    pub(super) fn load(db: &Connection, tables: usize) -> Result<Self, Fault> {
        let sql = "SELECT commits, last_arrival, tallies, digest FROM meta WHERE one = 1";
        let (commits, last_arrival, tallies, digest) =
            db.prepare_cached(sql)?.query_row([], |row| {
                Ok((
                    row.get::<_, i64>(0)?,
                    row.get::<_, i64>(1)?,
                    row.get::<_, Vec<u8>>(2)?,
                    row.get::<_, i64>(3)?,
                ))
            })?;
        if digest != digest_of(commits, last_arrival, &tallies) || tallies.len() != tables * 16 {
            return Err(Fault::Damaged(
                "the row of table meta is not what was written".to_owned(),
            ));
        }
        let mut meta = Self {
            commits: commits.cast_unsigned(),
            last_arrival: last_arrival.cast_unsigned(),
            ..Self::default()
        };
        let (numbers, _) = tallies.as_chunks::<8>();
        for (tally, stored) in meta.tallies.iter_mut().zip(numbers.chunks_exact(2)) {
            if let [rows, sum] = stored {
                tally.rows = u64::from_le_bytes(*rows);
                tally.sum = u64::from_le_bytes(*sum);
            }
        }
        if tables == TABLES {
            let (events, found) = Count::load(db)?;
            meta.check(Table::EventCount, found)?;
            meta.events = events;
        }
        Ok(meta)
    }

    /// Writes what is counted about events.
    pub(super) fn save_events(&mut self, db: &Connection) -> Result<(), Fault> {
        let digest = self.events.save(db)?;
        // A row that fell back to an older content, or went, would be believed otherwise.
        *self.tally(Table::EventCount) = Tally::of_one(digest);
        Ok(())
    }

    /// Rows and sums of the first `tables` tables.
    fn tallies(&self, tables: usize) -> Vec<u8> {
        let mut tallies = Vec::with_capacity(TABLES * 16);
        for tally in self.tallies.iter().take(tables) {
            tallies.extend_from_slice(&tally.rows.to_le_bytes());
            tallies.extend_from_slice(&tally.sum.to_le_bytes());
        }
        tallies
    }

    /// Tells this content of the store from every other one that it had or will have.
    #[cfg(feature = "cluster")]
    pub(super) fn content(&self) -> i64 {
        let (commits, last) = (self.commits.cast_signed(), self.last_arrival.cast_signed());
        digest_of(commits, last, &self.tallies(TABLES))
    }

    /// How many rows a table has.
    #[cfg(feature = "cluster")]
    pub(super) fn rows(&self, table: Table) -> u64 {
        self.clone().tally(table).rows()
    }

    /// Writes the row, with the tallies of the first `tables` tables.
    pub(super) fn save(&self, db: &Connection, tables: usize) -> Result<(), Fault> {
        let tallies = self.tallies(tables);
        let (commits, last) = (self.commits.cast_signed(), self.last_arrival.cast_signed());
        db.prepare_cached(
            "INSERT OR REPLACE INTO meta (one, commits, last_arrival, tallies, digest)
             VALUES (1, ?1, ?2, ?3, ?4)",
        )?
        .execute((commits, last, &tallies, digest_of(commits, last, &tallies)))?;
        Ok(())
    }
}

fn digest_of(commits: i64, last_arrival: i64, tallies: &[u8]) -> i64 {
    Digest::default()
        .row("meta")
        .int(commits)
        .int(last_arrival)
        .bytes(tallies)
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_notices_lost_doubled_and_swapped_rows() {
        let mut meta = Meta::default();
        for digest in [5, -9, i64::MAX] {
            meta.tally(Table::Live).add(digest);
        }
        let tally = |digests: &[i64]| {
            let mut tally = Tally::default();
            for digest in digests {
                tally.add(*digest);
            }
            tally
        };
        assert!(meta.check(Table::Live, tally(&[i64::MAX, 5, -9])).is_ok());
        for wrong in [&[5, -9][..], &[5, -9, -9], &[5, -9, i64::MAX, 1]] {
            assert!(meta.check(Table::Live, tally(wrong)).is_err());
        }
        meta.tally(Table::Live).remove(-9);
        assert!(meta.check(Table::Live, tally(&[5, i64::MAX])).is_ok());
    }
}
