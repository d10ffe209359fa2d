//! The witness: a small file beside the database that holds the number of the last commit.
//!
//! SQLite can't tell a log whose end was never written from one whose middle was wiped out: both
//! end early, and acknowledged commits are gone in silence. The witness gets each commit's number
//! after its sync, by a plain write: it survives the end of the process, and after a loss of power
//! it may be behind the store, never ahead of it. A store behind its witness has lost commits.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

/// The file's name in the data directory.
pub(super) const NAME: &str = "witness";

const MAGIC: [u8; 8] = *b"tollgate";
const LENGTH: usize = 24;

/// What the witness says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Testimony {
    /// There is none.
    Missing,
    /// The number of the last commit that was acknowledged.
    Commit(u64),
    /// It is not what was written.
    Damaged,
}

/// The open file.
#[derive(Debug)]
pub(super) struct Witness(File);

impl Witness {
    /// Reads the witness in `dir` without touching it.
    pub(super) fn read(dir: &Path) -> io::Result<Testimony> {
        let bytes = match std::fs::read(dir.join(NAME)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Testimony::Missing),
            Err(error) => return Err(error),
        };
        Ok(parse(&bytes).map_or(Testimony::Damaged, Testimony::Commit))
    }

    /// Opens or makes the witness in `dir` and sets it to `commit`, synced.
    pub(super) fn set(dir: &Path, commit: u64) -> io::Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join(NAME))?;
        file.set_len(LENGTH as u64)?;
        let witness = Self(file);
        witness.note(commit)?;
        witness.0.sync_all()?;
        Ok(witness)
    }

    /// Takes note of a commit, without a sync.
    pub(super) fn note(&self, commit: u64) -> io::Result<()> {
        self.0.write_all_at(&line(commit), 0)
    }
}

fn line(commit: u64) -> [u8; LENGTH] {
    let mut line = [0; LENGTH];
    let (head, digest) = line.split_at_mut(16);
    let (magic, number) = head.split_at_mut(8);
    magic.copy_from_slice(&MAGIC);
    number.copy_from_slice(&commit.to_le_bytes());
    digest.copy_from_slice(&xxh3_64(head).to_le_bytes());
    line
}

fn parse(bytes: &[u8]) -> Option<u64> {
    let commit = u64::from_le_bytes(bytes.get(8..16)?.try_into().ok()?);
    (bytes == line(commit)).then_some(commit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_was_noted_last() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Witness::read(dir.path()).unwrap(), Testimony::Missing);
        let witness = Witness::set(dir.path(), 0).unwrap();
        for commit in [1, 2, u64::MAX] {
            witness.note(commit).unwrap();
            assert_eq!(
                Witness::read(dir.path()).unwrap(),
                Testimony::Commit(commit)
            );
        }
    }

    #[test]
    fn any_flipped_bit_or_lost_byte_is_noticed() {
        let good = line(77);
        assert_eq!(parse(&good), Some(77));
        for bit in 0..LENGTH * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse(&bad), None, "bit {bit}");
        }
        for length in 0..LENGTH {
            assert_eq!(parse(&good[..length]), None);
        }
    }
}
