//! What messages of the bus brought is committed once, however often they are delivered.

use std::collections::BTreeSet;

use fastrand::Rng;
use tokio::task::JoinSet;
use tollgate::model::bus::MessageName;
use tollgate::model::event::{Event, EventCounts, EventTime, Receipt};
use tollgate::model::time::Timestamp;
use tollgate::store::{NewLetter, Store, StoreError};

use super::Place;

pub(super) fn event(id: u64) -> Event<'static> {
    Event {
        tenant: "t".into(),
        topic: "".into(),
        id: id.to_string().into(),
        time: EventTime {
            micros: Timestamp::from_micros(id.cast_signed()),
            nanos: 0,
        },
        source: None,
        event_type: None,
        user: None,
        payload: "{}".into(),
        extra: "".into(),
    }
}

fn letter() -> NewLetter {
    NewLetter {
        refused_at: Timestamp::from_micros(7),
        errors: "[]".to_owned(),
        body: "{}".to_owned(),
    }
}

fn name(place: u64) -> MessageName {
    MessageName {
        place,
        published: 1_790_000_000_000_000_000 + place.cast_signed(),
    }
}

fn names(places: &[u64]) -> Vec<MessageName> {
    places.iter().map(|place| name(*place)).collect()
}

/// How many places of the stream are forgotten together.
const STRETCH: u64 = 256;

