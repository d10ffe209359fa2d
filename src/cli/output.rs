//! The only place that prints.

use std::io::{self, Write};

use super::Failure;

/// One line of the answer, on standard output.
pub(super) fn line(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// One line beside the answer, on standard error. Nothing is left to be done if that is closed.
pub(super) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
