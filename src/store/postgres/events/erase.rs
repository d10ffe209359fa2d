//! Removing events. Their identities and facts stay, and what answers need to know of them.
//!
//! A chunk is *picked*, then removed. Erasures may meet: what another one removes first is picked and
//! is gone once it has committed. So a partition is done when few were picked, not when few were removed.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Error, Row};
use uuid::Uuid;

use super::super::Postgres;
use super::super::connect::{Session, fault};
use super::super::rows::count;
use super::super::time::At;
use super::escape::unescape;
use super::parts::parts_of;
use super::row::{IS_MEANT, Meant, Parameter};
use crate::model::event::{EventFilter, Sequence};
use crate::rollups::UserKey;
use crate::store::Term;
use crate::store::error::StoreError;
use crate::store::identity::Key;

/// How many erasures run at once on a node: each has a connection of its own.
const RUNNING: usize = 2;

/// How long an erasure waits for others.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many events are picked for one transaction.
const CHUNK: i64 = 10_000;

/// How often a transaction is made again that met another one.
const ATTEMPTS: usize = 4;

/// Counts them as well: both or neither.
const REMAINS: &str = "WITH told AS (UPDATE event_head SET erased = erased + cardinality($1))
    INSERT INTO erased (time, nanos, tenant, source, type, user_hash, sequence, identity)
    SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8)";

/// Refuses a leader that was deposed, and holds the row of `head` until the commit, as all its writes do.
const IN_TERM: &str = "SELECT FROM advance(0, 0, $1)";

/// What bounds the erasures of a node.
pub(super) struct Erasures {
    turns: Semaphore,
    patience: Duration,
}

impl Default for Erasures {
    fn default() -> Self {
        Self {
            turns: Semaphore::new(RUNNING),
            patience: PATIENCE,
        }
    }
}

impl Erasures {
    /// Waits for its turn.
    async fn begin(&self) -> Result<SemaphorePermit<'_>, StoreError> {
        let turn = timeout(self.patience, self.turns.acquire()).await;
        let turn = turn.map_err(|_| StoreError::Busy)?;
        turn.map_err(|_| StoreError::Closed)
    }

    pub(super) fn close(&self) {
        self.turns.close();
    }
}

impl Postgres {
    /// Removes what is meant up to the arrival `last`; with a term, only as long as it lasts.
    pub(in crate::store) async fn erase(
        &self,
        term: Option<Term>,
        filter: EventFilter,
        last: Sequence,
    ) -> Result<u64, StoreError> {
        let _turn = self.events.erasures.begin().await?;
        // A connection of its own: a transaction that does not end well ends with it.
        let mut session = self.events.server.connect_to_write().await?;
        let erasure = Erasure {
            meant: Meant::of(&filter),
            last: i64::try_from(last.0).unwrap_or(i64::MAX),
            epoch: term.map(|term| term.0),
            key: self.events.shared.key,
            user_key: self.events.shared.user_key,
        };
        let (mut erased, mut attempts) = (0, ATTEMPTS);
        for part in parts_of(&session, &filter).await? {
            loop {
                match erasure.chunk(&session, &part.name).await {
                    Ok(Chunk { picked, gone }) => {
                        erased += gone;
                        if picked < CHUNK {
                            break;
                        }
                    }
                    Err(error)
                        if attempts > 0
                            && error.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED) =>
                    {
                        attempts -= 1;
                        session = self.events.server.connect_to_write().await?;
                    }
                    Err(error) => return Err(fault(&error)),
                }
            }
        }
        if erased > 0 {
            // Who is not told looks all the same.
            let _told = session.batch_execute("NOTIFY tollgate").await;
            self.sight.now().await?;
        }
        Ok(erased.cast_unsigned())
    }
}

/// What goes, and under which keys what remains of it is hashed.
struct Erasure {
    meant: Meant,
    last: i64,
    epoch: Option<i64>,
    key: Key,
    user_key: UserKey,
}

/// What became of a chunk.
struct Chunk {
    /// How many events were there to be removed.
    picked: i64,
    /// How many of them were, by this transaction.
    gone: i64,
}

