//! Events that are gone from the store.

use super::*;

fn of_tenant(tenant: &'static str, event: Event<'static>) -> Event<'static> {
    Event {
        tenant: tenant.into(),
        ..event
    }
}

fn payload() -> String {
    r#"{"country":"UA"}"#.to_owned()
}

fn from(text: &str) -> TimeRange {
    (Some(time(text)), None)
}

fn gone(last: &str) -> AnalyticsError {
    AnalyticsError::EventsGone {
        last: time(last),
        cohorts: false,
    }
}

/// Two users of two tenants on three days, of whom `u` of `a` is erased on the second.
async fn some_erased() -> (TempDir, Store, Analytics) {
    let mut events = Vec::new();
    for tenant in ["a", "b"] {
        for (id, user) in ["u", "v"].into_iter().enumerate() {
            for day in 10..13 {
                let at = format!("2026-11-{day}T10:00:0{id}Z");
                events.push(of_tenant(
                    tenant,
                    event(day * 10 + id, user, &at, payload()),
                ));
            }
        }
    }
    let (dir, store, analytics) = asking(&events).await;
    let filter = EventFilter {
        tenant: Some("a".to_owned()),
        user: Some("u".to_owned()),
        from: Some(time("2026-11-11T00:00:00Z")),
        to: Some(time("2026-11-12T00:00:00Z")),
        ..EventFilter::default()
    };
    assert_eq!(store.erase(filter).await, Ok(1));
    (dir, store, analytics)
}

async fn count(
    analytics: &Analytics,
    scope: Scope,
    range: TimeRange,
) -> Result<u64, AnalyticsError> {
    let days = analytics.buckets(scope, range, BucketSize::Day, TimeZone::UTC);
    Ok(days.await?.iter().map(|bucket| bucket.count).sum())
}

#[tokio::test]
async fn payloads_that_are_gone_are_missed_where_they_are_needed_only() {
    let (_dir, _store, analytics) = some_erased().await;
    let erased = "2026-11-11T10:00:00Z";
    let refused = Err(gone(erased));
    let all = of_country("UA");
    assert_eq!(count(&analytics, all.clone(), ALL).await, refused);
    // To the microsecond.
    assert_eq!(count(&analytics, all.clone(), from(erased)).await, refused);
    let behind = from("2026-11-11T10:00:00.000001Z");
    assert_eq!(count(&analytics, all.clone(), behind).await, Ok(2 + 4));
    let before = (None, Some(time(erased)));
    assert_eq!(count(&analytics, all.clone(), before).await, Ok(4));
    let up_to = (None, Some(time("2026-11-11T10:00:00.000001Z")));
    assert_eq!(count(&analytics, all.clone(), up_to).await, refused);
    // Other tenants, sources and types.
    let of = |tenant: &str| Scope {
        tenant: Some(tenant.to_owned()),
        ..all.clone()
    };
    assert_eq!(count(&analytics, of("a"), ALL).await, refused);
    assert_eq!(count(&analytics, of("b"), ALL).await, Ok(6));
    let source = Some("web".to_owned());
    let web = Scope {
        source,
        ..all.clone()
    };
    assert_eq!(count(&analytics, web, ALL).await, Ok(0));
    for (event_type, answer) in [("buy", refused.clone()), ("view", Ok(0))] {
        let mut scope = all.clone();
        scope
            .segments
            .push(Segment::EventType(event_type.to_owned()));
        assert_eq!(count(&analytics, scope, ALL).await, answer);
    }
    let values = analytics.segment_values(Scope::default(), country(), ALL, 5);
    assert_eq!(values.await, Err(gone(erased)));
    let daily = WindowType::Daily;
    let first = date(2026, 11, 12);
    let cohorts = analytics.retention(of("a"), first, 1, daily, TimeZone::UTC);
    let last = time(erased);
    let cohorts_gone = AnalyticsError::EventsGone {
        last,
        cohorts: true,
    };
    assert_eq!(cohorts.await, Err(cohorts_gone));
}

