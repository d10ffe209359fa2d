//! Keeps the rollups in step with what is committed.
//!
//! ```text
//! writer ──facts of each append──▶ bounded feed ──▶ rollups thread ──▶ RwLock<Rollups> ◀── answers
//!                                 (dropped if full)       ▲
//!                                                         │ what the feed left out
//!                                                     tollgate.db
//! ```
//!
//! The arrival is the truth, the feed is a hint: whatever the thread has not seen, because the feed
//! was full or because the process was not there, it reads from the blocks. So the writer never
//! waits for the rollups, start-up doesn't either, and nothing is counted twice. An answer waits until
//! every event is counted that was acknowledged before it was asked.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::events::page::blocks_after;
use super::events::spent;
use super::fault::Fault;
use super::schema;
use crate::model::event::Sequence;
use crate::rollups::{Bounds, Facts, Rollups, UserKey};
use crate::store::error::StoreError;
use crate::telemetry::counted;

/// How many appends wait in the feed.
const FEED: usize = 256;

/// How long an answer waits for events that are not counted yet.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many answers are computed at once.
const ANSWERS: usize = 4;

/// How long until events that could not be read are read again.
const PAUSE: Duration = Duration::from_secs(5);

/// With fewer missing events than this, reading them is not worth a line in the log.
const TOLD: u64 = 100_000;

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
    database: PathBuf,
    key: UserKey,
}

impl Follower {
    /// Starts the thread. `last` tells how far events are committed.
    pub(super) fn start(
        database: PathBuf,
        key: UserKey,
        last: watch::Receiver<Sequence>,
    ) -> std::io::Result<Self> {
        let followed = Arc::new(Followed {
            rollups: RwLock::new(Rollups::new(Bounds::default())),
            progress: watch::Sender::default(),
            last,
            stopping: AtomicBool::new(false),
            database,
            key,
        });
        let (feed, receiver) = sync_channel(FEED);
        let thread = {
            let followed = Arc::clone(&followed);
            let named = thread::Builder::new().name("rollups".to_owned());
            named.spawn(move || followed.follow(&receiver))?
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

    /// What `answer` makes of rollups that cover every event that is committed now.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        answer: impl Fn(&Rollups) -> T + Send + Sync + 'static,
    ) -> Result<T, StoreError> {
        let last = *self.followed.last.borrow();
        let answered = async {
            let mut progress = self.followed.progress.subscribe();
            let answer = Arc::new(answer);
            // Each turn of the loop follows a change of the progress.
            loop {
                let ready = |it: &Progress| it.covers >= last || it.trouble.is_some();
                let stuck = match progress.wait_for(ready).await {
                    Ok(it) if it.covers >= last => None,
                    Ok(it) => it.trouble.clone(),
                    Err(_) => Some(StoreError::Closed),
                };
                if let Some(error) = stuck {
                    return Err(error);
                }
                let permit = Arc::clone(&self.answers).acquire_owned().await;
                let permit = permit.map_err(|_| StoreError::Closed)?;
                let (followed, answer) = (Arc::clone(&self.followed), Arc::clone(&answer));
                let task = tokio::task::spawn_blocking(move || {
                    let _permit = permit;
                    let rollups = followed.rollups.read();
                    // They may have been started anew since.
                    (rollups.covers() >= last).then(|| answer(&rollups))
                });
                match task.await {
                    Ok(Some(answer)) => return Ok(answer),
                    Ok(None) => {}
                    Err(_) => return Err(StoreError::Closed),
                }
            }
        };
        let answer = timeout(PATIENCE, answered).await;
        answer.unwrap_or(Err(StoreError::Behind))
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
    fn follow(&self, feed: &Receiver<Fed>) {
        let _leaving = Leaving(self);
        loop {
            let pause = self.catch_up();
            let next = match pause {
                Some(pause) => feed.recv_timeout(pause),
                None => feed.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let mut next = match next {
                Ok(append) => Some(append),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            while let Some(fed) = next
                && self.take(&fed)
            {
                next = feed.try_recv().ok();
            }
        }
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
        let db = schema::open_reader(&self.database)?;
        let db = db.unchecked_transaction()?;
        let last = blocks_after(&db, covers, |events| {
            if self.stopping.load(Ordering::Relaxed) {
                return ControlFlow::Break(());
            }
            let facts = Facts::of(self.key, events.iter().map(|(_, event)| event));
            self.rollups.write().add(&facts);
            ControlFlow::Continue(())
        })?;
        if last.is_some() {
            spent::facts_after(&db, covers, |facts| self.rollups.write().add(facts))?;
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
