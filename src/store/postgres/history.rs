//! Which of its histories the database is in.
//!
//! What a node has in memory it has read from the database, which never takes back what it has committed,
//! unless it is no longer the same: a standby took its place and lacks what had not reached it, or it was
//! restored as of an earlier moment. PostgreSQL numbers what begins then as a new
//! [timeline](https://www.postgresql.org/docs/15/continuous-archiving.html#BACKUP-TIMELINES). A node of
//! another one can't tell what of all it knows is still true: it ends, and a new start reads everything
//! anew.

use std::sync::{Arc, OnceLock};

use tokio_postgres::Client;

use super::connect::fault;
use crate::store::error::StoreError;

/// A standby is refused by this: it has no place to write.
const READ: &str = "SELECT system_identifier::text, left(pg_walfile_name(pg_current_wal_lsn()), 8)
    FROM pg_control_system()";

/// One of them, that of the first connection.
#[derive(Clone, Debug, Default)]
pub(super) struct History(Arc<OnceLock<String>>);

impl History {
    /// Refuses a connection to another one, for good.
    pub(super) async fn check(&self, client: &Client) -> Result<(), StoreError> {
        let failed = |error: tokio_postgres::Error| fault(&error);
        let row = client.query_typed_one(READ, &[]).await.map_err(failed)?;
        let (system, timeline): (&str, &str) = (
            row.try_get(0).map_err(failed)?,
            row.try_get(1).map_err(failed)?,
        );
        let found = format!("{system}/{timeline}");
        if *self.0.get_or_init(|| found.clone()) == found {
            return Ok(());
        }
        Err(StoreError::Failed(
            "the database has another history than at the start: a standby took its place, or it was \
             restored"
                .to_owned(),
        ))
    }

    /// Its name, once there was a connection.
    pub(super) fn name(&self) -> &str {
        self.0.get().map_or("", String::as_str)
    }
}
