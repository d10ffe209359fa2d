//! Going through all events of a time, for answers that nothing else has.
//!
//! ```text
//! database ──rows as of one commit──▶ reading task ──a few chunks──▶ a thread that shows them
//! ```

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use tokio::sync::mpsc::{self, Receiver};
use tokio::sync::{Semaphore, TryAcquireError};
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::super::Postgres;
use super::super::connect::{Session, fault};
use super::escape::{escape, unescape};
use super::parts::{Part, parts_of};
use super::row::{IS_MEANT, Meant, time};
use crate::model::event::{EventFilter, EventTime, Scan, ScanQuery, ScannedEvent, ScannedUser};
use crate::store::error::StoreError;

/// How many scans run at once.
const RUNNING: usize = 2;

/// How many scans run and wait.
const ADMITTED: usize = 16;

/// How long a scan waits for others.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many events are shown at once, and how many such chunks wait.
const CHUNK: usize = 512;
const AHEAD: usize = 4;

/// What bounds the scans.
pub(super) struct Scans {
    admitted: Arc<Semaphore>,
    running: Arc<Semaphore>,
}

impl Default for Scans {
    fn default() -> Self {
        Self {
            admitted: Arc::new(Semaphore::new(ADMITTED)),
            running: Arc::new(Semaphore::new(RUNNING)),
        }
    }
}

impl Scans {
    pub(super) fn close(&self) {
        self.admitted.close();
        self.running.close();
    }
}

impl Postgres {
    pub(in crate::store) async fn scan(
        &self,
        query: ScanQuery,
        each: impl Fn(&[ScannedEvent<'_>]) -> ControlFlow<()> + Send + Sync + 'static,
    ) -> Result<Scan, StoreError> {
        let scans = &self.events.scans;
        let admitted = Arc::clone(&scans.admitted).try_acquire_owned();
        let admitted = admitted.map_err(|error| match error {
            TryAcquireError::NoPermits => StoreError::Busy,
            TryAcquireError::Closed => StoreError::Closed,
        })?;
        let running = timeout(PATIENCE, Arc::clone(&scans.running).acquire_owned()).await;
        let running = running.map_err(|_| StoreError::Busy)?;
        let running = running.map_err(|_| StoreError::Closed)?;
        // What any node has acknowledged; whoever reads at the database itself sees no less.
        self.sight.now().await?;
        let origin = &self.events.origin;
        let session = origin.snapshot(self.sight.events()).await?;
        let filter = EventFilter {
            tenant: query.tenant.clone(),
            source: query.source.clone(),
            from: query.from,
            to: query.to,
            ..EventFilter::default()
        };
        let meant = Meant::of(&filter);
        let parts = parts_of(&session, &filter).await?;
        let limit = i64::try_from(query.limit).unwrap_or(i64::MAX - 1);
        if is_too_broad(&session, &parts, &meant, limit).await? {
            return Ok(Scan::TooBroad);
        }
        // What remains of erased events has no payload: where one is needed, none may be missing.
        if query.payloads
            && let Some(last) = last_erased(&session, &query, &meant).await?
        {
            return Ok(Scan::Gone(last));
        }
        let remains = (!query.payloads).then_some(ERASED);
        let (sender, chunks) = mpsc::channel(AHEAD);
        let shown = tokio::task::spawn_blocking(move || {
            let _until_the_end = (admitted, running);
            show(chunks, &query, each)
        });
        let mut read = Ok(());
        let whole = parts
            .iter()
            .map(|part| format!("{WHOLE} FROM {}", part.name));
        for rows in whole.chain(remains.map(str::to_owned)) {
            read = send(&session, &rows, &meant, &sender).await;
            if read.is_err() || sender.is_closed() {
                break;
            }
        }
        drop(sender);
        let shown = shown.await.map_err(|_| StoreError::Closed)?;
        match shown? {
            ControlFlow::Break(()) => Ok(Scan::Left),
            ControlFlow::Continue(()) => read.map(|()| Scan::Whole),
        }
    }
}

/// What is shown of an event: [`texts`] reads it.
const WHOLE: &str = "SELECT time, nanos, tenant, source, type, user_id, payload, NULL::uuid";

/// The same of those that were erased. The topic and the user of [`IS_MEANT`] are not asked for.
const ERASED: &str = "SELECT time, nanos, tenant, source, type, NULL::text, '', user_hash
    FROM (SELECT *, NULL::text AS topic, NULL::text AS user_id FROM erased) AS erased";

/// When the last erased event occurred that is meant, if there is any.
async fn last_erased(
    session: &Session,
    query: &ScanQuery,
    meant: &Meant,
) -> Result<Option<EventTime>, StoreError> {
    let failed = |error: tokio_postgres::Error| fault(&error);
    let types: Vec<String> = query
        .event_types
        .iter()
        .map(|it| escape(it).into_owned())
        .collect();
    let sql = format!(
        "SELECT time, nanos FROM (SELECT *, NULL::text AS topic, NULL::text AS user_id FROM erased)
             AS erased
         WHERE {IS_MEANT} AND (cardinality($10::text[]) = 0 OR type = ALL($10))
         ORDER BY time DESC, nanos DESC LIMIT 1"
    );
    let mut parameters = meant.parameters();
    parameters.push((&types, Type::TEXT_ARRAY));
    let found = session.query_typed_opt(&sql, &parameters).await;
    let found = found.map_err(failed)?;
    found.map(|row| time(&row, 0)).transpose()
}

/// Whether more events are meant than `limit`.
async fn is_too_broad(
    session: &Session,
    parts: &[Part],
    meant: &Meant,
    limit: i64,
) -> Result<bool, StoreError> {
    let failed = |error: tokio_postgres::Error| fault(&error);
    let mut left = limit;
    for part in parts {
        let sql = format!(
            "SELECT count(*) FROM (SELECT FROM {} WHERE {IS_MEANT} LIMIT $10::bigint + 1) AS it",
            part.name
        );
        let mut parameters = meant.parameters();
        parameters.push((&left, Type::INT8));
        let counted = session.query_typed_one(&sql, &parameters).await;
        let counted: i64 = counted.map_err(failed)?.try_get(0).map_err(failed)?;
        left -= counted;
        if left < 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Hands on what is meant of some rows; ends early when nobody wants more.
async fn send(
    session: &Session,
    rows: &str,
    meant: &Meant,
    sender: &mpsc::Sender<Vec<Row>>,
) -> Result<(), StoreError> {
    let failed = |error: tokio_postgres::Error| fault(&error);
    let sql = format!("{rows} WHERE {IS_MEANT}");
    let rows = session.query_typed_raw(&sql, meant.parameters()).await;
    let mut rows = pin!(rows.map_err(failed)?);
    let mut chunk = Vec::with_capacity(CHUNK);
    while let Some(row) = rows.try_next().await.map_err(failed)? {
        chunk.push(row);
        if chunk.len() == CHUNK {
            let full = std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK));
            if sender.send(full).await.is_err() {
                return Ok(());
            }
        }
    }
    if !chunk.is_empty() {
        // Who is gone wants nothing.
        let _ = sender.send(chunk).await;
    }
    Ok(())
}

/// An event with its texts as they were sent.
type Shown<'r> = (EventTime, [Option<Cow<'r, str>>; 5], Option<Uuid>);

