//! The query of `/status`.

use std::ops::Range;
use std::time::Duration;

use crate::http::error::{Code, Problem};

/// The longest `wait`.
const MAX_WAIT: Duration = Duration::from_mins(1);

/// What to read, and when.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Parameters {
    /// Whether the answer has `batches` at all.
    pub(super) with_batches: bool,
    /// The batches that were asked for by number.
    pub(super) batches: Option<Range<u32>>,
    /// How long to wait for a change.
    pub(super) wait: Option<Duration>,
}

impl Parameters {
    /// From the query; every parameter may be absent.
    pub(super) fn parse(
        view: Option<&str>,
        batches: Option<&str>,
        wait: Option<&str>,
    ) -> Result<Self, Problem> {
        let with_batches = match view {
            None | Some("full") => true,
            Some("summary") => false,
            Some(_) => return Err(Problem::parameter("view", "must be full or summary")),
        };
        let range = batches
            .map(|text| {
                parse_range(text).ok_or_else(|| {
                    Problem::parameter(
                        "batches",
                        "must be two batch numbers counted from 0, such as 0-99",
                    )
                })
            })
            .transpose()?;
        let wait = wait
            .map(|text| {
                parse_wait(text).ok_or_else(|| {
                    Problem::parameter(
                        "wait",
                        "must be a time from 0s to 60s with one of the units ms, s, m, such as 30s",
                    )
                })
            })
            .transpose()?;
        if !with_batches && range.is_some() {
            return Err(Problem::new(
                Code::ContradictoryParameters,
                "view=summary asks for an answer without batches, and batches asks for some. \
                 Leave one of them out.",
            ));
        }
        Ok(Self {
            with_batches,
            batches: range,
            wait,
        })
    }

    /// The batches to read.
    pub(super) fn range(&self) -> Range<u32> {
        match &self.batches {
            _ if !self.with_batches => 0..0,
            Some(range) => range.clone(),
            None => 0..u32::MAX,
        }
    }
}

/// `0-99`, both included.
fn parse_range(text: &str) -> Option<Range<u32>> {
    let (first, last) = text.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then(|| first..last.saturating_add(1))
}

/// `500ms`, `30s`, `1m`.
fn parse_wait(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at_checked(digits)?;
    let count = number(count)?;
    let wait = match unit {
        "ms" => Duration::from_millis(count.into()),
        "s" => Duration::from_secs(count.into()),
        "m" => Duration::from_secs(u64::from(count) * 60),
        _ => return None,
    };
    (wait <= MAX_WAIT).then_some(wait)
}

/// Digits only: the standard parser would take `+1`.
fn number(text: &str) -> Option<u32> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_inclusive() {
        assert_eq!(parse_range("0-99"), Some(0..100));
        assert_eq!(parse_range("7-7"), Some(7..8));
        assert_eq!(parse_range("0-4294967295"), Some(0..u32::MAX));
        for bad in [
            "",
            "-",
            "1",
            "1-",
            "-1",
            "2-1",
            "a-b",
            "0-4294967296",
            "+1-2",
            "0-1-2",
            " 0-1",
        ] {
            assert_eq!(parse_range(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn waits_have_a_unit_and_a_bound() {
        assert_eq!(parse_wait("0s"), Some(Duration::ZERO));
        assert_eq!(parse_wait("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_wait("60s"), Some(MAX_WAIT));
        assert_eq!(parse_wait("1m"), Some(MAX_WAIT));
        assert_eq!(parse_wait("60000ms"), Some(MAX_WAIT));
        for bad in [
            "",
            "30",
            "s",
            "61s",
            "2m",
            "60001ms",
            "1h",
            "-1s",
            "1.5s",
            "99999999999s",
        ] {
            assert_eq!(parse_wait(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_summary_reads_no_batches() {
        let range = |view, batches| Parameters::parse(view, batches, None).unwrap().range();
        assert_eq!(range(None, None), 0..u32::MAX);
        assert_eq!(range(Some("full"), Some("3-4")), 3..5);
        assert_eq!(range(Some("summary"), None), 0..0);
        assert!(Parameters::parse(Some("summary"), Some("3-4"), None).is_err());
        assert!(Parameters::parse(Some("Summary"), None, None).is_err());
    }
}
