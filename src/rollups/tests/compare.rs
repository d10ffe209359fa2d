//! What differs between two rollups, and within one.

use super::*;
use crate::rollups::days::{Day, Sets};

const T: &str = "2026-01-01T00:00:00Z";

fn events() -> Vec<Event<'static>> {
    let mut random = fastrand::Rng::with_seed(8);
    let start = Timestamp::parse(T).unwrap().as_micros();
    (0..600)
        .map(|_| {
            let user = ["u", "v", "w", "x", ""][random.usize(..5)];
            let event_type = ["click", "buy", ""][random.usize(..3)];
            let source = ["web", "app"][random.usize(..2)];
            let mut made = event(["a", "b"][random.usize(..2)], source, event_type, user, T);
            let away = random.i64(0..30 * 86_400);
            made.time.micros = Timestamp::from_micros(start + away * 1_000_000);
            made
        })
        .collect()
}

/// Of the same events in another order, so with other numbers.
fn shuffled(events: &[Event<'static>]) -> Rollups {
    let mut events = events.to_vec();
    fastrand::Rng::with_seed(9).shuffle(&mut events);
    let mut rollups = Rollups::new(Bounds::default());
    for batch in events.chunks(7) {
        fold(&mut rollups, batch);
    }
    rollups
}

#[test]
fn the_same_events_are_the_same_in_any_order() {
    let events = events();
    let (one, other) = (rollups_of(&events), shuffled(&events));
    let found = one.compare(&other);
    assert_eq!(found.len(), 2);
    for it in &found {
        assert!(it.is_same(), "{it:?}");
        assert_eq!(it.users, (4, 4));
        assert_eq!(it.events.0, it.events.1);
        assert_eq!(it.hours.0, it.hours.1);
    }
    assert_eq!(found.iter().map(|it| it.events.0).sum::<u64>(), 600);
    assert_eq!((one.wrong_days(), other.wrong_days()), (0, 0));
}

#[test]
fn any_one_difference_is_found() {
    let events = events();
    let one = rollups_of(&events);
    let mut random = fastrand::Rng::with_seed(10);
    for round in 0..60 {
        let mut other = events.clone();
        let place = random.usize(..other.len());
        let of = other[place].tenant.to_string();
        let changed = &mut other[place];
        match round % 7 {
            0 => changed.user = Some("somebody else".into()),
            1 => {
                changed.user = if changed.user.is_some() {
                    None
                } else {
                    Some("u".into())
                }
            }
            2 => changed.event_type = Some("other".into()),
            3 => changed.source = None,
            4 => {
                let micros = changed.time.micros.as_micros();
                changed.time.micros = Timestamp::from_micros(micros + 60_000_000);
            }
            5 => drop(other.remove(place)),
            _ => {
                let again = changed.clone();
                other.push(again);
            }
        }
        let other = shuffled(&other);
        for found in [one.compare(&other), other.compare(&one)] {
            for it in found {
                assert_eq!(it.is_same(), it.tenant != of, "{round}: {it:?}");
            }
        }
        assert_eq!(other.wrong_days(), 0, "each is sound in itself");
    }
}

#[test]
fn a_tenant_that_only_one_has() {
    let one = rollups_of(&[event("a", "", "x", "u", T)]);
    let other = rollups_of(&[event("b", "", "x", "u", T), event("b", "", "x", "u", T)]);
    let found = one.compare(&other);
    let shown: Vec<_> = found
        .iter()
        .map(|it| (it.tenant.as_str(), it.events))
        .collect();
    assert_eq!(shown, [("a", (1, 0)), ("b", (0, 2))]);
    assert!(found.iter().all(|it| !it.is_same()));
}

#[test]
fn a_spilled_tenant_is_told() {
    let bounds = Bounds {
        users: 2,
        ..Bounds::default()
    };
    let events = [
        event("a", "", "x", "u", T),
        event("b", "", "x", "v", T),
        event("b", "", "x", "w", T),
    ];
    let mut narrow = Rollups::new(bounds);
    fold(&mut narrow, &events);
    let found = narrow.compare(&rollups_of(&events));
    assert!(found[0].is_same());
    assert_eq!(
        (found[1].is_same(), found[1].spilled),
        (false, (true, false))
    );
    assert_eq!(narrow.wrong_days(), 0);
}

#[test]
fn days_that_do_not_follow_from_the_cells_are_counted() {
    let one = || rollups_of(&[event("a", "", "x", "u", T)]);
    let number = 20_454;
    let mut more_events = one();
    more_events.days.day(number).count(0, 0, 1);
    assert_eq!(more_events.wrong_days(), 1);
    let mut more_users = one();
    more_users.days.day(number).add(1, 1);
    assert_eq!(more_users.wrong_days(), 3, "a day and its two unions");
    let mut more_days = one();
    let sets = Sets {
        all: [1].into_iter().collect(),
        ..Sets::default()
    };
    more_days.days.restore(number + 1, Day::default(), sets);
    assert_eq!(more_days.wrong_days(), 3);
}
