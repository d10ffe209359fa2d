//! The identity index damaged, lost, exchanged or out of step with its store: after the next start
//! every identity that was ever accepted is a duplicate, also of erased events, and new ones are new.
#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

#[path = "support/event_history.rs"]
mod event_history;

use std::path::Path;

use event_history::{Files, History, State, append, open, read_files, runtime, shown, write_files};
use tollgate::model::event::{Event, Receipt};
use tollgate::store::{Store, StoreError, StoreState};

/// A store with several files of its index, and what it holds.
struct Left {
    files: Files,
    state: State,
    /// At a clean stop some commits before.
    earlier: (Files, State),
}

impl Left {
    /// Stops several times, so that the index has several runs; with `killed` it is behind.
    fn new(seed: u64, killed: bool) -> Self {
        runtime().block_on(async {
            let mut history = History::new(seed);
            history.steps(12).await;
            history.restart().await;
            history.erase().await;
            history.steps(6).await;
            history.store.close().await;
            let earlier = (read_files(history.dir.path()), history.state.clone());
            history.store = open(history.dir.path(), false).unwrap();
            history.steps(6).await;
            history.restart().await;
            history.steps(4).await;
            history.erase().await;
            if !killed {
                history.store.close().await;
            }
            Self {
                files: read_files(history.dir.path()),
                state: history.state.clone(),
                earlier,
            }
        })
    }

    fn index(&self) -> Vec<String> {
        let names = self.files.keys().filter(|name| name.starts_with("seen/"));
        names.cloned().collect()
    }
}

fn is_index(name: &str) -> bool {
    name.starts_with("seen/")
}

/// Asks for every identity, a few at a time. How many requests were refused.
async fn ask(store: &Store, state: &mut State, what: &str) -> usize {
    let spent: Vec<Event<'static>> = state.spent.values().cloned().collect();
    let mut refused = 0;
    for again in spent.chunks(25) {
        match append(store, again).await {
            Ok(receipts) => assert_eq!(receipts, state.append(again), "{what}: {again:?}"),
            Err(StoreError::Failed(sentence)) => {
                assert!(sentence.contains("identity index"), "{what}: {sentence}");
                refused += 1;
            }
            Err(error) => panic!("{what}: {error}"),
        }
    }
    refused
}

async fn expect_new(store: &Store, state: &mut State, id: &str, what: &str) {
    let mut event = state.spent.values().next().unwrap().clone();
    event.id = id.to_owned().into();
    let receipts = append(store, std::slice::from_ref(&event)).await.unwrap();
    assert_eq!(receipts, [Receipt::Accepted], "{what}");
    assert_eq!(receipts, state.append(&[event]), "{what}");
}

/// Opens the files and asks for everything, twice. How many looks were refused before the restart.
fn expect_exact(files: &Files, state: &State, what: &str) -> usize {
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path(), files);
    runtime().block_on(async {
        let mut state = state.clone();
        let store = open(dir.path(), false).unwrap();
        let refused = ask(&store, &mut state, what).await;
        if refused > 0 {
            assert!(matches!(store.state(), StoreState::Failed(_)), "{what}");
        } else {
            expect_new(&store, &mut state, "new", what).await;
        }
        // Reads go on, and nothing was said that is not so.
        assert!(shown(&store).await.unwrap() == state.shown, "{what}");
        if refused == 0 {
            store.close().await;
        }
        drop(store);
        expect_healed(dir.path(), state, what).await;
        refused
    })
}

/// After a restart nothing is refused any more.
async fn expect_healed(dir: &Path, mut state: State, what: &str) {
    let store = open(dir, false).unwrap();
    assert!(shown(&store).await.unwrap() == state.shown, "{what}");
    assert_eq!(ask(&store, &mut state, what).await, 0, "{what}");
    expect_new(&store, &mut state, "newer", what).await;
    assert_eq!(store.state(), StoreState::Ok, "{what}");
}

#[test]
fn each_file_flipped_zeroed_cut_or_missing() {
    let mut refused = 0;
    for killed in [false, true] {
        let left = Left::new(51, killed);
        assert!(left.index().len() > 3, "{:?}", left.index());
        for name in left.index() {
            let length = left.files[&name].len();
            let mut hurt = |what: &str, change: &dyn Fn(&mut Vec<u8>)| {
                let mut files = left.files.clone();
                change(files.get_mut(&name).unwrap());
                refused += expect_exact(&files, &left.state, &format!("{name} {what}"));
            };
            for at in [20, length / 3, length - 70, length - 1] {
                hurt(&format!("flipped at {at}"), &|bytes| bytes[at] ^= 4);
            }
            hurt("cut", &|bytes| bytes.truncate(length / 2));
            hurt("emptied", &Vec::clear);
            hurt("longer", &|bytes| bytes.push(0));
            hurt("zeroed", &|bytes| bytes[..length.min(4096)].fill(0));
            let mut files = left.files.clone();
            files.remove(&name);
            expect_exact(&files, &left.state, &format!("{name} missing"));
        }
    }
    assert!(refused > 0, "some damage was found only when it was read");
}

#[test]
fn the_whole_index_missing_or_older() {
    for killed in [false, true] {
        let left = Left::new(52, killed);
        let mut files = left.files.clone();
        files.retain(|name, _| !is_index(name));
        expect_exact(&files, &left.state, "no index");
        let older = left.earlier.0.iter().filter(|(name, _)| is_index(name));
        files.extend(older.map(|(name, bytes)| (name.clone(), bytes.clone())));
        expect_exact(&files, &left.state, "an older index");
        for (name, bytes) in left.earlier.0.iter().filter(|(name, _)| is_index(name)) {
            let mut files = left.files.clone();
            files.insert(name.clone(), bytes.clone());
            expect_exact(&files, &left.state, &format!("an older {name}"));
        }
    }
}

#[test]
fn another_stores_index_or_any_file_of_it() {
    // The same history under another key: all files have the same names and lengths.
    let (left, other) = (Left::new(53, false), Left::new(53, false));
    assert_eq!(left.index(), other.index());
    let mut all = left.files.clone();
    for name in left.index() {
        assert_eq!(left.files[&name].len(), other.files[&name].len());
        let mut files = left.files.clone();
        files.insert(name.clone(), other.files[&name].clone());
        all.insert(name.clone(), other.files[&name].clone());
        expect_exact(&files, &left.state, &format!("another store's {name}"));
    }
    expect_exact(&all, &left.state, "another store's index");
    for name in left
        .index()
        .iter()
        .filter(|name| !name.contains("manifest"))
    {
        let mut files = left.files.clone();
        let page = &other.files[name][..4096];
        files.get_mut(name).unwrap()[..4096].copy_from_slice(page);
        expect_exact(
            &files,
            &left.state,
            &format!("a page of another store's {name}"),
        );
    }
}

#[test]
fn a_store_that_was_restored_under_a_newer_index() {
    for killed in [false, true] {
        let left = Left::new(54, killed);
        let (mut files, state) = left.earlier.clone();
        files.retain(|name, _| !is_index(name));
        let newer = left.files.iter().filter(|(name, _)| is_index(name));
        files.extend(newer.map(|(name, bytes)| (name.clone(), bytes.clone())));
        expect_exact(&files, &state, "a newer index");
    }
}
