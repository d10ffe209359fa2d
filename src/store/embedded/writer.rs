//! The one thread that writes.
//!
//! It takes what waits, writes it in one transaction, syncs once, notes the commit in the witness,
//! applies the changes, and answers everyone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::oneshot;

use super::checkpoint::{self, Checkpointer, Effort, checkpoint};
use super::codec::Digest;
use super::events::EventState;
use super::events::messages;
use super::events::write::{self, Append};
use super::fault::Fault;
use super::jobs;
use super::lock::DirLock;
use super::meta::{Meta, TABLES};
use super::shared::Shared;
use super::witness::Witness;
use crate::model::change::Change;
use crate::store::StoreState;
use crate::store::error::StoreError;

/// What the writer is asked for.
pub(super) enum Message {
    /// Write, sync and apply these changes and events.
    Commit(Box<Commit>),
    /// Do this in a transaction of its own.
    Other(Other),
}

/// What belongs together.
pub(super) struct Commit {
    pub(super) changes: Vec<Change>,
    pub(super) events: Option<Append>,
    /// What they were counted as in [`Shared::reserve`].
    pub(super) bytes: usize,
    pub(super) reply: oneshot::Sender<Result<(), StoreError>>,
}

/// Housekeeping: writes what no change and no event says, and returns how much that was.
pub(super) type Work =
    Box<dyn FnOnce(&Connection, &mut Meta, &mut Digest) -> Result<u64, Fault> + Send>;

/// Housekeeping, and who waits for it.
pub(super) struct Other {
    pub(super) work: Work,
    pub(super) reply: oneshot::Sender<Result<u64, StoreError>>,
}

/// The bounds of a group.
#[derive(Clone, Copy, Debug)]
pub(super) struct GroupLimits {
    /// Commits in one transaction.
    pub(super) commits: usize,
    /// Bytes of ids after which no further commit joins.
    pub(super) bytes: usize,
}

impl Default for GroupLimits {
    fn default() -> Self {
        Self {
            commits: 1024,
            bytes: 32 * 1024 * 1024,
        }
    }
}

/// The writer's own things.
pub(super) struct Writer<F> {
    pub(super) db: Connection,
    pub(super) meta: Meta,
    pub(super) witness: Witness,
    pub(super) apply: F,
    pub(super) limits: GroupLimits,
    pub(super) shared: Arc<Shared>,
    pub(super) events: Arc<EventState>,
    pub(super) digest: Digest,
    pub(super) checkpointer: Checkpointer,
    /// Held until the very end: nobody else opens the directory before.
    pub(super) lock: DirLock,
}

/// Which of a group are written: all but those with a message that was committed before, whose names are
/// taken here.
fn admit(
    db: &Connection,
    meta: &mut Meta,
    digest: &mut Digest,
    group: &[Commit],
) -> Result<Vec<bool>, Fault> {
    let mut admit = |commit: &Commit| match &commit.events {
        Some(append) if !append.names.is_empty() => messages::take(db, meta, digest, &append.names),
        _ => Ok(true),
    };
    group.iter().map(&mut admit).collect()
}

/// Says that the writer has ended, however it did.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.set_ended();
    }
}

impl<F: FnMut(Vec<Change>)> Writer<F> {
    /// Works until every sender is gone and nothing waits.
    pub(super) fn run(mut self, messages: Receiver<Message>) {
        let ended = Ended(Arc::clone(&self.shared));
        let worked = catch_unwind(AssertUnwindSafe(|| self.work(&messages)));
        if worked.is_err() {
            self.shared.fail("the writer stopped by a panic");
        }
        // Whoever still waits learns now that no answer will come.
        drop(messages);
        self.finish();
        drop(ended);
    }

    fn work(&mut self, messages: &Receiver<Message>) {
        let mut next = messages.recv().ok();
        while let Some(message) = next.take() {
            match message {
                Message::Other(other) => {
                    let answer = self.transaction(other.work);
                    self.events.replaced(&mut self.meta);
                    self.after_commit();
                    let _ = other.reply.send(answer);
                }
                Message::Commit(first) => {
                    let (group, other) = self.gather(first, messages);
                    self.commit(group);
                    next = other;
                }
            }
            if next.is_none() {
                next = messages.recv().ok();
            }
        }
    }

    /// Adds what waits behind `first`, up to the limits or to something that is no commit.
    fn gather(
        &self,
        first: Box<Commit>,
        messages: &Receiver<Message>,
    ) -> (Vec<Commit>, Option<Message>) {
        let mut bytes = first.bytes;
        let mut group = vec![*first];
        while group.len() < self.limits.commits && bytes < self.limits.bytes {
            match messages.try_recv() {
                Ok(Message::Commit(commit)) => {
                    bytes += commit.bytes;
                    group.push(*commit);
                }
                Ok(other) => return (group, Some(other)),
                Err(_) => break,
            }
        }
        (group, None)
    }

