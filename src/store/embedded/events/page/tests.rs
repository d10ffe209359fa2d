use proptest::prelude::*;
use proptest::sample::Index;

use super::super::pack;
use super::super::samples::{Blocks, any_event, event, time, typical};
use super::since::since_with;
use super::*;
use crate::clock::Clock;
use crate::model::time::Timestamp;

/// So little that its bounds are met often.
const LITTLE: Work = Work {
    blocks: 2,
    rows: 3,
    spare: 2,
    bytes: 200,
};

fn query(order: Order, limit: usize) -> PageQuery {
    PageQuery {
        filter: EventFilter::default(),
        order,
        after: None,
        skip: 0,
        limit,
    }
}

fn place(stored: &StoredEvent) -> Place {
    Place {
        time: stored.event.time,
        sequence: stored.sequence,
    }
}

/// What a query means, by a plain look at every event.
fn expected(blocks: &Blocks, query: &PageQuery) -> Vec<StoredEvent> {
    let mut events = blocks.model.clone();
    events.sort_by_key(place);
    if query.order == Order::Descending {
        events.reverse();
    }
    let behind = |at: Place, after: Place| match query.order {
        Order::Ascending => at > after,
        Order::Descending => at < after,
    };
    events.retain(|stored| {
        query.filter.matches(&stored.event)
            && query.after.is_none_or(|after| behind(place(stored), after))
    });
    events.drain(..events.len().min(usize::try_from(query.skip).unwrap()));
    events
}

/// All pages by cursor, with `between` called between them.
fn all_pages(
    blocks: &mut Blocks,
    mut query: PageQuery,
    work: Work,
    mut between: impl FnMut(&mut Blocks),
) -> Vec<StoredEvent> {
    let mut events = Vec::new();
    loop {
        let (page, skipped) = part(&blocks.db, &query, work).unwrap();
        assert!(page.events.len() <= query.limit);
        query.skip -= skipped;
        events.extend(page.events);
        let Some(next) = page.next else {
            return events;
        };
        if let Some(after) = query.after {
            let (next, after) = (Key::of(next, query.order), Key::of(after, query.order));
            assert!(next > after, "no progress: {next:?} after {after:?}");
        }
        query.after = Some(next);
        between(blocks);
    }
}

fn filter() -> impl Strategy<Value = EventFilter> {
    let one = || proptest::option::weighted(0.15, (0..4).prop_map(|n| format!("name-{n}")));
    let time = || proptest::option::weighted(0.25, time());
    (one(), one(), one(), one(), one(), time(), time()).prop_map(
        |(tenant, topic, source, event_type, user, from, to)| EventFilter {
            tenant,
            topic,
            source,
            event_type,
            user,
            from,
            to,
        },
    )
}

fn any_query() -> impl Strategy<Value = PageQuery> {
    let order = prop_oneof![Just(Order::Ascending), Just(Order::Descending)];
    let skip = prop_oneof![3 => Just(0), 1 => 0_u64..60];
    (filter(), order, skip, 1_usize..20).prop_map(|(filter, order, skip, limit)| PageQuery {
        filter,
        order,
        after: None,
        skip,
        limit,
    })
}

fn requests() -> impl Strategy<Value = Vec<Vec<Event<'static>>>> {
    prop::collection::vec(prop::collection::vec(any_event(), 1..12), 1..14)
}

