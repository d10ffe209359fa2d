//! Questions about events, and their exact answers.
//!
//! A question is put to the rollups. Where those don't know enough (a segment by a property, a
//! boundary within a minute, a bound of theirs that was passed), it is put to rollups that are made for
//! it alone, from the events it is about: the same code answers.

use std::sync::Arc;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use thiserror::Error;

use crate::clock::Clock;
use crate::model::event::{EventTime, Sequence};
use crate::model::time::Timestamp;
pub use crate::rollups::{Active, Bucket, BucketSize, Cohort, TopType, WindowType};
use crate::rollups::{Filter, Rollups, Span, Unanswered};
use crate::store::{Store, StoreError};

/// Which events a question is about. All that is named must hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scope {
    /// Those of this tenant; of all if `None`.
    pub tenant: Option<String>,
    /// Those of this source.
    pub source: Option<String>,
    /// Those of each of these segments.
    pub segments: Vec<Segment>,
}

/// A part of the events.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Segment {
    /// Those of a type.
    EventType(String),
    /// Those whose payload has a scalar of this text at this path.
    Property {
        /// The keys that lead there.
        path: Vec<String>,
        /// The text of the scalar: a string without its quotes; a number, `true`, `false` or `null` as
        /// in JSON.
        value: String,
    },
}

/// Why there is no answer.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum AnalyticsError {
    /// The events themselves must be read, and there are too many.
    #[error("more than {limit} events would have to be read")]
    TooBroad {
        /// The most that are read for an answer.
        limit: u64,
    },
    /// A date lies beyond what the calendar knows.
    #[error("the range goes beyond the calendar")]
    Range,
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Until when a question is answered with what it was answered before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Version {
    /// The last event that is counted.
    pub last: Sequence,
}

/// The handle to all analytics. Cheap to clone.
#[derive(Clone)]
pub struct Analytics {
    store: Store,
    clock: Clock,
}

/// Half open; each end may be missing.
pub type TimeRange = (Option<EventTime>, Option<EventTime>);

impl Analytics {
    /// Of the events in `store`.
    #[must_use]
    pub fn new(store: Store, clock: Clock) -> Self {
        Self { store, clock }
    }

    /// The version of the answer to any question that is put now.
    #[must_use]
    pub fn version(&self) -> Version {
        Version {
            last: *self.store.last_event().borrow(),
        }
    }

    /// The time: what an answer that is computed now is an answer as of.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now().wall
    }

    /// The buckets with events in `range`, ascending.
    pub async fn buckets(
        &self,
        scope: Scope,
        range: TimeRange,
        size: BucketSize,
        zone: TimeZone,
    ) -> Result<Vec<Bucket>, AnalyticsError> {
        let ask = move |rollups: &Rollups, filter: &Filter| {
            rollups.buckets(filter, Span::new(range.0, range.1)?, size, &zone)
        };
        self.ask(scope, ask).await
    }

    /// For each date from `first` to `last`, both included, the users that were active on the `days`
    /// days that end with it.
    pub async fn active_users(
        &self,
        scope: Scope,
        dates: (Date, Date),
        days: u16,
        zone: TimeZone,
    ) -> Result<Vec<Active>, AnalyticsError> {
        let ask = move |rollups: &Rollups, filter: &Filter| {
            rollups.active_users(filter, dates, days, &zone)
        };
        self.ask(scope, ask).await
    }

    /// The `limit` types with the most events in `range`.
    pub async fn top_types(
        &self,
        scope: Scope,
        range: TimeRange,
        limit: usize,
    ) -> Result<Vec<TopType>, AnalyticsError> {
        let ask = move |rollups: &Rollups, filter: &Filter| {
            rollups.top_types(filter, Span::new(range.0, range.1)?, limit)
        };
        self.ask(scope, ask).await
    }

    /// The cohorts of `windows` windows from `start`, as of now.
    pub async fn retention(
        &self,
        scope: Scope,
        start: Date,
        windows: u16,
        window_type: WindowType,
        zone: TimeZone,
    ) -> Result<Vec<Cohort>, AnalyticsError> {
        let now = self.now();
        let ask = move |rollups: &Rollups, filter: &Filter| {
            rollups.retention(filter, start, windows, window_type, (&zone, now))
        };
        self.ask(scope, ask).await
    }

    /// Puts a question to the rollups.
    async fn ask<T: Send + 'static>(
        &self,
        scope: Scope,
        question: impl Fn(&Rollups, &Filter) -> Result<T, Unanswered> + Send + Sync + 'static,
    ) -> Result<T, AnalyticsError> {
        let filter = filter_of(&scope);
        let question = Arc::new(question);
        let answered = self
            .store
            .rollups(move |rollups| question(rollups, &filter))
            .await?;
        answered.map_err(|_| AnalyticsError::Range)
    }
}

fn filter_of(scope: &Scope) -> Filter {
    let types = scope.segments.iter().filter_map(|segment| match segment {
        Segment::EventType(name) => Some(name.clone()),
        Segment::Property { .. } => None,
    });
    Filter {
        tenant: scope.tenant.clone(),
        source: scope.source.clone(),
        event_types: types.collect(),
    }
}
