//! Where the clocks change.

use super::*;

/// The day buckets of hourly events on `first` and the days around it: start and length in hours.
fn hours_of_days(zone_name: &str, from: &str, hours: i64) -> Vec<(String, u64)> {
    let start = Timestamp::parse(from).unwrap().as_micros();
    let events: Vec<Event<'_>> = (0..hours)
        .map(|hour| {
            let mut event = event("t", "", "x", "u", from);
            event.time.micros = Timestamp::from_micros(start + hour * 3_600_000_000);
            event
        })
        .collect();
    let rollups = rollups_of(&events);
    let zone = zone(zone_name);
    let found = rollups
        .buckets(&of_tenant("t"), Span::ALL, BucketSize::Day, &zone)
        .unwrap();
    let shown = |it: &Bucket| {
        assert_eq!(it.unique_users, 1);
        (it.start.to_string()[..16].to_owned(), it.count)
    };
    found.iter().map(shown).collect()
}

#[test]
fn days_have_23_or_25_hours() {
    let spring = hours_of_days("Europe/Kyiv", "2026-03-27T22:00:00Z", 24 + 23 + 24);
    assert_eq!(
        spring.iter().map(|it| it.1).collect::<Vec<_>>(),
        [24, 23, 24]
    );
    assert_eq!(spring[2].0, "2026-03-29T21:00");
    let autumn = hours_of_days("America/New_York", "2026-10-31T04:00:00Z", 24 + 25 + 24);
    assert_eq!(
        autumn.iter().map(|it| it.1).collect::<Vec<_>>(),
        [24, 25, 24]
    );
    assert_eq!(autumn[2].0, "2026-11-02T05:00");
}

#[test]
fn a_day_that_was_left_out_is_empty() {
    // Samoa had no 30th of December in 2011.
    let rollups = rollups_of(&[
        event("t", "", "x", "u", "2011-12-30T09:59:00Z"),
        event("t", "", "x", "v", "2011-12-30T10:00:00Z"),
    ]);
    let dates = (date(2011, 12, 29), date(2011, 12, 31));
    let found = rollups.active_users(&Filter::default(), dates, 1, &zone("Pacific/Apia"));
    let users: Vec<u64> = found.unwrap().iter().map(|it| it.users).collect();
    assert_eq!(users, [1, 0, 1]);
}

#[test]
fn both_sides_of_midnight() {
    let rollups = rollups_of(&[
        event("t", "", "x", "u", "2026-01-01T23:59:59.999Z"),
        event("t", "", "x", "u", "2026-01-02T00:00:00Z"),
    ]);
    let dau = |zone: &TimeZone| {
        let dates = (date(2026, 1, 1), date(2026, 1, 3));
        let found = rollups.active_users(&Filter::default(), dates, 1, zone);
        let users = found.unwrap();
        users.iter().map(|it| it.users).collect::<Vec<_>>()
    };
    assert_eq!(dau(&TimeZone::UTC), [1, 1, 0]);
    assert_eq!(dau(&zone("Asia/Kathmandu")), [0, 1, 0]);
    assert_eq!(dau(&zone("America/New_York")), [1, 0, 0]);
}

#[test]
fn a_day_begins_when_its_clocks_do() {
    // Toronto went from 23:30 of 30 March to 00:30 of 31 March, at 04:30 UTC.
    let rollups = rollups_of(&[
        event("t", "", "x", "a", "1919-03-31T04:29:00Z"),
        event("t", "", "x", "b", "1919-03-31T04:30:00Z"),
        event("t", "", "x", "c", "1919-03-31T04:59:00Z"),
    ]);
    let toronto = zone("America/Toronto");
    let dates = (date(1919, 3, 30), date(1919, 3, 31));
    let found = rollups.active_users(&Filter::default(), dates, 1, &toronto);
    let users: Vec<u64> = found.unwrap().iter().map(|it| it.users).collect();
    assert_eq!(users, [1, 2]);
    let days = rollups.buckets(&Filter::default(), Span::ALL, BucketSize::Day, &toronto);
    let counts: Vec<u64> = days.unwrap().iter().map(|it| it.count).collect();
    assert_eq!(counts, [1, 2]);
}

#[test]
fn hours_follow_the_local_clock() {
    let hours = |zone_name: &str, times: &[&str]| {
        let events: Vec<Event<'_>> = times
            .iter()
            .map(|it| event("t", "", "x", "u", it))
            .collect();
        let zone = zone(zone_name);
        let found =
            rollups_of(&events).buckets(&of_tenant("t"), Span::ALL, BucketSize::Hour, &zone);
        let shown = |it: &Bucket| (it.start.to_string()[11..16].to_owned(), it.count);
        found.unwrap().iter().map(shown).collect::<Vec<_>>()
    };
    let own = |start: &str, count| (start.to_owned(), count);
    assert_eq!(
        hours(
            "Asia/Kathmandu",
            &["2026-01-01T00:14:00Z", "2026-01-01T00:15:00Z"]
        ),
        [own("23:15", 1), own("00:15", 1)]
    );
    // One hour comes twice; each time it is a bucket.
    assert_eq!(
        hours(
            "Europe/Kyiv",
            &["2026-10-25T00:10:00Z", "2026-10-25T01:10:00Z"]
        ),
        [own("00:00", 1), own("01:00", 1)]
    );
    // Lord Howe goes back half an hour, from 02:00 to 01:30, at 15:00 UTC.
    assert_eq!(
        hours(
            "Australia/Lord_Howe",
            &[
                "2026-04-04T14:59:00Z",
                "2026-04-04T15:00:00Z",
                "2026-04-04T15:30:00Z"
            ]
        ),
        [own("14:00", 1), own("15:00", 1), own("15:30", 1)]
    );
}

#[test]
fn seconds_are_refused() {
    let rollups = rollups_of(&[event("t", "", "x", "u", "1900-06-01T12:00:00Z")]);
    let old = zone("Europe/Amsterdam");
    let dates = (date(1900, 6, 1), date(1900, 6, 1));
    let mean = rollups.active_users(&Filter::default(), dates, 1, &old);
    let seconds = old
        .to_offset("1900-06-01T12:00:00Z".parse().unwrap())
        .seconds();
    assert_eq!(mean.is_err(), seconds % 60 != 0);
    assert_eq!(
        Span::new(Some(at("2026-01-01T00:00:30Z")), None),
        Err(Unanswered::Seconds)
    );
    assert!(Span::new(Some(at("2026-01-01T00:01:00Z")), None).is_ok());
    let mean = rollups.buckets(
        &Filter::default(),
        Span::ALL,
        BucketSize::Day,
        &zone("Africa/Monrovia"),
    );
    assert_eq!(mean, Err(Unanswered::Seconds), "an offset of -0:43:08");
    let far = (Date::MAX, Date::MAX);
    let found = rollups.active_users(&Filter::default(), far, 1, &TimeZone::UTC);
    assert_eq!(found, Err(Unanswered::Range));
}
