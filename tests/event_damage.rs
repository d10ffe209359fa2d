//! A store of events damaged on purpose: a refusal that names the file, a read that says "damaged",
//! or an exact state; never a wrong event, count or receipt.
#![allow(missing_docs, unreachable_pub)]
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

#[path = "support/event_history.rs"]
mod event_history;

use std::path::Path;

use event_history::{
    Files, History, State, append, identity, open, pages, read_files, runtime, shown, write_files,
};
use tollgate::model::event::{Event, EventFilter, Order, PageQuery, Sequence, StoredEvent};
use tollgate::store::{Store, StoreError, StoreState};

const DATABASE: &str = "tollgate.db";
const LOG: &str = "tollgate.db-wal";
const PAGE: usize = 8192;

/// The files that a store left behind, and every state that it was in.
#[derive(Clone)]
struct Left {
    files: Files,
    /// The files as they were at an earlier clean stop, and the number of the state then.
    earlier: (Files, usize),
    states: Vec<State>,
}

/// How a store ended.
#[derive(Clone, Copy)]
enum End {
    /// Killed: the newest is in the log only, and the identity index is behind.
    Killed,
    /// Killed right after the log was moved into the database.
    KilledFolded,
    /// Stopped: everything is in the database, and the index is complete.
    Stopped,
}

impl Left {
    fn new(seed: u64, end: End) -> Self {
        runtime().block_on(async {
            let mut history = History::new(seed);
            history.steps(18).await;
            history.restart().await;
            history.steps(4).await;
            history.store.close().await;
            let earlier = (read_files(history.dir.path()), history.states.len() - 1);
            history.store = open(history.dir.path(), false).unwrap();
            history.steps(12).await;
            history.erase().await;
            history.states.push(history.state.clone());
            history.letters().await;
            history.states.push(history.state.clone());
            history.steps(6).await;
            match end {
                End::Killed => {}
                End::KilledFolded => {
                    let path = history.dir.path().join(DATABASE);
                    let db = rusqlite::Connection::open(path).unwrap();
                    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
                        .unwrap();
                }
                End::Stopped => history.store.close().await,
            }
            Self {
                files: read_files(history.dir.path()),
                earlier,
                states: history.states.clone(),
            }
        })
    }

    fn file(&mut self, name: &str) -> &mut Vec<u8> {
        self.files.get_mut(name).unwrap()
    }

    fn last(&self) -> &State {
        self.states.last().unwrap()
    }

    /// Opens the files and asks for everything; panics at a wrong answer. The number of the state
    /// that was found, or why there was none.
    fn judge(&self, accept_loss: bool) -> Result<usize, String> {
        let dir = tempfile::tempdir().unwrap();
        write_files(dir.path(), &self.files);
        let store = match open(dir.path(), accept_loss) {
            Ok(store) => store,
            Err(refusal) => {
                self.check_refusal(dir.path(), &refusal.0);
                return Err(refusal.0);
            }
        };
        runtime().block_on(async {
            let found = self.identify(&store, accept_loss).await;
            let state = match &found {
                Ok(number) => &self.states[*number],
                Err(_) if accept_loss => return found,
                Err(_) => self.last(),
            };
            check_reads(&store, state).await;
            let mut state = state.clone();
            check_receipts(&store, &mut state).await;
            drop(store);
            if let Ok(store) = open(dir.path(), false) {
                let counts = store.event_counts();
                assert_eq!(counts.accepted, state.shown.accepted);
                assert_eq!(counts.duplicates, state.shown.duplicates);
            }
            found
        })
    }

    /// A refusal is one line that names a file, and leaves the files as they were.
    fn check_refusal(&self, dir: &Path, line: &str) {
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(line.contains(dir.to_str().unwrap()), "{line}");
        let now = read_files(dir);
        for name in [DATABASE, LOG] {
            assert!(now.get(name) == self.files.get(name), "{name}: {line}");
        }
    }

    /// Which state this is; panics if it never was.
    async fn identify(&self, store: &Store, accept_loss: bool) -> Result<usize, String> {
        let found = match shown(store).await {
            Ok(found) => found,
            Err(error) => return Err(damage_in(error)),
        };
        if !accept_loss {
            assert!(found == self.last().shown, "opened without a loss");
            return Ok(self.states.len() - 1);
        }
        let number = self.states.iter().rposition(|state| state.shown == found);
        Ok(number.expect("a state that never was"))
    }
}

