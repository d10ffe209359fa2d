//! Several terms over one store and one directory, whose leaders are stopped and wake up again.
//!
//! The store of these tests knows of one term only, so it confirms each: as if all others began right
//! after that.

use super::*;
use crate::events::housekeeping::Mover;
use crate::telemetry::Metrics;

/// A leader of another term, with groups so small that it writes before it is done.
fn leader(tier: &Tier, term: i64) -> Cold {
    let mut leader = tier.cold.in_term(Term(term));
    leader.limits.group_rows = 2;
    leader
}

async fn drain(cold: &mut Cold) {
    while cold.step(now()).await.unwrap() != Step::Nothing {}
}

fn day_of(tier: &Tier) -> Day {
    Day::of(tier.sent[1].time.micros)
}

#[tokio::test]
async fn a_leader_that_was_stopped_in_the_middle_of_a_part_harms_nothing() {
    let mut tier = Tier::new();
    tier.send(&sample()).await;
    let (deposed, mut present) = (leader(&tier, 3), leader(&tier, 4));
    // It has written a group, and holds a row of the next.
    let (day, last) = (day_of(&tier), *tier.store.last_event().borrow());
    let (temporary, mut part) = deposed.create().await.unwrap();
    let mut pages = Pages::new(&tier.store, of_day(day), PAGE);
    for stored in &pages.next().await.unwrap().unwrap()[..3] {
        part.push(Some(stored.sequence), &stored.event).unwrap();
    }
    drain(&mut present).await;
    tier.check().await;
    let files = tier.cold();
    // It wakes up.
    let (covers, rows) = deposed.fill(part, &temporary, day, last).await.unwrap();
    assert_eq!(rows, 3);
    let written = Written {
        temporary,
        covers,
        rows,
    };
    let refused = deposed.publish(&written).await;
    assert!(refused.is_err(), "its file is gone");
    assert_eq!(tier.cold(), files);
    tier.check().await;
    drain(&mut present).await;
    tier.check().await;
}

#[tokio::test]
async fn a_leader_that_was_stopped_before_a_part_was_final_harms_nothing() {
    let mut tier = Tier::new();
    tier.send(&sample()).await;
    let (deposed, mut present) = (leader(&tier, 3), leader(&tier, 4));
    let written = deposed.write(day_of(&tier)).await.unwrap().unwrap();
    present.step(now()).await.unwrap();
    assert!(deposed.publish(&written).await.is_err());
    drain(&mut present).await;
    tier.check().await;
}

#[tokio::test]
async fn a_leader_that_was_stopped_before_it_erased_harms_nothing() {
    for again in [false, true] {
        let mut tier = Tier::new();
        tier.send(&sample()).await;
        let (deposed, mut present) = (leader(&tier, 3), leader(&tier, 4));
        let written = deposed.write(day_of(&tier)).await.unwrap().unwrap();
        let path = deposed.publish(&written).await.unwrap();
        if again {
            // It wakes up before the next one has come to that day.
            deposed.settle(written.covers, &path).await.unwrap();
        }
        drain(&mut present).await;
        tier.check().await;
        let erased = deposed.settle(written.covers, &path).await.unwrap();
        assert_eq!(erased, 0);
        tier.check().await;
    }
}

#[tokio::test]
async fn a_leader_leaves_alone_what_a_later_one_has_in_the_making() {
    let mut tier = Tier::new();
    tier.send(&sample()).await;
    let (mut deposed, present) = (leader(&tier, 3), leader(&tier, 4));
    let day = Day::of(tier.sent[0].time.micros);
    let written = present.write(day).await.unwrap().unwrap();
    deposed.sweep().await.unwrap();
    let path = present.publish(&written).await.unwrap();
    assert_eq!(present.settle(written.covers, &path).await.unwrap(), 1);
    tier.check().await;
    drain(&mut deposed).await;
    tier.check().await;
}

#[tokio::test]
async fn what_a_leader_found_in_one_term_says_nothing_in_another() {
    let mut tier = Tier::new();
    tier.send(&sample()).await;
    let mut mover = Mover::new(tier.cold.in_term(Term::NONE), Metrics::new());
    for files in 1..=2 {
        mover.round(Term(1), now()).await;
        assert_eq!(tier.cold().len(), files);
    }
    // It has looked at the files of this day. Another one makes one more, and dies before it erases.
    let other = leader(&tier, 2);
    let written = other.write(day_of(&tier)).await.unwrap().unwrap();
    other.publish(&written).await.unwrap();
    tier.send(&[event("late", "2026-01-08T12:00:00Z")]).await;
    for _ in 0..5 {
        mover.round(Term(3), now()).await;
    }
    tier.check().await;
    assert_eq!(tier.hot().await.len(), 1);
}
