//! The tables, step by step. Steps that were once released never change.

use std::time::Duration;

use uuid::Uuid;

use super::connect::{Session, fault};
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

/// Brings the tables to this version, one node at a time.
pub(super) async fn migrate(session: &Session, place: &str) -> Result<(), OpenError> {
    let refuse = |error: StoreError| OpenError(format!("PostgreSQL at {place}: {error}"));
    let newest = i32::try_from(STEPS.len()).unwrap_or(i32::MAX);
    let run = async {
        let patience = format!("SET lock_timeout = {}", PATIENCE.as_millis());
        let server = session
            .query_one(
                "SELECT current_setting('server_version_num')::integer,
                        current_setting('server_encoding')",
                &[],
            )
            .await?;
        if let Err(sentence) = check_server(server.try_get(0)?, server.try_get(1)?) {
            return Ok(Err(sentence));
        }
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
            return Ok(Err(format!(
                "the database has version {found}, and this program knows up to {newest}: use a \
                 newer one"
            )));
        }
        for (version, step) in (1_i32..).zip(STEPS) {
            if version > found {
                let key = Uuid::new_v4().simple();
                let step = format!(
                    "BEGIN; {step}; {};
                     INSERT INTO tollgate_version VALUES ({version}); COMMIT",
                    if version == 1 {
                        let extended = has_timescale(session).await?;
                        let layout = events_layout(extended);
                        format!("INSERT INTO event_head (key) VALUES ('\\x{key}'); {layout}")
                    } else {
                        String::new()
                    }
                );
                session.batch_execute(&step).await?;
            }
        }
        session
            .execute("SELECT pg_advisory_unlock($1)", &[&LOCK])
            .await?;
        session.batch_execute("RESET lock_timeout").await?;
        Ok(Ok(()))
    };
    let done: Result<Result<(), String>, tokio_postgres::Error> = run.await;
    match done {
        Ok(Ok(())) => Ok(()),
        Ok(Err(sentence)) => Err(OpenError(format!("PostgreSQL at {place}: {sentence}"))),
        Err(error) => Err(refuse(fault(&error))),
    }
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

/// Whether `TimescaleDB` may be used in this database.
async fn has_timescale(session: &Session) -> Result<bool, tokio_postgres::Error> {
    session
        .query_one_scalar(
            "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')",
            &[],
        )
        .await
}

/// What makes the table of events ready: its indexes; with `TimescaleDB` it is a hypertable, which makes
/// its chunks by itself, and is read as one part.
///
/// Rows lie in the order of their arrival, so a summary of some pages at a time finds arrivals as well
/// as a tree does, which would cost a seventh of the time of a write.
fn events_layout(timescale: bool) -> String {
    const INDEXES: &str = "CREATE INDEX event_time ON event (time, nanos, sequence);
        CREATE INDEX event_sequence ON event USING brin (sequence)
            WITH (pages_per_range = 16, autosummarize = on);";
    if !timescale {
        return INDEXES.to_owned();
    }
    // A hypertable is made of a plain table.
    format!(
        "CREATE EXTENSION IF NOT EXISTS timescaledb;
         CREATE TABLE plain (LIKE event INCLUDING ALL);
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

    #[test]
    fn a_hypertable_is_one_part_and_a_plain_table_has_none_yet() {
        let (plain, hyper) = (events_layout(false), events_layout(true));
        assert!(!plain.contains("timescaledb") && !plain.contains("part"));
        assert!(hyper.contains("create_hypertable('event', 'time'"));
        assert!(hyper.contains("INSERT INTO part VALUES ('event', '-infinity', 'infinity')"));
        for layout in [plain, hyper] {
            assert!(layout.contains("event_time ON event (time, nanos, sequence)"));
        }
    }
}
