//! Keeps the rollups in step with what is committed, in either arm of the store.
//!
//! ```text
//! writer ──facts of each append──▶ bounded feed ──▶ rollups thread ──▶ RwLock<Rollups> ◀── answers
//!                                 (dropped if full)     ▲     │ ▲
//!                               what the feed left out  │     ▼ │ at the start
//!                                               Source     checkpoint
//! ```
//!
//! The arrival is the truth, the feed is a hint: whatever the thread has not seen, because the feed
//! was full, because the process was not there, or because another node committed it, it reads from
//! the store. So the writer never waits for the rollups, start-up doesn't either, and nothing is
//! counted twice. An answer waits until every event is counted that was acknowledged before it was
//! asked.
//!
//! Every two million events the rollups are written to a file, so that a start has few events to
//! read. It is derived: whenever in doubt about it, all events are read.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::error::StoreError;
use crate::model::event::Sequence;
use crate::rollups::{Bounds, Facts, Rollups, Unrestored};
use crate::telemetry::counted;

/// How many answers are computed at once.
const ANSWERS: usize = 4;

/// How long until events that could not be read are read again.
const PAUSE: Duration = Duration::from_secs(5);

/// The same, if those that were read before are still of use.
const SHORT_PAUSE: Duration = Duration::from_millis(200);

/// How long until the store is read again after it did not have all there is yet, as a replica may.
const BEHIND: Duration = Duration::from_millis(20);

/// The file of the last checkpoint.
pub(in crate::store) const FILE: &str = "rollups";

/// The next one while it is written.
pub(in crate::store) const UNFINISHED: &str = "rollups-new";

/// With fewer missing events than this, reading them is not worth a line in the log.
const TOLD: u64 = 100_000;

/// The bounds of the feed, of waits, and of what a start has to read.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct FollowLimits {
    /// How many appends wait in the feed.
    pub(in crate::store) feed: usize,
    /// How long an answer waits for events that are not counted yet.
    pub(in crate::store) patience: Duration,
    /// How many events are counted between two checkpoints.
    pub(in crate::store) checkpoint: u64,
    /// With more events than this since the last, a store that is closed writes one. Fewer are read
    /// in the time that it takes.
    pub(in crate::store) last_checkpoint: u64,
}

impl Default for FollowLimits {
    fn default() -> Self {
        Self {
            feed: 256,
            patience: Duration::from_secs(10),
            checkpoint: 2_000_000,
            last_checkpoint: 100_000,
        }
    }
}

/// The new events of an append.
pub(in crate::store) struct Fed {
    /// The arrival of the last event before them.
    pub(in crate::store) after: Sequence,
    pub(in crate::store) facts: Facts,
    /// The arrival of the last of them.
    pub(in crate::store) last: Sequence,
}

/// Where events are read from that were not fed. It is used on the thread of the rollups alone.
pub(in crate::store) trait Source {
    /// Hands over the facts of the events behind `covers`. Returns the arrival up to which it did, or
    /// `None` if it was told to stop in the middle.
    fn read_after(
        &mut self,
        covers: Sequence,
        counting: &mut Counting<'_>,
    ) -> Result<Option<Sequence>, StoreError>;
}

/// Takes what a [`Source`] reads.
pub(in crate::store) struct Counting<'a> {
    followed: &'a Followed,
    /// Some events behind what is covered are counted, and not all up to an arrival.
    torn: bool,
}

impl Counting<'_> {
    /// Whether the store is closing.
    pub(in crate::store) fn is_stopped(&self) -> bool {
        self.followed.stopping.load(Ordering::Relaxed)
    }

    /// Counts any of the events, in any order.
    pub(in crate::store) fn add(&mut self, facts: &Facts) {
        self.torn = true;
        self.followed.rollups.write().add(facts);
    }

    /// Counts exactly the next events up to `last`.
    #[cfg(feature = "cluster")]
    pub(in crate::store) fn fold(&self, facts: &Facts, last: Sequence) {
        self.followed.rollups.write().fold(facts, last);
        self.followed.tell(last, None);
    }
}

/// The rollups and the thread that keeps them in step.
pub(in crate::store) struct Follower {
    followed: Arc<Followed>,
    /// Gone once the store is closing. `None` comes through it where others may have committed
    /// something that is not fed.
    feed: Mutex<Option<SyncSender<Option<Fed>>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    answers: Arc<Semaphore>,
}

/// How far the thread has come.
#[derive(Default)]
struct Progress {
    /// Every event up to here is counted.
    covers: Sequence,
    /// Why those behind can't be, for now.
    trouble: Option<StoreError>,
}

pub(in crate::store) struct Followed {
    rollups: RwLock<Rollups>,
    progress: watch::Sender<Progress>,
    /// The arrival of the last committed event.
    last: watch::Receiver<Sequence>,
    stopping: AtomicBool,
    limits: FollowLimits,
    dir: PathBuf,
    /// Says of a checkpoint whose it is.
    owner: [u8; 16],
}

