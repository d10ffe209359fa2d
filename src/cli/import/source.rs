//! A file or standard input, decompressed by what its first bytes say.

mod zstd;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::FrameDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};

/// What is read from the input at once.
const CHUNK: usize = 64 << 10;

/// The first bytes of gzip data.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The first bytes of zstd data, and what those of a frame that is to be skipped end with.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const ZSTD_SKIPPED: [u8; 3] = [0x2a, 0x4d, 0x18];

/// Counts what was read of the input, before it is decompressed.
pub(super) struct Counted {
    input: Input,
    read: Arc<AtomicU64>,
}

enum Input {
    File(File),
    Stdin(io::Stdin),
    #[cfg(test)]
    Bytes(Cursor<Vec<u8>>),
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = match &mut self.input {
            Input::File(file) => file.read(buffer),
            Input::Stdin(stdin) => stdin.read(buffer),
            #[cfg(test)]
            Input::Bytes(bytes) => bytes.read(buffer),
        }?;
        self.read
            .fetch_add(u64::try_from(got).unwrap_or(0), Ordering::Relaxed);
        Ok(got)
    }
}

/// The input behind a look at its first bytes.
type Bytes = BufReader<Chain<Cursor<Vec<u8>>, Counted>>;

/// The decompressed input.
pub(super) enum Source {
    /// As it is.
    Plain(Bytes),
    /// Gzip, of one member or several.
    Gzip(Box<MultiGzDecoder<Bytes>>),
    /// Zstd, of one frame or several.
    Zstd(Box<Frames>),
}

impl Source {
    /// A file.
    pub(super) fn file(file: File, read: Arc<AtomicU64>) -> io::Result<Self> {
        Self::of(Input::File(file), read)
    }

    /// Standard input.
    pub(super) fn stdin(read: Arc<AtomicU64>) -> io::Result<Self> {
        Self::of(Input::Stdin(io::stdin()), read)
    }

    #[cfg(test)]
    pub(super) fn bytes(bytes: &[u8]) -> io::Result<Self> {
        Self::of(Input::Bytes(Cursor::new(bytes.to_vec())), Arc::default())
    }

    fn of(input: Input, read: Arc<AtomicU64>) -> io::Result<Self> {
        let mut counted = Counted { input, read };
        // A pipe may give its first bytes one by one.
        let mut first = Vec::new();
        counted.by_ref().take(4).read_to_end(&mut first)?;
        let gzip = first.starts_with(&GZIP);
        let zstd = first.starts_with(&ZSTD) || first.get(1..) == Some(&ZSTD_SKIPPED);
        let bytes = BufReader::with_capacity(CHUNK, Cursor::new(first).chain(counted));
        Ok(if gzip {
            Self::Gzip(Box::new(MultiGzDecoder::new(bytes)))
        } else if zstd {
            Self::Zstd(Box::new(Frames::new(bytes)))
        } else {
            Self::Plain(bytes)
        })
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(bytes) => bytes.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(frames) => frames.read(buffer),
        }
    }
}

/// All frames of zstd data, one behind the other.
pub(super) struct Frames {
    bytes: Bytes,
    decoder: FrameDecoder,
    inside: bool,
}

impl Frames {
    fn new(bytes: Bytes) -> Self {
        Self {
            bytes,
            decoder: FrameDecoder::new(),
            inside: false,
        }
    }

    /// Starts the next frame that has content; whether there is one.
    fn start(&mut self) -> io::Result<bool> {
        loop {
            if self.bytes.fill_buf()?.is_empty() {
                return Ok(false);
            }
            let header = zstd::header(&mut self.bytes)?;
            match self.decoder.reset(header.as_slice().chain(&mut self.bytes)) {
                Ok(()) => {
                    self.inside = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    let skipped = io::copy(&mut self.bytes.by_ref().take(length), &mut io::sink())?;
                    if skipped < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }

    /// Whether the frame gave what it was made from.
    fn check(&mut self) -> io::Result<()> {
        self.inside = false;
        let written = self.decoder.get_checksum_from_data();
        if written.is_some() && written != self.decoder.get_calculated_checksum() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the checksum of the zstd data is wrong",
            ));
        }
        Ok(())
    }
}

impl Read for Frames {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use ruzstd::decoding::BlockDecodingStrategy::UptoBytes;
        loop {
            if !self.inside && !self.start()? {
                return Ok(0);
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder
                    .decode_blocks(&mut self.bytes, UptoBytes(CHUNK))
                    .map_err(io::Error::other)?;
            }
            let got = self.decoder.read(buffer)?;
            if got > 0 || buffer.is_empty() {
                return Ok(got);
            }
            self.check()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Source::bytes(bytes)?.read_to_end(&mut out)?;
        Ok(out)
    }

    fn text() -> Vec<u8> {
        let mut rng = fastrand::Rng::with_seed(7);
        (0..300_000).map(|_| rng.u8(b'a'..b'f')).collect()
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        compress_to_vec(text, CompressionLevel::Fastest)
    }

    #[test]
    fn the_first_bytes_say_how_it_is_compressed() {
        let text = text();
        for bytes in [text.clone(), gzip(&text), zstd(&text)] {
            assert!(read(&bytes).unwrap() == text);
        }
        for short in [&b""[..], b"{", b"ab", b"abc"] {
            assert_eq!(read(short).unwrap(), short);
        }
    }

    #[test]
    fn parts_are_read_one_behind_the_other() {
        let text = text();
        let twice = [text.clone(), text.clone()].concat();
        assert!(read(&[gzip(&text), gzip(&text)].concat()).unwrap() == twice);
        let skipped = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
        for parts in [
            [zstd(&text), zstd(&text), skipped.to_vec()],
            [skipped.to_vec(), zstd(&text), zstd(&text)],
        ] {
            assert!(read(&parts.concat()).unwrap() == twice);
        }
    }

    #[test]
    fn damage_is_told() {
        let text = text();
        for whole in [gzip(&text), zstd(&text)] {
            assert!(read(&whole[..whole.len() / 2]).is_err(), "cut short");
            let mut last = whole.clone();
            let place = last.len() - 1;
            last[place] ^= 1;
            assert!(read(&last).is_err(), "the end is wrong");
        }
    }
}