fn stored(requests: &[Vec<Event<'static>>]) -> Blocks {
    let mut blocks = Blocks::new();
    for request in requests {
        blocks.append(request);
    }
    blocks
}

/// Merges some blocks.
fn shuffle(blocks: &mut Blocks, picks: &[Index]) {
    let ids = blocks.ids();
    let mut picked: Vec<i64> = picks
        .iter()
        .map(|index| ids[index.index(ids.len())])
        .collect();
    picked.sort_unstable();
    picked.dedup();
    blocks.merge(&picked);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn pages_give_the_sorted_filtered_list(
        requests in requests(),
        query in any_query(),
        little in any::<bool>(),
        picks in prop::collection::vec(any::<Index>(), 3),
        gone in proptest::option::weighted(0.3, 2_u64..5),
    ) {
        let mut blocks = stored(&requests);
        if let Some(gone) = gone {
            blocks.erase(|stored| stored.sequence.0.is_multiple_of(gone));
        }
        let expected = expected(&blocks, &query);
        let work = if little { LITTLE } else { WORK };
        let found = all_pages(&mut blocks, query.clone(), work, |blocks| {
            if !blocks.model.is_empty() {
                shuffle(blocks, &picks);
            }
        });
        prop_assert_eq!(&found, &expected);
        blocks.assert_tallied();
        let whole = page(&blocks.db, &query).unwrap();
        prop_assert_eq!(whole.next.is_some(), expected.len() > query.limit);
        prop_assert_eq!(&whole.events[..], &expected[..expected.len().min(query.limit)]);
    }

    #[test]
    fn events_come_in_order_of_arrival(
        requests in requests(),
        filter in filter(),
        limit in 1_usize..20,
        little in any::<bool>(),
        picks in prop::collection::vec(any::<Index>(), 3),
        gone in proptest::option::weighted(0.5, 2_u64..5),
    ) {
        let mut blocks = stored(&requests);
        if let Some(gone) = gone {
            blocks.erase(|stored| stored.sequence.0.is_multiple_of(gone));
        }
        let work = if little { LITTLE } else { WORK };
        let (mut found, mut after) = (Vec::new(), Sequence(0));
        loop {
            let (events, looked) = since_with(&blocks.db, after, &filter, limit, work).unwrap();
            prop_assert!(events.len() <= limit);
            prop_assert!(events.iter().all(|event| event.sequence > after && event.sequence <= looked));
            found.extend(events);
            if looked == after {
                break;
            }
            after = looked;
            if !blocks.model.is_empty() {
                shuffle(&mut blocks, &picks);
            }
        }
        let mut expected = blocks.model.clone();
        expected.retain(|stored| filter.matches(&stored.event));
        prop_assert_eq!(found, expected);
        prop_assert_eq!(after, blocks.model.last().map_or(Sequence(0), |last| last.sequence));
    }

    #[test]
    fn one_is_found_and_all_are_streamed(
        requests in requests(),
        picks in prop::collection::vec(any::<Index>(), 3),
        after in 0_u64..100,
    ) {
        let mut blocks = stored(&requests);
        shuffle(&mut blocks, &picks);
        for wanted in &blocks.model {
            let event = &wanted.event;
            let micros = event.time.micros.as_micros();
            let found = at(&blocks.db, micros, &event.tenant, &event.topic, &event.id).unwrap();
            let found = found.unwrap();
            let identity = |event: &Event<'static>| {
                (event.tenant.clone(), event.topic.clone(), event.id.clone())
            };
            prop_assert_eq!(identity(&found.event), identity(event));
            let none = at(&blocks.db, micros, &event.tenant, "no topic", &event.id).unwrap();
            prop_assert_eq!(none, None);
        }
        let mut streamed = Vec::new();
        blocks_after(&blocks.db, Sequence(after), |events| {
            streamed.extend(events.iter().map(|(sequence, event)| StoredEvent {
                sequence: *sequence,
                event: event.clone().into_owned(),
            }));
            ControlFlow::Continue(())
        })
        .unwrap();
        streamed.sort_by_key(|stored| stored.sequence);
        let mut expected = blocks.model.clone();
        expected.retain(|stored| stored.sequence > Sequence(after));
        prop_assert_eq!(streamed, expected);
    }
}

/// Blocks of one event each, all at the same time.
fn same_time(count: usize) -> Blocks {
    let mut blocks = Blocks::new();
    for number in 0..count {
        blocks.append(&[event("t", number, 5)]);
    }
    blocks
}

fn damage(blocks: &Blocks, id: i64) {
    let sql = "UPDATE block_data SET data = zeroblob(length(data)) WHERE id = ?1";
    assert_eq!(blocks.db.execute(sql, [id]).unwrap(), 1);
}

#[test]
fn a_page_reads_no_block_that_it_does_not_need() {
    for order in [Order::Ascending, Order::Descending] {
        let mut blocks = Blocks::new();
        for number in 0..40 {
            blocks.append(&[
                event("t", number, number * 1000),
                event("t", -number, number * 1000 + 500),
            ]);
        }
        let after = Place {
            time: event("t", 0, 20_100).time,
            sequence: Sequence(1),
        };
        let expected: Vec<_> = {
            let query = PageQuery {
                after: Some(after),
                ..query(order, 4)
            };
            expected(&blocks, &query).into_iter().take(4).collect()
        };
        // Those that the page touches, and one more that tells that there are more.
        let needed = match order {
            Order::Ascending => 21..=23,
            Order::Descending => 19..=21,
        };
        for id in blocks.ids().into_iter().filter(|id| !needed.contains(id)) {
            damage(&blocks, id);
        }
        let query = PageQuery {
            after: Some(after),
            ..query(order, 4)
        };
        let page = page(&blocks.db, &query).unwrap();
        assert_eq!(page.events, expected);
        assert_eq!(page.next, page.events.last().map(place));
    }
}

