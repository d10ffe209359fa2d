//! Which events are meant, and the two things that are asked about them: how many, and whose.

use std::ops::Range;
use std::sync::Arc;

use super::calendar::Span;
use super::cell::Cell;
use super::days::DAY;
use super::fold::{Rollups, day_of};
use super::parts::Part;
use super::set::{Dense, Held, UserSet, union_len};
use super::{Bound, Unanswered};

/// Which events are meant.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Filter {
    /// Those of this tenant; of all if `None`.
    pub tenant: Option<String>,
    /// Those of this source.
    pub source: Option<String>,
    /// Those that have each of these types: a parameter and segments may name several.
    pub event_types: Vec<String>,
}

/// A filter with numbers for its names.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) tenants: Vec<u16>,
    /// The blocks of one tenant's users, sorted, if one is meant.
    blocks: Option<Vec<u16>>,
    event_type: Option<u16>,
    /// Whether pairs count, by their number; `None` if all do.
    pairs: Option<Vec<bool>>,
    /// Whether whole days have the answer about users.
    by_day: bool,
}

impl Wanted {
    pub(super) fn pair(&self, pair: u16) -> bool {
        let pairs = self.pairs.as_ref();
        pairs.is_none_or(|pairs| pairs.get(usize::from(pair)).copied().unwrap_or(false))
    }

    /// The same of one type, which has these pairs.
    pub(super) fn narrowed(&self, event_type: u16, pairs: Vec<bool>) -> Self {
        Self {
            tenants: self.tenants.clone(),
            blocks: self.blocks.clone(),
            event_type: Some(event_type),
            pairs: Some(pairs),
            by_day: self.by_day,
        }
    }

    /// The blocks of the users that are meant, sorted; all if `None`.
    pub(super) fn blocks(&self) -> Option<&[u16]> {
        self.blocks.as_deref()
    }

    /// Whether whole UTC days answer about users.
    pub(super) fn by_day(&self) -> bool {
        self.by_day
    }
}

impl Rollups {
    /// Resolves the names; unknown ones mean no events.
    pub(super) fn wanted(&self, filter: &Filter) -> Result<Wanted, Unanswered> {
        let (tenants, blocks) = self.wanted_tenants(filter.tenant.as_deref())?;
        let nothing = Ok(Wanted::default());
        let mut event_type = None;
        for name in &filter.event_types {
            let Some(found) = self.types.find(name) else {
                return nothing;
            };
            if event_type
                .replace(found + 1)
                .is_some_and(|it| it != found + 1)
            {
                return nothing;
            }
        }
        let mut source = None;
        if let Some(name) = &filter.source {
            let Some(found) = self.sources.find(name) else {
                return nothing;
            };
            source = Some(found + 1);
        }
        let matches = |pair: &(u16, u16)| {
            source.is_none_or(|source| source == pair.0)
                && event_type.is_none_or(|event_type| event_type == pair.1)
        };
        let all = source.is_none() && event_type.is_none();
        Ok(Wanted {
            tenants,
            blocks,
            event_type,
            pairs: (!all).then(|| self.pairs.iter().map(matches).collect()),
            by_day: source.is_none(),
        })
    }

    fn wanted_tenants(
        &self,
        name: Option<&str>,
    ) -> Result<(Vec<u16>, Option<Vec<u16>>), Unanswered> {
        let Some(name) = name else {
            if self.more_tenants {
                return Err(Unanswered::Bound(Bound::Tenants));
            }
            if let Some(bound) = self.tenants.iter().find_map(|tenant| tenant.spilled) {
                return Err(Unanswered::Bound(bound));
            }
            let all = (0..).zip(&self.tenants).map(|(number, _)| number);
            return Ok((all.collect(), None));
        };
        let Some(number) = self.tenant_names.find(name) else {
            return if self.more_tenants {
                Err(Unanswered::Bound(Bound::Tenants))
            } else {
                Ok((Vec::new(), Some(Vec::new())))
            };
        };
        let tenant = self.tenants.get(usize::from(number));
        if let Some(bound) = tenant.and_then(|tenant| tenant.spilled) {
            return Err(Unanswered::Bound(bound));
        }
        let mut blocks = tenant.map_or(Vec::new(), |tenant| tenant.blocks.clone());
        blocks.sort_unstable();
        Ok((vec![number], Some(blocks)))
    }

    /// Calls `f` with each hour of `tenant` in `span`, and with the minutes of it that are.
    pub(super) fn each_cell<'a>(
        &'a self,
        tenant: u16,
        span: Span,
        mut f: impl FnMut(i64, Range<u8>, &'a Cell),
    ) {
        let Some(tenant) = self.tenants.get(usize::from(tenant)) else {
            return;
        };
        if span.from >= span.to {
            return;
        }
        let hours = span.from.div_euclid(60)..=(span.to - 1).div_euclid(60);
        for (hour, cell) in tenant.cells.range(hours) {
            let clip = |minute: i64| u8::try_from((minute - hour * 60).clamp(0, 60)).unwrap_or(60);
            f(*hour, clip(span.from)..clip(span.to), cell);
        }
    }

