use std::ops::ControlFlow;

use proptest::prelude::*;

use super::super::page;
use super::super::samples::{Blocks, any_event, event};
use super::*;
use crate::model::event::{EventFilter, Order, PageQuery};

const ALL: Sequence = Sequence(u64::MAX);

/// Packs until there is nothing left to pack; returns how many blocks each merge took.
fn pack(blocks: &mut Blocks, planner: &mut Planner, before: Sequence) -> Vec<usize> {
    let mut merges = Vec::new();
    while let Some(ids) = planner.plan(&blocks.db, before).unwrap() {
        assert!((MIN_BLOCKS..=MAX_BLOCKS).contains(&ids.len()));
        merges.push(ids.len());
        blocks.merge(&ids);
        assert!(merges.len() < 10_000, "it does not end");
    }
    merges
}

fn packed(blocks: &Blocks) -> Vec<u8> {
    let mut statement = blocks.db.prepare("SELECT packed FROM block").unwrap();
    let packed = statement.query_map([], |row| row.get(0)).unwrap();
    packed.map(Result::unwrap).collect()
}

fn count(blocks: &Blocks, sql: &str) -> usize {
    let count: i64 = blocks.db.query_row(sql, [], |row| row.get(0)).unwrap();
    usize::try_from(count).unwrap()
}

