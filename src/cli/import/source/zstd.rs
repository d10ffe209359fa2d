//! The header of a zstd frame, read before the decoder sees it: that one takes what memory the frame
//! asks for. See RFC 8878, 3.1.1.

use std::io::{self, Read};

use super::ZSTD;

/// The most memory that a frame may ask for. `zstd` asks for more only with `--ultra` or `--long`.
const MAX_WINDOW: u64 = 8 << 20;

/// The first bytes of a frame: its header, or the start of it if there is no window in it.
pub(super) fn header(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut header = Vec::new();
    more(from, &mut header, 4)?;
    if header != ZSTD {
        return Ok(header);
    }
    let descriptor = byte(from, &mut header)?;
    let single_segment = descriptor & 0x20 != 0;
    let mut window = 0;
    if !single_segment {
        let asked = byte(from, &mut header)?;
        let (exponent, mantissa) = (asked >> 3, u64::from(asked & 7));
        let base = 1_u64 << (10 + exponent);
        window = base + base / 8 * mantissa;
    }
    let dictionary = [0, 1, 2, 4];
    let dictionary = dictionary.get(usize::from(descriptor & 3)).copied();
    more(from, &mut header, dictionary.unwrap_or(0))?;
    let content = match descriptor >> 6 {
        0 => u64::from(single_segment),
        flag => 1 << flag,
    };
    let before = header.len();
    more(from, &mut header, content)?;
    if single_segment {
        let bytes = header.get(before..).unwrap_or_default();
        let bytes = bytes.iter().rev();
        window = bytes.fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        // Two bytes count from where one byte ends.
        window = window.saturating_add(if content == 2 { 256 } else { 0 });
    }
    if window > MAX_WINDOW {
        let text = format!(
            "it is packed with a zstd window of {} MiB, and at most {} MiB are taken: \
             unpack it (zstd -dc --long=31) into import -",
            window.div_ceil(1 << 20),
            MAX_WINDOW >> 20
        );
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(header)
}

/// Reads `count` bytes more; fewer at the end of the input, which the decoder then tells.
fn more(from: &mut impl Read, header: &mut Vec<u8>, count: u64) -> io::Result<()> {
    from.take(count).read_to_end(header).map(drop)
}

fn byte(from: &mut impl Read, header: &mut Vec<u8>) -> io::Result<u8> {
    more(from, header, 1)?;
    Ok(header.last().copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header as it is told of itself, and whether it is taken.
    fn taken(rest: &[u8]) -> bool {
        let bytes = [&ZSTD[..], rest, b"the blocks"].concat();
        let mut from = bytes.as_slice();
        match header(&mut from) {
            Ok(header) => {
                assert_eq!([header.as_slice(), from].concat(), bytes, "none is lost");
                assert_eq!(from, b"the blocks", "{rest:?}");
                true
            }
            Err(error) => {
                assert!(error.to_string().contains("zstd window of"), "{error}");
                false
            }
        }
    }

    #[test]
    fn a_window_is_taken_up_to_the_bound() {
        // 8 MiB is 2^(10 + 13); the low three bits are eighths more.
        assert!(taken(&[0, 13 << 3]));
        assert!(!taken(&[0, 13 << 3 | 1]));
        assert!(!taken(&[0, 0xff]));
        // With a dictionary of four bytes, and content sizes of two and eight.
        assert!(taken(&[0x43, 0, 1, 2, 3, 4, 0xff, 0xff]));
        assert!(taken(&[
            0xc0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff
        ]));
        // In a single segment the window is the content.
        assert!(taken(&[0x20, 0xff]));
        assert!(taken(&[0x60, 0xff, 0xff]));
        assert!(taken(&[0xa0, 0, 0, 0x80, 0]));
        assert!(!taken(&[0xa0, 1, 0, 0x80, 0]));
        assert!(!taken(&[
            0xe0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff
        ]));
    }

    #[test]
    fn what_is_no_frame_with_a_window_is_left_to_the_decoder() {
        for other in [&b""[..], b"abc", b"abcdef", &[0x50, 0x2a, 0x4d, 0x18, 9]] {
            let mut from = other;
            let header = header(&mut from).unwrap();
            assert_eq!([header.as_slice(), from].concat(), other);
        }
        let cut = [&ZSTD[..], &[0xa0, 1]].concat();
        assert_eq!(header(&mut cut.as_slice()).unwrap(), cut);
    }
}
