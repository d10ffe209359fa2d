//! Checkpoints that are whole, and that are not.

use super::*;
use crate::rollups::checkpoint::CHUNK;

const T: &str = "2026-01-01T00:00:00Z";

/// So many that there are several chunks.
fn large() -> Rollups {
    let mut random = fastrand::Rng::with_seed(3);
    let start = Timestamp::parse(T).unwrap().as_micros();
    let events: Vec<Event<'_>> = (0..40_000)
        .map(|number| {
            let user = format!("u{number}");
            let event_type = ["", "click", "buy"][number % 3];
            let mut made = event(["a", "b"][number % 2], "web", event_type, &user, T);
            made.user = made.user.filter(|_| random.u8(..10) > 0);
            let away = random.i64(-100_000_000..100_000_000);
            made.time.micros = Timestamp::from_micros(start + away * 1_000);
            made
        })
        .collect();
    rollups_of(&events)
}

/// Where each chunk begins, and where the stream ends.
fn chunks(bytes: &[u8]) -> Vec<usize> {
    let mut starts = vec![25];
    while *starts.last().unwrap() < bytes.len() {
        let at = *starts.last().unwrap();
        let length = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        starts.push(at + 12 + length as usize);
    }
    starts
}

fn damaged(bytes: &[u8]) -> bool {
    matches!(restored(Bounds::default(), bytes), Err(Unrestored::Damaged))
}

#[test]
fn any_cut_and_any_change_is_noticed() {
    let bytes = written(&large());
    let starts = chunks(&bytes);
    assert!(starts.len() > 4, "several chunks");
    assert!(bytes.len() > 2 * CHUNK);
    assert!(!damaged(&bytes));
    let (first, last) = (starts[1], starts[starts.len() - 2]);
    for start in &starts {
        for cut in start - 1..=start + 12 {
            assert!(cut >= bytes.len() || damaged(&bytes[..cut]), "cut at {cut}");
        }
    }
    let mut random = fastrand::Rng::with_seed(11);
    let heads = starts.iter().flat_map(|start| *start..start + 12);
    let places = (0..25).chain(heads.filter(|it| *it < bytes.len()));
    let more: Vec<usize> = (0..300).map(|_| random.usize(..bytes.len())).collect();
    let mut changed = bytes.clone();
    for place in places.chain(more) {
        let bit = 1 << random.u8(..8);
        changed[place] ^= bit;
        assert!(damaged(&changed), "bit {bit} of byte {place}");
        changed[place] ^= bit;
    }
    // Chunks that are whole, but not where they were.
    let (head, tail) = (&bytes[..25], &bytes[last..]);
    assert!(damaged(&[head, tail].concat()), "only the end");
    assert!(
        damaged(&[&bytes[..25], &bytes[first..]].concat()),
        "the first left out"
    );
    assert!(
        damaged(&[&bytes[..first], &bytes[25..]].concat()),
        "the first twice"
    );
    assert!(damaged(&[&bytes[..], &[0]].concat()), "something follows");
}

#[test]
fn small_ones_are_refused_at_every_cut() {
    let bytes = written(&rollups_of(
        &["u", "v"].map(|it| event("a", "s", "x", it, T)),
    ));
    for length in 0..bytes.len() {
        assert!(damaged(&bytes[..length]), "{length}");
    }
    for length in [u32::MAX, 1 << 31, u32::try_from(CHUNK).unwrap() + 17] {
        let mut long = bytes.clone();
        long[25..29].copy_from_slice(&length.to_le_bytes());
        assert!(damaged(&long), "a chunk of {length} is not asked for");
    }
    assert!(!damaged(&bytes));
}

#[test]
fn those_of_other_events_or_bounds_are_refused() {
    let bytes = written(&rollups_of(&[event("a", "s", "x", "u", T)]));
    let other = Rollups::read_from(Bounds::default(), [1; 16], &mut &*bytes);
    assert!(matches!(other, Err(Unrestored::Damaged)));
    let narrow = Bounds {
        users: 5,
        ..Bounds::default()
    };
    assert!(restored(narrow, &bytes).is_err());
}

#[test]
fn what_fails_to_be_read_is_told() {
    struct Broken;
    impl std::io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("gone"))
        }
    }
    let found = Rollups::read_from(Bounds::default(), IDENTITY, &mut Broken);
    assert!(matches!(found, Err(Unrestored::Unread(_))));
}

#[test]
fn a_snapshot_stays_as_it_was() {
    let mut rollups = large();
    let before = written(&rollups);
    let snapshot = rollups.snapshot();
    fold(
        &mut rollups,
        &[
            event("a", "web", "buy", "somebody new", T),
            event("a", "web", "buy", "", T),
            event("c", "new", "names", "u1", "2026-02-01T00:00:00Z"),
        ],
    );
    let mut bytes = Vec::new();
    snapshot.write_to(IDENTITY, &mut bytes).unwrap();
    assert!(bytes == before);
    assert!(written(&rollups) != before);
    assert_eq!(snapshot.covers(), Sequence(40_000));
}