fn show(
    mut chunks: Receiver<Vec<Row>>,
    query: &ScanQuery,
    each: impl Fn(&[ScannedEvent<'_>]) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, StoreError> {
    while let Some(chunk) = chunks.blocking_recv() {
        let shown: Vec<Shown<'_>> = chunk.iter().map(texts).collect::<Result<_, _>>()?;
        let events: Vec<ScannedEvent<'_>> = shown
            .iter()
            .map(
                |(time, [tenant, source, event_type, user, payload], hash)| ScannedEvent {
                    time: *time,
                    tenant: tenant.as_deref().unwrap_or_default(),
                    source: source.as_deref(),
                    event_type: event_type.as_deref(),
                    user: match (user.as_deref(), hash) {
                        (Some(name), _) => Some(ScannedUser::Named(name)),
                        (None, Some(hash)) => Some(ScannedUser::Hashed(hash.as_u128())),
                        (None, None) => None,
                    },
                    payload: payload.as_deref().unwrap_or_default(),
                },
            )
            .filter(|event| query.matches(event))
            .collect();
        if !events.is_empty() && each(&events).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn texts(row: &Row) -> Result<Shown<'_>, StoreError> {
    let text = |column: usize| {
        let text: Option<&str> = row.try_get(column).map_err(|error| fault(&error))?;
        let damaged = || StoreError::Damaged("an event is not one that was written".to_owned());
        text.map(|text| unescape(text).ok_or_else(damaged))
            .transpose()
    };
    Ok((
        time(row, 0)?,
        [text(2)?, text(3)?, text(4)?, text(5)?, text(6)?],
        row.try_get(7).map_err(|error| fault(&error))?,
    ))
}
