//! What the store promises about events, against a naive model: a list and a set.
#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

#[path = "support/backing.rs"]
mod backing;
#[path = "support/port.rs"]
mod port;

use std::collections::HashMap;
use std::fs;

use proptest::prelude::*;
use tempfile::TempDir;
use tollgate::clock::Clock;
use tollgate::model::event::{
    Event, EventFilter, EventTime, Order, PageQuery, Place, Receipt, Sequence, StoredEvent,
};
use tollgate::model::time::Timestamp;
use tollgate::store::{NewLetter, SharedSettings, Store, StoreSettings};

type Identity = (String, String, String);

/// Everything that was ever accepted, in order of arrival.
#[derive(Default)]
struct Model {
    kept: Vec<StoredEvent>,
    spent: HashMap<Identity, Event<'static>>,
    duplicates: u64,
    conflicting: u64,
}

fn identity(event: &Event<'_>) -> Identity {
    (
        event.tenant.to_string(),
        event.topic.to_string(),
        event.id.to_string(),
    )
}

impl Model {
    fn append(&mut self, events: &[Event<'static>]) -> Vec<Receipt> {
        events.iter().map(|event| self.append_one(event)).collect()
    }

    fn append_one(&mut self, event: &Event<'static>) -> Receipt {
        if let Some(first) = self.spent.get(&identity(event)) {
            let conflicting = first != event;
            self.duplicates += 1;
            self.conflicting += u64::from(conflicting);
            return Receipt::Duplicate { conflicting };
        }
        self.spent.insert(identity(event), event.clone());
        self.kept.push(StoredEvent {
            sequence: Sequence(self.spent.len() as u64),
            event: event.clone(),
        });
        Receipt::Accepted
    }

    fn erase(&mut self, filter: &EventFilter) -> u64 {
        let before = self.kept.len();
        self.kept.retain(|stored| !filter.matches(&stored.event));
        (before - self.kept.len()) as u64
    }

    fn sorted(&self, filter: &EventFilter, order: Order) -> Vec<StoredEvent> {
        let mut found: Vec<StoredEvent> = self
            .kept
            .iter()
            .filter(|stored| filter.matches(&stored.event))
            .cloned()
            .collect();
        found.sort_by_key(|stored| (stored.event.time, stored.sequence));
        if order == Order::Descending {
            found.reverse();
        }
        found
    }
}

/// Random events over few identities, times near and far.
struct Source(fastrand::Rng);

impl Source {
    fn name(&mut self, names: &[&str]) -> String {
        names[self.0.usize(..names.len())].to_owned()
    }

    fn maybe(&mut self, names: &[&str]) -> Option<std::borrow::Cow<'static, str>> {
        let name = self.name(names);
        self.0.bool().then_some(name.into())
    }

    fn time(&mut self) -> EventTime {
        let micros = match self.0.u8(..4) {
            0 => self.0.i64(-5..5),
            1 => self.0.i64(-60_000_000..60_000_000),
            2 => 1_700_000_000_000_000 + self.0.i64(0..1_000),
            _ => self.0.i64(-10_000_000_000_000_000..10_000_000_000_000_000),
        };
        EventTime {
            micros: Timestamp::from_micros(micros),
            nanos: if self.0.bool() { 0 } else { self.0.u16(..1000) },
        }
    }

    fn event(&mut self) -> Event<'static> {
        let payload = match self.0.u8(..3) {
            0 => "{}".to_owned(),
            1 => format!("{{\"ü\":{}}}", self.0.u8(..3)),
            _ => format!("{{\"text\":\"{}\"}}", "x".repeat(self.0.usize(..2_000))),
        };
        Event {
            tenant: self.name(&["default", "a", "b"]).into(),
            topic: self.name(&["", "ingest"]).into(),
            id: self.0.u16(..400).to_string().into(),
            time: self.time(),
            source: self.maybe(&["s1", "s2"]),
            event_type: self.maybe(&["click", "buy"]),
            user: self.maybe(&["u1", "u2", "u3"]),
            payload: payload.into(),
            extra: if self.0.u8(..8) == 0 {
                "{\"k\":[1, 2]}"
            } else {
                ""
            }
            .into(),
        }
    }

    fn request(&mut self) -> Vec<Event<'static>> {
        let most = if self.0.u8(..4) == 0 { 300 } else { 5 };
        (0..self.0.usize(1..=most)).map(|_| self.event()).collect()
    }

    fn filter(&mut self) -> EventFilter {
        let text =
            |it: Option<std::borrow::Cow<'static, str>>| it.map(std::borrow::Cow::into_owned);
        EventFilter {
            tenant: text(self.maybe(&["default", "a", "none"])),
            topic: text(self.maybe(&["", "ingest"])),
            source: text(self.maybe(&["s1"])),
            event_type: text(self.maybe(&["click", "buy"])),
            user: text(self.maybe(&["u1", "u2"])),
            from: self.0.bool().then(|| self.time()),
            to: self.0.bool().then(|| self.time()),
        }
    }
}

