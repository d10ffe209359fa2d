//! The store in this process: one SQLite database, one thread that writes.
//!
//! ```text
//! data directory
//! ├─ LOCK                 held by the one process that has it open
//! ├─ tollgate.db          everything that was ever acknowledged
//! ├─ tollgate.db-wal      SQLite's write-ahead log: the newest part of it
//! ├─ witness              the number of the last commit, see `witness.rs`
//! ├─ seen/                the identity index, see `seen.rs`; derived
//! └─ rollups              a checkpoint of the rollups, see `rollups.rs`; derived
//! ```
//!
//! Opening reads through a connection that can't write, and so leaves a directory that it refuses
//! byte for byte as it was.

mod checkpoint;
mod codec;
mod ended;
pub(super) mod events;
mod fault;
mod idempotency;
mod jobs;
mod load;
mod lock;
mod meta;
mod queues;
mod readers;
mod rollups;
mod schema;
mod seen;
mod shared;
#[cfg(feature = "cluster")]
pub(super) mod source;
mod verify;
mod witness;
mod writer;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::{self, ThreadId};
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::oneshot;

use self::checkpoint::{Checkpointer, LogLimits};
pub(super) use self::codec::Digest;
#[cfg(feature = "cluster")]
pub(super) use self::codec::{encode_failures, encode_ids};
use self::events::EventState;
use self::events::scan::Scans;
#[cfg(feature = "cluster")]
pub(super) use self::events::spent::{Gone, GoneEvent, Place};
use self::events::write::Append;
use self::fault::Fault;
use self::lock::DirLock;
#[cfg(feature = "cluster")]
pub(super) use self::meta::Tally;
use self::meta::{Meta, TABLES};
use self::readers::Readers;
use self::schema::{DATABASE, FORMAT, LOG, name_of};
use self::shared::Shared;
use self::witness::{Testimony, Witness};
use self::writer::{Commit, GroupLimits, Message, Other, Writer};
use super::error::{OpenError, StoreError};
use super::rollups::FollowLimits;
use super::{KeptAnswer, StoreSettings, StoreState};
use crate::model::change::Change;
use crate::model::id::IngestionId;
use crate::model::ingestion::Ingestion;
use crate::model::time::Timestamp;

/// Every bound of the store.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Messages that wait for the writer.
    queue: usize,
    /// Bytes of ids that wait for the writer.
    waiting: usize,
    group: GroupLimits,
    log: LogLimits,
    rollups: FollowLimits,
    /// How long a store that is dropped without having been closed waits for its writer.
    leave: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue: 4096,
            waiting: 256 * 1024 * 1024,
            group: GroupLimits::default(),
            log: LogLimits::default(),
            rollups: FollowLimits::default(),
            leave: Duration::from_secs(10),
        }
    }
}

/// The callers' side.
pub(super) struct Embedded {
    limits: Limits,
    shared: Arc<Shared>,
    events: Arc<EventState>,
    readers: Arc<Readers>,
    scans: Scans,
    /// Gone once the store is closing.
    sender: Mutex<Option<SyncSender<Message>>>,
    /// Gone once nobody has to wait for it in a drop.
    writer: Mutex<Option<WriterThread>>,
}

/// The thread of the writer, for those who wait for its end: a join has no bound.
struct WriterThread {
    id: ThreadId,
    /// Nothing is ever said here; the other end is gone when the thread is done.
    alive: mpsc::Receiver<Infallible>,
}

impl Embedded {
    pub(super) fn open(
        settings: &StoreSettings,
        apply: impl FnMut(Vec<Change>) + Send + 'static,
    ) -> Result<Self, OpenError> {
        Self::open_with(settings, Limits::default(), apply)
    }