    /// The users in `span`, from the cells.
    fn scan(&self, wanted: &Wanted, span: Span) -> UserSet {
        let mut users = Dense::default();
        for tenant in &wanted.tenants {
            self.each_cell(*tenant, span, |_, minutes, cell| {
                let pair = |pair| wanted.pair(pair);
                cell.sorted_users(pair, &minutes, |_, sorted| {
                    users.insert_all(sorted.iter());
                });
                users.insert_all(cell.late_users(pair, &minutes).map(|(_, user)| user));
            });
        }
        users.into_set()
    }

    /// The sets that have the users in whole UTC `days` between them, and perhaps others outside
    /// of [`Wanted::blocks`]; only where days have the answer.
    pub(super) fn sets_of_days(&self, wanted: &Wanted, days: Range<i32>) -> Vec<Held<'_>> {
        if wanted.tenants.is_empty() {
            return Vec::new();
        }
        self.days.sets(wanted.event_type, wanted.blocks(), days)
    }

    /// The sets that have the users in `span` between them, and perhaps others outside of
    /// [`Wanted::blocks`].
    pub(super) fn sets(&self, wanted: &Wanted, span: Span) -> Vec<Held<'_>> {
        if !wanted.by_day {
            return vec![Held::Made(Arc::new(self.scan(wanted, span)))];
        }
        let days = whole_days(span);
        let mut sets = self.sets_of_days(wanted, days.clone());
        sets.extend(self.ends(wanted, span, &days));
        sets
    }

    /// How many users are in `span`.
    pub(super) fn count_users(&self, wanted: &Wanted, span: Span) -> u64 {
        union_len(&self.sets(wanted, span), wanted.blocks())
    }

    /// The users in `span` before and after `days`, which are all whole days in it. If there are
    /// none, the parts lie on both sides of a midnight.
    pub(super) fn ends(
        &self,
        wanted: &Wanted,
        span: Span,
        days: &Range<i32>,
    ) -> Vec<Held<'static>> {
        let (from, to) = (i64::from(days.start) * DAY, i64::from(days.end) * DAY);
        let ends = [span.within(span.from..from), span.within(to..span.to)];
        let ends = ends.into_iter().filter(|end| end.from < end.to);
        ends.filter_map(|end| self.part(wanted, end)).collect()
    }

    /// The users in a part of a UTC day, if there are events on it.
    fn part(&self, wanted: &Wanted, span: Span) -> Option<Held<'static>> {
        let day = self.days.get(day_of(span.from))?;
        let part = Part {
            tenant: Some(*wanted.tenants.first()?).filter(|_| wanted.blocks.is_some()),
            event_type: wanted.event_type,
            from: span.from,
            to: span.to,
        };
        let find = || self.scan(wanted, span);
        Some(Held::Made(self.parts.users(part, day.events, find)))
    }

    /// The events in `span` by pair.
    pub(super) fn counts(&self, wanted: &Wanted, span: Span) -> Vec<u64> {
        let mut counts = vec![0; self.pairs.len()];
        let mut count = |pair, n| {
            if wanted.pair(pair)
                && let Some(sum) = counts.get_mut(usize::from(pair))
            {
                *sum += n;
            }
        };
        let days = whole_days(span);
        let whole = Span {
            from: i64::from(days.start) * DAY,
            to: i64::from(days.end) * DAY,
        };
        let ends = if days.is_empty() {
            [span, span.within(0..0)]
        } else {
            [
                span.within(span.from..whole.from),
                span.within(whole.to..span.to),
            ]
        };
        let all = wanted.tenants.len() == self.tenants.len();
        for (_, day) in self.days.range(days) {
            for ((tenant, pair), n) in &day.counts {
                if all || wanted.tenants.binary_search(tenant).is_ok() {
                    count(*pair, *n);
                }
            }
        }
        for tenant in &wanted.tenants {
            for end in ends {
                self.each_cell(*tenant, end, |_, minutes, cell| {
                    if minutes == (0..60) {
                        cell.totals(&mut count);
                    } else {
                        cell.counts(&minutes, |pair, _, n| count(pair, n));
                    }
                });
            }
        }
        counts
    }
}

/// The UTC days that lie in `span` as a whole.
pub(super) fn whole_days(span: Span) -> Range<i32> {
    let start = day_of(span.from.saturating_add(DAY - 1));
    start..day_of(span.to).max(start)
}
