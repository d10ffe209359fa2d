//! The events of one tenant in one hour.
//!
//! Three bytes for each (source and type, minute, user) that occurred, five if there are users of
//! several blocks: sorted columns, and a short
//! tail of new ones that is merged in once it is a sixteenth of them. What those don't say, events
//! without a user and repetitions, is counted beside them.

use std::borrow::Cow;
use std::ops::Range;

/// A (source, type), a minute of the hour and a user in one number that sorts as they do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Entry(u64);

impl Entry {
    pub(super) fn new(pair: u16, minute: u8, user: u32) -> Self {
        Self(u64::from(pair) << 40 | u64::from(minute) << 32 | u64::from(user))
    }

    pub(super) fn pair(self) -> u16 {
        (self.0 >> 40 & 0xffff) as u16
    }

    pub(super) fn minute(self) -> u8 {
        (self.0 >> 32 & 0xff) as u8
    }

    #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
    pub(super) fn user(self) -> u32 {
        self.0 as u32
    }
}

/// The sorted entries of one (source, type) end at `end`.
#[derive(Clone, Copy, Debug)]
struct Run {
    pair: u16,
    end: u32,
}

/// The users of all entries.
#[derive(Clone, Debug)]
enum Users {
    /// The upper half of all of them, and the lower halves.
    OfBlock(u32, Box<[u16]>),
    Any(Box<[u32]>),
}

impl Default for Users {
    fn default() -> Self {
        Self::Any(Box::default())
    }
}

impl Users {
    fn of(entries: &[Entry]) -> Self {
        let upper = |entry: &Entry| entry.user() & !0xffff;
        let block = entries.first().map_or(0, upper);
        if entries.iter().all(|entry| upper(entry) == block) {
            let lower = entries.iter().map(|entry| (entry.user() & 0xffff) as u16);
            return Self::OfBlock(block, lower.collect());
        }
        Self::Any(entries.iter().map(|entry| entry.user()).collect())
    }

    fn all(&self) -> Column<'_> {
        match self {
            Self::OfBlock(block, lower) => Column::OfBlock(*block, lower),
            Self::Any(users) => Column::Any(users),
        }
    }
}

/// Some users of a cell, in the order of its entries.
#[derive(Clone, Copy, Debug)]
pub(super) enum Column<'a> {
    OfBlock(u32, &'a [u16]),
    Any(&'a [u32]),
}

impl<'a> Column<'a> {
    pub(super) fn len(self) -> usize {
        match self {
            Self::OfBlock(_, lower) => lower.len(),
            Self::Any(users) => users.len(),
        }
    }

    fn part(self, range: Range<usize>) -> Self {
        match self {
            Self::OfBlock(block, lower) => {
                Self::OfBlock(block, lower.get(range).unwrap_or_default())
            }
            Self::Any(users) => Self::Any(users.get(range).unwrap_or_default()),
        }
    }

    pub(super) fn iter(self) -> impl Iterator<Item = u32> + use<'a> {
        let (block, lower, any): (u32, &[u16], &[u32]) = match self {
            Self::OfBlock(block, lower) => (block, lower, &[]),
            Self::Any(users) => (0, &[], users),
        };
        let lower = lower.iter().map(move |lower| block | u32::from(*lower));
        lower.chain(any.iter().copied())
    }
}

/// Events that no entry stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Extra {
    pub(super) pair: u16,
    pub(super) minute: u8,
    pub(super) count: u64,
}

/// See the module's page.
#[derive(Clone, Debug, Default)]
pub(super) struct Cell {
    runs: Box<[Run]>,
    minutes: Box<[u8]>,
    users: Users,
    tail: Vec<Entry>,
    /// Sorted by (pair, minute).
    extras: Vec<Extra>,
}

/// The shortest tail that is merged.
const TAIL: usize = 16;

impl Cell {
    pub(super) fn push(&mut self, pair: u16, minute: u8, user: Option<u32>) {
        let Some(user) = user else {
            self.extra(pair, minute, 1);
            return;
        };
        self.tail.push(Entry::new(pair, minute, user));
    }

