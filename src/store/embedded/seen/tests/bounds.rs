//! Every bound, at the bound.

use super::*;

#[test]
fn a_third_generation_waits_for_the_background() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = ByHand::open(dir.path(), tiny());
    index.seen.recover(&entries(0..100), 100);
    index.seen.recover(&entries(100..200), 200);
    assert_eq!(index.shared().snapshot().frozen.len(), shared::MAX_FROZEN);
    let seen = index.seen.clone();
    let commit = std::thread::spawn(move || seen.recover(&entries(200..300), 300));
    // It holds this lock until it has frozen its own, which needs room first.
    while !index.shared().is_committing() {
        std::thread::yield_now();
    }
    assert!(!commit.is_finished());
    assert_eq!(index.shared().snapshot().frozen.len(), shared::MAX_FROZEN);
    let oldest = Arc::clone(&index.shared().snapshot().frozen[0]);
    index.background.write(&oldest).unwrap();
    commit.join().unwrap();
    assert_eq!(index.shared().snapshot().frozen.len(), shared::MAX_FROZEN);
    assert_eq!(index.seen.stats().identities, 300);
}

#[test]
fn filters_have_a_bound_and_answers_do_without() {
    for limit in [0, 64, 600, 1_000, 5_000] {
        let dir = tempfile::tempdir().unwrap();
        let settings = SeenSettings {
            filter_limit: limit,
            ..tiny()
        };
        let mut index = ByHand::open(dir.path(), settings);
        for start in (0..2_000).step_by(100) {
            index.fill(start..start + 100);
            assert!(index.shared().snapshot().filter_bytes() <= limit);
        }
        assert_eq!(index.background.making, 0);
        let held = index.seen.reserve(&entries(0..2_100)).unwrap();
        let seen = held.claims.iter().filter(|c| matches!(c, Claim::Seen(_)));
        assert_eq!(seen.count(), 2_000);
        drop((held, index));
        let index = ByHand::open(dir.path(), settings);
        let snapshot = index.shared().snapshot();
        assert!(snapshot.filter_bytes() <= limit);
        let smallest = snapshot.runs.iter().min_by_key(|held| held.run.count());
        let has_filter = smallest.unwrap().filter.is_some();
        assert_eq!(has_filter, limit >= 600, "the smallest runs keep theirs");
    }
}

#[test]
fn runs_stay_few() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = ByHand::open(dir.path(), tiny());
    for start in (0..8_100).step_by(100) {
        index.fill(start..start + 100);
        // 81 generations are four tiers, and each has fewer than `fan_in` runs.
        assert!(index.seen.stats().runs <= 4 * 2);
    }
    let stats = index.seen.stats();
    assert_eq!((stats.runs, stats.identities), (1, 8_100));
    let files = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(
        files, 2,
        "the run and the manifest: what was merged is gone"
    );
}

#[test]
fn a_generation_is_written_in_the_middle_of_a_merge() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = ByHand::open(dir.path(), tiny());
    index.fill(0..200);
    let runs = index.shared().snapshot().runs.clone();
    index.seen.recover(&entries(200..300), 300);
    index.background.merge(0, &runs).unwrap();
    let snapshot = index.shared().snapshot();
    assert!(snapshot.frozen.is_empty());
    let counts: Vec<u64> = snapshot.runs.iter().map(|held| held.run.count()).collect();
    assert_eq!(counts, [100, 200], "the generation was published first");
    let numbers: Vec<u64> = snapshot
        .runs
        .iter()
        .map(|held| held.run.line().run)
        .collect();
    assert!(numbers[0] > numbers[1], "and the merge was begun first");
    assert_eq!(index.background.manifest.covers, 300);
    drop((snapshot, runs, index));
    let index = ByHand::open(dir.path(), tiny());
    for n in 0..300 {
        assert_eq!(index.seen.find(identity(n)).unwrap(), Some(entry(n).1));
    }
}

/// The disk can't be written: as its directory is gone.
#[test]
fn what_cannot_be_written_is_kept_and_tried_again() {
    let parent = tempfile::tempdir().unwrap();
    let [dir, away] = ["seen", "away"].map(|name| parent.path().join(name));
    let (seen, _) = Seen::open(&dir, tiny()).unwrap();
    let shared = &seen.0.shared;
    fs::rename(&dir, &away).unwrap();
    // Two generations wait, and the third doesn't: there is nobody to wait for.
    for n in 0..3 {
        seen.recover(&entries(n * 100..(n + 1) * 100), (n + 1) * 100);
    }
    let mut work = shared.work.lock();
    while work.failing.is_none() {
        shared.changed.wait(&mut work);
    }
    drop(work);
    let error = seen.reserve(&[entry(1_000)]).unwrap_err();
    assert_ne!(error.kind(), ErrorKind::InvalidData);
    assert_eq!(seen.find(identity(250)).unwrap(), Some(entry(250).1));
    fs::rename(&away, &dir).unwrap();
    let mut work = shared.work.lock();
    while work.failing.is_some() || !shared.snapshot().frozen.is_empty() {
        shared.changed.wait(&mut work);
    }
    drop(work);
    assert!(seen.reserve(&[entry(1_000)]).is_ok());
    seen.close();
    drop(seen);
    let (seen, covers) = Seen::open(&dir, tiny()).unwrap();
    assert_eq!((covers, seen.stats().identities), (300, 300));
}

#[test]
fn a_close_does_not_wait_for_a_disk_that_fails() {
    let parent = tempfile::tempdir().unwrap();
    let [dir, away] = ["seen", "away"].map(|name| parent.path().join(name));
    let (seen, _) = Seen::open(&dir, tiny()).unwrap();
    fs::rename(&dir, &away).unwrap();
    seen.recover(&entries(0..150), 150);
    seen.close();
    fs::rename(&away, &dir).unwrap();
    let (_, covers) = Seen::open(&dir, tiny()).unwrap();
    assert_eq!(covers, 0, "nothing is claimed that was not written");
}

#[test]
fn attempts_that_fail_at_the_manifest_leave_no_runs() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = ByHand::open(dir.path(), tiny());
    let blocked = dir.path().join(manifest::NEW_NAME);
    fs::create_dir(&blocked).unwrap();
    index.seen.recover(&entries(0..100), 100);
    for _ in 0..3 {
        let end = index.background.catch_up(usize::MAX);
        assert!(matches!(end, Err(Halt::Failed(_))), "{end:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(index.shared().snapshot().frozen.len(), 1);
    }
    fs::remove_dir(&blocked).unwrap();
    index.background.catch_up(usize::MAX).unwrap();
    assert_eq!(index.background.manifest.covers, 100);
    assert_eq!(index.seen.stats().identities, 100);
}
