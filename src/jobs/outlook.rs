//! What is still to come for an ingestion: position, estimated end, and why it waits, in words.

use std::time::Duration;

use super::Outlook;
use super::registry::{Queue, Registry};
use crate::model::batch::BatchStatus;
use crate::model::id::BatchIndex;
use crate::model::ingestion::Ingestion;
use crate::model::queue::QueueSettings;
use crate::model::time::{Now, Timestamp};

/// What the estimate needs to know of a queue beside the registry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueuePace<'a> {
    pub(crate) settings: &'a QueueSettings,
    /// When its next slot opens, in monotonic time.
    pub(crate) opens_at: Duration,
    /// How long a run takes, by the runs so far.
    pub(crate) run: Duration,
}

/// The outlook of an ingestion that has not ended; `None` once it has.
pub(crate) fn outlook(
    registry: &Registry,
    ingestion: &Ingestion,
    pace: QueuePace<'_>,
    now: Now,
) -> Option<Outlook> {
    let queue = registry.queue(ingestion.queue)?;
    let progress = ingestion.progress();
    if progress.waiting == 0 && progress.triggered == 0 {
        return None;
    }
    let position = registry.position(ingestion.id);
    let retry = next_retry(ingestion).map(|(due, ..)| due.since(now.wall));
    let slot = first_slot(registry, queue, pace, now);
    // Own batches that need a slot: those that wait, and those that are tried again.
    let own = u64::from(progress.waiting + progress.triggered) - running_of(queue, ingestion);
    let eta = if own == 0 {
        pace.run.saturating_sub(running_for(ingestion, now.wall))
    } else {
        let slots = position.unwrap_or(0) + own - 1;
        let last_start = slot + step(pace).saturating_mul(u32::try_from(slots).unwrap_or(u32::MAX));
        last_start.max(retry.unwrap_or_default()) + pace.run
    };
    let waiting_reason = (own > 0).then(|| reason(queue, ingestion, position, pace, now));
    Some(Outlook {
        position,
        eta,
        waiting_reason,
    })
}

/// The time between two starts while batches wait.
fn step(pace: QueuePace<'_>) -> Duration {
    pace.settings
        .interval
        .max(pace.run / pace.settings.max_in_flight.get())
}

/// How long until the queue can start its next batch.
fn first_slot(registry: &Registry, queue: &Queue, pace: QueuePace<'_>, now: Now) -> Duration {
    let opens = pace.opens_at.saturating_sub(now.mono);
    if queue.running.len() < pace.settings.max_in_flight.get() as usize {
        return opens;
    }
    // At most `max_in_flight` of them; the one that started first is expected to end first.
    let running = queue.running.iter();
    let started =
        running.filter_map(|(id, batch)| Some(registry.get(*id)?.run(*batch)?.triggered_at));
    let since = started
        .min()
        .map_or(Duration::ZERO, |slot| now.wall.since(slot));
    opens.max(pace.run.saturating_sub(since))
}

fn running_of(queue: &Queue, ingestion: &Ingestion) -> u64 {
    // At most `max_in_flight` entries; without the filter the set would have to be kept twice.
    queue
        .running
        .iter()
        .filter(|(id, _)| *id == ingestion.id)
        .count() as u64
}

/// How long the latest batch has been running.
fn running_for(ingestion: &Ingestion, now: Timestamp) -> Duration {
    let started = ingestion
        .runs
        .iter()
        .flat_map(|runs| runs.started.iter().rev().take(64));
    let latest = started
        .filter(|run| run.status == BatchStatus::Triggered)
        .map(|run| run.triggered_at)
        .max();
    latest.map_or(Duration::ZERO, |at| now.since(at))
}

/// The first batch that is between two attempts, if it is among the latest few: when it is due,
/// which one, how often it was tried, and how many of its ids failed.
fn next_retry(ingestion: &Ingestion) -> Option<(Timestamp, BatchIndex, u32, usize)> {
    let started = &ingestion.runs.as_ref()?.started;
    let latest = started.iter().enumerate().rev().take(64);
    latest
        .filter_map(|(index, run)| {
            let batch = BatchIndex(u32::try_from(index).ok()?);
            Some((run.retry_at?, batch, run.attempt, run.failures.len()))
        })
        .min_by_key(|(due, ..)| *due)
}

fn reason(
    queue: &Queue,
    ingestion: &Ingestion,
    position: Option<u64>,
    pace: QueuePace<'_>,
    now: Now,
) -> String {
    let name = queue.name.as_str();
    match position {
        None => match next_retry(ingestion) {
            Some((due, batch, attempt, failed)) => {
                let (wait, batch) = (seconds(due.since(now.wall)), batch.batch_id());
                let ids = if failed == 1 {
                    "1 id"
                } else {
                    &format!("{failed} ids")
                };
                format!("{ids} of {batch} failed in attempt {attempt}: tried again in {wait}")
            }
            None => format!("waits for queue {name:?} to take it up again"),
        },
        Some(ahead) if ahead > 0 => {
            let batches = if ahead == 1 {
                "1 batch goes"
            } else {
                &format!("{ahead} batches go")
            };
            let every = seconds(pace.settings.interval);
            format!("{batches} first in queue {name:?}, which starts one every {every}")
        }
        Some(_) if queue.running.len() >= pace.settings.max_in_flight.get() as usize => {
            let running = queue.running.len();
            let batches = if running == 1 {
                "the running batch"
            } else {
                &format!("one of {running} running batches")
            };
            format!(
                "goes next in queue {name:?}, once {batches} has ended and the next slot is open"
            )
        }
        Some(_) => {
            let wait = seconds(pace.opens_at.saturating_sub(now.mono));
            format!("goes next in queue {name:?}: its next slot opens in {wait}")
        }
    }
}

/// `4.2 s`, `20 ms`: as people say it.
fn seconds(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        let text = format!("{:.1}", duration.as_secs_f64());
        format!("{} s", text.strip_suffix(".0").unwrap_or(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_say_them() {
        assert_eq!(seconds(Duration::from_millis(20)), "20 ms");
        assert_eq!(seconds(Duration::from_secs(5)), "5 s");
        assert_eq!(seconds(Duration::from_millis(4240)), "4.2 s");
    }
}
