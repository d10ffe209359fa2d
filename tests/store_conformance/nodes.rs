//! Several nodes over one database.

use std::time::Duration;

use tollgate::model::change::Change;
use tollgate::store::{SharedSettings, StoreError, Term};

use super::Place;
use super::backing::psql;
use super::store_model::{History, Opened, connect};
use super::submitted;

/// So many ids are read at once.
const CHUNK_IDS: usize = 1_000_000;

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
