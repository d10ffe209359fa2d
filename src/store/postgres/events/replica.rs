//! Where analytics read: the database itself, or a replica of it (`store.read_url`).
//!
//! A replica shows what the database did some time ago. What an answer has to cover is always asked
//! of the database, so an answer waits for a replica that is behind, and is never made without what
//! the replica lacks.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::super::connect::{Server, Session, fault};
use super::super::follow::EventHead;
use crate::model::shared::SharedSettings;
use crate::store::error::{OpenError, StoreError};
use crate::store::identity::Key;

/// How long an answer waits for a replica that is behind.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long until it is looked again whether it still is.
const BEHIND: Duration = Duration::from_millis(20);

/// See the module.
#[derive(Clone)]
pub(super) struct Origin {
    server: Server,
    /// Of the store: a replica has the same one.
    key: Key,
    is_replica: bool,
}

impl Origin {
    /// Refused if what answers there is the replica of another database. One that doesn't answer is
    /// waited for by those who ask.
    pub(super) async fn open(
        settings: &SharedSettings,
        database: &Server,
        key: Key,
    ) -> Result<Self, OpenError> {
        let Some(url) = &settings.read_url else {
            return Ok(Self {
                server: database.clone(),
                key,
                is_replica: false,
            });
        };
        let origin = Self {
            server: Server::named("store.read_url", url)?,
            key,
            is_replica: true,
        };
        match origin.connect().await {
            Ok(_) => {}
            Err(StoreError::Damaged(sentence)) => return Err(OpenError(sentence)),
            Err(error) => tracing::warn!("questions about events have to wait: {error}"),
        }
        Ok(origin)
    }

    pub(super) async fn connect(&self) -> Result<Session, StoreError> {
        let connected = async {
            let session = self.server.connect().await?;
            if self.is_replica {
                self.check(&session).await?;
            }
            Ok(session)
        };
        connected.await.map_err(|error| self.named(error))
    }

    /// Whether it is of this store: the counts of another one would be taken for its own.
    async fn check(&self, session: &Session) -> Result<(), StoreError> {
        let failed = |error: tokio_postgres::Error| fault(&error);
        let empty = || StoreError::Away("it has no tables yet".to_owned());
        let there: bool = session
            .query_one_scalar("SELECT to_regclass('event_head') IS NOT NULL", &[])
            .await
            .map_err(failed)?;
        if !there {
            return Err(empty());
        }
        let key = session.query_opt("SELECT key FROM event_head", &[]).await;
        let key: Vec<u8> = match key.map_err(failed)? {
            Some(row) => row.try_get(0).map_err(failed)?,
            None => return Err(empty()),
        };
        if key == self.key.0 {
            return Ok(());
        }
        Err(StoreError::Damaged("it is of another store".to_owned()))
    }

    /// An error of this place.
    pub(super) fn named(&self, error: StoreError) -> StoreError {
        if !self.is_replica {
            return error;
        }
        let replica = |sentence: String| {
            let place = self.server.place();
            format!("the replica (store.read_url) at {place}: {sentence}")
        };
        match error {
            StoreError::Away(sentence) => StoreError::Away(replica(sentence)),
            StoreError::Damaged(sentence) => StoreError::Damaged(replica(sentence)),
            other => other,
        }
    }

    /// A connection of its own, in a transaction that sees one moment, at which all of `head` was
    /// there. It ends with the connection.
    pub(super) async fn snapshot(&self, head: EventHead) -> Result<Session, StoreError> {
        let session = self.connect().await?;
        let caught_up = async {
            while !begin(&session, head).await.map_err(|it| self.named(it))? {
                sleep(BEHIND).await;
            }
            Ok(())
        };
        match timeout(PATIENCE, caught_up).await {
            Ok(done) => done.map(|()| session),
            Err(_) => Err(StoreError::Behind),
        }
    }
}

/// Begins a transaction; false if it doesn't see all of `head`.
async fn begin(session: &Session, head: EventHead) -> Result<bool, StoreError> {
    let failed = |error: tokio_postgres::Error| fault(&error);
    session
        .batch_execute("ROLLBACK; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .await
        .map_err(failed)?;
    let row = session
        .query_typed_one("SELECT event, erased FROM event_head", &[])
        .await
        .map_err(failed)?;
    let number = |column: usize| row.try_get::<_, i64>(column).map(i64::cast_unsigned);
    let (event, erased) = (number(0).map_err(failed)?, number(1).map_err(failed)?);
    Ok(event >= head.event && erased >= head.erased)
}