/// Events, and a letter for each message, as often as it takes until nobody else holds some of them.
async fn commit(
    store: &Store,
    events: &[Event<'static>],
    names: Vec<MessageName>,
) -> Result<Vec<Receipt>, StoreError> {
    loop {
        let letters = vec![letter(); names.len()];
        let prepared = store.prepare_messages(events, letters, names.clone())?;
        match store.append(prepared).await {
            Err(StoreError::Again) => {}
            done => return done,
        }
    }
}

/// Everything that a refusal must leave as it was.
async fn state(store: &Store) -> (EventCounts, usize) {
    store.sync().await.unwrap();
    let letters = store.letters(0, 1_000).await.unwrap().0.len();
    (store.event_counts(), letters)
}

/// In both arms; a database where there is one.
async fn in_each<F: Future<Output = ()>>(test: impl Fn(Place) -> F) {
    test(Place::directory()).await;
    if let Some(place) = Place::database() {
        test(place).await;
    }
}

const NEW: Receipt = Receipt::Accepted;
const DUPLICATE: Receipt = Receipt::Duplicate { conflicting: false };

#[tokio::test]
async fn a_message_is_committed_once() {
    in_each(|place| async move {
        let opened = place.open().await;
        let store = &opened.store;
        let first = commit(store, &[event(1), event(2), event(1)], names(&[5, 6])).await;
        assert_eq!(first.unwrap(), [NEW, NEW, DUPLICATE]);
        let before = state(store).await;
        assert_eq!(
            (before.0.accepted, before.0.duplicates, before.1),
            (2, 1, 2)
        );

        for places in [&[5, 6][..], &[6], &[4, 5], &[6, 7_000_000]] {
            let refused = commit(store, &[event(1), event(9)], names(places)).await;
            assert_eq!(refused, Err(StoreError::MessageTaken), "{places:?}");
            assert_eq!(state(store).await, before);
        }
        let known = store.known_messages(names(&[4, 5, 6, 7_000_000])).await;
        assert_eq!(known.unwrap(), names(&[5, 6]));
        drop(opened);
        let opened = place.open().await;
        let store = &opened.store;
        let refused = commit(store, &[event(9)], names(&[5])).await;
        assert_eq!(refused, Err(StoreError::MessageTaken));

        // The others of the same commit, and nothing was spent by the refusals.
        let others = commit(store, &[event(1), event(9)], names(&[4, 7_000_000])).await;
        assert_eq!(others.unwrap(), [DUPLICATE, NEW]);
        let after = state(store).await;
        assert_eq!((after.0.accepted, after.0.duplicates, after.1), (3, 2, 4));
        let none = commit(store, &[event(1), event(10)], Vec::new()).await;
        assert_eq!(
            none.unwrap(),
            [DUPLICATE, NEW],
            "without messages all is as ever"
        );
    })
    .await;
}

#[tokio::test]
async fn the_messages_of_a_stream_that_was_made_anew_are_new() {
    in_each(|place| async move {
        let opened = place.open().await;
        let later = MessageName {
            published: name(3).published + 1,
            ..name(3)
        };
        commit(&opened.store, &[event(1)], names(&[3]))
            .await
            .unwrap();
        let anew = commit(&opened.store, &[event(2)], vec![later]).await;
        assert_eq!(anew.unwrap(), [NEW]);
        let known = opened.store.known_messages(vec![name(3), later]).await;
        assert_eq!(known.unwrap(), [name(3), later]);
    })
    .await;
}

#[tokio::test]
async fn whole_stretches_are_forgotten_some_at_a_time() {
    in_each(|place| async move {
        let opened = place.open().await;
        let store = &opened.store;
        let places: Vec<u64> = (0..1_030)
            .map(|stretch| stretch * STRETCH + STRETCH - 1)
            .collect();
        commit(store, &[event(1)], names(&places)).await.unwrap();
        commit(store, &[event(2)], names(&[1029 * STRETCH]))
            .await
            .unwrap();
        let mut gone = Vec::new();
        loop {
            match store
                .forget_messages(1029 * STRETCH + STRETCH - 1)
                .await
                .unwrap()
            {
                0 => break,
                rows => gone.push(rows),
            }
        }
        assert_eq!(gone, [1024, 5]);
        let known = store.known_messages(names(&places)).await.unwrap();
        assert_eq!(known, names(&places[1029..]));
        assert_eq!(store.forget_messages(1030 * STRETCH).await.unwrap(), 2);
        assert_eq!(store.known_messages(names(&places)).await.unwrap(), []);
        drop(opened);
        place.open().await;
    })
    .await;
}

#[tokio::test]
async fn of_many_that_bring_the_same_message_one_commits_it() {
    in_each(|place| async move {
        let opened = place.open().await;
        // A second node, where there can be one.
        let other = match &place {
            Place::Directory(_) => None,
            Place::Database(..) => Some(place.open().await),
        };
        let stores = [&opened, other.as_ref().unwrap_or(&opened)];
        for round in 0..10 {
            let mut tasks = JoinSet::new();
            for task in 0..8 {
                let store = stores[usize::try_from(task % 2).unwrap()].store.clone();
                let events: Vec<_> = (0..20)
                    .map(|n| event(round * 1_000 + task * 10 + n))
                    .collect();
                let place = 100 * (round + 1);
                // Each has a message of its own, too: it must not be lost with the other.
                let both = names(&[place, place + task + 1]);
                tasks.spawn(async move {
                    let done = commit(&store, &events, both).await;
                    let plain = commit(&store, &events[..1], Vec::new()).await;
                    plain.unwrap();
                    (task, done.map(drop))
                });
            }
            let done = tasks.join_all().await;
            let taken: Vec<_> = done.iter().filter(|(_, done)| done.is_ok()).collect();
            assert_eq!(taken.len(), 1, "{done:?}");
            for (task, done) in &done {
                if done.is_err() {
                    assert_eq!(done, &Err(StoreError::MessageTaken));
                    let own = 100 * (round + 1) + task + 1;
                    commit(&stores[0].store, &[], names(&[own])).await.unwrap();
                }
            }
        }
    })
    .await;
}

/// A message of which others hold something is one commit all the same.
#[tokio::test]
async fn a_message_waits_for_what_others_hold_and_holds_nothing() {
    let place = Place::directory();
    let opened = place.open().await;
    let store = &opened.store;
    let held = store.prepare(&[event(1)], Vec::new()).unwrap();
    let wants = [event(1), event(2)];
    let waiting = store
        .prepare_messages(&wants, Vec::new(), names(&[1]))
        .unwrap();
    let free = commit(store, &[event(2)], Vec::new()).await;
    assert_eq!(free.unwrap(), [NEW], "it does not hold what was new to it");
    let store = store.clone();
    let task = tokio::spawn(async move {
        let refused = store.append(waiting).await;
        assert_eq!(refused, Err(StoreError::Again));
        commit(&store, &wants, names(&[1])).await.unwrap()
    });
    opened.store.append(held).await.unwrap();
    assert_eq!(task.await.unwrap(), [DUPLICATE; 2]);
    let counts = opened.store.event_counts();
    assert_eq!((counts.accepted, counts.duplicates), (2, 2));
}

/// Random commits against sets.
async fn takes_what_a_naive_model_takes(place: Place, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let (mut taken, mut spent, mut duplicates) = (BTreeSet::new(), BTreeSet::new(), 0);
    let mut opened = place.open().await;
    for round in 0..60_u64 {
        if rng.u8(..12) == 0 {
            drop(opened);
            opened = place.open().await;
        }
        let around = round * 300;
        let places: BTreeSet<u64> = (0..rng.usize(..6))
            .map(|_| rng.u64(around.saturating_sub(2_000)..around + 300))
            .collect();
        let ids: Vec<u64> = (0..rng.usize(1..8)).map(|_| rng.u64(..200)).collect();
        let events: Vec<_> = ids.iter().map(|id| event(*id)).collect();
        let wanted: Vec<_> = places.iter().map(|place| name(*place)).collect();
        let done = commit(&opened.store, &events, wanted.clone()).await;
        let known: Vec<_> = wanted
            .iter()
            .copied()
            .filter(|it| taken.contains(it))
            .collect();
        if !known.is_empty() {
            assert_eq!(done, Err(StoreError::MessageTaken));
            assert_eq!(opened.store.known_messages(wanted).await.unwrap(), known);
            continue;
        }
        let expected = ids
            .iter()
            .map(|id| if spent.insert(*id) { NEW } else { DUPLICATE });
        let expected: Vec<_> = expected.collect();
        duplicates += expected.iter().filter(|it| **it == DUPLICATE).count() as u64;
        assert_eq!(done.unwrap(), expected);
        taken.extend(wanted);
    }
    let (counts, letters) = state(&opened.store).await;
    assert_eq!(counts.accepted, spent.len() as u64);
    assert_eq!(counts.duplicates, duplicates);
    assert_eq!(letters, taken.len());
}

#[tokio::test]
async fn random_deliveries_are_taken_as_a_naive_model_takes_them() {
    for seed in 0..6 {
        in_each(|place| takes_what_a_naive_model_takes(place, seed)).await;
    }
}
