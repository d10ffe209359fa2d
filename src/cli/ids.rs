//! Ids as people write them: numbers, ranges, lists, files.

use std::fs::File;
use std::io::{self, Read};

use super::Failure;
use crate::model::ingestion::MAX_IDS;

/// The most text that is read from a file: enough for [`MAX_IDS`] of the longest ids, generously
/// spaced.
const MAX_TEXT: u64 = 64 << 20;

/// All ids of the arguments, then those of the file; `-` is standard input in both places.
pub(super) fn collect(arguments: &[String], file: Option<&str>) -> Result<Vec<i64>, Failure> {
    let mut ids = Vec::new();
    for argument in arguments {
        if argument == "-" {
            from_reader(io::stdin().lock(), "standard input", &mut ids)?;
        } else {
            parse(argument, &mut ids).map_err(Failure::Usage)?;
        }
    }
    match file {
        None => {}
        Some("-") => from_reader(io::stdin().lock(), "standard input", &mut ids)?,
        Some(path) => {
            let file = File::open(path)
                .map_err(|error| Failure::Failed(format!("{path} can't be read: {error}")))?;
            from_reader(file, path, &mut ids)?;
        }
    }
    if ids.is_empty() {
        return Err(Failure::Usage(
            "no ids are given: name them, or a file with --file, or - for standard input"
                .to_owned(),
        ));
    }
    Ok(ids)
}

fn from_reader(reader: impl Read, name: &str, ids: &mut Vec<i64>) -> Result<(), Failure> {
    let mut text = String::new();
    reader
        .take(MAX_TEXT + 1)
        .read_to_string(&mut text)
        .map_err(|error| Failure::Failed(format!("{name} can't be read: {error}")))?;
    if text.len() as u64 > MAX_TEXT {
        return Err(Failure::Usage(format!("{name} is longer than 64 MiB")));
    }
    for (line, text) in (1..).zip(text.lines()) {
        parse(text, ids)
            .map_err(|problem| Failure::Usage(format!("{name}, line {line}: {problem}")))?;
    }
    Ok(())
}

/// Adds the ids of `text`, separated by white space or commas.
fn parse(text: &str, ids: &mut Vec<i64>) -> Result<(), String> {
    let tokens = text.split(|c: char| c.is_whitespace() || c == ',');
    for token in tokens.filter(|token| !token.is_empty()) {
        let (first, last) = span(token).ok_or_else(|| {
            format!(
                "{token:?} is no id: allowed are whole numbers from {} to {}, and ranges such as \
                 1..=10 or 1-10",
                i64::MIN,
                i64::MAX
            )
        })?;
        if first > last {
            return Err(format!("the range {token:?} ends before it starts"));
        }
        // Counted before it is spread out: a range may name more ids than fit into memory.
        let count = i128::from(last) - i128::from(first) + 1;
        let room = MAX_IDS - ids.len();
        if usize::try_from(count).map_or(true, |count| count > room) {
            return Err(format!(
                "these are more than {MAX_IDS} ids, the most in one ingestion"
            ));
        }
        ids.extend(first..=last);
    }
    Ok(())
}

/// The first and the last id of a token.
fn span(token: &str) -> Option<(i64, i64)> {
    if let Ok(id) = token.parse() {
        return Some((id, id));
    }
    if let Some((first, last)) = token.split_once("..=") {
        return Some((first.parse().ok()?, last.parse().ok()?));
    }
    // A minus in front is a sign; the next one is the range's.
    let middle = token.char_indices().skip(1).find(|(_, c)| *c == '-')?.0;
    let (first, last) = token.split_at(middle);
    Some((first.parse().ok()?, last.strip_prefix('-')?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<i64>, String> {
        let mut ids = Vec::new();
        parse(text, &mut ids).map(|()| ids)
    }

    #[test]
    fn numbers_lists_and_ranges() {
        for (text, ids) in [
            ("7", vec![7]),
            ("-7", vec![-7]),
            ("1,2 3,\t4", vec![1, 2, 3, 4]),
            ("1..=4", vec![1, 2, 3, 4]),
            ("1-4", vec![1, 2, 3, 4]),
            ("-2-1", vec![-2, -1, 0, 1]),
            ("-4--2", vec![-4, -3, -2]),
            ("-4..=-3", vec![-4, -3]),
            ("5-5", vec![5]),
            (
                "9223372036854775806..=9223372036854775807",
                vec![i64::MAX - 1, i64::MAX],
            ),
            ("-9223372036854775808", vec![i64::MIN]),
            ("", vec![]),
        ] {
            assert_eq!(parsed(text).as_ref(), Ok(&ids), "{text}");
        }
    }

    #[test]
    fn what_is_no_id_is_named() {
        for bad in [
            "x",
            "1.0",
            "1..4",
            "1-",
            "-",
            "--",
            "1--",
            "1-2-3",
            "9223372036854775808",
        ] {
            let problem = parsed(bad).unwrap_err();
            assert!(
                problem.starts_with(&format!("{bad:?} is no id")),
                "{problem}"
            );
        }
        assert_eq!(
            parsed("4-1").unwrap_err(),
            "the range \"4-1\" ends before it starts"
        );
    }

    #[test]
    fn a_million_ids_and_no_more() {
        assert_eq!(parsed("1-1000000").unwrap().len(), MAX_IDS);
        let all = format!("{}..={}", i64::MIN, i64::MAX);
        for more in ["1-1000001", "0 1-1000000", &all] {
            let problem = parsed(more).unwrap_err();
            assert!(
                problem.starts_with("these are more than 1000000 ids"),
                "{problem}"
            );
        }
    }

    #[test]
    fn a_file_s_problem_has_its_line() {
        let mut ids = Vec::new();
        from_reader("1\r\n2,3\n\n4 x".as_bytes(), "f", &mut ids).unwrap_err();
        let Err(Failure::Usage(problem)) = from_reader("1\n\nx".as_bytes(), "f", &mut ids) else {
            panic!("accepted");
        };
        assert!(
            problem.starts_with("f, line 3: \"x\" is no id"),
            "{problem}"
        );
    }

    #[test]
    fn a_file_may_be_64_mib_long() {
        let blank = |length| io::repeat(b' ').take(length);
        let mut ids = Vec::new();
        assert!(from_reader(blank(MAX_TEXT), "f", &mut ids).is_ok());
        assert!(from_reader(blank(MAX_TEXT + 1), "f", &mut ids).is_err());
    }
}
