//! The store that several nodes share: PostgreSQL is the truth.
//!
//! ```text
//!           submissions        ┌───────── writer ──── one transaction ───▶ PostgreSQL
//! callers ──starts, ends──────▶│              │ own changes               │    │
//!                              │              ▼                           │    │ NOTIFY
//!         ◀────answered────────┴────────── follower ◀─ others' changes ───┘◀───┘
//!                                             │ apply
//!                                             ▼
//!                                          registry
//! ```
//!
//! Every node has the whole registry in memory and can answer everything. Whatever is acknowledged is
//! committed first, in one order that all nodes follow (`change`). Who asks a node waits until it has
//! seen all that was committed before (see [`follow`]), so a 200 from one node is seen on every other
//! at the next request. One node schedules (see [`lead`]).

mod change;
mod connect;
mod events;
mod follow;
mod history;
mod lead;
mod load;
mod rows;
mod schema;
pub(super) mod target;
mod time;
mod tls;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use uuid::Uuid;

use self::connect::{Readers, Server, fault, silent};
use self::events::EventState;
pub(super) use self::events::Prepared;
use self::follow::{Follower, Sight};
use self::lead::Election;
use self::time::At;
use self::writer::{Commit, Writer};
use super::error::{OpenError, StoreError};
use super::{KeptAnswer, Room, SharedSettings, StoreState, Term};
use crate::clock::Clock;
use crate::model::change::Change;
use crate::model::id::IngestionId;
use crate::model::ingestion::Ingestion;
use crate::model::time::Timestamp;

/// How many commits wait for the writer.
const QUEUE: usize = 4096;

/// Their weight, in KiB of ids.
const WEIGHT: usize = 256 * 1024;

/// How many commits of this node wait to be applied.
const APPLY: usize = 64;

/// The most rows that one prune removes.
const PRUNED: i64 = 4_096;

/// How many short reads go on at once: of one ingestion, event, answer.
const READERS: usize = 8;

/// How many pages of events are read at once. One may take long, so they have connections of their own.
const PAGES: usize = 8;

/// How often the server is tried at the start while it does not answer.
const TRIES: u32 = 5;

/// How long the rows of `change` remain for the nodes that follow.
const FOLLOWED_FOR: &str = "1 hour";

/// The callers' side.
pub(super) struct Postgres {
    readers: Readers,
    pages: Readers,
    sight: Arc<Sight>,
    events: EventState,
    /// Gone once the store is closing.
    commits: Mutex<Option<mpsc::Sender<Commit>>>,
    weight: Arc<Semaphore>,
    term: watch::Receiver<Option<Term>>,
    give_up: watch::Sender<i64>,
    trouble: Arc<watch::Sender<Option<StoreError>>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    election: Mutex<Option<JoinHandle<()>>>,
}

impl Postgres {
    /// Opens it; this process may schedule once it stands for [`Self::elect`].
    pub(super) async fn open(
        settings: &SharedSettings,
        clock: Clock,
        mut apply: impl FnMut(Vec<Change>) + Send + 'static,
    ) -> Result<(Self, Election), OpenError> {
        let server = Server::parse(&settings.url)?;
        let place = server.place();
        let refuse = |error: StoreError| OpenError(format!("PostgreSQL at {place}: {error}"));
        let mut tries = 1;
        let session = loop {
            match server.connect().await {
                Err(error) if error == silent() && tries < TRIES => tries += 1,
                connected => break connected.map_err(refuse)?,
            }
        };
        schema::migrate(&session, &server).await?;
        target::refuse_unfinished(&session, &place).await?;
        let seen = load::replay(&session, &mut apply).await.map_err(refuse)?;
        let sight = Arc::new(Sight::new());
        let events = EventState::open(settings, &server, &session, Arc::clone(&sight)).await?;
        drop(session);
        let (sender, commits) = mpsc::channel(QUEUE);
        let (follower, own) = mpsc::channel(APPLY);
        let trouble = Arc::new(watch::Sender::new(None));
        let (term_sender, term) = watch::channel(None);
        let give_up = watch::Sender::new(0);
        let writer = Writer {
            server: server.clone(),
            commits,
            follower,
            trouble: Arc::clone(&trouble),
        };
        let follower = Follower {
            server: server.clone(),
            sight: Arc::clone(&sight),
            own,
            seen,
            clock,
            apply,
        };
        let election = Election {
            server: server.clone(),
            sight: Arc::clone(&sight),
            term: term_sender,
            give_up: give_up.subscribe(),
        };
        let tasks = vec![tokio::spawn(writer.run()), tokio::spawn(follower.run())];
        let store = Self {
            readers: Readers::new(server.clone(), READERS),
            pages: Readers::new(server, PAGES),
            sight,
            events,
            commits: Mutex::new(Some(sender)),
            weight: Arc::new(Semaphore::new(WEIGHT)),
            term,
            give_up,
            trouble,
            tasks: Mutex::new(tasks),
            election: Mutex::new(None),
        };
        // The clock follows the database from here on.
        store.sync().await.map_err(refuse)?;
        Ok((store, election))
    }

    /// From here on this process schedules when no other one does.
    pub(super) fn elect(&self, election: Election) {
        *self.election.lock() = Some(tokio::spawn(election.run()));
    }

    pub(super) async fn sync(&self) -> Result<(), StoreError> {
        self.sight.now().await
    }

    pub(super) fn term(&self) -> watch::Receiver<Option<Term>> {
        self.term.clone()
    }

