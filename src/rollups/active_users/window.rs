//! Spans of days in a row that only ever advance.
//!
//! A queue of two stacks: of the days of the first span, the older ones, there is a union of each
//! with all after it; the newer ones, which later spans have beside some of those, are joined as
//! they come. So each day's users are joined twice, however long the spans are. It ends with the
//! first span that has no older days, and another begins.

use crate::rollups::set::bits::{self, head, head_mut, ones};
use crate::rollups::set::together::{Gathered, Group, end_of, join_group};
use crate::rollups::set::{Bits, Held, WORDS};

/// See the module's page.
#[derive(Default)]
pub(super) struct Window<'a> {
    sets: Gathered<'a>,
    /// The sets of each older day.
    older: Vec<Group>,
    spans: Vec<Part>,
}

/// Whose users are in a span.
struct Part {
    /// How many of the older days are not in it.
    gone: usize,
    /// The sets of the days that it has and the span before has not.
    newer: Group,
    /// The sets of what it has beside whole days.
    ends: Group,
}

impl<'a> Window<'a> {
    /// Adds the next day of the first span.
    pub(super) fn add_older(&mut self, sets: Vec<Held<'a>>) {
        let sets = self.sets.add(sets);
        self.older.push(sets);
    }

    /// Adds the next span: without so many of the older days, with days that the one before has
    /// not, and with parts of others.
    pub(super) fn add_span(&mut self, gone: usize, newer: Vec<Held<'a>>, ends: Vec<Held<'a>>) {
        let (newer, ends) = (self.sets.add(newer), self.sets.add(ends));
        self.spans.push(Part { gone, newer, ends });
    }

    /// The users of each span, of all blocks or of `only` some. `unions` is room to work in.
    pub(super) fn count(&self, only: Option<&[u16]>, unions: &mut Vec<Bits>) -> Vec<u64> {
        let mut counts = vec![0; self.spans.len()];
        // The last one, after all older days, stays empty.
        unions.clear();
        unions.resize(self.older.len() + 1, [0; WORDS]);
        let (mut newer, mut all) = ([0; WORDS], [0; WORDS]);
        let mut blocks = self.sets.together(only);
        while let Some(members) = blocks.advance() {
            let end = end_of(members);
            let (newer, all) = (head_mut(&mut newer, end), head_mut(&mut all, end));
            newer.fill(0);
            for (day, union) in self.older.iter().zip(unions.iter_mut()).rev() {
                join_group(members, day, newer);
                head_mut(union, end).copy_from_slice(newer);
            }
            newer.fill(0);
            for (part, count) in self.spans.iter().zip(&mut counts) {
                join_group(members, &part.newer, newer);
                let Some(older) = unions.get(part.gone) else {
                    continue;
                };
                let older = head(older, end);
                if part.ends.is_empty() {
                    *count += bits::union_len(older, newer);
                    continue;
                }
                all.copy_from_slice(newer);
                bits::join(all, older);
                join_group(members, &part.ends, all);
                *count += ones(all);
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rollups::set::tests::some_users;
    use crate::rollups::set::{UserSet, union_len};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn spans_have_the_users_of_their_days(seed: u64) {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut sets = |count| -> Vec<UserSet> {
                (0..count).map(|_| some_users(&mut random).into_iter().collect()).collect()
            };
            let (days, parts) = (sets(24), sets(8));
            let kept = |range: std::ops::Range<usize>| days[range].iter().map(Held::Kept).collect();
            let first = random.usize(..8);
            let only: Option<Vec<u16>> = random.bool().then(|| vec![0, 2, 9]);
            let mut window = Window::default();
            (0..first).for_each(|day| window.add_older(kept(day..day + 1)));
            let (mut gone, mut end) = (0, first);
            let mut expected = Vec::new();
            for _ in 0..random.usize(1..10) {
                let newer = end..random.usize(end..=days.len().min(end + 3));
                end = newer.end;
                let few = random.usize(..3);
                let ends = || parts.iter().take(few).map(Held::Kept).collect::<Vec<_>>();
                window.add_span(gone, kept(newer), ends());
                let mut all: Vec<Held<'_>> = kept(gone..end);
                all.extend(ends());
                expected.push(union_len(&all, only.as_deref()));
                gone = random.usize(gone..=first);
            }
            let mut room = vec![[u64::MAX; WORDS]; 3];
            prop_assert_eq!(window.count(only.as_deref(), &mut room), expected);
        }
    }
}
