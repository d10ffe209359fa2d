//! Where rows go: a running server, or the data directory of a stopped one.

use std::time::Duration;

use serde::Deserialize;

use super::batch::Batch;
use super::rejects::Reject;
use crate::cli::client::Client;
use crate::cli::{ClientArgs, Failure};
use crate::clock::Clock;

/// What became of a batch.
#[derive(Default)]
pub(super) struct Outcome {
    /// All of its rows.
    pub(super) rows: u64,
    /// Kept for the first time.
    pub(super) accepted: u64,
    /// Known before.
    pub(super) duplicates: u64,
    /// Not imported.
    pub(super) rejects: Vec<Reject>,
}

/// A server's answer.
#[derive(Deserialize)]
struct Answer {
    accepted: u64,
    duplicates: u64,
}

/// A running server.
pub(super) struct Server {
    client: Client,
    clock: Clock,
    retry_for: Duration,
}

impl Server {
    pub(super) fn new(args: &ClientArgs, clock: &Clock) -> Result<Self, Failure> {
        Ok(Self {
            client: Client::new(args)?,
            clock: clock.clone(),
            retry_for: args.retry_for,
        })
    }

    /// The server, for people and checkpoints.
    pub(super) fn name(&self) -> String {
        self.client.name().to_owned()
    }

    /// Sends a batch, without the rows that are refused.
    pub(super) async fn send(&self, mut batch: Batch) -> Result<Outcome, Failure> {
        let mut outcome = Outcome {
            rows: u64::try_from(batch.rows()).unwrap_or(0),
            ..Outcome::default()
        };
        // Each round but the last takes at least one row out, so they end.
        while let Some(body) = batch.body() {
            let sent = self
                .client
                .post_again("events/bulk", &body, self.retry_for, &self.clock)
                .await;
            match sent {
                Ok(text) => {
                    let answer: Answer = serde_json::from_str(&text).map_err(|_| {
                        Failure::Failed(format!(
                            "{} gives no counts: is it a Tollgate server?",
                            self.client.name()
                        ))
                    })?;
                    outcome.accepted = answer.accepted;
                    outcome.duplicates = answer.duplicates;
                    break;
                }
                Err(refusal) if batch.refuse(&refusal.offences) => {}
                Err(refusal) => return Err(refusal.into()),
            }
        }
        outcome.rejects = batch.rejects;
        Ok(outcome)
    }
}
