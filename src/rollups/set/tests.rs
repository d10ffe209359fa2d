//! Against the bitmaps of the crate `roaring`, which do the same.

use std::sync::Arc;

use proptest::prelude::*;
use roaring::RoaringBitmap;

use super::*;

/// Sorted users, all different: of few blocks or many, near each other or not.
fn batch(random: &mut fastrand::Rng) -> Vec<u32> {
    let count = [1, 3, 60, 2_000, 5_000, 12_000][random.usize(..6)];
    let width = [3, 4_096, 4_097, 10_000, 1 << 16][random.usize(..5)];
    let blocks = [0, 1, 2, 700, u16::MAX];
    let first = random.usize(..blocks.len());
    let last = random.usize(first..blocks.len());
    let users = (0..count).map(|_| {
        let block = u32::from(blocks[random.usize(first..=last)]);
        let low = random.u32(0..width);
        block << 16
            | if random.u8(..50) == 0 {
                0xffff - low
            } else {
                low
            }
    });
    let mut users: Vec<u32> = users.collect();
    users.sort_unstable();
    users.dedup();
    users
}

/// Users in no order of up to three blocks: few, or so many that they lie as bits.
pub(in crate::rollups) fn some_users(random: &mut fastrand::Rng) -> Vec<u32> {
    let count = [0, 5, 500, 12_000][random.usize(..4)];
    let width = [70, 1 << 14, 1 << 16][random.usize(..3)];
    let blocks = random.u32(1..4);
    let users = (0..count).map(|_| random.u32(..blocks) << 16 | random.u32(..width));
    users.collect()
}

fn set_of(users: &[u32]) -> UserSet {
    let mut set = UserSet::default();
    set.insert(&mut users.to_vec());
    set
}

/// The users, after a check that they lie as they should.
#[track_caller]
fn users(set: &UserSet) -> Vec<u32> {
    assert!(set.blocks.is_sorted_by(|a, b| a.number < b.number));
    let mut users = Vec::new();
    for block in &set.blocks {
        let mut scratch = [0; WORDS];
        let end = block.members.end();
        block.members.add_to(&mut scratch[..end]);
        match &block.members {
            Members::Few(list) => {
                assert!(!list.is_empty() && list.len() <= LISTED);
                assert!(list.is_sorted_by(|a, b| a < b));
            }
            Members::Many(many) => {
                assert!(many.count as usize > LISTED);
                assert_eq!(scratch, *many.bits, "no bits from `end` on");
            }
        }
        assert_ne!(scratch[end - 1], 0, "`end` is no larger than it must be");
        assert_eq!(block.members.len(), ones(&scratch));
        each(&scratch, |low| {
            users.push(u32::from(block.number) << 16 | u32::from(low));
        });
    }
    assert_eq!(set.len(), users.len() as u64);
    assert_eq!(set.is_empty(), users.is_empty());
    users
}

