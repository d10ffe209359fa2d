//! The heart of the product against a naive model: any interleaving of submissions, time,
//! completions, failures and crashes gives the same order, statuses and positions as plain loops
//! over plain lists do.
//!
//! `SIMULATION_CASES=100000 cargo test simulation` runs more cases; a failing one is kept under
//! `proptest-regressions` and tried first from then on.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "numbers are small here"
)]

mod check;
mod disk;
mod naive;
mod world;

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use proptest::prelude::*;

use super::outlook::{self, QueuePace};
use crate::model::id::IngestionRef;
use crate::model::priority::Priority;
use crate::model::queue::{QueueId, QueueSettings, RetryPolicy};
use crate::model::time::Timestamp;

use world::World;

const QUEUE: QueueId = QueueId(0);
const INTERVAL: Duration = Duration::from_millis(100);

/// What a test does to the world.
#[derive(Clone, Debug)]
enum Step {
    Submit {
        priority: Priority,
        ids: i64,
        deadline_ms: Option<u64>,
    },
    Advance {
        ms: u64,
    },
    /// Time passes until the queue wakes by itself, if it does.
    Wake,
    /// From here on, work begins so much later than it is decided, if that is later than it may.
    Slow {
        micros: u64,
    },
    /// One of the running batches ends; the bits say which of its ids failed.
    Finish {
        which: usize,
        failed: u8,
    },
    /// The results of one of the batches that are given up are kept.
    Keep {
        which: usize,
    },
    /// From here on, the disk takes bookings so.
    Bookings(Bookings),
    /// From here on, the disk takes the start of a batch in a booked slot, or refuses it.
    Starts {
        taken: bool,
    },
    /// The process dies and starts again, `down_ms` later.
    Crash {
        down_ms: u64,
    },
    /// Time passes, and the process dies after it decided what to do then, before that was committed.
    CrashBeforeCommit {
        ms: u64,
    },
    /// Time passes, and what is decided then is not taken by the disk.
    CommitFails {
        ms: u64,
    },
}

/// How the disk takes bookings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Bookings {
    AtOnce,
    /// Before the next thing that is committed; the answer comes as late as that.
    Late,
    Refused,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let priority = prop::sample::select(vec![Priority::Low, Priority::Medium, Priority::High]);
    let step = prop_oneof![
        4 => (priority, 1_i64..10, prop::option::weighted(0.2, 0_u64..600))
            .prop_map(|(priority, ids, deadline_ms)| Step::Submit { priority, ids, deadline_ms }),
        5 => (0_u64..250).prop_map(|ms| Step::Advance { ms }),
        8 => Just(Step::Wake),
        1 => prop_oneof![0_u64..3_000, 0_u64..90_000].prop_map(|micros| Step::Slow { micros }),
        5 => (0_usize..8, prop_oneof![3 => Just(0_u8), 1 => 0_u8..8])
            .prop_map(|(which, failed)| Step::Finish { which, failed }),
        2 => (0_usize..8).prop_map(|which| Step::Keep { which }),
        1 => prop::sample::select(vec![Bookings::AtOnce, Bookings::Late, Bookings::Refused])
            .prop_map(Step::Bookings),
        1 => any::<bool>().prop_map(|taken| Step::Starts { taken }),
        1 => prop_oneof![Just(0), 0_u64..300].prop_map(|down_ms| Step::Crash { down_ms }),
        1 => (0_u64..250).prop_map(|ms| Step::CrashBeforeCommit { ms }),
        1 => (0_u64..250).prop_map(|ms| Step::CommitFails { ms }),
    ];
    prop::collection::vec(step, 1..80)
}

fn settings(max_in_flight: u32, pack_slots: bool) -> QueueSettings {
    QueueSettings {
        interval: INTERVAL,
        batch_size: NonZeroU16::new(3).unwrap(),
        max_in_flight: NonZeroU32::new(max_in_flight).unwrap(),
        pack_slots,
        retry: RetryPolicy {
            max_attempts: NonZeroU32::new(3).unwrap(),
            min_backoff: Duration::from_millis(70),
            max_backoff: Duration::from_millis(500),
            max_doublings: 2,
        },
        ..QueueSettings::default()
    }
}

