//! What is known of whole UTC days: counts, and the users of all types and of each type.
//!
//! The users also lie in unions over 8 and over 64 days, so that a long range takes few of them.
//! New users wait in a list by day and are inserted together, in order: that keeps the cost of an
//! event low when events arrive in no order.

use std::collections::BTreeMap;
use std::ops::Range;

use hashbrown::HashMap;
use roaring::RoaringBitmap;

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
    pub(super) all: RoaringBitmap,
    pub(super) types: BTreeMap<u16, RoaringBitmap>,
}

impl Sets {
    fn of(&self, event_type: Option<u16>) -> Option<&RoaringBitmap> {
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
            union.all |= &sets.all;
            for (event_type, users) in &sets.types {
                *union.types.entry(*event_type).or_default() |= users;
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

    /// Inserts the users of `day` that wait.
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
                insert(sets.types.entry(event_type).or_default(), &mut users);
            }
        }
        let mut users: Vec<u32> = waiting.iter().map(|it| it.user()).collect();
        users.sort_unstable();
        users.dedup();
        for (level, shift) in self.levels.iter_mut().zip(SHIFTS) {
            insert(&mut level.entry(day >> shift).or_default().all, &mut users);
        }
    }

    pub(super) fn flush_all(&mut self) {
        self.pending = 0;
        let days: Vec<i32> = self.by_day.keys().copied().collect();
        for day in days {
            self.flush(day);
        }
    }

    /// The users in `days`, of all types or of one; only those in `mask`, if there is one.
    pub(super) fn users(
        &self,
        event_type: Option<u16>,
        mask: Option<&RoaringBitmap>,
        days: Range<i32>,
    ) -> RoaringBitmap {
        let mut all = RoaringBitmap::new();
        self.union((event_type, mask), days.clone(), 2, &mut all);
        // Last, since inserting into full containers costs least.
        for (_, day) in self.range(days) {
            let waiting = day.waiting.iter();
            let waiting = waiting.filter(|it| event_type.is_none_or(|of| of == it.event_type()));
            let users = waiting.map(|it| it.user());
            match mask {
                Some(mask) => all.extend(users.filter(|user| mask.contains(*user))),
                None => all.extend(users),
            }
        }
        all
    }

    /// The users of `day`, unless some wait to be inserted.
    pub(super) fn settled(&self, event_type: Option<u16>, day: i32) -> Option<&RoaringBitmap> {
        let settled = self.by_day.get(&day)?.waiting.is_empty();
        let sets = self.levels.first()?.get(&day)?;
        sets.of(event_type).filter(|_| settled)
    }

    /// Adds the users in `days` by the unions of `level`, and by lower ones at both ends.
    fn union(&self, of: Whose<'_>, days: Range<i32>, level: usize, all: &mut RoaringBitmap) {
        if days.is_empty() {
            return;
        }
        let (Some(unions), Some(shift)) = (self.levels.get(level), SHIFTS.get(level)) else {
            return;
        };
        let up = (1 << shift) - 1;
        let (first, end) = ((days.start + up) >> shift, days.end >> shift);
        let Some(lower) = level.checked_sub(1) else {
            for (_, sets) in unions.range(days) {
                add(sets, of, all);
            }
            return;
        };
        if first >= end {
            self.union(of, days, lower, all);
            return;
        }
        for (_, sets) in unions.range(first..end) {
            add(sets, of, all);
        }
        self.union(of, days.start..first << shift, lower, all);
        self.union(of, end << shift..days.end, lower, all);
    }
}

/// Inserts `users`, which are sorted, and may leave those in it that were new: whoever is in a day
/// is in the unions above it.
fn insert(known: &mut RoaringBitmap, users: &mut Vec<u32>) {
    let blocks = users.chunk_by(|a, b| a >> 16 == b >> 16).count() as u64;
    let (all, new) = (known.len(), users.len() as u64);
    let listed = all <= blocks * LISTED;
    if new < blocks * 4 || listed && all > new * FEW {
        users.retain(|user| known.insert(*user));
    } else if let Ok(new) = RoaringBitmap::from_sorted_iter(users.iter().copied()) {
        *known |= new;
    }
}

/// A bitmap lists up to so many users of a block, which are gone through to insert others; of more
/// it has a bit each.
const LISTED: u64 = 4096;

/// How many listed users are gone through in the time of one search.
const FEW: u64 = 32;

/// A type, and a mask of users.
type Whose<'a> = (Option<u16>, Option<&'a RoaringBitmap>);

fn add(sets: &Sets, (event_type, mask): Whose<'_>, all: &mut RoaringBitmap) {
    match (sets.of(event_type), mask) {
        (None, _) => {}
        (Some(users), None) => *all |= users,
        (Some(users), Some(mask)) => *all |= users & mask,
    }
}