/// Where a store is.
struct Home {
    dir: TempDir,
    /// Of the database, if it is in one.
    url: Option<String>,
}

impl Home {
    fn embedded() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            url: None,
        }
    }

    /// `None` where there is no PostgreSQL.
    fn postgres() -> Option<Self> {
        Some(Self {
            url: Some(backing::database()?),
            ..Self::embedded()
        })
    }

    fn both() -> impl Iterator<Item = Self> {
        [Some(Self::embedded()), Self::postgres()]
            .into_iter()
            .flatten()
    }

    async fn open(&self) -> Store {
        let dir = self.dir.path().to_owned();
        let Some(url) = self.url.clone() else {
            let settings = StoreSettings {
                dir,
                accept_loss: false,
            };
            return Store::open(&settings, |_| {}).unwrap();
        };
        let settings = SharedSettings {
            url,
            read_url: None,
            dir,
        };
        let opened = Store::connect(&settings, Clock::system(), |_| {}).await;
        opened.unwrap()
    }

    /// Removes what is derived, if it is there.
    fn forget(&self) {
        let _ = fs::remove_dir_all(self.dir.path().join("seen"));
        let _ = fs::remove_file(self.dir.path().join("rollups"));
    }
}

async fn append(store: &Store, events: &[Event<'static>]) -> Vec<Receipt> {
    let prepared = store.prepare(events, Vec::new()).unwrap();
    store.append(prepared).await.unwrap()
}

/// All pages by cursor.
async fn pages(
    store: &Store,
    filter: &EventFilter,
    order: Order,
    limit: usize,
) -> Vec<StoredEvent> {
    let mut found = Vec::new();
    let mut after: Option<Place> = None;
    loop {
        let query = PageQuery {
            filter: filter.clone(),
            order,
            after,
            skip: 0,
            limit,
        };
        let page = store.page(query).await.unwrap();
        assert!(page.events.len() <= limit);
        found.extend(page.events);
        after = page.next;
        if after.is_none() {
            return found;
        }
    }
}

async fn expect_same(store: &Store, model: &Model, source: &mut Source) {
    store.sync().await.unwrap();
    let counts = store.event_counts();
    assert_eq!(counts.accepted, model.spent.len() as u64);
    assert_eq!(counts.duplicates, model.duplicates);
    assert_eq!(counts.conflicting, model.conflicting);
    assert_eq!(counts.last.0, model.spent.len() as u64);
    let filter = if source.0.bool() {
        EventFilter::default()
    } else {
        source.filter()
    };
    let order = [Order::Ascending, Order::Descending][source.0.usize(..2)];
    let expected = model.sorted(&filter, order);
    // Each page reads whole blocks: pages of one event only where there are few.
    let limit = [1, 7, 1000][source.0.usize(..3)].max(expected.len() / 10);
    assert_eq!(pages(store, &filter, order, limit).await, expected);
    let skip = source.0.u64(..=expected.len() as u64);
    let query = PageQuery {
        filter: filter.clone(),
        order,
        after: None,
        skip,
        limit,
    };
    let rest = &expected[usize::try_from(skip).unwrap()..];
    let page = store.page(query).await.unwrap();
    assert_eq!(page.events, rest[..limit.min(rest.len())]);

    let after = Sequence(source.0.u64(..=counts.last.0));
    let mut behind = model.kept.clone();
    behind.retain(|it| it.sequence > after && filter.matches(&it.event));
    let mut found = Vec::new();
    let mut looked = after;
    while looked < counts.last {
        let (events, up_to) = store
            .events_since(looked, filter.clone(), 50)
            .await
            .unwrap();
        assert!(up_to > looked && events.len() <= 50);
        found.extend(events);
        looked = up_to;
    }
    assert_eq!(found, behind);

    let wanted = source.event();
    let (tenant, topic, id) = identity(&wanted);
    let expected = model
        .kept
        .iter()
        .find(|stored| identity(&stored.event) == identity(&wanted));
    let found = store.event(&tenant, &topic, &id).await.unwrap();
    assert_eq!(found.as_ref(), expected);
}

/// Few cases, since each writes files; `PROPTEST_CASES` asks for more.
fn config(cases: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => default,
        None => ProptestConfig { cases, ..default },
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// A random history in a store, against the model.
async fn live(home: &Home, seed: u64, steps: usize) {
    let mut source = Source(fastrand::Rng::with_seed(seed));
    let mut model = Model::default();
    let mut store = home.open().await;
    for _ in 0..steps {
        match source.0.u8(..20) {
            0 => {
                let mut filter = source.filter();
                filter.tenant = Some("a".to_owned());
                assert_eq!(
                    store.erase(filter.clone()).await.unwrap(),
                    model.erase(&filter)
                );
            }
            1 | 2 => while store.pack().await.unwrap() {},
            3 => {
                if source.0.bool() {
                    store.close().await;
                }
                drop(store);
                if source.0.bool() {
                    home.forget();
                }
                store = home.open().await;
            }
            4..=7 => expect_same(&store, &model, &mut source).await,
            _ => {
                let request = source.request();
                assert_eq!(append(&store, &request).await, model.append(&request));
            }
        }
    }
    expect_same(&store, &model, &mut source).await;
    drop(store);
    expect_same(&home.open().await, &model, &mut source).await;
}

proptest! {
    #![proptest_config(config(32))]
    #[test]
    fn any_history_gives_what_a_list_and_a_set_give(seed: u64, steps in 1_usize..60) {
        runtime().block_on(live(&Home::embedded(), seed, steps));
    }
}

proptest! {
    #![proptest_config(config(8))]
    #[test]
    fn any_history_in_postgres_gives_what_a_list_and_a_set_give(seed: u64, steps in 1_usize..60) {
        if let Some(home) = Home::postgres() {
            runtime().block_on(live(&home, seed, steps));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_hundred_equal_events_at_once_one_is_accepted() {
    for home in Home::both() {
        let store = home.open().await;
        let event = Source(fastrand::Rng::with_seed(7)).event();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..200 {
            let (store, event) = (store.clone(), event.clone());
            tasks.spawn(async move { append(&store, &[event]).await[0] });
        }
        let receipts = tasks.join_all().await;
        let accepted = receipts.iter().filter(|it| **it == Receipt::Accepted);
        assert_eq!(accepted.count(), 1);
        store.sync().await.unwrap();
        let counts = store.event_counts();
        assert_eq!(
            (counts.accepted, counts.duplicates, counts.conflicting),
            (1, 199, 0)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_requests_that_hold_what_the_other_wants_both_end() {
    let home = Home::embedded();
    let store = home.open().await;
    let mut source = Source(fastrand::Rng::with_seed(8));
    let mut event = |id: &'static str| Event {
        id: id.into(),
        tenant: "a".into(),
        topic: "".into(),
        ..source.event()
    };
    let (one, two) = (event("1"), event("2"));
    let first = store
        .prepare(std::slice::from_ref(&one), Vec::new())
        .unwrap();
    let second = store
        .prepare(&[two.clone(), one.clone()], Vec::new())
        .unwrap();
    let third = store.prepare(&[two], Vec::new()).unwrap();
    // The first is given up: what it held is accepted from the one that waited for it.
    drop(first);
    let (second, third) = tokio::join!(store.append(second), store.append(third));
    assert_eq!(second.unwrap(), [Receipt::Accepted, Receipt::Accepted]);
    assert_eq!(third.unwrap(), [Receipt::Duplicate { conflicting: false }]);
    assert_eq!(store.event_counts().accepted, 2);
}

#[tokio::test]
async fn letters_are_kept_listed_and_discarded() {
    for home in Home::both() {
        let store = home.open().await;
        let letter = |n: i64| NewLetter {
            refused_at: Timestamp::from_micros(n),
            errors: "[]".to_owned(),
            body: format!("{{\"n\":{n}}}"),
        };
        let prepared = store.prepare(&[], vec![letter(1), letter(2)]).unwrap();
        assert_eq!(store.append(prepared).await.unwrap(), []);
        drop(store);
        let store = home.open().await;
        let (letters, more) = store.letters(0, 10).await.unwrap();
        assert!(!more);
        assert_eq!(letters.len(), 2);
        assert_eq!(letters[1].body, "{\"n\":2}");
        assert!(store.discard_letter(letters[0].id).await.unwrap());
        assert!(!store.discard_letter(letters[0].id).await.unwrap());
        assert_eq!(store.letter(letters[0].id).await.unwrap(), None);
        assert_eq!(
            store.letter(letters[1].id).await.unwrap().as_ref(),
            letters.get(1)
        );
    }
}
