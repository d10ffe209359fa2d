//! The manifest: which runs exist, and which events they cover. It alone decides; a run that it
//! doesn't name is a stray that some crash left behind.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use super::page::u64_at;
use crate::store::embedded::schema::sync_dir;

/// The file's name in the index's directory.
pub(super) const NAME: &str = "manifest";
/// What it is called until it is whole.
pub(super) const NEW_NAME: &str = "manifest.new";

/// The last byte is the version.
const MAGIC: [u8; 8] = *b"tg-seen\x02";
const HEAD: usize = 40;
const LINE: usize = 24;

/// One run, as the manifest knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Line {
    /// Its number, and so its file's name.
    pub(super) run: u64,
    /// Bytes of its file.
    pub(super) length: u64,
    /// Random, and in the file too: another run of the same number and length is none of these.
    pub(super) tag: u64,
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Manifest {
    /// Whose identities these are.
    pub(super) owner: u64,
    /// Every identity of a sequence up to this one is in the runs.
    pub(super) covers: u64,
    /// Greater than the number of any run that ever was.
    pub(super) next_run: u64,
    pub(super) runs: Vec<Line>,
}

impl Manifest {
    /// Reads it; `None` if there is none. One that isn't what was written is `InvalidData`.
    pub(super) fn read(dir: &Path) -> io::Result<Option<Self>> {
        match fs::read(dir.join(NAME)) {
            Ok(bytes) => parse(&bytes).map(Some).ok_or_else(|| {
                io::Error::new(ErrorKind::InvalidData, "not a manifest of this version")
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes it beside the one that holds, which goes on to hold.
    pub(super) fn prepare(&self, dir: &Path) -> io::Result<()> {
        // First the names of the new runs: a manifest never reaches the disk before them.
        sync_dir(dir)?;
        let mut file = File::create(dir.join(NEW_NAME))?;
        file.write_all(&self.encode())?;
        file.sync_all()
    }

    /// Puts the one that was prepared in the place of the one that holds, all or nothing, and
    /// durably. After an error either of them may hold.
    pub(super) fn replace(dir: &Path) -> io::Result<()> {
        fs::rename(dir.join(NEW_NAME), dir.join(NAME))?;
        sync_dir(dir)
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        let head = [
            self.owner,
            self.covers,
            self.next_run,
            self.runs.len() as u64,
        ];
        let lines = self
            .runs
            .iter()
            .flat_map(|line| [line.run, line.length, line.tag]);
        for number in head.into_iter().chain(lines) {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        let sum = xxh3_64(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes
    }
}

fn parse(bytes: &[u8]) -> Option<Manifest> {
    let (body, sum) = bytes.split_last_chunk::<8>()?;
    let sound = body.starts_with(&MAGIC) && xxh3_64(body) == u64::from_le_bytes(*sum);
    let (lines, rest) = body.get(HEAD..)?.as_chunks::<LINE>();
    if !sound || !rest.is_empty() || lines.len() as u64 != u64_at(body, 32) {
        return None;
    }
    Some(Manifest {
        owner: u64_at(body, 8),
        covers: u64_at(body, 16),
        next_run: u64_at(body, 24),
        runs: lines
            .iter()
            .map(|line| Line {
                run: u64_at(line, 0),
                length: u64_at(line, 8),
                tag: u64_at(line, 16),
            })
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_as_it_was_written_and_any_damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Manifest::read(dir.path()).unwrap(), None);
        let line = |run| Line {
            run,
            length: run * 4096,
            tag: !run,
        };
        let manifest = Manifest {
            owner: u64::MAX,
            covers: 77,
            next_run: 9,
            runs: vec![line(3), line(8)],
        };
        manifest.prepare(dir.path()).unwrap();
        assert_eq!(Manifest::read(dir.path()).unwrap(), None);
        Manifest::replace(dir.path()).unwrap();
        assert_eq!(Manifest::read(dir.path()).unwrap(), Some(manifest.clone()));
        let good = manifest.encode();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse(&bad), None, "bit {bit}");
        }
        for length in 0..good.len() {
            assert_eq!(parse(&good[..length]), None);
        }
    }
}
