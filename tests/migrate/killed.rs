//! Moves that end in the middle.

use std::future::poll_fn;
use std::path::Path;
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::task::Poll;

use tollgate::clock::Clock;
use tollgate::model::bus::MessageName;
use tollgate::model::event::{Event, EventFilter, EventTime, Receipt, Sequence};
use tollgate::model::time::Timestamp;
use tollgate::rollups::TenantComparison;
use tollgate::store::migration::{Migrated, MigrationSettings, migrate};
use tollgate::store::{NewLetter, OpenError, SharedSettings, Store, StoreError, StoreSettings};

use super::backing::{database, installed, psql};
use super::home;
use super::server::poll;

fn event(id: u64) -> Event<'static> {
    // Not in the order of arrival, so that blocks that were merged are of many commits.
    let shuffled = (id * 7_919 % 100_003).cast_signed();
    Event {
        tenant: format!("t{}", id % 4).into(),
        topic: format!("topic-{}", id % 3).into(),
        id: id.to_string().into(),
        time: EventTime {
            micros: Timestamp::from_micros(1_700_000_000_000_000 + shuffled * 60_000_000),
            nanos: 7,
        },
        source: id.is_multiple_of(2).then(|| "web".into()),
        event_type: Some("click".into()),
        user: Some(format!("u{}", id % 50).into()),
        payload: format!("{{\"n\":{id}}}").into(),
        extra: "".into(),
    }
}

/// The messages of a commit, in several stretches of the stream.
fn names(first: u64) -> Vec<MessageName> {
    let name = |far: u64| MessageName {
        place: first + far * 1_000_000,
        published: 1_700_000_000_000_000_000 + first.cast_signed(),
    };
    (0..5).map(name).collect()
}

fn open(dir: &Path) -> Store {
    let settings = StoreSettings {
        dir: dir.to_owned(),
        accept_loss: false,
    };
    Store::open(&settings, |_| {}).unwrap()
}

/// A directory with so many events, some of them erased, and what is merged is merged.
async fn fill(dir: &Path, events: u64, at_once: u64) {
    let store = open(dir);
    for first in (0..events).step_by(usize::try_from(at_once).unwrap()) {
        let chunk: Vec<_> = (first..events.min(first + at_once)).map(event).collect();
        let letter = NewLetter {
            refused_at: Timestamp::from_micros(1),
            errors: "[]".to_owned(),
            body: first.to_string(),
        };
        let prepared = store.prepare_messages(&chunk, vec![letter], names(first));
        let prepared = prepared.unwrap();
        store.append(prepared).await.unwrap();
    }
    while store.pack().await.unwrap() {}
    for user in ["u3", "u31"] {
        let filter = EventFilter {
            user: Some(user.to_owned()),
            ..EventFilter::default()
        };
        assert!(store.erase(filter).await.unwrap() > 0);
    }
    store.close().await;
}

/// Goes on with a migration, and leaves it after it was polled so often.
async fn run(settings: &MigrationSettings, polls: u32) -> Option<Result<Migrated, OpenError>> {
    let mut migration = pin!(migrate(settings, |_| {}));
    let mut left = polls;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        migration.as_mut().poll(context).map(Some)
    })
    .await
}

async fn connect(url: &str, dir: &Path) -> Result<Store, OpenError> {
    let settings = SharedSettings {
        url: url.to_owned(),
        read_url: None,
        dir: dir.to_owned(),
    };
    Store::connect(&settings, Clock::system(), |_| {}).await
}

/// Compares everything in the database with itself, and asks for events that it must know.
async fn check(url: &str, events: u64) {
    let node = tempfile::tempdir().unwrap();
    let store = connect(url, node.path()).await.unwrap();
    let verified = store.verify().await.unwrap();
    for check in &verified.checks {
        assert_eq!(check.expected, check.found, "{}", check.what);
    }
    assert!(verified.tenants.iter().all(TenantComparison::is_same));
    let total: u64 = verified.tenants.iter().map(|it| it.events.0).sum();
    assert_eq!(total, events);
    // By arrival, as they came.
    let (mut after, mut looked) = (Sequence(0), 0);
    while after.0 < events {
        let since = store.events_since(after, EventFilter::default(), 1_000);
        let (found, up_to) = since.await.unwrap();
        for it in found {
            assert_eq!(it.event, event(it.sequence.0 - 1));
            looked += 1;
        }
        assert!(up_to > after);
        after = up_to;
    }
    assert_eq!(
        looked,
        (0..events).filter(|id| !matches!(id % 50, 3 | 31)).count()
    );
    let known: Vec<_> = (0..200).map(event).collect();
    let receipts = store.append(store.prepare(&known, Vec::new()).unwrap());
    let duplicate = Receipt::Duplicate { conflicting: false };
    assert_eq!(receipts.await.unwrap(), [duplicate; 200]);
    for first in [0, 5_000] {
        let known = store.known_messages(names(first)).await.unwrap();
        assert_eq!(known, names(first));
        let again = store.prepare_messages(&[event(first)], Vec::new(), known);
        let refused = store.append(again.unwrap()).await;
        assert_eq!(refused, Err(StoreError::MessageTaken));
    }
    store.close().await;
}

