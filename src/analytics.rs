//! Questions about events, and their exact answers.
//!
//! A question is put to the rollups. Where those don't know enough (a segment by a property, a
//! boundary within a minute, a zone with seconds in its offset, a bound of theirs that was passed),
//! it is put to rollups that are made for it alone, from the events it is about: the same code
//! answers. That reads events, so there is a limit. Of events that are gone from the store (erased,
//! or moved to the cold tier) that reads what remains, as the rollups do; an answer that would need
//! the payload of one is refused.

mod from_events;
mod number;
mod pieces;
mod property;
mod segment;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use thiserror::Error;

use self::from_events::{About, Names};
use self::pieces::{Pieces, now_among_dates, plus_days, start_of};
pub use self::segment::{Segment, SegmentPath};
use crate::clock::Clock;
use crate::model::event::{EventTime, Sequence};
use crate::model::time::Timestamp;
pub use crate::rollups::{Active, Bucket, BucketSize, Cohort, TopType, WindowType};
use crate::rollups::{Filter, Rollups, Span, Unanswered};
use crate::store::{Store, StoreError};

/// The most events that are read for an answer.
const MAX_READ: u64 = 5_000_000;

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

/// Why there is no answer.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum AnalyticsError {
    /// The events themselves must be read, and there are too many.
    #[error(
        "more than {limit} {of} would have to be read for this answer: name a tenant_id, or ask for \
         less time"
    )]
    TooBroad {
        /// The most that there may be for an answer.
        limit: u64,
        /// Of what there are too many.
        of: &'static str,
    },
    /// The payloads of events must be read, and some of those are gone from the store.
    #[error(
        "events that this answer needs are gone from the store, erased or moved to the cold tier, the \
         last of them at {last}: {}, or leave out segments by a property",
        if *.cohorts { "cohorts need all events from the first one on" } else { "ask for later times" }
    )]
    EventsGone {
        /// When the last of them occurred.
        last: EventTime,
        /// Whether the answer needs everything from the first event on.
        cohorts: bool,
    },
    /// A date lies beyond what the calendar knows.
    #[error("the range goes beyond the calendar")]
    Range,
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Until when a question is answered with what it was answered before: answers of one version
/// differ by the time at which they were asked for at the most.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Version {
    /// The last event that is counted.
    pub last: Sequence,
    /// How often events were erased.
    pub erasures: u64,
}

/// A value of a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentValue {
    /// The type, or the text of the scalar. Numbers of one value are one.
    pub value: String,
    /// Its events.
    pub count: u64,
    /// Whose they are.
    pub unique_users: u64,
}

/// The values of a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentValues {
    /// By count, descending, then by text.
    pub values: Vec<SegmentValue>,
    /// Whether there are others: more than asked for, more than are told apart, or ones longer than
    /// 256 bytes.
    pub truncated: bool,
}

/// The handle to all analytics. Cheap to clone.
#[derive(Clone)]
pub struct Analytics {
    store: Store,
    clock: Clock,
    max_read: u64,
}

/// Half open; each end may be missing.
pub type TimeRange = (Option<EventTime>, Option<EventTime>);

impl Analytics {
    /// Of the events in `store`.
    #[must_use]
    pub fn new(store: Store, clock: Clock) -> Self {
        Self {
            store,
            clock,
            max_read: MAX_READ,
        }
    }

    /// The same, where at most `events` are read for an answer.
    #[must_use]
    pub fn reading_at_most(self, events: u64) -> Self {
        Self {
            max_read: events,
            ..self
        }
    }

    /// The version of the answer to any question that is put now. Ask before the question: then the
    /// answer is of this version or of a later one.
    pub async fn version(&self) -> Result<Version, StoreError> {
        self.store.sync().await?;
        Ok(Version {
            last: *self.store.last_event().borrow(),
            erasures: self.store.erasures(),
        })
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
        let pieces = Pieces::buckets(size, zone.clone());
        let ask = move |rollups: &Rollups, filter: &Filter| {
            rollups.buckets(filter, Span::new(range.0, range.1)?, size, &zone)
        };
        if let Some(answer) = self.ask(&scope, ask).await? {
            return Ok(answer);
        }
        let about = About {
            scope,
            range,
            pieces,
            names: Names::None,
            cohorts: false,
        };
        let made = from_events::read(&self.store, about, self.max_read).await?;
        made.ask(|rollups, pieces| {
            let size = BucketSize::Minute;
            let stood = rollups.buckets(&Filter::default(), Span::ALL, size, &TimeZone::UTC)?;
            Ok(pieces.unfold(stood))
        })
        .await
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
        let ask = {
            let zone = zone.clone();
            move |rollups: &Rollups, filter: &Filter| {
                rollups.active_users(filter, dates, days, &zone)
            }
        };
        if let Some(answer) = self.ask(&scope, ask).await? {
            return Ok(answer);
        }
        let first = plus_days(dates.0, 1 - i64::from(days))?;
        let behind = plus_days(dates.1, 1)?;
        let about = About {
            scope,
            range: (
                Some(start_of(&zone, first)?),
                Some(start_of(&zone, behind)?),
            ),
            pieces: Pieces::Dates(zone),
            names: Names::None,
            cohorts: false,
        };
        let made = from_events::read(&self.store, about, self.max_read).await?;
        made.ask(move |rollups, _| {
            rollups.active_users(&Filter::default(), dates, days, &TimeZone::UTC)
        })
        .await
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
        if let Some(answer) = self.ask(&scope, ask).await? {
            return Ok(answer);
        }
        let (top, _) = self.top(scope, range, limit, Names::Types).await?;
        Ok(top)
    }

