use super::super::fault::Fault;
use crate::model::event::*;
use rusqlite::Connection;
pub(super) fn page(db: &Connection, query: &PageQuery) -> Result<EventPage, Fault> {
    let _ = (db, query);
    todo!()
}
pub(super) fn since(
    db: &Connection,
    after: Sequence,
    filter: &EventFilter,
    limit: usize,
) -> Result<(Vec<StoredEvent>, Sequence), Fault> {
    let _ = (db, after, filter, limit);
    todo!()
}
pub(super) fn at(
    db: &Connection,
    time: i64,
    tenant: &str,
    topic: &str,
    id: &str,
) -> Result<Option<StoredEvent>, Fault> {
    let _ = (db, time, tenant, topic, id);
    todo!()
}
pub(super) fn each_after(
    db: &Connection,
    after: Sequence,
    each: impl FnMut(&Event<'_>, Sequence),
) -> Result<(), Fault> {
    let _ = (db, after, each);
    todo!()
}
