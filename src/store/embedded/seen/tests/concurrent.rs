//! Many threads, the same identities, and generations so small that writing and merging never
//! stop: each identity is accepted once, and everybody is told of the same first.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

const EVENTS: u64 = 6_000;
const THREADS: u64 = 6;
const CALL: u64 = 40;

struct Race {
    seen: Seen,
    /// The content of each event that was accepted; 0 before.
    accepted: Vec<AtomicU32>,
    /// The commits in order; held across each.
    log: Mutex<Vec<Entry>>,
}

impl Race {
    fn commit(&self, numbers: &[u64], reservation: Reservation) {
        let mut log = self.log.lock();
        for (n, claim) in numbers.iter().zip(&reservation.claims) {
            if *claim == Claim::New {
                let entry = reservation.ticket.reserved.iter();
                let entry = *entry.clone().find(|e| e.0 == identity(*n)).unwrap();
                let before = self.accepted[*n as usize].swap(entry.1.content, Ordering::Relaxed);
                assert_eq!(before, 0, "event {n} was accepted twice");
                log.push(entry);
            }
        }
        self.seen.committed(reservation.ticket, log.len() as u64);
    }

    /// Returns once each of `numbers` is accepted, by this call or by another.
    fn submit(
        &self,
        numbers: &[u64],
        said: u32,
        random: &mut fastrand::Rng,
        tokio: &tokio::runtime::Runtime,
    ) {
        let mut left = numbers.to_vec();
        while !left.is_empty() {
            let first = First {
                time: i64::from(said),
                content: said,
            };
            let wanted: Vec<Entry> = left.iter().map(|&n| (identity(n), first)).collect();
            let reservation = self.seen.reserve(&wanted).unwrap();
            let claims = reservation.claims.clone();
            if random.u8(..10) == 0 {
                drop(reservation);
                continue;
            }
            self.commit(&left, reservation);
            let mut again = Vec::new();
            for (&n, claim) in left.iter().zip(&claims) {
                match *claim {
                    Claim::Seen(first) => {
                        let accepted = self.accepted[n as usize].load(Ordering::Relaxed);
                        assert_eq!(first.content, accepted, "event {n}");
                    }
                    Claim::Pending(ticket) => {
                        tokio.block_on(self.seen.ended(ticket));
                        again.push(n);
                    }
                    Claim::New | Claim::Twice(_) => {}
                }
            }
            left = again;
        }
    }

    fn run(&self, seed: u64) {
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                scope.spawn(move || {
                    let tokio = tokio::runtime::Builder::new_current_thread()
                        .build()
                        .unwrap();
                    let mut random = fastrand::Rng::with_seed(seed * 1000 + thread);
                    let mut at = 0;
                    while at < EVENTS {
                        // All go the same way, so that they meet; each also looks back.
                        let mut numbers: Vec<u64> = (at..EVENTS.min(at + CALL)).collect();
                        numbers.extend((0..10).map(|_| random.u64(..=at)));
                        random.shuffle(&mut numbers);
                        let said = (thread + 1) as u32 * 100_000 + at as u32;
                        self.submit(&numbers, said, &mut random, &tokio);
                        at += random.u64(1..=CALL);
                    }
                });
            }
        });
    }
}

#[test]
fn every_identity_is_accepted_once() {
    let chance = fastrand::u64(..1_000_000);
    println!("seed {chance}");
    for round in 0..2 {
        let dir = tempfile::tempdir().unwrap();
        let settings = SeenSettings {
            generation: 64,
            fan_in: 2,
            // Room for some of the filters.
            filter_limit: 3_000,
            stretch: 32,
            ..tiny()
        };
        let (seen, _) = Seen::open(dir.path(), settings).unwrap();
        let race = Race {
            seen,
            accepted: (0..EVENTS).map(|_| AtomicU32::new(0)).collect(),
            log: Mutex::default(),
        };
        race.run(chance + round);
        let Race {
            seen,
            log,
            accepted,
        } = race;
        let log = log.into_inner();
        assert_eq!(log.len() as u64, EVENTS);
        assert_eq!(seen.0.shared.tickets.count(), 0, "every ticket has ended");
        assert!(seen.stats().identities >= EVENTS);
        // Killed, and fed again.
        drop(seen);
        let (seen, covers) = Seen::open(dir.path(), settings).unwrap();
        assert!(covers > 0);
        seen.recover(&log[covers as usize..], EVENTS);
        for n in 0..EVENTS {
            let first = seen.find(identity(n)).unwrap().unwrap();
            assert_eq!(first.content, accepted[n as usize].load(Ordering::Relaxed));
        }
        assert_eq!(seen.find(identity(EVENTS)).unwrap(), None);
    }
}