    /// The `limit` values with the most events in `range` that a segment may ask for.
    pub async fn segment_values(
        &self,
        scope: Scope,
        path: SegmentPath,
        range: TimeRange,
        limit: usize,
    ) -> Result<SegmentValues, AnalyticsError> {
        let more = limit.saturating_add(1);
        let (mut top, mut truncated) = match path {
            SegmentPath::EventType => (self.top_types(scope, range, more).await?, false),
            SegmentPath::Property(path) => {
                self.top(scope, range, more, Names::Values(path)).await?
            }
        };
        truncated |= top.len() > limit;
        top.truncate(limit);
        let values = top.into_iter().map(|it| SegmentValue {
            value: it.event_type,
            count: it.count,
            unique_users: it.unique_users,
        });
        Ok(SegmentValues {
            values: values.collect(),
            truncated,
        })
    }

    /// The `limit` names with the most events, from the events, and whether there are others that
    /// were not told apart.
    async fn top(
        &self,
        scope: Scope,
        range: TimeRange,
        limit: usize,
        names: Names,
    ) -> Result<(Vec<TopType>, bool), AnalyticsError> {
        let about = About {
            scope,
            range,
            pieces: Pieces::All,
            names,
            cohorts: false,
        };
        let made = from_events::read(&self.store, about, self.max_read).await?;
        let truncated = made.truncated;
        let top = made
            .ask(move |rollups, _| rollups.top_types(&Filter::default(), Span::ALL, limit))
            .await?;
        Ok((top, truncated))
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
        let ask = {
            let zone = zone.clone();
            move |rollups: &Rollups, filter: &Filter| {
                rollups.retention(filter, start, windows, window_type, (&zone, now))
            }
        };
        if let Some(answer) = self.ask(&scope, ask).await? {
            return Ok(answer);
        }
        // Cohort i in its k-th window is the window i + k; the first event of a user may be of any
        // age.
        let count = (2 * i64::from(windows) - 1).max(0);
        let days = match window_type {
            WindowType::Daily => 1,
            WindowType::Weekly => 7,
        };
        let behind = plus_days(start, count * days)?;
        let now = now_among_dates(&zone, now)?;
        let about = About {
            scope,
            range: (None, Some(start_of(&zone, behind)?)),
            pieces: Pieces::Dates(zone),
            names: Names::None,
            cohorts: true,
        };
        let made = from_events::read(&self.store, about, self.max_read).await?;
        made.ask(move |rollups, _| {
            let calendar = (&TimeZone::UTC, now);
            rollups.retention(&Filter::default(), start, windows, window_type, calendar)
        })
        .await
    }

    /// Puts a question to the rollups that are kept. `None` if the events must answer.
    async fn ask<T: Send + 'static>(
        &self,
        scope: &Scope,
        question: impl Fn(&Rollups, &Filter) -> Result<T, Unanswered> + Send + Sync + 'static,
    ) -> Result<Option<T>, AnalyticsError> {
        let Some(filter) = filter_of(scope) else {
            return Ok(None);
        };
        let question = Arc::new(question);
        let answered = self
            .store
            .rollups(move |rollups| question(rollups, &filter))
            .await?;
        match answered {
            Ok(answer) => Ok(Some(answer)),
            Err(Unanswered::Seconds | Unanswered::Bound(_)) => Ok(None),
            Err(Unanswered::Range) => Err(AnalyticsError::Range),
        }
    }
}

/// The scope as the rollups know it; `None` if they don't.
fn filter_of(scope: &Scope) -> Option<Filter> {
    let types = scope.segments.iter().map(|segment| match segment {
        Segment::EventType(name) => Some(name.clone()),
        Segment::Property { .. } => None,
    });
    Some(Filter {
        tenant: scope.tenant.clone(),
        source: scope.source.clone(),
        event_types: types.collect::<Option<_>>()?,
    })
}
