//! Names of files that are not parts yet.
//!
//! Each file has a name that no other ever has, with the term in which it was made. So a term can begin
//! with removing those of all terms before it, and leaves alone what a later one has in the making.

use std::fs;
use std::io;
use std::path::Path;

use uuid::Uuid;

use crate::events::part;
use crate::store::Term;

/// What earlier versions named all of theirs.
const OLD: &str = ".part.tmp";

/// A new name.
pub(super) fn name(term: Term) -> String {
    name_of(term, Uuid::new_v4())
}

fn name_of(term: Term, number: Uuid) -> String {
    format!(".cold-{}-{}.tmp", term.0, number.simple())
}

/// The term that a file of this name was made in; `None` if it is none of ours.
fn term_of(name: &str) -> Option<Term> {
    if name == OLD {
        return Some(Term::NONE);
    }
    let numbers = name.strip_prefix(".cold-")?.strip_suffix(".tmp")?;
    let (term, number) = numbers.rsplit_once('-')?;
    let (term, number) = (Term(term.parse().ok()?), Uuid::try_parse(number).ok()?);
    (name_of(term, number) == name).then_some(term)
}

/// Removes the files in `dir` that were made in `term` or before it, for good: when this returns, none
/// of them can be given another name any more.
pub(super) fn sweep(dir: &Path, term: Term) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let made = name.to_str().and_then(term_of);
        if made.is_some_and(|made| made.0 <= term.0) {
            match fs::remove_file(entry.path()) {
                // It became final just now, or another one removed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed?,
            }
        }
    }
    part::sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_this_term_and_of_those_before_go_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let term = Term(12);
        let gone = [
            name(Term(9)),
            name(Term::ONLY),
            name(term),
            name(term),
            OLD.to_owned(),
        ];
        let mine = name(term);
        let kept = [
            name(Term(13)),
            name(Term(100)),
            mine.to_uppercase(),
            mine.replace("-12-", "-012-"),
            mine.replace("-12-", "-+12-"),
            format!("{mine}.parquet"),
            ".part-00000.tmp".to_owned(),
            ".cold-1.tmp".to_owned(),
            "part-7.parquet".to_owned(),
        ];
        for name in gone.iter().chain(&kept) {
            fs::write(dir.path().join(name), "").unwrap();
        }
        sweep(dir.path(), term).unwrap();
        let left = fs::read_dir(dir.path()).unwrap();
        let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        let mut kept: Vec<_> = kept.iter().map(std::ffi::OsString::from).collect();
        kept.sort();
        assert_eq!(left, kept);
        sweep(&dir.path().join("none"), term).unwrap();
        assert!(!dir.path().join("none").exists());
    }
}