    fn open_with(
        settings: &StoreSettings,
        limits: Limits,
        mut apply: impl FnMut(Vec<Change>) + Send + 'static,
    ) -> Result<Self, OpenError> {
        let dir = settings.dir.as_path();
        let path = dir.join(DATABASE);
        let name = name_of(&path);
        let lock = DirLock::take(dir)?;
        let mut meta = load(dir, settings.accept_loss, &mut apply)?;
        let refuse = |error: std::io::Error| OpenError(format!("{}: {error}", dir.display()));
        let db = schema::open_writer(&path).map_err(|fault| fault.into_open_error(&name))?;
        let events = Arc::new(EventState::open(dir, &db, &mut meta, limits.rollups)?);
        // Once nothing can refuse any more: a loss is not accepted by a start that failed.
        let witness = Witness::set(dir, meta.commits).map_err(refuse)?;
        schema::sync_dir(dir).map_err(refuse)?;
        let shared = Arc::new(Shared::new());
        let checkpointer = Checkpointer::start(path.clone(), limits.log, Arc::clone(&shared));
        let writer = Writer {
            db,
            meta,
            witness,
            apply,
            limits: limits.group,
            shared: Arc::clone(&shared),
            events: Arc::clone(&events),
            digest: Digest::default(),
            checkpointer: checkpointer.map_err(refuse)?,
            lock,
        };
        let (sender, messages) = sync_channel(limits.queue);
        let (ends, alive) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                let _ends = ends;
                writer.run(messages);
            })
            .map_err(refuse)?;
        let id = thread.thread().id();
        Ok(Self {
            limits,
            shared,
            events,
            scans: Scans::new(path.clone()),
            readers: Readers::new(path),
            sender: Mutex::new(Some(sender)),
            writer: Mutex::new(Some(WriterThread { id, alive })),
        })
    }

    pub(super) async fn commit(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        let bytes = changes.iter().map(size_of_change).sum();
        self.write(changes, None, bytes).await
    }

    /// Hands what belongs together to the writer and waits for its commit; `bytes` is what it weighs
    /// in the queue.
    async fn write(
        &self,
        changes: Vec<Change>,
        events: Option<Append>,
        bytes: usize,
    ) -> Result<(), StoreError> {
        if !self.shared.reserve(bytes, self.limits.waiting) {
            return Err(StoreError::Busy);
        }
        let (reply, answer) = oneshot::channel();
        let sent = self.send(Message::Commit(Box::new(Commit {
            changes,
            events,
            bytes,
            reply,
        })));
        if let Err(error) = sent {
            self.shared.release(bytes);
            return Err(error);
        }
        answer.await.unwrap_or_else(|_| Err(self.gone()))
    }

    pub(super) async fn prune(
        &self,
        ended_before: Timestamp,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        self.other(move |db, meta, digest| {
            let keys = idempotency::prune(db, meta, digest, now)?;
            Ok(keys + ended::prune(db, meta, digest, ended_before)?)
        })
        .await
    }

    /// Has the writer do `work` in a transaction of its own.
    async fn other(
        &self,
        work: impl FnOnce(&Connection, &mut Meta, &mut Digest) -> Result<u64, Fault> + Send + 'static,
    ) -> Result<u64, StoreError> {
        let (reply, answer) = oneshot::channel();
        let work = Box::new(work);
        self.send(Message::Other(Other { work, reply }))?;
        answer.await.unwrap_or_else(|_| Err(self.gone()))
    }

    pub(super) async fn ended(&self, id: IngestionId) -> Result<Option<Ingestion>, StoreError> {
        self.readers.read(move |db| ended::find(db, id)).await
    }

    pub(super) async fn kept_answer(
        &self,
        key: u128,
        now: Timestamp,
    ) -> Result<Option<KeptAnswer>, StoreError> {
        self.readers
            .read(move |db| idempotency::find(db, key, now))
            .await
    }

    pub(super) fn state(&self) -> StoreState {
        self.shared.state()
    }

    pub(super) async fn close(&self) {
        self.sender.lock().take();
        // Who gives up waiting here doesn't want to wait again in a drop.
        self.writer.lock().take();
        self.readers.close();
        self.scans.close();
        self.shared.wait_ended().await;
    }

    /// Hands a message to the writer without waiting.
    fn send(&self, message: Message) -> Result<(), StoreError> {
        if let StoreState::Failed(sentence) = self.shared.state() {
            return Err(StoreError::Failed(sentence));
        }
        let sender = self.sender.lock();
        let sent = match &*sender {
            Some(sender) => sender.try_send(message),
            None => return Err(StoreError::Closed),
        };
        match sent {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => Err(StoreError::Busy),
            Err(TrySendError::Disconnected(_)) => {
                drop(sender);
                Err(self.gone())
            }
        }
    }

    /// Why the writer doesn't answer.
    fn gone(&self) -> StoreError {
        match self.shared.state() {
            StoreState::Failed(sentence) => StoreError::Failed(sentence),
            StoreState::Ok | StoreState::Full | StoreState::Away(_)
                if self.sender.lock().is_none() =>
            {
                StoreError::Closed
            }
            StoreState::Ok | StoreState::Full | StoreState::Away(_) => {
                StoreError::Failed("the writer stopped".to_owned())
            }
        }
    }
}

/// Waits for the writer, so that the directory can be opened again at once; not for ever, because a
/// disk that hangs holds it.
impl Drop for Embedded {
    fn drop(&mut self) {
        self.sender.get_mut().take();
        self.scans.close();
        if let Some(writer) = self.writer.get_mut().take()
            && writer.id != thread::current().id()
            && writer.alive.recv_timeout(self.limits.leave) == Err(RecvTimeoutError::Timeout)
        {
            tracing::warn!("the disk does not answer: the store was left without closing it");
        }
    }
}

/// What a change weighs in the writer's queue: its ids, and a little for itself.
fn size_of_change(change: &Change) -> usize {
    let ids = match change {
        Change::Submitted { ingestion, .. } => ingestion.ids.len(),
        _ => 0,
    };
    size_of::<Change>() + ids * size_of::<i64>()
}

