use std::path::Path;

use jiff::civil::date;
use tempfile::TempDir;

use super::from_events::VALUES;
use super::*;
use crate::clock::ManualClock;
use crate::model::event::{Event, EventFilter, Receipt};
use crate::store::StoreSettings;

mod figure;
mod gone;
mod model;

fn open(dir: &Path) -> Store {
    let settings = StoreSettings {
        dir: dir.to_owned(),
        accept_loss: false,
    };
    Store::open(&settings, |_| ()).unwrap()
}

async fn append(store: &Store, events: &[Event<'_>]) -> Vec<Receipt> {
    let prepared = store.prepare(events, Vec::new()).unwrap();
    store.append(prepared).await.unwrap()
}

fn time(text: &str) -> EventTime {
    EventTime {
        micros: Timestamp::parse(text).unwrap(),
        nanos: 0,
    }
}

/// One that stands still.
fn clock(at: &str) -> Clock {
    Clock::Manual(ManualClock::starting_at(time(at).micros))
}

fn event(id: usize, user: &str, at: &str, payload: String) -> Event<'static> {
    Event {
        tenant: "a".into(),
        topic: "".into(),
        id: format!("{id}").into(),
        time: time(at),
        source: None,
        event_type: Some("buy".into()),
        user: Some(user.to_owned().into()),
        payload: payload.into(),
        extra: "".into(),
    }
}

fn of_country(country: &str) -> Scope {
    Scope {
        segments: vec![Segment::parse(&format!("properties.country={country}")).unwrap()],
        ..Scope::default()
    }
}

fn country() -> SegmentPath {
    SegmentPath::parse("properties.country").unwrap()
}

