//! Retention: who comes back, by when they first came.
//!
//! A cohort is the users whose first event ever lies in one window. A late event that is earlier
//! than all others of its user therefore moves the user to an earlier cohort, or out of all.

mod activity;

use jiff::civil::Date;
use jiff::tz::TimeZone;

use self::activity::Activity;
use super::Unanswered;
use super::calendar::{Span, day_start, plus_days};
use super::fold::Rollups;
use super::query::Filter;
use crate::model::time::Timestamp;

/// How long a window is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WindowType {
    /// A day.
    Daily,
    /// Seven days.
    Weekly,
}

impl WindowType {
    fn days(self) -> i64 {
        match self {
            Self::Daily => 1,
            Self::Weekly => 7,
        }
    }
}

/// The users that came first in one window.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cohort {
    /// The first day of their window.
    pub start: Date,
    /// How many they are.
    pub size: u64,
    /// How many of them were active in the k-th window after it; `retained[0]` is `size`.
    pub retained: Vec<u64>,
    /// Whether that window had ended.
    pub complete: Vec<bool>,
}

impl Rollups {
    /// The cohorts of `windows` windows from `start`, each followed through `windows` windows, the
    /// first of them its own. `now` decides which windows have ended.
    pub fn retention(
        &self,
        filter: &Filter,
        start: Date,
        windows: u16,
        window_type: WindowType,
        (zone, now): (&TimeZone, Timestamp),
    ) -> Result<Vec<Cohort>, Unanswered> {
        let wanted = self.wanted(filter)?;
        let count = i64::from(windows);
        // Cohort i in its k-th window is the window i + k: so there are twice as many, less one.
        let starts: Vec<(Date, i64)> = (0..2 * count)
            .map(|window| {
                let date = plus_days(start, window * window_type.days())?;
                Ok((date, day_start(zone, date)?))
            })
            .collect::<Result<_, Unanswered>>()?;
        let spans: Vec<(Date, Span)> = starts
            .windows(2)
            .filter_map(|pair| match pair {
                [(date, from), (_, to)] => Some((
                    *date,
                    Span {
                        from: *from,
                        to: *to,
                    },
                )),
                _ => None,
            })
            .collect();
        let mut activity = Activity::default();
        for (_, span) in &spans {
            activity.add_window(self.sets(&wanted, *span));
        }
        if let Some((_, first)) = spans.first() {
            let before = Span {
                to: first.from,
                ..Span::ALL
            };
            activity.set_before(self.sets(&wanted, before));
        }
        let ended = |span: &Span| super::calendar::time_of(span.to) <= now;
        let retained = activity.retained(windows.into(), wanted.blocks());
        let cohorts = retained
            .into_iter()
            .enumerate()
            .filter_map(|(first, retained)| {
                let spans = spans.get(first..first + retained.len())?;
                Some(Cohort {
                    start: spans.first()?.0,
                    size: *retained.first()?,
                    retained,
                    complete: spans.iter().map(|(_, span)| ended(span)).collect(),
                })
            });
        Ok(cohorts.collect())
    }
}
