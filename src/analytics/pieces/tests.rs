use jiff::civil::date;
use jiff::tz;

use super::*;

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

fn seconds(zone: &TimeZone, local: &str) -> i64 {
    let local: jiff::civil::DateTime = local.parse().unwrap();
    let zoned = local.to_zoned(zone.clone()).unwrap();
    zoned.timestamp().as_second()
}

fn date_of(zone: &TimeZone, second: i64) -> (Date, i64) {
    let day = day(zone, second).unwrap();
    assert!(day.start <= second && second < day.end, "{second}");
    (day.date, day.end - day.start)
}

#[test]
fn a_day_is_as_long_as_its_zone_makes_it() {
    let kyiv = zone("Europe/Kyiv");
    let at = |local| date_of(&kyiv, seconds(&kyiv, local));
    assert_eq!(at("2026-03-29T12:00:00"), (date(2026, 3, 29), 23 * 3600));
    assert_eq!(at("2026-10-25T00:00:00"), (date(2026, 10, 25), 25 * 3600));
    assert_eq!(at("2026-10-25T23:59:59"), (date(2026, 10, 25), 25 * 3600));
    let monrovia = zone("Africa/Monrovia");
    let short = date_of(&monrovia, seconds(&monrovia, "1972-01-07T12:00:00"));
    assert_eq!(short, (date(1972, 1, 7), 86_400 - 44 * 60 - 30));
    let apia = zone("Pacific/Apia");
    let before = seconds(&apia, "2011-12-29T23:59:59");
    assert_eq!(date_of(&apia, before), (date(2011, 12, 29), 86_400));
    assert_eq!(date_of(&apia, before + 1), (date(2011, 12, 31), 86_400));
}

/// Clocks went from 23:30 to 0:30.
#[test]
fn a_date_may_begin_after_midnight() {
    let toronto = zone("America/Toronto");
    let first = seconds(&toronto, "1919-03-31T00:30:00");
    assert_eq!(date_of(&toronto, first - 1).0, date(1919, 3, 30));
    assert_eq!(date_of(&toronto, first), (date(1919, 3, 31), 84_600));
}

/// Clocks went from midnight back to 23:00.
#[test]
fn the_hour_that_comes_again_is_part_of_one_date() {
    let paulo = zone("America/Sao_Paulo");
    let (day, length) = date_of(&paulo, seconds(&paulo, "2018-02-17T12:00:00"));
    assert_eq!((day, length), (date(2018, 2, 17), 25 * 3600));
}

#[test]
fn every_second_has_its_hour() {
    let mut random = fastrand::Rng::with_seed(7);
    for name in [
        "UTC",
        "Africa/Monrovia",
        "Australia/Lord_Howe",
        "Asia/Kathmandu",
        "Europe/Amsterdam",
        "America/New_York",
    ] {
        let zone = zone(name);
        let offset = |second: i64| {
            let at = jiff::Timestamp::from_second(second).unwrap();
            i64::from(zone.to_offset(at).seconds())
        };
        let mut around: Vec<i64> = zone
            .following("1880-01-01T00:00:00Z".parse().unwrap())
            .take(80)
            .map(|change| change.timestamp().as_second())
            .collect();
        around.push(0);
        for change in around {
            let second = change + random.i64(-4000..4000);
            // Back and forth through the seconds of the same local hour whose offset keeps hours where they are.
            let here = offset(second);
            let same = |other: &i64| {
                (offset(*other) - here).rem_euclid(3600) == 0
                    && (*other + here).div_euclid(3600) == (second + here).div_euclid(3600)
            };
            let start = (second - 3600..=second).rev().take_while(same).last();
            let end = (second..second + 3600).take_while(same).last();
            let found = hour(&zone, second).unwrap();
            assert_eq!(found, (start.unwrap(), end.unwrap() + 1), "{name} {second}");
        }
    }
}

#[test]
fn what_no_calendar_has_is_refused() {
    let far = EventTime {
        micros: Timestamp::from_micros(i64::MAX),
        nanos: 0,
    };
    for pieces in [
        Pieces::Dates(TimeZone::UTC),
        Pieces::buckets(BucketSize::Hour, TimeZone::UTC),
        Pieces::buckets(BucketSize::Day, TimeZone::fixed(tz::offset(14))),
    ] {
        assert_eq!(pieces.of(far).err(), Some(AnalyticsError::Range));
    }
    assert!(Pieces::All.of(far).unwrap().holds(EventTime::default()));
    assert_eq!(plus_days(Date::MAX, 1), Err(AnalyticsError::Range));
    assert_eq!(start_of(&zone("Europe/Kyiv"), Date::MAX).err(), None);
}
