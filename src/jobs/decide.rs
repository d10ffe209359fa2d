//! What shall happen, as changes that nobody has seen yet: pure functions of the registry, what is
//! asked, and the time. Nothing here changes anything.

use std::collections::HashMap;

use super::heap::Ready;
use super::pace::Slot;
use super::processor::IdResult;
use super::registry::Registry;
use super::retry;
use crate::model::batch::{BatchRun, BatchStatus, IdFailure};
use crate::model::change::Change;
use crate::model::id::{BatchIndex, IngestionRef};
use crate::model::ingestion::{Ingestion, Progress};
use crate::model::queue::{QueueId, QueueSettings, RetryPolicy};
use crate::model::time::Timestamp;

/// The most ingestions that one pass expires; the rest follows in the next pass.
const EXPIRED_AT_ONCE: usize = 1000;

/// An attempt at a batch that has ended; or, of a batch that is given up, that its results are kept.
#[derive(Clone, Debug)]
pub(crate) struct Finished {
    pub(crate) ingestion: IngestionRef,
    pub(crate) batch: BatchIndex,
    /// One for each id that was due; none of a batch that is given up.
    pub(crate) results: Vec<IdResult>,
    /// When.
    pub(crate) at: Timestamp,
    /// In `0.0..1.0`, for the backoff.
    pub(crate) jitter: f64,
}

/// How many batches a submission would be split into.
pub(crate) fn batch_count(ids: usize, settings: &QueueSettings) -> u64 {
    ids.div_ceil(usize::from(settings.batch_size.get())) as u64
}

/// The batch at the top of the heap starts in `slot`.
pub(crate) fn start(ingestion: &Ingestion, next: Ready, slot: Slot) -> Change {
    let run = match ingestion.run(next.batch) {
        Some(run) => run.again(slot.wall),
        None => BatchRun::first(slot.wall),
    };
    Change::BatchMoved {
        ingestion: ingestion.key(),
        batch: next.batch,
        run,
    }
}

/// The ids of a batch that the next attempt has to process, with their positions.
pub(crate) fn due_ids(ingestion: &Ingestion, batch: BatchIndex) -> Vec<(u16, i64)> {
    let all = (0_u16..).zip(ingestion.ids_of(batch).iter().copied());
    match ingestion.run(batch) {
        Some(run) if !run.failures.is_empty() => all
            .filter(|(position, _)| {
                run.failures
                    .iter()
                    .any(|failure| failure.position == *position)
            })
            .collect(),
        _ => all.collect(),
    }
}

/// Attempts have ended: each batch completes, is given up, or waits to be tried again. One that is given up
/// fails for good once the results of what failed are kept: whoever schedules keeps them, and only after
/// this is committed, so nobody else has another attempt at it.
///
/// Attempts at what the registry does not have, and at batches that have ended, are passed over: another
/// node leads since they began, has made its own, and this one's term is over though it has not heard so.
pub(crate) fn finish(
    registry: &Registry,
    policy: &RetryPolicy,
    finished: &[Finished],
) -> Vec<Change> {
    let mut changes = Vec::with_capacity(finished.len() + 1);
    // Several batches of one ingestion may end together: the last of them ends the ingestion.
    let mut progress: HashMap<IngestionRef, Progress> = HashMap::new();
    for attempt in finished {
        let Some(ingestion) = registry.get(attempt.ingestion.id) else {
            continue;
        };
        let run = ingestion.run(attempt.batch);
        let Some(run) = run.filter(|run| !run.status.has_ended()) else {
            continue;
        };
        let run = if run.is_given_up() {
            BatchRun {
                status: BatchStatus::Failed,
                ..run.clone()
            }
        } else {
            ended_run(run, policy, attempt)
        };
        let has_ended = run.status.has_ended();
        changes.push(Change::BatchMoved {
            ingestion: attempt.ingestion,
            batch: attempt.batch,
            run,
        });
        let progress = progress
            .entry(attempt.ingestion)
            .or_insert_with(|| ingestion.progress());
        progress.triggered -= u32::from(has_ended);
        if has_ended && progress.waiting == 0 && progress.triggered == 0 {
            changes.push(Change::IngestionEnded {
                ingestion: attempt.ingestion,
                at: attempt.at,
            });
        }
    }
    changes
}

