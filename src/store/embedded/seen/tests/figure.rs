//! The figure of the index: 20 million identities, as the store would send them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use super::*;
use crate::clock::Clock;

const CALL: u64 = 5_000;
const THREADS: usize = 4;

/// A field of `/proc/self/status`, in MiB.
fn memory(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    let number = line.split_whitespace().nth(1).unwrap();
    number.parse::<u64>().unwrap() / 1024
}

/// Processor time of this process.
fn spent() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split(' ').collect();
    let ticks: u64 = fields[12].parse::<u64>().unwrap() + fields[13].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// Fills up to `target` identities from many threads, one of five asked for being a duplicate.
fn fill(seen: &Seen, next: &AtomicU64, committed: &AtomicU64, target: u64) {
    let (commits, tickets) = sync_channel::<Ticket>(2 * THREADS);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let commits = commits.clone();
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread as u64);
                let fresh = CALL * 4 / 5;
                loop {
                    let start = next.fetch_add(fresh, Ordering::Relaxed);
                    if start >= target {
                        next.fetch_sub(fresh, Ordering::Relaxed);
                        return;
                    }
                    let known = committed.load(Ordering::Relaxed).max(1);
                    let wanted: Vec<Entry> = (start..start + fresh)
                        .map(entry)
                        .chain((fresh..CALL).map(|_| entry(random.u64(..known))))
                        .collect();
                    let held = seen.reserve(&wanted).unwrap();
                    assert_eq!(held.claims.len() as u64, CALL);
                    commits.send(held.ticket).unwrap();
                }
            });
        }
        drop(commits);
        for ticket in tickets {
            let last = committed.load(Ordering::Relaxed) + ticket.reserved.len() as u64;
            seen.committed(ticket, last);
            committed.store(last, Ordering::Relaxed);
        }
    });
}

#[test]
#[ignore = "a figure of a minute, for a release build on an idle machine"]
fn twenty_million() {
    let clock = Clock::system();
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let (seen, _) = Seen::open(dir.path(), SeenSettings::of(7)).unwrap();
    let (next, committed) = (AtomicU64::new(0), AtomicU64::new(0));
    println!("  up to | checks/s | per core | RSS MiB | runs | own count MiB");
    for target in [2, 5, 10, 15, 20] {
        let before = committed.load(Ordering::Relaxed);
        let (start, cpu) = (clock.now().mono, spent());
        fill(&seen, &next, &committed, target * 1_000_000);
        let took = clock.now().mono.saturating_sub(start);
        let cpu = spent().saturating_sub(cpu);
        let checks = (committed.load(Ordering::Relaxed) - before) as f64 * 1.25;
        // A duplicate may be asked for before the call that brings it; one of the two is told.
        assert_eq!(committed.load(Ordering::Relaxed), target * 1_000_000);
        let stats = seen.stats();
        println!(
            "{target:>5} M | {:>8.0} | {:>8.0} | {:>7} | {:>4} | {}",
            checks / took.as_secs_f64(),
            checks / cpu.as_secs_f64(),
            memory("VmRSS"),
            stats.runs,
            stats.memory >> 20,
        );
    }
    let start = clock.now().mono;
    seen.close();
    println!(
        "close: {:?}; peak RSS {} MiB",
        clock.now().mono.saturating_sub(start),
        memory("VmHWM")
    );
    let stats = seen.stats();
    drop(seen);
    println!(
        "{:.1} bytes an identity on disk",
        stats.disk as f64 / stats.identities as f64
    );
    let start = clock.now().mono;
    let (seen, covers) = Seen::open(dir.path(), SeenSettings::of(7)).unwrap();
    println!(
        "open: {:?}, {covers} covered",
        clock.now().mono.saturating_sub(start)
    );
    let start = clock.now().mono;
    let count = 200_000;
    for n in 0..count {
        assert!(seen.find(identity(n * 97)).unwrap().is_some());
    }
    println!(
        "find: {:?}",
        (clock.now().mono.saturating_sub(start)) / count as u32
    );
}