impl Erasure {
    /// Removes some events of a partition, and keeps what remains of them in the same transaction.
    async fn chunk(&self, session: &Session, part: &str) -> Result<Chunk, Error> {
        // A part may be many tables, in each of which a place (`ctid`) is that of a row: so what goes is
        // asked for once more. Rows are removed in their order, that two erasures don't hold up each other.
        let sql = format!(
            "WITH picked AS MATERIALIZED (
                 SELECT ctid AS place FROM {part}
                 WHERE sequence <= $10::bigint AND {IS_MEANT}
                 ORDER BY tableoid, ctid LIMIT $11::bigint),
             gone AS (
                 DELETE FROM {part} WHERE ctid = ANY (ARRAY (SELECT place FROM picked))
                     AND sequence <= $10::bigint AND {IS_MEANT}
                 RETURNING time, nanos, tenant, source, type, user_id, sequence, topic, id)
             SELECT number, gone.* FROM (SELECT count(*) AS number FROM picked) AS picked
                 LEFT JOIN gone ON true"
        );
        let mut parameters = self.meant.parameters();
        parameters.push((&self.last, Type::INT8));
        parameters.push((&CHUNK, Type::INT8));
        session.batch_execute("BEGIN").await?;
        let rows = session.query_typed(&sql, &parameters).await?;
        let picked = rows.first().map_or(Ok(0), |row| row.try_get(0))?;
        let mut remains = Remains::default();
        for row in &rows {
            // One row says how many were picked where none was removed.
            if row.try_get::<_, Option<i64>>(SEQUENCE)?.is_some() {
                remains.add(row, self)?;
            }
        }
        let gone = count(remains.sequence.len());
        if gone > 0 {
            remains.keep(session).await?;
            if let Some(epoch) = &self.epoch {
                // The last statement: whoever writes jobs waits for this row.
                session
                    .execute_typed(IN_TERM, &[(epoch, Type::INT8)])
                    .await?;
            }
        }
        session.batch_execute("COMMIT").await?;
        Ok(Chunk { picked, gone })
    }
}

/// Which column of a removed event is its arrival.
const SEQUENCE: usize = 7;

/// The columns of the table `erased`.
#[derive(Default)]
struct Remains {
    time: Vec<At>,
    nanos: Vec<i16>,
    tenant: Vec<String>,
    source: Vec<Option<String>>,
    event_type: Vec<Option<String>>,
    user: Vec<Option<Uuid>>,
    sequence: Vec<i64>,
    identity: Vec<Uuid>,
}

impl Remains {
    /// Adds what remains of a removed event.
    fn add(&mut self, row: &Row, erasure: &Erasure) -> Result<(), Error> {
        let (tenant, user): (&str, Option<&str>) = (row.try_get(3)?, row.try_get(6)?);
        let (topic, id): (&str, &str) = (row.try_get(8)?, row.try_get(9)?);
        let plain = |text| unescape(text).unwrap_or_default();
        let identity = erasure
            .key
            .identity(&plain(tenant), &plain(topic), &plain(id));
        let hash = user.map(|user| erasure.user_key.hash(&plain(tenant), &plain(user)));
        self.time.push(row.try_get(1)?);
        self.nanos.push(row.try_get(2)?);
        self.tenant.push(tenant.to_owned());
        self.source.push(row.try_get(4)?);
        self.event_type.push(row.try_get(5)?);
        self.user.push(hash.map(Uuid::from_u128));
        self.sequence.push(row.try_get(SEQUENCE)?);
        self.identity.push(Uuid::from_u128(identity));
        Ok(())
    }

    async fn keep(&self, session: &Session) -> Result<(), Error> {
        let columns: [Parameter<'_>; 8] = [
            (&self.time, Type::TIMESTAMPTZ_ARRAY),
            (&self.nanos, Type::INT2_ARRAY),
            (&self.tenant, Type::TEXT_ARRAY),
            (&self.source, Type::TEXT_ARRAY),
            (&self.event_type, Type::TEXT_ARRAY),
            (&self.user, Type::UUID_ARRAY),
            (&self.sequence, Type::INT8_ARRAY),
            (&self.identity, Type::UUID_ARRAY),
        ];
        session.execute_typed(REMAINS, &columns).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn two_erasures_run_and_a_third_waits_so_long_only() {
        let erasures = Erasures {
            patience: Duration::ZERO,
            ..Erasures::default()
        };
        let (first, second) = (erasures.begin().await, erasures.begin().await);
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(erasures.begin().await.map(drop), Err(StoreError::Busy));
        drop(first);
        let third = erasures.begin().await;
        assert!(third.is_ok());
        assert_eq!(erasures.begin().await.map(drop), Err(StoreError::Busy));
        erasures.close();
        assert_eq!(erasures.begin().await.map(drop), Err(StoreError::Closed));
    }
}
