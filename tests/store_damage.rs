//! The store damaged on purpose: a clear refusal, or an exact state; never a wrong answer.
#![allow(missing_docs, unreachable_pub, dead_code)]
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

#[path = "support/store_model.rs"]
mod store_model;

use std::fs;
use std::path::Path;

use store_model::{History, Opened, State, open, settings};
use tollgate::model::time::Timestamp;
use tollgate::store::{StoreError, StoreSettings};

const DATABASE: &str = "tollgate.db";
const LOG: &str = "tollgate.db-wal";
const WITNESS: &str = "witness";

/// The files of a store that was killed, and every state that it was in.
#[derive(Clone)]
struct Killed {
    database: Vec<u8>,
    log: Vec<u8>,
    witness: Option<Vec<u8>>,
    states: Vec<State>,
}

/// How far the log was moved into the database before the end.
#[derive(Clone, Copy)]
enum Checkpoint {
    /// Not at all.
    None,
    /// All of it in the middle of the history: then the log began anew.
    Middle,
    /// All of it at the end: the log is whole, and not needed.
    End,
    /// All of it at the end, and the log emptied: only the database is left to hurt.
    Emptied,
    /// Up to the middle, while a reader kept the rest out.
    Partial,
}

impl Killed {
    fn new(seed: u64, commits: usize, checkpoint: Checkpoint) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(DATABASE);
        let opened = open(&settings(dir.path())).unwrap();
        let mut history = History::new(seed);
        let mut states = vec![State::default()];
        let mut reader = None;
        let fold = |mode: &str| {
            let db = rusqlite::Connection::open(&path).unwrap();
            let sql = format!("PRAGMA wal_checkpoint({mode})");
            db.query_row(&sql, [], |_| Ok(())).unwrap();
        };
        for commit in 0..commits {
            if commit == commits / 2 {
                match checkpoint {
                    Checkpoint::Middle => fold("PASSIVE"),
                    Checkpoint::Partial => {
                        let db = rusqlite::Connection::open(&path).unwrap();
                        db.execute_batch("BEGIN; SELECT * FROM meta").unwrap();
                        let _: i64 = db
                            .query_row("SELECT commits FROM meta", [], |row| row.get(0))
                            .unwrap();
                        reader = Some(db);
                    }
                    Checkpoint::None | Checkpoint::End | Checkpoint::Emptied => {}
                }
            }
            runtime
                .block_on(opened.store.commit(history.commit()))
                .unwrap();
            states.push(history.state.clone());
        }
        match checkpoint {
            Checkpoint::End | Checkpoint::Partial => fold("PASSIVE"),
            Checkpoint::Emptied => fold("TRUNCATE"),
            Checkpoint::None | Checkpoint::Middle => {}
        }
        let killed = Self {
            database: fs::read(&path).unwrap(),
            log: fs::read(dir.path().join(LOG)).unwrap(),
            witness: Some(fs::read(dir.path().join(WITNESS)).unwrap()),
            states,
        };
        drop(reader);
        killed
    }

    fn write(&self, dir: &Path) {
        fs::write(dir.join(DATABASE), &self.database).unwrap();
        fs::write(dir.join(LOG), &self.log).unwrap();
        if let Some(witness) = &self.witness {
            fs::write(dir.join(WITNESS), witness).unwrap();
        }
    }

    /// Opens the files as they are and compares: with the last state, or with `accept_loss` with
    /// any one of them. Returns the number of the state, or the refusal.
    fn outcome(&self, accept_loss: bool) -> Result<usize, String> {
        let dir = tempfile::tempdir().unwrap();
        self.write(dir.path());
        let settings = StoreSettings {
            dir: dir.path().to_owned(),
            accept_loss,
        };
        match open(&settings) {
            Ok(opened) => {
                let found = self.identify(&opened);
                if let (false, Ok(state)) = (accept_loss, &found) {
                    assert_eq!(*state, self.states.len() - 1, "opened without a loss");
                }
                found
            }
            Err(refusal) => {
                let line = refusal.0;
                assert_eq!(line.lines().count(), 1, "{line}");
                assert!(line.contains(dir.path().to_str().unwrap()), "{line}");
                let same =
                    |name: &str, bytes: &[u8]| fs::read(dir.path().join(name)).unwrap() == bytes;
                assert!(same(DATABASE, &self.database), "the refusal wrote: {line}");
                assert!(same(LOG, &self.log), "the refusal wrote to the log: {line}");
                Err(line)
            }
        }
    }

    /// Which state this is; panics if it never was. A read that says "damaged" is a refusal too.
    fn identify(&self, opened: &Opened) -> Result<usize, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let mut found = opened.applied.lock().clone();
        let last = self.states.last().unwrap();
        let ids: Vec<_> = self
            .states
            .iter()
            .flat_map(|state| state.ended.values())
            .map(|ingestion| ingestion.id)
            .collect();
        let refused = |error: StoreError| match error {
            StoreError::Damaged(sentence) => sentence,
            other => panic!("{other}"),
        };
        for id in ids {
            let read = runtime.block_on(opened.store.ended(id)).map_err(refused)?;
            if let Some(ingestion) = read {
                found.ended.insert(ingestion.arrival.0, ingestion);
            }
        }
        for key in last.kept.keys() {
            let read = opened.store.kept_answer(*key, Timestamp::EPOCH);
            if let Some(answer) = runtime.block_on(read).map_err(refused)? {
                found.kept.insert(*key, (answer, Timestamp::EPOCH));
            }
        }
        let same = |state: &&State| {
            let kept = |state: &State| -> Vec<_> {
                state
                    .kept
                    .iter()
                    .map(|(key, kept)| (*key, kept.0))
                    .collect()
            };
            state.live == found.live
                && state.queues == found.queues
                && state.ended == found.ended
                && kept(state) == kept(&found)
        };
        // The last that fits: a commit may change nothing that can be seen.
        let number = self.states.iter().rposition(|state| same(&state));
        Ok(number.expect("a state that never was"))
    }
}

