//! What happens at the bounds.

use super::*;

fn small() -> Bounds {
    Bounds {
        tenants: 2,
        names: 3,
        pairs: 3,
        own_pairs: 3,
        users: 3,
        hours: 3,
        days: 2,
        events: 4,
    }
}

fn total(rollups: &Rollups, filter: &Filter) -> Result<u64, Unanswered> {
    let found = rollups.buckets(filter, Span::ALL, BucketSize::Day, &TimeZone::UTC)?;
    Ok(found.iter().map(|it| it.count).sum())
}

/// `ok` are events at the bound, the last of tenant `b`; `over` is one more of `b`.
#[track_caller]
fn spills(bound: Bound, ok: &[Event<'_>], over: &Event<'_>) {
    let mut rollups = Rollups::new(small());
    fold(&mut rollups, ok);
    let whole = ok.len() as u64;
    assert_eq!(total(&rollups, &Filter::default()), Ok(whole));
    let of_a = total(&rollups, &of_tenant("a"));
    fold(&mut rollups, std::slice::from_ref(over));
    for _ in 0..2 {
        let refused = Err(Unanswered::Bound(bound));
        assert_eq!(total(&rollups, &Filter::default()), refused);
        assert_eq!(total(&rollups, &of_tenant(&over.tenant)), refused);
        assert_eq!(total(&rollups, &of_tenant("a")), of_a, "is not concerned");
        rollups = restored(small(), &written(&rollups)).unwrap();
    }
}

const T: &str = "2026-01-01T00:00:00Z";

#[test]
fn tenants() {
    let ok = [event("a", "", "", "", T), event("b", "", "", "", T)];
    spills(Bound::Tenants, &ok, &event("c", "", "", "", T));
}

#[test]
fn types() {
    let ok = ["x", "y", "z"].map(|it| event("a", "", it, "u", T));
    spills(Bound::Names, &ok, &event("b", "", "w", "u", T));
}

#[test]
fn pairs_of_one_tenant() {
    let ok = [("s", "x"), ("s", "y"), ("t", "x")].map(|(s, t)| event("b", s, t, "u", T));
    spills(Bound::Names, &ok, &event("b", "t", "y", "u", T));
}

#[test]
fn users() {
    let ok = ["u", "v", "w"].map(|it| event("a", "", "x", it, T));
    spills(Bound::Users, &ok, &event("b", "", "x", "u", T));
}

#[test]
fn hours() {
    let ok =
        ["00", "01", "02"].map(|it| event("a", "", "x", "u", &format!("2026-01-01T{it}:00:00Z")));
    spills(Bound::Hours, &ok, &event("b", "", "x", "u", T));
}

#[test]
fn days() {
    let ok = [
        event("a", "", "x", "u", T),
        event("a", "", "x", "u", "2026-01-05T00:00:00Z"),
    ];
    spills(
        Bound::Days,
        &ok,
        &event("b", "", "x", "u", "2026-01-06T00:00:00Z"),
    );
}

#[test]
fn events() {
    let ok = ["a", "a", "a", "b"].map(|it| event(it, "", "x", "u", T));
    spills(Bound::Events, &ok, &event("b", "", "x", "u", T));
}

#[test]
fn what_was_folded_is_left_out() {
    let events = [event("a", "", "x", "u", T)];
    let mut rollups = rollups_of(&events);
    rollups.fold(&Facts::of(KEY, &events), Sequence(1));
    assert_eq!(total(&rollups, &Filter::default()), Ok(1));
    assert_eq!(rollups.covers(), Sequence(1));
}

#[test]
fn what_is_added_is_covered_when_it_is_said() {
    let [first, second] = ["u", "v"].map(|user| [event("a", "", "x", user, T)]);
    let mut rollups = Rollups::new(Bounds::default());
    for events in [&second, &first] {
        rollups.add(&Facts::of(KEY, events));
        assert_eq!(rollups.covers(), Sequence(0));
    }
    rollups.covered(Sequence(2));
    rollups.covered(Sequence(1));
    assert_eq!(rollups.covers(), Sequence(2), "it never goes back");
    rollups.fold(&Facts::of(KEY, &second), Sequence(2));
    assert_eq!(total(&rollups, &Filter::default()), Ok(2));
}
