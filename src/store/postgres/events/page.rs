//! Events in the order of (time, arrival), and one by its identity.
//!
//! A page goes through the partitions in the order of time, until it is full: each is asked for what
//! is still missing, and for one more, which tells that there is more.

use tokio_postgres::types::Type;
use uuid::Uuid;

use super::super::Postgres;
use super::super::connect::{Session, fault};
use super::super::time::At;
use super::parts::{Part, parts_between, parts_of};
use super::row::{BYTES, COLUMNS, IS_MEANT, Meant, Parameter, event};
use crate::model::event::{EventFilter, EventPage, Order, PageQuery, Place, StoredEvent};
use crate::store::error::StoreError;

/// How many bytes the events of a page may have together; one larger event is a page alone.
const MAX_BYTES: i64 = 32 << 20;

/// A page in the making.
struct Walk<'q> {
    query: &'q PageQuery,
    meant: Meant,
    events: Vec<StoredEvent>,
    /// How many are still to be left out.
    skip: i64,
    /// How many bytes still fit.
    left: i64,
}

impl Postgres {
    pub(in crate::store) async fn page(&self, query: PageQuery) -> Result<EventPage, StoreError> {
        let reader = self.pages.get().await?;
        let session = reader.session()?;
        let mut parts = parts_of(session, &within(&query)).await?;
        if query.order == Order::Descending {
            parts.reverse();
        }
        let mut walk = Walk {
            meant: Meant::of(&query.filter),
            events: Vec::new(),
            skip: i64::try_from(query.skip).unwrap_or(i64::MAX),
            left: MAX_BYTES,
            query: &query,
        };
        let mut more = false;
        for part in &parts {
            if walk.skip > 0 && walk.passes(session, part).await? {
                continue;
            }
            more = walk.read(session, part).await?;
            if more {
                break;
            }
        }
        let next = walk.events.last().filter(|_| more).map(|last| Place {
            time: last.event.time,
            sequence: last.sequence,
        });
        let events = walk.events;
        Ok(EventPage { events, next })
    }

    pub(in crate::store) async fn event(
        &self,
        tenant: &str,
        topic: &str,
        id: &str,
    ) -> Result<Option<StoredEvent>, StoreError> {
        let identity = self.events.shared.key.identity(tenant, topic, id);
        let reader = self.readers.get().await?;
        let session = reader.session()?;
        let failed = |error: tokio_postgres::Error| fault(&error);
        let found = session
            .query_typed_opt(
                "SELECT time FROM identity WHERE hash = $1",
                &[(&Uuid::from_u128(identity), Type::UUID)],
            )
            .await
            .map_err(failed)?;
        let Some(found) = found else { return Ok(None) };
        let time: At = found.try_get(0).map_err(failed)?;
        let escaped = [tenant, topic, id].map(super::escape::escape);
        let [tenant, topic, id] = &escaped;
        for part in parts_between(session, Some(time.0), Some(time.0)).await? {
            let sql = format!(
                "SELECT {COLUMNS} FROM {} WHERE time = $1 AND tenant = $2 AND topic = $3 AND id = $4",
                part.name
            );
            let found = session
                .query_typed_opt(
                    &sql,
                    &[
                        (&time, Type::TIMESTAMPTZ),
                        (tenant, Type::TEXT),
                        (topic, Type::TEXT),
                        (id, Type::TEXT),
                    ],
                )
                .await
                .map_err(failed)?;
            if let Some(found) = found {
                return event(&found).map(Some);
            }
        }
        Ok(None)
    }
}

/// The filter, without the times that the page does not begin before.
fn within(query: &PageQuery) -> EventFilter {
    let mut filter = EventFilter {
        from: query.filter.from,
        to: query.filter.to,
        ..EventFilter::default()
    };
    if let Some(after) = query.after {
        match query.order {
            Order::Ascending => filter.from = filter.from.max(Some(after.time)),
            Order::Descending => {
                let end = filter.to.map_or(after.time, |to| to.min(after.time));
                filter.to = Some(end);
            }
        }
    }
    filter
}

