//! Changes as the nodes tell them to each other: a row of the table `change` each, as JSON.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::batch::{BatchRun, BatchStatus, IdFailure};
use crate::model::change::Change;
use crate::model::id::{Arrival, BatchIndex, IngestionId, IngestionRef};
use crate::model::queue::{QueueId, QueueName};
use crate::model::time::Timestamp;

/// The body of a row. Times are microseconds since the Unix epoch.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Body {
    QueueConfigured {
        queue: u16,
        name: QueueName,
        last_slot: Option<i64>,
    },
    /// The next ingestion in the order of arrival: the rest of it is in its own table.
    Submitted {},
    SlotTaken {
        queue: u16,
        at: i64,
    },
    BatchMoved {
        arrival: u64,
        id: Uuid,
        batch: u32,
        run: Run,
    },
    RestEnded {
        arrival: u64,
        id: Uuid,
        status: u8,
        at: i64,
    },
    IngestionEnded {
        arrival: u64,
        id: Uuid,
        at: i64,
    },
}

#[derive(Serialize, Deserialize)]
struct Run {
    status: u8,
    attempt: u32,
    first: i64,
    at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    completed: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry: Option<i64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    failures: Vec<(u16, String)>,
}

/// What a row tells.
pub(super) enum Told {
    /// The next ingestion in the order of arrival.
    Submitted,
    /// All of it.
    Whole(Change),
}

/// The body of the row of `change`.
pub(super) fn encode(change: &Change) -> String {
    let body = match change {
        Change::QueueConfigured {
            queue,
            name,
            last_slot,
        } => Body::QueueConfigured {
            queue: queue.0,
            name: name.clone(),
            last_slot: last_slot.map(Timestamp::as_micros),
        },
        Change::Submitted { .. } => Body::Submitted {},
        Change::SlotTaken { queue, at } => Body::SlotTaken {
            queue: queue.0,
            at: at.as_micros(),
        },
        Change::BatchMoved {
            ingestion,
            batch,
            run,
        } => Body::BatchMoved {
            arrival: ingestion.arrival.0,
            id: ingestion.id.uuid(),
            batch: batch.0,
            run: Run::of(run),
        },
        Change::RestEnded {
            ingestion,
            status,
            at,
        } => Body::RestEnded {
            arrival: ingestion.arrival.0,
            id: ingestion.id.uuid(),
            status: status.code(),
            at: at.as_micros(),
        },
        Change::IngestionEnded { ingestion, at } => Body::IngestionEnded {
            arrival: ingestion.arrival.0,
            id: ingestion.id.uuid(),
            at: at.as_micros(),
        },
    };
    // Numbers and texts: nothing in it can fail.
    serde_json::to_string(&body).unwrap_or_default()
}

/// The inverse; `None` if nothing can have written this.
pub(super) fn decode(body: &str) -> Option<Told> {
    let key = |arrival, id| IngestionRef {
        id: IngestionId::new(id),
        arrival: Arrival(arrival),
    };
    let change = match serde_json::from_str(body).ok()? {
        Body::QueueConfigured {
            queue,
            name,
            last_slot,
        } => Change::QueueConfigured {
            queue: QueueId(queue),
            name,
            last_slot: last_slot.map(Timestamp::from_micros),
        },
        Body::Submitted {} => return Some(Told::Submitted),
        Body::SlotTaken { queue, at } => Change::SlotTaken {
            queue: QueueId(queue),
            at: Timestamp::from_micros(at),
        },
        Body::BatchMoved {
            arrival,
            id,
            batch,
            run,
        } => Change::BatchMoved {
            ingestion: key(arrival, id),
            batch: BatchIndex(batch),
            run: run.whole()?,
        },
        Body::RestEnded {
            arrival,
            id,
            status,
            at,
        } => Change::RestEnded {
            ingestion: key(arrival, id),
            status: BatchStatus::from_code(status)?,
            at: Timestamp::from_micros(at),
        },
        Body::IngestionEnded { arrival, id, at } => Change::IngestionEnded {
            ingestion: key(arrival, id),
            at: Timestamp::from_micros(at),
        },
    };
    Some(Told::Whole(change))
}

impl Run {
    fn of(run: &BatchRun) -> Self {
        let failures = run.failures.iter();
        Self {
            status: run.status.code(),
            attempt: run.attempt,
            first: run.first_triggered_at.as_micros(),
            at: run.triggered_at.as_micros(),
            completed: run.completed_at.map(Timestamp::as_micros),
            retry: run.retry_at.map(Timestamp::as_micros),
            failures: failures
                .map(|it| (it.position, it.reason.clone()))
                .collect(),
        }
    }

    fn whole(self) -> Option<BatchRun> {
        let failures = self.failures.into_iter();
        Some(BatchRun {
            status: BatchStatus::from_code(self.status)?,
            attempt: self.attempt,
            first_triggered_at: Timestamp::from_micros(self.first),
            triggered_at: Timestamp::from_micros(self.at),
            completed_at: self.completed.map(Timestamp::from_micros),
            retry_at: self.retry.map(Timestamp::from_micros),
            failures: failures
                .map(|(position, reason)| IdFailure { position, reason })
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> BatchRun {
        BatchRun {
            status: BatchStatus::Triggered,
            attempt: 3,
            first_triggered_at: Timestamp::from_micros(-1),
            triggered_at: Timestamp::from_micros(2),
            completed_at: None,
            retry_at: Some(Timestamp::from_micros(9)),
            failures: vec![IdFailure::new(1, "said \"no\"\n".to_owned())],
        }
    }

    #[test]
    fn every_change_comes_back_as_it_was() {
        let ingestion = IngestionRef {
            id: IngestionId::new(Uuid::from_u128(7)),
            arrival: Arrival(u64::MAX),
        };
        let at = Timestamp::from_micros(5);
        let name = QueueName::try_from("default".to_owned()).unwrap();
        let changes = [
            Change::QueueConfigured {
                queue: QueueId(1),
                name,
                last_slot: Some(at),
            },
            Change::SlotTaken {
                queue: QueueId(1),
                at,
            },
            Change::BatchMoved {
                ingestion,
                batch: BatchIndex(4),
                run: run(),
            },
            Change::RestEnded {
                ingestion,
                status: BatchStatus::Expired,
                at,
            },
            Change::IngestionEnded { ingestion, at },
        ];
        for change in changes {
            match decode(&encode(&change)) {
                Some(Told::Whole(again)) => assert_eq!(again, change),
                _ => panic!("{change:?}"),
            }
        }
    }

    #[test]
    fn what_nobody_wrote_is_nothing() {
        for body in ["", "{}", "{\"slot_taken\":{}}", "[1]", "{\"unknown\":{}}"] {
            assert!(decode(body).is_none(), "{body}");
        }
    }
}
