//! Several nodes over one database.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::task::JoinSet;
use tollgate::model::change::Change;
use tollgate::model::event::{EventFilter, Order, PageQuery};
use tollgate::model::time::Timestamp;
use tollgate::store::{SharedSettings, StoreError, Term};

use super::Place;
use super::backing::{installed, psql};
use super::messages::event;
use super::relay::Relay;
use super::store_model::{History, Opened, connect};
use super::submitted;

/// So many ids are read at once.
const CHUNK_IDS: usize = 1_000_000;

/// So many pages of events are read at once.
const PAGES: usize = 8;

fn database() -> Option<(SharedSettings, Place)> {
    let place = Place::database()?;
    let Place::Database(settings, _) = &place else {
        unreachable!("it is a database");
    };
    Some((settings.clone(), place))
}

async fn term(opened: &Opened, is_meant: impl Fn(i64) -> bool) -> Term {
    let mut term = opened.store.term();
    let begun = term.wait_for(|term| term.is_some_and(|Term(epoch)| is_meant(epoch)));
    let begun = tokio::time::timeout(Duration::from_mins(1), begun).await;
    begun.unwrap().unwrap().unwrap()
}

/// Ingestions that together are more than is read at once, in one commit with other changes.
#[tokio::test]
async fn a_node_reads_as_many_large_ingestions_as_there_are() {
    let Some((settings, _place)) = database() else {
        return;
    };
    let (one, other) = (
        connect(&settings).await.unwrap(),
        connect(&settings).await.unwrap(),
    );
    let mut history = History::new(5);
    let mut changes = Vec::new();
    // The bound and one more, more than the bound alone, small ones around them.
    for ids in [1, CHUNK_IDS, 1, CHUNK_IDS + 1, 1, CHUNK_IDS - 2, 1, 1] {
        let mut change = history.submission();
        if let Change::Submitted { ingestion, .. } = &mut change {
            ingestion.ids = (0..i64::try_from(ids).unwrap()).collect();
        }
        history.state.apply(&change);
        changes.push(change);
        changes.extend(history.commit());
    }
    one.store.commit(changes).await.unwrap();
    other.store.sync().await.unwrap();
    assert_eq!(other.applied.lock().live, history.state.live);
    assert_eq!(one.applied.lock().live, history.state.live);
}

