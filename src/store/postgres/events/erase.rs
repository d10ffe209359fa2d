//! Removing events. Their identities and facts stay, and what answers need to know of them.

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
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
use crate::store::error::StoreError;
use crate::store::identity::Key;

/// How many go in one transaction.
const CHUNK: i64 = 10_000;

/// How often a transaction is made again that met another one.
const ATTEMPTS: usize = 4;

/// Counts them as well: both or neither.
const REMAINS: &str = "WITH told AS (UPDATE event_head SET erased = erased + cardinality($1))
    INSERT INTO erased (time, nanos, tenant, source, type, user_hash, sequence, identity)
    SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8)";

impl Postgres {
    pub(in crate::store) async fn erase(
        &self,
        filter: EventFilter,
        last: Sequence,
    ) -> Result<u64, StoreError> {
        // A connection of its own: a transaction that does not end well ends with it.
        let mut session = self.events.server.connect_to_write().await?;
        let meant = Meant::of(&filter);
        let last = i64::try_from(last.0).unwrap_or(i64::MAX);
        let (mut erased, mut attempts) = (0, ATTEMPTS);
        for part in parts_of(&session, &filter).await? {
            loop {
                let keys = (self.events.shared.key, self.events.shared.user_key);
                match chunk(&session, &part.name, &meant, last, keys).await {
                    Ok(gone) => {
                        erased += gone;
                        if gone < CHUNK {
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
            let told = session.batch_execute("NOTIFY tollgate").await;
            told.map_err(|error| fault(&error))?;
            self.sight.now().await?;
        }
        Ok(erased.cast_unsigned())
    }
}

/// Removes some events of a partition, and keeps what remains of them in the same transaction.
async fn chunk(
    session: &Session,
    part: &str,
    meant: &Meant,
    last: i64,
    (key, user_key): (Key, UserKey),
) -> Result<i64, Error> {
    let sql = format!(
        "DELETE FROM {part} WHERE ctid = ANY(ARRAY(
             SELECT ctid FROM {part} WHERE sequence <= $10::bigint AND {IS_MEANT}
             ORDER BY ctid LIMIT $11::bigint))
         RETURNING time, nanos, tenant, source, type, user_id, sequence, topic, id"
    );
    let mut parameters = meant.parameters();
    parameters.push((&last, Type::INT8));
    parameters.push((&CHUNK, Type::INT8));
    session.batch_execute("BEGIN").await?;
    let gone = session.query_typed(&sql, &parameters).await?;
    let mut columns = Remains::default();
    for row in &gone {
        let (tenant, user): (&str, Option<&str>) = (row.try_get(2)?, row.try_get(5)?);
        columns.time.push(row.try_get(0)?);
        columns.nanos.push(row.try_get(1)?);
        columns.source.push(row.try_get(3)?);
        columns.event_type.push(row.try_get(4)?);
        let (topic, id): (&str, &str) = (row.try_get(7)?, row.try_get(8)?);
        columns.sequence.push(row.try_get(6)?);
        let plain = |text| unescape(text).unwrap_or_default();
        let identity = key.identity(&plain(tenant), &plain(topic), &plain(id));
        columns.identity.push(Uuid::from_u128(identity));
        let hash = user.map(|user| user_key.hash(&plain(tenant), &plain(user)));
        columns.user.push(hash.map(Uuid::from_u128));
        columns.tenant.push(tenant.to_owned());
    }
    if !gone.is_empty() {
        columns.keep(session).await?;
    }
    session.batch_execute("COMMIT").await?;
    Ok(count(gone.len()))
}

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
