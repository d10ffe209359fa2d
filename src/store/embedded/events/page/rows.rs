//! The blocks that a scan has to read.

use rusqlite::Connection;

use super::candidates::{Candidates, Frontier, Window, statements};
use crate::model::event::{Order, ScanQuery};
use crate::store::embedded::events::block::Row;
use crate::store::embedded::fault::Fault;

/// What a block costs at least, in events: finding and opening it takes as long as reading these.
const LEAST_COST: u64 = 64;

/// How many compressed bytes cost what an event does.
const BYTES: u64 = 256;

/// The rows of the blocks that may hold events that `query` means. `None` if they cost more than
/// `limit`.
pub(in crate::store::embedded::events) fn rows_of(
    db: &Connection,
    query: &ScanQuery,
    limit: u64,
) -> Result<Option<Vec<Row>>, Fault> {
    let window = Window {
        low: query.from.map_or(i64::MIN, |from| from.micros.as_micros()),
        high: query.to.map_or(i64::MAX, |to| to.micros.as_micros()),
        order: Order::Ascending,
    };
    let tenant = query.tenant.as_deref();
    let wanted = |row: &Row| tenant.is_none_or(|tenant| row.may_hold(tenant));
    let mut statements = statements(db, &window)?;
    let mut candidates = Candidates::new(&mut statements, window)?;
    let (mut rows, mut cost) = (Vec::new(), 0_u64);
    while let Frontier::Block(_) = candidates.frontier(usize::MAX, wanted)? {
        let Some(row) = candidates.take() else { break };
        cost = cost.saturating_add(cost_of(&row));
        if cost > limit {
            return Ok(None);
        }
        rows.push(row);
    }
    Ok(Some(rows))
}

/// What reading a block costs, in events.
fn cost_of(row: &Row) -> u64 {
    u64::from(row.events).max(row.bytes / BYTES).max(LEAST_COST)
}
