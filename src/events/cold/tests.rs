use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::events::parse::time;
use crate::model::event::{Event, Receipt, Sequence};
use crate::store::StoreSettings;

/// A part of these tests has so many events.
const ROWS: usize = 3;

/// A store and a cold tier over a directory, opened and dropped as by a crash.
struct Tier {
    home: tempfile::TempDir,
    store: Store,
    cold: Cold,
    /// All events that were accepted.
    sent: Vec<Event<'static>>,
    /// Held while the other one is closed.
    elsewhere: (tempfile::TempDir, Store),
}

impl Tier {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let (store, cold) = open(home.path());
        let elsewhere = tempfile::tempdir().unwrap();
        let (other, _) = open(elsewhere.path());
        Self {
            home,
            store,
            cold,
            sent: Vec::new(),
            elsewhere: (elsewhere, other),
        }
    }

    /// Nothing is closed or finished.
    fn crash(&mut self) {
        // The store lets go of its directory when its last handle is dropped.
        self.store = self.elsewhere.1.clone();
        self.cold = Cold::new(self.store.clone(), self.cold.settings.clone(), Term::ONLY);
        (self.store, self.cold) = open(self.home.path());
    }

    async fn send(&mut self, events: &[Event<'static>]) -> Vec<Receipt> {
        self.sent.extend_from_slice(events);
        let prepared = self.store.prepare(events, Vec::new()).unwrap();
        self.store.append(prepared).await.unwrap()
    }

    /// Moves until there is nothing to move.
    async fn drain(&mut self) {
        for _ in 0..100 {
            if self.cold.step(now()).await.unwrap() == Step::Nothing {
                return;
            }
        }
        panic!("there is no end to it");
    }

    async fn hot(&self) -> Vec<StoredEvent> {
        let mut pages = Pages::new(&self.store, EventFilter::default(), 100);
        let mut all = Vec::new();
        while let Some(events) = pages.next().await.unwrap() {
            all.extend(events);
        }
        all
    }

    /// The rows of all files by the name of the file, and of its folder.
    fn cold(&self) -> BTreeMap<String, Vec<StoredEvent>> {
        let mut files = BTreeMap::new();
        let Ok(folders) = fs::read_dir(self.home.path().join("cold")) else {
            return files;
        };
        let folders = folders.map(|entry| entry.unwrap().path());
        for folder in folders.filter(|path| path.is_dir()) {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                let rows = PartRows::open(&path).unwrap().map(|row| {
                    let (arrival, event) = row.unwrap();
                    let sequence = arrival.unwrap();
                    StoredEvent { sequence, event }
                });
                let name = path.strip_prefix(self.home.path().join("cold")).unwrap();
                files.insert(name.display().to_string(), rows.collect());
            }
        }
        files
    }

    /// Every event is in one place, and exactly as it was sent; nothing else is left.
    async fn check(&self) {
        let files = self.cold();
        for (name, rows) in &files {
            let day = |stored: &StoredEvent| Day::of(stored.event.time.micros).folder();
            assert!(rows.iter().all(|row| name.starts_with(&day(row))), "{name}");
            assert!((1..=ROWS).contains(&rows.len()), "{name}");
        }
        let mut found = self.hot().await;
        found.extend(files.into_values().flatten());
        let mut found: Vec<_> = found
            .into_iter()
            .map(|stored| (stored.event.id.clone(), stored.event))
            .collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        let mut sent: Vec<_> = self
            .sent
            .iter()
            .map(|event| (event.id.clone(), event.clone()))
            .collect();
        sent.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(found, sent);
        assert_eq!(self.unfinished(), [""; 0]);
    }

    /// The names beside the folders of days.
    fn unfinished(&self) -> Vec<String> {
        let entries = fs::read_dir(self.home.path().join("cold")).into_iter();
        let names = entries.flatten().map(|entry| entry.unwrap().file_name());
        let names = names.map(|name| name.into_string().unwrap());
        names.filter(|name| !name.starts_with("day=")).collect()
    }
}

