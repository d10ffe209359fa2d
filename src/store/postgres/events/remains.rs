//! What remains of erased events: the rows of table `erased`.

use tokio_postgres::Row;
use uuid::Uuid;

use super::super::connect::fault;
use super::escape::unescape;
use super::row::time;
use crate::model::event::{Event, Sequence};
use crate::store::error::StoreError;
use crate::store::identity::Identity;

/// The columns that [`remains`] reads.
pub(in crate::store::postgres) const REMAINS: &str =
    "time, nanos, tenant, source, type, user_hash, sequence, identity";

/// An erased event.
pub(in crate::store::postgres) struct Remains {
    /// What is left of it.
    pub(in crate::store::postgres) event: Event<'static>,
    /// The hash of its user.
    pub(in crate::store::postgres) user: Option<u128>,
    /// Unknown of one that was erased by a version that didn't keep it; its identity, too.
    pub(in crate::store::postgres) sequence: Option<Sequence>,
    pub(in crate::store::postgres) identity: Option<Identity>,
}

/// Reads [`REMAINS`].
pub(in crate::store::postgres) fn remains(row: &Row) -> Result<Remains, StoreError> {
    let failed = |error: tokio_postgres::Error| fault(&error);
    let damaged = || StoreError::Damaged("a row of table erased is not one of ours".to_owned());
    let text = |column: usize| {
        let text: Option<&str> = row.try_get(column).map_err(failed)?;
        let plain = text.map(|text| unescape(text).ok_or_else(damaged));
        Ok::<_, StoreError>(plain.transpose()?.map(|text| text.into_owned().into()))
    };
    let (user, identity): (Option<Uuid>, Option<Uuid>) = (
        row.try_get(5).map_err(failed)?,
        row.try_get(7).map_err(failed)?,
    );
    let sequence: Option<i64> = row.try_get(6).map_err(failed)?;
    Ok(Remains {
        event: Event {
            tenant: text(2)?.ok_or_else(damaged)?,
            topic: "".into(),
            id: "".into(),
            time: time(row, 0)?,
            source: text(3)?,
            event_type: text(4)?,
            user: None,
            payload: "".into(),
            extra: "".into(),
        },
        user: user.map(|user| user.as_u128()),
        sequence: sequence.map(|sequence| Sequence(sequence.cast_unsigned())),
        identity: identity.map(|identity| identity.as_u128()),
    })
}
