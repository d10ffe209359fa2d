//! Requests to one node that share events, at the same time.

use std::io::Write as _;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use tokio::task::JoinSet;
use tollgate::clock::Clock;
use tollgate::model::event::{EventFilter, Receipt};

use crate::backing::{database, installed, psql};
use crate::verify::wrong;
use crate::{Node, all, append, event, node};

/// How long a transaction that has claimed events waits for those before it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Asks the database until this is its answer; panics after a minute without it.
pub(super) async fn until(url: &str, sql: &str, answer: &str) {
    for _ in 0..6_000 {
        if psql(url, sql).unwrap() == answer {
            return;
        }
        // sleep: the pause between two polls.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not {answer} within a minute: {sql}");
}

/// The transactions of one node that claim the same identities at the same time know of each other: the
/// database refuses none of them, and each identity is accepted once.
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_share_events_don_t_meet_in_the_database() {
    // Where the machine is so slow that one of them may have waited too long, and was made again, fewer of
    // them are as good.
    for requests in [200, 100, 50, 25] {
        let Some(url) = database() else { return };
        if are_all_accepted(&url, requests).await {
            let refused =
                "SELECT xact_rollback FROM pg_stat_database WHERE datname = current_database()";
            assert_eq!(psql(&url, refused).unwrap(), "0");
            return;
        }
    }
    panic!("the requests take too long");
}

/// Sends so many requests to a node, and lets it end. Whether all were answered sooner than one of them
/// could have given up waiting for another.
async fn are_all_accepted(url: &str, requests: u64) -> bool {
    let Node { store, dir: _dir } = node(url).await;
    let clock = Clock::system();
    let begun = clock.now().mono;
    let mut tasks = JoinSet::new();
    for request in 0..requests {
        let store = store.clone();
        let events: Vec<_> = (request * 5..request * 5 + 50).map(event).collect();
        tasks.spawn(async move { append(&store, &events).await.unwrap() });
    }
    let receipts = tasks.join_all().await.concat();
    let soon = clock.now().mono.saturating_sub(begun) < PATIENCE;
    let accepted = receipts.iter().filter(|it| **it == Receipt::Accepted);
    let unique = (requests - 1) * 5 + 50;
    assert_eq!(accepted.count() as u64, unique);
    assert!(!receipts.contains(&Receipt::Duplicate { conflicting: true }));
    let counts = store.event_counts();
    assert_eq!(counts.duplicates, requests * 50 - unique);
    // Its connections tell of what they did when they end.
    store.close().await;
    let others = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    until(url, others, "0").await;
    soon
}

/// A session of its own that holds an advisory lock; it ends when this is dropped.
struct Held {
    session: Child,
    input: Option<ChildStdin>,
}

impl Held {
    async fn lock(url: &str, number: u32) -> Self {
        let mut command = Command::new(installed("psql", "postgresql").unwrap());
        let mut session = command
            .args(["-X", "-q", url])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut input = session.stdin.take().unwrap();
        writeln!(input, "SELECT pg_advisory_lock({number});").unwrap();
        let held = Self {
            session,
            input: Some(input),
        };
        let granted = format!(
            "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database
                WHERE datname = current_database() AND locktype = 'advisory' AND granted
                AND (classid, objid) = (0, {number})"
        );
        until(url, &granted, "1").await;
        held
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // At the end of its input it ends.
        self.input = None;
        let _ = self.session.wait();
    }
}

/// A second request has an event of the first, which fails once the second has begun to wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn what_relied_on_a_request_that_failed_is_accepted_after_all() {
    const FAILURE: &str = "
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF new.id = '13' THEN
                PERFORM pg_advisory_xact_lock(13);
                RAISE 'not this one';
            END IF;
            RETURN new;
        END $$;
        CREATE TRIGGER fail BEFORE INSERT ON event FOR EACH ROW EXECUTE FUNCTION fail();";
    let Some(url) = database() else { return };
    let Node { store, dir: _dir } = node(&url).await;
    psql(&url, FAILURE).unwrap();
    let held = Held::lock(&url, 13).await;
    let failing = store.clone();
    let first = tokio::spawn(async move { append(&failing, &[event(12), event(13)]).await });
    let fails = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event = 'advisory'";
    until(&url, fails, "1").await;
    let relying = store.clone();
    let second = tokio::spawn(async move { append(&relying, &[event(12), event(14)]).await });
    // It has spent what is its own alone; if that was a while ago, it has given that back to wait longer.
    let relies = "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database()
        AND (state = 'idle in transaction' AND query LIKE 'COPY identity%' OR query = 'ROLLBACK')";
    until(&url, relies, "t").await;
    drop(held);
    assert_eq!(second.await.unwrap(), Ok(vec![Receipt::Accepted; 2]));
    assert!(first.await.unwrap().is_err());
    assert_eq!(all(&store, EventFilter::default()).await.unwrap().len(), 2);
    assert_eq!(store.event_counts().duplicates, 0);
    assert_eq!(wrong(&store).await, [""; 0]);
}
