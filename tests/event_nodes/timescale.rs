//! A server that lists `TimescaleDB`. The extension is not installed where the tests run: what a node
//! asks for is made to look as if it were.

use tollgate::model::event::{EventFilter, Receipt};

use super::backing::{database, psql};
use super::{all, append, event, node};

/// Found before the one of the system.
const LISTED: &str = "CREATE VIEW pg_available_extensions AS SELECT 'timescaledb'::name AS name;
    DO $$ BEGIN
        EXECUTE format('ALTER DATABASE %I SET search_path = public, pg_catalog', current_database());
    END $$;";

/// So it need not be made.
const MADE: &str = "INSERT INTO pg_extension
    VALUES (99999, 'timescaledb', 10, 'public'::regnamespace, false, '2', null, null);";

/// Leaves the table as it is, with one chunk as it were.
const WORKING: &str = "CREATE FUNCTION create_hypertable(
        named regclass, by name, chunk_time_interval interval, create_default_indexes boolean)
    RETURNS void LANGUAGE sql AS ''";

#[tokio::test(flavor = "multi_thread")]
async fn where_it_can_t_be_used_events_lie_in_partitions() {
    let listed_only = LISTED.to_owned();
    let refusing = format!("{LISTED} {MADE}");
    let working = format!("{LISTED} {MADE} {WORKING}");
    for (before, parts) in [
        (listed_only, "event_2026_09"),
        (refusing, "event_2026_09"),
        (working, "event"),
    ] {
        let Some(url) = database() else { return };
        psql(&url, &before).unwrap();
        let (one, two) = tokio::join!(node(&url), node(&url));
        let events = [event(1), event(2)];
        let receipts = append(&one.store, &events).await.unwrap();
        assert_eq!(receipts, [Receipt::Accepted; 2]);
        let found = all(&two.store, EventFilter::default()).await.unwrap();
        assert_eq!(found, events);
        assert_eq!(psql(&url, "SELECT name FROM part").unwrap(), parts);
        let indexes = "SELECT count(*) FROM pg_indexes WHERE tablename = 'event'";
        assert_eq!(psql(&url, indexes).unwrap(), "2");
        assert_eq!(one.store.erase(EventFilter::default()).await, Ok(2));
    }
}