    pub(super) async fn confirm(&self, term: Term) -> Result<(), StoreError> {
        let reader = self.readers.get().await?;
        let epoch = reader
            .session()?
            .query_one_scalar("SELECT epoch FROM head", &[])
            .await;
        match epoch.map_err(|error| fault(&error))? {
            epoch if Term(epoch) == term => Ok(()),
            _ => Err(StoreError::Deposed),
        }
    }

    pub(super) async fn commit(
        &self,
        leader: Option<Term>,
        changes: Vec<Change>,
        room: Option<Room>,
    ) -> Result<(), StoreError> {
        let weight: usize = changes.iter().map(weight_of).sum();
        let weight = u32::try_from(weight.min(WEIGHT)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.weight).try_acquire_many_owned(weight);
        let permit = permit.map_err(|_| StoreError::Busy)?;
        let (reply, answer) = oneshot::channel();
        let commit = Commit {
            changes,
            leader: leader.map(|term| term.0),
            room,
            reply,
            _weight: permit,
        };
        match &*self.commits.lock() {
            None => return Err(StoreError::Closed),
            Some(commits) => commits.try_send(commit).map_err(|_| StoreError::Busy)?,
        }
        let done = answer.await.unwrap_or(Err(StoreError::Closed));
        if let Some(Term(epoch)) = leader
            && matches!(done, Err(StoreError::Away(_) | StoreError::Deposed))
        {
            // What this leader has written can't be told: the next one finds out.
            self.give_up
                .send_modify(|given_up| *given_up = epoch.max(*given_up));
        }
        done
    }

    pub(super) async fn ended(&self, id: IngestionId) -> Result<Option<Ingestion>, StoreError> {
        let reader = self.readers.get().await?;
        load::find(reader.session()?, id).await
    }

    pub(super) async fn kept_answer(
        &self,
        key: u128,
        now: Timestamp,
    ) -> Result<Option<KeptAnswer>, StoreError> {
        let reader = self.readers.get().await?;
        let row = reader
            .session()?
            .query_opt(
                "SELECT body, ingestion FROM kept_answer WHERE key = $1 AND expires_at > $2",
                &[&Uuid::from_u128(key), &At(now)],
            )
            .await
            .map_err(|error| fault(&error))?;
        let Some(row) = row else { return Ok(None) };
        let (body, ingestion): (Uuid, Uuid) = (
            row.try_get(0).map_err(|error| fault(&error))?,
            row.try_get(1).map_err(|error| fault(&error))?,
        );
        Ok(Some(KeptAnswer {
            body: body.as_u128(),
            ingestion: IngestionId::new(ingestion),
        }))
    }

    pub(super) async fn prune(
        &self,
        ended_before: Timestamp,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let reader = self.readers.get().await?;
        let session = reader.session()?;
        let failed = |error: tokio_postgres::Error| fault(&error);
        // From the oldest on: only what goes is looked at.
        let trim = format!(
            "DELETE FROM change WHERE number < coalesce(
                 (SELECT number FROM change WHERE at >= now() - '{FOLLOWED_FOR}'::interval
                  ORDER BY number LIMIT 1),
                 (SELECT change FROM head))"
        );
        session.batch_execute(&trim).await.map_err(failed)?;
        let keys = session
            .execute(
                "DELETE FROM kept_answer WHERE key IN
                     (SELECT key FROM kept_answer WHERE expires_at <= $1
                      ORDER BY expires_at LIMIT $2)",
                &[&At(now), &PRUNED],
            )
            .await
            .map_err(failed)?;
        let ingestions = session
            .query_one_scalar::<i64, _>(
                "WITH gone AS (
                     DELETE FROM ingestion WHERE arrival IN
                         (SELECT arrival FROM ingestion WHERE ended_at < $1
                          ORDER BY ended_at LIMIT $2)
                     RETURNING arrival),
                 runs AS (DELETE FROM run USING gone WHERE run.arrival = gone.arrival)
                 SELECT count(*) FROM gone",
                &[&At(ended_before), &PRUNED],
            )
            .await
            .map_err(failed)?;
        Ok(keys + ingestions.cast_unsigned())
    }

    /// Returns once this process can't go on, and a new start can.
    pub(super) async fn failed(&self) -> String {
        self.sight.failed().await
    }

    pub(super) fn state(&self) -> StoreState {
        match (self.sight.trouble(), &*self.trouble.borrow()) {
            (Some(StoreError::Failed(sentence)), _) => StoreState::Failed(sentence),
            (Some(error), _) => StoreState::Away(error.to_string()),
            (None, Some(StoreError::Full)) => StoreState::Full,
            // What went wrong with the last commit is over.
            (None, _) => StoreState::Ok,
        }
    }

    pub(super) async fn close(&self) {
        self.commits.lock().take();
        self.readers.close();
        self.pages.close();
        self.events.close().await;
        // The lock goes first, so that another node takes over at once.
        let election = self.election.lock().take();
        if let Some(election) = election {
            election.abort();
            let _ = election.await;
        }
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            let _ = timeout(Duration::from_secs(10), task).await;
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(election) = self.election.get_mut().take() {
            election.abort();
        }
        // The others end with what they wait for.
    }
}

/// What a change weighs in the writer's queue, in KiB.
fn weight_of(change: &Change) -> usize {
    match change {
        Change::Submitted { ingestion, .. } => 1 + ingestion.ids.len() / 128,
        _ => 1,
    }
}