/// Finds or makes the database, checks it against its witness, brings it to the current format
/// and replays it.
fn load(
    dir: &Path,
    accept_loss: bool,
    apply: &mut impl FnMut(Vec<Change>),
) -> Result<Meta, OpenError> {
    let path = dir.join(DATABASE);
    let name = name_of(&path);
    let refuse = |fault: Fault| fault.into_open_error(&name);
    let testimony = Witness::read(dir)
        .map_err(|error| OpenError(format!("{}: {error}", dir.join(witness::NAME).display())))?;
    if !path.exists() {
        make_new(dir, testimony, accept_loss)?;
        return Ok(Meta::default());
    }
    if is_empty(&path) {
        return Err(OpenError(format!(
            "{name} is damaged: it is empty, expected a store of format {FORMAT}"
        )));
    }
    let mut db = schema::open_reader(&path).map_err(refuse)?;
    let format = schema::examine(&db, &path)?;
    let mut meta = Meta::load(&db, schema::tables_of(format)).map_err(refuse)?;
    compare(dir, &meta, testimony, accept_loss)?;
    if format < FORMAT {
        drop(db);
        schema::migrate(&path, format).map_err(refuse)?;
        db = schema::open_reader(&path).map_err(refuse)?;
        meta = Meta::load(&db, TABLES).map_err(refuse)?;
    }
    load::replay(&db, &meta, apply).map_err(refuse)?;
    Ok(meta)
}

/// Makes the database, unless there was one: then it was lost.
fn make_new(dir: &Path, testimony: Testimony, accept_loss: bool) -> Result<(), OpenError> {
    let log = dir.join(LOG);
    let orphaned = log.exists() && !is_empty(&log);
    let lost = match testimony {
        Testimony::Commit(1..) => true,
        Testimony::Missing | Testimony::Commit(_) | Testimony::Damaged => orphaned,
    };
    if lost && !accept_loss {
        return Err(OpenError(format!(
            "{} is missing, but {} shows that there was one: put it back, or accept the loss",
            dir.join(DATABASE).display(),
            if orphaned { LOG } else { witness::NAME }
        )));
    }
    if log.exists() {
        // SQLite would take the old log for the new database's.
        set_aside(dir, "without-database", |from, to| fs::rename(from, to))?;
    }
    schema::create(dir)
}

/// A store behind its witness lost acknowledged commits.
fn compare(
    dir: &Path,
    meta: &Meta,
    testimony: Testimony,
    accept_loss: bool,
) -> Result<(), OpenError> {
    let name = name_of(&dir.join(DATABASE));
    let (found, witness) = (meta.commits, name_of(&dir.join(witness::NAME)));
    match testimony {
        Testimony::Commit(expected) if expected <= found => Ok(()),
        Testimony::Missing if found == 0 => Ok(()),
        Testimony::Missing => {
            tracing::warn!(
                commits = found,
                "{witness} is missing: whether {name} is complete can't be told"
            );
            Ok(())
        }
        Testimony::Damaged if accept_loss => {
            tracing::warn!(
                commits = found,
                "{witness} is damaged: whether {name} is complete can't be told"
            );
            Ok(())
        }
        Testimony::Damaged => Err(OpenError(format!(
            "{witness} is damaged, so whether the {found} commits in {name} are all can't be \
             told: restore it, or accept the loss"
        ))),
        Testimony::Commit(expected) if accept_loss => {
            set_aside(dir, &format!("commit-{found}-of-{expected}"), |from, to| {
                fs::copy(from, to).map(|_| ())
            })?;
            tracing::warn!(
                found,
                expected,
                "the loss of {} commits was accepted",
                expected - found
            );
            Ok(())
        }
        Testimony::Commit(expected) => Err(OpenError(format!(
            "{name} ends at commit {found}, but commit {expected} was acknowledged: {} commits \
             are lost; restore {DATABASE} and {LOG}, or accept the loss",
            expected - found
        ))),
    }
}

/// Keeps the log under another name before SQLite may write to it.
fn set_aside(
    dir: &Path,
    why: &str,
    keep: impl Fn(&Path, &Path) -> std::io::Result<()>,
) -> Result<(), OpenError> {
    let log = dir.join(LOG);
    if !log.exists() {
        return Ok(());
    }
    let mut aside = dir.join(format!("{LOG}.{why}"));
    // Never over an earlier one.
    let mut number = 1_u32;
    while aside.exists() {
        number += 1;
        aside = dir.join(format!("{LOG}.{why}.{number}"));
    }
    keep(&log, &aside)
        .and_then(|()| File::open(&aside)?.sync_all())
        .and_then(|()| schema::sync_dir(dir))
        .map_err(|error| {
            OpenError(format!(
                "can't keep {} as {}: {error}",
                log.display(),
                aside.display()
            ))
        })
}

fn is_empty(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.len() == 0)
}
