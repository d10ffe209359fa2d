use proptest::prelude::*;

use super::super::samples::{Blocks, any_event, event};
use super::*;

fn decoded(block: &Block) -> Vec<(u64, Event<'static>)> {
    let decoded = Decoded::new(&block.data).unwrap();
    let events = decoded.events().unwrap().map(Result::unwrap);
    events
        .map(|(number, event)| (number + block.numbers.0, event.into_owned()))
        .collect()
}

fn sizes(events: &[Event<'_>]) -> Vec<u32> {
    let blocks = build((0..).zip(events), 0);
    blocks.iter().map(|block| block.events).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn blocks_hold_the_events_in_order_and_say_what_they_span(
        events in prop::collection::vec((any::<u32>(), any_event()), 0..50),
        packed in any::<u8>(),
    ) {
        let numbered = || events.iter().map(|(number, event)| (u64::from(*number), event));
        let mut sorted: Vec<_> = numbered().collect();
        let least = sorted.iter().map(|(number, _)| *number).min().unwrap_or(0);
        sorted.sort_by_key(|(number, event)| {
            ((number - least) / MAX_SPAN, &event.tenant, event.time, *number)
        });
        let blocks = build(numbered(), packed);
        let found: Vec<_> = blocks.iter().flat_map(decoded).collect();
        let expected: Vec<_> = sorted.iter().map(|(n, event)| (*n, (*event).clone())).collect();
        prop_assert_eq!(found, expected);
        for block in &blocks {
            let events = decoded(block);
            let numbers = || events.iter().map(|(number, _)| *number);
            let times = || events.iter().map(|(_, event)| event.time.micros.as_micros());
            let tenants = || events.iter().map(|(_, event)| event.tenant.to_string());
            prop_assert_eq!(Some(block.numbers), numbers().min().zip(numbers().max()));
            prop_assert_eq!(Some(block.times), times().min().zip(times().max()));
            prop_assert_eq!(Some(block.tenants.clone()), tenants().min().zip(tenants().max()));
            prop_assert!(block.numbers.1 - block.numbers.0 < MAX_SPAN);
            let span = i128::from(block.times.1) - i128::from(block.times.0);
            prop_assert!(span < 1 << block.level);
            prop_assert_eq!((block.packed, block.events as usize), (packed, events.len()));
        }
    }
}

#[test]
fn a_block_takes_the_most_events_and_no_more() {
    let events: Vec<_> = (0..=MAX_EVENTS).map(|id| event("t", id, 0)).collect();
    assert_eq!(sizes(&events[1..]), [512]);
    assert_eq!(sizes(&events), [512, 1]);
    assert_eq!(sizes(&[]), [0_u32; 0]);
}

#[test]
fn a_block_takes_the_most_bytes_and_no_more() {
    let long = |bytes: usize| {
        let mut event = event("t", 1, 0);
        event.payload = "x".repeat(bytes - RECORD - 2).into();
        assert_eq!(size_of_record(&event), bytes);
        event
    };
    assert_eq!(sizes(&[long(MAX_BYTES / 2), long(MAX_BYTES / 2)]), [2]);
    assert_eq!(
        sizes(&[long(MAX_BYTES / 2), long(MAX_BYTES / 2 + 1)]),
        [1, 1]
    );
    assert_eq!(sizes(&[long(MAX_BYTES * 2), long(100), long(100)]), [1, 2]);
}

#[test]
fn the_level_is_the_bits_of_the_span() {
    assert_eq!(level_of((7, 7), false), 0);
    assert_eq!(level_of((7, 7), true), 1);
    assert_eq!(level_of((7, 8), false), 1);
    assert_eq!(level_of((-1, 1), true), 2);
    assert_eq!(level_of((0, 255), false), 8);
    assert_eq!(level_of((0, 256), false), 9);
    assert_eq!(level_of((i64::MIN, i64::MAX), false), 63);
}

#[test]
fn a_block_is_read_as_it_was_written_until_it_is_removed() {
    let mut blocks = Blocks::new();
    let first = blocks.append(&[event("t", 1, 1)])[0];
    let second = blocks.append(&[event("b", 2, 9), event("a", 3, -5)])[0];
    blocks.assert_tallied();
    let contents = read(&blocks.db, second).unwrap();
    let found: Vec<_> = contents.events().unwrap().map(Result::unwrap).collect();
    assert_eq!(found[0], (Sequence(3), event("a", 3, -5)));
    assert_eq!(found[1], (Sequence(2), event("b", 2, 9)));
    assert!(blocks.remove(first));
    assert!(!blocks.remove(first), "it is gone");
    blocks.assert_tallied();
    assert!(find(&blocks.db, first).unwrap().is_none());
    assert!(read(&blocks.db, second).is_ok());
}

#[test]
fn an_id_never_comes_again() {
    let mut blocks = Blocks::new();
    let first = blocks.append(&[event("t", 1, 1)])[0];
    let last = blocks.append(&[event("t", 2, 2)])[0];
    assert!(blocks.remove(last));
    assert!(blocks.append(&[event("t", 3, 3)])[0] > last);
    assert!(blocks.remove(first) && blocks.ids().len() == 1);
}

#[test]
fn damage_of_any_kind_is_found_and_named() {
    let broken = |sql: &str| {
        let mut blocks = Blocks::new();
        blocks.append(&[event("t", 1, 1), event("t", 2, 2)]);
        assert_eq!(blocks.db.execute(sql, []).unwrap(), 1, "{sql}");
        match read(&blocks.db, 1) {
            Err(Fault::Damaged(sentence)) => sentence,
            other => panic!("{sql}: {other:?}"),
        }
    };
    for column in [
        "level",
        "first_time",
        "last_time",
        "first_sequence",
        "last_sequence",
        "events",
        "packed",
        "bytes",
        "checksum",
        "digest",
    ] {
        let sentence = broken(&format!("UPDATE block SET {column} = {column} + 1"));
        assert!(
            sentence.contains("block 1 of events has a row"),
            "{sentence}"
        );
    }
    for (sql, how) in [
        ("UPDATE block SET first_tenant = 'a'", "has a row"),
        ("UPDATE block SET last_tenant = 'z'", "has a row"),
        (
            "UPDATE block_data SET data = zeroblob(length(data))",
            "is not what was written",
        ),
        (
            "UPDATE block_data SET data = x'00'",
            "is not what was written",
        ),
        ("DELETE FROM block_data", "has no data"),
        ("DELETE FROM block", "is missing"),
    ] {
        let sentence = broken(sql);
        assert!(
            sentence.contains(&format!("block 1 of events {how}")),
            "{sentence}"
        );
    }
}

/// A row and data that agree with each other, and yet are not a block of that many events.
#[test]
fn data_that_cannot_be_decoded_is_damage() {
    let mut blocks = Blocks::new();
    let mut block = build([(0, &event("t", 1, 1))].into_iter(), 0).remove(0);
    block.events = 2;
    let wrong_count = blocks.insert(&block, 1);
    block.data = b"no block".to_vec();
    block.checksum = xxh3_64(&block.data);
    let garbage = blocks.insert(&block, 1);
    let contents = read(&blocks.db, wrong_count).unwrap();
    let faults = [
        contents.events().map(drop),
        read(&blocks.db, garbage).map(drop),
    ];
    for fault in faults {
        assert!(
            matches!(&fault, Err(Fault::Damaged(sentence)) if sentence.contains("can't be decoded")),
            "{fault:?}"
        );
    }
}
