//! The tables, step by step. Steps that were once released never change.

use std::time::Duration;

use tokio_postgres::Error;
use uuid::Uuid;

use super::connect::{Server, Session, fault};
use crate::store::error::{OpenError, StoreError};

/// Each brings a database from the version before it, counted from 1.
const STEPS: [&str; 5] = [
    include_str!("sql/0001.sql"),
    include_str!("sql/0002.sql"),
    include_str!("sql/0003.sql"),
    include_str!("sql/0004.sql"),
    include_str!("sql/0005.sql"),
];

/// The oldest server that has all that is used: `idle_session_timeout` came with 14.
const OLDEST: i32 = 140_000;

/// The advisory lock of those that change tables.
const LOCK: i64 = 0x746f_6c6c_6761_7401;

/// How long to wait for another node that changes tables.
const PATIENCE: Duration = Duration::from_mins(5);

/// What stands in the way, as a sentence.
struct Trouble(String);

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self(error.to_string())
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        fault(&error).into()
    }
}

/// Brings the tables to this version, one node at a time.
pub(super) async fn migrate(session: &Session, server: &Server) -> Result<(), OpenError> {
    let done = take_steps(session, server).await;
    done.map_err(|Trouble(sentence)| {
        OpenError(format!("PostgreSQL at {}: {sentence}", server.place()))
    })
}

async fn take_steps(session: &Session, server: &Server) -> Result<(), Trouble> {
    let newest = i32::try_from(STEPS.len()).unwrap_or(i32::MAX);
    let patience = format!("SET lock_timeout = {}", PATIENCE.as_millis());
    let found = session
        .query_one(
            "SELECT current_setting('server_version_num')::integer, current_setting('server_encoding')",
            &[],
        )
        .await?;
    check_server(found.try_get(0)?, found.try_get(1)?).map_err(Trouble)?;
    session.batch_execute(&patience).await?;
    session
        .execute("SELECT pg_advisory_lock($1)", &[&LOCK])
        .await?;
    session
        .batch_execute(
            "CREATE TABLE IF NOT EXISTS tollgate_version (
                 version integer PRIMARY KEY,
                 at timestamptz NOT NULL DEFAULT now())",
        )
        .await?;
    let found: i32 = session
        .query_one_scalar(
            "SELECT coalesce(max(version), 0) FROM tollgate_version",
            &[],
        )
        .await?;
    if found > newest {
        return Err(Trouble(format!(
            "the database has version {found}, and this program knows up to {newest}: use a newer one"
        )));
    }
    for (version, step) in (1_i32..).zip(STEPS) {
        if version > found {
            let timescale = version == 1 && has_timescale(session, server).await?;
            session.batch_execute(&format!("BEGIN; {step}")).await?;
            if version == 1 {
                let key = Uuid::new_v4().simple();
                let head = format!("INSERT INTO event_head (key) VALUES ('\\x{key}')");
                session.batch_execute(&head).await?;
                lay_out(session, timescale).await?;
            }
            let end = format!("INSERT INTO tollgate_version VALUES ({version}); COMMIT");
            session.batch_execute(&end).await?;
        }
    }
    session
        .execute("SELECT pg_advisory_unlock($1)", &[&LOCK])
        .await?;
    session.batch_execute("RESET lock_timeout").await?;
    Ok(())
}

/// Whether the server can be used: its version, as it counts them, and the encoding of the database.
fn check_server(version: i32, encoding: &str) -> Result<(), String> {
    if version < OLDEST {
        let (is, expected) = (version / 10_000, OLDEST / 10_000);
        return Err(format!(
            "it is PostgreSQL {is}, expected {expected} or later"
        ));
    }
    if encoding != "UTF8" {
        return Err(format!(
            "the database has the encoding {encoding}, expected UTF8"
        ));
    }
    Ok(())
}

/// Whether `TimescaleDB` can be used in this database.
async fn has_timescale(session: &Session, server: &Server) -> Result<bool, Trouble> {
    let listed: bool = session
        .query_one_scalar(
            "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')",
            &[],
        )
        .await?;
    if !listed {
        return Ok(false);
    }
    // Where its library is not preloaded, the server ends the session that asks for it.
    let own = server.connect().await?;
    let made = own.batch_execute("CREATE EXTENSION IF NOT EXISTS timescaledb");
    match made.await {
        Ok(()) => Ok(true),
        Err(error) => plain_instead(error).map(|()| false),
    }
}

/// Makes the table of events ready, within a transaction.
async fn lay_out(session: &Session, timescale: bool) -> Result<(), Trouble> {
    if timescale {
        session.batch_execute("SAVEPOINT layout").await?;
        match session.batch_execute(&hypertable()).await {
            Ok(()) => return Ok(()),
            Err(error) => plain_instead(error)?,
        }
        session.batch_execute("ROLLBACK TO layout").await?;
    }
    session.batch_execute(INDEXES).await?;
    Ok(())
}

/// Takes an error of `TimescaleDB` as that it can't be used here; one that may pass remains an error, for
/// this is decided once and for ever.
fn plain_instead(error: Error) -> Result<(), Trouble> {
    /// Connections, transactions that met, resources, and what operators do.
    const PASSING: [&str; 4] = ["08", "40", "53", "57"];
    match error.as_db_error() {
        Some(refusal)
            if !PASSING
                .iter()
                .any(|class| refusal.code().code().starts_with(class)) =>
        {
            tracing::warn!(
                "TimescaleDB can't be used, events lie in partitions of PostgreSQL itself: {}",
                refusal.message()
            );
            Ok(())
        }
        _ => Err(error.into()),
    }
}

/// The indexes of the table of events.
///
/// Rows lie in the order of their arrival, so a summary of some pages at a time finds arrivals as well
/// as a tree does, which would cost a seventh of the time of a write.
const INDEXES: &str = "CREATE INDEX event_time ON event (time, nanos, sequence);
    CREATE INDEX event_sequence ON event USING brin (sequence)
        WITH (pages_per_range = 16, autosummarize = on);";

/// Makes the table of events a hypertable, which makes its chunks by itself, and is read as one part.
fn hypertable() -> String {
    // It is made of a plain table.
    format!(
        "CREATE TABLE plain (LIKE event INCLUDING ALL);
         DROP TABLE event;
         ALTER TABLE plain RENAME TO event;
         {INDEXES}
         SELECT create_hypertable('event', 'time', chunk_time_interval => INTERVAL '1 month',
                                  create_default_indexes => false);
         INSERT INTO part VALUES ('event', '-infinity', 'infinity')"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_of_before_and_other_encodings_are_refused() {
        assert_eq!(check_server(140_000, "UTF8"), Ok(()));
        let old = check_server(130_022, "UTF8").unwrap_err();
        assert_eq!(old, "it is PostgreSQL 13, expected 14 or later");
        assert!(check_server(150_018, "LATIN1").is_err());
    }
}
