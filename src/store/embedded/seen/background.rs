//! The background thread: writes generations as runs and merges runs, smallest first.
//!
//! Runs of one tier are of about one size, each tier `fan_in` times the one below. `fan_in` runs
//! of a tier become one, so that an identity is written once a tier and a look meets fewer than
//! `fan_in` runs a tier. A long merge stops every now and then to do what is more urgent: write a
//! generation, merge a lower tier. So one thread is enough, and no generation waits for a merge.

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Entry;
use super::filter::{Filter, bytes_for};
use super::manifest::Manifest;
use super::run::{Cursor, Run, RunWriter};
use super::shared::{Shared, Stop};
use super::snapshot::{Frozen, Held};

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Why work was left.
#[derive(Debug)]
pub(super) enum Halt {
    /// It was asked to stop.
    Asked,
    Failed(io::Error),
}

impl From<io::Error> for Halt {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// See the module.
pub(super) struct Background {
    pub(super) dir: PathBuf,
    pub(super) shared: Arc<Shared>,
    pub(super) manifest: Manifest,
    /// Bytes of the filters that are being made.
    pub(super) making: u64,
}

/// Tells that the thread has ended, however it did.
struct Leaving(Arc<Shared>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.tell(|work| work.ended = true);
    }
}

impl Background {
    /// Works until it is asked to stop.
    pub(super) fn run(mut self) {
        let _leaving = Leaving(Arc::clone(&self.shared));
        let mut pause = FIRST_PAUSE;
        loop {
            match self.catch_up(usize::MAX) {
                Ok(()) => {
                    pause = FIRST_PAUSE;
                    self.wait_for_work();
                }
                Err(Halt::Asked) => return,
                Err(Halt::Failed(error)) => {
                    if self.report(&error) == Stop::Written {
                        return;
                    }
                    self.pause(pause);
                    pause = LONGEST_PAUSE.min(pause * 2);
                }
            }
        }
    }

    /// Writes every generation that waits, and merges each tier below `below` that is full.
    pub(super) fn catch_up(&mut self, below: usize) -> Result<(), Halt> {
        loop {
            let stop = self.stop();
            if stop == Stop::Now {
                return Err(Halt::Asked);
            }
            let snapshot = self.shared.snapshot();
            if let Some(frozen) = snapshot.frozen.first() {
                self.write(frozen)?;
            } else if stop == Stop::Written {
                return Err(Halt::Asked);
            } else if let Some((tier, runs)) = self.full_tier(&snapshot.runs, below) {
                self.merge(tier, &runs)?;
            } else {
                return Ok(());
            }
        }
    }

    fn stop(&self) -> Stop {
        self.shared.work.lock().stop
    }

    fn wait_for_work(&self) {
        let mut work = self.shared.work.lock();
        while work.stop == Stop::No && self.shared.snapshot().frozen.is_empty() {
            self.shared.changed.wait(&mut work);
        }
    }

    fn pause(&self, pause: Duration) {
        let mut work = self.shared.work.lock();
        if work.stop == Stop::No {
            self.shared.changed.wait_for(&mut work, pause);
        }
    }

    /// Takes note of a failure, and says so in the log if it is the first of many.
    fn report(&self, error: &io::Error) -> Stop {
        let mut stop = Stop::No;
        self.shared.tell(|work| {
            stop = work.stop;
            let sentence = format!("the identity index can't be written: {error}");
            if error.kind() == ErrorKind::InvalidData {
                tracing::error!(%error, "the identity index is damaged");
                work.damaged = Some(error.to_string());
            } else if work.failing.is_none() {
                tracing::warn!(%error, "the identity index can't be written; it is tried again");
                work.failing = Some((error.kind(), sentence));
            }
        });
        stop
    }

    /// What was tried has succeeded.
    fn recovered(&self) {
        if self.shared.work.lock().failing.is_some() {
            tracing::info!("the identity index is written again");
            self.shared.tell(|work| work.failing = None);
        }
    }

    /// The lowest tier below `below` that has `fan_in` runs, and those. None on damage: a merge
    /// would find it again.
    fn full_tier(&self, runs: &[Held], below: usize) -> Option<(usize, Vec<Held>)> {
        if self.shared.work.lock().damaged.is_some() {
            return None;
        }
        let fan_in = self.shared.settings.fan_in.max(2);
        let mut tiers: Vec<Vec<Held>> = Vec::new();
        for held in runs {
            let tier = self.tier_of(held.run.count());
            if tiers.len() <= tier {
                tiers.resize(tier + 1, Vec::new());
            }
            if let Some(tier) = tiers.get_mut(tier) {
                tier.push(held.clone());
            }
        }
        let (tier, mut runs) = tiers
            .into_iter()
            .take(below)
            .enumerate()
            .find(|(_, runs)| runs.len() >= fan_in)?;
        runs.truncate(fan_in);
        Some((tier, runs))
    }