/// The offsets at which the log's frames end, and some inside each frame.
fn cuts(log: &[u8]) -> Vec<usize> {
    const HEADER: usize = 32;
    const FRAME: usize = 24 + 8192;
    let frames = (log.len() - HEADER) / FRAME;
    let mut cuts = vec![0, 1, 31];
    for frame in 0..frames {
        let start = HEADER + frame * FRAME;
        cuts.extend([
            start,
            start + 1,
            start + 24,
            start + 4000,
            start + FRAME - 1,
        ]);
    }
    cuts
}

#[test]
fn undamaged_files_give_the_whole_state() {
    for checkpoint in [
        Checkpoint::None,
        Checkpoint::Middle,
        Checkpoint::End,
        Checkpoint::Partial,
        Checkpoint::Emptied,
    ] {
        let killed = Killed::new(11, 40, checkpoint);
        assert_eq!(killed.outcome(false), Ok(40));
        assert_eq!(killed.outcome(true), Ok(40));
        let unwitnessed = Killed {
            witness: None,
            ..killed
        };
        assert_eq!(
            unwitnessed.outcome(false),
            Ok(40),
            "warned of, and accepted"
        );
    }
}

#[test]
fn a_log_cut_anywhere_is_refused_or_gives_an_earlier_state_if_accepted() {
    let killed = Killed::new(12, 16, Checkpoint::None);
    let mut states = std::collections::BTreeSet::new();
    for cut in cuts(&killed.log) {
        let mut damaged = killed.clone();
        damaged.log.truncate(cut);
        let refusal = damaged.outcome(false).unwrap_err();
        assert!(refusal.contains("commit 16 was acknowledged"), "{refusal}");
        states.insert(damaged.outcome(true).expect("a log without its end"));
    }
    assert!(states.len() > 10, "the cuts gave the states {states:?}");
}

#[test]
fn a_log_cut_after_a_checkpoint_is_never_mixed_with_the_newer_database() {
    for checkpoint in [Checkpoint::Middle, Checkpoint::End, Checkpoint::Partial] {
        let killed = Killed::new(13, 14, checkpoint);
        for cut in cuts(&killed.log).into_iter().step_by(3) {
            let mut damaged = killed.clone();
            damaged.log.truncate(cut);
            // Both compare the state that they find, if they find any.
            let _ = (damaged.outcome(false), damaged.outcome(true));
        }
    }
}

/// With pages that only the log has.
const LOGGED: [Checkpoint; 4] = [
    Checkpoint::None,
    Checkpoint::Middle,
    Checkpoint::End,
    Checkpoint::Partial,
];

/// With pages that only the database has: an intact log hides the database's own.
const FOLDED: [Checkpoint; 3] = [Checkpoint::Middle, Checkpoint::Emptied, Checkpoint::Emptied];

/// Runs seeded damage, as many rounds as `DAMAGE_ROUNDS` says, each of another history.
fn damage(
    seed: u64,
    cases: usize,
    kinds: &[Checkpoint],
    hurt: impl Fn(&mut fastrand::Rng, &mut Killed),
) {
    let rounds = std::env::var("DAMAGE_ROUNDS");
    let rounds = rounds.map_or(1, |rounds| rounds.parse().unwrap());
    for round in 0..rounds {
        damage_round(seed + 1000 * round, cases, kinds, &hurt);
    }
}

/// Demands that some of the damage was noticed; `outcome` judges each case.
fn damage_round(
    seed: u64,
    cases: usize,
    kinds: &[Checkpoint],
    hurt: impl Fn(&mut fastrand::Rng, &mut Killed),
) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let variants: Vec<Killed> = kinds
        .iter()
        .map(|checkpoint| Killed::new(seed, 60, *checkpoint))
        .collect();
    let mut refused = 0;
    for case in 0..cases {
        let mut damaged = variants[case % variants.len()].clone();
        hurt(&mut rng, &mut damaged);
        // Shown only if the case fails.
        println!("seed {seed}, case {case}");
        refused += usize::from(damaged.outcome(case % 5 == 0).is_err());
    }
    assert!(refused > 0, "of {cases} cases none was noticed");
}