#[tokio::test]
async fn a_migration_that_is_left_at_any_moment_goes_on_where_it_was() {
    let Some(url) = database() else { return };
    let home = tempfile::tempdir().unwrap();
    fill(home.path(), 6_000, 100).await;
    let settings = MigrationSettings {
        dir: home.path().to_owned(),
        to: url.clone(),
        batch: 400,
    };
    let (mut polls, mut left) = (1, 0);
    let migrated = loop {
        if let Some(done) = run(&settings, polls).await {
            break done.unwrap();
        }
        left += 1;
        polls += 3;
        // It may have been left when it had said that all was done.
        let unfinished = "SELECT count(*) FROM migration WHERE finished_at IS NULL";
        let begun = psql(&url, unfinished).unwrap_or_default() == "1";
        if begun && left % 5 == 0 {
            let refused = connect(&url, home.path()).await.err().unwrap();
            assert!(
                refused.0.contains("let `tollgate migrate` finish first"),
                "{refused}"
            );
        }
    };
    assert!(left > 10, "{left}");
    assert!(migrated.is_same(), "{migrated:?}");
    check(&url, 6_000).await;
}

#[tokio::test]
async fn a_store_whose_events_were_all_erased_is_moved_and_so_is_one_without_any() {
    let Some(url) = database() else { return };
    for (url, events) in [(url, 300), (database().unwrap(), 0)] {
        let home = tempfile::tempdir().unwrap();
        let store = open(home.path());
        let all: Vec<_> = (0..events).map(event).collect();
        store
            .append(store.prepare(&all, Vec::new()).unwrap())
            .await
            .unwrap();
        for tenant in ["t0", "t1", "t2", "t3"] {
            let filter = EventFilter {
                tenant: Some(tenant.to_owned()),
                ..EventFilter::default()
            };
            assert_eq!(store.erase(filter).await.unwrap(), events / 4);
        }
        store.close().await;
        drop(store);
        let settings = MigrationSettings {
            dir: home.path().to_owned(),
            to: url.clone(),
            batch: 100,
        };
        let migrated = migrate(&settings, |_| {}).await.unwrap();
        assert!(migrated.is_same(), "{migrated:?}");
        let node = tempfile::tempdir().unwrap();
        let store = connect(&url, node.path()).await.unwrap();
        let verified = store.verify().await.unwrap();
        let counted: u64 = verified.tenants.iter().map(|it| it.events.0).sum();
        assert_eq!((counted, store.event_counts().accepted), (events, events));
        assert!(verified.checks.iter().all(|it| it.expected == it.found));
        let mut new = all.clone();
        new.push(event(1_000));
        let receipts = store
            .append(store.prepare(&new, Vec::new()).unwrap())
            .await
            .unwrap();
        let accepted = receipts.iter().filter(|it| **it == Receipt::Accepted);
        assert_eq!(accepted.count(), 1);
        store.close().await;
    }
}

#[tokio::test]
async fn two_migrations_into_one_database_do_not_meet() {
    let Some(url) = database() else { return };
    let home = tempfile::tempdir().unwrap();
    open(home.path()).close().await;
    let settings = MigrationSettings {
        dir: home.path().to_owned(),
        to: url.clone(),
        batch: 100,
    };
    let mut other = holding(&url);
    poll("the lock is taken", || {
        let sql = format!("SELECT count(*) {HOLDERS}");
        (psql(&url, &sql).as_deref() == Ok("1")).then_some(())
    });
    let refused = migrate(&settings, |_| {}).await.unwrap_err();
    assert!(
        refused.0.contains("another `tollgate migrate` works on it"),
        "{refused}"
    );
    other.kill().unwrap();
    other.wait().unwrap();
    psql(&url, &format!("SELECT pg_terminate_backend(pid) {HOLDERS}")).unwrap();
    assert!(migrate(&settings, |_| {}).await.unwrap().is_same());
}

/// Who holds advisory locks of this database: others of the same server are those of other tests.
const HOLDERS: &str = "FROM pg_locks JOIN pg_database ON pg_database.oid = database
    WHERE datname = current_database() AND locktype = 'advisory' AND granted";

/// Holds the lock of those that move a directory into the database.
fn holding(url: &str) -> Child {
    let sql = format!(
        "SELECT pg_advisory_lock({}), pg_sleep(60)",
        0x746f_6c6c_6761_7404_i64
    );
    let program = installed("psql", "postgresql").unwrap();
    let mut command = Command::new(program);
    command.args(["-X", "-q", "-c", &sql, url]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().unwrap()
}

#[tokio::test]
async fn a_large_migration_that_is_killed_goes_on_where_it_was() {
    let Some(url) = database() else { return };
    let home = tempfile::tempdir().unwrap();
    fill(&home.path().join("data"), 100_000, 5_000).await;
    let arguments = ["migrate", "--to", &url, "--batch", "100", "--json"];
    for events in [1, 20_000, 40_000] {
        let mut child = home::command(home.path(), "", &arguments).spawn().unwrap();
        poll("so many events were moved", || {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended before it was killed");
            let sql = format!("SELECT count(*) >= {events} FROM event");
            (psql(&url, &sql).as_deref() == Ok("t")).then_some(())
        });
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let moved: u64 = psql(&url, "SELECT count(*) FROM event")
        .unwrap()
        .parse()
        .unwrap();
    assert!((40_000..96_000).contains(&moved), "{moved}");
    let output = home::command(home.path(), "", &arguments).output().unwrap();
    assert!(output.status.success(), "{}", home::err(&output));
    check(&url, 100_000).await;
}