#[test]
fn inside_one_time_blocks_are_left_out_by_their_arrivals() {
    for order in [Order::Ascending, Order::Descending] {
        let blocks = same_time(50);
        let after = Place {
            time: event("t", 0, 5).time,
            sequence: Sequence(25),
        };
        let needed = match order {
            Order::Ascending => 26..=29,
            Order::Descending => 21..=24,
        };
        for id in blocks.ids().into_iter().filter(|id| !needed.contains(id)) {
            damage(&blocks, id);
        }
        let query = PageQuery {
            after: Some(after),
            ..query(order, 3)
        };
        assert_eq!(page(&blocks.db, &query).unwrap().events.len(), 3);
    }
}

#[test]
fn what_is_skipped_as_a_whole_is_not_read() {
    let mut blocks = Blocks::new();
    for number in 0..20 {
        blocks.append(&[
            event("t", number, number * 10),
            event("t", -number, number * 10 + 5),
        ]);
    }
    for id in 1..=8 {
        damage(&blocks, id);
    }
    let query = PageQuery {
        skip: 17,
        ..query(Order::Ascending, 2)
    };
    let found = page(&blocks.db, &query).unwrap().events;
    assert_eq!(found, expected(&blocks, &query)[..2]);
}

#[test]
fn a_filter_that_finds_little_ends_at_the_bound_and_goes_on_behind_it() {
    let mut blocks = Blocks::new();
    for number in 0..20 {
        blocks.append(&[event("t", number, number)]);
    }
    let mut query = query(Order::Ascending, 5);
    query.filter.topic = Some("none".to_owned());
    let work = Work {
        blocks: 6,
        rows: 1000,
        spare: 10,
        bytes: WORK.bytes,
    };
    let (first, _) = part(&blocks.db, &query, work).unwrap();
    assert!(first.events.is_empty());
    let next = first.next.unwrap();
    assert!(next >= place(&blocks.model[5]) && next < place(&blocks.model[6]));
    let mut pages = 1;
    let found = all_pages(&mut blocks, query, work, |_| pages += 1);
    assert!(found.is_empty());
    assert!((3..=5).contains(&pages), "{pages} pages");
}

#[test]
fn more_blocks_of_one_moment_than_a_page_may_read_are_read_all_the_same() {
    // Two events a block, all blocks over one another: none of them can be left out.
    let mut blocks = Blocks::new();
    for number in 0..30 {
        blocks.append(&[
            event("t", number, 0),
            event("t", -number, 1_000_000 - number),
        ]);
    }
    for order in [Order::Ascending, Order::Descending] {
        let query = query(order, 7);
        let expected = expected(&blocks, &query);
        assert_eq!(all_pages(&mut blocks, query, LITTLE, |_| {}), expected);
    }
}

#[test]
fn a_stream_ends_at_the_bound_and_goes_on_behind_it() {
    let mut blocks = Blocks::new();
    for number in 0..20 {
        blocks.append(&[event("t", number, 0)]);
    }
    let none = EventFilter {
        topic: Some("none".to_owned()),
        ..EventFilter::default()
    };
    let work = Work {
        blocks: 6,
        rows: 1000,
        spare: 10,
        bytes: WORK.bytes,
    };
    let looked = |after| {
        since_with(&blocks.db, Sequence(after), &none, 5, work)
            .unwrap()
            .1
            .0
    };
    assert_eq!(looked(0), 6);
    assert_eq!(looked(6), 12);
    assert_eq!(looked(18), 20);
    assert_eq!(looked(20), 20);
    assert_eq!(looked(u64::MAX), u64::MAX);
}

#[test]
fn a_page_ends_where_its_events_have_too_many_bytes_but_has_one() {
    let mut blocks = Blocks::new();
    for number in 0..9 {
        blocks.append(&[event("t", number, number)]);
    }
    let each = block::size_of_record(&blocks.model[0].event);
    let all = EventFilter::default();
    for (bytes, fitting) in [
        (3 * each, 3),
        (3 * each - 1, 2),
        (9 * each, 9),
        (each - 1, 1),
    ] {
        let work = Work { bytes, ..WORK };
        for order in [Order::Ascending, Order::Descending] {
            let query = query(order, 100);
            let (first, _) = part(&blocks.db, &query, work).unwrap();
            assert_eq!(first.events.len(), fitting, "{bytes}");
            let last = first.events.last().map(place);
            assert_eq!(first.next, last.filter(|_| fitting < 9), "{bytes}");
            let expected = expected(&blocks, &query);
            assert_eq!(all_pages(&mut blocks, query, work, |_| {}), expected);
        }
        let (first, looked) = since_with(&blocks.db, Sequence(0), &all, 100, work).unwrap();
        assert_eq!(
            (first.len(), looked.0),
            (fitting, fitting as u64),
            "{bytes}"
        );
    }
}

