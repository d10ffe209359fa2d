//! Which messages of the bus were committed.

use tokio_postgres::{Client, Row, Statement};

use super::super::Postgres;
use super::super::connect::fault;
use crate::model::bus::MessageName;
use crate::store::error::StoreError;

/// The most rows that are removed at once.
const MAX_FORGOTTEN: i64 = 1024;

/// Takes names in a transaction that holds the row of `event_head`; an error if one was taken before.
pub(super) async fn take(
    client: &Client,
    statement: &Statement,
    names: &[MessageName],
) -> Result<(), tokio_postgres::Error> {
    if names.is_empty() {
        return Ok(());
    }
    let (places, published) = columns(names);
    client
        .execute(statement, &[&places, &published])
        .await
        .map(drop)
}

/// Names as the database takes them: places and times.
pub(in crate::store::postgres) fn columns(names: &[MessageName]) -> (Vec<i64>, Vec<i64>) {
    let columns = names
        .iter()
        .map(|name| (name.place.cast_signed(), name.published));
    columns.unzip()
}

/// Reads a place and a time.
pub(in crate::store::postgres) fn name(row: &Row) -> Result<MessageName, tokio_postgres::Error> {
    Ok(MessageName {
        place: row.try_get::<_, i64>(0)?.cast_unsigned(),
        published: row.try_get(1)?,
    })
}

impl Postgres {
    pub(in crate::store) async fn known_messages(
        &self,
        names: Vec<MessageName>,
    ) -> Result<Vec<MessageName>, StoreError> {
        let failed = |error: tokio_postgres::Error| fault(&error);
        let (places, published) = columns(&names);
        let reader = self.readers.get().await?;
        let session = reader.session()?;
        let rows = session
            .query(
                "SELECT place, published FROM known_messages($1, $2)",
                &[&places, &published],
            )
            .await
            .map_err(failed)?;
        let known: Result<_, _> = rows.iter().map(name).collect();
        known.map_err(failed)
    }

    pub(in crate::store) async fn forget_messages(&self, before: u64) -> Result<u64, StoreError> {
        let before = before.cast_signed();
        let reader = self.readers.get().await?;
        let session = reader.session()?;
        let gone = session
            .execute(
                "DELETE FROM message WHERE ctid = ANY (ARRAY (
                     SELECT ctid FROM message WHERE stretch < $1 ORDER BY stretch LIMIT $2))",
                &[&before, &MAX_FORGOTTEN],
            )
            .await;
        gone.map_err(|error| fault(&error))
    }
}