#[tokio::test]
async fn what_remains_is_enough_where_no_payload_is_needed() {
    let (dir, store, analytics) = some_erased().await;
    let to_the_second = async |analytics: &Analytics| {
        let range = from("2026-11-10T10:00:01Z");
        let days = analytics.buckets(Scope::default(), range, BucketSize::Day, TimeZone::UTC);
        let days = days.await.unwrap();
        let counts = days.iter().map(|it| (it.count, it.unique_users));
        counts.collect::<Vec<_>>()
    };
    let expected = [(2, 2), (4, 4), (4, 4)];
    assert_eq!(to_the_second(&analytics).await, expected);
    // The user that is erased on one day is the one that is not on the others.
    let amsterdam = TimeZone::get("Europe/Amsterdam").unwrap();
    let old = |id: usize, user, day| {
        let at = format!("1936-11-1{day}T10:00:00Z");
        event(1_000 + id, user, &at, payload())
    };
    append(&store, &[old(1, "u", 0), old(2, "v", 0), old(3, "u", 1)]).await;
    let filter = EventFilter {
        to: Some(time("1936-11-11T00:00:00Z")),
        user: Some("u".to_owned()),
        ..EventFilter::default()
    };
    assert_eq!(store.erase(filter).await, Ok(1));
    let both = (date(1936, 11, 11), date(1936, 11, 11));
    let users = analytics.active_users(Scope::default(), both, 7, amsterdam);
    assert_eq!(users.await.unwrap()[0].users, 2);
    store.close().await;
    drop((store, analytics));
    let store = open(dir.path());
    let analytics = Analytics::new(store, clock("2026-11-21T00:00:00Z"));
    assert_eq!(to_the_second(&analytics).await, expected);
}

#[tokio::test]
async fn what_is_read_of_erased_events_has_a_bound() {
    let at = |id: usize| format!("2026-11-20T10:{:02}:{:02}Z", id / 60, id % 60);
    let made = |id: usize| event(id, "u", &at(id), payload());
    let events: Vec<_> = (0..512).map(made).collect();
    let (_dir, store, analytics) = asking(&events).await;
    let bought = EventFilter {
        event_type: Some("buy".to_owned()),
        ..EventFilter::default()
    };
    assert_eq!(store.erase(bought).await, Ok(512));
    let (of, limit) = ("events", 511);
    let (within, beyond) = (
        analytics.clone().reading_at_most(512),
        analytics.reading_at_most(limit),
    );
    let too_broad = Err(AnalyticsError::TooBroad { limit, of });
    let seconds = from("2026-11-20T10:00:01Z");
    assert_eq!(count(&within, Scope::default(), seconds).await, Ok(511));
    assert_eq!(count(&beyond, Scope::default(), seconds).await, too_broad);
    // None of those is meant, which only reading them can tell.
    let views = Scope {
        segments: vec![
            Segment::EventType("view".to_owned()),
            Segment::parse("properties.country=UA").unwrap(),
        ],
        ..Scope::default()
    };
    assert_eq!(count(&within, views.clone(), ALL).await, Ok(0));
    assert_eq!(count(&beyond, views, ALL).await, too_broad);
}

#[tokio::test]
async fn the_last_that_is_gone_is_named_among_many() {
    let at = |id: usize| format!("2026-11-20T{:02}:{:02}:00Z", id % 24, id / 24);
    let made = |id: usize| {
        let tenant = if id.is_multiple_of(5) { "b" } else { "a" };
        of_tenant(tenant, event(id, "u", &at(id), payload()))
    };
    let events: Vec<_> = (0..1_400).map(made).collect();
    let (_dir, store, analytics) = asking(&events).await;
    // Several rows of what remains, that overlap in time.
    for hour in [3, 1, 2, 0, 5] {
        for minute in [0, 30] {
            let filter = EventFilter {
                tenant: Some("a".to_owned()),
                from: Some(time(&format!("2026-11-20T0{hour}:{minute:02}:00Z"))),
                to: Some(time(&format!("2026-11-20T2{}:{minute:02}:00Z", hour % 4))),
                ..EventFilter::default()
            };
            store.erase(filter).await.unwrap();
        }
    }
    let erased_until = |hour: usize| {
        let times = events
            .iter()
            .filter(|it| it.tenant == "a")
            .map(|it| it.time);
        let until = time(&format!("2026-11-20T{hour:02}:30:00Z"));
        let last = if hour < 23 {
            until
        } else {
            time("2026-11-20T23:30:00Z")
        };
        times.filter(|time| *time < last).max().unwrap()
    };
    let scope = of_country("UA");
    for to in [7, 12, 20, 23] {
        let range = (None, Some(time(&format!("2026-11-20T{to:02}:30:00Z"))));
        let refused = count(&analytics, scope.clone(), range).await;
        let (last, cohorts) = (erased_until(to), false);
        assert_eq!(refused, Err(AnalyticsError::EventsGone { last, cohorts }));
    }
    let others = Scope {
        tenant: Some("b".to_owned()),
        ..scope
    };
    assert_eq!(count(&analytics, others, ALL).await, Ok(280));
}
