//! One page of a run: up to 145 records in ascending order, under a checksum of their own.
//!
//! ```text
//! 0..8    xxh3 of the rest, mixed with the run's tag and the page's number
//! 8..10   number of records
//! 10..16  zero
//! 16..    records of 28 bytes: identity, time, content hash; little endian
//! ```
//!
//! The place is part of the checksum, so that a sound page in the wrong place is noticed too, also
//! in the file of another store whose runs have the same numbers.

use xxhash_rust::xxh3::xxh3_64;

use super::{Entry, First, Identity};

/// Bytes of a page.
pub(super) const PAGE: usize = 4096;
/// Bytes of a record.
const RECORD: usize = 28;
const HEAD: usize = 16;
/// Records of a full page.
pub(super) const PER_PAGE: usize = (PAGE - HEAD) / RECORD;

/// Where a page belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    /// The tag of its run.
    pub(super) tag: u64,
    pub(super) page: u64,
}

impl Place {
    fn mix(self, sum: u64) -> u64 {
        sum ^ self.tag ^ self.page
    }
}

/// The `N` bytes at `at`; zeros past the end, which no caller reaches.
pub(super) fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes
        .get(at..at + N)
        .and_then(|part| part.try_into().ok())
        .unwrap_or([0; N])
}

/// The little-endian number at `at`.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes_at(bytes, at))
}

/// Appends the page that holds `entries`, at most [`PER_PAGE`] of them.
pub(super) fn append(out: &mut Vec<u8>, entries: &[Entry], place: Place) {
    debug_assert!(entries.len() <= PER_PAGE, "a page has its bound");
    let start = out.len();
    out.extend_from_slice(&[0; 8]);
    let count = u16::try_from(entries.len()).unwrap_or(0);
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&[0; 6]);
    for (identity, first) in entries {
        out.extend_from_slice(&identity.to_le_bytes());
        out.extend_from_slice(&first.time.to_le_bytes());
        out.extend_from_slice(&first.content.to_le_bytes());
    }
    out.resize(start + PAGE, 0);
    let (_, page) = out.split_at_mut(start);
    let (sum, rest) = page.split_at_mut(8);
    sum.copy_from_slice(&place.mix(xxh3_64(rest)).to_le_bytes());
}

/// The records of a page; `None` if it is not what was written at `place`.
pub(super) fn records(page: &[u8], place: Place) -> Option<&[[u8; RECORD]]> {
    let (sum, rest) = page.split_first_chunk::<8>()?;
    if page.len() != PAGE || place.mix(xxh3_64(rest)) != u64::from_le_bytes(*sum) {
        return None;
    }
    let count = usize::from(u16::from_le_bytes(bytes_at(page, 8)));
    let (records, _) = page.get(HEAD..)?.as_chunks::<RECORD>();
    records.get(..count)
}

fn identity_of(record: &[u8; RECORD]) -> Identity {
    Identity::from_le_bytes(bytes_at(record, 0))
}

/// A record as it was appended.
pub(super) fn entry_of(record: &[u8; RECORD]) -> Entry {
    let first = First {
        time: i64::from_le_bytes(bytes_at(record, 16)),
        content: u32::from_le_bytes(bytes_at(record, 24)),
    };
    (identity_of(record), first)
}

/// Looks `identity` up in the records of a page.
pub(super) fn find(records: &[[u8; RECORD]], identity: Identity) -> Option<First> {
    let at = records.binary_search_by_key(&identity, identity_of).ok()?;
    records.get(at).map(|record| entry_of(record).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { tag: 3, page: 7 };

    fn entries() -> Vec<Entry> {
        (0..u32::try_from(PER_PAGE).unwrap())
            .map(|n| {
                let first = First {
                    time: -i64::from(n),
                    content: u32::MAX - n,
                };
                (u128::from(n) << 64 | 5, first)
            })
            .collect()
    }

    #[test]
    fn finds_every_record_and_no_other() {
        for count in [0, 1, 2, PER_PAGE] {
            let entries = &entries()[..count];
            let mut bytes = Vec::new();
            append(&mut bytes, entries, PLACE);
            assert_eq!(bytes.len(), PAGE);
            let records = records(&bytes, PLACE).unwrap();
            assert_eq!(records.iter().map(entry_of).collect::<Vec<_>>(), entries);
            for &(identity, first) in entries {
                assert_eq!(find(records, identity), Some(first));
                assert_eq!(find(records, identity + 1), None);
                assert_eq!(find(records, identity - 1), None);
            }
        }
    }

    #[test]
    fn any_flipped_bit_and_any_other_place_is_noticed() {
        let mut bytes = Vec::new();
        append(&mut bytes, &entries()[..100], PLACE);
        for bit in 0..PAGE * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(records(&bytes, PLACE).is_none(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(records(&bytes, PLACE).is_some());
        assert!(records(&bytes, Place { tag: 3, page: 8 }).is_none());
        assert!(records(&bytes, Place { tag: 4, page: 7 }).is_none());
        assert!(records(&[0; PAGE], PLACE).is_none());
        assert!(records(&bytes[..PAGE - 1], PLACE).is_none());
    }
}
