//! What is known of whole UTC days: counts, and the users of all types and of each type.
//!
//! The users also lie in unions over 8 and over 64 days, so that a long range takes few of them.
//! New users wait in a list by day and are inserted together, in order: that keeps the cost of an
//! event low when events arrive in no order.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use hashbrown::HashMap;

use super::set::{Held, UserSet, upper};

/// Minutes of a UTC day.
pub(super) const DAY: i64 = 24 * 60;

/// The most users of a day that wait to be inserted.
const PENDING: usize = 8192;

/// The most of all days. So few that answers, which go through them, don't notice.
const ALL_PENDING: usize = 4 * PENDING;

/// The bits of a day that name its union, by level.
const SHIFTS: [u32; 3] = [0, 3, 6];

/// The users of some days.
#[derive(Clone, Debug, Default)]
pub(super) struct Sets {
    pub(super) all: UserSet,
    pub(super) types: BTreeMap<u16, UserSet>,
}

impl Sets {
    fn of(&self, event_type: Option<u16>) -> Option<&UserSet> {
        match event_type {
            None => Some(&self.all),
            Some(event_type) => self.types.get(&event_type),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Day {
    /// Events by tenant and pair.
    pub(super) counts: HashMap<(u16, u16), u64>,
    /// All of them.
    pub(super) events: u64,
    waiting: Vec<Waiting>,
}

impl Day {
    pub(super) fn count(&mut self, tenant: u16, pair: u16, events: u64) {
        *self.counts.entry((tenant, pair)).or_default() += events;
        self.events += events;
    }

    pub(super) fn add(&mut self, event_type: u16, user: u32) {
        self.waiting.push(Waiting::new(event_type, user));
    }
}

/// A type and a user of it, in one number that sorts as they do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Waiting(u64);

impl Waiting {
    fn new(event_type: u16, user: u32) -> Self {
        Self(u64::from(event_type) << 32 | u64::from(user))
    }

    fn event_type(self) -> u16 {
        (self.0 >> 32 & 0xffff) as u16
    }

    #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
    fn user(self) -> u32 {
        self.0 as u32
    }
}

/// See the module's page.
#[derive(Debug, Default)]
pub(super) struct Days {
    by_day: BTreeMap<i32, Day>,
    levels: [BTreeMap<i32, Sets>; 3],
    /// How many users were added since all days were flushed.
    pending: usize,
}

impl Days {
    pub(super) fn len(&self) -> usize {
        self.by_day.len()
    }

    pub(super) fn contains(&self, day: i32) -> bool {
        self.by_day.contains_key(&day)
    }

    /// The days whose users are kept together, and of which types there are any; `None` is all.
    pub(super) fn unions(&self) -> impl Iterator<Item = (Range<i32>, Vec<Option<u16>>)> {
        let levels = self.levels.iter().zip(SHIFTS);
        levels.flat_map(|(level, shift)| {
            level.iter().map(move |(number, sets)| {
                let types = sets.types.keys().copied().map(Some);
                let days = number << shift..(number + 1) << shift;
                (days, std::iter::once(None).chain(types).collect())
            })
        })
    }

    pub(super) fn get(&self, day: i32) -> Option<&Day> {
        self.by_day.get(&day)
    }

    pub(super) fn day(&mut self, day: i32) -> &mut Day {
        self.by_day.entry(day).or_default()
    }

    pub(super) fn range(&self, days: Range<i32>) -> impl Iterator<Item = (i32, &Day)> {
        let days = if days.is_empty() { 0..0 } else { days };
        self.by_day.range(days).map(|(day, it)| (*day, it))
    }

    /// Takes a whole day.
    pub(super) fn restore(&mut self, number: i32, day: Day, sets: Sets) {
        self.by_day.insert(number, day);
        let [days, unions @ ..] = &mut self.levels;
        for (level, shift) in unions.iter_mut().zip(SHIFTS.into_iter().skip(1)) {
            let union = level.entry(number >> shift).or_default();
            union.all.join(&sets.all);
            for (event_type, users) in &sets.types {
                union.types.entry(*event_type).or_default().join(users);
            }
        }
        days.insert(number, sets);
    }

    /// After `added` events of `day`: inserts users where too many wait.
    pub(super) fn added(&mut self, day: i32, added: usize) {
        self.pending += added;
        if self.pending > ALL_PENDING {
            self.flush_all();
        } else if self.day(day).waiting.len() > PENDING {
            self.flush(day);
        }
    }

    /// Inserts the users of `day` that wait. Who is in a day is in the unions above it: so those
    /// take only who is new to the day.
    fn flush(&mut self, day: i32) {
        let Some(it) = self.by_day.get_mut(&day) else {
            return;
        };
        let mut waiting = std::mem::take(&mut it.waiting);
        if waiting.is_empty() {
            return;
        }
        waiting.sort_unstable();
        waiting.dedup();
        for run in waiting.chunk_by(|a, b| a.event_type() == b.event_type()) {
            let event_type = run.first().map_or(0, |first| first.event_type());
            let mut users: Vec<u32> = run.iter().map(|it| it.user()).collect();
            for (level, shift) in self.levels.iter_mut().zip(SHIFTS) {
                let sets = level.entry(day >> shift).or_default();
                sets.types.entry(event_type).or_default().insert(&mut users);
            }
        }
        let mut users: Vec<u32> = waiting.iter().map(|it| it.user()).collect();
        users.sort_unstable();
        users.dedup();
        for (level, shift) in self.levels.iter_mut().zip(SHIFTS) {
            level
                .entry(day >> shift)
                .or_default()
                .all
                .insert(&mut users);
        }
    }

    pub(super) fn flush_all(&mut self) {
        self.pending = 0;
        let days: Vec<i32> = self.by_day.keys().copied().collect();
        for day in days {
            self.flush(day);
        }
    }

    /// The sets that have the users in `days` between them, of all types or of one. Those of other
    /// blocks than `only` some, which are sorted, may be in them or not.
    pub(super) fn sets(
        &self,
        event_type: Option<u16>,
        only: Option<&[u16]>,
        days: Range<i32>,
    ) -> Vec<Held<'_>> {
        let mut found = Vec::new();
        self.unions_of(event_type, days.clone(), 2, &mut found);
        let waiting = self.range(days).flat_map(|(_, day)| &day.waiting);
        let waiting = waiting.filter(|it| event_type.is_none_or(|of| of == it.event_type()));
        let waiting = waiting.map(|it| it.user());
        let meant = |user: &u32| only.is_none_or(|it| it.binary_search(&upper(*user)).is_ok());
        let waiting: UserSet = waiting.filter(meant).collect();
        if !waiting.is_empty() {
            found.push(Held::Made(Arc::new(waiting)));
        }
        found
    }

    /// The users in `days`, of all types or of one.
    pub(super) fn users(&self, event_type: Option<u16>, days: Range<i32>) -> UserSet {
        let mut all = UserSet::default();
        for set in self.sets(event_type, None, days) {
            all.join(&set);
        }
        all
    }

    /// Finds the users in `days` in the unions of `level`, and in lower ones at both ends.
    fn unions_of<'a>(
        &'a self,
        event_type: Option<u16>,
        days: Range<i32>,
        level: usize,
        found: &mut Vec<Held<'a>>,
    ) {
        if days.is_empty() {
            return;
        }
        let (Some(unions), Some(shift)) = (self.levels.get(level), SHIFTS.get(level)) else {
            return;
        };
        let mut add = |days: Range<i32>| {
            let sets = unions
                .range(days)
                .filter_map(|(_, sets)| sets.of(event_type));
            found.extend(sets.map(Held::Kept));
        };
        let Some(lower) = level.checked_sub(1) else {
            add(days);
            return;
        };
        let up = (1 << shift) - 1;
        let (first, end) = ((days.start + up) >> shift, days.end >> shift);
        if first >= end {
            self.unions_of(event_type, days, lower, found);
            return;
        }
        add(first..end);
        self.unions_of(event_type, days.start..first << shift, lower, found);
        self.unions_of(event_type, end << shift..days.end, lower, found);
    }
}
