//! What a part covers, and how its name says so.

use crate::events::part::Day;
use crate::model::event::{EventFilter, EventTime, Place, Sequence};
use crate::model::time::Timestamp;

/// All events of a day that had arrived by some arrival, up to some place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Covers {
    /// Their day.
    pub(super) day: Day,
    /// None of them arrived later.
    pub(super) last: Sequence,
    /// The place of the last of them; `None` if it is all of the day.
    pub(super) through: Option<Place>,
}

impl Covers {
    /// Whether the event at `place` of this day is covered.
    pub(super) fn has(&self, place: Place) -> bool {
        place.sequence <= self.last && !self.ends_before(place)
    }

    /// Whether everything from `place` on is not covered.
    pub(super) fn ends_before(&self, place: Place) -> bool {
        self.through.is_some_and(|through| place > through)
    }

    /// The same as filters, each with the last arrival that it is for.
    pub(super) fn filters(&self) -> Vec<(EventFilter, Sequence)> {
        let within = |from, to| EventFilter {
            from: Some(from),
            to: Some(to),
            ..EventFilter::default()
        };
        let (start, end) = (self.day.start(), self.day.end());
        match self.through {
            None => vec![(within(start, end), self.last)],
            // Events of one moment are in order of arrival.
            Some(Place { time, sequence }) => vec![
                (within(start, time), self.last),
                (within(time, moment_after(time)), sequence.min(self.last)),
            ],
        }
    }

    /// `part-<last>.parquet`, or with the time of day in nanoseconds and the arrival of the last
    /// event `part-<last>-<time>-<arrival>.parquet`.
    pub(super) fn file_name(&self) -> String {
        let last = self.last.0;
        match self.through {
            None => format!("part-{last}.parquet"),
            Some(Place { time, sequence }) => {
                let of_day = time.micros.since(self.day.start().micros).as_nanos();
                let nanos = of_day + u128::from(time.nanos);
                format!("part-{last}-{nanos}-{}.parquet", sequence.0)
            }
        }
    }

    /// The other way round; `None` if it is no name of a part.
    pub(super) fn of_file_name(day: Day, name: &str) -> Option<Self> {
        let numbers = name.strip_prefix("part-")?.strip_suffix(".parquet")?;
        let mut numbers = numbers.split('-').map(|number| number.parse::<u64>().ok());
        let last = Sequence(numbers.next()??);
        let through = match numbers.next() {
            None => None,
            Some(nanos) => {
                let (nanos, sequence) = (nanos?, Sequence(numbers.next()??));
                let micros = i64::try_from(nanos / 1_000).ok()?;
                let micros = day.start().micros.as_micros().checked_add(micros)?;
                let time = EventTime {
                    micros: Timestamp::from_micros(micros),
                    nanos: u16::try_from(nanos % 1_000).ok()?,
                };
                Some(Place { time, sequence })
            }
        };
        let covers = Self { day, last, through };
        // `part-007.parquet` and the like are not of our making.
        (covers.file_name() == name).then_some(covers)
    }
}

/// The first moment after `time`.
fn moment_after(time: EventTime) -> EventTime {
    if time.nanos < 999 {
        EventTime {
            nanos: time.nanos + 1,
            ..time
        }
    } else {
        EventTime {
            micros: Timestamp::from_micros(time.micros.as_micros().saturating_add(1)),
            nanos: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::parse::time;

    fn at(text: &str, sequence: u64) -> Place {
        Place {
            time: time::parse(text).unwrap(),
            sequence: Sequence(sequence),
        }
    }

    fn covers(through: Option<Place>) -> Covers {
        Covers {
            day: Day::of(at("1969-12-30T00:00:00Z", 0).time.micros),
            last: Sequence(7),
            through,
        }
    }

    #[test]
    fn a_name_says_what_a_part_covers() {
        let cut = covers(Some(at("1969-12-30T23:59:59.000001999Z", 5)));
        assert_eq!(
            cut.file_name(),
            "part-7-86399000001999-5.parquet",
            "the place is within the day"
        );
        for covers in [
            covers(None),
            cut,
            covers(Some(at("1969-12-30T00:00:00Z", 0))),
        ] {
            let name = covers.file_name();
            assert_eq!(Covers::of_file_name(covers.day, &name), Some(covers));
        }
        for other in [
            "part-00000.parquet",
            "part-7.parquet.tmp",
            "part-7-1.parquet",
            "part-7-1-2-3.parquet",
            "part-.parquet",
            "part-7-99999999999999999999-5.parquet",
            "mine.parquet",
        ] {
            assert_eq!(Covers::of_file_name(cut.day, other), None, "{other}");
        }
    }

    #[test]
    fn filters_mean_exactly_what_is_covered() {
        let place = |nanos: &str, sequence| at(&format!("1969-12-30T12:00:00.{nanos}Z"), sequence);
        let all = [
            place("000000998", 2),
            place("000000999", 1),
            place("000000999", 4),
            place("000000999", 8),
            place("000001", 3),
            place("000001", 9),
        ];
        for cut in [None, Some(all[1]), Some(all[2]), Some(all[3]), Some(all[4])] {
            let covers = covers(cut);
            for place in all {
                let meant = covers.filters().iter().any(|(filter, last)| {
                    filter.from.is_none_or(|from| place.time >= from)
                        && filter.to.is_none_or(|to| place.time < to)
                        && place.sequence <= *last
                });
                assert_eq!(covers.has(place), meant, "{cut:?} {place:?}");
            }
        }
    }
}
