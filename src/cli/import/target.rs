//! Where rows go: a running server, or the data directory of a stopped one.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::batch::Batch;
use super::rejects::Reject;
use crate::cli::client::{Client, Refusal};
use crate::cli::{Failure, ServerArgs, directory};
use crate::clock::Clock;
use crate::model::event::Receipt;
use crate::store::{Prepared, Store, StoreError};

/// What became of a batch.
#[derive(Default)]
pub(super) struct Outcome {
    /// All of its rows.
    pub(super) rows: u64,
    /// Kept for the first time.
    pub(super) accepted: u64,
    /// Known before.
    pub(super) duplicates: u64,
    /// Taken by the server's bus.
    pub(super) queued: u64,
    /// Not imported.
    pub(super) rejects: Vec<Reject>,
}

/// Where rows go.
#[derive(Clone)]
pub(super) enum Target {
    /// A running server.
    Server(Server),
    /// The store of a stopped one, opened here.
    Directory {
        /// It.
        store: Store,
        /// Its directory.
        name: String,
    },
}

/// A running server.
#[derive(Clone)]
pub(super) struct Server {
    client: Client,
    clock: Clock,
    retry_for: Duration,
}

/// A server's answer, or what the store said.
#[derive(Default, Deserialize)]
struct Answer {
    accepted: u64,
    duplicates: u64,
    #[serde(default)]
    queued: u64,
}

impl Target {
    /// The directory if one is given, else the server.
    pub(super) fn new(
        directory: Option<&Path>,
        args: &ServerArgs,
        clock: &Clock,
    ) -> Result<Self, Failure> {
        if let Some(directory) = directory {
            let store = directory::open(directory)?;
            // The same directory has one name, wherever the command is run.
            let name = std::fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
            let name = name.display().to_string();
            return Ok(Self::Directory { store, name });
        }
        Ok(Self::Server(Server {
            client: Client::new(args)?,
            clock: clock.clone(),
            retry_for: args.retry_for,
        }))
    }

    /// For people and checkpoints.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Server(server) => server.client.name(),
            Self::Directory { name, .. } => name,
        }
    }

    /// Imports a batch, without the rows that break a rule.
    pub(super) async fn send(&self, mut batch: Batch) -> Result<Outcome, Failure> {
        let rows = u64::try_from(batch.rows()).unwrap_or(0);
        let answer;
        (batch, answer) = match self {
            Self::Server(server) => server.send(batch).await?,
            Self::Directory { store, .. } => append(store.clone(), batch).await?,
        };
        Ok(Outcome {
            rows,
            accepted: answer.accepted,
            duplicates: answer.duplicates,
            queued: answer.queued,
            rejects: batch.rejects,
        })
    }

    /// Lets go of what it holds.
    pub(super) async fn close(&self) {
        if let Self::Directory { store, .. } = self {
            store.close().await;
        }
    }
}

impl Server {
    async fn send(&self, mut batch: Batch) -> Result<(Batch, Answer), Failure> {
        // Each round but the last takes at least one row out, so they end.
        while let Some(body) = batch.body() {
            let sent = self
                .client
                .post_again("events/bulk", &body, self.retry_for, &self.clock)
                .await;
            match sent {
                Ok(text) => {
                    let answer: Answer = serde_json::from_str(&text).map_err(|_| {
                        let server = self.client.name();
                        Failure::Failed(format!(
                            "{server} gives no counts: is it a Tollgate server?"
                        ))
                    })?;
                    return Ok((batch, answer));
                }
                Err(refusal) => {
                    batch = without_refused(batch, &body, refusal)?;
                }
            }
        }
        Ok((batch, Answer::default()))
    }
}

/// A server lists few offences at once, so all bad rows are looked for here, after the first of
/// them: rows that are good cost nothing.
///
/// Not on another thread: what one thread makes and another one frees, the allocator keeps for the
/// first, and a file of bad rows would take half as much memory again.
fn without_refused(mut batch: Batch, body: &[u8], refusal: Refusal) -> Result<Batch, Failure> {
    if refusal.passing {
        return Err(refusal.into());
    }
    let no_rule_is_broken = batch.check(body, |_| ()).is_some();
    // The server's rules may be stricter, being newer.
    if no_rule_is_broken && !batch.refuse_offences(&refusal.offences) {
        return Err(refusal.into());
    }
    Ok(batch)
}

/// Straight into a store.
async fn append(store: Store, batch: Batch) -> Result<(Batch, Answer), Failure> {
    let writer = store.clone();
    let (batch, prepared) = blocking(move || prepare(&store, batch)).await?;
    let Some(prepared) = prepared else {
        return Ok((batch, Answer::default()));
    };
    let receipts = writer.append(prepared).await;
    let receipts = receipts.map_err(|error| failed(&error))?;
    let accepted = receipts.iter().filter(|it| **it == Receipt::Accepted);
    let accepted = accepted.count();
    let count = |number: usize| u64::try_from(number).unwrap_or(0);
    let answer = Answer {
        accepted: count(accepted),
        duplicates: count(receipts.len() - accepted),
        queued: 0,
    };
    Ok((batch, answer))
}

/// `None` if no row is good.
fn prepare(store: &Store, mut batch: Batch) -> Result<(Batch, Option<Prepared>), Failure> {
    while let Some(body) = batch.body() {
        let prepared = batch.check(&body, |events| store.prepare(events, Vec::new()));
        if let Some(prepared) = prepared {
            let prepared = prepared.map_err(|error| failed(&error))?;
            return Ok((batch, Some(prepared)));
        }
    }
    Ok((batch, None))
}

fn failed(error: &StoreError) -> Failure {
    Failure::Failed(error.to_string())
}

/// Does what takes long where it holds up nobody.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Failure::Failed(error.to_string()))?
}
