//! The figure of the rollups: 20 million events of 1 million users and 20 tenants in 90 days.

use std::fs;
use std::time::Duration;

use super::*;
use crate::clock::Clock;

const EVENTS: usize = 20_000_000;
const DAYS: i64 = 90;
const TENANTS: usize = 20;
const USERS: u32 = 50_000;
const TYPES: usize = 10;
const SOURCES: usize = 5;
const START: &str = "2026-01-01T00:00:00Z";

/// Resident memory in MiB.
fn memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        / 1024
}

fn timed<T>(clock: &Clock, work: impl FnOnce() -> T) -> (Duration, T) {
    let start = clock.now().mono;
    let done = work();
    (clock.now().mono.saturating_sub(start), done)
}

/// Events from `from` on; one of 100 up to three days late, or in no order at all.
fn batch(
    random: &mut fastrand::Rng,
    from: usize,
    count: usize,
    shuffled: bool,
) -> Vec<Event<'static>> {
    let start = Timestamp::parse(START).unwrap().as_micros();
    let tenants: Vec<String> = (0..TENANTS).map(|it| format!("tenant-{it}")).collect();
    (from..from + count)
        .map(|number| {
            let span = DAYS * 86_400;
            let mut second = span * i64::try_from(number).unwrap() / i64::try_from(EVENTS).unwrap();
            if shuffled {
                second = random.i64(0..span);
            } else if random.u8(..100) == 0 {
                second = (second - random.i64(0..3 * 86_400)).max(0);
            }
            let user = format!("user-{}", random.u32(..USERS));
            let (of_type, source) = (random.usize(..TYPES), random.usize(..SOURCES));
            let mut made = event(&tenants[random.usize(..TENANTS)], "", "", "", START);
            made.source = Some(format!("source-{source}").into());
            made.event_type = Some(format!("type-{of_type}").into());
            made.user = Some(user.into());
            made.time.micros = Timestamp::from_micros(start + second * 1_000_000);
            made
        })
        .collect()
}

fn filled(clock: &Clock, shuffled: bool) -> Rollups {
    let before = memory();
    let mut random = fastrand::Rng::with_seed(5);
    let mut rollups = Rollups::new(Bounds::default());
    let (mut made, mut folded) = (Duration::ZERO, Duration::ZERO);
    let mut worst = (Duration::ZERO, 0);
    for from in (0..EVENTS).step_by(5_000) {
        let events = batch(&mut random, from, 5_000, shuffled);
        let (took, facts) = timed(clock, || Facts::of(KEY, &events));
        made += took;
        let last = Sequence((from + 5_000) as u64);
        let (took, ()) = timed(clock, || rollups.fold(&facts, last));
        folded += took;
        worst = worst.max((took, from));
    }
    let each = |all: Duration| all.as_nanos() / EVENTS as u128;
    println!(
        "shuffled: {shuffled}; facts {} ns an event, fold {} ns, worst fold of 5,000 {:?} at {}; {} MiB",
        each(made),
        each(folded),
        worst.0,
        worst.1,
        memory() - before,
    );
    rollups
}

fn answers(clock: &Clock, rollups: &Rollups) {
    let kyiv = zone("Europe/Kyiv");
    let (all, one) = (Filter::default(), of_tenant("tenant-7"));
    let month = (date(2026, 3, 1), date(2026, 3, 30));
    let first = date(2026, 1, 1);
    let day = Span::new(
        Some(at("2026-02-10T00:00:00Z")),
        Some(at("2026-02-11T00:00:00Z")),
    );
    let day = day.unwrap();
    let now = Timestamp::EPOCH;
    let show = |name: &str, ask: &dyn Fn()| {
        let mut took: Vec<Duration> = (0..100).map(|_| timed(clock, ask).0).collect();
        took.sort();
        println!(
            "{name}: min {:?}, p50 {:?}, p99 {:?}",
            took[0], took[50], took[98]
        );
    };
    for (who, filter) in [("all", &all), ("one", &one)] {
        for size in [BucketSize::Minute, BucketSize::Hour] {
            show(&format!("a day of {size:?} {who}"), &|| {
                let found = rollups.buckets(filter, day, size, &TimeZone::UTC).unwrap();
                assert!(found.len() > 20);
            });
        }
        for (where_, zone) in [("UTC", &TimeZone::UTC), ("Kyiv", &kyiv)] {
            for days in [1, 7, 30] {
                show(&format!("active {days} {who} {where_}"), &|| {
                    let found = rollups.active_users(filter, month, days, zone).unwrap();
                    assert!(found.iter().all(|it| it.users > 0));
                });
            }
            for of in [WindowType::Daily, WindowType::Weekly] {
                let windows = if of == WindowType::Daily { 30 } else { 6 };
                show(
                    &format!("retention {of:?} {windows} {who} {where_}"),
                    &|| {
                        let calendar = (zone, now);
                        let found = rollups.retention(filter, first, windows, of, calendar);
                        assert!(found.unwrap().iter().any(|it| it.size > 0));
                    },
                );
            }
        }
        show(&format!("top of 90 days {who}"), &|| {
            let found = rollups.top_types(filter, Span::ALL, 10).unwrap();
            assert_eq!(found.len(), TYPES);
        });
        for (days, from, to) in [
            (
                "87 days and 7 hours",
                "2026-01-03T00:00:00Z",
                "2026-03-31T07:00:00Z",
            ),
            (
                "89 days of Kyiv",
                "2026-01-01T22:00:00Z",
                "2026-03-31T21:00:00Z",
            ),
        ] {
            let most = Span::new(Some(at(from)), Some(at(to))).unwrap();
            show(&format!("top of {days} {who}"), &|| {
                let found = rollups.top_types(filter, most, 10).unwrap();
                assert_eq!(found.len(), TYPES);
            });
        }
    }
}

#[test]
#[ignore = "20 million events: a minute in release; prints what it measures"]
fn figure() {
    let clock = Clock::system();
    let rollups = filled(&clock, false);
    answers(&clock, &rollups);
    let (took, snapshot) = timed(&clock, || rollups.snapshot());
    let (wrote, bytes) = timed(&clock, || {
        let mut bytes = Vec::new();
        snapshot.write_to(IDENTITY, &mut bytes).unwrap();
        bytes
    });
    let size = bytes.len() >> 20;
    println!("snapshot: {took:?}; checkpoint: {wrote:?}, {size} MiB");
    drop((rollups, snapshot));
    println!("without them: {} MiB", memory());
    let (took, restored) = timed(&clock, || restored(Bounds::default(), &bytes).unwrap());
    println!("restore: {took:?}; {} MiB", memory());
    assert_eq!(restored.covers(), Sequence(EVENTS as u64));
    drop((restored, bytes));
    let rollups = filled(&clock, true);
    answers(&clock, &rollups);
}