    /// Writes one group and answers it.
    pub(super) fn commit(&mut self, mut group: Vec<Commit>) {
        self.shared
            .release(group.iter().map(|commit| commit.bytes).sum());
        let written = self.transaction(|db, meta, digest| {
            for commit in &mut group {
                for change in &mut commit.changes {
                    jobs::write(db, meta, digest, change)?;
                }
            }
            let admitted = admit(db, meta, digest, &group)?;
            let events = group.iter().zip(&admitted);
            let events = events.filter(|(_, admitted)| **admitted);
            let events = events.filter_map(|(commit, _)| commit.events.as_ref());
            write::write(db, meta, digest, events)?;
            Ok(admitted)
        });
        let admitted = match written {
            Ok(admitted) => admitted,
            Err(error) => {
                for commit in group {
                    let _ = commit.reply.send(Err(error.clone()));
                }
                return;
            }
        };
        let (mut changes, mut appends) = (Vec::new(), Vec::new());
        let mut replies = Vec::with_capacity(group.len());
        for (commit, admitted) in group.into_iter().zip(admitted) {
            if !admitted {
                // Dropped, it gives back the identities that it held.
                drop(commit.events);
                let _ = commit.reply.send(Err(StoreError::MessageTaken));
                continue;
            }
            changes.extend(commit.changes);
            appends.extend(commit.events);
            replies.push(commit.reply);
        }
        let applied = catch_unwind(AssertUnwindSafe(|| {
            if !changes.is_empty() {
                (self.apply)(changes);
            }
            if !appends.is_empty() {
                self.events.committed(appends, &self.meta.events);
            }
        }));
        let answer = applied.map_err(|_| {
            let sentence = "a committed change could not be applied: a panic".to_owned();
            self.shared.fail(&sentence);
            StoreError::Failed(sentence)
        });
        for reply in replies {
            let _ = reply.send(answer.clone());
        }
        self.after_commit();
    }

    /// Runs `write` in a transaction of its own, syncs it, and notes it in the witness. After an
    /// error nothing of it is there, and the state says what that means for later writes.
    fn transaction<T>(
        &mut self,
        write: impl FnOnce(&Connection, &mut Meta, &mut Digest) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        if let StoreState::Failed(sentence) = self.shared.state() {
            return Err(StoreError::Failed(sentence));
        }
        match self.try_transaction(write) {
            Ok(answer) => {
                self.shared.set_full(false);
                if let Err(error) = self.witness.note(self.meta.commits) {
                    // This commit is safe, but a loss of the next ones would go unnoticed.
                    self.shared
                        .fail(&format!("the witness can't be written: {error}"));
                }
                Ok(answer)
            }
            Err(fault) => Err(self.take_fault(fault)),
        }
    }

    fn try_transaction<T>(
        &mut self,
        write: impl FnOnce(&Connection, &mut Meta, &mut Digest) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let mut meta = self.meta.clone();
        let tx = self
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let answer = write(&tx, &mut meta, &mut self.digest)?;
        meta.commits += 1;
        meta.save(&tx, TABLES)?;
        tx.commit()?;
        self.meta = meta;
        Ok(answer)
    }

    /// What a failed transaction means, for the callers and from now on.
    fn take_fault(&self, fault: Fault) -> StoreError {
        match fault.into_store_error() {
            StoreError::Full => {
                self.shared.set_full(true);
                StoreError::Full
            }
            StoreError::Busy => {
                tracing::warn!("the database is locked by another program: a write was refused");
                StoreError::Busy
            }
            other => {
                let sentence = match other {
                    StoreError::Failed(sentence) | StoreError::Damaged(sentence) => sentence,
                    other => other.to_string(),
                };
                self.shared.fail(&sentence);
                StoreError::Failed(sentence)
            }
        }
    }

    fn after_commit(&self) {
        if let Err(fault) = self.checkpointer.after_commit(&self.db) {
            checkpoint::report(fault, &self.shared);
        }
    }

    /// Folds the log into the database and lets go of everything. After a failure the files are
    /// left as they are: what is in them was synced, what comes after can't be trusted.
    fn finish(self) {
        self.checkpointer.stop();
        self.events.seen.close();
        self.events.rollups.close();
        if !self.shared.has_failed()
            && let Err(fault) = checkpoint(&self.db, Effort::Truncate)
        {
            checkpoint::report(fault, &self.shared);
        }
        drop(self.db);
        drop(self.witness);
        drop(self.lock);
    }
}
