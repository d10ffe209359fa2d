//! Retention: who comes back, by when they first came.
//!
//! A cohort is the users whose first event ever lies in one window. A late event that is earlier
//! than all others of its user therefore moves the user to an earlier cohort, or out of all.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use roaring::RoaringBitmap;

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
        let mut before = match spans.first() {
            Some((_, first)) => self.users(
                &wanted,
                Span {
                    to: first.from,
                    ..Span::ALL
                },
            ),
            None => RoaringBitmap::new(),
        };
        let active: Vec<RoaringBitmap> = spans
            .iter()
            .map(|(_, span)| self.users(&wanted, *span))
            .collect();
        let ended = |span: &Span| super::calendar::time_of(span.to) <= now;
        let mut cohorts = Vec::with_capacity(usize::from(windows));
        for index in 0..usize::from(windows) {
            let later = index..index + usize::from(windows);
            let (Some(active), Some(spans)) = (active.get(later.clone()), spans.get(later)) else {
                break;
            };
            let (Some(own), Some((date, _))) = (active.first(), spans.first()) else {
                break;
            };
            let members = own - &before;
            before |= own;
            cohorts.push(Cohort {
                start: *date,
                size: members.len(),
                retained: active
                    .iter()
                    .map(|it| members.intersection_len(it))
                    .collect(),
                complete: spans.iter().map(|(_, span)| ended(span)).collect(),
            });
        }
        Ok(cohorts)
    }
}