impl Walk<'_> {
    /// What of a partition is meant and behind the place, with its parameters up to `$12`.
    fn condition(&self) -> String {
        let behind = match self.query.order {
            Order::Ascending => ">",
            Order::Descending => "<",
        };
        format!(
            "{IS_MEANT} AND ($10::timestamptz IS NULL
                 OR (time, nanos, sequence) {behind} ($10, $11::smallint, $12::bigint))"
        )
    }

    /// Whether all that is meant of a partition is left out.
    async fn passes(&mut self, session: &Session, part: &Part) -> Result<bool, StoreError> {
        let sql = format!(
            "SELECT count(*) FROM (SELECT FROM {} WHERE {} LIMIT $13::bigint) AS it",
            part.name,
            self.condition()
        );
        let after = After::of(self.query);
        let mut parameters = self.meant.parameters();
        parameters.extend(after.parameters());
        parameters.push((&self.skip, Type::INT8));
        let failed = |error: tokio_postgres::Error| fault(&error);
        let counted = session.query_typed_one(&sql, &parameters).await;
        let counted: i64 = counted.map_err(failed)?.try_get(0).map_err(failed)?;
        let passes = counted < self.skip;
        if passes {
            self.skip -= counted;
        }
        Ok(passes)
    }

    /// Adds what fits of a partition; whether there is more.
    async fn read(&mut self, session: &Session, part: &Part) -> Result<bool, StoreError> {
        let order = match self.query.order {
            Order::Ascending => "time, nanos, sequence",
            Order::Descending => "time DESC, nanos DESC, sequence DESC",
        };
        let sql = format!(
            "SELECT * FROM (
                 SELECT *, sum(bytes) OVER line AS total, row_number() OVER line AS number,
                        count(*) OVER () AS found
                 FROM (SELECT {COLUMNS}, {BYTES} AS bytes FROM {} WHERE {}
                       ORDER BY {order} LIMIT $13::bigint + 1 OFFSET $14::bigint) AS it
                 WINDOW line AS (ORDER BY {order} ROWS UNBOUNDED PRECEDING)) AS it
             WHERE number = 1 OR (number <= $13::bigint AND total <= $15::bigint)
             ORDER BY number",
            part.name,
            self.condition()
        );
        let limit = self.query.limit.max(1).saturating_sub(self.events.len());
        let limit = i64::try_from(limit).unwrap_or(i64::MAX - 1);
        let after = After::of(self.query);
        let mut parameters = self.meant.parameters();
        parameters.extend(after.parameters());
        parameters.extend([&limit, &self.skip, &self.left].map(|it| (it as _, Type::INT8)));
        let rows = session.query_typed(&sql, &parameters).await;
        let rows = rows.map_err(|error| fault(&error))?;
        self.skip = 0;
        let failed = |error: tokio_postgres::Error| fault(&error);
        let Some(first) = rows.first() else {
            return Ok(false);
        };
        let found: i64 = first.try_get("found").map_err(failed)?;
        let mut taken = 0;
        for row in &rows {
            let bytes: i32 = row.try_get("bytes").map_err(failed)?;
            let full = limit == 0 || i64::from(bytes) > self.left;
            if full && !self.events.is_empty() {
                break;
            }
            self.left = self.left.saturating_sub(bytes.into()).max(0);
            self.events.push(event(row)?);
            taken += 1;
        }
        Ok(taken < found)
    }
}

/// The parameters of the place behind which a page begins.
struct After(Option<At>, i16, i64);

impl After {
    fn of(query: &PageQuery) -> Self {
        query.after.map_or(Self(None, 0, 0), |after| {
            let sequence = i64::try_from(after.sequence.0).unwrap_or(i64::MAX);
            Self(
                Some(At(after.time.micros)),
                after.time.nanos.cast_signed(),
                sequence,
            )
        })
    }

    fn parameters(&self) -> [Parameter<'_>; 3] {
        [
            (&self.0, Type::TIMESTAMPTZ),
            (&self.1, Type::INT2),
            (&self.2, Type::INT8),
        ]
    }
}