fn open(home: &Path) -> (Store, Cold) {
    let settings = StoreSettings {
        dir: home.join("data"),
        accept_loss: false,
    };
    let store = Store::open(&settings, |_| ()).unwrap();
    let settings = ColdSettings {
        after: Duration::from_hours(48),
        dir: home.join("cold"),
    };
    let mut cold = Cold::new(store.clone(), settings, Term::ONLY);
    cold.limits.rows = ROWS;
    (store, cold)
}

/// All of 2026-01-08 is two days old, and nothing of the 9th.
fn now() -> Timestamp {
    time::parse("2026-01-11T00:00:00Z").unwrap().micros
}

fn event(id: &str, at: &str) -> Event<'static> {
    Event {
        tenant: "t".into(),
        topic: "".into(),
        id: id.to_owned().into(),
        time: time::parse(at).unwrap(),
        source: None,
        event_type: Some("ü".into()),
        user: None,
        payload: "{\"n\":1e400}".into(),
        extra: "".into(),
    }
}

/// Seven events of one day, four of them of one moment, one of another tenant; and one each of a
/// day before and the day after.
fn sample() -> Vec<Event<'static>> {
    let mut events = vec![
        event("before", "1969-12-31T23:59:59.999999999Z"),
        event("a", "2026-01-08T00:00:00Z"),
        event("after", "2026-01-09T00:00:00Z"),
        event("f", "2026-01-08T23:59:59.999999999Z"),
    ];
    events.extend(["b", "c", "d", "e"].map(|id| event(id, "2026-01-08T12:00:00.000000999Z")));
    events.push(event("g", "2026-01-08T12:00:00.000001Z"));
    if let Some(event) = events.get_mut(5) {
        event.tenant = "other".into();
    }
    events
}

#[tokio::test]
async fn whole_days_that_are_old_enough_are_moved_in_bounded_parts() {
    let mut tier = Tier::new();
    assert_eq!(tier.cold.step(now()).await.unwrap(), Step::Nothing);
    assert!(!tier.home.path().join("cold").exists(), "nothing to move");
    tier.cold.finished = None;
    tier.send(&sample()).await;
    let early = Timestamp::from_micros(now().as_micros() - 1);
    assert_eq!(tier.cold.step(early).await.unwrap(), Step::Moved(1));
    assert_eq!(tier.cold.step(early).await.unwrap(), Step::Nothing);
    assert_eq!(tier.cold.step(now()).await.unwrap(), Step::Moved(3));
    tier.check().await;
    tier.drain().await;
    tier.check().await;
    let files: Vec<_> = tier.cold().into_iter().collect();
    let files: Vec<(&str, Vec<&str>)> = files
        .iter()
        .map(|(name, rows)| {
            (
                name.as_str(),
                rows.iter().map(|row| &*row.event.id).collect(),
            )
        })
        .collect();
    assert_eq!(
        files,
        [
            ("day=1969-12-31/part-9.parquet", vec!["before"]),
            (
                "day=2026-01-08/part-9-43200000000999-6.parquet",
                vec!["a", "b", "c"]
            ),
            (
                "day=2026-01-08/part-9-43200000001000-9.parquet",
                vec!["d", "e", "g"]
            ),
            ("day=2026-01-08/part-9.parquet", vec!["f"]),
        ]
    );
    let hot = tier.hot().await;
    assert_eq!(hot.len(), 1);
    assert_eq!(hot[0].event.id, "after");
    assert_eq!(tier.store.event_counts().accepted, 9);
}

#[tokio::test]
async fn what_was_moved_stays_a_duplicate_and_late_events_make_further_parts() {
    let mut tier = Tier::new();
    tier.send(&sample()).await;
    tier.drain().await;
    let prepared = tier.store.prepare(&sample(), Vec::new()).unwrap();
    let receipts = tier.store.append(prepared).await.unwrap();
    assert_eq!(receipts, [Receipt::Duplicate { conflicting: false }; 9]);
    tier.send(&[event("late", "2026-01-08T00:00:00Z")]).await;
    assert_eq!(
        tier.cold.step(now()).await.unwrap(),
        Step::Nothing,
        "not each alone"
    );
    assert_eq!(tier.hot().await.len(), 2);
    tier.crash();
    tier.drain().await;
    tier.check().await;
    let files = tier.cold();
    assert_eq!(files["day=2026-01-08/part-10.parquet"].len(), 1);
    assert_eq!(files.len(), 5);
}

