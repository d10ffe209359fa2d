//! What the tests of the index share. Most drive the background by hand, so that every step is
//! the test's own.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    reason = "the numbers of tests are small"
)]

mod bounds;
mod concurrent;
mod damage;
mod figure;
mod model;

use super::background::Halt;
use super::*;

/// The identity of event `n`: uniform, as hashes are.
pub(super) fn identity(n: u64) -> Identity {
    let mix = |seed: u64| {
        let mut x = n.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ seed;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    };
    u128::from(mix(0)) << 64 | u128::from(mix(0x5851_F42D_4C95_7F2D))
}

/// The event `n` as its first writer says it.
fn entry(n: u64) -> Entry {
    let first = First {
        time: n as i64 - 50,
        content: n as u32 ^ 0xABCD,
    };
    (identity(n), first)
}

pub(super) fn entries(range: std::ops::Range<u64>) -> Vec<Entry> {
    range.map(entry).collect()
}

fn tiny() -> SeenSettings {
    SeenSettings {
        owner: 7,
        generation: 100,
        fan_in: 3,
        filter_limit: 1 << 20,
        stretch: 50,
    }
}

/// An index whose background thread is the test.
struct ByHand {
    seen: Seen,
    background: Background,
}

impl ByHand {
    fn open(dir: &Path, settings: SeenSettings) -> Self {
        let background = super::open(dir, settings).unwrap();
        let handle = Handle {
            shared: Arc::clone(&background.shared),
            thread: Mutex::new(None),
        };
        Self {
            seen: Seen(Arc::new(handle)),
            background,
        }
    }

    fn shared(&self) -> &Shared {
        &self.background.shared
    }

    /// Feeds events `range` with their numbers as sequences, a generation at a time.
    fn fill(&mut self, range: std::ops::Range<u64>) {
        let step = self.shared().settings.generation;
        for start in range.clone().step_by(step) {
            let end = range.end.min(start + step as u64);
            self.seen.recover(&entries(start..end), end);
            self.background.catch_up(usize::MAX).unwrap();
        }
    }

    /// Ends as [`Seen::close`] does.
    fn close(mut self) {
        self.shared().freeze_rest();
        self.shared().tell(|work| work.stop = Stop::Written);
        let end = self.background.catch_up(usize::MAX);
        assert!(matches!(end, Err(Halt::Asked)), "{end:?}");
    }
}

#[test]
fn an_identity_is_new_then_pending_then_seen() {
    let dir = tempfile::tempdir().unwrap();
    let (seen, covers) = Seen::open(dir.path(), tiny()).unwrap();
    assert_eq!(covers, 0);
    let wanted = [entry(1), entry(2), entry(1)];
    let mine = seen.reserve(&wanted).unwrap();
    assert_eq!(mine.claims, [Claim::New, Claim::New, Claim::Twice(0)]);
    let other = seen.reserve(&[entry(2), entry(3)]).unwrap();
    assert_eq!(other.claims, [Claim::Pending(mine.ticket.id), Claim::New]);
    assert_eq!(seen.find(identity(1)).unwrap(), None, "not committed yet");
    seen.committed(mine.ticket, 2);
    drop(other);
    let again = seen.reserve(&entries(1..4)).unwrap();
    let seen_before = |n| Claim::Seen(entry(n).1);
    assert_eq!(again.claims, [seen_before(1), seen_before(2), Claim::New]);
    assert_eq!(seen.find(identity(2)).unwrap(), Some(entry(2).1));
    seen.close();
}

#[tokio::test]
async fn those_who_wait_hear_of_a_commit_and_of_a_release() {
    let dir = tempfile::tempdir().unwrap();
    let index = ByHand::open(dir.path(), tiny());
    for commits in [true, false] {
        let wanted = [entry(u64::from(commits))];
        let held = index.seen.reserve(&wanted).unwrap();
        let id = held.ticket.id;
        let seen = index.seen.clone();
        let waiting = tokio::spawn(async move { seen.ended(id).await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        let expected = if commits {
            index.seen.committed(held.ticket, 1);
            Claim::Seen(wanted[0].1)
        } else {
            drop(held);
            Claim::New
        };
        waiting.await.unwrap();
        index.seen.ended(id).await;
        assert_eq!(index.seen.reserve(&wanted).unwrap().claims, [expected]);
    }
    assert_eq!(index.shared().tickets.count(), 0);
}

#[test]
fn what_is_older_takes_a_reservation_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = ByHand::open(dir.path(), tiny());
    index.fill(0..100);
    index.seen.recover(&entries(100..200), 200);
    assert_eq!(index.shared().snapshot().frozen.len(), 1);
    let wanted = [entry(5), entry(150), entry(500), entry(5)];
    let held = index.seen.reserve(&wanted).unwrap();
    let claims = [
        Claim::Seen(entry(5).1),
        Claim::Seen(entry(150).1),
        Claim::New,
        Claim::Twice(0),
    ];
    assert_eq!(held.claims, claims);
    assert_eq!(held.ticket.reserved, [entry(500)]);
    // Nothing of what was taken back is held: another call is not told to wait for it.
    assert_eq!(
        index.seen.reserve(&wanted[..2]).unwrap().claims,
        claims[..2]
    );
}

#[test]
fn after_a_close_there_is_nothing_to_feed() {
    let dir = tempfile::tempdir().unwrap();
    let (seen, _) = Seen::open(dir.path(), tiny()).unwrap();
    seen.recover(&entries(0..130), 130);
    seen.recover(&entries(130..150), 150);
    seen.close();
    drop(seen);
    let (seen, covers) = Seen::open(dir.path(), tiny()).unwrap();
    assert_eq!(covers, 150);
    assert_eq!(seen.stats().identities, 150);
    assert!(seen.stats().disk > 150 * 28);
}

#[test]
fn another_owner_begins_anew_and_strays_go() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = ByHand::open(dir.path(), tiny());
    index.fill(0..250);
    drop(index);
    let stray = dir.path().join(run::file_name(99));
    let unended = dir.path().join(manifest::NEW_NAME);
    let foreign = dir.path().join("notes.txt");
    for path in [&stray, &unended, &foreign] {
        fs::write(path, "something").unwrap();
    }
    let index = ByHand::open(dir.path(), tiny());
    assert_eq!(index.background.manifest.covers, 200);
    assert!(!stray.exists() && !unended.exists() && foreign.exists());
    drop(index);
    let other = SeenSettings { owner: 8, ..tiny() };
    let index = ByHand::open(dir.path(), other);
    assert_eq!(index.background.manifest.covers, 0);
    assert_eq!(index.seen.stats().identities, 0);
    assert_eq!(index.seen.find(identity(1)).unwrap(), None);
}
