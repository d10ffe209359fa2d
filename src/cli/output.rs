//! The only place that prints.

use std::io::{self, IsTerminal, Write};

use super::Failure;

/// One line of the answer, on standard output.
pub(super) fn line(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// One line beside the answer, on standard error. Nothing is left to be done if that is closed.
pub(super) fn note(text: &str) {
    let mut err = io::stderr().lock();
    // A progress bar may stand where it goes.
    let start = if err.is_terminal() { "\r\x1b[K" } else { "" };
    let _ = writeln!(err, "{start}{text}");
}