/// The sentence of a read that was refused; panics if that was not for damage.
fn damage_in(error: StoreError) -> String {
    let StoreError::Damaged(sentence) = error else {
        panic!("{error}");
    };
    let names = [
        "block ",
        "row ",
        "table ",
        "SQLite error 11",
        "SQLite error 267",
    ];
    assert!(
        names.iter().any(|name| sentence.contains(name)),
        "{sentence}"
    );
    sentence
}

/// Reads that may refuse, but not be wrong.
async fn check_reads(store: &Store, state: &State) {
    fn same<T: PartialEq>(found: Result<T, StoreError>, expected: &T, what: &str) {
        match found {
            Ok(found) => assert!(found == *expected, "{what}"),
            Err(error) => drop(damage_in(error)),
        }
    }
    let all = &state.shown.events;
    for (tenant, user) in [(None, None), (Some("b"), None), (None, Some("u3"))] {
        let filter = EventFilter {
            tenant: tenant.map(str::to_owned),
            user: user.map(str::to_owned),
            ..EventFilter::default()
        };
        let mut expected: Vec<_> = all
            .iter()
            .filter(|stored| filter.matches(&stored.event))
            .cloned()
            .collect();
        let skip = expected.len() / 2;
        let query = PageQuery {
            filter: filter.clone(),
            order: Order::Ascending,
            after: None,
            skip: skip as u64,
            limit: 1000,
        };
        let rest = store.page(query).await.map(|page| page.events);
        same(rest, &expected[skip..].to_vec(), "a page by its number");
        expected.reverse();
        let found = pages(store, &filter, Order::Descending, 60).await;
        same(found, &expected, "descending pages");
        expected.sort_by_key(|stored| stored.sequence);
        let mut found = Vec::new();
        let (mut looked, last) = (Sequence(0), store.event_counts().last);
        while looked < last {
            match store.events_since(looked, filter.clone(), 100).await {
                Ok((events, up_to)) => {
                    found.extend(events);
                    looked = up_to;
                }
                Err(error) => {
                    damage_in(error);
                    expected.retain(|stored| stored.sequence <= looked);
                    break;
                }
            }
        }
        let arrivals = |events: &[StoredEvent]| -> Vec<u64> {
            events.iter().map(|stored| stored.sequence.0).collect()
        };
        assert_eq!(arrivals(&found), arrivals(&expected));
        assert!(found == expected, "events in order of arrival");
    }
    for (tenant, topic, id) in state.spent.keys().step_by(7) {
        let of = (tenant.clone(), topic.clone(), id.clone());
        let expected = all.iter().find(|it| identity(&it.event) == of).cloned();
        match store.event(tenant, topic, id).await {
            // The index says so at the first look, and to every write from then on.
            Err(StoreError::Failed(sentence)) => assert!(sentence.contains("identity index")),
            found => same(found, &expected, "one event"),
        }
    }
}

