//! What the rollups have not been fed, read from the table `fact`.

use std::pin::pin;
use std::time::Duration;

use futures_util::TryStreamExt;
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};
use tokio_postgres::types::Type;

use super::super::connect::{Session, fault, silent};
use super::replica::Origin;
use crate::model::event::Sequence;
use crate::rollups::Facts;
use crate::store::error::StoreError;
use crate::store::rollups::{Counting, Source};

/// How many rows are read at once.
const CHUNK: i64 = 64;

/// How long a chunk may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long until it is looked whether the store is closing: a server that hangs must not hold that up.
const LOOK: Duration = Duration::from_millis(100);

/// The database, or a replica of it. What a replica doesn't have yet is read later.
pub(super) struct FactRows {
    origin: Origin,
    /// Of the thread that reads.
    runtime: Runtime,
    session: Option<Session>,
}

impl FactRows {
    pub(super) fn new(origin: Origin) -> std::io::Result<Self> {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        Ok(Self {
            origin,
            runtime: runtime.enable_all().build()?,
            session: None,
        })
    }
}

impl Source for FactRows {
    fn read_after(
        &mut self,
        covers: Sequence,
        counting: &mut Counting<'_>,
    ) -> Result<Option<Sequence>, StoreError> {
        let Self {
            origin,
            runtime,
            session,
        } = self;
        let read = runtime.block_on(async {
            let stopping: &Counting<'_> = counting;
            tokio::select! {
                read = read_all(origin, session, covers, stopping) => read.map(Some),
                () = stopped(stopping) => Ok(None),
            }
        });
        if !matches!(read, Ok(Some(_))) {
            self.session = None;
        }
        read
    }
}

/// Counts everything behind `covers` that there is; returns up to where that is.
async fn read_all(
    origin: &Origin,
    session: &mut Option<Session>,
    covers: Sequence,
    counting: &Counting<'_>,
) -> Result<Sequence, StoreError> {
    if session.as_ref().is_none_or(|session| session.is_closed()) {
        *session = Some(origin.connect().await?);
    }
    let open = session.as_ref().ok_or(StoreError::Closed)?;
    let mut covered = covers;
    loop {
        let chunk = chunk_after(open, covered, |facts, last| counting.fold(facts, last));
        let chunk = timeout(PATIENCE, chunk).await;
        let chunk = chunk.unwrap_or_else(|_| Err(silent()));
        match chunk.map_err(|error| origin.named(error))? {
            Some(last) => covered = last,
            None => return Ok(covered),
        }
    }
}

/// Returns once the store is closing.
async fn stopped(counting: &Counting<'_>) {
    while !counting.is_stopped() {
        sleep(LOOK).await;
    }
}

/// Calls `each` with the facts behind `covered`, in order, each time with the last arrival; returns the
/// last of all. `None` if there are none.
pub(in crate::store::postgres) async fn chunk_after(
    session: &Session,
    covered: Sequence,
    mut each: impl FnMut(&Facts, Sequence),
) -> Result<Option<Sequence>, StoreError> {
    let failed = |error: tokio_postgres::Error| fault(&error);
    let after = covered.0.cast_signed();
    let rows = session
        .query_typed_raw(
            "SELECT first, last, facts FROM fact WHERE last > $1 ORDER BY last LIMIT $2",
            [(&after, Type::INT8), (&CHUNK, Type::INT8)],
        )
        .await
        .map_err(failed)?;
    let mut rows = pin!(rows);
    let mut found = after;
    while let Some(row) = rows.try_next().await.map_err(failed)? {
        let (first, last): (i64, i64) = (
            row.try_get(0).map_err(failed)?,
            row.try_get(1).map_err(failed)?,
        );
        let facts = Facts::decode(row.try_get(2).map_err(failed)?);
        let facts = facts.filter(|facts| facts.len() as u64 == last.abs_diff(first) + 1);
        // What is covered ends where a row does.
        match facts {
            Some(facts) if first == found + 1 && last >= first => {
                each(&facts, Sequence(last.cast_unsigned()));
            }
            _ => {
                let expected = found + 1;
                return Err(StoreError::Damaged(format!(
                    "what is known of event {expected} is not what was written to table fact"
                )));
            }
        }
        found = last;
    }
    Ok((found > after).then_some(Sequence(found.cast_unsigned())))
}