#[track_caller]
fn same(set: &UserSet, oracle: &RoaringBitmap) {
    assert!(users(set).into_iter().eq(oracle.iter()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn sets_are_those_of_roaring(seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut sets = vec![(UserSet::default(), RoaringBitmap::new()); 3];
        for _ in 0..random.usize(1..20) {
            let place = random.usize(..sets.len());
            let (other, other_oracle) = sets[random.usize(..sets.len())].clone();
            let (set, oracle) = &mut sets[place];
            match random.u8(..8) {
                0 => {
                    set.join(&other);
                    *oracle |= other_oracle;
                }
                1 => {
                    let gone: Vec<u16> = [0, 2, 3, 700].into_iter().filter(|_| random.bool()).collect();
                    set.remove_blocks(&gone);
                    oracle.iter().filter(|it| gone.contains(&upper(*it))).collect::<Vec<_>>()
                        .into_iter().for_each(|it| { oracle.remove(it); });
                }
                2 => {
                    let mut shuffled = batch(&mut random);
                    random.shuffle(&mut shuffled);
                    *set = shuffled.iter().copied().collect();
                    *oracle = shuffled.into_iter().collect();
                }
                _ => {
                    let mut new = batch(&mut random);
                    let expected: Vec<u32> = new.iter().copied().filter(|it| oracle.insert(*it)).collect();
                    set.insert(&mut new);
                    prop_assert_eq!(new, expected, "who is new");
                }
            }
            same(set, oracle);
        }
        let [(one, _), (other, _), _] = &sets[..] else { unreachable!() };
        prop_assert_eq!(one == other, sets[0].1 == sets[1].1);
        let again: UserSet = users(one).into_iter().collect();
        prop_assert_eq!(&again, one, "however it came about");
    }

    #[test]
    fn unions_are_counted(seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        let batches: Vec<Vec<u32>> = (0..random.usize(..6)).map(|_| batch(&mut random)).collect();
        let sets: Vec<UserSet> = batches.iter().map(|it| set_of(it)).collect();
        let held: Vec<Held<'_>> = sets.iter().map(|set| {
            if random.bool() { Held::Kept(set) } else { Held::Made(Arc::new(set.clone())) }
        }).collect();
        let all: RoaringBitmap = batches.iter().flatten().copied().collect();
        prop_assert_eq!(union_len(&held, None), all.len());
        let only: Vec<u16> = [0, 1, 3, 700, u16::MAX].into_iter().filter(|_| random.bool()).collect();
        let expected = all.iter().filter(|it| only.contains(&upper(*it))).count();
        prop_assert_eq!(union_len(&held, Some(&only)), expected as u64);
    }

    #[test]
    fn bits_are_counted(seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut one = [0; WORDS];
        let mut other = [0; WORDS];
        let lists = [&mut one, &mut other].map(|bits| {
            let list: Vec<u16> = (0..random.usize(..9_000)).map(|_| random.u16(..)).collect();
            bits::set(bits, &list);
            list
        });
        let sets = lists.clone().map(|list| list.into_iter().map(u32::from).collect::<RoaringBitmap>());
        prop_assert_eq!(ones(&one), sets[0].len());
        prop_assert_eq!(bits::union_len(&one, &other), sets[0].union_len(&sets[1]));
        prop_assert_eq!(bits::intersection_len(&one, &other), sets[0].intersection_len(&sets[1]));
        let mut distinct = lists[0].clone();
        distinct.sort_unstable();
        distinct.dedup();
        prop_assert_eq!(bits::count_listed(&other, &distinct), sets[0].intersection_len(&sets[1]));
        let mut found = Vec::new();
        each(&one, |low| found.push(low));
        prop_assert_eq!(found, distinct);
        let end = random.usize(..=WORDS);
        prop_assert_eq!(head(&one, end), &one[..end]);
        prop_assert_eq!(bits::head_mut(&mut other, end).len(), end);
    }
}

#[test]
fn a_block_is_listed_up_to_4096_users() {
    let listed = |set: &UserSet| matches!(set.blocks[0].members, Members::Few(_));
    let first = 3 << 16;
    for step in [1, 7, 15] {
        let all: Vec<u32> = (0..4_097).map(|it| first + it * step).collect();
        let (bound, last) = all.split_at(4_096);
        for (users, expected) in [(bound, true), (&all[..], false)] {
            let mut joined = set_of(&users[..2_000]);
            joined.join(&set_of(&users[1_000..]));
            let mut one_by_one = UserSet::default();
            for user in users {
                one_by_one.insert(&mut vec![*user]);
            }
            let mut onto = set_of(bound);
            onto.insert(&mut users.to_vec());
            for set in [
                set_of(users),
                users.iter().copied().collect(),
                joined,
                one_by_one,
                onto,
            ] {
                assert_eq!(listed(&set), expected);
                assert_eq!(self::users(&set), users);
            }
        }
        let mut known = set_of(bound);
        known.insert(&mut bound.to_vec());
        assert!(listed(&known), "nobody is new");
        known.insert(&mut last.to_vec());
        assert!(!listed(&known));
    }
}

#[test]
fn blocks_have_edges() {
    let edges = [0, 0xfffe, 0xffff, 0x1_0000, 0x1_ffff, 0xffff_0000, u32::MAX];
    let set = set_of(&edges);
    assert_eq!(set.blocks.len(), 3);
    assert_eq!(users(&set), edges);
    let mut dense = Dense::default();
    for user in edges.into_iter().rev() {
        assert!(dense.insert_briefly(user));
        assert!(!dense.insert_briefly(user));
    }
    dense.clear();
    assert!(dense.insert_briefly(0xffff));
    assert_eq!(users(&dense.into_set()), [0xffff]);
}

#[test]
fn lists_have_little_room_to_spare() {
    let mut random = fastrand::Rng::with_seed(1);
    let mut set = UserSet::default();
    for _ in 0..4_096 {
        set.insert(&mut vec![random.u32(..1 << 16)]);
        let Members::Few(list) = &set.blocks[0].members else {
            panic!("so few are listed");
        };
        assert!(list.capacity() <= list.len() + list.len() / 16 + 1);
        assert_eq!(set.bytes(), size_of::<Block>() + 2 * list.len());
    }
}
