//! Events in the order of arrival.
//!
//! The rows of `fact` say which times some arrivals have, and so which partitions they are in. They
//! follow each other without gaps, so a missing one is found.

use tokio_postgres::types::Type;

use super::super::Postgres;
use super::super::connect::{Session, fault};
use super::super::time::At;
use super::parts::parts_between;
use super::row::{BYTES, COLUMNS, IS_MEANT, Meant, event};
use crate::model::event::{EventFilter, Sequence, StoredEvent};
use crate::model::time::Timestamp;
use crate::store::error::StoreError;

/// How many rows of `fact` are looked at together, and how often.
const FACTS: i64 = 64;
const ROUNDS: usize = 64;

/// How many bytes the events may have together; one larger event comes alone.
const MAX_BYTES: i64 = 32 << 20;

/// Some arrivals and their times.
struct Stretch {
    after: i64,
    last: i64,
    low: Timestamp,
    high: Timestamp,
}

impl Postgres {
    pub(in crate::store) async fn events_since(
        &self,
        after: Sequence,
        filter: EventFilter,
        limit: usize,
    ) -> Result<(Vec<StoredEvent>, Sequence), StoreError> {
        let reader = self.readers.get().await?;
        let session = reader.session()?;
        let meant = Meant::of(&filter);
        let mut looked = after;
        for _ in 0..ROUNDS {
            let Some(stretch) = stretch_after(session, looked).await? else {
                break;
            };
            let (events, whole) = read(session, &meant, &stretch, limit.max(1)).await?;
            looked = match events.last() {
                Some(last) if !whole => last.sequence,
                _ => Sequence(stretch.last.cast_unsigned()),
            };
            if !events.is_empty() {
                return Ok((events, looked));
            }
        }
        Ok((Vec::new(), looked))
    }
}

async fn stretch_after(session: &Session, after: Sequence) -> Result<Option<Stretch>, StoreError> {
    let failed = |error: tokio_postgres::Error| fault(&error);
    let after = i64::try_from(after.0).unwrap_or(i64::MAX);
    let rows = session
        .query_typed(
            "SELECT first, last, low, high FROM fact WHERE last > $1 ORDER BY last LIMIT $2",
            &[(&after, Type::INT8), (&FACTS, Type::INT8)],
        )
        .await
        .map_err(failed)?;
    let mut stretch: Option<Stretch> = None;
    for row in &rows {
        let (first, last): (i64, i64) = (
            row.try_get(0).map_err(failed)?,
            row.try_get(1).map_err(failed)?,
        );
        let (At(low), At(high)) = (
            row.try_get(2).map_err(failed)?,
            row.try_get(3).map_err(failed)?,
        );
        let expected = stretch.as_ref().map_or(after, |it| it.last) + 1;
        if first > expected {
            let sentence = format!("what is known of event {expected} is gone from table fact");
            return Err(StoreError::Damaged(sentence));
        }
        let before = stretch.map_or((low, high), |it| (it.low, it.high));
        stretch = Some(Stretch {
            after,
            last,
            low: low.min(before.0),
            high: high.max(before.1),
        });
    }
    Ok(stretch)
}

/// The first `limit` of a stretch that are meant, and whether those are all.
async fn read(
    session: &Session,
    meant: &Meant,
    stretch: &Stretch,
    limit: usize,
) -> Result<(Vec<StoredEvent>, bool), StoreError> {
    let parts = parts_between(session, Some(stretch.low), Some(stretch.high)).await?;
    let parts: Vec<String> = parts
        .iter()
        .map(|part| {
            let name = &part.name;
            format!(
                "(SELECT {COLUMNS}, {BYTES} AS bytes FROM {name}
                  WHERE sequence > $10::bigint AND sequence <= $11::bigint
                    AND time >= $14::timestamptz AND time <= $15::timestamptz AND {IS_MEANT}
                  ORDER BY sequence LIMIT $12::bigint + 1)"
            )
        })
        .collect();
    let failed = |error: tokio_postgres::Error| fault(&error);
    let sql = format!(
        "SELECT * FROM (
             SELECT *, sum(bytes) OVER line AS total, row_number() OVER line AS number,
                    count(*) OVER () AS found
             FROM (SELECT * FROM ({}) AS it ORDER BY sequence LIMIT $12::bigint + 1) AS it
             WINDOW line AS (ORDER BY sequence ROWS UNBOUNDED PRECEDING)) AS it
         WHERE number = 1 OR (number <= $12::bigint AND total <= $13::bigint) ORDER BY number",
        parts.join(" UNION ALL ")
    );
    if parts.is_empty() {
        return Err(StoreError::Damaged("table part has lost rows".to_owned()));
    }
    let limit = i64::try_from(limit).unwrap_or(i64::MAX - 1);
    let mut parameters = meant.parameters();
    for number in [&stretch.after, &stretch.last, &limit, &MAX_BYTES] {
        parameters.push((number, Type::INT8));
    }
    let times = [At(stretch.low), At(stretch.high)];
    parameters.extend(times.iter().map(|time| (time as _, Type::TIMESTAMPTZ)));
    let rows = session.query_typed(&sql, &parameters).await;
    let rows = rows.map_err(failed)?;
    let Some(first) = rows.first() else {
        return Ok((Vec::new(), true));
    };
    let found: i64 = first.try_get("found").map_err(failed)?;
    let events: Vec<StoredEvent> = rows.iter().map(event).collect::<Result<_, _>>()?;
    let whole = events.len() as u64 == found.cast_unsigned();
    Ok((events, whole))
}