/// Where a step ends early.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
enum Crash {
    HalfWritten,
    Written,
    Published,
    HalfErased,
    Erased,
}

/// A step up to `at`.
async fn step_up_to(cold: &mut Cold, at: Crash) {
    let due = Day::of(now().minus(cold.settings.after)).before();
    let Some(day) = cold.oldest(due).await.unwrap() else {
        return;
    };
    cold.sweep().await.unwrap();
    cold.settle_day(day).await.unwrap();
    let Some(part) = cold.write(day).await.unwrap() else {
        return;
    };
    let covers = part.covers;
    if at == Crash::HalfWritten {
        let bytes = fs::read(&part.temporary).unwrap();
        fs::write(&part.temporary, &bytes[..bytes.len() / 2]).unwrap();
    }
    if at < Crash::Published {
        return;
    }
    let path = cold.publish(&part).await.unwrap();
    if at == Crash::HalfErased {
        // The store erases some blocks at a time, in no order that this could rely on.
        let (filter, last) = covers.filters().pop().unwrap();
        let filter = EventFilter {
            tenant: Some("t".to_owned()),
            ..filter
        };
        cold.store.erase_in(cold.term, filter, last).await.unwrap();
    }
    if at == Crash::Erased {
        cold.settle(covers, &path).await.unwrap();
    }
}

#[tokio::test]
async fn after_a_crash_at_any_point_each_event_is_in_one_place() {
    use Crash::{Erased, HalfErased, HalfWritten, Published, Written};
    for whole in 0..4 {
        for at in [HalfWritten, Written, Published, HalfErased, Erased] {
            let mut tier = Tier::new();
            tier.send(&sample()).await;
            for _ in 0..whole {
                tier.cold.step(now()).await.unwrap();
            }
            step_up_to(&mut tier.cold, at).await;
            if whole % 2 == 1 {
                tier.send(&late()).await;
            }
            tier.crash();
            // And again, on the way.
            step_up_to(&mut tier.cold, at).await;
            tier.crash();
            tier.drain().await;
            tier.check().await;
            assert_eq!(tier.hot().await.len(), 1, "{whole} {at:?}");
            let prepared = tier.store.prepare(&tier.sent, Vec::new()).unwrap();
            let receipts = tier.store.append(prepared).await.unwrap();
            let duplicate = Receipt::Duplicate { conflicting: false };
            assert!(receipts.iter().all(|receipt| *receipt == duplicate));
        }
    }
}

/// Events of days that may have been moved, before, between and at the times of others.
fn late() -> [Event<'static>; 3] {
    [
        event("late", "2026-01-08T00:00:00Z"),
        event("later", "1969-12-31T00:00:00Z"),
        event("latest", "2026-01-08T12:00:00.000000999Z"),
    ]
}

#[tokio::test]
async fn events_that_arrive_while_a_part_is_made_are_left_to_the_next() {
    let mut tier = Tier::new();
    tier.send(&sample()).await;
    tier.cold.step(now()).await.unwrap();
    let day = Day::of(tier.sent[1].time.micros);
    for limit in [ROWS, 100] {
        tier.cold.limits.rows = limit;
        let last = *tier.store.last_event().borrow();
        let during = format!("during-{limit}");
        tier.send(&[event(&during, "2026-01-08T00:00:00Z")]).await;
        let part = tier.cold.write_up_to(day, last).await.unwrap();
        let part = part.unwrap();
        let path = tier.cold.publish(&part).await.unwrap();
        let erased = tier.cold.settle(part.covers, &path).await.unwrap();
        assert_eq!(erased, part.rows);
        let hot = tier.hot().await;
        assert!(hot.iter().any(|stored| stored.event.id == during));
        tier.crash();
    }
    tier.drain().await;
    let found = tier.cold().into_values().flatten().count() + tier.hot().await.len();
    assert_eq!(found, tier.sent.len());
}

