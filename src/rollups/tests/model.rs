//! Against plain loops over all events.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const ZONES: [&str; 8] = [
    "UTC",
    "Europe/Kyiv",
    "America/New_York",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
    "Pacific/Apia",
    "Pacific/Chatham",
];

/// What the loops go over.
struct Model {
    events: Vec<Event<'static>>,
    zone: TimeZone,
}

type User<'a> = (&'a str, &'a str);

fn user<'a>(event: &'a Event<'_>) -> Option<User<'a>> {
    Some((&event.tenant, event.user.as_deref()?))
}

impl Model {
    fn local(&self, event: &Event<'_>) -> jiff::Zoned {
        let micros = event.time.micros.as_micros();
        let time = jiff::Timestamp::from_microsecond(micros).unwrap();
        time.to_zoned(self.zone.clone())
    }

    fn matching(&self, filter: &Filter) -> impl Iterator<Item = &Event<'static>> {
        let same = |wanted: &Option<String>, found: Option<&str>| {
            wanted.is_none() || wanted.as_deref() == found
        };
        let filter = filter.clone();
        self.events.iter().filter(move |event| {
            let types = filter.event_types.iter();
            same(&filter.tenant, Some(&event.tenant))
                && same(&filter.source, event.source.as_deref())
                && types
                    .into_iter()
                    .all(|it| event.event_type.as_deref() == Some(it))
        })
    }

    fn buckets(&self, filter: &Filter, span: Span, size: BucketSize) -> Vec<(i64, u64, u64)> {
        let mut found: BTreeMap<i64, (u64, BTreeSet<User<'_>>)> = BTreeMap::new();
        for event in self.matching(filter) {
            let micros = event.time.micros.as_micros();
            let minute = micros.div_euclid(60_000_000);
            if minute < span.from || minute >= span.to {
                continue;
            }
            let local = self.local(event);
            let start = match size {
                BucketSize::Minute => minute * 60_000_000,
                BucketSize::Hour => {
                    // Back through the instants that have this hour and this offset.
                    let into = i64::from(local.minute());
                    let back = (0..=into).rev().find(|back| {
                        let then = jiff::Timestamp::from_second((minute - back) * 60).unwrap();
                        let there = self.zone.to_offset(then);
                        (there.seconds() - local.offset().seconds()) % 3600 == 0
                    });
                    (minute - back.unwrap()) * 60_000_000
                }
                BucketSize::Day => local.start_of_day().unwrap().timestamp().as_microsecond(),
            };
            let bucket = found.entry(start).or_default();
            bucket.0 += 1;
            bucket.1.extend(user(event));
        }
        found
            .into_iter()
            .map(|(start, (count, users))| (start, count, users.len() as u64))
            .collect()
    }

    fn active(&self, filter: &Filter, day: Date, days: i64) -> u64 {
        let users: BTreeSet<User<'_>> = self
            .matching(filter)
            .filter(|event| {
                let back = (day - self.local(event).date()).get_days();
                (0..days).contains(&i64::from(back))
            })
            .filter_map(user)
            .collect();
        users.len() as u64
    }

    fn top(&self, filter: &Filter, span: Span, limit: usize) -> Vec<TopType> {
        let mut found: BTreeMap<&str, (u64, BTreeSet<User<'_>>)> = BTreeMap::new();
        for event in self.matching(filter) {
            let minute = event.time.micros.as_micros().div_euclid(60_000_000);
            if let Some(name) = event.event_type.as_deref()
                && minute >= span.from
                && minute < span.to
            {
                let known = found.entry(name).or_default();
                known.0 += 1;
                known.1.extend(user(event));
            }
        }
        let mut top: Vec<TopType> = found
            .into_iter()
            .map(|(name, (count, users))| TopType {
                event_type: name.to_owned(),
                count,
                unique_users: users.len() as u64,
            })
            .collect();
        top.sort_by_key(|it| std::cmp::Reverse(it.count));
        top.truncate(limit);
        top
    }

    /// `retained` of each cohort.
    fn retention(&self, filter: &Filter, start: Date, windows: i64, days: i64) -> Vec<Vec<u64>> {
        let window = |event: &Event<'_>| {
            let since = (self.local(event).date() - start).get_days();
            i64::from(since).div_euclid(days)
        };
        let mut active: BTreeMap<User<'_>, BTreeSet<i64>> = BTreeMap::new();
        for event in self.matching(filter) {
            if let Some(user) = user(event) {
                active.entry(user).or_default().insert(window(event));
            }
        }
        let retained = |cohort: i64, k: i64| {
            let members = active.values().filter(|it| it.first() == Some(&cohort));
            members.filter(|it| it.contains(&(cohort + k))).count() as u64
        };
        (0..windows)
            .map(|cohort| (0..windows).map(|k| retained(cohort, k)).collect())
            .collect()
    }
}

