use std::sync::mpsc;

use proptest::prelude::*;
use tempfile::TempDir;
use tokio::sync::Notify;

use super::super::block::MAX_EVENTS;
use super::super::samples::{Blocks, any_event, event, typical};
use super::*;
use crate::model::event::{Event, EventTime, ScannedUser};
use crate::store::{Store, StoreSettings};

const EVERYTHING: ScanQuery = ScanQuery {
    tenant: None,
    source: None,
    event_types: Vec::new(),
    from: None,
    to: None,
    payloads: true,
    limit: u64::MAX,
};

fn open(dir: &TempDir) -> Store {
    let settings = StoreSettings {
        dir: dir.path().to_owned(),
        accept_loss: false,
    };
    Store::open(&settings, |_| ()).unwrap()
}

/// A store of this many blocks.
async fn store_of(dir: &TempDir, blocks: usize) -> Store {
    let store = open(dir);
    let events = typical(blocks * MAX_EVENTS, 1);
    let prepared = store.prepare(&events, Vec::new()).unwrap();
    store.append(prepared).await.unwrap();
    store
}

type Shown = (EventTime, String, [Option<String>; 3], String);

fn shown(event: &ScannedEvent<'_>) -> Shown {
    let own = |text: Option<&str>| text.map(str::to_owned);
    let user = event.user.map(|user| match user {
        ScannedUser::Named(name) => name,
        ScannedUser::Hashed(_) => panic!("nothing is erased here"),
    });
    let names = [own(event.source), own(event.event_type), own(user)];
    (
        event.time,
        event.tenant.to_owned(),
        names,
        event.payload.to_owned(),
    )
}

fn as_shown<'a>(event: &'a Event<'_>) -> ScannedEvent<'a> {
    ScannedEvent {
        time: event.time,
        tenant: &event.tenant,
        source: event.source.as_deref(),
        event_type: event.event_type.as_deref(),
        user: event.user.as_deref().map(ScannedUser::Named),
        payload: &event.payload,
    }
}

/// Scans without the async part.
fn scan(db: &Connection, query: &ScanQuery) -> (Option<Scan>, Vec<Shown>) {
    let found = Mutex::new(Vec::new());
    let each = |events: &[ScannedEvent<'_>]| {
        found.lock().extend(events.iter().map(shown));
        ControlFlow::Continue(())
    };
    let (gone, closing) = (AtomicBool::new(false), AtomicBool::new(false));
    let work = Work {
        query,
        each: &each,
        stops: [&gone, &closing],
        end: Mutex::default(),
        ended: AtomicBool::new(false),
    };
    let end = work.run(db).unwrap();
    let mut found = found.into_inner();
    found.sort();
    (end, found)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn exactly_what_is_meant_is_shown(
        requests in prop::collection::vec(prop::collection::vec(any_event(), 1..60), 1..6),
        merged: bool,
        bounds: [prop::sample::Index; 5],
        given: [bool; 5],
    ) {
        let mut blocks = Blocks::new();
        for request in &requests {
            blocks.append(request);
        }
        if merged {
            blocks.merge(&blocks.ids());
        }
        let all: Vec<_> = requests.concat();
        let one = |at: usize| &all[bounds[at].index(all.len())];
        let query = ScanQuery {
            tenant: given[0].then(|| one(0).tenant.to_string()),
            from: given[1].then(|| one(1).time),
            to: given[2].then(|| one(2).time),
            source: one(3).source.as_ref().filter(|_| given[3]).map(ToString::to_string),
            event_types: one(4).event_type.iter().filter(|_| given[4]).map(ToString::to_string).collect(),
            payloads: given[0],
            limit: u64::MAX,
        };
        let mut expected: Vec<Shown> = all
            .iter()
            .filter(|event| {
                query.tenant.as_deref().is_none_or(|it| it == event.tenant)
                    && query.source.as_deref().is_none_or(|it| event.source.as_deref() == Some(it))
                    && query.event_types.iter().all(|it| event.event_type.as_ref() == Some(&it.into()))
                    && query.from.is_none_or(|it| event.time >= it)
                    && query.to.is_none_or(|it| event.time < it)
            })
            .map(|event| shown(&as_shown(event)))
            .collect();
        expected.sort();
        prop_assert_eq!(scan(&blocks.db, &query), (Some(Scan::Whole), expected));
    }
}

#[test]
fn what_would_be_read_has_a_limit() {
    let mut blocks = Blocks::new();
    blocks.append(&typical(3 * MAX_EVENTS, 1));
    let within = |limit| {
        scan(
            &blocks.db,
            &ScanQuery {
                limit,
                ..EVERYTHING
            },
        )
    };
    assert_eq!(within(3 * MAX_EVENTS as u64).0, Some(Scan::Whole));
    let beyond = within(3 * MAX_EVENTS as u64 - 1);
    assert_eq!(beyond, (Some(Scan::TooBroad), Vec::new()));
    // Small blocks and large events cost more.
    let mut small = Blocks::new();
    small.append(&[event("a", 1, 0)]);
    let within = |blocks: &Blocks, limit| {
        scan(
            &blocks.db,
            &ScanQuery {
                limit,
                ..EVERYTHING
            },
        )
        .0
    };
    assert_eq!(within(&small, 64), Some(Scan::Whole));
    assert_eq!(within(&small, 63), Some(Scan::TooBroad));
    let mut large = Blocks::new();
    let mut random = fastrand::Rng::with_seed(1);
    let mut one = event("a", 1, 0);
    let payload: String = (0..60_000).map(|_| random.alphanumeric()).collect();
    one.payload = payload.into();
    large.append(&[one]);
    assert_eq!(within(&large, 64), Some(Scan::TooBroad));
    assert_eq!(within(&large, 300), Some(Scan::Whole));
}