    /// Tier 0 is what is smaller than `fan_in` generations, and so on.
    fn tier_of(&self, count: u64) -> usize {
        let fan_in = self.shared.settings.fan_in.max(2) as u64;
        let generations = count / (self.shared.settings.generation.max(1) as u64);
        usize::try_from(generations.checked_ilog(fan_in).unwrap_or(0)).unwrap_or(0)
    }

    /// Writes the oldest generation that waits.
    pub(super) fn write(&mut self, frozen: &Arc<Frozen>) -> Result<(), Halt> {
        let filter = self.new_filter(frozen.count() as u64);
        let mut writer = self.new_run(filter)?;
        for map in &frozen.maps {
            let mut entries: Vec<Entry> = map.iter().map(|(key, first)| (*key, *first)).collect();
            entries.sort_unstable_by_key(|entry| entry.0);
            for entry in entries {
                writer.push(entry)?;
            }
        }
        let (run, filter) = writer.finish()?;
        self.publish(run, filter, &[], frozen.covers)?;
        // It stands in both for a moment; nobody can miss it.
        self.shared.update(|snapshot| {
            snapshot.frozen.retain(|other| !Arc::ptr_eq(other, frozen));
        });
        self.recovered();
        Ok(())
    }

    /// Merges `runs`, which are of `tier`, into one.
    pub(super) fn merge(&mut self, tier: usize, runs: &[Held]) -> Result<(), Halt> {
        let count = runs.iter().map(|held| held.run.count()).sum();
        let filter = self.new_filter(count);
        let making = filter.as_ref().map_or(0, Filter::bytes);
        self.making += making;
        let merged = self.merge_into(tier, runs, filter);
        self.making -= making;
        let (run, filter) = merged?;
        let covers = self.manifest.covers;
        self.publish(run, filter, runs, covers)?;
        for held in runs {
            if let Err(error) = held.run.remove() {
                // The manifest doesn't know it any more, so the next start removes it.
                tracing::debug!(%error, "a merged run stays until the next start");
            }
        }
        self.recovered();
        Ok(())
    }

    fn merge_into(
        &mut self,
        tier: usize,
        runs: &[Held],
        filter: Option<Filter>,
    ) -> Result<(Run, Option<Filter>), Halt> {
        let mut writer = self.new_run(filter)?;
        let mut cursors = Vec::with_capacity(runs.len());
        for held in runs {
            cursors.push(Cursor::new(Arc::clone(&held.run))?);
        }
        let mut pushed: u64 = 0;
        loop {
            let heads = cursors.iter().filter_map(Cursor::entry);
            // Copies of an identity are of the same event, so that any of them will do.
            let Some(least) = heads.min_by_key(|entry| entry.0) else {
                break;
            };
            writer.push(least)?;
            for cursor in &mut cursors {
                if cursor.entry().is_some_and(|entry| entry.0 == least.0) {
                    cursor.advance()?;
                }
            }
            pushed += 1;
            if pushed.is_multiple_of(self.shared.settings.stretch) {
                self.catch_up(tier)?;
            }
        }
        Ok(writer.finish()?)
    }

    fn new_run(&mut self, filter: Option<Filter>) -> io::Result<RunWriter> {
        let number = self.manifest.next_run;
        self.manifest.next_run += 1;
        RunWriter::create(&self.dir, number, filter)
    }

    /// Puts a run in the place of `replaced`: in the manifest, and then for readers.
    fn publish(
        &mut self,
        run: Run,
        filter: Option<Filter>,
        replaced: &[Held],
        covers: u64,
    ) -> io::Result<()> {
        let mut next = self.manifest.clone();
        let gone = |number: u64| replaced.iter().any(|held| held.run.line().run == number);
        next.runs.retain(|line| !gone(line.run));
        next.runs.push(run.line());
        next.covers = covers;
        if let Err(error) = next.prepare(&self.dir) {
            // It is tried again with another run; this one must not fill the disk until then.
            let _ = run.remove();
            return Err(error);
        }
        // If this fails, the manifest may hold or not: so the run stays, a stray if it doesn't.
        Manifest::replace(&self.dir)?;
        self.manifest = next;
        let held = Held {
            run: Arc::new(run),
            filter: filter.map(Arc::new),
        };
        self.shared.update(|snapshot| {
            snapshot.runs.retain(|held| !gone(held.run.line().run));
            snapshot.runs.push(held);
        });
        Ok(())
    }

    /// A filter for `count` identities if there is room for it. To make room, larger filters go.
    fn new_filter(&self, count: u64) -> Option<Filter> {
        let needed = bytes_for(count);
        let limit = self.shared.settings.filter_limit;
        loop {
            let snapshot = self.shared.snapshot();
            let taken = snapshot.filter_bytes() + self.making;
            if taken.saturating_add(needed) <= limit {
                return Some(Filter::new(count));
            }
            let largest = snapshot
                .runs
                .iter()
                .max_by_key(|held| held.filter_bytes())?;
            if largest.filter_bytes() <= needed {
                return None;
            }
            let number = largest.run.line().run;
            self.shared.update(|snapshot| {
                for held in &mut snapshot.runs {
                    if held.run.line().run == number {
                        held.filter = None;
                    }
                }
            });
        }
    }
}
