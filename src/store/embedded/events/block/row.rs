//! What is known of a block without reading it.

use rusqlite::{Connection, params};

use super::super::super::codec::Digest;
use super::super::super::fault::Fault;
use super::Block;

/// The columns that [`Row::read`] reads.
pub(in crate::store::embedded) const COLUMNS: &str = "id, level, first_time, last_time, first_sequence, last_sequence, \
     first_tenant, last_tenant, events, packed, bytes, checksum, digest";

/// The level of a block: the bits that the span of its times in microseconds needs, at most 63.
/// Level 0 is kept for blocks whose events have one time without nanoseconds: their order is that
/// of their arrivals, which their rows know.
pub(in crate::store::embedded) fn level_of(times: (i64, i64), nanos: bool) -> u8 {
    let span = times.1.wrapping_sub(times.0).cast_unsigned();
    let bits = u64::BITS - span.leading_zeros();
    u8::try_from(bits.max(u32::from(nanos)).min(63)).unwrap_or(63)
}

/// A row of `block`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::store::embedded) struct Row {
    pub(in crate::store::embedded) id: i64,
    pub(in crate::store::embedded) level: u8,
    /// Least and greatest time, in microseconds.
    pub(in crate::store::embedded) times: (i64, i64),
    /// Least and greatest arrival.
    pub(in crate::store::embedded) sequences: (u64, u64),
    /// Least and greatest tenant.
    pub(in crate::store::embedded) tenants: (String, String),
    pub(in crate::store::embedded) events: u32,
    pub(in crate::store::embedded) packed: u8,
    /// The length of the data.
    pub(in crate::store::embedded) bytes: u64,
    /// The hash of the data.
    pub(in crate::store::embedded) checksum: u64,
    pub(in crate::store::embedded) digest: i64,
}

impl Row {
    /// The row of a block whose numbers become arrivals when `base` is added.
    pub(super) fn of(id: i64, block: &Block, base: u64, digest: &mut Digest) -> Self {
        let arrival = |number: u64| base.wrapping_add(number);
        let mut row = Self {
            id,
            level: block.level,
            times: block.times,
            sequences: (arrival(block.numbers.0), arrival(block.numbers.1)),
            tenants: block.tenants.clone(),
            events: block.events,
            packed: block.packed,
            bytes: block.data.len() as u64,
            checksum: block.checksum,
            digest: 0,
        };
        row.digest = row.digest_of(digest);
        row
    }

    /// Whether it may hold events of `tenant`.
    pub(in crate::store::embedded) fn may_hold(&self, tenant: &str) -> bool {
        self.tenants.0.as_str() <= tenant && tenant <= self.tenants.1.as_str()
    }

    /// Reads [`COLUMNS`] and checks them.
    pub(in crate::store::embedded) fn read(
        row: &rusqlite::Row<'_>,
        digest: &mut Digest,
    ) -> Result<Self, Fault> {
        let found = Self {
            id: row.get(0)?,
            level: row.get(1)?,
            times: (row.get(2)?, row.get(3)?),
            sequences: (
                row.get::<_, i64>(4)?.cast_unsigned(),
                row.get::<_, i64>(5)?.cast_unsigned(),
            ),
            tenants: (row.get(6)?, row.get(7)?),
            events: row.get(8)?,
            packed: row.get(9)?,
            bytes: row.get::<_, i64>(10)?.cast_unsigned(),
            checksum: row.get::<_, i64>(11)?.cast_unsigned(),
            digest: row.get(12)?,
        };
        if found.digest == found.digest_of(digest) {
            Ok(found)
        } else {
            Err(super::damaged(
                found.id,
                "has a row that is not what was written",
            ))
        }
    }

    /// The row of a block.
    pub(super) fn find(
        db: &Connection,
        id: i64,
        digest: &mut Digest,
    ) -> Result<Option<Self>, Fault> {
        db.prepare_cached(&format!("SELECT {COLUMNS} FROM block WHERE id = ?1"))?
            .query([id])?
            .next()?
            .map(|row| Self::read(row, digest))
            .transpose()
    }

    /// Writes it.
    pub(super) fn insert(&self, db: &Connection) -> Result<(), Fault> {
        db.prepare_cached(&format!(
            "INSERT INTO block ({COLUMNS})
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)"
        ))?
        .execute(params![
            self.id,
            self.level,
            self.times.0,
            self.times.1,
            self.sequences.0.cast_signed(),
            self.sequences.1.cast_signed(),
            self.tenants.0,
            self.tenants.1,
            self.events,
            self.packed,
            self.bytes.cast_signed(),
            self.checksum.cast_signed(),
            self.digest
        ])?;
        Ok(())
    }

    fn digest_of(&self, digest: &mut Digest) -> i64 {
        digest
            .row("block")
            .int(self.id)
            .int(i64::from(self.level))
            .int(self.times.0)
            .int(self.times.1)
            .int(self.sequences.0.cast_signed())
            .int(self.sequences.1.cast_signed())
            .bytes(self.tenants.0.as_bytes())
            .bytes(self.tenants.1.as_bytes())
            .int(i64::from(self.events))
            .int(i64::from(self.packed))
            .int(self.bytes.cast_signed())
            .int(self.checksum.cast_signed())
            .finish()
    }
}
