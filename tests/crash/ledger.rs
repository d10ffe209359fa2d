//! What the clients know: what was acknowledged to them, and everything they ever read.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use fastrand::Rng;
use parking_lot::Mutex;
use serde_json::Value;

/// The priorities, the least urgent first.
pub(crate) const PRIORITIES: [&str; 3] = ["LOW", "MEDIUM", "HIGH"];

/// An ingestion that was acknowledged. Times are microseconds since the epoch.
#[derive(Clone, Debug)]
pub(crate) struct Accepted {
    pub(crate) id: String,
    pub(crate) ids: Vec<i64>,
    /// The position in [`PRIORITIES`].
    pub(crate) rank: usize,
    pub(crate) sent_at: i64,
    pub(crate) answered_at: i64,
}

/// One batch, by its ingestion (the position in `accepted`) and its index.
type Batch = (usize, usize);

#[derive(Default)]
pub(crate) struct Ledger {
    accepted: Vec<Accepted>,
    by_id: HashMap<String, usize>,
    /// Counts what is asked and what is entered.
    moment: u64,
    /// Every start that was ever seen.
    starts: BTreeSet<(i64, Batch)>,
    /// The first start of each batch that is known to have been its first, and since when it is.
    first_starts: BTreeMap<Batch, (i64, u64)>,
    /// The batches that were seen completed, and since when it is known.
    completed: BTreeMap<Batch, u64>,
    /// Batches seen in a second or later attempt.
    restarted: BTreeSet<Batch>,
}

/// An empty one, for several clients.
pub(crate) fn shared() -> Arc<Mutex<Ledger>> {
    Arc::default()
}

impl Ledger {
    pub(crate) fn accepted(&mut self, accepted: Accepted) {
        let before = self.by_id.insert(accepted.id.clone(), self.accepted.len());
        assert_eq!(before, None, "{} was given out twice", accepted.id);
        self.accepted.push(accepted);
    }

    pub(crate) fn all_accepted(&self) -> Vec<Accepted> {
        self.accepted.clone()
    }

    /// The newest `count`.
    #[allow(dead_code, reason = "shared: each test uses its part")]
    pub(crate) fn last_accepted(&self, count: usize) -> Vec<Accepted> {
        self.accepted.iter().rev().take(count).cloned().collect()
    }

    /// One of the newest hundred: those are likely to be moving.
    pub(crate) fn choose(&self, rng: &mut Rng) -> Option<Accepted> {
        let newest = self.accepted.len().min(100);
        let back = (newest > 0).then(|| rng.usize(1..=newest))?;
        self.accepted.get(self.accepted.len() - back).cloned()
    }

    /// Somebody asks now: what is known by now, the answer must know.
    pub(crate) fn asks(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }

    /// Enters one full status that was asked for at `asked`, and checks what must hold of every
    /// reading.
    pub(crate) fn saw(&mut self, status: &Value, asked: u64) {
        self.moment += 1;
        let id = status["ingestion_id"].as_str().unwrap();
        let ingestion = self.by_id[id];
        let batches = status["batches"].as_array().unwrap();
        let wanted = self.accepted[ingestion].ids.clone();
        assert_eq!(
            batches.len(),
            wanted.len().div_ceil(3),
            "{id} is split wrong: {status}"
        );
        let mut waits = false;
        for ((index, batch), wanted) in batches.iter().enumerate().zip(wanted.chunks(3)) {
            assert_eq!(batch["batch_id"], format!("batch{}", index + 1));
            assert_eq!(
                batch["ids"],
                serde_json::json!(wanted),
                "ids of {id} differ"
            );
            let key = (ingestion, index);
            match batch["status"].as_str().unwrap() {
                "yet_to_start" => {
                    waits = true;
                    assert!(
                        !self.had_completed(key, asked),
                        "{id} forgot a completed batch: {status}"
                    );
                    let started = self.first_starts.get(&key);
                    assert!(
                        started.is_none_or(|(_, since)| *since > asked),
                        "{id} forgot a start: {status}"
                    );
                    continue;
                }
                "triggered" => assert!(
                    !self.had_completed(key, asked),
                    "{id} started a completed batch again: {status}"
                ),
                "completed" => {
                    self.completed.entry(key).or_insert(self.moment);
                }
                other => panic!("{id} has a batch that is {other}: {status}"),
            }
            assert!(!waits, "{id} skipped a batch: {status}");
            self.started(key, batch);
        }
    }

    /// Whether that was known when it was asked.
    fn had_completed(&self, key: Batch, asked: u64) -> bool {
        self.completed
            .get(&key)
            .is_some_and(|since| *since <= asked)
    }

    fn started(&mut self, key: Batch, batch: &Value) {
        let text = batch["triggered_at"].as_str().unwrap();
        let at = text
            .parse::<jiff::Timestamp>()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
            .as_microsecond();
        self.starts.insert((at, key));
        if batch["attempt"] == 1 {
            let (known, _) = self.first_starts.entry(key).or_insert((at, self.moment));
            assert_eq!(*known, at, "the first start of {key:?} moved");
        } else {
            self.restarted.insert(key);
        }
    }

    /// Every batch of every acknowledged ingestion was seen completed.
    pub(crate) fn assert_complete(&self) {
        for (ingestion, accepted) in self.accepted.iter().enumerate() {
            for index in 0..accepted.ids.len().div_ceil(3) {
                assert!(
                    self.completed.contains_key(&(ingestion, index)),
                    "batch {index} of {} is missing",
                    accepted.id
                );
            }
        }
    }

    /// No two starts closer than `interval`, over all lives of the server.
    pub(crate) fn assert_pace(&self, interval: i64) {
        let starts: Vec<_> = self.starts.iter().collect();
        for pair in starts.windows(2) {
            let gap = pair[1].0 - pair[0].0;
            assert!(
                gap >= interval,
                "{gap} us between the starts of {:?} and {:?}",
                pair[0],
                pair[1]
            );
        }
    }

    /// No batch started for the first time while one that goes before it waited for its first.
    ///
    /// One goes before another when it is more urgent, or as urgent and accepted before the other
    /// was even sent. It counts as waiting only if its acceptance had reached the client so many
    /// microseconds (`lead`) before the slot, and if its own first start, known as such, came later.
    pub(crate) fn assert_order(&self, lead: i64) {
        for (&(ingestion, index), &(start, _)) in &self.first_starts {
            let started = &self.accepted[ingestion];
            for (&(other, other_index), &(other_start, _)) in &self.first_starts {
                let waiting = &self.accepted[other];
                let goes_before = if other == ingestion {
                    other_index < index
                } else {
                    waiting.rank > started.rank
                        || (waiting.rank == started.rank && waiting.answered_at < started.sent_at)
                };
                let known = other == ingestion || waiting.answered_at + lead < start;
                let waited = known && other_start > start;
                assert!(
                    !(goes_before && waited),
                    "batch {index} of {started:?} started at {start}, before batch {other_index} \
                     of {waiting:?}, which started at {other_start}"
                );
            }
        }
    }

    /// How many starts were seen.
    #[allow(dead_code, reason = "shared: each test uses its part")]
    pub(crate) fn starts(&self) -> usize {
        self.starts.len()
    }

    /// What the run covered.
    pub(crate) fn summary(&self) -> String {
        format!(
            "{} ingestions, {} batches, {} starts seen, {} batches restarted after a kill",
            self.accepted.len(),
            self.completed.len(),
            self.starts.len(),
            self.restarted.len()
        )
    }
}
