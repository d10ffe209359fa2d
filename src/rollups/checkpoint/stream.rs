//! A stream of numbers and bytes in chunks, each with a checksum.
//!
//! ```text
//! magic (8) version (1) identity (16)   { length (4) checksum (8) payload (length) }*   0 (4) checksum (8)
//! ```
//!
//! The checksum of a chunk starts from that of the chunk before, so none can be left out, repeated
//! or taken from another stream. Numbers are little-endian, and those in a payload are varints.

use std::io::{ErrorKind, Read, Write};

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::Unrestored;

const MAGIC: [u8; 8] = *b"rollups\n";

/// Another one means another layout.
const VERSION: u8 = 2;

/// A chunk ends once it has so many bytes.
pub(in crate::rollups) const CHUNK: usize = 1 << 18;

/// The most that is appended to a chunk in one piece.
const PIECE: usize = 16;

fn header(identity: [u8; 16]) -> [u8; 25] {
    let mut made = [VERSION; 25];
    made[..8].copy_from_slice(&MAGIC);
    made[9..].copy_from_slice(&identity);
    made
}

pub(super) struct Out<'a, W> {
    to: &'a mut W,
    chunk: Vec<u8>,
    checksum: u64,
}

impl<'a, W: Write> Out<'a, W> {
    pub(super) fn new(to: &'a mut W, identity: [u8; 16]) -> std::io::Result<Self> {
        let header = header(identity);
        to.write_all(&header)?;
        Ok(Self {
            to,
            chunk: Vec::with_capacity(CHUNK + PIECE),
            checksum: xxh3_64(&header),
        })
    }

    fn end_chunk(&mut self) -> std::io::Result<()> {
        self.checksum = xxh3_64_with_seed(&self.chunk, self.checksum);
        let length = u32::try_from(self.chunk.len()).unwrap_or(u32::MAX);
        self.to.write_all(&length.to_le_bytes())?;
        self.to.write_all(&self.checksum.to_le_bytes())?;
        self.to.write_all(&self.chunk)?;
        self.chunk.clear();
        Ok(())
    }

    pub(super) fn number(&mut self, mut number: u64) -> std::io::Result<()> {
        while number >= 0x80 {
            self.chunk.push(0x80 | (number & 0x7f) as u8);
            number >>= 7;
        }
        self.chunk.push((number & 0x7f) as u8);
        if self.chunk.len() >= CHUNK {
            return self.end_chunk();
        }
        Ok(())
    }

    pub(super) fn length(&mut self, length: usize) -> std::io::Result<()> {
        self.number(length as u64)
    }

    /// Bytes whose number the reader knows.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        for piece in bytes.chunks(PIECE) {
            self.chunk.extend_from_slice(piece);
            if self.chunk.len() >= CHUNK {
                self.end_chunk()?;
            }
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> std::io::Result<()> {
        if !self.chunk.is_empty() {
            self.end_chunk()?;
        }
        self.end_chunk()
    }
}

pub(super) struct In<'a, R> {
    from: &'a mut R,
    chunk: Vec<u8>,
    /// How much of the chunk was read.
    at: usize,
    checksum: u64,
}

impl<'a, R: Read> In<'a, R> {
    pub(super) fn new(from: &'a mut R, identity: [u8; 16]) -> Result<Self, Unrestored> {
        let expected = header(identity);
        let mut found = [0; 25];
        read_exact(from, &mut found)?;
        if found != expected {
            return Err(Unrestored::Damaged);
        }
        Ok(Self {
            from,
            chunk: Vec::new(),
            at: 0,
            checksum: xxh3_64(&expected),
        })
    }

    /// The length of the next chunk.
    fn next_chunk(&mut self) -> Result<usize, Unrestored> {
        let (mut length, mut checksum) = ([0; 4], [0; 8]);
        read_exact(self.from, &mut length)?;
        read_exact(self.from, &mut checksum)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > CHUNK + PIECE {
            return Err(Unrestored::Damaged);
        }
        self.at = 0;
        self.chunk.resize(length, 0);
        read_exact(self.from, &mut self.chunk)?;
        self.checksum = xxh3_64_with_seed(&self.chunk, self.checksum);
        if self.checksum == u64::from_le_bytes(checksum) {
            Ok(length)
        } else {
            Err(Unrestored::Damaged)
        }
    }

    /// Where to go on reading.
    fn rest(&mut self) -> Result<&[u8], Unrestored> {
        if self.at >= self.chunk.len() && self.next_chunk()? == 0 {
            return Err(Unrestored::Damaged);
        }
        self.chunk.get(self.at..).ok_or(Unrestored::Damaged)
    }

    pub(super) fn number(&mut self) -> Result<u64, Unrestored> {
        let (mut number, mut read) = (0, 0);
        for (byte, shift) in self.rest()?.iter().zip((0..64).step_by(7)) {
            number |= u64::from(byte & 0x7f) << shift;
            read += 1;
            if *byte < 0x80 {
                self.at += read;
                return Ok(number);
            }
        }
        Err(Unrestored::Damaged)
    }

    /// A number of a smaller type.
    pub(super) fn small<T: TryFrom<u64>>(&mut self) -> Result<T, Unrestored> {
        T::try_from(self.number()?).map_err(|_| Unrestored::Damaged)
    }

    /// So many bytes; their memory grows as they come.
    pub(super) fn raw(&mut self, length: usize) -> Result<Vec<u8>, Unrestored> {
        let mut bytes = Vec::new();
        while bytes.len() < length {
            let missing = length - bytes.len();
            let rest = self.rest()?;
            let piece = rest.get(..missing.min(rest.len())).unwrap_or_default();
            bytes.extend_from_slice(piece);
            self.at += piece.len();
        }
        Ok(bytes)
    }

    /// A piece of `N` bytes, which lies in one chunk.
    pub(super) fn piece<const N: usize>(&mut self) -> Result<[u8; N], Unrestored> {
        let piece = self.rest()?.first_chunk().copied();
        self.at += N;
        piece.ok_or(Unrestored::Damaged)
    }

    /// Checks that nothing follows.
    pub(super) fn finish(mut self) -> Result<(), Unrestored> {
        if self.at < self.chunk.len() || self.next_chunk()? > 0 {
            return Err(Unrestored::Damaged);
        }
        match read_exact(self.from, &mut [0]) {
            Err(Unrestored::Damaged) => Ok(()),
            Ok(()) => Err(Unrestored::Damaged),
            Err(failed) => Err(failed),
        }
    }
}

/// The end of the file is a damage.
fn read_exact(from: &mut impl Read, bytes: &mut [u8]) -> Result<(), Unrestored> {
    from.read_exact(bytes).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => Unrestored::Damaged,
        _ => Unrestored::Unread(error),
    })
}