fn ended_run(run: &BatchRun, policy: &RetryPolicy, attempt: &Finished) -> BatchRun {
    let failed = attempt
        .results
        .iter()
        .filter_map(|result| Some((result.position, result.result.as_ref().err()?)));
    let failures: Vec<IdFailure> = failed
        .clone()
        .map(|(position, failure)| IdFailure::new(position, failure.reason.clone()))
        .collect();
    let ended = BatchRun {
        completed_at: Some(attempt.at),
        retry_at: None,
        failures,
        ..run.clone()
    };
    if ended.failures.is_empty() {
        return BatchRun {
            status: BatchStatus::Completed,
            ..ended
        };
    }
    let retry_after = failed.filter_map(|(_, failure)| failure.retry_after).max();
    match retry::backoff(policy, run.attempt, retry_after, attempt.jitter) {
        Some(wait) => BatchRun {
            completed_at: None,
            retry_at: Some(attempt.at.plus(wait)),
            ..ended
        },
        None => ended,
    }
}

/// Batches whose deadline has passed before they started expire.
pub(crate) fn expire(registry: &Registry, queue: QueueId, now: Timestamp) -> Vec<Change> {
    let mut changes = Vec::new();
    for ingestion in registry.overdue(queue, now, EXPIRED_AT_ONCE) {
        let key = ingestion.key();
        changes.push(Change::RestEnded {
            ingestion: key,
            status: BatchStatus::Expired,
            at: now,
        });
        if ingestion.progress().triggered == 0 {
            changes.push(Change::IngestionEnded {
                ingestion: key,
                at: now,
            });
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use uuid::Uuid;

    use super::*;
    use crate::model::id::{Arrival, IngestionId};
    use crate::model::priority::Priority;
    use crate::model::queue::QueueName;

    const AT: Timestamp = Timestamp::EPOCH;

    /// An ingestion of two batches, both started.
    fn two_that_run() -> (Registry, IngestionRef) {
        let mut registry = Registry::default();
        let configured = Change::QueueConfigured {
            queue: QueueId(0),
            name: QueueName::former(),
            last_slot: None,
        };
        registry.apply(configured).unwrap();
        registry.go_live();
        let ingestion = Ingestion {
            id: IngestionId::new(Uuid::from_u128(1)),
            arrival: Arrival(1),
            created_at: AT,
            ids: [1, 2].into(),
            extras: None,
            runs: None,
            queue: QueueId(0),
            batch_size: NonZeroU16::MIN,
            priority: Priority::Low,
        };
        let key = ingestion.key();
        let submitted = Change::Submitted {
            ingestion,
            idempotency: None,
        };
        registry.apply(submitted).unwrap();
        for batch in [0, 1].map(BatchIndex) {
            let started = Change::BatchMoved {
                ingestion: key,
                batch,
                run: BatchRun::first(AT),
            };
            registry.apply(started).unwrap();
        }
        (registry, key)
    }

    fn finished(ingestion: IngestionRef, batch: u32) -> Finished {
        Finished {
            ingestion,
            batch: BatchIndex(batch),
            results: Vec::new(),
            at: AT,
            jitter: 0.0,
        }
    }

    #[test]
    fn the_last_end_ends_the_ingestion_and_a_second_end_of_a_batch_is_none() {
        let (mut registry, key) = two_that_run();
        let policy = RetryPolicy::default();
        let first = finish(&registry, &policy, &[finished(key, 0)]);
        assert_eq!(first.len(), 1);
        for change in first {
            registry.apply(change).unwrap();
        }
        // Of another leader's: this one has not heard that its term is over.
        assert_eq!(finish(&registry, &policy, &[finished(key, 0)]), []);
        let last = finish(&registry, &policy, &[finished(key, 0), finished(key, 1)]);
        let ended = Change::IngestionEnded {
            ingestion: key,
            at: AT,
        };
        assert_eq!((last.len(), last.last()), (2, Some(&ended)));
        let unknown = IngestionRef {
            id: IngestionId::new(Uuid::from_u128(2)),
            ..key
        };
        assert_eq!(finish(&registry, &policy, &[finished(unknown, 0)]), []);
    }
}
