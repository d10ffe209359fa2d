//! Users by day: of the day, or of the days that end with it.

mod window;

use jiff::civil::Date;
use jiff::tz::TimeZone;

use self::window::Window;
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

/// The most days whose users are counted by a [`Window`], which takes up to 8 KiB for each.
const SLID: u16 = 64;

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
        let (mut dates, mut spans) = (Vec::new(), Vec::new());
        let mut date = first;
        while date <= last {
            dates.push(date);
            spans.push(Span {
                from: day_start(zone, plus_days(date, 1 - i64::from(days))?)?,
                to: day_start(zone, plus_days(date, 1)?)?,
            });
            if date == last {
                break;
            }
            date = plus_days(date, 1)?;
        }
        let users = if (2..=SLID).contains(&days) && wanted.by_day() {
            self.slide(&wanted, &spans)
        } else {
            let count = |span: &Span| self.count_users(&wanted, *span);
            spans.iter().map(count).collect()
        };
        let found = dates.into_iter().zip(users);
        Ok(found.map(|(date, users)| Active { date, users }).collect())
    }

    /// The users in each of `spans`, none of which begins or ends before the one before it does.
    fn slide(&self, wanted: &Wanted, spans: &[Span]) -> Vec<u64> {
        let mut counts = Vec::with_capacity(spans.len());
        let mut front = Vec::new();
        while let Some(first) = spans.get(counts.len()) {
            let mut window = Window::default();
            let older = whole_days(*first);
            for day in older.clone() {
                window.add_older(self.sets_of_days(wanted, day..day + 1));
            }
            let mut end = older.end;
            for span in spans.iter().skip(counts.len()) {
                let days = whole_days(*span);
                let Ok(gone) = usize::try_from(days.start - older.start) else {
                    break;
                };
                if days.start > older.end {
                    break;
                }
                let newer = self.sets_of_days(wanted, end..days.end);
                window.add_span(gone, newer, self.ends(wanted, *span, &days));
                end = days.end;
            }
            counts.extend(window.count(wanted.blocks(), &mut front));
        }
        counts
    }
}
