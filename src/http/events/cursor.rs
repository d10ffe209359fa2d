//! Where the next page begins, as text that says nothing to a client.

use std::fmt::Write as _;

use crate::events::parse::time::MICROS;
use crate::model::event::{EventTime, Order, Place, Sequence};
use crate::model::time::Timestamp;

/// No store counts further.
const MAX_SEQUENCE: u64 = u64::MAX >> 1;

/// Writes a cursor: time, arrival and order as 38 hexadecimal digits.
pub(super) fn write(place: Place, order: Order) -> String {
    let mut text = String::with_capacity(38);
    // Writing to a string can't fail.
    let _ = write!(
        text,
        "{:016x}{:04x}{:016x}{:02x}",
        place.time.micros.as_micros(),
        place.time.nanos,
        place.sequence.0,
        u8::from(order == Order::Descending)
    );
    text
}

/// Reads one; `None` if it is none of ours. Whatever a client made up, it is a place where an event
/// may stand.
pub(super) fn read(text: &str) -> Option<(Place, Order)> {
    if text.len() != 38 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let number = |from, to| u64::from_str_radix(text.get(from..to)?, 16).ok();
    let order = match number(36, 38)? {
        0 => Order::Ascending,
        1 => Order::Descending,
        _ => return None,
    };
    let micros = number(0, 16)?.cast_signed();
    let nanos = u16::try_from(number(16, 20)?).ok()?;
    let sequence = number(20, 36)?;
    let legal = MICROS.contains(&micros) && nanos < 1000 && sequence <= MAX_SEQUENCE;
    let micros = Timestamp::from_micros(micros);
    let place = Place {
        time: EventTime { micros, nanos },
        sequence: Sequence(sequence),
    };
    legal.then_some((place, order))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_the_place_it_was_made_of() {
        for (micros, nanos, sequence, order) in [
            (0, 0, 0, Order::Ascending),
            (-62_167_219_200_000_000, 999, 7, Order::Descending),
            (*MICROS.end(), 1, MAX_SEQUENCE, Order::Ascending),
        ] {
            let place = Place {
                time: EventTime {
                    micros: Timestamp::from_micros(micros),
                    nanos,
                },
                sequence: Sequence(sequence),
            };
            assert_eq!(read(&write(place, order)), Some((place, order)));
        }
        let good = write(
            Place {
                time: EventTime::default(),
                sequence: Sequence(1),
            },
            Order::Ascending,
        );
        for bad in [
            "",
            "x",
            &good[1..],
            &format!("{good}0"),
            &good.replace('1', "g"),
            &good.replace("0000000000000001", "+000000000000001"),
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
        for (micros, nanos, sequence) in [
            (i64::MAX, 0, 1),
            (i64::MIN, 0, 1),
            (0, 1000, 1),
            (0, 0, MAX_SEQUENCE + 1),
        ] {
            let bad = format!("{micros:016x}{nanos:04x}{sequence:016x}00");
            assert_eq!(read(&bad), None, "{bad}");
        }
        let last = |order: &str| format!("{}{order}", &good[..36]);
        assert_eq!(read(&last("02")), None);
        assert!(read(&last("01")).is_some());
    }
}
