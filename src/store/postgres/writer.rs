//! The task that writes what happens to jobs: whatever waits goes into one transaction.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::connect::{Server, Session, fault, silent};
use super::follow::Own;
use super::rows::{Head, Rows, Statements};
use crate::model::change::Change;
use crate::model::id::Arrival;
use crate::store::Room;
use crate::store::error::StoreError;

/// The most changes of one transaction, and the most ids in them, beyond the first commit.
const GROUP: usize = 1_000;
const GROUP_IDS: usize = 2_000_000;

/// The longest that a transaction may take. A database that hangs holds nobody up for longer.
const LONGEST: Duration = Duration::from_secs(20);

/// Changes that belong together.
pub(super) struct Commit {
    pub(super) changes: Vec<Change>,
    /// Only if the node with this epoch still leads.
    pub(super) leader: Option<i64>,
    /// Only if what it submits fits in there.
    pub(super) room: Option<Room>,
    pub(super) reply: oneshot::Sender<Result<(), StoreError>>,
    /// Its weight in the queue, given back when this is dropped.
    pub(super) _weight: tokio::sync::OwnedSemaphorePermit,
}

/// See the module.
pub(super) struct Writer {
    pub(super) server: Server,
    pub(super) commits: mpsc::Receiver<Commit>,
    /// Takes what was committed, in its order.
    pub(super) follower: mpsc::Sender<Own>,
    /// Why the last commit was not made; `None` if it was.
    pub(super) trouble: Arc<watch::Sender<Option<StoreError>>>,
}

struct Open {
    session: Session,
    statements: Statements,
}

impl Writer {
    /// Runs until nobody can send any more.
    pub(super) async fn run(mut self) {
        let mut open = None;
        let mut next = None;
        loop {
            let first = match next.take() {
                Some(first) => first,
                None => match self.commits.recv().await {
                    Some(first) => first,
                    None => return,
                },
            };
            let group = self.group(first, &mut next);
            self.write(&mut open, group).await;
        }
    }

    /// What waits and fits; the commit that did not is `next`.
    fn group(&mut self, first: Commit, next: &mut Option<Commit>) -> Vec<Commit> {
        let leader = first.leader;
        let (mut changes, mut ids) = (first.changes.len(), ids_of(&first));
        let mut group = vec![first];
        while let Ok(commit) = self.commits.try_recv() {
            changes += commit.changes.len();
            ids += ids_of(&commit);
            // What may be refused stands by itself, so that its refusal is nobody else's.
            if commit.leader != leader || changes > GROUP || ids > GROUP_IDS {
                *next = Some(commit);
                break;
            }
            group.push(commit);
        }
        group
    }

    async fn write(&self, open: &mut Option<Open>, mut group: Vec<Commit>) {
        let written = timeout(LONGEST, self.try_write(open, &group)).await;
        match written.unwrap_or_else(|_| Err(silent())) {
            Ok(head) => {
                self.tell(None);
                self.hand_on(head, &mut group).await;
            }
            // One of them brings a key that has an answer, too much, or what the database does not
            // take: the others are none the worse for it.
            Err(StoreError::KeyTaken | StoreError::QueueFull | StoreError::Refused(_))
                if group.len() > 1 =>
            {
                for commit in group {
                    Box::pin(self.write(open, vec![commit])).await;
                }
            }
            Err(error) => {
                if !matches!(
                    error,
                    StoreError::Deposed
                        | StoreError::KeyTaken
                        | StoreError::QueueFull
                        | StoreError::Refused(_)
                ) {
                    // Whether it was committed can't be told: a new connection shows what there is.
                    *open = None;
                    self.tell(Some(error.clone()));
                }
                for commit in group {
                    // Who asked may be gone.
                    let _ = commit.reply.send(Err(error.clone()));
                }
            }
        }
    }

    async fn try_write(
        &self,
        open: &mut Option<Open>,
        group: &[Commit],
    ) -> Result<Head, StoreError> {
        if open.as_ref().is_none_or(|open| open.session.is_closed()) {
            let session = self.server.connect_to_write().await?;
            let statements = Statements::prepare(&session).await;
            let statements = statements.map_err(|error| fault(&error))?;
            *open = Some(Open {
                session,
                statements,
            });
        }
        let Some(Open {
            session,
            statements,
        }) = open
        else {
            return Err(StoreError::Closed);
        };
        let mut rows = Rows::of(group.iter().flat_map(|commit| &commit.changes));
        for room in group.iter().filter_map(|commit| commit.room) {
            rows.keep_within(room);
        }
        let leader = group.first().and_then(|commit| commit.leader);
        let written = rows.write(session, statements, leader).await;
        written.map_err(|error| refusal(&error))
    }

    /// Has the changes applied, and those answered who wait for it.
    async fn hand_on(&self, head: Head, group: &mut Vec<Commit>) {
        let mut changes = Vec::new();
        let mut replies = Vec::with_capacity(group.len());
        for mut commit in group.drain(..) {
            changes.append(&mut mem::take(&mut commit.changes));
            replies.push(commit.reply);
        }
        let submitted = changes.iter_mut().filter_map(|change| match change {
            Change::Submitted { ingestion, .. } => Some(ingestion),
            _ => None,
        });
        let submitted: Vec<_> = submitted.collect();
        let before = head.arrival.cast_unsigned() - submitted.len() as u64;
        for (arrival, ingestion) in (before + 1..).zip(submitted) {
            ingestion.arrival = Arrival(arrival);
        }
        let own = Own {
            head,
            changes,
            replies,
        };
        // Without a follower there is nobody left to answer.
        let _ = self.follower.send(own).await;
    }

    fn tell(&self, trouble: Option<StoreError>) {
        self.trouble.send_if_modified(|shown| {
            let news = *shown != trouble;
            *shown = trouble;
            news
        });
    }
}

/// Why a transaction was not committed. Of a value that the database does not take (SQLSTATE of class 22,
/// data exception, or 23, integrity constraint violation) it is known that nothing was.
fn refusal(error: &tokio_postgres::Error) -> StoreError {
    let class = error.code().and_then(|state| state.code().get(..2));
    match fault(error) {
        StoreError::Away(why) if matches!(class, Some("22" | "23")) => StoreError::Refused(why),
        other => other,
    }
}

fn ids_of(commit: &Commit) -> usize {
    let ids = commit.changes.iter().map(|change| match change {
        Change::Submitted { ingestion, .. } => ingestion.ids.len(),
        _ => 0,
    });
    ids.sum()
}