#[test]
fn a_gap_in_the_arrivals_is_passed_and_hides_nothing() {
    let mut blocks = Blocks::new();
    for number in 0..30 {
        blocks.append(&[event("t", number, number)]);
    }
    blocks.erase(|stored| (4..=24).contains(&stored.sequence.0));
    // The widest block comes last in the index and holds the first arrivals.
    blocks.merge(&[1, 2, 30]);
    let all = EventFilter::default();
    let (found, looked) = since(&blocks.db, Sequence(0), &all, 100).unwrap();
    assert_eq!(found, blocks.model);
    assert_eq!(looked, Sequence(30));
}

#[test]
fn damage_is_told_with_the_name_of_the_block() {
    let mut blocks = Blocks::new();
    let ids = blocks.append(&[event("t", 1, 1)]);
    damage(&blocks, ids[0]);
    let all = EventFilter::default();
    let faults = [
        page(&blocks.db, &query(Order::Ascending, 1)).map(drop),
        since(&blocks.db, Sequence(0), &all, 1).map(drop),
        at(&blocks.db, 1, "t", "", "1").map(drop),
        blocks_after(&blocks.db, Sequence(0), |_| ControlFlow::Continue(())).map(drop),
    ];
    for fault in faults {
        let Err(Fault::Damaged(sentence)) = fault else {
            panic!("{fault:?}");
        };
        assert!(sentence.contains("block 1 of events"), "{sentence}");
    }
}

/// Run with `--release`, on a calm machine.
#[test]
#[ignore = "prints figures, checks nothing"]
fn figures() {
    for spread in [0, 86_400_000_000_i64] {
        let mut blocks = Blocks::new();
        let mut random = fastrand::Rng::with_seed(5);
        blocks.db.execute_batch("BEGIN").unwrap();
        for seed in 0..200 {
            let mut events = typical(5000, seed);
            for event in &mut events {
                let late = if spread > 0 { random.i64(0..spread) } else { 0 };
                let micros = event.time.micros.as_micros();
                let shift = i64::try_from(seed).unwrap() * 5_000_000;
                event.time.micros = Timestamp::from_micros(micros + shift + late);
            }
            blocks.append(&events);
            blocks.model.clear();
        }
        blocks.db.execute_batch("COMMIT").unwrap();
        report(&blocks, spread, "as written");
        let clock = Clock::system();
        let start = clock.now().mono;
        let mut planner = pack::Planner::default();
        let (mut merges, mut gone) = (0, 0);
        blocks.db.execute_batch("BEGIN").unwrap();
        while let Some(ids) = planner.plan(&blocks.db, Sequence(u64::MAX)).unwrap() {
            merges += 1;
            gone += ids.len();
            blocks.merge(&ids);
        }
        blocks.db.execute_batch("COMMIT").unwrap();
        let took = clock.now().mono.saturating_sub(start);
        println!("packed {gone} blocks in {merges} merges, {took:?}");
        report(&blocks, spread, "packed");
    }
}

fn report(blocks: &Blocks, spread: i64, state: &str) {
    let clock = Clock::system();
    let mut events = 0;
    let start = clock.now().mono;
    blocks_after(&blocks.db, Sequence(0), |block| {
        events += block.len();
        ControlFlow::Continue(())
    })
    .unwrap();
    let stream = clock.now().mono.saturating_sub(start);
    let start = clock.now().mono;
    let looked = since(&blocks.db, Sequence(500_000), &EventFilter::default(), 1000).unwrap();
    let tail = clock.now().mono.saturating_sub(start);
    assert_eq!(looked.1, Sequence(501_000));
    let (low, high): (i64, i64) = blocks
        .db
        .query_row(
            "SELECT min(first_time), max(last_time) FROM block",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .unwrap();
    for order in [Order::Ascending, Order::Descending] {
        let mut random = fastrand::Rng::with_seed(9);
        let mut times: Vec<_> = (0..200)
            .map(|_| {
                let mut query = query(order, 100);
                query.after = Some(Place {
                    time: event("t", 0, random.i64(low..high)).time,
                    sequence: Sequence(1),
                });
                let start = clock.now().mono;
                page(&blocks.db, &query).unwrap();
                clock.now().mono.saturating_sub(start)
            })
            .collect();
        times.sort();
        println!(
            "spread {spread} us, {state}, {} blocks, {order:?}: page p50 {:?}, p99 {:?}; \
             since {tail:?}; all {events} in {stream:?}",
            blocks.ids().len(),
            times[100],
            times[198],
        );
    }
}
