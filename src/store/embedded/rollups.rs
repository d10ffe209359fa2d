//! Keeps the rollups in step with what is committed.
//!
//! ```text
//! writer ──facts of each append──▶ bounded feed ──▶ rollups thread ──▶ RwLock<Rollups> ◀── answers
//!                                 (dropped if full)     ▲     │ ▲
//!                               what the feed left out  │     ▼ │ at the start
//!                                             tollgate.db     rollups
//! ```
//!
//! The arrival is the truth, the feed is a hint: whatever the thread has not seen, because the feed
//! was full or because the process was not there, it reads from the blocks. So the writer never
//! waits for the rollups, start-up doesn't either, and nothing is counted twice. An answer waits until
//! every event is counted that was acknowledged before it was asked.
//!
//! Every two million events the rollups are written to a file, so that a start has few events to
//! read. It is derived: whenever in doubt about it, all events are read.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::events::identity::Key;
use super::events::page::blocks_after;
use super::events::spent;
use super::fault::Fault;
use super::schema::{self, DATABASE};
use crate::model::event::Sequence;
use crate::rollups::{Bounds, Facts, Rollups, Unrestored};
use crate::store::error::StoreError;
use crate::telemetry::counted;

/// How many answers are computed at once.
const ANSWERS: usize = 4;

/// How long until events that could not be read are read again.
const PAUSE: Duration = Duration::from_secs(5);

/// The file of the last checkpoint.
const FILE: &str = "rollups";

/// The next one while it is written.
const UNFINISHED: &str = "rollups-new";

/// With fewer missing events than this, reading them is not worth a line in the log.
const TOLD: u64 = 100_000;

/// The bounds of the feed, of waits, and of what a start has to read.
#[derive(Clone, Copy, Debug)]
pub(super) struct FollowLimits {
    /// How many appends wait in the feed.
    pub(super) feed: usize,
    /// How long an answer waits for events that are not counted yet.
    pub(super) patience: Duration,
    /// How many events are counted between two checkpoints.
    pub(super) checkpoint: u64,
    /// With more events than this since the last, a store that is closed writes one. Fewer are read
    /// in the time that it takes.
    pub(super) last_checkpoint: u64,
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
pub(super) struct Fed {
    /// The arrival of the last event before them.
    pub(super) after: Sequence,
    pub(super) facts: Facts,
    /// The arrival of the last of them.
    pub(super) last: Sequence,
}

/// The rollups and the thread that keeps them in step.
pub(super) struct Follower {
    followed: Arc<Followed>,
    /// Gone once the store is closing.
    feed: Mutex<Option<SyncSender<Fed>>>,
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

struct Followed {
    rollups: RwLock<Rollups>,
    progress: watch::Sender<Progress>,
    /// The arrival of the last committed event.
    last: watch::Receiver<Sequence>,
    stopping: AtomicBool,
    limits: FollowLimits,
    dir: PathBuf,
    key: Key,
}

impl Follower {
    /// Starts the thread. `last` tells how far events are committed.
    pub(super) fn start(
        dir: &Path,
        key: Key,
        last: watch::Receiver<Sequence>,
        limits: FollowLimits,
    ) -> io::Result<Self> {
        let opened = *last.borrow();
        let followed = Arc::new(Followed {
            rollups: RwLock::new(Rollups::new(Bounds::default())),
            progress: watch::Sender::default(),
            last,
            stopping: AtomicBool::new(false),
            limits,
            dir: dir.to_owned(),
            key,
        });
        let (feed, receiver) = sync_channel(limits.feed);
        let thread = {
            let followed = Arc::clone(&followed);
            let named = thread::Builder::new().name("rollups".to_owned());
            named.spawn(move || followed.follow(opened, &receiver))?
        };
        Ok(Self {
            followed,
            feed: Mutex::new(Some(feed)),
            thread: Mutex::new(Some(thread)),
            answers: Arc::new(Semaphore::new(ANSWERS)),
        })
    }

    /// Hands over what was committed, after `last` has told of it. Never waits.
    pub(super) fn feed(&self, fed: Fed) {
        if let Some(feed) = &*self.feed.lock() {
            // What the feed has no room for is read from the blocks.
            let _ = feed.try_send(fed);
        }
    }

    /// Waits until every event up to `last` is counted, however long that takes.
    pub(super) async fn counted(&self, last: Sequence) -> Result<(), StoreError> {
        let mut progress = self.followed.progress.subscribe();
        let ready = |it: &Progress| it.covers >= last || it.trouble.is_some();
        match progress.wait_for(ready).await {
            Ok(it) if it.covers >= last => Ok(()),
            Ok(it) => Err(it.trouble.clone().unwrap_or(StoreError::Behind)),
            Err(_) => Err(StoreError::Closed),
        }
    }

    /// What `answer` makes of rollups that cover every event that is committed now.
    pub(super) async fn ask<T: Send + 'static>(
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

    /// What `look` makes of the rollups as they are.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Rollups) -> T) -> T {
        look(&self.followed.rollups.read())
    }

    /// Ends the thread.
    pub(super) fn close(&self) {
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
    fn follow(&self, opened: Sequence, feed: &Receiver<Fed>) {
        let _leaving = Leaving(self);
        let mut saved = self.restore(opened);
        loop {
            let pause = self.catch_up();
            self.save_after(&mut saved, self.limits.checkpoint);
            let next = match pause {
                Some(pause) => feed.recv_timeout(pause),
                None => feed.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let mut next = match next {
                Ok(append) => Some(append),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            while let Some(fed) = next
                && self.take(&fed)
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
        let restored = read.and_then(|mut file| {
            Rollups::read_from(Bounds::default(), self.key.of_checkpoints(), &mut file)
        });
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
            snapshot.write_to(self.key.of_checkpoints(), &mut file)?;
            file.flush()?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            schema::sync_dir(&self.dir)
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
    fn take(&self, fed: &Fed) -> bool {
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

    /// Counts what the feed has left out. If that fails: when to try again.
    fn catch_up(&self) -> Option<Duration> {
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
        match self.read_after(covers) {
            Ok(Some(last)) => {
                self.rollups.write().covered(last);
                self.tell(last, None);
                if missing >= TOLD {
                    tracing::info!("all events are counted");
                }
                None
            }
            // The store is closing.
            Ok(None) => None,
            Err(fault) => {
                let error = fault.into_store_error();
                tracing::error!(%error, "events could not be counted, trying again");
                // Some of them may be in it.
                self.tell(Sequence(0), Some(error));
                *self.rollups.write() = Rollups::new(Bounds::default());
                Some(PAUSE)
            }
        }
    }

    fn tell(&self, covers: Sequence, trouble: Option<StoreError>) {
        self.progress.send_replace(Progress { covers, trouble });
    }

    /// Adds the events behind `covers`; returns the last one's arrival, or `None` if the store is
    /// closing and it stopped in the middle.
    fn read_after(&self, covers: Sequence) -> Result<Option<Sequence>, Fault> {
        let db = schema::open_reader(&self.dir.join(DATABASE))?;
        let db = db.unchecked_transaction()?;
        let last = blocks_after(&db, covers, |events| {
            if self.stopping.load(Ordering::Relaxed) {
                return ControlFlow::Break(());
            }
            let facts = Facts::of(self.key.of_users(), events.iter().map(|(_, event)| event));
            self.rollups.write().add(&facts);
            ControlFlow::Continue(())
        })?;
        if last.is_some() {
            spent::facts_after(&db, covers, |_, facts| self.rollups.write().add(facts))?;
        }
        Ok(last)
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

#[cfg(test)]
pub(super) mod tests;
