//! The disk of a simulation, in the plainest form.

use std::collections::BTreeMap;

use crate::model::change::Change;
use crate::model::id::{Arrival, BatchIndex};
use crate::model::ingestion::Ingestion;
use crate::model::queue::QueueName;
use crate::model::time::Timestamp;

use super::QUEUE;

/// What the store would hold: folded from the committed changes in the plainest way.
#[derive(Default)]
pub(super) struct Disk {
    pub(super) last_slot: Option<Timestamp>,
    live: BTreeMap<Arrival, Ingestion>,
}

impl Disk {
    pub(super) fn commit(&mut self, change: &Change) {
        match change {
            Change::Submitted { ingestion, .. } => {
                self.live.insert(ingestion.arrival, ingestion.clone());
            }
            Change::SlotTaken { at, .. } => self.last_slot = Some(*at),
            Change::BatchMoved {
                ingestion,
                batch,
                run,
            } => {
                self.live
                    .get_mut(&ingestion.arrival)
                    .unwrap()
                    .set_run(*batch, run.clone());
            }
            Change::RestEnded {
                ingestion,
                status,
                at,
            } => {
                self.live
                    .get_mut(&ingestion.arrival)
                    .unwrap()
                    .give_up_rest(*status, *at);
            }
            Change::IngestionEnded { ingestion, .. } => {
                self.live.remove(&ingestion.arrival);
            }
            Change::QueueConfigured { .. } => {}
        }
    }

    /// As `Store::open` replays.
    pub(super) fn replay(&self) -> Vec<Change> {
        let name = QueueName::try_from("default".to_owned()).unwrap();
        let mut changes = vec![Change::QueueConfigured {
            queue: QUEUE,
            name,
            last_slot: self.last_slot,
        }];
        for ingestion in self.live.values() {
            let submitted = Ingestion {
                runs: None,
                ..ingestion.clone()
            };
            changes.push(Change::Submitted {
                ingestion: submitted,
                idempotency: None,
            });
            let runs = ingestion.runs.as_deref();
            for (batch, run) in (0..)
                .map(BatchIndex)
                .zip(runs.iter().flat_map(|runs| &runs.started))
            {
                changes.push(Change::BatchMoved {
                    ingestion: ingestion.key(),
                    batch,
                    run: run.clone(),
                });
            }
            if let Some((status, at)) = runs.and_then(|runs| runs.rest) {
                changes.push(Change::RestEnded {
                    ingestion: ingestion.key(),
                    status,
                    at,
                });
            }
        }
        changes
    }
}