fn cases() -> ProptestConfig {
    let cases = std::env::var("SIMULATION_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(1000);
    ProptestConfig {
        cases,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn agrees_with_plain_loops(steps in steps(), max_in_flight in 1_u32..4, pack in any::<bool>()) {
        let mut world = World::new(settings(max_in_flight, pack));
        for step in &steps {
            world.step(step);
        }
        world.drain();
    }
}

fn submit(world: &mut World, priority: Priority, ids: i64) {
    world.step(&Step::Submit {
        priority,
        ids,
        deadline_ms: None,
    });
}

/// The contract's timeline, in units of a twentieth of its five seconds.
fn timeline(pack_slots: bool) -> Vec<(u64, u64, u32)> {
    let mut world = World::new(settings(1, pack_slots));
    let begin = world.now.wall;
    submit(&mut world, Priority::Medium, 5);
    world.step(&Step::Finish {
        which: 0,
        failed: 0,
    });
    world.step(&Step::Advance { ms: 80 });
    submit(&mut world, Priority::High, 4);
    for _ in 0..50 {
        world.step(&Step::Finish {
            which: 0,
            failed: 0,
        });
        world.step(&Step::Advance { ms: 10 });
    }
    let tell = |(at, arrival, batch): &(Timestamp, u64, u32)| {
        (
            u64::try_from(at.since(begin).as_millis()).unwrap() / 20,
            *arrival,
            *batch,
        )
    };
    world.started.iter().map(tell).collect()
}

#[test]
fn the_timeline_of_the_contract() {
    assert_eq!(
        timeline(false),
        [(0, 1, 0), (5, 2, 0), (10, 2, 1), (15, 1, 1)]
    );
}

#[test]
fn the_timeline_of_the_contract_with_packed_slots() {
    assert_eq!(
        timeline(true),
        [(0, 1, 0), (5, 2, 0), (10, 2, 1), (10, 1, 1)]
    );
}

#[test]
fn the_estimated_end_is_when_it_ends() {
    let run = Duration::from_millis(30);
    let mut world = World::new(settings(1, false));
    for ids in [4, 7, 2, 9] {
        submit(&mut world, Priority::Medium, ids);
    }
    submit(&mut world, Priority::High, 5);
    let begin = world.now.wall;
    let estimates: Vec<(IngestionRef, Duration)> = world
        .naive
        .iter()
        .map(|naive| {
            let registry = world.registry.read();
            let ingestion = registry.get(naive.id).unwrap();
            let pace = QueuePace {
                settings: &world.settings,
                opens_at: world.scheduler.opens_at(),
                run,
            };
            (
                ingestion.key(),
                outlook::outlook(&registry, ingestion, pace, world.now)
                    .unwrap()
                    .eta,
            )
        })
        .collect();
    // Each run takes 30 ms of the 100 ms between two slots.
    for tenth in 1..200 {
        world.step(&Step::Advance { ms: 10 });
        if tenth % 10 == 3 {
            world.step(&Step::Finish {
                which: 0,
                failed: 0,
            });
        }
    }
    for (key, eta) in estimates {
        let registry = world.registry.read();
        let ended = registry
            .get(key.id)
            .unwrap()
            .ended_at()
            .expect("all have ended");
        let actual = ended.since(begin);
        assert!(
            eta.abs_diff(actual) <= Duration::from_millis(10),
            "arrival {}: {eta:?} for {actual:?}",
            key.arrival.0
        );
    }
}

#[test]
fn a_retry_does_not_block_the_queue_and_only_failed_ids_are_tried_again() {
    let mut world = World::new(settings(1, false));
    submit(&mut world, Priority::High, 3);
    submit(&mut world, Priority::Low, 3);
    // Ids 0 and 2 of the first fail; the model in `start` checks what is due.
    world.step(&Step::Finish {
        which: 0,
        failed: 0b101,
    });
    world.step(&Step::Advance { ms: 100 });
    let order: Vec<u64> = world
        .started
        .iter()
        .map(|(_, arrival, _)| *arrival)
        .collect();
    assert!(order.len() == 2, "the slot was used: {order:?}");
    world.drain();
    assert_eq!(world.started.len(), 3);
}

/// The first of three batches has run, and the slot of the second is booked and not yet open.
fn booked() -> World {
    let mut world = World::new(settings(1, false));
    submit(&mut world, Priority::Medium, 9);
    world.step(&Step::Finish {
        which: 0,
        failed: 0,
    });
    world.step(&Step::Wake);
    let (open, booked) = (world.started[0].0.plus(INTERVAL), world.disk.last_slot);
    assert!(world.now.wall < open && booked > Some(open));
    world
}

/// Which batches started, and how many of them in booked slots.
fn order(world: &World) -> (Vec<(u64, u32)>, usize) {
    let started = world.started.iter();
    let order = started.map(|(_, arrival, batch)| (*arrival, *batch));
    (order.collect(), world.booked)
}

#[test]
fn a_booked_slot_goes_to_what_is_the_most_urgent_when_it_opens() {
    let mut world = booked();
    submit(&mut world, Priority::High, 3);
    world.step(&Step::Wake);
    assert_eq!(order(&world), (vec![(1, 0), (2, 0)], 1));
    let slots = [0, 1].map(|start: usize| world.started[start].0);
    assert_eq!(slots[1], slots[0].plus(INTERVAL));
    world.drain();
}

#[test]
fn a_booked_slot_that_nothing_starts_in_is_used_by_what_comes_later() {
    let mut world = World::new(settings(1, false));
    submit(&mut world, Priority::Medium, 3);
    world.step(&Step::Finish {
        which: 0,
        failed: 0,
    });
    world.step(&Step::Submit {
        priority: Priority::Low,
        ids: 3,
        deadline_ms: Some(80),
    });
    for _ in 0..3 {
        world.step(&Step::Wake);
    }
    world.step(&Step::Advance { ms: 30 });
    assert_eq!(order(&world).0, [(1, 0)], "the second has expired");
    submit(&mut world, Priority::Medium, 3);
    assert_eq!(order(&world), (vec![(1, 0), (3, 0)], 1));
    assert_eq!(world.started[1].0, world.now.wall, "at once");
}

#[test]
fn a_crash_after_a_booking_costs_at_most_an_interval_and_what_was_booked() {
    for down_ms in [0, 20, 60, 500] {
        let mut world = booked();
        let latest = world.disk.last_slot.unwrap().plus(INTERVAL);
        world.step(&Step::Crash { down_ms });
        while world.started.len() < 2 {
            world.step(&Step::Wake);
            assert!(world.now.wall <= latest || down_ms == 500);
        }
        assert_eq!(order(&world).0, [(1, 0), (1, 1)]);
        world.drain();
    }
}

#[test]
fn work_that_began_before_its_start_was_on_disk_is_started_again_after_a_crash() {
    let mut world = booked();
    world.step(&Step::Starts { taken: false });
    // The slot opens, and the work begins.
    world.step(&Step::Wake);
    world.step(&Step::Wake);
    let began = world.now.wall;
    assert_eq!(world.last_began, Some(began));
    world.step(&Step::Crash { down_ms: 10 });
    world.drain();
    assert_eq!(order(&world).0, [(1, 0), (1, 1), (1, 1), (1, 2)]);
    assert!(world.started[2].0.since(began) >= INTERVAL);
}

#[test]
fn nothing_is_decided_until_a_start_is_on_disk_and_then_the_slots_go_on() {
    let mut world = booked();
    world.step(&Step::Starts { taken: false });
    world.step(&Step::Advance { ms: 250 });
    submit(&mut world, Priority::High, 3);
    world.step(&Step::Advance { ms: 250 });
    assert_eq!(order(&world).0, [(1, 0), (1, 1)]);
    world.step(&Step::Starts { taken: true });
    world.step(&Step::Finish {
        which: 0,
        failed: 0,
    });
    assert_eq!(order(&world).0, [(1, 0), (1, 1), (2, 0)]);
    world.drain();
}

#[test]
fn a_slot_that_the_disk_did_not_book_opens_all_the_same() {
    for bookings in [Bookings::Late, Bookings::Refused] {
        let mut world = World::new(settings(1, false));
        world.step(&Step::Bookings(bookings));
        submit(&mut world, Priority::Medium, 9);
        for _ in 0..4 {
            world.step(&Step::Finish {
                which: 0,
                failed: 0,
            });
            world.step(&Step::Wake);
        }
        let slots: Vec<Timestamp> = world.started.iter().map(|(at, ..)| *at).collect();
        assert_eq!(slots[1], slots[0].plus(INTERVAL), "{bookings:?}");
        assert_eq!(world.booked, 0);
    }
}