/// Events around a change of the clocks, and some from far away.
fn events(random: &mut fastrand::Rng, count: usize) -> (Date, Vec<Event<'static>>) {
    let around = [
        date(2026, 3, 29),
        date(2026, 10, 25),
        date(2026, 11, 1),
        date(2018, 11, 4),
        date(2011, 12, 30),
        date(2026, 4, 5),
    ];
    let day = around[random.usize(..around.len())];
    let noon = day.at(12, 0, 0, 0).to_zoned(TimeZone::UTC).unwrap();
    let users = random.usize(1..40);
    let pick =
        |random: &mut fastrand::Rng, names: &[&str]| names[random.usize(..names.len())].to_owned();
    let made = (0..count)
        .map(|_| {
            let tenant = pick(random, &["a", "b", "c"]);
            let source = pick(random, &["", "web", "app"]);
            let event_type = pick(random, &["", "click", "buy", "view"]);
            let user = match random.usize(..users + 2) {
                0 => String::new(),
                number => format!("u{number}"),
            };
            let hours = if random.u8(..4) == 0 { 30 } else { 24 * 50 };
            let away = random.i64(-hours * 3600..hours * 3600);
            let second = match random.u8(..100) {
                0 => random.i64(0..7200),
                _ => noon.timestamp().as_second() + away,
            };
            let mut event = event(&tenant, &source, &event_type, &user, "1970-01-01T00:00:00Z");
            event.time.micros =
                Timestamp::from_micros(second * 1_000_000 + random.i64(0..1_000_000));
            event
        })
        .collect();
    (day, made)
}

fn filter(random: &mut fastrand::Rng) -> Filter {
    let mut maybe = |names: &[&str]| {
        let name = names.get(random.usize(..names.len() * 2));
        name.map(|name| (*name).to_owned())
    };
    Filter {
        tenant: maybe(&["a", "b", "nobody"]),
        source: maybe(&["web", "app", "nothing"]),
        event_types: maybe(&["click", "buy", "nothing"])
            .into_iter()
            .chain(maybe(&["click"]))
            .collect(),
    }
}

fn span(random: &mut fastrand::Rng, day: Date) -> Span {
    if random.bool() {
        return Span::ALL;
    }
    let middle = day.to_zoned(TimeZone::UTC).unwrap().timestamp().as_second() / 60;
    let from = middle + random.i64(-60_000..60_000);
    Span {
        from,
        to: from + random.i64(0..90_000),
    }
}

fn compare(rollups: &Rollups, model: &Model, random: &mut fastrand::Rng, day: Date) {
    let (filter, span) = (filter(random), span(random, day));
    let zone = &model.zone;
    for size in [BucketSize::Minute, BucketSize::Hour, BucketSize::Day] {
        let found = rollups.buckets(&filter, span, size, zone).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|it| (it.start.as_micros(), it.count, it.unique_users))
            .collect();
        assert_eq!(
            found,
            model.buckets(&filter, span, size),
            "{size:?} {filter:?} {span:?}"
        );
    }
    let first = calendar::plus_days(day, random.i64(-40..10)).unwrap();
    let last = calendar::plus_days(first, random.i64(0..30)).unwrap();
    // A window slides over up to 64 days.
    let other = [2, 64, 65][random.usize(..3)];
    for days in [1_u16, 7, 30, other] {
        let found = rollups.active_users(&filter, (first, last), days, zone);
        for it in found.unwrap() {
            let expected = model.active(&filter, it.date, days.into());
            assert_eq!(it.users, expected, "{days} days to {} {filter:?}", it.date);
        }
    }
    let limit = random.usize(1..5);
    assert_eq!(
        rollups.top_types(&filter, span, limit).unwrap(),
        model.top(&filter, span, limit)
    );
    for (of, days) in [(WindowType::Daily, 1), (WindowType::Weekly, 7)] {
        let windows = random.u16(1..12);
        let now = (zone, Timestamp::EPOCH);
        let found = rollups.retention(&filter, first, windows, of, now).unwrap();
        let found: Vec<_> = found.into_iter().map(|it| it.retained).collect();
        let expected = model.retention(&filter, first, windows.into(), days);
        assert_eq!(found, expected, "{of:?} {filter:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn answers_are_those_of_plain_loops(seed: u64, zone_index in 0..ZONES.len()) {
        let mut random = fastrand::Rng::with_seed(seed);
        let count = [0, 10, 400, 3000][random.usize(..4)];
        let (day, events) = events(&mut random, count);
        let mut rollups = Rollups::new(Bounds::default());
        let mut model = Model { events: Vec::new(), zone: zone(ZONES[zone_index]) };
        for batch in events.chunks(random.usize(1..1000)) {
            fold(&mut rollups, batch);
            model.events.extend_from_slice(batch);
            if random.u8(..4) == 0 {
                let bytes = written(&rollups);
                rollups = restored(Bounds::default(), &bytes).unwrap();
                prop_assert_eq!(written(&rollups).len(), bytes.len());
            }
            if random.u8(..4) == 0 {
                // What answers keep must not outlive the next events.
                compare(&rollups, &model, &mut fastrand::Rng::with_seed(seed), day);
            }
        }
        prop_assert_eq!(rollups.wrong_days(), 0);
        compare(&rollups, &model, &mut fastrand::Rng::with_seed(seed), day);
        for _ in 0..3 {
            compare(&rollups, &model, &mut random, day);
        }
    }
}

/// So many users of a day that their list is flushed, and tails are merged many times.
#[test]
fn a_crowded_day_is_counted() {
    let mut random = fastrand::Rng::with_seed(1);
    let mut model = Model {
        events: Vec::new(),
        zone: TimeZone::UTC,
    };
    let day = date(2026, 3, 29);
    for number in 0..30_000 {
        let user = format!("u{}", random.u32(..5_000));
        let hour = random.u8(..24);
        let time = format!("2026-03-29T{hour:02}:{:02}:00Z", random.u8(..60));
        let event_type = ["click", "buy", "view"][number % 3];
        model
            .events
            .push(event("a", "web", event_type, &user, &time));
    }
    let rollups = rollups_of(&model.events);
    for _ in 0..4 {
        compare(&rollups, &model, &mut random, day);
    }
}
