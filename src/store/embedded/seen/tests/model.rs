//! The index against a plain map: any sequence of calls, commits, releases, merges and crashes.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Reserve(Vec<u64>),
    /// Of one of the tickets that are held.
    Commit(usize),
    Release(usize),
    CatchUp,
    Kill,
    Close,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => prop::collection::vec(0..400_u64, 1..40).prop_map(Op::Reserve),
        6 => any::<usize>().prop_map(Op::Commit),
        1 => any::<usize>().prop_map(Op::Release),
        2 => Just(Op::CatchUp),
        1 => Just(Op::Kill),
        1 => Just(Op::Close),
    ]
}

/// A ticket and what the model says of it.
struct Held {
    ticket: Ticket,
    new: Vec<(u64, First)>,
}

struct World {
    dir: tempfile::TempDir,
    settings: SeenSettings,
    /// `None` only while it is opened again.
    index: Option<ByHand>,
    held: Vec<Held>,
    /// Committed events in order; the sequence of each is its place from 1.
    log: Vec<(u64, First)>,
    committed: HashMap<u64, First>,
    /// Distinguishes what is said of one identity.
    said: u32,
}

impl World {
    fn new(settings: SeenSettings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            index: Some(ByHand::open(dir.path(), settings)),
            dir,
            settings,
            held: Vec::new(),
            log: Vec::new(),
            committed: HashMap::new(),
            said: 0,
        }
    }

    fn index(&mut self) -> &mut ByHand {
        self.index.as_mut().unwrap()
    }

    fn carry_out(&mut self, op: &Op) {
        match op {
            Op::Reserve(numbers) => self.reserve(numbers),
            Op::Commit(which) if !self.held.is_empty() => self.commit(which % self.held.len()),
            Op::Release(which) if !self.held.is_empty() => {
                self.held.swap_remove(which % self.held.len());
            }
            Op::Commit(_) | Op::Release(_) => {}
            Op::CatchUp => self.index().background.catch_up(usize::MAX).unwrap(),
            Op::Kill => {
                self.held.clear();
                self.index = None;
                self.open_again();
            }
            Op::Close => {
                self.held.clear();
                self.index.take().unwrap().close();
                let covers = self.open_again();
                assert_eq!(covers, self.log.len());
            }
        }
    }

    fn reserve(&mut self, numbers: &[u64]) {
        let mut wanted = Vec::new();
        let mut expected = Vec::new();
        let mut new: Vec<(u64, First)> = Vec::new();
        for (at, &n) in numbers.iter().enumerate() {
            self.said += 1;
            let first = First {
                time: -i64::from(self.said),
                content: self.said,
            };
            wanted.push((identity(n), first));
            let holder = self.held.iter().find(|h| h.new.iter().any(|e| e.0 == n));
            let earlier = numbers[..at].iter().position(|&other| other == n);
            let committed = self.committed.get(&n);
            expected.push(match (holder, earlier, committed) {
                (Some(held), ..) => Claim::Pending(held.ticket.id),
                // One that is in older memory or on disk was reserved when its copy came.
                (_, Some(earlier), Some(first)) => {
                    let fresh = self
                        .index
                        .as_ref()
                        .unwrap()
                        .shared()
                        .fresh
                        .find(identity(n));
                    match fresh {
                        Some(_) => Claim::Seen(*first),
                        None => Claim::Twice(earlier as u32),
                    }
                }
                (_, _, Some(first)) => Claim::Seen(*first),
                (_, Some(earlier), None) => Claim::Twice(earlier as u32),
                (None, None, None) => {
                    new.push((n, first));
                    Claim::New
                }
            });
        }
        let got = self.index().seen.reserve(&wanted).unwrap();
        assert_eq!(got.claims, expected);
        self.held.push(Held {
            ticket: got.ticket,
            new,
        });
    }

    fn commit(&mut self, which: usize) {
        let held = self.held.swap_remove(which);
        self.make_room();
        self.committed.extend(held.new.iter().copied());
        self.log.extend(held.new);
        let last = self.log.len() as u64;
        self.index().seen.committed(held.ticket, last);
    }

    /// A commit would wait for a thread that is not there.
    fn make_room(&mut self) {
        let index = self.index();
        if index.shared().snapshot().frozen.len() == shared::MAX_FROZEN {
            index.background.catch_up(usize::MAX).unwrap();
        }
    }

    /// What a store does at its start.
    fn open_again(&mut self) -> usize {
        self.index = Some(ByHand::open(self.dir.path(), self.settings));
        let covers = self.index().background.manifest.covers as usize;
        let rest = self.log[covers..].to_vec();
        for (chunk, fed) in rest.chunks(7).zip((covers + 7..).step_by(7)) {
            self.make_room();
            let entries: Vec<Entry> = chunk.iter().map(|&(n, f)| (identity(n), f)).collect();
            let last = fed.min(self.log.len()) as u64;
            self.index().seen.recover(&entries, last);
        }
        covers
    }

    fn check(&mut self) {
        for n in 0..400 {
            let found = self.index().seen.find(identity(n)).unwrap();
            assert_eq!(found, self.committed.get(&n).copied(), "event {n}");
        }
        let identities = self.index().seen.stats().identities;
        assert_eq!(identities, self.committed.len() as u64);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn is_a_map(ops in prop::collection::vec(op(), 1..120), filter_limit in 0..2_000_u64) {
        let settings = SeenSettings { generation: 20, fan_in: 2, filter_limit, stretch: 8, ..tiny() };
        let mut world = World::new(settings);
        for op in &ops {
            world.carry_out(op);
        }
        world.check();
    }
}
