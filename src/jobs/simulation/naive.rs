//! The naive model: plain lists of what was submitted, and plain loops over them.

use crate::model::batch::BatchStatus;
use crate::model::id::{BatchIndex, IngestionId};
use crate::model::ingestion::Ingestion;
use crate::model::priority::Priority;
use crate::model::time::Timestamp;

/// A batch in the naive model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Naive {
    Waiting,
    Running,
    /// Was running when the process died.
    Interrupted,
    RetryAt(Timestamp),
    GivenUp,
    Ended(BatchStatus),
}

impl Naive {
    fn can_start(self, now: Timestamp) -> bool {
        match self {
            Self::Waiting | Self::Interrupted => true,
            Self::RetryAt(due) => due <= now,
            Self::Running | Self::GivenUp | Self::Ended(_) => false,
        }
    }
}

#[derive(Debug)]
pub(super) struct NaiveIngestion {
    pub(super) id: IngestionId,
    priority: Priority,
    deadline: Option<Timestamp>,
    pub(super) ids: i64,
    pub(super) batches: Vec<Naive>,
    pub(super) attempts: Vec<u32>,
    /// Which ids of a batch the next attempt is about.
    pub(super) due: Vec<Vec<u16>>,
}

impl NaiveIngestion {
    pub(super) fn new(ingestion: &Ingestion) -> Self {
        let count = ingestion.batch_count();
        let due = |batch| (0..ingestion.ids_of(BatchIndex(batch)).len() as u16).collect();
        Self {
            id: ingestion.id,
            priority: ingestion.priority,
            deadline: ingestion.deadline(),
            ids: ingestion.ids.len() as i64,
            batches: vec![Naive::Waiting; count as usize],
            attempts: vec![0; count as usize],
            due: (0..count).map(due).collect(),
        }
    }

    pub(super) fn started(&mut self, batch: usize) {
        self.attempts[batch] += 1;
        self.batches[batch] = Naive::Running;
    }

    /// An attempt ended in which the ids at `failing` failed; `backoff` says when the next one after
    /// so many is due.
    pub(super) fn ended(
        &mut self,
        batch: usize,
        failing: Vec<u16>,
        backoff: impl Fn(u32) -> Option<Timestamp>,
    ) {
        self.batches[batch] = if failing.is_empty() {
            Naive::Ended(BatchStatus::Completed)
        } else {
            self.due[batch] = failing;
            match backoff(self.attempts[batch]) {
                Some(at) => Naive::RetryAt(at),
                None => Naive::GivenUp,
            }
        };
    }
}

/// The process dies.
pub(super) fn interrupt(all: &mut [NaiveIngestion]) {
    for batch in all.iter_mut().flat_map(|naive| &mut naive.batches) {
        if *batch == Naive::Running {
            *batch = Naive::Interrupted;
        }
    }
}

/// Deadlines are kept.
pub(super) fn expire(all: &mut [NaiveIngestion], now: Timestamp) {
    let overdue = |naive: &&mut NaiveIngestion| naive.deadline.is_some_and(|at| at <= now);
    for batch in all
        .iter_mut()
        .filter(overdue)
        .flat_map(|naive| &mut naive.batches)
    {
        if *batch == Naive::Waiting {
            *batch = Naive::Ended(BatchStatus::Expired);
        }
    }
}

/// The batch that plain loops would start now: the index of its ingestion, and its own.
pub(super) fn next(all: &[NaiveIngestion], now: Timestamp) -> Option<(usize, usize)> {
    for priority in Priority::ALL {
        for (index, naive) in all
            .iter()
            .enumerate()
            .filter(|(_, naive)| naive.priority == priority)
        {
            if let Some(batch) = naive.batches.iter().position(|batch| batch.can_start(now)) {
                return Some((index, batch));
            }
        }
    }
    None
}

/// How many batches go before the next one of an ingestion.
pub(super) fn position(all: &[NaiveIngestion], index: usize, now: Timestamp) -> Option<u64> {
    let startable = |naive: &NaiveIngestion| {
        let batches = naive.batches.iter();
        batches.filter(|batch| batch.can_start(now)).count() as u64
    };
    let own = &all[index];
    if startable(own) == 0 {
        return None;
    }
    let ahead = all.iter().enumerate().filter(|(other, naive)| {
        naive.priority > own.priority || (naive.priority == own.priority && *other < index)
    });
    Some(ahead.map(|(_, naive)| startable(naive)).sum())
}