impl Follower {
    /// Starts the thread. `last` tells how far events are committed; those are in what `source`.
    pub(in crate::store) fn start(
        dir: &Path,
        owner: [u8; 16],
        last: watch::Receiver<Sequence>,
        limits: FollowLimits,
        source: impl Source + Send + 'static,
    ) -> io::Result<Self> {
        let opened = *last.borrow();
        let followed = Arc::new(Followed {
            rollups: RwLock::new(Rollups::new(Bounds::default())),
            progress: watch::Sender::default(),
            last,
            stopping: AtomicBool::new(false),
            limits,
            dir: dir.to_owned(),
            owner,
        });
        let (feed, receiver) = sync_channel(limits.feed);
        let thread = {
            let followed = Arc::clone(&followed);
            let named = thread::Builder::new().name("rollups".to_owned());
            named.spawn(move || followed.follow(opened, &receiver, source))?
        };
        Ok(Self {
            followed,
            feed: Mutex::new(Some(feed)),
            thread: Mutex::new(Some(thread)),
            answers: Arc::new(Semaphore::new(ANSWERS)),
        })
    }

    /// Hands over what was committed, after `last` has told of it. Never waits.
    pub(in crate::store) fn feed(&self, fed: Fed) {
        if let Some(feed) = &*self.feed.lock() {
            // What the feed has no room for is read from the blocks.
            let _ = feed.try_send(Some(fed));
        }
    }

    /// Says that `last` may have told of what will not be fed. Never waits.
    #[cfg(feature = "cluster")]
    pub(in crate::store) fn look(&self) {
        if let Some(feed) = &*self.feed.lock() {
            // With a full feed the thread will look.
            let _ = feed.try_send(None);
        }
    }

    /// Waits until every event up to `last` is counted, however long that takes.
    pub(in crate::store) async fn counted(&self, last: Sequence) -> Result<(), StoreError> {
        let mut progress = self.followed.progress.subscribe();
        let ready = |it: &Progress| it.covers >= last || it.trouble.is_some();
        match progress.wait_for(ready).await {
            Ok(it) if it.covers >= last => Ok(()),
            Ok(it) => Err(it.trouble.clone().unwrap_or(StoreError::Behind)),
            Err(_) => Err(StoreError::Closed),
        }
    }

    /// What `answer` makes of rollups that cover every event that is committed now.
    pub(in crate::store) async fn ask<T: Send + 'static>(
        &self,
        answer: impl Fn(&Rollups) -> T + Send + Sync + 'static,
    ) -> Result<T, StoreError> {
        let last = *self.followed.last.borrow();
        let answer = Arc::new(answer);
        loop {
            let admitted = async {
                self.counted(last).await?;
                let permit = Arc::clone(&self.answers).acquire_owned().await;
                permit.map_err(|_| StoreError::Closed)
            };
            let permit = timeout(self.followed.limits.patience, admitted).await;
            let permit = permit.unwrap_or(Err(StoreError::Behind))?;
            let (followed, answer) = (Arc::clone(&self.followed), Arc::clone(&answer));
            let task = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                let rollups = followed.rollups.read();
                // They may have been started anew since.
                (rollups.covers() >= last).then(|| answer(&rollups))
            });
            match task.await {
                Ok(Some(answer)) => return Ok(answer),
                // What follows then is told by the progress.
                Ok(None) => {}
                Err(_) => return Err(StoreError::Closed),
            }
        }
    }

    /// What `made` makes of the rollups as they are.
    pub(in crate::store) fn as_they_are<T>(&self, made: impl FnOnce(&Rollups) -> T) -> T {
        made(&self.followed.rollups.read())
    }

    /// Ends the thread.
    pub(in crate::store) fn close(&self) {
        self.followed.stopping.store(true, Ordering::Relaxed);
        self.answers.close();
        self.feed.lock().take();
        if let Some(thread) = self.thread.lock().take() {
            // If it has panicked, it has told so.
            let _ = thread.join();
        }
    }
}

