//! The writers of events: a few tasks with a connection each.
//!
//! ```text
//! callers ──bounded queue──▶ writers: each merges what waits, up to a bound, into one transaction
//! ```
//!
//! Identities are claimed side by side; the row of `event_head` is held for the arrivals only.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::timeout;

use super::super::connect::{Server, Session, end_hanging, fault, silent};
use super::super::follow::Sight;
use super::Shared;
use super::claims::{Claim, Contents};
use super::group::Group;
use super::prepare::Prepared;
use super::write::{Statements, Trouble};
use crate::model::event::{Receipt, Sequence};
use crate::store::error::StoreError;
use crate::store::rollups::Fed;

/// How many transactions are made at once.
pub(super) const WRITERS: usize = 3;

/// With so many events, or bytes of rows, a transaction takes no further request.
const GROUP_EVENTS: usize = 10_000;
const GROUP_BYTES: usize = 16 << 20;

/// How often a transaction is made again that met another one.
const ATTEMPTS: usize = 4;

/// How long a writer waits for the locks of others, and how long the database waits for a writer that
/// holds some: a node that hangs in the middle must not hold up the others.
const SETTINGS: &str = "SET lock_timeout = '8s'; SET idle_in_transaction_session_timeout = '5s'";

/// The longest that requests may take. A database that hangs holds nobody up for longer.
const LONGEST: Duration = Duration::from_mins(1);

/// A request that waits.
pub(super) struct Append {
    pub(super) prepared: Prepared,
    pub(super) reply: oneshot::Sender<Result<Vec<Receipt>, StoreError>>,
    /// Its weight in the queue, given back when this is dropped.
    pub(super) weight: OwnedSemaphorePermit,
}

/// What the writers share: who has it takes what waits.
pub(super) struct Queue {
    appends: mpsc::Receiver<Append>,
    /// Was taken, and did not fit.
    next: Option<Append>,
}

impl Queue {
    pub(super) fn new(appends: mpsc::Receiver<Append>) -> Self {
        Self {
            appends,
            next: None,
        }
    }

    /// The next request, and what waits behind it and fits; `None` at the end.
    async fn take(&mut self) -> Option<Vec<Append>> {
        let first = match self.next.take() {
            Some(first) => first,
            None => self.appends.recv().await?,
        };
        let weight = |append: &Append| (append.prepared.entries.len(), append.prepared.rows.len());
        let (mut events, mut bytes) = weight(&first);
        let mut taken = vec![first];
        while let Ok(append) = self.appends.try_recv() {
            let more = weight(&append);
            (events, bytes) = (events + more.0, bytes + more.1);
            if events > GROUP_EVENTS || bytes > GROUP_BYTES {
                self.next = Some(append);
                break;
            }
            taken.push(append);
        }
        Some(taken)
    }
}

/// See the module.
pub(super) struct Writer {
    pub(super) server: Server,
    pub(super) sight: Arc<Sight>,
    pub(super) shared: Arc<Shared>,
    pub(super) queue: Arc<Mutex<Queue>>,
}

/// A connection that writes.
struct Open {
    session: Session,
    statements: Statements,
}

impl Writer {
    /// Runs until nobody can send any more.
    pub(super) async fn run(self) {
        let mut open = None;
        loop {
            let taken = self.queue.lock().await.take().await;
            let Some(taken) = taken else { return };
            self.serve(&mut open, taken).await;
        }
    }