/// A store with these events, and what asks about them.
async fn asking(events: &[Event<'_>]) -> (TempDir, Store, Analytics) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    append(&store, events).await;
    let analytics = Analytics::new(store.clone(), clock("2026-11-21T00:00:00Z"));
    (dir, store, analytics)
}

const ALL: TimeRange = (None, None);

#[tokio::test]
async fn too_many_events_are_refused_before_any_is_read() {
    let at = |id: usize| format!("2026-11-20T10:{:02}:{:02}Z", id / 60, id % 60);
    let made = |id: usize| event(id, "u", &at(id), r#"{"country":"UA"}"#.to_owned());
    let events: Vec<_> = (0..512).map(made).collect();
    let (_dir, _store, analytics) = asking(&events).await;
    let within = analytics.clone().reading_at_most(512);
    let answer = within.buckets(of_country("UA"), ALL, BucketSize::Day, TimeZone::UTC);
    assert_eq!(answer.await.unwrap()[0].count, 512);
    let beyond = analytics.reading_at_most(511);
    let answer = beyond.buckets(of_country("UA"), ALL, BucketSize::Day, TimeZone::UTC);
    let refused = answer.await.unwrap_err();
    let of = "events";
    assert_eq!(refused, AnalyticsError::TooBroad { limit: 511, of });
    assert!(refused.to_string().contains("more than 511 events"));
    assert!(refused.to_string().contains("tenant_id"));
    // The blocks of another time or tenant are not read for it.
    let later = (Some(time("2026-11-21T00:00:00Z")), None);
    let answer = beyond.buckets(of_country("UA"), later, BucketSize::Day, TimeZone::UTC);
    assert_eq!(answer.await, Ok(Vec::new()));
    let other = Scope {
        tenant: Some("b".to_owned()),
        ..of_country("UA")
    };
    let answer = beyond.buckets(other, ALL, BucketSize::Day, TimeZone::UTC);
    assert_eq!(answer.await, Ok(Vec::new()));
    // What the rollups know has no such bound.
    let answer = beyond.top_types(Scope::default(), ALL, 1).await.unwrap();
    assert_eq!(answer[0].count, 512);
}

#[tokio::test]
async fn an_erasure_makes_a_new_version() {
    let events: Vec<_> = (0..4)
        .map(|id| {
            let day = format!("2026-11-1{id}T10:00:00Z");
            event(id, "u", &day, r#"{"country":"UA"}"#.to_owned())
        })
        .collect();
    let (dir, store, analytics) = asking(&events).await;
    let before = analytics.version().await.unwrap();
    assert_eq!(analytics.version().await.unwrap(), before);
    let old = EventFilter {
        to: Some(time("2026-11-12T00:00:00Z")),
        ..EventFilter::default()
    };
    assert_eq!(store.erase(old.clone()).await, Ok(2));
    let after = analytics.version().await.unwrap();
    assert_ne!(after, before);
    assert_eq!(store.erase(old).await, Ok(0));
    assert_eq!(analytics.version().await.unwrap(), after);
    store.close().await;
    drop((store, analytics));
    let store = open(dir.path());
    let clock = clock("2026-11-21T00:00:00Z");
    assert_eq!(Analytics::new(store, clock).version().await, Ok(after));
}

#[tokio::test]
async fn values_are_listed_by_count() {
    let payloads = [
        r#"{"country":"UA"}"#,
        r#"{"country":"\u0055A"}"#,
        r#"{"country":1}"#,
        r#"{"country":1.0}"#,
        r#"{"country":"1"}"#,
        r#"{"country":null}"#,
        r#"{"country":["UA"]}"#,
        r#"{"city":"UA"}"#,
    ];
    let events = (0..).zip(payloads).map(|(id, payload)| {
        let user = if id == 0 { "u" } else { "v" };
        event(id, user, "2026-11-20T10:00:00Z", payload.to_owned())
    });
    let (_dir, _store, analytics) = asking(&events.collect::<Vec<_>>()).await;
    let list = async |limit| {
        let found = analytics.segment_values(Scope::default(), country(), ALL, limit);
        let found = found.await.unwrap();
        let of = |it: SegmentValue| (it.value, it.count, it.unique_users);
        (
            found.values.into_iter().map(of).collect::<Vec<_>>(),
            found.truncated,
        )
    };
    let one = ("1".to_owned(), 3, 1);
    let ua = ("UA".to_owned(), 2, 2);
    let null = ("null".to_owned(), 1, 1);
    assert_eq!(list(3).await, (vec![one.clone(), ua, null], false));
    assert_eq!(list(1).await, (vec![one], true));
    let types = analytics.segment_values(Scope::default(), SegmentPath::EventType, ALL, 5);
    let types = types.await.unwrap();
    assert_eq!((types.values[0].count, types.truncated), (8, false));
    let of_ua = analytics.segment_values(of_country("UA"), SegmentPath::EventType, ALL, 5);
    assert_eq!(of_ua.await.unwrap().values[0].count, 2);
}

#[tokio::test]
async fn values_that_are_told_apart_have_a_bound() {
    let long = "x".repeat(crate::model::event::MAX_NAME);
    let made = |id: usize| {
        let payload = match id {
            0 => format!(r#"{{"country":"{long}"}}"#),
            _ => format!(r#"{{"country":"c{id}"}}"#),
        };
        event(id, "u", "2026-11-20T10:00:00Z", payload)
    };
    let (_dir, store, analytics) = asking(&(0..VALUES).map(made).collect::<Vec<_>>()).await;
    let list = async || {
        let found = analytics.segment_values(Scope::default(), country(), ALL, usize::MAX);
        let found = found.await.unwrap();
        (found.values.len(), found.truncated)
    };
    assert_eq!(list().await, (VALUES, false));
    append(&store, &[made(VALUES)]).await;
    assert_eq!(list().await, (VALUES, true));
    let payload = format!(r#"{{"country":"{long}y"}}"#);
    let (_dir, _store, analytics) = asking(&[event(1, "u", "2026-11-20T10:00:00Z", payload)]).await;
    let found = analytics
        .segment_values(Scope::default(), country(), ALL, 10)
        .await
        .unwrap();
    assert_eq!((found.values.len(), found.truncated), (0, true));
}

#[tokio::test]
async fn a_date_beyond_the_calendar_is_refused() {
    let (_dir, _store, analytics) = asking(&[]).await;
    let refused = Err(AnalyticsError::Range);
    let end = jiff::civil::Date::MAX;
    let dates = (date(9999, 12, 30), end);
    let answer = analytics.active_users(of_country("UA"), dates, 1, TimeZone::UTC);
    assert_eq!(answer.await, refused);
    let daily = WindowType::Daily;
    let answer = analytics
        .retention(of_country("UA"), end, 3, daily, TimeZone::UTC)
        .await;
    assert_eq!(answer, Err(AnalyticsError::Range));
}