/// Every identity that was ever accepted is a duplicate and new ones are new, or nothing is said.
async fn check_receipts(store: &Store, state: &mut State) {
    let spent: Vec<Event<'static>> = state.spent.values().cloned().collect();
    let fresh = |event: &Event<'static>| Event {
        id: format!("{} again", event.id).into(),
        ..event.clone()
    };
    for chunk in spent.chunks(40) {
        let mut request = chunk.to_vec();
        request.extend(chunk.iter().take(2).map(fresh));
        match append(store, &request).await {
            Ok(receipts) => assert_eq!(receipts, state.append(&request)),
            Err(StoreError::Failed(_)) => {
                assert!(matches!(store.state(), StoreState::Failed(_)));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Runs seeded damage, as many rounds as `DAMAGE_ROUNDS` says, each of another history; demands
/// that some was noticed.
fn damage(seed: u64, cases: usize, ends: &[End], hurt: impl Fn(&mut fastrand::Rng, &mut Left)) {
    let rounds = std::env::var("DAMAGE_ROUNDS");
    let rounds: u64 = rounds.map_or(1, |rounds| rounds.parse().unwrap());
    for round in 0..rounds {
        let seed = seed + 1000 * round;
        let mut rng = fastrand::Rng::with_seed(seed);
        let all: Vec<Left> = ends.iter().map(|end| Left::new(seed, *end)).collect();
        let mut noticed = 0;
        for case in 0..cases {
            let mut left = all[case % all.len()].clone();
            hurt(&mut rng, &mut left);
            // Shown only if the case fails.
            println!("seed {seed}, case {case}");
            noticed += usize::from(left.judge(case % 5 == 0).is_err());
        }
        assert!(noticed > 0, "of {cases} cases none was noticed");
    }
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
fn undamaged_files_give_the_whole_state() {
    for end in [End::Killed, End::KilledFolded, End::Stopped] {
        let left = Left::new(31, end);
        assert!(left.files.keys().any(|name| name == "seen/manifest"));
        assert!(left.last().spent.len() > left.last().shown.events.len());
        assert_eq!(left.judge(false), Ok(left.states.len() - 1));
        assert_eq!(left.judge(true), Ok(left.states.len() - 1));
    }
}

/// With pages that only the database has: an intact log hides the database's own.
const FOLDED: [End; 2] = [End::KilledFolded, End::Stopped];

#[test]
fn bits_flipped_in_the_database() {
    damage(41, 40, &FOLDED, |rng, left| flip(rng, left.file(DATABASE)));
}

#[test]
fn bits_flipped_in_the_structure_of_the_database() {
    damage(42, 50, &FOLDED, |rng, left| {
        // The first bytes of a page say what it is and where its cells are.
        let database = left.file(DATABASE);
        let at = rng.usize(..database.len() / PAGE) * PAGE + rng.usize(..64);
        database[at] ^= 1 << rng.u8(..8);
    });
}

#[test]
fn regions_of_the_database_zeroed() {
    damage(43, 40, &FOLDED, |rng, left| zero(rng, left.file(DATABASE)));
}

#[test]
fn pages_of_the_database_swapped_older_or_cut_off() {
    damage(44, 60, &FOLDED, |rng, left| {
        let old = left.earlier.0[DATABASE].clone();
        let database = left.file(DATABASE);
        let pages = database.len() / PAGE;
        let one = rng.usize(..pages) * PAGE;
        match rng.u8(..4) {
            0 => database.truncate(one),
            1 => {
                let other = rng.usize(..pages) * PAGE;
                let page = database[one..one + PAGE].to_vec();
                database.copy_within(other..other + PAGE, one);
                database[other..other + PAGE].copy_from_slice(&page);
            }
            _ => {
                // A write that was lost.
                let one = rng.usize(..old.len() / PAGE) * PAGE;
                database[one..one + PAGE].copy_from_slice(&old[one..one + PAGE]);
            }
        }
    });
}

/// Where the commits in a log end.
fn commits(log: &[u8]) -> Vec<usize> {
    const HEADER: usize = 32;
    const FRAME: usize = 24 + PAGE;
    let frames = (log.len() - HEADER) / FRAME;
    let starts = (0..frames).map(|frame| HEADER + frame * FRAME);
    // The last frame of a commit says how large the database is then.
    let last = |start: &usize| log[start + 4..start + 8] != [0; 4];
    starts.filter(last).map(|start| start + FRAME).collect()
}

#[test]
fn a_log_cut_at_every_commit_is_refused_or_gives_an_earlier_state_if_accepted() {
    let left = Left::new(45, End::Killed);
    let mut states = std::collections::BTreeSet::new();
    for end in commits(&left.files[LOG]) {
        // With the commit's last byte it is there, so what was cut off begins behind it.
        for cut in [end - 1, end] {
            let mut damaged = left.clone();
            if cut == damaged.files[LOG].len() {
                continue;
            }
            damaged.file(LOG).truncate(cut);
            let refusal = damaged.judge(false).unwrap_err();
            assert!(refusal.contains("was acknowledged"), "{refusal}");
            states.insert(damaged.judge(true).expect("a log without its end"));
        }
    }
    assert!(states.len() > 10, "the cuts gave the states {states:?}");
}

#[test]
fn bits_of_the_log_flipped_and_regions_zeroed() {
    damage(46, 40, &[End::Killed], |rng, left| {
        let log = left.file(LOG);
        if rng.bool() {
            zero(rng, log);
        } else {
            flip(rng, log);
        }
    });
}

#[test]
fn a_start_that_is_refused_accepts_no_loss() {
    let mut left = Left::new(47, End::Killed);
    let log = left.file(LOG);
    log.truncate(log.len() / 2);
    left.files.retain(|name, _| !name.starts_with("seen/"));
    // The loss is accepted, but the start gets no further than the identity index.
    left.files.insert("seen".to_owned(), Vec::new());
    let refusal = left.judge(true).unwrap_err();
    assert!(refusal.contains("seen"), "{refusal}");

    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path(), &left.files);
    assert!(open(dir.path(), true).is_err());
    std::fs::remove_file(dir.path().join("seen")).unwrap();
    let refusal = open(dir.path(), false).err().unwrap().0;
    assert!(refusal.contains("was acknowledged"), "{refusal}");
    assert!(open(dir.path(), true).is_ok());
}