    /// After some were pushed: merges the tail if it is long.
    pub(super) fn pushed(&mut self) {
        if self.tail.len() >= TAIL.max(self.minutes.len() / 16) {
            self.settle();
        }
    }

    /// The same without a tail.
    pub(super) fn settled(&self) -> Cow<'_, Self> {
        let mut settled = Cow::Borrowed(self);
        if !self.tail.is_empty() {
            settled.to_mut().settle();
        }
        settled
    }

    pub(super) fn extra(&mut self, pair: u16, minute: u8, count: u64) {
        let place = self
            .extras
            .binary_search_by_key(&(pair, minute), |extra| (extra.pair, extra.minute));
        match place {
            Ok(place) => {
                if let Some(extra) = self.extras.get_mut(place) {
                    extra.count += count;
                }
            }
            Err(place) => self.extras.insert(
                place,
                Extra {
                    pair,
                    minute,
                    count,
                },
            ),
        }
    }

    /// Merges the tail.
    fn settle(&mut self) {
        if self.tail.is_empty() {
            return;
        }
        let mut tail = std::mem::take(&mut self.tail);
        tail.sort_unstable();
        let mut merged = Vec::with_capacity(self.minutes.len() + tail.len());
        let mut repeated = Vec::new();
        let mut tail = tail.into_iter().peekable();
        for entry in self.sorted() {
            while let Some(new) = tail.next_if(|new| *new < entry) {
                push_new(&mut merged, &mut repeated, new);
            }
            push_new(&mut merged, &mut repeated, entry);
        }
        for new in tail {
            push_new(&mut merged, &mut repeated, new);
        }
        self.set(&merged);
        for entry in repeated {
            self.extra(entry.pair(), entry.minute(), 1);
        }
        self.extras.shrink_to_fit();
    }

    /// Takes sorted entries.
    pub(super) fn set(&mut self, entries: &[Entry]) {
        let mut runs: Vec<Run> = Vec::new();
        for (entry, end) in entries.iter().zip(1_u32..) {
            let pair = entry.pair();
            match runs.last_mut() {
                Some(run) if run.pair == pair => run.end = end,
                _ => runs.push(Run { pair, end }),
            }
        }
        self.runs = runs.into_boxed_slice();
        self.minutes = entries.iter().map(|entry| entry.minute()).collect();
        self.users = Users::of(entries);
    }

    /// The runs of sorted entries: pair, minutes, users.
    pub(super) fn columns(&self) -> impl Iterator<Item = (u16, &[u8], Column<'_>)> {
        let mut start = 0;
        self.runs.iter().map(move |run| {
            let range = start..run.end as usize;
            start = run.end as usize;
            let minutes = self.minutes.get(range.clone()).unwrap_or_default();
            (run.pair, minutes, self.users.all().part(range))
        })
    }

    /// The sorted entries.
    pub(super) fn sorted(&self) -> impl Iterator<Item = Entry> {
        self.columns().flat_map(|(pair, minutes, users)| {
            let both = minutes.iter().zip(users.iter());
            both.map(move |(minute, user)| Entry::new(pair, *minute, user))
        })
    }

    pub(super) fn extras(&self) -> &[Extra] {
        &self.extras
    }

    /// Calls `f` with the minutes and users of sorted entries in `minutes` of each wanted pair.
    pub(super) fn sorted_users(
        &self,
        wanted: impl Fn(u16) -> bool,
        minutes: &Range<u8>,
        mut f: impl FnMut(&[u8], Column<'_>),
    ) {
        for (pair, column, users) in self.columns() {
            if !wanted(pair) {
                continue;
            }
            // Sorted by minute: the part that is meant is one piece.
            let from = column.partition_point(|minute| *minute < minutes.start);
            let to = column.partition_point(|minute| *minute < minutes.end);
            let column = column.get(from..to).unwrap_or_default();
            f(column, users.part(from..to));
        }
    }

    /// The minutes and users of the other entries in `minutes` of wanted pairs.
    pub(super) fn late_users(
        &self,
        wanted: impl Fn(u16) -> bool,
        minutes: &Range<u8>,
    ) -> impl Iterator<Item = (u8, u32)> {
        let tail = self.tail.iter();
        let tail = tail.filter(move |it| minutes.contains(&it.minute()) && wanted(it.pair()));
        tail.map(|entry| (entry.minute(), entry.user()))
    }

    /// Calls `f` with pair and number of events; some pairs come several times.
    pub(super) fn totals(&self, mut f: impl FnMut(u16, u64)) {
        for (pair, _, users) in self.columns() {
            f(pair, users.len() as u64);
        }
        for entry in &self.tail {
            f(entry.pair(), 1);
        }
        for extra in &self.extras {
            f(extra.pair, extra.count);
        }
    }

    /// Calls `f` with pair, minute and number of events, in `minutes`; some pairs and minutes come
    /// several times.
    pub(super) fn counts(&self, minutes: &Range<u8>, mut f: impl FnMut(u16, u8, u64)) {
        for (pair, column, _) in self.columns() {
            for same in column.chunk_by(|a, b| a == b) {
                if let Some(minute) = same.first()
                    && minutes.contains(minute)
                {
                    f(pair, *minute, same.len() as u64);
                }
            }
        }
        for entry in &self.tail {
            if minutes.contains(&entry.minute()) {
                f(entry.pair(), entry.minute(), 1);
            }
        }
        for extra in &self.extras {
            if minutes.contains(&extra.minute) {
                f(extra.pair, extra.minute, extra.count);
            }
        }
    }
}

