use std::time::Duration;

use proptest::prelude::*;

use super::super::block::{MAX_EVENTS, build};
use super::super::samples::{any_event, event, typical};
use super::read::Garbage;
use super::*;
use crate::clock::Clock;

fn numbered<'e>(events: &'e [Event<'e>], first: u64) -> Vec<(u64, &'e Event<'e>)> {
    (first..).zip(events).collect()
}

fn decode(data: &[u8]) -> Result<Vec<(u64, Event<'static>)>, Garbage> {
    Decoded::new(data)?
        .events()?
        .map(|event| event.map(|(number, event)| (number, event.into_owned())))
        .collect()
}

/// Compresses a body that was tampered with.
fn compress(body: &[u8]) -> Vec<u8> {
    lz4_flex::block::compress_prepend_size(body)
}

fn decompress(data: &[u8]) -> Vec<u8> {
    lz4_flex::block::decompress_size_prepended(data).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn events_come_back_byte_for_byte(
        events in prop::collection::vec((0_u64..100_000, any_event()), 0..60),
    ) {
        let least = events.iter().map(|(number, _)| *number).min().unwrap_or(0);
        let numbered: Vec<_> = events.iter().map(|(number, event)| (*number, event)).collect();
        let expected: Vec<_> = events.iter().map(|(n, event)| (n - least, event.clone())).collect();
        prop_assert_eq!(decode(&encode(&numbered, least)), Ok(expected));
    }

    #[test]
    fn garbage_ends(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
        let mut body = vec![VERSION];
        body.extend_from_slice(&bytes);
        let _ = decode(&compress(&body));
    }

    /// One wrong byte in the body: an error or other events, no panic, and never more of them.
    #[test]
    fn a_wrong_byte_ends(
        events in prop::collection::vec(any_event(), 1..20),
        at: prop::sample::Index,
        flip in 1_u8..,
    ) {
        let mut body = decompress(&encode(&numbered(&events, 0), 0));
        let at = at.index(body.len());
        body[at] ^= flip;
        if let Ok(decoded) = decode(&compress(&body)) {
            prop_assert!(decoded.len() <= MAX_EVENTS);
        }
    }
}

#[test]
fn a_cut_off_body_is_refused() {
    let events = typical(20, 1);
    let body = decompress(&encode(&numbered(&events, 0), 0));
    assert!(decode(&compress(&body)).is_ok());
    for length in 0..body.len() {
        assert_eq!(decode(&compress(&body[..length])), Err(Garbage), "{length}");
    }
}

#[test]
fn a_size_that_the_data_does_not_warrant_is_not_allocated() {
    let mut data = encode(&numbered(&typical(20, 1), 0), 0);
    data[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(Decoded::new(&data).map(|_| ()), Err(Garbage));
    let warranted = u32::try_from((data.len() - 4) * MAX_RATIO).unwrap();
    data[..4].copy_from_slice(&(warranted + 1).to_le_bytes());
    assert_eq!(Decoded::new(&data).map(|_| ()), Err(Garbage));
}

#[test]
fn what_compresses_best_is_still_read() {
    let mut one = event("t", 1, 0);
    one.payload = "a".repeat(4 << 20).into();
    let data = encode(&[(7, &one)], 7);
    assert!(data.len() < 20_000);
    assert_eq!(decode(&data), Ok(vec![(0, one)]));
}

#[test]
fn a_block_of_the_most_events_is_read_and_a_larger_one_is_not() {
    let events = typical(MAX_EVENTS + 1, 1);
    let most = encode(&numbered(&events[1..], 0), 0);
    assert_eq!(decode(&most).unwrap().len(), MAX_EVENTS);
    let too_many = encode(&numbered(&events, 0), 0);
    assert_eq!(Decoded::new(&too_many).map(|_| ()), Err(Garbage));
}

#[test]
fn another_version_is_refused() {
    let mut body = decompress(&encode(&numbered(&typical(1, 1), 0), 0));
    body[0] += 1;
    assert_eq!(decode(&compress(&body)), Err(Garbage));
}

#[test]
fn a_typical_event_takes_little_room() {
    let events = typical(5000, 1);
    let blocks = build((0..).zip(&events), 0);
    let bytes: usize = blocks.iter().map(|block| block.data.len()).sum();
    assert!(
        bytes / events.len() <= 125,
        "{} bytes",
        bytes / events.len()
    );
}

/// Run with `--release`, on a calm machine.
#[test]
#[ignore = "prints rates, checks nothing"]
fn rates() {
    let clock = Clock::system();
    let mut sums = [Duration::ZERO; 3];
    let (mut events, mut bytes, mut raw) = (0, 0, 0);
    for seed in 0..200 {
        let made = typical(5000, seed);
        let start = clock.now().mono;
        let blocks = build((0..).zip(&made), 0);
        let built = clock.now().mono;
        let encoded: usize = made
            .chunks(MAX_EVENTS)
            .map(|chunk| encode(&numbered(chunk, 0), 0).len())
            .sum();
        let done = clock.now().mono;
        assert!(encoded > 0);
        let mut found = 0;
        for block in &blocks {
            let decoded = Decoded::new(&block.data).unwrap();
            raw += decoded.size();
            found += decoded.events().unwrap().flatten().count();
        }
        sums[2] += clock.now().mono.saturating_sub(done);
        sums[1] += done.saturating_sub(built);
        sums[0] += built.saturating_sub(start);
        assert_eq!(found, made.len());
        events += made.len();
        bytes += blocks.iter().map(|block| block.data.len()).sum::<usize>();
    }
    let per = |sum: Duration| sum.as_nanos() / events as u128;
    println!(
        "{} bytes an event ({} before), build {} ns, encode {} ns, decode {} ns",
        bytes / events,
        raw / events,
        per(sums[0]),
        per(sums[1]),
        per(sums[2])
    );
}