fn flip(rng: &mut fastrand::Rng, bytes: &mut [u8]) {
    for _ in 0..rng.usize(1..4) {
        let at = rng.usize(..bytes.len());
        bytes[at] ^= 1 << rng.u8(..8);
    }
}

fn zero(rng: &mut fastrand::Rng, bytes: &mut [u8]) {
    let start = rng.usize(..bytes.len());
    let length = rng.usize(1..20_000).min(bytes.len() - start);
    bytes[start..start + length].fill(0);
}

#[test]
fn bits_flipped_in_the_log() {
    damage(21, 150, &LOGGED, |rng, killed| flip(rng, &mut killed.log));
}

#[test]
fn regions_of_the_log_zeroed() {
    damage(22, 150, &LOGGED, |rng, killed| zero(rng, &mut killed.log));
}

#[test]
fn bits_flipped_in_the_database() {
    damage(23, 300, &FOLDED, |rng, killed| {
        flip(rng, &mut killed.database);
    });
}

#[test]
fn bits_flipped_in_the_structure_of_the_database() {
    damage(24, 300, &FOLDED, |rng, killed| {
        // The first bytes of a page say what it is and where its cells are.
        let page = rng.usize(..killed.database.len() / 8192) * 8192;
        let at = page + rng.usize(..64);
        killed.database[at] ^= 1 << rng.u8(..8);
    });
}

#[test]
fn regions_of_the_database_zeroed() {
    damage(25, 150, &FOLDED, |rng, killed| {
        zero(rng, &mut killed.database);
    });
}

#[test]
fn pages_of_the_database_swapped_or_cut_off() {
    damage(26, 150, &FOLDED, |rng, killed| {
        let pages = killed.database.len() / 8192;
        let (one, other) = (rng.usize(..pages) * 8192, rng.usize(..pages) * 8192);
        if rng.u8(..4) == 0 {
            killed.database.truncate(one);
        } else {
            let page = killed.database[one..one + 8192].to_vec();
            killed.database.copy_within(other..other + 8192, one);
            killed.database[other..other + 8192].copy_from_slice(&page);
        }
    });
}

#[test]
fn any_flipped_bit_of_the_witness_is_refused_and_can_be_accepted() {
    let killed = Killed::new(27, 5, Checkpoint::None);
    for bit in (0..24 * 8).step_by(7) {
        let mut damaged = killed.clone();
        damaged.witness.as_mut().unwrap()[bit / 8] ^= 1 << (bit % 8);
        let refusal = damaged.outcome(false).unwrap_err();
        assert!(refusal.contains("witness is damaged"), "{refusal}");
        assert_eq!(damaged.outcome(true), Ok(5));
    }
}

#[test]
fn a_lost_database_is_not_replaced_in_silence() {
    let killed = Killed::new(28, 5, Checkpoint::None);
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    killed.write(dir.path());
    fs::remove_file(dir.path().join(DATABASE)).unwrap();
    let refusal = open(&settings).err().unwrap().0;
    assert!(refusal.contains("tollgate.db is missing"), "{refusal}");
    fs::remove_file(dir.path().join(LOG)).unwrap();
    let refusal = open(&settings).err().unwrap().0;
    assert!(refusal.contains("tollgate.db is missing"), "{refusal}");
    fs::write(dir.path().join(LOG), &killed.log).unwrap();
    settings.accept_loss = true;
    let opened = open(&settings).unwrap();
    assert_eq!(*opened.applied.lock(), State::default());
    let aside = dir.path().join("tollgate.db-wal.without-database");
    assert_eq!(fs::read(aside).unwrap(), killed.log);
}

#[test]
fn an_accepted_loss_keeps_the_log_aside_and_is_accepted_once() {
    let killed = Killed::new(29, 8, Checkpoint::None);
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    killed.write(dir.path());
    let mut log = killed.log.clone();
    let middle = log.len() / 2;
    log[middle..middle + 9000].fill(0);
    fs::write(dir.path().join(LOG), &log).unwrap();
    assert!(open(&settings).is_err());
    settings.accept_loss = true;
    let opened = open(&settings).unwrap();
    let state = killed.identify(&opened).unwrap();
    assert!((1..8).contains(&state), "commit {state}");
    let aside = dir.path().join(format!("{LOG}.commit-{state}-of-8"));
    assert_eq!(fs::read(aside).unwrap(), log);
    drop(opened);
    settings.accept_loss = false;
    let opened = open(&settings).unwrap();
    assert_eq!(killed.identify(&opened).unwrap(), state);
}