#[test]
fn damage_is_told() {
    let mut blocks = Blocks::new();
    let ids = blocks.append(&typical(MAX_EVENTS, 1));
    let rotten = "UPDATE block_data SET data = zeroblob(length(data)) WHERE id = ?1";
    blocks.db.execute(rotten, [ids[0]]).unwrap();
    let (gone, closing) = (AtomicBool::new(false), AtomicBool::new(false));
    let work = Work {
        query: &EVERYTHING,
        each: &|_: &[ScannedEvent<'_>]| ControlFlow::Continue(()),
        stops: [&gone, &closing],
        end: Mutex::default(),
        ended: AtomicBool::new(false),
    };
    let damaged = work.run(&blocks.db).unwrap_err().into_store_error();
    assert!(matches!(damaged, StoreError::Damaged(_)), "{damaged}");
}

#[tokio::test]
async fn who_has_seen_enough_is_shown_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_of(&dir, 50).await;
    let calls = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&calls);
    let end = store.scan(EVERYTHING, move |_| {
        *counted.lock() += 1;
        ControlFlow::Break(())
    });
    assert_eq!(end.await, Ok(Scan::Left));
    assert!(*calls.lock() <= 2, "one call on each thread");
}

/// A scan that is in the middle of its first blocks until it is let go on.
struct Held {
    shown: Arc<Mutex<usize>>,
    begun: Arc<Notify>,
    /// Dropped to let it go on.
    _go_on: mpsc::Sender<()>,
}

impl Held {
    /// And what it shows events to.
    fn new() -> (
        Self,
        impl Fn(&[ScannedEvent<'_>]) -> ControlFlow<()> + Send + Sync + 'static,
    ) {
        let (go_on, wait) = mpsc::channel();
        let held = Self {
            shown: Arc::default(),
            begun: Arc::default(),
            _go_on: go_on,
        };
        let (shown, begun) = (Arc::clone(&held.shown), Arc::clone(&held.begun));
        let wait = Mutex::new(wait);
        let each = move |events: &[ScannedEvent<'_>]| {
            *shown.lock() += events.len();
            begun.notify_one();
            let _ = wait.lock().recv();
            ControlFlow::Continue(())
        };
        (held, each)
    }
}

#[tokio::test]
async fn a_scan_ends_when_its_caller_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_of(&dir, 50).await;
    let (held, each) = Held::new();
    let scanning = {
        let store = store.clone();
        tokio::spawn(async move { store.scan(EVERYTHING, each).await })
    };
    held.begun.notified().await;
    scanning.abort();
    assert!(scanning.await.unwrap_err().is_cancelled());
    let shown = Arc::clone(&held.shown);
    drop(held);
    // It has ended once nothing else has what it showed events to.
    while Arc::strong_count(&shown) > 1 {
        tokio::task::yield_now().await;
    }
    assert!(*shown.lock() <= 2 * MAX_EVENTS, "a block on each thread");
    assert_eq!(
        store.scan(EVERYTHING, |_| ControlFlow::Continue(())).await,
        Ok(Scan::Whole)
    );
}

#[tokio::test]
async fn a_scan_ends_when_the_store_closes() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_of(&dir, 50).await;
    let (held, each) = Held::new();
    let scanning = {
        let store = store.clone();
        tokio::spawn(async move { store.scan(EVERYTHING, each).await })
    };
    held.begun.notified().await;
    let shown = Arc::clone(&held.shown);
    let closing = {
        let store = store.clone();
        tokio::spawn(async move { store.close().await })
    };
    while store.scan(EVERYTHING, |_| ControlFlow::Continue(())).await != Err(StoreError::Closed) {
        tokio::task::yield_now().await;
    }
    drop(held);
    assert_eq!(scanning.await.unwrap(), Err(StoreError::Closed));
    assert!(*shown.lock() <= 2 * MAX_EVENTS, "a block on each thread");
    closing.await.unwrap();
}

#[tokio::test]
async fn the_scans_that_wait_have_a_bound() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_of(&dir, 1).await;
    let (mut all_held, mut scans) = (Vec::new(), Vec::new());
    for _ in 0..ADMITTED {
        let (held, each) = Held::new();
        let mut scan = Box::pin(store.scan(EVERYTHING, each));
        // Its place is taken when it is first polled.
        assert!(poll_once(scan.as_mut()).await.is_none());
        scans.push(scan);
        all_held.push(held);
    }
    let refused = store.scan(EVERYTHING, |_| ControlFlow::Continue(())).await;
    assert_eq!(refused, Err(StoreError::Busy));
    // A page does not wait for scans.
    let page = store.event("tenant-0", "", "nobody's");
    assert_eq!(page.await, Ok(None));
    drop(all_held);
    for scan in scans {
        assert_eq!(scan.await, Ok(Scan::Whole));
    }
    let again = store.scan(EVERYTHING, |_| ControlFlow::Continue(()));
    assert_eq!(again.await, Ok(Scan::Whole));
}

/// Polls once.
async fn poll_once<T>(mut future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        std::task::Poll::Ready(value) => std::task::Poll::Ready(Some(value)),
        std::task::Poll::Pending => std::task::Poll::Ready(None),
    })
    .await
}
