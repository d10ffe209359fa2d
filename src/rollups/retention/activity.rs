//! Who was active in which windows, block by block.

use crate::rollups::set::bits::{count_listed, each, head, head_mut, intersection_len};
use crate::rollups::set::together::{Gathered, Group, end_of, join_group, of_group};
use crate::rollups::set::{Held, Members, WORDS};

/// The sets of some windows in a row, and of what was before them.
#[derive(Default)]
pub(super) struct Activity<'a> {
    sets: Gathered<'a>,
    windows: Vec<Group>,
    before: Group,
}

impl<'a> Activity<'a> {
    /// Adds the next window.
    pub(super) fn add_window(&mut self, sets: Vec<Held<'a>>) {
        let sets = self.sets.add(sets);
        self.windows.push(sets);
    }

    /// Whoever is in these sets is in no cohort.
    pub(super) fn set_before(&mut self, sets: Vec<Held<'a>>) {
        self.before = self.sets.add(sets);
    }

    /// Of those who came first in each of the first `cohorts` windows, how many there are in that
    /// one and in each of as many windows from it on; users of all blocks or of `only` some.
    pub(super) fn retained(&self, cohorts: usize, only: Option<&[u16]>) -> Vec<Vec<u64>> {
        let mut retained = vec![vec![0; cohorts]; cohorts];
        let mut room = vec![[0; WORDS]; self.windows.len()];
        let (mut known, mut cohort) = ([0; WORDS], [0; WORDS]);
        let mut list = Vec::new();
        let mut blocks = self.sets.together(only);
        while let Some(members) = blocks.advance() {
            let end = end_of(members);
            let windows = self.windows.iter().zip(&mut room);
            let active: Vec<&[u64]> = windows
                .map(|(group, room)| active(members, group, head_mut(room, end)))
                .collect();
            let (known, cohort) = (head_mut(&mut known, end), head_mut(&mut cohort, end));
            known.fill(0);
            join_group(members, &self.before, known);
            for (first, retained) in retained.iter_mut().enumerate() {
                let windows = active.get(first..).unwrap_or_default();
                let own = windows.first().copied().unwrap_or_default();
                let size = move_new(own, known, cohort);
                if size == 0 {
                    continue;
                }
                // To look for one listed user takes as long as a word and a half.
                let few = size * 3 < 2 * end as u64;
                if few {
                    list.clear();
                    each(cohort, |low| list.push(low));
                }
                for (window, sum) in windows.iter().zip(retained) {
                    *sum += if few {
                        count_listed(window, &list)
                    } else {
                        intersection_len(window, cohort)
                    };
                }
            }
        }
        retained
    }
}

/// The users of a block in a window, as they lie in its only set or joined in `room`.
fn active<'a>(members: &[Option<&'a Members>], group: &Group, room: &'a mut [u64]) -> &'a [u64] {
    let mut present = of_group(members, group);
    let (first, more) = (present.next(), present.next().is_some());
    let Some(first) = first else {
        return &[];
    };
    if let Some(bits) = first.bits().filter(|_| !more) {
        return head(bits, room.len());
    }
    room.fill(0);
    join_group(members, group, room);
    room
}

/// Makes `cohort` those of `own` that are not `known`, makes them known, and counts them.
fn move_new(own: &[u64], known: &mut [u64], cohort: &mut [u64]) -> u64 {
    let mut size = 0;
    for ((own, known), cohort) in own.iter().zip(known).zip(cohort) {
        *cohort = own & !*known;
        *known |= own;
        size += u64::from(cohort.count_ones());
    }
    size
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use roaring::RoaringBitmap;

    use super::*;
    use crate::rollups::set::UserSet;
    use crate::rollups::set::tests::some_users;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn cohorts_are_followed(seed: u64) {
            let mut random = fastrand::Rng::with_seed(seed);
            let cohorts = random.usize(1..9);
            // In a window there are up to three sets.
            let mut batches = || -> Vec<Vec<u32>> {
                (0..random.usize(..4)).map(|_| some_users(&mut random)).collect()
            };
            let before = batches();
            let windows: Vec<Vec<Vec<u32>>> = (1..2 * cohorts).map(|_| batches()).collect();
            let only: Option<Vec<u16>> = random.bool().then(|| vec![0, 2, 9]);

            let sets = |batches: &[Vec<u32>]| batches.iter().map(|it| it.iter().copied().collect()).collect();
            let kept: Vec<Vec<UserSet>> = windows.iter().map(|it| sets(it)).collect();
            let kept_before: Vec<UserSet> = sets(&before);
            let mut activity = Activity::default();
            for window in &kept {
                activity.add_window(window.iter().map(Held::Kept).collect());
            }
            activity.set_before(kept_before.iter().map(Held::Kept).collect());

            let meant = |user: &u32| only.as_ref().is_none_or(|it| it.contains(&((user >> 16) as u16)));
            let oracle = |batches: &[Vec<u32>]| -> RoaringBitmap {
                batches.iter().flatten().copied().filter(meant).collect()
            };
            let mut known = oracle(&before);
            let active: Vec<RoaringBitmap> = windows.iter().map(|it| oracle(it)).collect();
            let expected: Vec<Vec<u64>> = (0..cohorts).map(|first| {
                let cohort = &active[first] - &known;
                known |= &active[first];
                let later = active[first..first + cohorts].iter();
                later.map(|it| cohort.intersection_len(it)).collect()
            }).collect();
            prop_assert_eq!(activity.retained(cohorts, only.as_deref()), expected);
        }
    }
}
