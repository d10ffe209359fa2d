//! The only place that prints.

use std::io::{self, IsTerminal, Write};

use super::Failure;

/// One line of the answer, on standard output.
pub(super) fn line(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// Lines of the answer, each with its end.
pub(super) fn text(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// How many characters a line has on the terminal; `None` if standard output is none.
pub(super) fn width() -> Option<usize> {
    let stdout = io::stdout();
    let size = rustix::termios::tcgetwinsize(&stdout).ok()?;
    // A terminal that does not know its size is taken to be as wide as terminals always were.
    match usize::from(size.ws_col) {
        0 => Some(80),
        columns => Some(columns),
    }
}

/// One line beside the answer, on standard error. Nothing is left to be done if that is closed.
pub(super) fn note(text: &str) {
    let mut err = io::stderr().lock();
    // A progress bar may stand where it goes.
    let start = if err.is_terminal() { "\r\x1b[K" } else { "" };
    let _ = writeln!(err, "{start}{text}");
}

/// Whether a count is left out of JSON.
// Serde hands over a reference.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature is serde's"
)]
pub(super) fn is_zero(count: &u64) -> bool {
    *count == 0
}
