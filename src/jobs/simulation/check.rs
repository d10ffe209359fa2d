//! What must hold of a world after each step.

use std::time::Duration;

use super::naive::{self, Naive};
use super::world::World;
use crate::model::batch::BatchStatus;
use crate::model::id::BatchIndex;

impl World {
    /// Nothing starts: there must be a reason, and the wait must end when it does.
    pub(super) fn check_wait(&self, until: Option<Duration>) {
        if naive::next(&self.naive, self.now.wall).is_some() {
            let running = self.running.len() + self.given_up.len();
            let blocked = running >= self.settings.max_in_flight.get() as usize;
            let blocked = blocked || self.launching.is_some();
            let opens_at = self.scheduler.opens_at();
            assert!(
                blocked || opens_at > self.now.mono,
                "the slot is open and a batch is ready"
            );
            let paced = self.now.wall < self.paced_until;
            assert!(blocked || paced, "a slot went by without a start");
            assert!(
                blocked || until.is_some_and(|until| until <= opens_at),
                "sleeps past the slot"
            );
        }
        let due = self
            .naive
            .iter()
            .flat_map(|naive| &naive.batches)
            .filter_map(|batch| match batch {
                Naive::RetryAt(due) if *due > self.now.wall => Some(*due),
                _ => None,
            });
        if let Some(due) = due.min() {
            let latest = self.now.mono + due.since(self.now.wall);
            assert!(
                until.is_some_and(|until| until <= latest),
                "sleeps past a retry"
            );
        }
    }

    /// Statuses, counts and positions of everything.
    pub(super) fn check(&self) {
        let registry = self.registry.read();
        for (index, naive) in self.naive.iter().enumerate() {
            let Some(ingestion) = registry.get(naive.id) else {
                let ended = naive
                    .batches
                    .iter()
                    .all(|batch| matches!(batch, Naive::Ended(_)));
                assert!(ended, "arrival {} was lost", index + 1);
                continue;
            };
            assert_eq!(ingestion.ids.len() as i64, naive.ids);
            for (batch, expected) in (0..).map(BatchIndex).zip(&naive.batches) {
                let status = match expected {
                    Naive::Waiting => BatchStatus::YetToStart,
                    Naive::Running | Naive::Interrupted | Naive::RetryAt(_) | Naive::GivenUp => {
                        BatchStatus::Triggered
                    }
                    Naive::Ended(status) => *status,
                };
                assert_eq!(
                    ingestion.status_of(batch),
                    status,
                    "{batch:?} of arrival {}",
                    index + 1
                );
            }
            let all_ended = naive
                .batches
                .iter()
                .all(|batch| matches!(batch, Naive::Ended(_)));
            assert_eq!(ingestion.ended_at().is_some(), all_ended);
            assert_eq!(
                registry.position(naive.id),
                naive::position(&self.naive, index, self.looked_at),
                "position of arrival {}",
                index + 1
            );
        }
    }
}
