use super::super::fault::Fault;
use super::block::Block;
use crate::model::event::*;
use rusqlite::Connection;
pub(super) fn plan(db: &Connection, before: Sequence) -> Result<Option<Vec<i64>>, Fault> {
    let _ = (db, before);
    todo!()
}
pub(super) fn merge(db: &Connection, ids: &[i64]) -> Result<Vec<Block>, Fault> {
    let _ = (db, ids);
    todo!()
}