/// Appends `entry`, unless it is there.
fn push_new(merged: &mut Vec<Entry>, repeated: &mut Vec<Entry>, entry: Entry) {
    if merged.last() == Some(&entry) {
        repeated.push(entry);
    } else {
        merged.push(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_are_counted_once_as_users_and_each_as_events() {
        let mut cell = Cell::default();
        for round in 0..100_u32 {
            cell.push(3, 7, Some(round % 5));
            cell.push(1, 59, None);
            cell.pushed();
        }
        for settled in [false, true] {
            if settled {
                cell.settle();
                assert_eq!(cell.minutes.len(), 5);
            }
            let mut users = std::collections::BTreeSet::new();
            cell.sorted_users(|pair| pair == 3, &(7..8), |_, it| users.extend(it.iter()));
            users.extend(cell.late_users(|pair| pair == 3, &(7..8)).map(|it| it.1));
            assert_eq!(users.len(), 5);
            let mut counts = [0; 2];
            cell.counts(&(0..60), |pair, _, n| counts[usize::from(pair == 3)] += n);
            assert_eq!(counts, [100, 100]);
            let mut totals = [0; 2];
            cell.totals(|pair, n| totals[usize::from(pair == 3)] += n);
            assert_eq!(totals, counts);
        }
        let mut outside = 0;
        cell.counts(&(8..59), |_, _, n| outside += n);
        cell.sorted_users(
            |_| true,
            &(8..60),
            |_, users| {
                outside += users.len() as u64;
            },
        );
        outside += cell.late_users(|pair| pair == 3, &(8..60)).count() as u64;
        assert_eq!(outside, 0);
    }

    #[test]
    fn users_of_one_block_or_of_several_are_the_same_to_readers() {
        for far in [9, 4 << 16] {
            let mut cell = Cell::default();
            let users = [1, 2, far];
            for (minute, user) in (0..).zip(users) {
                cell.push(3, minute, Some(3 << 16 | user));
                cell.push(4, minute, Some(3 << 16 | user));
            }
            cell.settle();
            cell.settle();
            let one = matches!(cell.users, Users::OfBlock(..));
            assert_eq!(one, far == 9);
            let found: Vec<u32> = cell.sorted().map(Entry::user).collect();
            assert_eq!(found[..3], users.map(|user| 3 << 16 | user));
            assert_eq!(found[..3], found[3..]);
            let mut part = Vec::new();
            cell.sorted_users(|pair| pair == 4, &(1..3), |_, it| part.extend(it.iter()));
            assert_eq!(part, found[1..3]);
        }
    }
}