impl Followed {
    /// Counts what comes until the feed ends.
    fn follow(&self, opened: Sequence, feed: &Receiver<Option<Fed>>, mut source: impl Source) {
        let _leaving = Leaving(self);
        let mut saved = self.restore(opened);
        loop {
            let pause = self.catch_up(&mut source);
            self.save_after(&mut saved, self.limits.checkpoint);
            let next = match pause {
                Some(pause) => feed.recv_timeout(pause),
                None => feed.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let mut next = match next {
                Ok(hint) => Some(hint),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            while let Some(hint) = next
                && self.take(hint.as_ref())
            {
                next = feed.try_recv().ok();
            }
        }
        self.save_after(&mut saved, self.limits.last_checkpoint);
    }

    /// Goes on from the last checkpoint, if it is of use to a store that had `opened` events;
    /// returns what that covers.
    fn restore(&self, opened: Sequence) -> Sequence {
        let path = self.dir.join(FILE);
        let read = File::open(&path).map_err(Unrestored::Unread);
        let restored =
            read.and_then(|mut file| Rollups::read_from(Bounds::default(), self.owner, &mut file));
        match restored {
            Ok(rollups) if rollups.covers() <= opened => {
                let covers = rollups.covers();
                *self.rollups.write() = rollups;
                self.tell(covers, None);
                return covers;
            }
            Ok(_) => {
                // It knows events that the store has lost: once others have their arrivals, nobody
                // could tell.
                tracing::warn!(
                    "the checkpoint of the rollups is ahead of the store: all events are counted anew"
                );
                if let Err(error) = fs::remove_file(&path) {
                    tracing::error!("{}: {error}", path.display());
                }
            }
            Err(Unrestored::Unread(error)) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => tracing::warn!("all events are counted anew: {error}"),
        }
        Sequence(0)
    }

    /// Writes a checkpoint if more than `events` were counted since the one that covers `saved`.
    fn save_after(&self, saved: &mut Sequence, events: u64) {
        let covers = self.progress.borrow().covers;
        if covers.0.saturating_sub(saved.0) <= events {
            return;
        }
        let snapshot = self.rollups.read().snapshot();
        let (new, path) = (self.dir.join(UNFINISHED), self.dir.join(FILE));
        let written = File::create(&new).and_then(|mut file| {
            snapshot.write_to(self.owner, &mut file)?;
            file.flush()?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            sync_dir(&self.dir)
        });
        if let Err(error) = written {
            tracing::warn!("no checkpoint of the rollups could be written: {error}");
            // It would only take space.
            let _ = fs::remove_file(&new);
        }
        // After an error, too: the next one is tried when it is due.
        *saved = covers;
    }

    /// Counts an append; false if events before it are missing.
    fn take(&self, fed: Option<&Fed>) -> bool {
        let Some(fed) = fed else {
            // It is looked once nothing is left that was fed.
            return true;
        };
        let mut rollups = self.rollups.write();
        if fed.after > rollups.covers() {
            return false;
        }
        // It is not above what they cover unless it follows on it: both end where an append does.
        if fed.last > rollups.covers() {
            rollups.fold(&fed.facts, fed.last);
            drop(rollups);
            self.tell(fed.last, None);
        }
        true
    }

    /// Counts what the feed has left out. If that was not everything: when to try again.
    fn catch_up(&self, source: &mut impl Source) -> Option<Duration> {
        let last = *self.last.borrow();
        let covers = self.rollups.read().covers();
        if covers >= last {
            return None;
        }
        let missing = last.0 - covers.0;
        if missing >= TOLD {
            tracing::info!(
                "counting {} from the store",
                counted(missing, "event", "events")
            );
        }
        let mut counting = Counting {
            followed: self,
            torn: false,
        };
        match source.read_after(covers, &mut counting) {
            Ok(Some(reached)) => {
                self.rollups.write().covered(reached);
                if self.progress.borrow().trouble.is_some() {
                    tracing::info!("events are counted again");
                }
                self.tell(reached, None);
                if missing >= TOLD && reached >= last {
                    tracing::info!("all events are counted");
                }
                (reached < last).then_some(BEHIND)
            }
            // The store is closing.
            Ok(None) => None,
            Err(error) if counting.torn => {
                tracing::error!(%error, "events could not be counted, trying again");
                self.tell(Sequence(0), Some(error));
                *self.rollups.write() = Rollups::new(Bounds::default());
                Some(PAUSE)
            }
            Err(error) => {
                // It is tried several times a second, and told once.
                if self.progress.borrow().trouble.as_ref() != Some(&error) {
                    tracing::warn!(%error, "events could not be counted, trying again");
                }
                let covers = self.rollups.read().covers();
                self.tell(covers, Some(error));
                Some(SHORT_PAUSE)
            }
        }
    }

    fn tell(&self, covers: Sequence, trouble: Option<StoreError>) {
        self.progress.send_replace(Progress { covers, trouble });
    }
}

/// Tells those who ask if the thread ends by a panic.
struct Leaving<'a>(&'a Followed);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let sentence = "the rollups stopped by a panic".to_owned();
            tracing::error!(
                reason = sentence,
                "analytics answer no more until a restart"
            );
            self.0.tell(Sequence(0), Some(StoreError::Failed(sentence)));
        }
    }
}

/// Has the directory's entries on disk.
fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
impl Follower {
    /// Holds the rollups, so that none are counted.
    pub(in crate::store) fn hold(&self) -> parking_lot::RwLockReadGuard<'_, Rollups> {
        self.followed.rollups.read()
    }

    /// Counts what is counted already.
    pub(in crate::store) fn miscount(&self, facts: &Facts) {
        self.followed.rollups.write().add(facts);
    }
}
