//! What the rollups have not been fed, read from the blocks and from what remains of erased events.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::events::page::blocks_after;
use super::events::spent;
use super::fault::Fault;
use super::meta::{Meta, TABLES};
use super::schema::{self, DATABASE};
use crate::model::event::Sequence;
use crate::rollups::{Facts, UserKey};
use crate::store::error::StoreError;
use crate::store::identity::Key;
use crate::store::rollups::{Counting, Source};

/// The database.
pub(super) struct Blocks {
    path: PathBuf,
    user_key: UserKey,
}

impl Blocks {
    pub(super) fn new(dir: &Path, key: Key) -> Self {
        Self {
            path: dir.join(DATABASE),
            user_key: key.of_users(),
        }
    }

    fn try_read(
        &self,
        covers: Sequence,
        counting: &mut Counting<'_>,
    ) -> Result<Option<Sequence>, Fault> {
        let db = schema::open_reader(&self.path)?;
        let db = db.unchecked_transaction()?;
        let last = blocks_after(&db, covers, |events| {
            if counting.is_stopped() {
                return ControlFlow::Break(());
            }
            let events = events.iter().map(|(_, event)| event);
            counting.add(&Facts::of(self.user_key, events));
            ControlFlow::Continue(())
        })?;
        if last.is_some() {
            let meta = Meta::load(&db, TABLES)?;
            spent::facts_after(&db, &meta, covers, |_, facts| counting.add(facts))?;
        }
        Ok(last)
    }
}

impl Source for Blocks {
    fn read_after(
        &mut self,
        covers: Sequence,
        counting: &mut Counting<'_>,
    ) -> Result<Option<Sequence>, StoreError> {
        let read = self.try_read(covers, counting);
        read.map_err(Fault::into_store_error)
    }
}

#[cfg(test)]
pub(super) mod tests;
