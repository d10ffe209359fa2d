//! Events and users by minute, hour or day.

use std::collections::BTreeMap;
use std::ops::Range;

use jiff::tz::TimeZone;

use super::Unanswered;
use super::calendar::{BucketSize, Span, bucket, time_of};
use super::fold::Rollups;
use super::query::{Filter, Wanted};
use super::set::Dense;
use crate::model::time::Timestamp;

/// A bucket with events.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bucket {
    /// Its first instant.
    pub start: Timestamp,
    /// Behind its last instant.
    pub end: Timestamp,
    /// Events of the filter and the span that are in it.
    pub count: u64,
    /// Whose they are.
    pub unique_users: u64,
}

/// Buckets by their first minute.
type Found = BTreeMap<i64, Sum>;

struct Sum {
    end: i64,
    count: u64,
    users: u64,
}

impl Rollups {
    /// The buckets with events in `span`, ascending. Those that `span` cuts have all of their
    /// length, and the events in `span` only.
    pub fn buckets(
        &self,
        filter: &Filter,
        span: Span,
        size: BucketSize,
        zone: &TimeZone,
    ) -> Result<Vec<Bucket>, Unanswered> {
        let wanted = self.wanted(filter)?;
        let mut found = Found::new();
        for tenant in &wanted.tenants {
            match size {
                BucketSize::Day => self.find_days(*tenant, span, zone, &mut found)?,
                BucketSize::Minute | BucketSize::Hour => {
                    self.sum_up(*tenant, &wanted, span, (size, zone), &mut found)?;
                }
            }
        }
        if size == BucketSize::Day {
            for (start, sum) in &mut found {
                let part = span.within(*start..sum.end);
                sum.count = self.counts(&wanted, part).iter().sum();
                if sum.count > 0 {
                    sum.users = self.count_users(&wanted, part);
                }
            }
        }
        let found = found.into_iter().filter(|(_, sum)| sum.count > 0);
        Ok(found
            .map(|(start, sum)| Bucket {
                start: time_of(start),
                end: time_of(sum.end),
                count: sum.count,
                unique_users: sum.users,
            })
            .collect())
    }

    /// The days in which `tenant` may have events.
    fn find_days(
        &self,
        tenant: u16,
        span: Span,
        zone: &TimeZone,
        found: &mut Found,
    ) -> Result<(), Unanswered> {
        let mut hours = Vec::new();
        self.each_cell(tenant, span, |hour, minutes, _| {
            hours.push((
                hour * 60 + i64::from(minutes.start),
                hour * 60 + i64::from(minutes.end),
            ));
        });
        for (mut minute, end) in hours {
            while minute < end {
                minute = place(found, BucketSize::Day, zone, minute)?.end;
            }
        }
        Ok(())
    }

    /// Adds the events of `tenant`; its users are nobody else's, so they add up too.
    fn sum_up(
        &self,
        tenant: u16,
        wanted: &Wanted,
        span: Span,
        (size, zone): (BucketSize, &TimeZone),
        found: &mut Found,
    ) -> Result<(), Unanswered> {
        let mut users = Dense::default();
        let mut here = 0..0;
        let mut entries: Vec<(u8, u32)> = Vec::new();
        let mut outcome = Ok(());
        self.each_cell(tenant, span, |hour, minutes, cell| {
            if outcome.is_err() {
                return;
            }
            let first = hour * 60;
            let mut by_minute = [0_u64; 60];
            cell.counts(&minutes, |pair, minute, n| {
                if wanted.pair(pair)
                    && let Some(sum) = by_minute.get_mut(usize::from(minute))
                {
                    *sum += n;
                }
            });
            entries.clear();
            let pair = |pair| wanted.pair(pair);
            cell.sorted_users(pair, &minutes, |minutes, users| {
                entries.extend(minutes.iter().copied().zip(users.iter()));
            });
            entries.extend(cell.late_users(pair, &minutes));
            entries.sort_unstable();
            let mut rest = entries.as_slice();
            for (minute, count) in (first..).zip(by_minute).filter(|(_, count)| *count > 0) {
                let sum = match place(found, size, zone, minute) {
                    Ok(sum) => sum,
                    Err(refusal) => {
                        outcome = Err(refusal);
                        return;
                    }
                };
                if !here.contains(&minute) {
                    users.clear();
                    here = minute..sum.end;
                }
                sum.count += count;
                let own = rest.partition_point(|entry| first + i64::from(entry.0) <= minute);
                let (own, later) = rest.split_at(own);
                rest = later;
                let new = own.iter().filter(|(_, user)| users.insert_briefly(*user));
                sum.users += new.count() as u64;
            }
        });
        outcome
    }
}

/// The bucket of `minute`.
fn place<'a>(
    found: &'a mut Found,
    size: BucketSize,
    zone: &TimeZone,
    minute: i64,
) -> Result<&'a mut Sum, Unanswered> {
    let known = found
        .range(..=minute)
        .next_back()
        .filter(|(_, sum)| minute < sum.end)
        .map(|(start, _)| *start);
    let range: Range<i64> = match known {
        Some(start) => start..minute,
        None => bucket(size, zone, minute)?,
    };
    Ok(found.entry(range.start).or_insert(Sum {
        end: range.end,
        count: 0,
        users: 0,
    }))
}