#[tokio::test]
async fn events_that_a_final_file_does_not_have_are_not_erased() {
    let mut tier = Tier::new();
    tier.send(&sample()).await;
    tier.cold.step(now()).await.unwrap();
    // As if the store were another one than that of the files.
    let folder = tier.home.path().join("cold/day=2026-01-08");
    fs::create_dir_all(&folder).unwrap();
    let foreign = folder.join("part-20.parquet");
    let mut part = PartWriter::create(&foreign, Limits::default()).unwrap();
    for (number, event) in sample().iter().enumerate() {
        let wrong = Event {
            payload: "{}".into(),
            ..event.clone()
        };
        part.push(Some(Sequence(number as u64 + 1)), &wrong)
            .unwrap();
    }
    part.finish().unwrap();
    for _ in 0..2 {
        let error = tier.cold.step(now()).await.unwrap_err().to_string();
        assert!(
            error.contains("part-20.parquet should have event a (arrival 2)"),
            "{error}"
        );
        assert_eq!(tier.hot().await.len(), 8);
    }
    // Nor those of a file that is damaged.
    fs::write(&foreign, b"PAR1").unwrap();
    assert!(tier.cold.step(now()).await.is_err());
    fs::remove_file(&foreign).unwrap();
    tier.drain().await;
    tier.check().await;
}

#[tokio::test]
async fn a_full_disk_is_told() {
    let Ok(full) = fs::File::options().write(true).open("/dev/full") else {
        return; // Only Linux has one.
    };
    let mut tier = Tier::new();
    tier.send(&sample()).await;
    let part = PartWriter::over(full, tier.cold.limits).unwrap();
    let day = Day::of(tier.sent[1].time.micros);
    let last = *tier.store.last_event().borrow();
    let path = Path::new("/dev/full");
    let filled = tier.cold.fill(part, path, day, last).await;
    let Err(ColdError::File { error, .. }) = filled else {
        panic!("it can't be written to");
    };
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
}

#[tokio::test]
async fn what_can_t_become_final_leaves_nothing_behind_and_is_moved_later() {
    let mut tier = Tier::new();
    tier.send(&sample()).await;
    let folder = tier.home.path().join("cold/day=1969-12-31");
    fs::create_dir(tier.home.path().join("cold")).unwrap();
    for _ in 0..2 {
        // The directory of the day can't be made.
        fs::write(&folder, "").unwrap();
        let day = Day::of(tier.sent[0].time.micros);
        let part = tier.cold.write(day).await.unwrap().unwrap();
        assert!(part.temporary.exists());
        let error = tier.cold.publish(&part).await.unwrap_err();
        assert!(matches!(error, ColdError::File { .. }), "{error}");
        assert_eq!(tier.unfinished(), [""; 0]);
        tier.cold.step(now()).await.unwrap_err();
        assert_eq!(tier.hot().await.len(), 9);
        assert_eq!(tier.unfinished(), [""; 0]);
    }
    fs::remove_file(&folder).unwrap();
    tier.drain().await;
    tier.check().await;
}

#[tokio::test]
async fn what_is_erased_while_it_is_moved_does_not_stop_the_move() {
    let mut tier = Tier::new();
    tier.send(&sample()[1..2]).await;
    let day = Day::of(tier.sent[0].time.micros);
    let part = tier.cold.write(day).await.unwrap().unwrap();
    assert_eq!(part.rows, 1);
    tier.store.erase(EventFilter::default()).await.unwrap();
    let path = tier.cold.publish(&part).await.unwrap();
    assert_eq!(tier.cold.settle(part.covers, &path).await.unwrap(), 0);
    assert!(tier.cold.write(day).await.unwrap().is_none());
    assert_eq!(tier.unfinished(), [""; 0]);
    tier.check().await;
}

mod terms;
