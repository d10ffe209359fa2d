//! The topics that there are, as this node has read them.

use std::collections::BTreeSet;

use parking_lot::RwLock;

use super::super::connect::{Session, fault};
use super::escape::unescape;
use crate::store::error::StoreError;

/// All of them: there are few, and none ever goes.
#[derive(Default)]
pub(in crate::store::postgres) struct Topics(RwLock<BTreeSet<String>>);

impl Topics {
    /// In order of name.
    pub(super) fn list(&self) -> Vec<String> {
        self.0.read().iter().cloned().collect()
    }

    /// Whether it is known, or there are as many as are listed.
    pub(super) fn is_listed(&self, topic: &str, most: usize) -> bool {
        let known = self.0.read();
        known.contains(topic) || known.len() >= most
    }

    /// Reads the new ones, where there are so many by now.
    pub(in crate::store::postgres) async fn learn(
        &self,
        session: &Session,
        count: u64,
    ) -> Result<(), StoreError> {
        let known = self.0.read().len() as u64;
        if known >= count {
            return Ok(());
        }
        let damaged = || StoreError::Damaged(format!("of {count} topics some are gone"));
        let failed = |error: tokio_postgres::Error| fault(&error);
        let rows = session
            .query(
                "SELECT name FROM topic WHERE number > $1 AND number <= $2",
                &[&known.cast_signed(), &count.cast_signed()],
            )
            .await
            .map_err(failed)?;
        if rows.len() as u64 != count - known {
            return Err(damaged());
        }
        let mut names = Vec::with_capacity(rows.len());
        for row in &rows {
            let name: &str = row.try_get(0).map_err(failed)?;
            names.push(unescape(name).ok_or_else(damaged)?.into_owned());
        }
        self.0.write().extend(names);
        Ok(())
    }
}
