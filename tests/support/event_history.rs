//! Random histories of events, and every state that a store was in.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use tollgate::model::event::{
    Event, EventFilter, EventTime, Order, PageQuery, Place, Receipt, Sequence, StoredEvent,
};
use tollgate::model::time::Timestamp;
use tollgate::rollups::{Filter, Rollups, Span};
use tollgate::store::{NewLetter, OpenError, Store, StoreError, StoreSettings};

pub type Identity = (String, String, String);

/// What was committed, as a reader can see it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Shown {
    /// In order of (time, arrival).
    pub events: Vec<StoredEvent>,
    pub accepted: u64,
    pub duplicates: u64,
    pub conflicting: u64,
    pub topics: BTreeSet<String>,
    /// By type: how many events there ever were, and how many users they had.
    pub counted: BTreeMap<String, (u64, u64)>,
    /// By number: the body.
    pub letters: BTreeMap<u64, String>,
}

/// A state: what is shown, and every identity that was ever accepted, with its first event.
#[derive(Clone, Default)]
pub struct State {
    pub shown: Shown,
    pub spent: BTreeMap<Identity, Event<'static>>,
    /// By type: the users of each tenant.
    users: BTreeMap<String, BTreeSet<(String, String)>>,
}

pub fn identity(event: &Event<'_>) -> Identity {
    (
        event.tenant.to_string(),
        event.topic.to_string(),
        event.id.to_string(),
    )
}

impl State {
    pub fn append(&mut self, events: &[Event<'static>]) -> Vec<Receipt> {
        let receipts = events.iter().map(|event| self.append_one(event)).collect();
        let place = |stored: &StoredEvent| (stored.event.time, stored.sequence);
        self.shown.events.sort_by_key(place);
        receipts
    }

    fn append_one(&mut self, event: &Event<'static>) -> Receipt {
        if let Some(first) = self.spent.get(&identity(event)) {
            let conflicting = first != event;
            self.shown.duplicates += 1;
            self.shown.conflicting += u64::from(conflicting);
            return Receipt::Duplicate { conflicting };
        }
        self.spent.insert(identity(event), event.clone());
        self.shown.topics.insert(event.topic.to_string());
        self.shown.accepted += 1;
        let kind = event.event_type.as_deref().unwrap().to_owned();
        let users = self.users.entry(kind.clone()).or_default();
        users.insert((
            event.tenant.to_string(),
            event.user.as_deref().unwrap().to_owned(),
        ));
        let counted = self.shown.counted.entry(kind).or_default();
        *counted = (counted.0 + 1, users.len() as u64);
        self.shown.events.push(StoredEvent {
            sequence: Sequence(self.shown.accepted),
            event: event.clone(),
        });
        Receipt::Accepted
    }
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
}

pub fn open(dir: &Path, accept_loss: bool) -> Result<Store, OpenError> {
    let settings = StoreSettings {
        dir: dir.to_owned(),
        accept_loss,
    };
    Store::open(&settings, |_| {})
}

pub async fn append(store: &Store, events: &[Event<'static>]) -> Result<Vec<Receipt>, StoreError> {
    store.append(store.prepare(events, Vec::new())?).await
}

/// Every event that `filter` means, by pages of `limit`.
pub async fn pages(
    store: &Store,
    filter: &EventFilter,
    order: Order,
    limit: usize,
) -> Result<Vec<StoredEvent>, StoreError> {
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
        let page = store.page(query).await?;
        found.extend(page.events);
        after = page.next;
        if after.is_none() {
            return Ok(found);
        }
    }
}

/// What a store shows.
pub async fn shown(store: &Store) -> Result<Shown, StoreError> {
    let counts = store.event_counts();
    let filter = EventFilter::default();
    let (letters, _) = store.letters(0, 1000).await?;
    let all = |rollups: &Rollups| rollups.top_types(&Filter::default(), Span::ALL, 1000);
    let types = store.rollups(all).await?.unwrap();
    Ok(Shown {
        events: pages(store, &filter, Order::Ascending, 250).await?,
        accepted: counts.accepted,
        duplicates: counts.duplicates,
        conflicting: counts.conflicting,
        topics: counts.topics.into_iter().collect(),
        counted: types
            .into_iter()
            .map(|it| (it.event_type, (it.count, it.unique_users)))
            .collect(),
        letters: letters.into_iter().map(|it| (it.id, it.body)).collect(),
    })
}

/// Files by their path below the data directory, without what only a running process has.
pub type Files = BTreeMap<String, Vec<u8>>;

pub fn read_files(dir: &Path) -> Files {
    let mut files = Files::new();
    for below in ["", "seen"] {
        let Ok(entries) = fs::read_dir(dir.join(below)) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
            if path.is_file() && name != "LOCK" && !name.ends_with("-shm") {
                files.insert(name, fs::read(path).unwrap());
            }
        }
    }
    files
}

