//! Who may schedule: the node whose session holds the advisory lock.
//!
//! Each term has an *epoch*, a number that grows, and every write of a leader is refused once a later
//! epoch has begun: the row that has it is the one that every commit holds. A leader that was stopped
//! and wakes up can't do harm, whatever it believes.
//!
//! A session that is silent for [`SILENCE`] is ended by the server: a leader that hangs, or that is
//! cut off, loses the lock without having to do anything.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::connect::{Server, Session, end_hanging, fault, silent};
use super::follow::Sight;
use crate::store::Term;
use crate::store::error::StoreError;

/// The advisory lock of the leader.
const LOCK: i64 = 0x746f_6c6c_6761_7402;

/// How long a leader's session may be silent.
const SILENCE: Duration = Duration::from_secs(4);

/// How often a leader shows that it is there.
const BEAT: Duration = Duration::from_secs(1);

/// How long a beat may take before the leader gives up by itself.
const ANSWER: Duration = Duration::from_secs(2);

/// How long its session waits for the locks of others.
const LOCKED: Duration = Duration::from_secs(1);

/// How often the others try.
const TRY: Duration = Duration::from_millis(300);

/// See the module.
pub(in crate::store) struct Election {
    pub(super) server: Server,
    pub(super) sight: Arc<Sight>,
    pub(super) term: watch::Sender<Option<Term>>,
    /// Up to which epoch this node shall give up leading: it does not know what it has written.
    pub(super) give_up: watch::Receiver<i64>,
}

impl Election {
    /// Runs until nobody wants to know any more.
    pub(super) async fn run(self) {
        while !self.term.is_closed() {
            if let Err(error) = self.lead_once().await {
                tracing::debug!(%error, "the leader's lock was not asked for");
            }
            if self.term.send_replace(None).is_some() {
                tracing::info!("another node schedules from now on");
            }
            sleep(TRY).await;
        }
    }

    /// Waits for the lock, and holds it while all is well.
    async fn lead_once(&self) -> Result<(), StoreError> {
        let session = self.server.connect().await?;
        let failed = |error: tokio_postgres::Error| fault(&error);
        let bounds = format!(
            "SET idle_session_timeout = {}; SET lock_timeout = {}",
            SILENCE.as_millis(),
            LOCKED.as_millis()
        );
        session.batch_execute(&bounds).await.map_err(failed)?;
        loop {
            let asked = session.query_one_scalar("SELECT pg_try_advisory_lock($1)", &[&LOCK]);
            let asked = timeout(ANSWER, asked).await.map_err(|_| silent())?;
            if asked.map_err(failed)? {
                break;
            }
            if self.term.is_closed() {
                return Ok(());
            }
            sleep(TRY).await;
        }
        self.show(&session).await?;
        let epoch = self.begin(&session).await?;
        // All that the leaders before this one wrote: none of them can write any more.
        self.sight.now().await?;
        tracing::info!(epoch, "this node schedules from now on");
        self.term.send_replace(Some(Term(epoch)));
        let mut give_up = self.give_up.clone();
        loop {
            tokio::select! {
                () = sleep(BEAT) => {}
                _ = give_up.wait_for(|given_up| *given_up >= epoch) => return Ok(()),
                () = self.term.closed() => return Ok(()),
            }
            self.show(&session).await?;
        }
    }

    /// Shows that this node is there, and ends the transactions of those that are not: every commit
    /// waits for them.
    async fn show(&self, session: &Session) -> Result<(), StoreError> {
        timeout(ANSWER, end_hanging(session))
            .await
            .map_err(|_| silent())?
    }

    /// Begins a term.
    async fn begin(&self, session: &Session) -> Result<i64, StoreError> {
        let begun =
            session.query_one_scalar("UPDATE head SET epoch = epoch + 1 RETURNING epoch", &[]);
        let begun = timeout(ANSWER, begun).await.map_err(|_| silent())?;
        begun.map_err(|error| fault(&error))
    }
}
