//! Whether two JSON numbers are the same, whatever way they are written: `1`, `1.0` and `10e-1` are.

use std::fmt;

/// The value of a JSON number: `digits` * 10^`exponent`, in the one way that has neither zeros in
/// front nor at the end.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Decimal {
    negative: bool,
    digits: Box<[u8]>,
    exponent: i64,
}

impl Decimal {
    /// The value of a JSON number; `None` of any other text, and where the exponent is beyond what
    /// an `i64` holds.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match text.find(['e', 'E']) {
            Some(at) => (text.get(..at)?, exponent(text.get(at + 1..)?)?),
            None => (text, 0),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((_, "")) => return None,
            Some(parts) => parts,
            None => (mantissa, ""),
        };
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let led = whole.is_empty() || (whole.len() > 1 && whole.starts_with('0'));
        if led || !is_number(whole) || !is_number(fraction) {
            return None;
        }
        let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
        let mut exponent = exponent.checked_sub(i64::try_from(fraction.len()).ok()?)?;
        while digits.last() == Some(&b'0') {
            digits.pop();
            exponent = exponent.checked_add(1)?;
        }
        let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
        digits.drain(..zeros);
        if digits.is_empty() {
            // There is one zero.
            return Some(Self {
                negative: false,
                digits: Box::default(),
                exponent: 0,
            });
        }
        Some(Self {
            negative,
            digits: digits.into(),
            exponent,
        })
    }
}

/// In one way for each value: `120`, `-0.5`, `1.5e300`.
impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = str::from_utf8(&self.digits).unwrap_or_default();
        if digits.is_empty() {
            return f.write_str("0");
        }
        if self.negative {
            f.write_str("-")?;
        }
        let length = i64::try_from(digits.len()).unwrap_or(i64::MAX);
        // Digits before the point.
        let whole = length.saturating_add(self.exponent);
        if self.exponent >= 0 && whole <= PLAIN {
            let zeros = usize::try_from(self.exponent).unwrap_or(0);
            return write!(f, "{digits}{:0<zeros$}", "");
        }
        let (before, after) = match usize::try_from(whole) {
            Ok(whole) if whole > 0 => digits.split_at_checked(whole).unwrap_or((digits, "")),
            _ => ("", digits),
        };
        if self.exponent < 0 && !before.is_empty() {
            return write!(f, "{before}.{after}");
        }
        if self.exponent < 0 && whole > -PLAIN {
            let zeros = usize::try_from(-whole).unwrap_or(0);
            return write!(f, "0.{:0<zeros$}{digits}", "");
        }
        let (first, rest) = digits.split_at_checked(1).unwrap_or((digits, ""));
        let point = if rest.is_empty() { "" } else { "." };
        write!(f, "{first}{point}{rest}e{}", whole - 1)
    }
}

/// The most zeros that are written out.
const PLAIN: i64 = 21;

/// What follows the `e`.
fn exponent(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let value: i64 = is_number.then(|| digits.parse().ok()).flatten()?;
    Some(if text.starts_with('-') { -value } else { value })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_value_has_many_spellings() {
        let same = [
            ["1", "1.0", "1e0", "10e-1", "0.1E+1", "1.000"],
            ["0", "-0", "0.0", "0e7", "-0.00e-3", "0E99"],
            ["-120", "-1.2e2", "-120.0", "-0.12e3", "-12e1", "-12000e-2"],
            ["1e400", "10e399", "1E+400", "0.1e401", "100e398", "1.0e400"],
        ];
        for (of, spellings) in same.iter().enumerate() {
            for (other, others) in same.iter().enumerate() {
                for (a, b) in spellings.iter().zip(others) {
                    let equal = Decimal::parse(a).unwrap() == Decimal::parse(b).unwrap();
                    assert_eq!(equal, of == other, "{a} {b}");
                }
                let first = Decimal::parse(spellings[0]);
                assert!(spellings.iter().all(|it| Decimal::parse(it) == first));
            }
        }
        // A float would hold these for equal.
        assert_ne!(
            Decimal::parse("9007199254740993"),
            Decimal::parse("9007199254740992")
        );
    }

    #[test]
    fn a_value_is_printed_in_one_way() {
        for (text, printed) in [
            ("-0.0", "0"),
            ("1.0", "1"),
            ("-1.20e2", "-120"),
            ("0.050", "0.05"),
            ("12.5", "12.5"),
            ("-125e-1", "-12.5"),
            ("1.5E+300", "1.5e300"),
            ("100e300", "1e302"),
            ("1e-300", "1e-300"),
            ("12e-300", "1.2e-299"),
            ("1e20", "100000000000000000000"),
            ("1e21", "1e21"),
            ("1e-21", "0.000000000000000000001"),
        ] {
            assert_eq!(Decimal::parse(text).unwrap().to_string(), printed, "{text}");
        }
    }

    #[test]
    fn what_is_no_number_has_no_value() {
        let texts = [
            "",
            "-",
            "+1",
            "01",
            "1.",
            ".5",
            "1e",
            "1e+",
            "1e5.0",
            "0x1",
            " 1",
            "1 ",
            "1_0",
            "NaN",
            "--1",
            "1.-5",
            "1ee1",
            "1e99999999999999999999",
            "١",
        ];
        for text in texts {
            assert_eq!(Decimal::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_json_takes_for_a_number_has_a_value(
            text in "-?[0-9]{0,3}(\\.[0-9]{0,3})?([eE][+-]?[0-9]{0,2})?",
        ) {
            let number = serde_json::from_str::<serde_json::Value>(&text);
            let found = Decimal::parse(&text);
            prop_assert_eq!(found.is_some(), number.is_ok());
            if let Some(found) = &found {
                let again = Decimal::parse(&found.to_string());
                prop_assert_eq!(again.as_ref(), Some(found));
            }
            if found.is_some() {
                // A float has 15 digits at least; the texts have 6 at most.
                let printed = format!("{:e}", text.parse::<f64>().unwrap());
                prop_assert_eq!(found, Decimal::parse(&printed));
            }
        }
    }
}