fn assert_same_events(blocks: &Blocks) {
    let mut found = Vec::new();
    page::blocks_after(&blocks.db, Sequence(0), |events| {
        let owned = |(sequence, event): &(_, Event<'_>)| (*sequence, event.clone().into_owned());
        found.extend(events.iter().map(owned));
        ControlFlow::Continue(())
    })
    .unwrap();
    found.sort_by_key(|(sequence, _)| *sequence);
    let model = blocks.model.iter();
    let expected: Vec<_> = model
        .map(|stored| (stored.sequence, stored.event.clone()))
        .collect();
    assert!(found == expected, "packing changed the events");
    blocks.assert_tallied();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn packing_ends_and_changes_no_event(
        requests in prop::collection::vec(prop::collection::vec(any_event(), 1..6), 1..120),
        lag in 0_u64..40,
        restart in any::<bool>(),
    ) {
        let mut blocks = Blocks::new();
        let mut planner = Planner::default();
        for (index, request) in requests.iter().enumerate() {
            blocks.append(request);
            if index % 16 == 0 {
                let before = (blocks.model.len() as u64).saturating_sub(lag);
                pack(&mut blocks, &mut planner, Sequence(before));
            }
        }
        if restart {
            planner = Planner::default();
        }
        pack(&mut blocks, &mut planner, ALL);
        prop_assert!(packed(&blocks).iter().all(|packed| *packed <= MAX_PACKED));
        prop_assert!(blocks.ids().len() < MIN_BLOCKS * (usize::from(MAX_PACKED) + 1));
        prop_assert_eq!(planner.plan(&blocks.db, ALL).unwrap(), None);
        assert_same_events(&blocks);
    }
}

/// Each merge puts one more into `packed`, and what has [`MAX_PACKED`] is left alone.
#[test]
fn an_event_is_moved_a_bounded_number_of_times() {
    let mut blocks = Blocks::new();
    for number in 0..8 {
        blocks.append(&[event("t", number, 0)]);
    }
    let mut planner = Planner::default();
    for times in 1..=MAX_PACKED {
        assert_eq!(pack(&mut blocks, &mut planner, ALL).len(), 1);
        assert_eq!(packed(&blocks), [times]);
        // Seven more that look as if they had been packed as often.
        for number in 0..7 {
            let number = u64::from(times) * 10 + number;
            let one = event("t", number, 0);
            blocks.insert(&build([(number, &one)].into_iter(), times).remove(0), 0);
        }
    }
    assert_eq!(pack(&mut blocks, &mut planner, ALL), [0; 0]);
    assert_eq!(pack(&mut blocks, &mut Planner::default(), ALL), [0; 0]);
}

#[test]
fn small_blocks_are_merged_from_eight_on() {
    let mut blocks = Blocks::new();
    let mut planner = Planner::default();
    for number in 0..7 {
        blocks.append(&[event("t", number, number)]);
    }
    assert_eq!(planner.plan(&blocks.db, ALL).unwrap(), None);
    blocks.append(&[event("t", 7, 7)]);
    assert_eq!(
        planner.plan(&blocks.db, Sequence(7)).unwrap(),
        None,
        "not yet"
    );
    assert_eq!(
        planner.plan(&blocks.db, Sequence(8)).unwrap(),
        Some((1..=8).collect())
    );
    assert_eq!(
        planner.plan(&blocks.db, ALL).unwrap(),
        None,
        "proposed once"
    );
}

#[test]
fn at_most_sixty_four_blocks_are_merged_at_once() {
    let mut blocks = Blocks::new();
    for number in 0..100 {
        blocks.append(&[event("t", number, number)]);
    }
    assert_eq!(pack(&mut blocks, &mut Planner::default(), ALL), [64, 36]);
    let ids = blocks.ids();
    assert_eq!(ids.len(), 2);
    let many: Vec<i64> = (1..=100).collect();
    assert!(merge(&blocks.db, &many).unwrap().ids.len() <= MAX_BLOCKS);
}

/// As requests with random times make them: every block spans a whole day.
#[test]
fn overlapping_blocks_become_narrow() {
    let mut blocks = Blocks::new();
    let mut random = fastrand::Rng::with_seed(3);
    for request in 0..MAX_BLOCKS {
        let one = |id| event("t", request * 1000 + id, random.i64(0..86_400_000_000));
        blocks.append(&(0..MAX_EVENTS).map(one).collect::<Vec<_>>());
    }
    let at_noon = "SELECT count(*) FROM block
                   WHERE 43200000000 BETWEEN first_time AND last_time";
    assert_eq!(count(&blocks, at_noon), MAX_BLOCKS);
    let merges = pack(&mut blocks, &mut Planner::default(), ALL);
    assert_eq!(merges, [MAX_BLOCKS], "once, and they no longer overlap");
    assert_eq!(count(&blocks, at_noon), 1);
    assert_same_events(&blocks);
    let query = PageQuery {
        filter: EventFilter::default(),
        order: Order::Ascending,
        after: None,
        skip: 20_000,
        limit: 100,
    };
    let mut sorted = blocks.model.clone();
    sorted.sort_by_key(|stored| (stored.event.time, stored.sequence));
    let found = page::page(&blocks.db, &query).unwrap().events;
    assert_eq!(found, sorted[20_000..20_100]);
}

#[test]
fn full_blocks_in_order_of_time_are_left_alone() {
    let mut blocks = Blocks::new();
    for request in 0..40_i64 {
        let one = |id| event("t", request * 1000 + id, request * 1000 + id);
        blocks.append(&(0..512).map(one).collect::<Vec<_>>());
    }
    assert_eq!(pack(&mut blocks, &mut Planner::default(), ALL), [0; 0]);
}

#[test]
fn blocks_that_arrived_far_apart_are_not_merged() {
    let mut blocks = Blocks::new();
    let mut planner = Planner::default();
    for number in 0..4 {
        for base in [0, MAX_SPAN / 2] {
            let one = event("t", number + base, 0);
            blocks.insert(&build([(number, &one)].into_iter(), 0).remove(0), base);
        }
    }
    assert_eq!(planner.plan(&blocks.db, ALL).unwrap(), None);
}

#[test]
fn the_planner_keeps_a_bounded_number_of_rows() {
    let mut tier = Tier::default();
    let mut blocks = Blocks::new();
    blocks.append(&[event("t", 0, 0)]);
    let sql = format!("SELECT {COLUMNS} FROM block");
    let read = |row: &rusqlite::Row<'_>| Ok(Row::read(row, &mut Digest::default()).unwrap());
    let row = blocks.db.query_row(&sql, [], read).unwrap();
    for id in 0..=MAX_ROWS {
        let mut row = row.clone();
        row.id = i64::try_from(id).unwrap();
        tier.insert(row);
        assert!(tier.rows.len() <= MAX_ROWS);
    }
    assert_eq!(tier.rows.front().unwrap().id, 1, "the oldest went");
}

#[test]
fn a_merge_takes_what_is_there_and_fits_into_memory() {
    let mut blocks = Blocks::new();
    for number in 0..4 {
        let mut one = event("t", number, number);
        one.payload = "x".repeat(10_000).into();
        blocks.append(&[one]);
    }
    let ids = blocks.ids();
    let size = block::read(&blocks.db, 1).unwrap().size();
    let merged = |memory| merge_within(&blocks.db, &ids, memory).unwrap().ids;
    assert_eq!(merged(usize::MAX), ids);
    assert_eq!(merged(2 * size), ids[..2]);
    assert_eq!(merged(2 * size - 1), ids[..1]);
    assert_eq!(merged(0), ids[..1], "one at least");
    blocks.remove(2);
    assert_eq!(merge(&blocks.db, &ids).unwrap().ids, [1, 3, 4]);
    let nothing = merge(&blocks.db, &[77]).unwrap();
    assert!(nothing.ids.is_empty() && nothing.blocks.is_empty());
}

#[test]
fn a_block_that_was_removed_after_it_was_seen_does_no_harm() {
    let mut blocks = Blocks::new();
    let mut planner = Planner::default();
    for number in 0..7 {
        blocks.append(&[event("t", number, number)]);
    }
    assert_eq!(pack(&mut blocks, &mut planner, ALL), [0; 0]);
    blocks.remove(7);
    blocks.append(&[event("t", 7, 7)]);
    assert_eq!(pack(&mut blocks, &mut planner, ALL), [8], "it still counts");
    blocks.model.remove(6);
    assert_same_events(&blocks);
}
