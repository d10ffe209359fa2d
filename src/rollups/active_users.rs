//! Users by day: of the day, or of the days that end with it.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use roaring::RoaringBitmap;

use super::Unanswered;
use super::calendar::{Span, day_start, plus_days};
use super::fold::Rollups;
use super::query::{Filter, Wanted, whole_days};

/// The users of a date.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Active {
    /// The last day that counts.
    pub date: Date,
    /// Who was active.
    pub users: u64,
}

impl Rollups {
    /// For each date from `first` to `last`, both included, the users that were active on the
    /// `days` days that end with it: 1 gives DAU, 7 WAU, 30 MAU.
    pub fn active_users(
        &self,
        filter: &Filter,
        (first, last): (Date, Date),
        days: u16,
        zone: &TimeZone,
    ) -> Result<Vec<Active>, Unanswered> {
        let wanted = self.wanted(filter)?;
        let mut window = Window::default();
        let mut found = Vec::new();
        let mut date = first;
        while date <= last {
            let span = Span {
                from: day_start(zone, plus_days(date, 1 - i64::from(days))?)?,
                to: day_start(zone, plus_days(date, 1)?)?,
            };
            let users = if days > 1 && wanted.by_day() {
                self.slide(&wanted, &mut window, span)
            } else {
                self.count_users(&wanted, span)
            };
            found.push(Active { date, users });
            if date == last {
                break;
            }
            date = plus_days(date, 1)?;
        }
        Ok(found)
    }

    /// The users in `span`, which begins and ends no earlier than the one before.
    fn slide<'a>(&'a self, wanted: &Wanted, window: &mut Window<'a>, span: Span) -> u64 {
        let days = whole_days(span);
        if days.is_empty() {
            return self.count_users(wanted, span);
        }
        window.advance(&days, |day| self.users_of_day(wanted, day));
        window.users_with(&self.ends(wanted, span, &days))
    }
}

/// The users of days in a row that only ever advance: a queue of two stacks, so that each day's
/// users are joined twice, however long the window is.
#[derive(Default)]
struct Window<'a> {
    days: Range<i32>,
    /// The union of each of the older days with all later ones of them; the oldest day is last.
    front: Vec<RoaringBitmap>,
    /// The users of the newer days.
    back: Vec<Cow<'a, RoaringBitmap>>,
    joined: RoaringBitmap,
}

impl<'a> Window<'a> {
    fn advance(&mut self, days: &Range<i32>, mut users: impl FnMut(i32) -> Cow<'a, RoaringBitmap>) {
        if days.start >= self.days.end || days.start < self.days.start {
            self.back = days.clone().map(users).collect();
            self.days = days.clone();
            self.turn();
            return;
        }
        while self.days.end < days.end {
            let new = users(self.days.end);
            self.joined |= &*new;
            self.back.push(new);
            self.days.end += 1;
        }
        while self.days.start < days.start {
            if self.front.is_empty() {
                self.turn();
            }
            self.front.pop();
            self.days.start += 1;
        }
    }

    /// The newer days become the older ones.
    fn turn(&mut self) {
        self.front.clear();
        let mut joined = RoaringBitmap::new();
        for users in self.back.drain(..).rev() {
            joined |= &*users;
            self.front.push(joined.clone());
        }
        self.joined.clear();
    }

    fn users_with(&self, ends: &[Arc<RoaringBitmap>]) -> u64 {
        let Some((last, ends)) = ends.split_last() else {
            let none = RoaringBitmap::new();
            return self.front.last().unwrap_or(&none).union_len(&self.joined);
        };
        let mut all = self.front.last().cloned().unwrap_or_default();
        all |= &self.joined;
        for end in ends {
            all |= &**end;
        }
        all.union_len(last)
    }
}