#[tokio::test]
async fn what_a_term_could_not_write_ends_no_later_one() {
    let Some((settings, _place)) = database() else {
        return;
    };
    let opened = connect(&settings).await.unwrap();
    let mut history = History::new(6);
    let first = term(&opened, |_| true).await;
    psql(&settings.url, "UPDATE head SET epoch = epoch + 10").unwrap();
    let refused = |change| opened.store.commit_in(first, vec![change]);
    let changes = [submitted(&mut history).0, submitted(&mut history).0];
    for change in changes.clone() {
        assert_eq!(refused(change).await, Err(StoreError::Deposed));
    }
    let second = term(&opened, |epoch| epoch > first.0).await;
    for change in changes {
        assert_eq!(refused(change).await, Err(StoreError::Deposed));
    }
    let mut terms = opened.store.term();
    let ended = tokio::time::timeout(Duration::from_millis(500), terms.wait_for(Option::is_none));
    assert!(ended.await.is_err(), "{second:?} ended");
    assert_eq!(*opened.store.term().borrow(), Some(second));
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_take_long_hold_up_no_short_reads() {
    let Some((settings, _place)) = database() else {
        return;
    };
    let store = connect(&settings).await.unwrap().store;
    let prepared = store.prepare(&[event(1)], Vec::new()).unwrap();
    store.append(prepared).await.unwrap();
    let mut psql_of_others = Command::new(installed("psql", "postgresql").unwrap());
    psql_of_others.args(["-X", "-q", &settings.url]);
    let pipes = psql_of_others.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut holder = pipes.spawn().unwrap();
    let mut commands = holder.stdin.take().unwrap();
    commands.write_all(b"BEGIN; LOCK TABLE event;\n").unwrap();
    let await_locks = |granted: bool, least: usize| {
        let sql = format!(
            "SELECT count(*) >= {least} FROM pg_locks JOIN pg_database ON pg_database.oid = database
             WHERE datname = current_database() AND relation <> 0 AND granted = {granted}
                 AND mode LIKE CASE WHEN {granted} THEN 'AccessExclusiveLock' ELSE '%' END"
        );
        let asked = (0..1_000).any(|_| psql(&settings.url, &sql).as_deref() == Ok("t"));
        assert!(asked, "nobody holds, or waits for, so many locks: {sql}");
    };
    // The table, and the partition of the event.
    await_locks(true, 2);
    let mut pages = JoinSet::new();
    for _ in 0..3 * PAGES {
        let store = store.clone();
        let query = PageQuery {
            filter: EventFilter::default(),
            order: Order::Ascending,
            after: None,
            skip: 0,
            limit: 10,
        };
        pages.spawn(async move { store.page(query).await });
    }
    await_locks(false, PAGES);
    let kept = store.kept_answer(7, Timestamp::EPOCH).await;
    assert_eq!(kept, Ok(None));
    drop(commands);
    holder.wait().unwrap();
    for page in pages.join_all().await {
        assert_eq!(page.unwrap().events.len(), 1);
    }
}

/// A database may be set to acknowledge what is not on disk, or to refuse what meets other transactions.
#[tokio::test]
async fn settings_of_the_database_weaken_no_promise() {
    let Some((settings, _place)) = database() else {
        return;
    };
    let url = &settings.url;
    let name = url.rsplit('/').next().unwrap();
    let weak = format!(
        "ALTER DATABASE {name} SET synchronous_commit = off;
         ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'"
    );
    psql(url, &weak).unwrap();
    assert_eq!(psql(url, "SHOW synchronous_commit").unwrap(), "off");
    let store = connect(&settings).await.unwrap().store;
    let watched = "CREATE TABLE seen (setting text);
        CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO seen SELECT TG_TABLE_NAME || ' ' || current_setting('synchronous_commit')
                || ' ' || current_setting('transaction_isolation');
            RETURN NULL;
        END $$;
        CREATE TRIGGER see AFTER INSERT ON change EXECUTE FUNCTION see();
        CREATE TRIGGER see AFTER INSERT ON identity EXECUTE FUNCTION see();
        CREATE TRIGGER see AFTER INSERT ON erased EXECUTE FUNCTION see()";
    psql(url, watched).unwrap();
    let change = submitted(&mut History::new(8)).0;
    store.commit(vec![change]).await.unwrap();
    let prepared = store.prepare(&[event(1)], Vec::new()).unwrap();
    store.append(prepared).await.unwrap();
    assert_eq!(store.erase(EventFilter::default()).await, Ok(1));
    let seen = psql(url, "SELECT DISTINCT setting FROM seen ORDER BY setting").unwrap();
    let expected = ["change", "erased", "identity"].map(|it| format!("{it} on read committed"));
    assert_eq!(seen.lines().collect::<Vec<_>>(), expected);
}

/// A database that takes everything and says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_hangs_holds_no_submission_up_for_ever() {
    let Some((settings, _place)) = database() else {
        return;
    };
    let place = settings.url.rsplit(['@', '/']).nth(1).unwrap();
    let relay = Relay::to(place.parse().unwrap());
    let through = SharedSettings {
        url: settings.url.replace(place, &relay.address().to_string()),
        ..settings.clone()
    };
    let store = connect(&through).await.unwrap().store;
    let mut history = History::new(9);
    relay.cut(true);
    let refused = store.commit(vec![submitted(&mut history).0]).await;
    assert!(matches!(refused, Err(StoreError::Away(_))), "{refused:?}");
    relay.cut(false);
    let change = submitted(&mut history).0;
    let until = tokio::time::timeout(Duration::from_mins(1), async {
        while store.commit(vec![change.clone()]).await.is_err() {}
    });
    until.await.unwrap();
}