    /// Writes requests together, and answers each.
    async fn serve(&self, open: &mut Option<Open>, requests: Vec<Append>) {
        let (prepared, waiting): (Vec<Prepared>, Vec<_>) = requests
            .into_iter()
            .map(|it| (it.prepared, (it.reply, it.weight)))
            .unzip();
        let written = timeout(LONGEST, self.write(open, &prepared)).await;
        match written.unwrap_or_else(|_| Err(silent())) {
            Ok(receipts) => {
                for ((reply, _weight), receipts) in waiting.into_iter().zip(receipts) {
                    // Who asked may be gone.
                    let _ = reply.send(Ok(receipts));
                }
            }
            // One of them brings a message that was committed before: the others are none the worse for it.
            Err(StoreError::MessageTaken) if prepared.len() > 1 => {
                let requests = prepared.into_iter().zip(waiting);
                let requests = requests.map(|(prepared, (reply, weight))| Append {
                    prepared,
                    reply,
                    weight,
                });
                let (of_messages, others): (Vec<_>, Vec<_>) =
                    requests.partition(|it| !it.prepared.names.is_empty());
                if !others.is_empty() {
                    Box::pin(self.serve(open, others)).await;
                }
                for request in of_messages {
                    Box::pin(self.serve(open, vec![request])).await;
                }
            }
            Err(error) => {
                // Whether it was committed can't be told.
                *open = None;
                if error != StoreError::MessageTaken {
                    tracing::warn!(%error, "events were not written");
                }
                for (reply, _weight) in waiting {
                    let _ = reply.send(Err(error.clone()));
                }
            }
        }
    }

    /// Writes a group; the receipts of each request.
    async fn write(
        &self,
        open: &mut Option<Open>,
        requests: &[Prepared],
    ) -> Result<Vec<Vec<Receipt>>, StoreError> {
        let group = Group::of(requests);
        let mut claim = self.shared.claims.claim(&group.firsts);
        let mut careful = false;
        for _ in 0..ATTEMPTS {
            match self.try_write(open, &group, &mut claim, careful).await {
                Ok((receipts, spent)) => {
                    claim.committed(spent);
                    return Ok(receipts);
                }
                Err(Trouble::Failed(error)) => return Err(error),
                Err(Trouble::Again) => {}
                Err(Trouble::Held) => end_hanging(&self.server.connect().await?).await?,
                Err(Trouble::Void) => {
                    drop(claim);
                    claim = self.shared.claims.claim(&group.firsts);
                }
            }
            careful = true;
        }
        Err(StoreError::Busy)
    }

    /// The receipts of each request, and what was spent of the claim. `careful`: a transaction that was
    /// begun before may still be there.
    async fn try_write(
        &self,
        open: &mut Option<Open>,
        group: &Group<'_>,
        claim: &mut Claim<'_>,
        careful: bool,
    ) -> Result<(Vec<Vec<Receipt>>, Contents), Trouble> {
        let Open {
            session,
            statements,
        } = self.open(open).await?;
        let earlier = if careful {
            // Nobody waits for this one while it waits.
            session.batch_execute("ROLLBACK").await?;
            Some(claim.earlier().await?)
        } else {
            None
        };
        self.shared.parts.ensure(session, &group.months()).await?;
        let (claimed, spent) = statements.claim(session, group, claim, earlier).await?;
        let written = match statements.finish(session, group, &claimed).await {
            Ok(written) => written,
            Err(trouble) => {
                // The driver takes two answers for one where a `COPY` is refused before it begins. And the
                // row goes with the connection: others wait for it.
                *open = None;
                return Err(trouble);
            }
        };
        if written.head.topics > 0 {
            let topics = self.sight.topics();
            // It is committed: at the next look they are read again.
            let _ = topics.learn(session, written.head.topics).await;
        }
        if written.new > 0 {
            self.shared.rollups.feed(Fed {
                after: Sequence(written.head.event - written.new),
                facts: written.facts,
                last: Sequence(written.head.event),
            });
        }
        self.sight.committed(written.head);
        Ok((claimed.receipts, spent))
    }

    async fn open<'o>(&self, open: &'o mut Option<Open>) -> Result<&'o Open, StoreError> {
        if open.as_ref().is_none_or(|open| open.session.is_closed()) {
            let session = self.server.connect_to_write().await?;
            let failed = |error: tokio_postgres::Error| fault(&error);
            session.batch_execute(SETTINGS).await.map_err(failed)?;
            let statements = Statements::prepare(&session).await.map_err(failed)?;
            *open = Some(Open {
                session,
                statements,
            });
        }
        open.as_ref().ok_or(StoreError::Closed)
    }
}
