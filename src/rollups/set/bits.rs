//! The bits of a block: plain loops over words, which the compiler makes wide.

/// The words of a block.
pub(in crate::rollups) const WORDS: usize = 1 << 10;

/// A bit for each number of a block, the lowest first.
pub(in crate::rollups) type Bits = [u64; WORDS];

/// The word and the bit of a number.
pub(super) fn place(low: u16) -> (usize, u64) {
    (usize::from(low >> 6), 1 << (low & 63))
}

/// The first words.
pub(in crate::rollups) fn head(bits: &Bits, end: usize) -> &[u64] {
    bits.get(..end).unwrap_or(bits)
}

/// The first words.
pub(in crate::rollups) fn head_mut(bits: &mut Bits, end: usize) -> &mut [u64] {
    let end = end.min(WORDS);
    bits.split_at_mut(end).0
}

/// Sets what is set in `other`.
pub(in crate::rollups) fn join(bits: &mut [u64], other: &[u64]) {
    for (word, other) in bits.iter_mut().zip(other) {
        *word |= other;
    }
}

/// Sets the bits of listed numbers.
pub(super) fn set(bits: &mut [u64], list: &[u16]) {
    for low in list {
        let (word, bit) = place(*low);
        if let Some(word) = bits.get_mut(word) {
            *word |= bit;
        }
    }
}

/// How many are set.
pub(in crate::rollups) fn ones(bits: &[u64]) -> u64 {
    bits.iter().map(|word| u64::from(word.count_ones())).sum()
}

/// How many are set in either.
pub(in crate::rollups) fn union_len(one: &[u64], other: &[u64]) -> u64 {
    let either = one.iter().zip(other).map(|(one, other)| one | other);
    either.map(|word| u64::from(word.count_ones())).sum()
}

/// How many of the listed numbers are set.
pub(in crate::rollups) fn count_listed(bits: &[u64], list: &[u16]) -> u64 {
    let set = list.iter().map(|low| {
        let (word, bit) = place(*low);
        bits.get(word).map_or(0, |word| u64::from(word & bit != 0))
    });
    set.sum()
}

/// How many are set in both.
pub(in crate::rollups) fn intersection_len(one: &[u64], other: &[u64]) -> u64 {
    let both = one.iter().zip(other).map(|(one, other)| one & other);
    both.map(|word| u64::from(word.count_ones())).sum()
}

#[expect(clippy::cast_possible_truncation, reason = "a bit of 64")]
fn lowest(word: u64) -> u16 {
    word.trailing_zeros() as u16
}

/// Calls `f` with each number whose bit is set, ascending.
pub(in crate::rollups) fn each(bits: &[u64], mut f: impl FnMut(u16)) {
    for (first, word) in (0_u16..=u16::MAX).step_by(64).zip(bits) {
        let mut word = *word;
        while word != 0 {
            f(first | lowest(word));
            word &= word - 1;
        }
    }
}