pub fn write_files(dir: &Path, files: &Files) {
    for (name, bytes) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// A store that lives through a random history.
pub struct History {
    rng: fastrand::Rng,
    pub dir: tempfile::TempDir,
    pub store: Store,
    pub state: State,
    /// One for each commit that changed something, and the empty one.
    pub states: Vec<State>,
    ids: u32,
}

impl History {
    pub fn new(seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            rng: fastrand::Rng::with_seed(seed),
            store: open(dir.path(), false).unwrap(),
            dir,
            state: State::default(),
            states: vec![State::default()],
            ids: 0,
        }
    }

    /// An event with an identity of its own.
    pub fn event(&mut self) -> Event<'static> {
        self.ids += 1;
        let rng = &mut self.rng;
        let mut one = |names: &[&str]| rng.choice(names).copied().unwrap().to_owned();
        let (tenant, topic) = (one(&["a", "b", "c"]), one(&["", "ingest", "t"]));
        let (kind, user) = (one(&["click", "buy"]), one(&["u1", "u2", "u3", "u4"]));
        let micros = match rng.u8(..3) {
            0 => rng.i64(-50..50),
            1 => 1_700_000_000_000_000 + rng.i64(0..60_000_000),
            _ => rng.i64(-10_000_000_000_000_000..10_000_000_000_000_000),
        };
        let noise: String = (0..rng.usize(..120)).map(|_| rng.alphanumeric()).collect();
        Event {
            tenant: tenant.into(),
            topic: topic.into(),
            id: format!("e{}", self.ids).into(),
            time: EventTime {
                micros: Timestamp::from_micros(micros),
                nanos: if rng.bool() { 0 } else { rng.u16(..1000) },
            },
            source: None,
            event_type: Some(kind.into()),
            user: Some(user.into()),
            payload: format!("{{\"noise\":\"{noise}\"}}").into(),
            extra: "".into(),
        }
    }

    /// New events, old ones again, and old ones that say something else.
    fn request(&mut self) -> Vec<Event<'static>> {
        let most = if self.rng.u8(..6) == 0 { 90 } else { 12 };
        let old: Vec<Event<'static>> = self.state.spent.values().cloned().collect();
        (0..self.rng.usize(1..=most))
            .map(|_| match self.rng.choice(&old) {
                Some(old) if self.rng.u8(..5) == 0 => {
                    let mut again = old.clone();
                    if self.rng.bool() {
                        again.payload = "{\"other\":1}".into();
                    }
                    again
                }
                _ => self.event(),
            })
            .collect()
    }

    /// Commits something; what it answers is compared with the state.
    pub async fn step(&mut self) {
        match self.rng.u8(..16) {
            0 => while self.store.pack().await.unwrap() {},
            1 => self.erase().await,
            2 => self.letters().await,
            _ => {
                let request = self.request();
                let receipts = append(&self.store, &request).await.unwrap();
                assert_eq!(receipts, self.state.append(&request));
            }
        }
        self.states.push(self.state.clone());
    }

    pub async fn erase(&mut self) {
        let filter = EventFilter {
            tenant: Some("a".to_owned()),
            user: Some("u1".to_owned()),
            ..EventFilter::default()
        };
        let events = &mut self.state.shown.events;
        let before = events.len();
        events.retain(|stored| !filter.matches(&stored.event));
        let erased = (before - events.len()) as u64;
        assert_eq!(self.store.erase(filter).await.unwrap(), erased);
    }

    pub async fn letters(&mut self) {
        let letters = &mut self.state.shown.letters;
        if letters.len() > 2 {
            let (id, _) = letters.pop_first().unwrap();
            assert!(self.store.discard_letter(id).await.unwrap());
            return;
        }
        let body = format!("{{\"refused\":{}}}", self.rng.u32(..));
        letters.insert(
            letters.last_key_value().map_or(0, |(id, _)| *id) + 1,
            body.clone(),
        );
        let letter = NewLetter {
            refused_at: Timestamp::EPOCH,
            errors: "[]".to_owned(),
            body,
        };
        let prepared = self.store.prepare(&[], vec![letter]).unwrap();
        assert_eq!(self.store.append(prepared).await.unwrap(), []);
    }

    pub async fn steps(&mut self, count: usize) {
        for _ in 0..count {
            self.step().await;
        }
    }

    /// A clean stop, and a start.
    pub async fn restart(&mut self) {
        self.store.close().await;
        self.store = open(self.dir.path(), false).unwrap();
    }
}
