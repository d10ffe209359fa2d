//! Which rows of what remains have events of a time: a small row beside each, by its last time.

use std::ops::ControlFlow;

use rusqlite::{Connection, params};

use super::super::super::codec::Digest;
use super::super::super::fault::Fault;
use super::super::super::meta::{Meta, Table, Tally};
use crate::model::event::ScanQuery;

/// What a row costs to read at least, in events.
const LEAST_COST: u64 = 64;

/// What a row of what remains spans.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::store::embedded::events) struct Span {
    /// The id of that row.
    pub(in crate::store::embedded::events) id: i64,
    /// Least and greatest time, in microseconds.
    pub(in crate::store::embedded::events) times: (i64, i64),
    /// Least and greatest tenant; `None` if nobody knows whose they were.
    pub(super) tenants: Option<(String, String)>,
    pub(super) events: u32,
}

impl Span {
    /// What reading its row costs, in events.
    pub(in crate::store::embedded::events) fn cost(&self) -> u64 {
        u64::from(self.events).max(LEAST_COST)
    }

    fn may_hold(&self, tenant: &str) -> bool {
        let within =
            |(first, last): &(String, String)| (first.as_str()..=last.as_str()).contains(&tenant);
        self.tenants.as_ref().is_none_or(within)
    }

    pub(super) fn insert(
        &self,
        db: &Connection,
        meta: &mut Meta,
        digest: &mut Digest,
    ) -> Result<(), Fault> {
        let sum = self.digest_of(digest);
        let (first, last) = self.tenants.as_ref().map(|it| (&it.0, &it.1)).unzip();
        db.prepare_cached(
            "INSERT INTO spent_span
                 (last_time, id, first_time, first_tenant, last_tenant, events, digest)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            self.times.1,
            self.id,
            self.times.0,
            first,
            last,
            self.events,
            sum
        ])?;
        meta.tally(Table::SpentSpan).add(sum);
        Ok(())
    }

    /// Reads all columns and checks them; also returns their digest.
    fn read(row: &rusqlite::Row<'_>, digest: &mut Digest) -> Result<(Self, i64), Fault> {
        let first: Option<String> = row.get(3)?;
        let span = Self {
            id: row.get(1)?,
            times: (row.get(2)?, row.get(0)?),
            tenants: first.zip(row.get(4)?),
            events: row.get(5)?,
        };
        let written = row.get(6)?;
        if span.digest_of(digest) == written {
            Ok((span, written))
        } else {
            let sentence = format!(
                "row {} of table spent_span is not what was written",
                span.id
            );
            Err(Fault::Damaged(sentence))
        }
    }

    fn digest_of(&self, digest: &mut Digest) -> i64 {
        let (first, last) = self.tenants.as_ref().map(|it| (&it.0, &it.1)).unzip();
        digest
            .row("spent_span")
            .int(self.id)
            .int(self.times.0)
            .int(self.times.1)
            .opt_bytes(first.map(String::as_bytes))
            .opt_bytes(last.map(String::as_bytes))
            .int(i64::from(self.events))
            .finish()
    }
}

const COLUMNS: &str = "last_time, id, first_time, first_tenant, last_tenant, events, digest";

/// Calls `each` with the spans that may hold events that `query` means, the last time first, until it
/// breaks.
pub(in crate::store::embedded::events) fn each_of(
    db: &Connection,
    query: &ScanQuery,
    mut each: impl FnMut(Span) -> Result<ControlFlow<()>, Fault>,
) -> Result<(), Fault> {
    let from = query.from.map_or(i64::MIN, |from| from.micros.as_micros());
    let to = query.to.map_or(i64::MAX, |to| to.micros.as_micros());
    let mut digest = Digest::default();
    let mut statement = db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM spent_span WHERE last_time >= ?1 AND first_time <= ?2
         ORDER BY last_time DESC, id DESC"
    ))?;
    let mut rows = statement.query([from, to])?;
    while let Some(row) = rows.next()? {
        let (span, _) = Span::read(row, &mut digest)?;
        let tenant = query.tenant.as_deref();
        if tenant.is_none_or(|tenant| span.may_hold(tenant)) && each(span)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// The spans that may hold events that `query` means; `None` if reading their rows costs more than
/// its limit.
pub(in crate::store::embedded::events) fn all_of(
    db: &Connection,
    query: &ScanQuery,
) -> Result<Option<Vec<Span>>, Fault> {
    let (mut found, mut cost) = (Vec::new(), 0_u64);
    each_of(db, query, |span| {
        cost = cost.saturating_add(span.cost());
        if cost > query.limit {
            return Ok(ControlFlow::Break(()));
        }
        found.push(span);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok((cost <= query.limit).then_some(found))
}

/// Compares the rows and their order with what was written: a scan relies on both.
pub(in crate::store::embedded::events) fn check(db: &Connection, meta: &Meta) -> Result<(), Fault> {
    let (mut found, mut digest) = (Tally::default(), Digest::default());
    let mut previous = None;
    let mut statement = db.prepare(&format!(
        "SELECT {COLUMNS} FROM spent_span ORDER BY last_time, id"
    ))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (span, written) = Span::read(row, &mut digest)?;
        let place = (span.times.1, span.id);
        if previous
            .replace(place)
            .is_some_and(|before| before >= place)
        {
            let sentence = "the rows of table spent_span are out of order";
            return Err(Fault::Damaged(sentence.to_owned()));
        }
        found.add(written);
    }
    meta.check(Table::SpentSpan, found)
}
