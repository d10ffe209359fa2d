//! Against plain loops over all events.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// Zones with the days around which their offsets change, some of them to offsets with seconds.
const PLACES: [(&str, &str); 7] = [
    ("UTC", "2026-03-29"),
    ("Europe/Kyiv", "2026-03-29"),
    ("America/New_York", "2026-11-01"),
    ("Australia/Lord_Howe", "2026-04-05"),
    ("Africa/Monrovia", "1972-01-07"),
    ("Europe/Amsterdam", "1937-07-01"),
    ("Asia/Kathmandu", "1986-01-01"),
];

/// Payloads, and the values of `country` that match them.
const PAYLOADS: [(&str, &[&str]); 8] = [
    (r#"{"country":"UA"}"#, &["UA"]),
    (
        r#"{"c\u006funtry" : "\u0055A", "plan":{"name":"pro"}}"#,
        &["UA"],
    ),
    (r#"{"country":"PL","country":"UA"}"#, &["UA"]),
    (r#"{"country":"ua","other":"UA"}"#, &[]),
    (r#"{"plan":{"name":"UA","country":"UA"}}"#, &[]),
    (r#"{"country":1.0}"#, &["1", "1e0"]),
    (r#"{"country":"1"}"#, &["1"]),
    ("{}", &[]),
];

struct Model {
    /// Those that are erased, too.
    events: Vec<Event<'static>>,
    erased: Vec<Event<'static>>,
    zone: TimeZone,
}

type User<'a> = (&'a str, &'a str);

fn user<'a>(event: &'a Event<'_>) -> Option<User<'a>> {
    Some((&event.tenant, event.user.as_deref()?))
}

fn second(event: &Event<'_>) -> i64 {
    event.time.micros.as_micros().div_euclid(1_000_000)
}

fn of<'a>(
    events: &'a [Event<'static>],
    scope: &Scope,
    range: TimeRange,
) -> impl Iterator<Item = &'a Event<'static>> {
    let scope = scope.clone();
    events.iter().filter(move |event| {
        scope.tenant.as_deref().is_none_or(|it| it == event.tenant)
            && (scope.source.is_none() || scope.source.as_deref() == event.source.as_deref())
            && scope.segments.iter().all(|it| Model::has(event, it))
            && range.0.is_none_or(|from| event.time >= from)
            && range.1.is_none_or(|to| event.time < to)
    })
}

impl Model {
    fn offset(&self, second: i64) -> i64 {
        let at = jiff::Timestamp::from_second(second).unwrap();
        i64::from(self.zone.to_offset(at).seconds())
    }

    fn date(&self, event: &Event<'_>) -> Date {
        let at = jiff::Timestamp::from_second(second(event)).unwrap();
        self.zone.to_datetime(at).date()
    }

    fn start(&self, date: Date) -> i64 {
        let start = date.to_zoned(self.zone.clone()).unwrap();
        start.timestamp().as_second()
    }

    fn has(event: &Event<'_>, segment: &Segment) -> bool {
        match segment {
            Segment::EventType(name) => event.event_type.as_deref() == Some(name),
            Segment::Property { path, value } if path.len() == 1 => {
                let of = PAYLOADS.iter().find(|it| it.0 == event.payload).unwrap();
                of.1.contains(&value.as_str())
            }
            Segment::Property { value, .. } => {
                let payload: Value = serde_json::from_str(&event.payload).unwrap();
                payload["plan"]["name"] == **value
            }
        }
    }

    /// The refusal, if payloads of erased events would be needed.
    fn gone(&self, scope: &Scope, range: TimeRange, cohorts: bool) -> Option<AnalyticsError> {
        let (types, properties): (Vec<_>, Vec<_>) = scope
            .segments
            .iter()
            .cloned()
            .partition(|it| matches!(it, Segment::EventType(_)));
        let scope = Scope {
            segments: types,
            ..scope.clone()
        };
        let erased = of(&self.erased, &scope, range);
        let last = erased.map(|event| event.time).max()?;
        (!properties.is_empty()).then_some(AnalyticsError::EventsGone { last, cohorts })
    }

    /// From the first moment of one date up to that of another.
    fn dates(&self, first: Date, behind: Date) -> (EventTime, EventTime) {
        let at = |date| EventTime {
            micros: Timestamp::from_micros(self.start(date) * 1_000_000),
            nanos: 0,
        };
        (at(first), at(behind))
    }

    fn matching(&self, scope: &Scope, range: TimeRange) -> impl Iterator<Item = &Event<'static>> {
        of(&self.events, scope, range)
    }

    /// The first second of the bucket of `event`, and the one behind its last.
    fn bucket(&self, event: &Event<'_>, size: BucketSize) -> (i64, i64) {
        let second = second(event);
        let here = self.offset(second);
        match size {
            BucketSize::Minute => {
                let start = second - second.rem_euclid(60);
                (start, start + 60)
            }
            BucketSize::Day => {
                let date = self.date(event);
                (self.start(date), self.start(date.tomorrow().unwrap()))
            }
            BucketSize::Hour => {
                let same = |it: &i64| (self.offset(*it) - here) % 3600 == 0;
                let start = second - (second + here).rem_euclid(3600);
                let first = (start..=second).rev().take_while(same).last().unwrap();
                let last = (second..start + 3600).take_while(same).last().unwrap();
                (first, last + 1)
            }
        }
    }

    fn buckets(&self, scope: &Scope, range: TimeRange, size: BucketSize) -> Vec<Bucket> {
        let mut found: BTreeMap<(i64, i64), (u64, BTreeSet<User<'_>>)> = BTreeMap::new();
        for event in self.matching(scope, range) {
            let bucket = found.entry(self.bucket(event, size)).or_default();
            bucket.0 += 1;
            bucket.1.extend(user(event));
        }
        let at = |second: i64| Timestamp::from_micros(second * 1_000_000);
        found
            .into_iter()
            .map(|((start, end), (count, users))| Bucket {
                start: at(start),
                end: at(end),
                count,
                unique_users: users.len() as u64,
            })
            .collect()
    }

    fn active(&self, scope: &Scope, day: Date, days: i64) -> u64 {
        let users: BTreeSet<User<'_>> = self
            .matching(scope, ALL)
            .filter(|event| {
                let back = (day - self.date(event)).get_days();
                (0..days).contains(&i64::from(back))
            })
            .filter_map(user)
            .collect();
        users.len() as u64
    }

    fn top(&self, scope: &Scope, range: TimeRange, limit: usize) -> Vec<TopType> {
        let mut found: BTreeMap<&str, (u64, BTreeSet<User<'_>>)> = BTreeMap::new();
        for event in self.matching(scope, range) {
            if let Some(name) = event.event_type.as_deref() {
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

    fn retention(
        &self,
        scope: &Scope,
        (start, windows, days): (Date, i64, i64),
        now: Timestamp,
    ) -> Vec<Cohort> {
        let window = |event: &Event<'_>| {
            let since = (self.date(event) - start).get_days();
            i64::from(since).div_euclid(days)
        };
        let mut active: BTreeMap<User<'_>, BTreeSet<i64>> = BTreeMap::new();
        for event in self.matching(scope, ALL) {
            if let Some(user) = user(event) {
                active.entry(user).or_default().insert(window(event));
            }
        }
        let first = |window: i64| plus_days(start, window * days).unwrap();
        let retained = |cohort: i64, k: i64| {
            let members = active.values().filter(|it| it.first() == Some(&cohort));
            members.filter(|it| it.contains(&(cohort + k))).count() as u64
        };
        let ended = |window: i64| self.start(first(window + 1)) * 1_000_000 <= now.as_micros();
        (0..windows)
            .map(|cohort| Cohort {
                start: first(cohort),
                size: retained(cohort, 0),
                retained: (0..windows).map(|k| retained(cohort, k)).collect(),
                complete: (0..windows).map(|k| ended(cohort + k)).collect(),
            })
            .collect()
    }
}

/// Random events and questions about them.
struct Source {
    random: fastrand::Rng,
    day: Date,
    next: usize,
}

impl Source {
    fn pick(&mut self, names: &[&str]) -> String {
        names[self.random.usize(..names.len())].to_owned()
    }

    fn maybe(&mut self, names: &[&str]) -> Option<String> {
        let name = names.get(self.random.usize(..names.len() * 2));
        name.map(|name| (*name).to_owned())
    }

    /// Near the change of the clocks, or some weeks away.
    fn time(&mut self) -> EventTime {
        let noon = self.day.at(12, 0, 0, 0).to_zoned(TimeZone::UTC).unwrap();
        let hours = if self.random.bool() { 30 } else { 24 * 40 };
        let second = noon.timestamp().as_second() + self.random.i64(-hours * 3600..hours * 3600);
        let micros = match self.random.u8(..4) {
            0 => second.div_euclid(60) * 60_000_000,
            1 => second * 1_000_000,
            _ => second * 1_000_000 + self.random.i64(0..1_000_000),
        };
        EventTime {
            micros: Timestamp::from_micros(micros),
            nanos: if self.random.bool() {
                0
            } else {
                self.random.u16(..1000)
            },
        }
    }

    /// A new one, or one that repeats the identity of an earlier one.
    fn event(&mut self) -> Event<'static> {
        let name = |name: String| (!name.is_empty()).then(|| name.into());
        self.next += 1;
        let id = match self.random.u8(..10) {
            0 => self.random.usize(..self.next),
            _ => self.next,
        };
        Event {
            tenant: self.pick(&["a", "b", "c"]).into(),
            topic: "".into(),
            id: format!("{id}").into(),
            time: self.time(),
            source: name(self.pick(&["", "web", "app"])),
            event_type: name(self.pick(&["", "click", "buy", "view"])),
            user: name(self.pick(&["", "1", "2", "3", "11", "x"])),
            payload: PAYLOADS[self.random.usize(..PAYLOADS.len())].0.into(),
            extra: "".into(),
        }
    }

    fn scope(&mut self) -> Scope {
        let segments = [
            ("event_type:", ["click", "buy", "nothing"].as_slice()),
            ("properties.country=", &["UA", "1", "1e0", "nothing"]),
            ("payload.country=", &["UA"]),
            ("properties.plan.name=", &["pro", "UA"]),
        ];
        let mut chosen = Vec::new();
        for (prefix, values) in segments {
            if self.random.u8(..3) == 0 {
                let text = format!("{prefix}{}", self.pick(values));
                chosen.push(Segment::parse(&text).unwrap());
            }
        }
        Scope {
            tenant: self.maybe(&["a", "b", "nobody"]),
            source: self.maybe(&["web", "nothing"]),
            segments: chosen,
        }
    }

    /// What is erased, often little.
    fn filter(&mut self) -> EventFilter {
        let (from, to) = match self.random.u8(..3) {
            0 => (None, None),
            _ => self.range(),
        };
        EventFilter {
            tenant: self.maybe(&["a", "b"]),
            user: Some(self.pick(&["1", "2", "x"])).filter(|_| from.is_none()),
            event_type: self.maybe(&["buy"]),
            from,
            to,
            ..EventFilter::default()
        }
    }

    fn range(&mut self) -> TimeRange {
        let (a, b) = (self.time(), self.time());
        match self.random.u8(..4) {
            0 => ALL,
            1 => (Some(a), None),
            2 => (None, Some(a)),
            _ => (Some(a.min(b)), Some(a.max(b))),
        }
    }
}

async fn compare(analytics: &Analytics, model: &Model, source: &mut Source) {
    let (scope, range, zone) = (source.scope(), source.range(), &model.zone);
    let says = format!("{scope:?} {range:?}");
    let gone = model.gone(&scope, range, false);
    let or_gone = |gone: &Option<AnalyticsError>| gone.clone().map_or(Ok(()), Err);
    for size in [BucketSize::Minute, BucketSize::Hour, BucketSize::Day] {
        let found = analytics.buckets(scope.clone(), range, size, zone.clone());
        let expected = or_gone(&gone).map(|()| model.buckets(&scope, range, size));
        assert_eq!(found.await, expected, "{size:?} {says}");
    }
    let first = plus_days(source.day, source.random.i64(-20..5)).unwrap();
    let last = plus_days(first, source.random.i64(0..20)).unwrap();
    for days in [1_u16, 7, 30] {
        let dates = (first, last);
        let found = analytics.active_users(scope.clone(), dates, days, zone.clone());
        let ends = (plus_days(first, 1 - i64::from(days)), plus_days(last, 1));
        let (from, to) = model.dates(ends.0.unwrap(), ends.1.unwrap());
        let gone = model.gone(&scope, (Some(from), Some(to)), false);
        let found = found.await;
        assert_eq!(found.as_ref().err(), gone.as_ref(), "{days} days {says}");
        for it in found.unwrap_or_default() {
            let expected = model.active(&scope, it.date, days.into());
            assert_eq!(it.users, expected, "{days} days to {} {says}", it.date);
        }
    }
    let limit = source.random.usize(1..5);
    let found = analytics.top_types(scope.clone(), range, limit).await;
    let expected = or_gone(&gone).map(|()| model.top(&scope, range, limit));
    assert_eq!(found, expected, "{says}");
    for (of, days) in [(WindowType::Daily, 1), (WindowType::Weekly, 7)] {
        let windows = source.random.u16(1..8);
        let found = analytics.retention(scope.clone(), first, windows, of, zone.clone());
        let asked = (first, windows.into(), days);
        let behind = plus_days(first, (2 * i64::from(windows) - 1) * days).unwrap();
        let gone = model.gone(&scope, (None, Some(model.dates(first, behind).1)), true);
        let expected = or_gone(&gone).map(|()| model.retention(&scope, asked, analytics.now()));
        assert_eq!(found.await, expected, "{of:?} {says}");
    }
}

async fn history(seed: u64, (zone, day): (&str, &str)) {
    let mut source = Source {
        random: fastrand::Rng::with_seed(seed),
        day: day.parse().unwrap(),
        next: 0,
    };
    let mut model = Model {
        events: Vec::new(),
        erased: Vec::new(),
        zone: TimeZone::get(zone).unwrap(),
    };
    let now = source.time().micros;
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    for _ in 0..source.random.usize(1..6) {
        let count = source.random.usize(1..200);
        let events: Vec<_> = (0..count).map(|_| source.event()).collect();
        let receipts = append(&store, &events).await;
        for (event, receipt) in events.into_iter().zip(receipts) {
            if receipt == Receipt::Accepted {
                model.events.push(event);
            }
        }
        if source.random.bool() {
            let filter = source.filter();
            let events = model.events.iter().filter(|it| filter.matches(it));
            model.erased.extend(events.cloned());
            store.erase(filter).await.unwrap();
        }
        match source.random.u8(..4) {
            0 => while store.pack().await.unwrap() {},
            1 => {
                store.close().await;
                drop(store);
                store = open(dir.path());
            }
            _ => {}
        }
        let clock = Clock::Manual(ManualClock::starting_at(now));
        let analytics = Analytics::new(store.clone(), clock);
        compare(&analytics, &model, &mut source).await;
        compare(&analytics, &model, &mut source).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn answers_are_those_of_plain_loops(seed: u64, place in 0..PLACES.len()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(history(seed, PLACES[place]));
    }
}
