//! Hand-made cases of retention.

use super::*;

const NOW: &str = "2026-03-05T12:00:00Z";

fn retention(rollups: &Rollups, start: Date, windows: u16, of: WindowType) -> Vec<Cohort> {
    let now = (&TimeZone::UTC, Timestamp::parse(NOW).unwrap());
    let found = rollups.retention(&Filter::default(), start, windows, of, now);
    found.unwrap()
}

fn visit(user: &str, time: &str) -> Event<'static> {
    event("shop", "", "visit", user, time)
}

#[test]
fn users_come_back_or_not() {
    let rollups = rollups_of(&[
        visit("ann", "2026-03-01T08:00:00Z"),
        visit("ann", "2026-03-02T08:00:00Z"),
        visit("ann", "2026-03-03T08:00:00Z"),
        visit("bob", "2026-03-01T23:59:59Z"),
        visit("bob", "2026-03-03T00:00:00Z"),
        visit("cyd", "2026-03-02T10:00:00Z"),
        visit("cyd", "2026-03-04T10:00:00Z"),
        visit("old", "2026-02-01T10:00:00Z"),
        visit("old", "2026-03-01T10:00:00Z"),
        event("shop", "", "visit", "", "2026-03-01T10:00:00Z"),
    ]);
    let found = retention(&rollups, date(2026, 3, 1), 3, WindowType::Daily);
    let shown: Vec<_> = found
        .iter()
        .map(|it| (it.start.day(), it.size, it.retained.as_slice()))
        .collect();
    assert_eq!(
        shown,
        [
            (1, 2, [2, 1, 2].as_slice()),
            (2, 1, [1, 0, 1].as_slice()),
            (3, 0, [0, 0, 0].as_slice()),
        ]
    );
    assert_eq!(found[0].complete, [true, true, true]);
    assert_eq!(found[1].complete, [true, true, true]);
    assert_eq!(found[2].complete, [true, true, false], "the 5th lasts");
}

#[test]
fn a_late_event_moves_a_user_to_an_earlier_cohort() {
    let mut rollups = rollups_of(&[
        visit("ann", "2026-02-10T08:00:00Z"),
        visit("bob", "2026-02-10T08:00:00Z"),
    ]);
    let sizes = |rollups: &Rollups| {
        let found = retention(rollups, date(2026, 2, 2), 2, WindowType::Weekly);
        let retained = |it: &Cohort| it.retained.clone();
        found.iter().map(retained).collect::<Vec<_>>()
    };
    assert_eq!(sizes(&rollups), [[0, 0], [2, 0]]);
    fold(&mut rollups, &[visit("ann", "2026-02-08T23:00:00Z")]);
    assert_eq!(sizes(&rollups), [[1, 1], [1, 0]]);
    fold(&mut rollups, &[visit("ann", "1970-01-01T00:00:00Z")]);
    assert_eq!(
        sizes(&rollups),
        [[0, 0], [1, 0]],
        "out of all that are shown"
    );
}

#[test]
fn a_user_is_of_a_tenant() {
    let rollups = rollups_of(&[
        event("a", "", "visit", "ann", "2026-03-01T08:00:00Z"),
        event("b", "", "visit", "ann", "2026-03-02T08:00:00Z"),
    ]);
    let found = retention(&rollups, date(2026, 3, 1), 2, WindowType::Daily);
    assert_eq!(found[0].retained, [1, 0]);
    assert_eq!(found[1].retained, [1, 0]);
}
